"""Modulated deformable convolution (DCNv2) in plain PyTorch.

`deform_conv2d_gather` is the definition that everything else is tested against. It
follows Zhu et al., "Deformable ConvNets v2", CVPR 2019, equation 1, with the border of
the original kernels: a sample counts as long as it lies less than one pixel outside of
the image, and from there on both its value and its derivatives are zero. At an integer
position the derivative with respect to the offset is the one to the right and downwards.

`deform_conv2d_grid_sample` computes the same through `torch.nn.functional.grid_sample`
and is faster; it is the fallback where nothing native can be used.

Conventions, those of torchvision.ops.deform_conv2d: input (B, C, H, W); weight
(O, C / weight groups, kh, kw); offset (B, 2*G*kh*kw, H', W') in pixels with G deformable
groups, where channel 2*(g*kh*kw + k) is dy and the next one dx of tap k, k = row * kw +
column; mask (B, G*kh*kw, H', W'); output (B, O, H', W').
"""

import torch
import torch.nn.functional as F
from torch import Tensor

Pair = tuple[int, int]


def output_size(size: Pair, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair) -> Pair:
    """Height and width of a convolution's output, all arguments in pixels as (y, x)."""
    height, width = (
        (size[i] + 2 * padding[i] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1
        for i in range(2)
    )
    return height, width


def _sampling_positions(
    offset: Tensor, size: Pair, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair
) -> tuple[Tensor, Tensor]:
    """Where every tap samples: y and x, each (B, G, K, H', W') in pixels of the input.

    Samples without any weight are put at (-2, -2), off the image: their value and all
    their derivatives become zero, as in the original, infinite offsets included. Where either
    offset is NaN, both positions are.
    """
    batch, channels, out_height, out_width = offset.shape
    taps = kernel[0] * kernel[1]
    offset = offset.reshape(batch, channels // (2 * taps), taps, 2, out_height, out_width)

    def steps(count: int, step: int) -> Tensor:
        return torch.arange(count, device=offset.device, dtype=offset.dtype) * step

    tap_y = steps(kernel[0], dilation[0]).repeat_interleave(kernel[1]).reshape(taps, 1, 1)
    tap_x = steps(kernel[1], dilation[1]).repeat(kernel[0]).reshape(taps, 1, 1)
    y = offset[:, :, :, 0] + (tap_y + (steps(out_height, stride[0]) - padding[0]).reshape(-1, 1))
    x = offset[:, :, :, 1] + (tap_x + (steps(out_width, stride[1]) - padding[1]))
    inside = (y > -1) & (y < size[0]) & (x > -1) & (x < size[1])
    unknown = torch.isnan(y) | torch.isnan(x)
    y, x = (torch.where(inside, position, -2) for position in (y, x))
    return y.masked_fill(unknown, torch.nan), x.masked_fill(unknown, torch.nan)


def _multiply_columns(columns: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Columns (B, C, K, H', W') times weight (O, C / weight groups, kh, kw): (B, O, H', W')."""
    batch, channels, taps, out_height, out_width = columns.shape
    outputs, group_channels = weight.shape[:2]
    groups = channels // group_channels
    columns = columns.reshape(batch, groups, group_channels * taps, out_height * out_width)
    weight = weight.reshape(groups, outputs // groups, group_channels * taps)
    output = torch.matmul(weight, columns).reshape(batch, outputs, out_height, out_width)
    return output if bias is None else output + bias.reshape(-1, 1, 1)


def deform_conv2d_gather(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
    mask: Tensor | None = None,
) -> Tensor:
    """The definition: four gathers per sample. Arguments as `dcn.deform_conv2d`, checked."""
    batch, channels, height, width = input.shape
    kernel = weight.shape[2:]
    y, x = _sampling_positions(offset, (height, width), kernel, stride, padding, dilation)
    _, groups, taps, out_height, out_width = y.shape
    samples = taps * out_height * out_width
    # NaN stays in the fractions; an index has none.
    y0, x0 = (position.detach().nan_to_num(-2).floor() for position in (y, x))
    fraction_y, fraction_x = y - y0, x - x0
    modulation = 1 if mask is None else mask.reshape(y.shape)
    pixels = input.reshape(batch, groups, channels // groups, height * width)

    columns = 0
    for corner_y, weight_y in ((y0, 1 - fraction_y), (y0 + 1, fraction_y)):
        for corner_x, weight_x in ((x0, 1 - fraction_x), (x0 + 1, fraction_x)):
            inside_y = (corner_y >= 0) & (corner_y < height)
            inside_x = (corner_x >= 0) & (corner_x < width)
            row, column = corner_y.clamp(0, height - 1).long(), corner_x.clamp(0, width - 1).long()
            index = (row * width + column).reshape(batch, groups, 1, samples)
            index = index.expand(-1, -1, channels // groups, -1)
            corner_weight = weight_y * weight_x * modulation * (inside_y & inside_x)
            corner_weight = corner_weight.reshape(batch, groups, 1, samples)
            columns = columns + pixels.gather(3, index) * corner_weight
    columns = columns.reshape(batch, channels, taps, out_height, out_width)
    return _multiply_columns(columns, weight, bias)


def _power_of_two_padding(size: int) -> int:
    """How many pixels to add to `size` to reach a power of two plus one."""
    return (1 << (size - 1).bit_length()) + 1 - size


def deform_conv2d_grid_sample(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
    mask: Tensor | None = None,
) -> Tensor:
    """The same through grid_sample. Arguments as `dcn.deform_conv2d`, checked."""
    batch, channels, height, width = input.shape
    if batch == 0:  # grid_sample refuses it
        return deform_conv2d_gather(input, offset, weight, bias, stride, padding, dilation, mask)
    kernel = weight.shape[2:]
    y, x = _sampling_positions(offset, (height, width), kernel, stride, padding, dilation)
    _, groups, taps, out_height, out_width = y.shape

    # grid_sample wants positions scaled to [-1, 1]. With an extent of a power of two the
    # scaling there and back is exact at integers; otherwise a tap with zero offset could
    # land just left of its pixel and get the derivative of the other side.
    extra_y, extra_x = _power_of_two_padding(height), _power_of_two_padding(width)
    padded = F.pad(input, (0, extra_x, 0, extra_y))
    padded = padded.reshape(batch * groups, channels // groups, *padded.shape[2:])
    grid = torch.stack(
        (x * (2 / (width + extra_x - 1)) - 1, y * (2 / (height + extra_y - 1)) - 1), -1
    ).reshape(batch * groups, taps * out_height, out_width, 2)
    columns = F.grid_sample(padded, grid, align_corners=True, padding_mode="zeros")
    columns = columns.reshape(batch, groups, -1, taps, out_height, out_width)
    columns = columns + (y - y).detach()[:, :, None]  # grid_sample takes NaN for a place
    if mask is not None:
        columns = columns * mask.reshape(batch, groups, 1, taps, out_height, out_width)
    columns = columns.reshape(batch, channels, taps, out_height, out_width)
    return _multiply_columns(columns, weight, bias)
