"""3x3 convolutions in float32 on the CPU by Winograd's minimal filtering, twice as fast as direct.

Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016, F(4x4, 3x3). The
same sums in another order: 4x4 outputs need a quarter of the products, and rounding errors are
about eight times those of a direct convolution, 1e-5 of the largest output. winograd.cpp is the
kernel, compiled on first use; importing this module compiles nothing.
"""

import ctypes
import os
from functools import cache
from pathlib import Path
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from utils.native import NativeBuildError, constant_result, load_library
from utils.text import check_choice

SOURCE = Path(__file__).with_name("winograd.cpp")
VARIABLE = "MSTT_CONVOLUTION"
CHOICES = ("winograd", "pytorch")
VECTOR = 16  # the kernel takes channels by multiples of the widest vector

# The paper's matrix G for the points 0, 1, -1, 2, -2 and infinity, and G w G^T as one matrix from
# the 9 weights of a kernel to its 36 planes.
_G = np.array(
    [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ]
)
_TO_PLANES = np.kron(_G, _G).tolist()  # (36, 9)

# Convolution -> a copy of its weights, and their planes.
_planes: "WeakKeyDictionary[nn.Conv2d, tuple[Tensor, Tensor]]" = WeakKeyDictionary()


def suits(conv: nn.Conv2d, x: Tensor) -> bool:
    """Whether the kernel computes conv(x); MSTT_CONVOLUTION=pytorch forbids it.

    Raises: ValueError: MSTT_CONVOLUTION is something else than one of CHOICES.
    """
    regular = conv.kernel_size == (3, 3) and conv.stride == (1, 1) and conv.groups == 1
    same_size = conv.padding == conv.dilation and conv.padding_mode == "zeros"
    wide = conv.in_channels % VECTOR == 0 and conv.out_channels % VECTOR == 0
    if not (regular and same_size and wide and conv.dilation[0] == conv.dilation[1]):
        return False
    exact = x.dtype == conv.weight.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    return exact and x.device.type == "cpu" and conv.bias is not None and _available()


@constant_result
def _available() -> bool:
    choice = os.environ.get(VARIABLE, "")
    if choice:
        check_choice(VARIABLE, choice, CHOICES)
    if choice == "pytorch":
        return False
    try:
        library()
    except NativeBuildError as error:
        if choice:
            raise ValueError(f"{VARIABLE}={choice} cannot be used here: {error}") from error
        return False  # PyTorch's convolution gives the same; that there is no compiler, dcn/ says
    return True


@cache
def library() -> ctypes.CDLL:
    """The compiled kernel. Raises utils.native.NativeBuildError where there can be none."""
    kernel = load_library(SOURCE)
    pointer, shape = ctypes.c_void_p, ctypes.POINTER(_Shape)
    kernel.winograd_forward.argtypes = (shape, *[pointer] * 4, ctypes.c_float, pointer)
    kernel.winograd_weight_gradient.argtypes = (shape, *[pointer] * 3)
    return kernel


class _Shape(ctypes.Structure):
    """`Shape` of winograd.cpp."""

    _fields_ = tuple(
        (name, ctypes.c_int64)
        for name in ("batch", "channels", "height", "width", "out_channels", "dilation", "threads")
    )


def convolve(
    conv: nn.Conv2d, x: Tensor, slope: float = 1.0, residual: Tensor | None = None
) -> Tensor:
    """leaky_relu(conv(x), slope) + residual, for a convolution that `suits`.

    Arguments and result as those of `models.layers.Conv`; the result is channels_last.
    """
    options = (slope, conv.dilation[0])
    if not torch.is_grad_enabled():
        return convolution3x3(x, conv.weight, _cached_planes(conv), conv.bias, residual, *options)
    planes = _to_planes(conv.weight.detach())
    y = convolution3x3(x, conv.weight, planes, conv.bias, None, *options)
    return y if residual is None else y + residual


def _to_planes(weight: Tensor) -> Tensor:
    """(O, C, 3, 3) -> (36, C, O)."""
    outputs, channels = weight.shape[:2]
    kernels = weight.permute(2, 3, 1, 0).reshape(9, channels * outputs)
    return (kernels.new_tensor(_TO_PLANES) @ kernels).view(-1, channels, outputs)


