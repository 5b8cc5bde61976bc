"""The enlargement of the released network in the form that is fastest on a CPU: in tiles.

Whole frames at full resolution do not fit the caches, and the system clears fresh memory for every
one of them, a third of the time.
"""

import itertools
from collections.abc import Callable

import torch
from torch import Tensor

from utils.resize import SCALE, equal_parts

TILE = 80  # LR pixels; largest side that is enlarged at once without gradients on a CPU
REACH = 2  # LR pixels around a tile that its convolutions see: 1 + 1/2 + 1/4 + 1/4


def in_tiles(enlarge: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """enlarge(x), (B, C, H, W) -> (B, 3, sH, sW); without gradients on a CPU in tiles."""
    if torch.is_grad_enabled() or x.device.type != "cpu":
        return enlarge(x)
    height, width = x.shape[2:]
    output = None
    parts = itertools.product(equal_parts(height, TILE), equal_parts(width, TILE))
    for (top, bottom), (left, right) in parts:
        first_row, first_column = max(top - REACH, 0), max(left - REACH, 0)
        tile = x[:, :, first_row : bottom + REACH, first_column : right + REACH]
        tile = enlarge(tile.contiguous(memory_format=torch.channels_last))
        if output is None:
            output = tile.new_empty(len(x), 3, SCALE * height, SCALE * width)
        target = output[:, :, SCALE * top : SCALE * bottom, SCALE * left : SCALE * right]
        tile = tile[:, :, SCALE * (top - first_row) :, SCALE * (left - first_column) :]
        target.copy_(tile[:, :, : target.shape[2], : target.shape[3]])
    return output
