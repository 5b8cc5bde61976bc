"""Deformable convolution: the operator, the choice of its backend, and the DCNv2 layer."""

import importlib
import importlib.util
import os
import shutil
import warnings
from collections.abc import Callable
from functools import cache
from numbers import Integral

import torch
from torch import Tensor, nn

from dcn import cpu
from dcn.reference import deform_conv2d_grid_sample, output_size
from utils.native import NativeBuildError, constant_result

BACKEND_VARIABLE = "MSTT_DCN_BACKEND"
BACKENDS = ("reference", "native", "triton", "torchvision")
OURS = ("native", "triton")  # kernels of this project
TORCHVISION_OPERATOR = "torchvision::deform_conv2d"
# Backend -> function with the arguments of torchvision's; filled when a backend is first chosen, so
# that compiling a network meets no import.
_functions: dict[str, Callable[..., Tensor]] = {
    "reference": deform_conv2d_grid_sample,
    "native": cpu.deform_conv2d,
}
TRITON_LEAST = 2**22  # elements of the input; Triton's kernels train faster from there on
RUNAWAY_OFFSET = 100.0  # pixels; a mean |offset| above it draws a warning


def backend(tensor: Tensor) -> str:
    """Name of the backend that `deform_conv2d` uses for inputs like `tensor`.

    On the CPU the native kernel ("native"), compiled on first use; without a compiler, with
    one warning, the PyTorch formulation ("reference"). On CUDA our Triton kernels ("triton") for
    large inputs, torchvision's operator ("torchvision") for small ones, whose time is that of
    its one launch, and whichever of the two there is; else the PyTorch formulation, as on other
    devices.

    All give the same results but for torchvision's offset gradient, which differs where a
    tap lies exactly one pixel outside of the border, and at zero offset the outermost taps
    do. The environment variable MSTT_DCN_BACKEND forces one of BACKENDS.

    Raises: ValueError: MSTT_DCN_BACKEND names none of BACKENDS or one that cannot be used here.
    """
    # A literal, so that a compiler that knows the size as a symbol decides here, once for each.
    large = True if tensor.numel() >= TRITON_LEAST else False  # noqa: SIM210
    return _choose(tensor.device.type, large, os.environ.get(BACKEND_VARIABLE, ""))


@constant_result
def _choose(device: str, large: bool, forced: str) -> str:
    name = _pick(device, large, forced)
    if name not in _functions:
        module = importlib.import_module("dcn.cuda" if name == "triton" else "torchvision.ops")
        _functions[name] = module.deform_conv2d
    return name


def _pick(device: str, large: bool, forced: str) -> str:
    if forced:
        if problem := _problem(forced, device):
            usable = [name for name in BACKENDS if not _problem(name, device)]
            raise ValueError(
                f"{BACKEND_VARIABLE}={forced} {problem}; usable on {device}: {', '.join(usable)}"
            )
        return forced
    if device == "cpu":
        if not (problem := _problem("native", device)):
            return "native"
        _warn_of_slow_fallback(problem)
    elif device == "cuda":
        names = ("triton", "torchvision") if large else ("torchvision", "triton")
        return next((name for name in names if not _problem(name, device)), "reference")
    return "reference"


def _problem(name: str, device: str) -> str | None:
    """Why a backend cannot be used on a device; None where it can."""
    if name not in BACKENDS:
        return f"is not a backend (there are {', '.join(BACKENDS)})"
    if name == "native":
        return _native_problem() if device == "cpu" else "runs on the CPU only"
    if name == "triton":
        if importlib.util.find_spec("triton") is None:
            return "needs the package triton, which is not installed"
        if os.environ.get("TRITON_INTERPRET") == "1":
            return None
        if not any(map(shutil.which, (os.environ.get("CC", "cc"), "gcc", "clang"))):
            return "needs a C compiler: set CC, or install gcc or clang"
        return None if device == "cuda" else "runs on CUDA only"
    if name == "torchvision":
        return _torchvision_problem(device)
    return None


@cache
def _native_problem() -> str | None:
    try:
        cpu.library()
    except NativeBuildError as error:
        return f"cannot be built: {error}"
    return None


@cache
def _torchvision_problem(device: str) -> str | None:
    try:
        import torchvision.ops  # noqa: F401
    except (ImportError, OSError, RuntimeError) as error:  # a build for another PyTorch raises any
        return f"needs torchvision, which does not import: {error}"
    # A build for the CPU imports beside a PyTorch for CUDA, and fails at the first call.
    if not torch._C._dispatch_has_kernel_for_dispatch_key(TORCHVISION_OPERATOR, device.upper()):
        return f"needs a torchvision with kernels for {device}, which this one lacks"
    return None


@cache
def _warn_of_slow_fallback(problem: str) -> None:
    warnings.warn(
        f"deform_conv2d: the native kernel {problem}\nThe PyTorch formulation is used instead: "
        "same results, several times slower. Install a C++ compiler (g++ or clang++), or set "
        f"{BACKEND_VARIABLE}=reference to silence this.",
        RuntimeWarning,
        stacklevel=4,
    )