def _cached_planes(conv: nn.Conv2d) -> Tensor:
    """Planes of a convolution, made anew where its weights have changed in any way."""
    if torch.compiler.is_compiling():  # a compiled graph has no memory
        return _to_planes(conv.weight)
    weight, planes = _planes.get(conv, (None, None))
    if weight is None or not torch.equal(weight, conv.weight):
        weight = conv.weight.detach().clone()
        planes = _to_planes(weight)
        _planes[conv] = (weight, planes)
    return planes


def _dense(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def _output(input: Tensor, planes: Tensor) -> Tensor:
    """The output, not filled in."""
    size = (len(input), planes.shape[2], *input.shape[2:])
    kind = {"dtype": input.dtype, "device": input.device}
    return torch.empty(size, memory_format=torch.channels_last, **kind)


def _call(name: str, shape: _Shape, *arguments: Tensor | float | None) -> None:
    pointers = [x.data_ptr() if isinstance(x, Tensor) else x for x in arguments]
    if getattr(library(), name)(shape, *pointers):
        raise MemoryError(f"{name}: no memory for {shape.batch}x{shape.channels} maps")


@torch.library.custom_op("mstt::convolution3x3", mutates_args=(), device_types="cpu")
def convolution3x3(
    input: Tensor,
    weight: Tensor,
    planes: Tensor,
    bias: Tensor,
    residual: Tensor | None,
    slope: float,
    dilation: int,
) -> Tensor:
    """See `convolve`. planes: those of weight, which itself is here for its gradient only."""
    input, planes, bias = _dense(input), planes.contiguous(), bias.contiguous()
    residual = None if residual is None else _dense(residual)
    output = _output(input, planes)
    shape = _Shape(*input.shape, planes.shape[2], dilation, torch.get_num_threads())
    _call("winograd_forward", shape, input, planes, bias, residual, slope, output)
    return output


@convolution3x3.register_fake
def _(input, weight, planes, bias, residual, slope, dilation):
    return _output(input, planes)


@torch.library.custom_op("mstt::convolution3x3_weight", mutates_args=(), device_types="cpu")
def weight_gradient(input: Tensor, grad_output: Tensor, dilation: int) -> Tensor:
    """The gradient of the weights, (O, C, 3, 3), of a convolution."""
    input, grad_output = _dense(input), _dense(grad_output)
    outputs, channels = grad_output.shape[1], input.shape[1]
    planes = input.new_empty(36, channels, outputs)
    shape = _Shape(*input.shape, outputs, dilation, torch.get_num_threads())
    _call("winograd_weight_gradient", shape, input, grad_output, planes)
    kernels = planes.new_tensor(_TO_PLANES).T @ planes.view(36, -1)
    return kernels.view(3, 3, channels, outputs).permute(3, 2, 0, 1).contiguous()


@weight_gradient.register_fake
def _(input, grad_output, dilation):
    return input.new_empty(grad_output.shape[1], input.shape[1], 3, 3)


def _setup_context(ctx, inputs, output) -> None:
    input, weight, _, _, _, ctx.slope, ctx.dilation = inputs
    # Without a residual the output has the sign of what went into the leaky ReLU.
    ctx.save_for_backward(input, weight, None if ctx.slope == 1 else output)


def _differentiate(ctx, grad):
    input, weight, output = ctx.saved_tensors
    if output is not None:
        grad = torch.ops.aten.leaky_relu_backward(grad, output, ctx.slope, True)
    grad_input = grad_weight = grad_bias = None
    if ctx.needs_input_grad[0]:
        turned = weight.flip(2, 3).transpose(0, 1)
        zeros = grad.new_zeros(turned.shape[0])
        planes = _to_planes(turned)
        grad_input = convolution3x3(grad, turned, planes, zeros, None, 1.0, ctx.dilation)
    if ctx.needs_input_grad[1]:
        grad_weight = weight_gradient(input, grad, ctx.dilation)
    if ctx.needs_input_grad[3]:
        grad_bias = grad.sum((0, 2, 3))
    return grad_input, grad_weight, None, grad_bias, *[None] * 3


convolution3x3.register_autograd(_differentiate, setup_context=_setup_context)
