"""The native CPU kernel as PyTorch operators, with autograd, autocast, compile and export.

`torch.ops.mstt.deform_conv2d` and its backward are thin: they hand pointers to cpu.cpp,
which is compiled on first use. Importing this module compiles nothing.
"""

import ctypes
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from dcn.reference import output_size
from utils.native import load_library

SOURCE = Path(__file__).with_name("cpu.cpp")


class _Shape(ctypes.Structure):
    """`Shape` of cpu.cpp."""

    _fields_ = tuple(
        (name, ctypes.c_int64)
        for name in (
            *("batch", "channels", "height", "width"),
            *("out_channels", "out_height", "out_width"),
            *("kernel_height", "kernel_width", "stride_y", "stride_x"),
            *("padding_y", "padding_x", "dilation_y", "dilation_x"),
            *("groups", "threads"),
        )
    )


@cache
def library() -> ctypes.CDLL:
    """The compiled kernel. Raises utils.native.NativeBuildError where there can be none."""
    kernel = load_library(SOURCE)
    for function in (kernel.dcn_forward, kernel.dcn_backward):
        function.argtypes = (
            ctypes.POINTER(_Shape),
            ctypes.c_int,
            ctypes.c_uint32,
            ctypes.POINTER(ctypes.c_void_p),
        )
        function.restype = ctypes.c_int
    return kernel


def _output_shape(input: Tensor, weight: Tensor, stride, padding, dilation) -> tuple[int, ...]:
    size = output_size(input.shape[2:], weight.shape[2:], stride, padding, dilation)
    return (input.shape[0], weight.shape[0], *size)


def _is_channels_last(tensor: Tensor) -> bool:
    return not tensor.is_contiguous() and tensor.is_contiguous(memory_format=torch.channels_last)


def _dense(tensor: Tensor) -> Tensor:
    """The tensor in one of the two layouts that the kernel reads."""
    return tensor if _is_channels_last(tensor) else tensor.contiguous()


def _empty_output(input: Tensor, weight: Tensor, stride, padding, dilation) -> Tensor:
    layout = torch.channels_last if _is_channels_last(input) else torch.contiguous_format
    shape = _output_shape(input, weight, stride, padding, dilation)
    return torch.empty(shape, dtype=input.dtype, device=input.device, memory_format=layout)


def _call(name, images, plain, input, offset, weight, stride, padding, dilation) -> None:
    """Call the kernel with images (in either layout) and plain contiguous tensors."""
    batch, channels, height, width = input.shape
    out_channels, _, *kernel = weight.shape
    groups = offset.shape[1] // (2 * kernel[0] * kernel[1])
    shape = _Shape(
        *(batch, channels, height, width, out_channels, *offset.shape[2:]),
        *(*kernel, *stride, *padding, *dilation, groups, torch.get_num_threads()),
    )
    layouts = sum(_is_channels_last(image) << i for i, image in enumerate(images))
    tensors = (*images, *plain)
    pointers = (ctypes.c_void_p * len(tensors))(
        *(None if tensor is None else tensor.data_ptr() for tensor in tensors)
    )
    status = getattr(library(), name)(shape, input.dtype == torch.float64, layouts, pointers)
    if status:
        raise MemoryError(f"deform_conv2d: no memory for an input of {tuple(input.shape)}")


@torch.library.custom_op("mstt::deform_conv2d", mutates_args=(), device_types="cpu")
def deform_conv2d(
    input: Tensor,
    offset: Tensor,
    mask: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
) -> Tensor:
    """Forward; all tensors float32 or all float64, checked. Keeps the layout of the input."""
    input, offset, mask = _dense(input), _dense(offset), _dense(mask)
    weight = weight.contiguous()
    bias = None if bias is None else bias.contiguous()
    output = _empty_output(input, weight, stride, padding, dilation)
    images, plain = (input, offset, mask, output), (weight, bias)
    _call("dcn_forward", images, plain, input, offset, weight, stride, padding, dilation)
    return output


@deform_conv2d.register_fake
def _(input, offset, mask, weight, bias, stride, padding, dilation):
    return _empty_output(_dense(input), weight, stride, padding, dilation)


@torch.library.custom_op("mstt::deform_conv2d_backward", mutates_args=(), device_types="cpu")
def deform_conv2d_backward(
    grad_output: Tensor,
    input: Tensor,
    offset: Tensor,
    mask: Tensor,
    weight: Tensor,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients with respect to input, offset, mask and weight."""
    input, offset, mask = _dense(input), _dense(offset), _dense(mask)
    grad_output, weight = _dense(grad_output), weight.contiguous()
    grads = [torch.empty_like(tensor) for tensor in (input, offset, mask)]
    grad_weight = torch.empty_like(weight)
    images, plain = (input, offset, mask, grad_output, *grads), (weight, grad_weight)
    _call("dcn_backward", images, plain, input, offset, weight, stride, padding, dilation)
    return (*grads, grad_weight)


@deform_conv2d_backward.register_fake
def _(grad_output, input, offset, mask, weight, stride, padding, dilation):
    grads = [torch.empty_like(_dense(tensor)) for tensor in (input, offset, mask)]
    return (*grads, torch.empty_like(weight.contiguous()))


def _setup_context(ctx, inputs, output) -> None:
    input, offset, mask, weight, _, *ctx.geometry = inputs
    ctx.save_for_backward(input, offset, mask, weight)


def _backward(ctx, grad_output):
    grads = deform_conv2d_backward(grad_output, *ctx.saved_tensors, *ctx.geometry)
    grad_bias = grad_output.sum((0, 2, 3)) if ctx.needs_input_grad[4] else None
    return (*grads, grad_bias, None, None, None)


deform_conv2d.register_autograd(_backward, setup_context=_setup_context)
deform_conv2d.register_autocast("cpu", torch.float32)
