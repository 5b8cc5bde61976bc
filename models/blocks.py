"""What the stages of the network share: residual block, flow warp, the bicubic + flow baseline.

Shapes: B batch, N given frames, T = 2N - 1 output frames, C channels, H, W low resolution.
Flow is (B, 2, H, W) in pixels of the image it warps, (dx, dy), for backward warping: the warped
image at (x, y) is the source at (x + dx, y + dy).

Activations are channels_last inside the network: the convolutions of oneDNN (CPU) and cuDNN
(GPU) are fastest on it.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.layers import Conv
from utils.resize import SCALE

# Pixels that a GPU takes at once: with fewer it waits for the launches of its kernels. The largest
# frame that goes through whole has more, so they are not what limits the memory.
TOGETHER = 2**18


def channels_last(x: Tensor) -> Tensor:
    """The same (B, C, H, W) tensor, laid out in memory with the channels of a pixel together."""
    return x.contiguous(memory_format=torch.channels_last)


def lacking(size: int, multiple: int) -> int:
    """How much a size lacks of the next multiple."""
    # Not -size % multiple: torch.compile fails at it for sizes that it keeps as symbols.
    return (multiple - size % multiple) % multiple


def full_precision(x: Tensor) -> Tensor:
    """The same in float32, or float64 if it was: positions, colours and shares need that much."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def frame_by_frame(stage: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Apply a stage that sees each frame on its own, (B, ...) -> (B, ...).

    Without gradients one frame goes through after the other: the stage then needs the memory of
    one frame, which stays in the processor's caches. A GPU takes several small ones together.
    """
    if torch.is_grad_enabled() or x.shape[0] == 1:
        return stage(x)
    together = max(TOGETHER // x[0, 0].numel(), 1) if x.is_cuda else 1
    return torch.cat([stage(frames) for frames in x.split(together)])


def in_every_clip(stage: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """The same for clips, (B, T, C, H, W) -> (B, T, ...)."""
    frames = frame_by_frame(stage, channels_last(x.flatten(0, 1)))
    return frames.unflatten(0, x.shape[:2])


class ResidualBlock(nn.Module):
    """x + conv(ReLU(conv(x))), two 3x3 convolutions without normalisation.

    The small initial weights (Kaiming times 0.1) start every block near the identity.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = Conv(channels, channels, slope=0)
        self.conv2 = Conv(channels, channels)
        for conv in (self.conv1, self.conv2):
            nn.init.kaiming_normal_(conv.weight)
            conv.weight.data.mul_(0.1)
            nn.init.zeros_(conv.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.conv1(x), residual=x)


def residual_blocks(channels: int, count: int) -> nn.Sequential:
    """`count` residual blocks, one after the other."""
    return nn.Sequential(*(ResidualBlock(channels) for _ in range(count)))


def interleave(given: Tensor, between: Tensor) -> Tensor:
    """Put N given items, (B, N, ...), and those between, (B, N - 1, ...), in order of time.

    Returns: (B, 2N - 1, ...).
    """
    pairs = torch.stack((given[:, :-1], between.to(given.dtype)), dim=2).flatten(1, 2)
    return torch.cat((pairs, given[:, -1:]), dim=1)


def flow_warp(
    x: Tensor, flow: Tensor, padding: str = "zeros", released: bool = False, mode: str = "bilinear"
) -> Tensor:
    """Backward warping: sample x at (x + dx, y + dy).

    Arguments:
        x: image or features (B, C, H, W).
        flow: (B, 2, H, W), pixels of x, (dx, dy).
        padding: what lies outside of x, "zeros" or "border".
        released: sample where the released code samples, as its weights need: it scales the grid
            by (W - 1, H - 1) and then reads it with align_corners=False, which moves samples
            outwards by up to half a pixel at the borders.
        mode: "bilinear" or "bicubic".

    Returns: (B, C, H, W) in the type of x, computed in full precision.
    """
    height, width = x.shape[-2:]
    image = full_precision(x)
    flow = flow.to(image.dtype)
    xs = torch.arange(width, device=x.device, dtype=flow.dtype) + flow[:, 0]
    ys = torch.arange(height, device=x.device, dtype=flow.dtype)[:, None] + flow[:, 1]
    if released:
        grid = torch.stack((2 * xs / (width - 1) - 1, 2 * ys / (height - 1) - 1), dim=-1)
    else:
        grid = torch.stack(((2 * xs + 1) / width - 1, (2 * ys + 1) / height - 1), dim=-1)
    with torch.autocast(x.device.type, enabled=False):
        warped = F.grid_sample(image, grid, mode, padding, align_corners=False)
    return warped.to(x.dtype)


