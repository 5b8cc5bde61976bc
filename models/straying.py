"""What is done where a network leaves the frames that it was given.

Trained on natural pictures, an extraction may answer strong noise, dither or single bright pixels
with values far beyond black and white. Nothing here is of the paper.
"""

import warnings

import torch
import torch.nn.functional as F
from torch import Tensor

from models.blocks import SCALE, bicubic

# Of white, between an enhanced frame and its bicubic enlargement. On satellite video it is at most
# 0.3, on single lights of three pixels in the dark 0.75, on noise of 20 levels and more up to 1000.
LIMIT = 0.8
REACH = 8  # LR pixels around a stray one that are taken for stray, too


def without_strays(given: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
    """Enhanced frames, bicubic where they are stray; elsewhere exactly what they were.

    A warning says that there were some.

    Arguments:
        given: (B, N, 3, 4H, 4W), enhanced.
        frames: (B, N, 3, H, W), as given: a frame fusion explodes, too.

    Returns: the frames, and the share of bicubic ones in every pixel, (B, N, 1, 4H, 4W).
    """
    enlarged = bicubic(frames)
    far = (given - enlarged).abs().amax(dim=2)  #                              (B, N, 4H, 4W)
    stray = (F.max_pool2d(far, SCALE) > LIMIT).to(far.dtype)  #                (B, N, H, W)
    near = F.max_pool2d(stray, 2 * REACH + 1, stride=1, padding=REACH)
    soft = F.avg_pool2d(near, REACH + 1, stride=1, padding=REACH // 2, count_include_pad=False)
    share = F.interpolate(soft, scale_factor=SCALE, mode="bilinear")[:, :, None]
    if not torch.compiler.is_compiling() and share.any():
        warnings.warn(
            "strong noise or single bright pixels that these weights cannot take: frames are "
            "bicubic there (mstt_large, mstt_large_real and mstt_small take more)",
            stacklevel=2,
        )
    return _mixed(given, enlarged, share), share


def blended(between: Tensor, given: Tensor, share: Tensor) -> Tensor:
    """Frames between given ones, the mean of both neighbours where one of these was stray.

    Arguments:
        between: (B, N - 1, 3, 4H, 4W).
        given, share: from `without_strays`.
    """
    if given.shape[1] == 1:
        return between
    both = torch.maximum(share[:, :-1], share[:, 1:])
    return _mixed(between, (given[:, :-1] + given[:, 1:]) / 2, both)


def _mixed(pictures: Tensor, others: Tensor, share: Tensor) -> Tensor:
    return torch.where(share > 0, (1 - share) * pictures + share * others, pictures)