def _pair(value: int | tuple[int, int], name: str, least: int) -> tuple[int, int]:
    pair = tuple(value) if isinstance(value, tuple | list) else (value, value)
    if len(pair) != 2 or not all(isinstance(side, Integral) and side >= least for side in pair):
        raise ValueError(f"{name} must be one or two integers of at least {least}, not {value!r}")
    return int(pair[0]), int(pair[1])


def _check(input, offset, weight, bias, stride, padding, dilation, mask) -> None:
    """Raise TypeError or ValueError unless shapes, types and devices fit together."""
    tensors = {"input": input, "offset": offset, "weight": weight}
    optional = {"mask": mask, "bias": bias}
    tensors |= {name: tensor for name, tensor in optional.items() if tensor is not None}
    shapes = {}
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name} must be a tensor, not {type(tensor).__name__}")
        shapes[name] = tuple(tensor.shape)
        ndim = 1 if name == "bias" else 4
        if tensor.ndim != ndim:
            raise ValueError(f"{name} must have {ndim} dimensions, not shape {shapes[name]}")
        if not tensor.is_floating_point():
            raise ValueError(f"{name} must be floating point, not {tensor.dtype}")
        if tensor.layout != torch.strided:
            raise ValueError(f"{name} must be dense, not {tensor.layout}")
        if tensor.device != input.device:
            raise ValueError(f"{name} is on {tensor.device}, input on {input.device}")
    if input.device.type == "meta":
        raise ValueError("the tensors are on meta, where there are no numbers to compute with")
    batch, channels, *image = shapes["input"]
    out_channels, group_channels, *kernel = shapes["weight"]
    if group_channels == 0 or channels % group_channels:
        raise ValueError(
            f"weight {shapes['weight']} does not fit the {channels} channels of the input: "
            "its second size must divide them"
        )
    if out_channels % (channels // group_channels):
        raise ValueError(
            f"weight {shapes['weight']} has {out_channels} output channels, which "
            f"{channels // group_channels} weight groups do not divide"
        )
    taps = kernel[0] * kernel[1]
    size = output_size(image, kernel, stride, padding, dilation)
    if any(value < 1 for value in (*image, taps, *size)):
        raise ValueError(
            f"input {shapes['input']} and weight {shapes['weight']} with stride {stride}, padding "
            f"{padding} and dilation {dilation} leave an output of {size[0]} x {size[1]} pixels"
        )
    groups = offset.shape[1] // (2 * taps)
    if groups == 0 or offset.shape[1] % (2 * taps) or channels % groups:
        raise ValueError(
            f"offset {shapes['offset']} must have 2 * groups * {taps} channels for the kernel of "
            f"weight {shapes['weight']}, with groups dividing the {channels} input channels"
        )
    for name, wanted, for_name in (
        ("offset", (batch, 2 * groups * taps, *size), "input"),
        ("mask", (batch, groups * taps, *size), "offset"),
        ("bias", (out_channels,), "weight"),
    ):
        if name in shapes and shapes[name] != wanted:
            given = f"{for_name} {shapes[for_name]}, not {shapes[name]}"
            raise ValueError(f"{name} must be {wanted} for {given}")


def deform_conv2d(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int, int] = (1, 1),
    padding: int | tuple[int, int] = (0, 0),
    dilation: int | tuple[int, int] = (1, 1),
    mask: Tensor | None = None,
) -> Tensor:
    """Deformable convolution, modulated if a mask is given; torchvision's signature.

    Zhu et al., "Deformable ConvNets v2", CVPR 2019, equation 1. Sampling is bilinear with
    zeros outside. Everything is computed in float32 (float64 if the input is), under
    autocast too: with offsets in bfloat16 the samples are off by a quarter.

    Arguments:
        input: (B, C, H, W), any floating type and memory format; the others may be of another
            floating type. B may be zero.
        offset: (B, 2*G*kh*kw, H', W') in pixels; G deformable groups of C / G channels,
            channel 2*(g*kh*kw + k) is dy and 2*(g*kh*kw + k) + 1 is dx of tap k. NaN gives
            NaN at its output pixel.
        weight: (O, C / weight groups, kh, kw).
        bias: (O,) or None.
        stride, padding, dilation: pixels, one integer or (y, x).
        mask: (B, G*kh*kw, H', W'), factors of the samples, or None for ones.

    Returns: (B, O, H', W') in the type of the input.

    Raises:
        TypeError: what is no tensor where there should be one.
        ValueError: shapes, types or devices that do not fit together, sparse or meta tensors; see
            `backend` for those about MSTT_DCN_BACKEND.
    """
    stride, padding = _pair(stride, "stride", 1), _pair(padding, "padding", 0)
    dilation = _pair(dilation, "dilation", 1)
    _check(input, offset, weight, bias, stride, padding, dilation, mask)
    dtype = torch.float64 if input.dtype == torch.float64 else torch.float32
    tensors = (input, offset, weight, bias, mask)
    *args, mask = [None if tensor is None else tensor.to(dtype) for tensor in tensors]
    name = backend(input)
    if name in OURS and weight.shape[1] != input.shape[1]:
        name = "reference"  # our kernels do not have weight groups, which no DCNv2 network uses
    with torch.autocast(input.device.type, enabled=False):
        return _functions[name](*args, stride, padding, dilation, mask).to(input.dtype)


