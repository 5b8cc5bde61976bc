"""Running a network over frames: device, precision, windows of given frames.

A sequence is cut into windows that share their end frame; a last window covers the tail, and what
two windows both produce is taken from the first (as in the released evaluation).
"""

import contextlib
import warnings
from collections.abc import Iterator

import numpy as np
import torch

from flow import FLOW_METHODS, check_frames, estimate_flow
from models.enhanced_flow import EnhancedFlow
from utils.images import to_tensor, to_uint8
from utils.text import check_choice

WINDOW = 4  # given frames that the network sees at once, unless its weights ask for more
LONGEST_WINDOW = 32  # more gain nothing, and their frames have to be in memory together
# The flow method, not the skip of this name: between frames that the network itself has enlarged,
# see `EnhancedFlow`.
ENHANCED = "enhanced"
FLOWS = (*FLOW_METHODS, ENHANCED)
SAMPLE = 64  # LR pixels; frames of this side are large enough for every method of flow
PRECISIONS = ("auto", "bfloat16", "float32")


class NotFinite(ValueError):
    """The output of a network has NaN or Inf in it."""

    def __str__(self):
        return "the network produced NaN or Inf; the checkpoint is corrupt or its training diverged"


def windows(count: int, length: int = WINDOW) -> list[tuple[int, int, int]]:
    """Cut `count` given frames into windows of up to `length`, sharing their end frames.

    Returns: (start, stop, first_new) for every window: it covers the given frames start..stop-1,
        and its first first_new outputs were already produced by the windows before it.

    Raises: ValueError: fewer than two frames, or windows that short.
    """
    if count < 2 or length < 2:
        raise ValueError(f"{count} frames in windows of {length}: both need at least 2")
    if count <= length:
        return [(0, count, 0)]
    starts = list(range(0, count - length + 1, length - 1))
    if starts[-1] + length < count:
        starts.append(count - length)
    cuts, produced = [], 0
    for start in starts:
        cuts.append((start, start + length, max(produced - 2 * start, 0)))
        produced = 2 * (start + length) - 1
    return cuts


def pick_device(name: str | torch.device = "auto") -> torch.device:
    """The device of a name such as "cpu" or "cuda:1"; "auto" takes a GPU where there is one.

    Raises: ValueError: no such device here; says what there is.
    """
    gpus = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    known = ["cpu", *(["cuda"] if gpus else []), *gpus]
    name = str(name)
    if name == "auto":
        return torch.device("cuda" if gpus else "cpu")
    if name not in known:
        raise ValueError(f"device is {name!r}; here there is {', '.join(known)}")
    return torch.device(name)


def pick_precision(device: torch.device, precision: str = "auto") -> torch.dtype:
    """The type that convolutions compute in on a device.

    precision: "float32", "bfloat16", or "auto": bfloat16 where the device has instructions for it.
    Asked for by name where it has none, it becomes float32, with a warning.

    Raises: ValueError: another precision.
    """
    check_choice("precision", precision, PRECISIONS)
    if precision == "float32":
        return torch.float32
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        capabilities = torch.cpu.get_capabilities()
        native = any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
        native = native and torch.backends.mkldnn.is_available()  # without it nothing uses them
    if precision == "bfloat16" and not native:
        warnings.warn(f"no bfloat16 on this {device.type}; computing in float32", stacklevel=2)
    return torch.bfloat16 if native else torch.float32


def autocast(
    device: torch.device, precision: str | torch.dtype = "auto"
) -> contextlib.AbstractContextManager:
    """The context in which a network runs at a precision, by name or as `pick_precision` found.

    On CUDA float32 means float32 from then on, in gradients too: PyTorch's convolutions would
    otherwise take TF32, which has the digits of half precision.
    """
    if device.type == "cuda":
        torch.backends.cudnn.allow_tf32 = False
    named = isinstance(precision, str)
    dtype = pick_precision(device, precision) if named else precision
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16)


def given_flow(frames: np.ndarray, method: str) -> tuple[np.ndarray, np.ndarray]:
    """The flow that a network is given with its frames.

    Arguments:
        frames: (N, H, W, 3) uint8 RGB, N >= 2.
        method: one of FLOWS; "enhanced" gives zeros: such a network (`with_flow`) makes its own.

    Returns: (forward, backward), each (N - 1, 2, H, W) float32, LR pixels.

    Raises: ValueError: see `flow.estimate_flow`.
    """
    if method != ENHANCED:
        return estimate_flow(frames, method)
    check_frames(frames)
    none = np.zeros((len(frames) - 1, 2, *frames.shape[1:3]), np.float32)
    return none, none


def check_flow(height: int, width: int, method: str) -> None:
    """Refuse, by a ValueError, a method that is not installed or takes no LR frames of this size.

    Found out on a small part of such frames, before any work.
    """
    given_flow(np.zeros((2, min(height, SAMPLE), min(width, SAMPLE), 3), np.uint8), method)


def with_flow(network: torch.nn.Module, method: str) -> torch.nn.Module:
    """The network itself, or with the method "enhanced" one that makes its flow, `EnhancedFlow`.

    Raises: ValueError: "enhanced", and no network that could enlarge a frame alone.
    """
    if method != ENHANCED:
        return network
    if not isinstance(network, torch.nn.Module):
        raise ValueError("flow between enhanced frames needs a network that makes them")
    return EnhancedFlow(network)


def super_resolve(
    network: torch.nn.Module,
    frames: np.ndarray,
    flow_method: str,
    device: str | torch.device = "cpu",
    precision: str = "float32",
    window: int = WINDOW,
) -> Iterator[np.ndarray]:
    """Super-resolve a sequence of any length, window by window.

    Arguments:
        network: in evaluation mode, on `device`; or `bicubic_flow_baseline`, called like one.
        frames: (N, H, W, 3) uint8 RGB, N of at least 2.
        flow_method: one of FLOWS; the flow is taken between whole frames.
        device, precision: where and how the network runs, see `pick_precision`.
        window: given frames that it sees at once, see `models.weights.trained_window`.

    Raises:
        NotFinite: the output is not finite.
        ValueError: the frames do not fit `flow.estimate_flow`.

    Yields: 2N - 1 frames (4H, 4W, 3) uint8, in order of time.
    """
    device = torch.device(device)
    dtype = pick_precision(device, precision)
    network = with_flow(network, flow_method)
    for start, stop, first_new in windows(len(frames), window):
        given = frames[start:stop]
        flows = given_flow(given, flow_method)
        inputs = (to_tensor(given), *map(torch.from_numpy, flows))
        # Not inference_mode: in it, autocast would convert the weights anew for every frame.
        with torch.no_grad(), autocast(device, dtype):
            output = network(*(tensor[None].to(device) for tensor in inputs))
        if not torch.isfinite(output).all():
            raise NotFinite()
        yield from to_uint8(output[0, first_new:])
