"""Convolutions with what follows them, by the fastest way that the device and the type allow."""

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.cpu import winograd


def convolve(
    conv: nn.Conv2d, x: Tensor, slope: float = 1.0, residual: Tensor | None = None
) -> Tensor:
    """leaky_relu(conv(x), slope) + residual.

    In float32 on a CPU by the kernel of models/cpu/winograd.py, where it has one; else by oneDNN's
    convolution with its activation in one pass, without gradients on a CPU; else by PyTorch's.

    Arguments:
        conv: C to O channels.
        x: (B, C, H, W).
        slope: of the leaky ReLU for negative numbers; 1 for none, 0 for a ReLU.
        residual: of the size of the result, to add, or None.

    Returns: (B, O, H', W').
    """
    if winograd.suits(conv, x):
        return winograd.convolve(conv, x, slope, residual)
    geometry = (conv.stride, conv.padding, conv.dilation)
    y = leaky_convolution(x, conv.weight, conv.bias, slope, *geometry)
    if residual is None:
        return y
    # The gradient of a leaky ReLU needs its output as it was.
    kept = slope != 1 and torch.is_grad_enabled()
    return y + residual if kept else y.add_(residual)


def leaky_convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    slope: float,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (1, 1),
    dilation: tuple[int, int] = (1, 1),
) -> Tensor:
    """leaky_relu(conv2d(x, weight, bias, ...), slope). Arguments: see `convolve`."""
    # PyTorch's autocast does not know the fused operator.
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
    # A compiler joins the two itself.
    plain = torch.is_grad_enabled() or torch.compiler.is_compiling() or x.device.type != "cpu"
    if slope == 1 or plain or not _can_fuse(dtype):
        x = F.conv2d(x, weight, bias, stride, padding, dilation)
        return x if slope == 1 else F.leaky_relu(x, slope, inplace=True)
    tensors = (tensor.to(dtype) for tensor in (x, weight, bias))
    options = (padding, stride, dilation, 1, "leaky_relu", [slope], "")
    return torch.ops.mkldnn._convolution_pointwise(*tensors, *options)


@cache
def _can_fuse(dtype: torch.dtype) -> bool:
    """Whether this PyTorch has oneDNN's convolution with an activation. It does not promise to
    keep it: it is what its own compiler turns the two into."""
    if not torch.backends.mkldnn.is_available():
        return False
    if not hasattr(torch.ops.mkldnn, "_convolution_pointwise"):
        return False
    # In bfloat16 oneDNN refuses processors without AVX-512; conv2d has another way there.
    return dtype == torch.float32 or (
        dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )
