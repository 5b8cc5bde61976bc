"""Deformable convolution on CUDA: Triton kernels around cuBLAS matrix products.

Equal to the definition through Triton's interpreter on the CPU (TRITON_INTERPRET=1, see
tests/test_dcn_triton.py); `dcn.backend` says where they are chosen.

The samples of all taps are written out as "columns", (B, pixels, groups * taps * channels
per group), and multiplied by the weights in one matrix product. The backward pass samples
again instead of keeping them. The input is read channels last, so that the threads of a
warp read neighbouring channels; contiguous inputs are copied first. The gradient of the
input is summed with atomic additions: its last bits differ from run to run.

Importing this module needs the package triton.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from dcn.operators import dense, empty_output, register

BLOCK = 128  # output pixels per program


@triton.jit
def _locate(
    offset, mask, image, tap, pixel, valid, height, width, pixels, out_width,
    stride_y, stride_x, padding_y, padding_x, dilation_y, dilation_x,
    TAPS: tl.constexpr, KERNEL_WIDTH: tl.constexpr,
):  # fmt: skip
    """Where tap `tap % TAPS` of group `tap // TAPS` samples, for a block of pixels.

    Returns the upper left pixel (y, x) of the four, the distance from it, and the mask.
    Samples without any weight are moved to (-2, -2), where no corner is in the image; so are
    those of NaN, whose distances stay NaN.
    """
    row = image.to(tl.int64) * tl.num_programs(1) + tap
    factor = tl.load(mask + row * pixels + pixel, mask=valid, other=0.0)
    dy = tl.load(offset + 2 * row * pixels + pixel, mask=valid, other=0.0)
    dx = tl.load(offset + (2 * row + 1) * pixels + pixel, mask=valid, other=0.0)
    tap_y = (tap % TAPS) // KERNEL_WIDTH * dilation_y - padding_y
    tap_x = (tap % TAPS) % KERNEL_WIDTH * dilation_x - padding_x
    y = dy + (pixel // out_width * stride_y + tap_y).to(dy.dtype)
    x = dx + (pixel % out_width * stride_x + tap_x).to(dx.dtype)
    inside = valid & (y > -1) & (y < height) & (x > -1) & (x < width)
    unknown = (y != y) | (x != x)
    y = tl.where(inside, y, -2.0)
    x = tl.where(inside, x, -2.0)
    top = tl.floor(y)
    left = tl.floor(x)
    y = tl.where(unknown, float("nan"), y - top)
    x = tl.where(unknown, float("nan"), x - left)
    return top.to(tl.int32), left.to(tl.int32), y, x, factor


@triton.jit
def _corner(y, x, height, width, first, channel, wanted, CHANNELS: tl.constexpr):
    """Positions in a channels-last image of pixels (y, x), and which of them exist."""
    exists = (y >= 0) & (y < height) & (x >= 0) & (x < width)
    position = first + (y * width + x).to(tl.int64)[:, None] * CHANNELS + channel[None, :]
    return position, exists[:, None] & wanted[None, :]


@triton.jit
def _sample_kernel(
    input, offset, mask, columns, height, width, pixels, out_width,
    stride_y, stride_x, padding_y, padding_x, dilation_y, dilation_x,
    CHANNELS: tl.constexpr, GROUP_CHANNELS: tl.constexpr,
    TAPS: tl.constexpr, KERNEL_WIDTH: tl.constexpr,
    BLOCK: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """columns = mask * bilinear samples, for a block of pixels, one tap of one group."""
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tap = tl.program_id(1)
    image = tl.program_id(2)
    valid = pixel < pixels
    channel = tl.arange(0, LANES)
    wanted = channel < GROUP_CHANNELS
    top, left, y, x, factor = _locate(
        offset, mask, image, tap, pixel, valid, height, width, pixels, out_width,
        stride_y, stride_x, padding_y, padding_x, dilation_y, dilation_x, TAPS, KERNEL_WIDTH,
    )  # fmt: skip
    first = image.to(tl.int64) * height * width * CHANNELS + tap // TAPS * GROUP_CHANNELS
    p00, m00 = _corner(top, left, height, width, first, channel, wanted, CHANNELS)
    p01, m01 = _corner(top, left + 1, height, width, first, channel, wanted, CHANNELS)
    p10, m10 = _corner(top + 1, left, height, width, first, channel, wanted, CHANNELS)
    p11, m11 = _corner(top + 1, left + 1, height, width, first, channel, wanted, CHANNELS)
    v00 = tl.load(input + p00, mask=m00, other=0.0)
    v01 = tl.load(input + p01, mask=m01, other=0.0)
    v10 = tl.load(input + p10, mask=m10, other=0.0)
    v11 = tl.load(input + p11, mask=m11, other=0.0)
    upper = v00 + x[:, None] * (v01 - v00)
    lower = v10 + x[:, None] * (v11 - v10)
    value = factor[:, None] * (upper + y[:, None] * (lower - upper))
    row = (image.to(tl.int64) * pixels + pixel) * tl.num_programs(1) + tap
    target = columns + row[:, None] * GROUP_CHANNELS + channel[None, :]
    tl.store(target, value, mask=valid[:, None] & wanted[None, :])


@triton.jit
def _gradient_kernel(
    input, offset, mask, grad_columns, grad_input, grad_offset, grad_mask,
    height, width, pixels, out_width,
    stride_y, stride_x, padding_y, padding_x, dilation_y, dilation_x,
    CHANNELS: tl.constexpr, GROUP_CHANNELS: tl.constexpr,
    TAPS: tl.constexpr, KERNEL_WIDTH: tl.constexpr,
    BLOCK: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """Spreads the gradient of the columns over input, offset and mask."""
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tap = tl.program_id(1)
    image = tl.program_id(2)
    valid = pixel < pixels
    channel = tl.arange(0, LANES)
    wanted = channel < GROUP_CHANNELS
    top, left, y, x, factor = _locate(
        offset, mask, image, tap, pixel, valid, height, width, pixels, out_width,
        stride_y, stride_x, padding_y, padding_x, dilation_y, dilation_x, TAPS, KERNEL_WIDTH,
    )  # fmt: skip
    first = image.to(tl.int64) * height * width * CHANNELS + tap // TAPS * GROUP_CHANNELS
    p00, m00 = _corner(top, left, height, width, first, channel, wanted, CHANNELS)
    p01, m01 = _corner(top, left + 1, height, width, first, channel, wanted, CHANNELS)
    p10, m10 = _corner(top + 1, left, height, width, first, channel, wanted, CHANNELS)
    p11, m11 = _corner(top + 1, left + 1, height, width, first, channel, wanted, CHANNELS)
    row = (image.to(tl.int64) * pixels + pixel) * tl.num_programs(1) + tap
    source = grad_columns + row[:, None] * GROUP_CHANNELS + channel[None, :]
    grad = tl.load(source, mask=valid[:, None] & wanted[None, :], other=0.0)

    # Sampling is linear in the four values, so one dot product with each is all it takes.
    d00 = tl.sum(grad * tl.load(input + p00, mask=m00, other=0.0), 1)
    d01 = tl.sum(grad * tl.load(input + p01, mask=m01, other=0.0), 1)
    d10 = tl.sum(grad * tl.load(input + p10, mask=m10, other=0.0), 1)
    d11 = tl.sum(grad * tl.load(input + p11, mask=m11, other=0.0), 1)
    upper = d00 + x * (d01 - d00)
    lower = d10 + x * (d11 - d10)
    slope_x = (d01 - d00) + y * ((d11 - d10) - (d01 - d00))
    row = image.to(tl.int64) * tl.num_programs(1) + tap
    tl.store(grad_mask + row * pixels + pixel, upper + y * (lower - upper), mask=valid)
    tl.store(grad_offset + 2 * row * pixels + pixel, factor * (lower - upper), mask=valid)
    tl.store(grad_offset + (2 * row + 1) * pixels + pixel, factor * slope_x, mask=valid)

    below = (factor * y)[:, None] * grad
    above = factor[:, None] * grad - below
    tl.atomic_add(grad_input + p00, above - x[:, None] * above, mask=m00, sem="relaxed")
    tl.atomic_add(grad_input + p01, x[:, None] * above, mask=m01, sem="relaxed")
    tl.atomic_add(grad_input + p10, below - x[:, None] * below, mask=m10, sem="relaxed")
    tl.atomic_add(grad_input + p11, x[:, None] * below, mask=m11, sem="relaxed")


def _launch(kernel, tensors, input, offset, weight, stride, padding, dilation) -> None:
    """Run a kernel over (blocks of output pixels, groups and taps, images)."""
    batch, channels, height, width = input.shape
    taps = weight.shape[2] * weight.shape[3]
    groups = offset.shape[1] // (2 * taps)
    pixels = offset.shape[2] * offset.shape[3]
    if batch == 0:  # an empty grid is an error
        return
    with torch.cuda.device_of(input):  # Triton launches on the current device
        kernel[(triton.cdiv(pixels, BLOCK), groups * taps, batch)](
            *(*tensors, height, width, pixels, offset.shape[3], *stride, *padding, *dilation),
            CHANNELS=channels,
            GROUP_CHANNELS=channels // groups,
            TAPS=taps,
            KERNEL_WIDTH=weight.shape[3],
            BLOCK=BLOCK,
            LANES=triton.next_power_of_2(channels // groups),
        )


def _columns(input, offset, mask, weight, stride, padding, dilation) -> Tensor:
    """(B, pixels, groups * taps * channels per group) of a channels-last input."""
    taps = weight.shape[2] * weight.shape[3]
    columns = input.new_empty(
        input.shape[0], offset.shape[2] * offset.shape[3], taps * input.shape[1]
    )
    tensors = (input, offset, mask, columns)
    _launch(_sample_kernel, tensors, input, offset, weight, stride, padding, dilation)
    return columns


def _weight_matrix(weight: Tensor, groups: int) -> Tensor:
    """weight (O, C, kh, kw) as (groups * taps * channels per group, O)."""
    matrix = weight.reshape(weight.shape[0], groups, weight.shape[1] // groups, -1)
    return matrix.permute(1, 3, 2, 0).reshape(-1, weight.shape[0])


def _channels_last(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last)


def forward(input, offset, mask, weight, bias, stride, padding, dilation) -> Tensor:
    """The output (B, O, H', W'); see dcn.operators.register."""
    input = dense(input)
    output = empty_output(input, weight, stride, padding, dilation)
    groups = offset.shape[1] // (2 * weight.shape[2] * weight.shape[3])
    columns = _columns(
        *(_channels_last(input), offset.contiguous(), mask.contiguous()),
        *(weight, stride, padding, dilation),
    )
    product = columns @ _weight_matrix(weight, groups)
    if bias is not None:
        product += bias
    return output.copy_(product.transpose(1, 2).reshape(output.shape))


def backward(grad_output, input, offset, mask, weight, stride, padding, dilation) -> tuple:
    """The gradients of input, offset, mask and weight; see dcn.operators.register."""
    grads = [torch.empty_like(dense(tensor)) for tensor in (input, offset, mask)]
    input, offset, mask = _channels_last(input), offset.contiguous(), mask.contiguous()
    out_channels, channels = weight.shape[:2]
    geometry = (stride, padding, dilation)
    groups = offset.shape[1] // (2 * weight.shape[2] * weight.shape[3])
    grad = grad_output.permute(0, 2, 3, 1).flatten(1, 2)

    columns = _columns(input, offset, mask, weight, *geometry)
    grad_weight = columns.flatten(0, 1).T @ grad.flatten(0, 1)
    grad_weight = grad_weight.view(groups, -1, channels // groups, out_channels)
    grad_weight = grad_weight.permute(3, 0, 2, 1).reshape(weight.shape)

    grad_columns = torch.matmul(grad, _weight_matrix(weight, groups).T, out=columns)
    sums = (torch.zeros_like(input), torch.empty_like(offset), torch.empty_like(mask))
    tensors = (input, offset, mask, grad_columns, *sums)
    _launch(_gradient_kernel, tensors, input, offset, weight, *geometry)
    for target, value in zip(grads, sums, strict=True):
        target.copy_(value)
    return (*grads, grad_weight.contiguous())


deform_conv2d = register("deform_conv2d_triton", forward, backward, None)
