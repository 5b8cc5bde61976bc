"""MSTT: the multi-scale spatial-temporal transformer for satellite video super-resolution.

Four low-resolution frames in, seven high-resolution frames out: 4x in space, 2x in time, in one
network. Paper: "Space-time super-resolution for satellite video: a joint framework based on
multi-scale spatial-temporal transformer", JAG 108 (2022) 102731, figure 1.

Conventions, here and in the whole project:
    B batch, N given frames (4 in training), T = 2N - 1 output frames, C channels,
    H, W low resolution, s = 4 scale in space.
    Frames are RGB in [0, 1]. Given frame i stands at time 2i of the output.
    Flow is (B, N - 1, 2, H, W) in LR pixels, (dx, dy), for backward warping: frame i at (x, y)
    looks like frame i + 1 at (x + dx, y + dy) with the forward flow, and the other way round
    with the backward flow.
"""

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.blocks import (
    SCALE,
    bicubic_flow_baseline,
    channels_last,
    frame_by_frame,
    residual_blocks,
)
from models.interpolation import FeatureInterpolation
from models.transformer import SpatialTemporalTransformer

SIZES = {
    "mstt": {"channels": 64, "groups": 8, "front_blocks": 5, "back_blocks": 20},  # 5.66 M, paper
    "small": {"channels": 32, "groups": 8, "front_blocks": 5, "back_blocks": 10},  # 1.26 M
}
SMALLEST_SIDE = 16  # LR pixels; below it the flow and the attention have nothing to work on
TILE = 80  # LR pixels; largest side that is enlarged at once without gradients on a CPU
HALO = 2  # LR pixels that the convolutions of the enlargement reach beyond a tile


class MSTT(nn.Module):
    """The four stages of figure 1: extract, interpolate, attend, reconstruct.

    Arguments:
        channels: C, feature channels.
        groups: deformable groups of the alignment.
        front_blocks: residual blocks of the feature extraction.
        back_blocks: residual blocks of the reconstruction.
        coupling: "released" or "symmetric", see `FeatureInterpolation`.
        midpoint_flow: warp features half-way along the flows instead of whole.
        global_skip: add the bicubic + flow baseline to the output. The last convolution then
            starts near zero, so that training starts from the baseline instead of from nothing.
    """

    def __init__(
        self,
        channels: int = 64,
        groups: int = 8,
        front_blocks: int = 5,
        back_blocks: int = 20,
        coupling: str = "released",
        midpoint_flow: bool = False,
        global_skip: bool = False,
    ):
        super().__init__()
        self.options = {
            "channels": channels,
            "groups": groups,
            "front_blocks": front_blocks,
            "back_blocks": back_blocks,
            "coupling": coupling,
            "midpoint_flow": midpoint_flow,
            "global_skip": global_skip,
        }
        self.global_skip = global_skip
        self.extraction = FeatureExtraction(channels, front_blocks)
        self.interpolation = FeatureInterpolation(channels, groups, coupling, midpoint_flow)
        self.transformer = SpatialTemporalTransformer(channels)
        self.reconstruction = Reconstruction(channels, back_blocks)
        if global_skip:
            nn.init.normal_(self.reconstruction.conv_last.weight, std=1e-3)
            nn.init.zeros_(self.reconstruction.conv_last.bias)

    def forward(self, frames: Tensor, forward_flow: Tensor, backward_flow: Tensor) -> Tensor:
        """Super-resolve a window of frames in space and time.

        Arguments:
            frames: (B, N, 3, H, W), RGB in [0, 1], N >= 2, H and W >= 16.
            forward_flow, backward_flow: (B, N - 1, 2, H, W), LR pixels.

        Returns: (B, 2N - 1, 3, 4H, 4W), about [0, 1], not clipped.

        Raises:
            ValueError: shapes that do not fit each other or are too small.
        """
        _check_shapes(frames, forward_flow, backward_flow)
        features = self.extraction(frames)  #                                  (B, N, C, H, W)
        features = self.interpolation(features, forward_flow, backward_flow)  # (B, T, C, H, W)
        features = features + self.transformer(features)  #                    (B, T, C, H, W)
        output = self.reconstruction(features)  #                              (B, T, 3, sH, sW)
        if self.global_skip:
            output = output + bicubic_flow_baseline(frames, forward_flow, backward_flow)
        return output


class FeatureExtraction(nn.Module):
    """A convolution and residual blocks, each frame on its own."""

    def __init__(self, channels: int, blocks: int):
        super().__init__()
        self.conv_first = nn.Conv2d(3, channels, 3, padding=1)
        self.blocks = residual_blocks(channels, blocks)

    def forward(self, frames: Tensor) -> Tensor:
        """frames: (B, N, 3, H, W) -> features (B, N, C, H, W)."""
        x = frame_by_frame(self._extract, channels_last(frames.flatten(0, 1)))
        return x.unflatten(0, frames.shape[:2])

    def _extract(self, x: Tensor) -> Tensor:
        return self.blocks(F.leaky_relu(self.conv_first(x), 0.1, inplace=True))


