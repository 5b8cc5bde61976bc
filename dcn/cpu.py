"""The native CPU kernel as PyTorch operators, with autograd, autocast, compile and export.

`torch.ops.mstt.deform_conv2d` and its backward hand pointers to cpu.cpp, which is compiled
on first use; importing this module compiles nothing.
"""

import ctypes
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from dcn.operators import dense, empty_output, is_channels_last, register
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
        shape, pointers = ctypes.POINTER(_Shape), ctypes.POINTER(ctypes.c_void_p)
        function.argtypes = (shape, ctypes.c_int, ctypes.c_uint32, pointers)
    return kernel


def _call(name, images, plain, input, offset, weight, stride, padding, dilation) -> None:
    """Call the kernel with images (in either layout) and plain contiguous tensors."""
    batch, channels, height, width = input.shape
    out_channels, _, *kernel = weight.shape
    groups = offset.shape[1] // (2 * kernel[0] * kernel[1])
    shape = _Shape(
        *(batch, channels, height, width, out_channels, *offset.shape[2:]),
        *(*kernel, *stride, *padding, *dilation, groups, torch.get_num_threads()),
    )
    layouts = sum(is_channels_last(image) << i for i, image in enumerate(images))
    tensors = (*images, *plain)
    pointers = (ctypes.c_void_p * len(tensors))(
        *(None if tensor is None else tensor.data_ptr() for tensor in tensors)
    )
    status = getattr(library(), name)(shape, input.dtype == torch.float64, layouts, pointers)
    if status:
        raise MemoryError(f"deform_conv2d: no memory for an input of {tuple(input.shape)}")


def forward(input, offset, mask, weight, bias, stride, padding, dilation) -> Tensor:
    """The output (B, O, H', W'); see dcn.operators.register."""
    input, offset, mask = dense(input), dense(offset), dense(mask)
    weight = weight.contiguous()
    bias = None if bias is None else bias.contiguous()
    output = empty_output(input, weight, stride, padding, dilation)
    images, plain = (input, offset, mask, output), (weight, bias)
    _call("dcn_forward", images, plain, input, offset, weight, stride, padding, dilation)
    return output


def backward(grad_output, input, offset, mask, weight, stride, padding, dilation) -> tuple:
    """The gradients of input, offset, mask and weight; see dcn.operators.register."""
    input, offset, mask = dense(input), dense(offset), dense(mask)
    grad_output, weight = dense(grad_output), weight.contiguous()
    grads = [torch.empty_like(tensor) for tensor in (input, offset, mask)]
    grad_weight = torch.empty_like(weight)
    images, plain = (input, offset, mask, grad_output, *grads), (weight, grad_weight)
    _call("dcn_backward", images, plain, input, offset, weight, stride, padding, dilation)
    return (*grads, grad_weight)


deform_conv2d = register("deform_conv2d", forward, backward, "cpu")