def bounded(offset: Tensor, limit: float | None) -> Tensor:
    """Offsets in pixels that smoothly stay below a limit; None leaves them as they are."""
    return offset if limit is None else limit * torch.tanh(offset / limit)


class DCNv2(nn.Module):
    """Modulated deformable convolution that takes its offsets from other features.

    Released MSTT's `DCN_sep`: a convolution of the offset features gives, in three equal
    chunks of channels, the two halves of the offsets and the mask before its sigmoid. It
    starts at zero, so that the layer starts as a convolution with a mask of one half.

    Arguments:
        in_channels: channels of the input and of the offset features.
        out_channels: channels of the output.
        kernel_size, stride, padding, dilation: as in nn.Conv2d, one integer or (y, x).
        groups: deformable groups; the channels of one group move together.
        offset_channels: channels of the offset features, by default those of the input.
        offset_limit: pixels; offsets o become limit * tanh(o / limit), as in BasicVSR++ (CVPR
            2022, section 3.2). None, as released, leaves them as they are.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int] = 3,
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 1,
        dilation: int | tuple[int, int] = 1,
        groups: int = 8,
        offset_channels: int | None = None,
        offset_limit: float | None = None,
    ) -> None:
        super().__init__()
        if groups < 1 or in_channels % groups:
            raise ValueError(f"groups must divide the {in_channels} input channels, not {groups}")
        if offset_limit is not None and not offset_limit > 0:
            raise ValueError(f"offset_limit is {offset_limit}; give pixels above 0, or None")
        self.kernel_size = _pair(kernel_size, "kernel_size", 1)
        self.stride = _pair(stride, "stride", 1)
        self.padding = _pair(padding, "padding", 0)
        self.dilation = _pair(dilation, "dilation", 1)
        self.groups = groups
        self.offset_limit = offset_limit
        taps = self.kernel_size[0] * self.kernel_size[1]
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, *self.kernel_size))
        self.bias = nn.Parameter(torch.empty(out_channels))
        geometry = (self.kernel_size, self.stride, self.padding, self.dilation)
        outputs = 3 * groups * taps  # dy, dx and the mask
        self.conv_offset_mask = nn.Conv2d(offset_channels or in_channels, outputs, *geometry)
        self.offset_warned = False
        # Pixels; mean and largest |offset| of the last pass
        self.mean_offset: Tensor | None = None
        self.largest_offset: Tensor | None = None
        # The released layer's initialisation.
        bound = self.weight[0].numel() ** -0.5
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.zeros_(self.bias)
        nn.init.zeros_(self.conv_offset_mask.weight)
        nn.init.zeros_(self.conv_offset_mask.bias)

    def forward(self, x: Tensor, offset_features: Tensor) -> Tensor:
        """Convolve x (B, in_channels, H, W) where offset_features (B, offset_channels, H, W) say.

        Returns: (B, out_channels, H', W') in the type of x.

        Raises: ValueError: x has other channels; see `deform_conv2d`.
        """
        if x.shape[1] != self.weight.shape[1]:  # else a multiple would be a grouped convolution
            raise ValueError(f"x is {tuple(x.shape)}; give (B, {self.weight.shape[1]}, H, W)")
        # Offsets are positions in pixels: bfloat16 would round them to whole pixels from 128 on.
        with torch.autocast(x.device.type, enabled=False):
            layer = self.conv_offset_mask
            parameters = layer(offset_features.to(layer.weight.dtype))
        offset_1, offset_2, mask = parameters.chunk(3, dim=1)
        offset = bounded(torch.cat((offset_1, offset_2), dim=1), self.offset_limit)
        if not torch.compiler.is_compiling():
            self._watch_offsets(offset)
        geometry = (self.stride, self.padding, self.dilation)
        return deform_conv2d(x, offset, self.weight, self.bias, *geometry, torch.sigmoid(mask))

    @torch.no_grad()
    def _watch_offsets(self, offset: Tensor) -> None:
        if offset.numel() == 0:
            return
        sizes = offset.abs()
        self.mean_offset, self.largest_offset = sizes.mean(), sizes.max()
        # A bounded offset cannot pass the limit, and to look at it would hold up a GPU.
        if self.offset_warned or self.offset_limit is not None:
            return
        mean = self.mean_offset.item()
        if not mean <= RUNAWAY_OFFSET:  # written so that NaN is noticed too
            self.offset_warned = True
            cause = (
                "these inputs are far from what the network was trained on, such as not in [0, 1]"
            )
            if self.training:
                cause = "training has probably diverged; lower the learning rate or clip gradients"
            warnings.warn(
                f"DCNv2: mean |offset| is {mean:.4g} pixels (limit {RUNAWAY_OFFSET:g}): {cause}",
                RuntimeWarning,
                stacklevel=3,
            )