class Reconstruction(nn.Module):
    """Residual blocks, two pixel shuffles of 2, two convolutions, each frame on its own."""

    def __init__(self, channels: int, blocks: int):
        super().__init__()
        self.blocks = residual_blocks(channels, blocks)
        self.upconv1 = nn.Conv2d(channels, 4 * channels, 3, padding=1)
        self.upconv2 = nn.Conv2d(channels, 4 * channels, 3, padding=1)
        self.conv_hr = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv_last = nn.Conv2d(channels, 3, 3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        """features: (B, T, C, H, W) -> frames (B, T, 3, sH, sW)."""
        frames = frame_by_frame(self._reconstruct, channels_last(features.flatten(0, 1)))
        return frames.unflatten(0, features.shape[:2])

    def _reconstruct(self, x: Tensor) -> Tensor:
        x = self.blocks(x)
        if torch.is_grad_enabled() or x.device.type != "cpu" or max(x.shape[2:]) <= TILE:
            return self._enlarge(x)
        return self._enlarge_in_tiles(x)

    def _enlarge(self, x: Tensor) -> Tensor:
        for conv in (self.upconv1, self.upconv2):
            x = shuffled_convolution(x, conv)
        return self.conv_last(F.leaky_relu(self.conv_hr(x), 0.1, inplace=True))

    def _enlarge_in_tiles(self, x: Tensor) -> Tensor:
        """The same numbers. Whole frames at full resolution do not fit the caches, and the system
        clears fresh memory for every one of them, a third of the time."""
        height, width = x.shape[2:]
        output = None
        for top, bottom in _cuts(height):
            for left, right in _cuts(width):
                rows = slice(max(top - HALO, 0), min(bottom + HALO, height))
                columns = slice(max(left - HALO, 0), min(right + HALO, width))
                tile = self._enlarge(channels_last(x[:, :, rows, columns]))
                if output is None:
                    output = tile.new_empty(len(x), 3, SCALE * height, SCALE * width)
                target = output[..., _enlarged(top, bottom), _enlarged(left, right)]
                target.copy_(
                    tile[
                        ...,
                        _enlarged(top - rows.start, bottom - rows.start),
                        _enlarged(left - columns.start, right - columns.start),
                    ]
                )
        return output


def shuffled_convolution(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """leaky_relu(pixel_shuffle(conv(x), 2)).

    The output channels are put into the order in which pixels are shuffled, (2, 2, C) instead of
    (C, 2, 2): then the shuffle of a channels_last map moves runs of 2C numbers, not single ones.
    """
    count = conv.out_channels // 4
    weight = conv.weight.unflatten(0, (count, 4)).transpose(0, 1).flatten(0, 1)
    bias = conv.bias.view(count, 4).t().flatten()
    x = F.leaky_relu(F.conv2d(x, weight, bias, padding=1), 0.1, inplace=True)
    x = x.permute(0, 2, 3, 1).unflatten(3, (2, 2 * count))  # (B, H, W, 2, 2C)
    x = x.transpose(2, 3).unflatten(4, (2, count))  #         (B, H, 2, W, 2, C)
    return x.flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)  # (B, C, 2H, 2W), channels_last


def build_network(size: str = "mstt", **options) -> MSTT:
    """A network of a named size (see SIZES), with further options of `MSTT`.

    Raises:
        ValueError: a size that does not exist.
    """
    if size not in SIZES:
        raise ValueError(f"network size is {size!r}; choose one of {', '.join(SIZES)}")
    return MSTT(**(SIZES[size] | options))


def _cuts(length: int) -> list[tuple[int, int]]:
    """(start, stop) of equal parts of at most TILE."""
    parts = -(-length // TILE)
    edges = [length * part // parts for part in range(parts + 1)]
    return list(itertools.pairwise(edges))


def _enlarged(start: int, stop: int) -> slice:
    return slice(SCALE * start, SCALE * stop)


def _check_shapes(frames: Tensor, forward_flow: Tensor, backward_flow: Tensor) -> None:
    """Refuse what the stages would fail on further down, with the shapes seen."""
    if frames.ndim != 5 or frames.shape[1] < 2 or frames.shape[2] != 3:
        raise ValueError(
            f"frames are {tuple(frames.shape)}; give (B, N, 3, H, W) with N of at least 2"
        )
    batch, count, _, height, width = frames.shape
    if min(height, width) < SMALLEST_SIDE:
        raise ValueError(
            f"frames are {height}x{width}; each side needs at least {SMALLEST_SIDE} pixels"
        )
    expected = (batch, count - 1, 2, height, width)
    for name, flow in (("forward_flow", forward_flow), ("backward_flow", backward_flow)):
        if flow.shape != expected:
            raise ValueError(f"{name} is {tuple(flow.shape)}; these frames need {expected}")


__all__ = ["MSTT", "SCALE", "SIZES", "build_network"]
