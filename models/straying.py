"""A guard: where an enhanced frame leaves the range of the given one, it is made bicubic.

Trained on natural pictures alone, an extraction may answer strong noise, dither or single bright
pixels with values far beyond black and white. Not in the paper.
"""

import warnings

import torch
import torch.nn.functional as F
from torch import Tensor

from models.blocks import SCALE, bicubic

# How far beyond the brightest and the darkest given pixel nearby is let through, in units of white.
# The sharpest edges of satellite video take 0.35, single lights in the dark 0.4, and what has gone
# wrong up to 1000. A hot pixel that is taken away stays inside.
LIMIT = 0.6
NEARBY = 5  # LR pixels, side of the square
REACH = 8  # LR pixels around a stray pixel that count as stray as well


def without_strays(given: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
    """Enhanced frames, made bicubic around stray pixels, with a warning; elsewhere what they were.

    Arguments:
        given: (B, N, 3, 4H, 4W), enhanced.
        frames: (B, N, 3, H, W), before any frame fusion, which may stray too.

    Returns: the frames, and the weight of bicubic in every pixel, 0 to 1, (B, N, 1, 4H, 4W).
    """
    beyond = _beyond(given, frames)  #                                         (B, N, 4H, 4W)
    stray = (F.max_pool2d(beyond, SCALE) > LIMIT).to(beyond.dtype)  #          (B, N, H, W)
    near = F.max_pool2d(stray, 2 * REACH + 1, stride=1, padding=REACH)
    soft = F.avg_pool2d(near, REACH + 1, stride=1, padding=REACH // 2, count_include_pad=False)
    share = F.interpolate(soft, scale_factor=SCALE, mode="bilinear")[:, :, None]
    if not torch.compiler.is_compiling() and share.any():
        warnings.warn(
            "strong noise or single bright pixels that these weights cannot take: frames are "
            "bicubic there (main.py --degrade faults trains weights on such)",
            stacklevel=2,
        )
    return _mixed(given, bicubic(frames), share), share


def _beyond(given: Tensor, frames: Tensor) -> Tensor:
    """How far enhanced frames are outside of what the given ones hold nearby, (B, N, 4H, 4W)."""

    def highest(x: Tensor) -> Tensor:
        return F.interpolate(F.max_pool2d(x, NEARBY, 1, NEARBY // 2), scale_factor=SCALE)

    frames, pictures = frames.flatten(0, 1).to(given.dtype), given.flatten(0, 1)
    beyond = torch.maximum(pictures - highest(frames), -pictures - highest(-frames))
    return beyond.amax(dim=1).unflatten(0, given.shape[:2])


def blended(between: Tensor, given: Tensor, share: Tensor) -> Tensor:
    """Interpolated frames, made the mean of both neighbours where one of these was stray.

    between: (B, N - 1, 3, 4H, 4W); given, share: from `without_strays`.
    """
    both = torch.maximum(share[:, :-1], share[:, 1:])
    return _mixed(between, (given[:, :-1] + given[:, 1:]) / 2, both)


def _mixed(pictures: Tensor, others: Tensor, share: Tensor) -> Tensor:
    return torch.where(share > 0, (1 - share) * pictures + share * others, pictures)