def bicubic(frames: Tensor) -> Tensor:
    """Enlarge by MATLAB's bicubic kernel, (B, N, 3, H, W) -> (B, N, 3, 4H, 4W), full precision."""
    # antialias=True selects a = -0.5, MATLAB's kernel; it does not smooth when enlarging.
    return _enlarged(frames, mode="bicubic", antialias=True)


def bilinear(x: Tensor) -> Tensor:
    """Enlarge bilinearly, (B, N, C, H, W) -> (B, N, C, 4H, 4W), full precision."""
    return _enlarged(x, mode="bilinear")


def _enlarged(x: Tensor, **how: str | bool) -> Tensor:
    x = full_precision(x)
    enlarged = F.interpolate(x.flatten(0, 1), scale_factor=SCALE, **how)
    return enlarged.unflatten(0, x.shape[:2])


def half_way_flow(forward_flow: Tensor, backward_flow: Tensor) -> Tensor:
    """The ways from frames between given ones to their neighbours, at high resolution.

    Arguments:
        forward_flow, backward_flow: (B, N - 1, 2, H, W), LR pixels, from each frame to the next
            and back.

    Returns: (2, B (N - 1), 2, 4H, 4W), HR pixels: to the following frame, and to the previous one.
    """
    flows = torch.stack((forward_flow, backward_flow)).flatten(1, 2)
    return bilinear(flows) * (SCALE / 2)


def warp_neighbours(enlarged: Tensor, flow: Tensor, mode: str) -> tuple[Tensor, Tensor]:
    """The neighbours of the frames between given ones, warped to their time.

    After the enlargement, since sampling at low resolution would blur detail.

    Arguments:
        enlarged: the given frames, (B, N, 3, 4H, 4W), N >= 2.
        flow: of `half_way_flow`.
        mode: of `flow_warp`; "bilinear" would blur sharp frames (0.2 dB where something moves).

    Returns: the previous and the following ones, each (B (N - 1), 3, 4H, 4W), full precision.
    """
    neighbours = full_precision(torch.cat((enlarged[:, 1:], enlarged[:, :-1])).flatten(0, 1))
    warped = flow_warp(neighbours, flow.flatten(0, 1), padding="border", mode=mode)
    following, previous = warped.chunk(2)
    return previous, following


def mean_of_neighbours(
    enlarged: Tensor, forward_flow: Tensor, backward_flow: Tensor, mode: str
) -> Tensor:
    """The frames between enlarged ones: the mean of both neighbours, warped half-way.

    Arguments:
        enlarged, mode: see `warp_neighbours`.
        forward_flow, backward_flow: see `half_way_flow`.

    Returns: (B, N - 1, 3, 4H, 4W), full precision.
    """
    flow = half_way_flow(forward_flow, backward_flow)
    previous, following = warp_neighbours(enlarged, flow, mode)
    return ((previous + following) / 2).unflatten(0, (len(enlarged), -1))


def bicubic_flow_baseline(frames: Tensor, forward_flow: Tensor, backward_flow: Tensor) -> Tensor:
    """Bicubic enlargement in space, flow interpolation in time, see `mean_of_neighbours`.

    frames: (B, N, 3, H, W); the flows: see `half_way_flow`.

    Returns: (B, 2N - 1, 3, 4H, 4W), full precision.
    """
    enlarged = bicubic(frames)
    if frames.shape[1] == 1:
        return enlarged
    between = mean_of_neighbours(enlarged, forward_flow, backward_flow, mode="bilinear")
    return interleave(enlarged, between)
