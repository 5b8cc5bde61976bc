"""Frames too large for the memory: tiles that overlap, feathered where they meet.

The tiles of a frame lie in rows. Neighbouring tiles overlap; in the overlap the weight of one
falls linearly while that of the other rises, and the weights of all tiles at a pixel sum to one,
so a seam has nowhere to show. A margin next to a cut gets no weight at all: there the
convolutions see the padding instead of the picture. Finished rows leave from the top, so that
only one row of tiles is ever held, in the memory of the host; the network may be on a GPU.

Lengths are in LR pixels unless they are called HR.
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from models.blocks import SCALE
from models.inference import WINDOW
from utils.machine import usable_memory

PATCH = 80  # LR pixels of the largest attention patch: tiles of its multiples keep patches whole
MARGIN = 8  # LR pixels next to a cut that get no weight
# LR pixels. The cost of attention between all patches grows with the square of the area, so
# larger frames are cut even where memory would hold them whole.
LARGEST_WHOLE = 640
LARGEST_TILE = 400

# Bytes that the network needs for four given frames of a window per LR pixel of a tile: for each of
# its channels, for each of those of a propagation, and besides; as benchmarks/enhance.py measures.
BYTES_PER_CHANNEL = 150
BYTES_OF_PROPAGATION = 60
BYTES_BESIDES = 8500
# Share of the free memory that is planned with: the rest is for decoding, flow and others.
USABLE = 0.6


def tile_starts(length: int, tile: int, overlap: int) -> list[int]:
    """Where tiles start along an axis: evenly, the last one moved back to end with the axis.

    Arguments:
        length: of the axis.
        tile: length of a tile; one tile holds the axis if it is no longer.
        overlap: of neighbouring tiles, at least.
    """
    if length <= tile:
        return [0]
    stride = tile - overlap
    return [*range(0, length - tile, stride), length - tile]


def tile_length(length: int, tile: int, overlap: int) -> int:
    """The length of tiles that covers an axis with the least overlap, a multiple of PATCH.

    Arguments:
        length: of the axis; a tile holds it whole if it may be as long.
        tile: the longest it may be.
        overlap: of neighbouring tiles, at least.
    """
    if length <= tile:
        return length
    shortest = min(tile, max(PATCH, -(-2 * overlap // PATCH) * PATCH))
    lengths = range(tile // PATCH * PATCH, shortest - 1, -PATCH) or (tile,)
    return min(lengths, key=lambda side: side * len(tile_starts(length, side, overlap)))


def tile_count(height: int, width: int, tile: int, overlap: int, rows: int | None = None) -> int:
    """How many tiles `blend_tiles` asks for, in all or in its first `rows` rows of tiles."""
    axes = [(length, tile_length(length, tile, overlap)) for length in (height, width)]
    down, across = (len(tile_starts(*axis, overlap)) for axis in axes)
    return (down if rows is None else rows) * across


def feather_weights(length: int, tile: int, overlap: int) -> list[np.ndarray]:
    """The weights of every tile along an axis, (SCALE * tile,) float32, at HR pixels.

    At every pixel of the axis those of all tiles that cover it sum to one.
    """
    starts = tile_starts(length, tile, overlap)
    size = min(tile, length)
    position = (np.arange(SCALE * size) + 0.5) / SCALE
    ramp = overlap - 2 * MARGIN
    weights, total = [], np.zeros(SCALE * length)
    for start in starts:
        weight = np.ones(SCALE * size)
        if start > 0:
            weight = np.clip((position - MARGIN) / ramp, 0, 1)
        if start + size < length:
            weight = weight * np.clip((size - MARGIN - position) / ramp, 0, 1)
        weights.append(weight)
        total[SCALE * start : SCALE * (start + size)] += weight
    return [
        (weight / total[SCALE * start : SCALE * (start + size)]).astype(np.float32)
        for start, weight in zip(starts, weights, strict=True)
    ]


@dataclass
class Carried:
    """How far blending has come, and what it takes to go on from there."""

    finished: int = 0  # rows of tiles
    rows: np.ndarray | None = None  # what the next row of tiles adds to


def blend_tiles(
    predict: Callable[[slice, slice], np.ndarray],
    height: int,
    width: int,
    tile: int,
    overlap: int,
    carried: Carried | None = None,
) -> Iterator[np.ndarray]:
    """Run a network tile by tile and blend the results.

    Arguments:
        predict: from rows and columns of the LR frames to the result there,
            (T, SCALE * rows, SCALE * columns, bands) float32.
        height, width: of the LR frames.
        tile: longest side of a tile; shorter ones are taken where fewer pixels overlap then.
        overlap: of neighbouring tiles; see `check_tile`.
        carried: where to go on; before a row of tiles leaves, what it takes to go on behind it.

    Yields: the rows of the result from the top down, (T, some rows, SCALE * width, bands) float32,
        each row once. They are as large as all else together: who keeps the last ones while asking
        for the next needs twice the memory.
    """
    axes = [(length, tile_length(length, tile, overlap)) for length in (height, width)]
    tops, lefts = (tile_starts(*axis, overlap) for axis in axes)
    row_weights, column_weights = (feather_weights(*axis, overlap) for axis in axes)
    rows, columns = (min(axis) for axis in axes)
    carried = carried or Carried()
    gaps = zip(itertools.pairwise([*tops, height]), row_weights, strict=True)
    for (top, below), row_weight in itertools.islice(gaps, carried.finished, None):
        strip = None
        for left, column_weight in zip(lefts, column_weights, strict=True):
            part = predict(slice(top, top + rows), slice(left, left + columns))
            if len(tops) == len(lefts) == 1:
                yield part
                return
            if strip is None:
                frames, bands = part.shape[0], part.shape[3]
                strip = np.zeros((frames, SCALE * rows, SCALE * width, bands), np.float32)
                if carried.rows is not None:
                    strip[:, : carried.rows.shape[1]] = carried.rows
                    carried.rows = None
            part *= row_weight[:, None, None] * column_weight[:, None]
            strip[:, :, SCALE * left : SCALE * (left + columns)] += part
            del part  # before the network makes the next one
        finished = SCALE * (below - top)
        carried.finished, carried.rows = carried.finished + 1, strip[:, finished:].copy()
        yield strip[:, :finished]


def check_tile(tile: int, overlap: int) -> None:
    """Raises ValueError for tiles that cannot be blended."""
    if overlap < 2 * MARGIN + 1:
        raise ValueError(f"overlap is {overlap}; it needs more than {2 * MARGIN} LR pixels")
    if tile < 2 * overlap:
        raise ValueError(f"tile is {tile}; it needs at least twice the overlap, {2 * overlap}")


def network_bytes(tile: int, options: dict[str, Any], frames: int = WINDOW) -> int:
    """Bytes that a network of such options needs for a window on one tile, on its device."""
    per_channel = BYTES_PER_CHANNEL
    if options.get("propagation_blocks"):
        per_channel += BYTES_OF_PROPAGATION
    per_frame = (per_channel * options["channels"] + BYTES_BESIDES) / WINDOW
    return int(frames * tile * tile * per_frame)


def blending_bytes(
    height: int, width: int, tile: int, overlap: int, bands: int = 3, frames: int = WINDOW
) -> int:
    """Bytes on the host that `blend_tiles` needs: a row of tiles, and what is carried to the next.

    Arguments: see `blend_tiles`; bands: of the frames; frames: given ones of a window.
    """
    rows, columns = (tile_length(length, tile, overlap) for length in (height, width))
    tops = tile_starts(height, rows, overlap)
    gaps = [below - top for top, below in itertools.pairwise(tops)]
    carried = rows - min(gaps, default=rows)
    # A result of the network exists twice: as it comes, and with its bands put in order.
    pixels = (rows + carried) * width + 2 * rows * columns
    return 4 * (2 * frames - 1) * bands * SCALE**2 * pixels


def choose_tile(
    height: int,
    width: int,
    options: dict[str, Any],
    bands: int,
    overlap: int,
    host: int,
    gpu: int | None = None,
    frames: int = WINDOW,
) -> int:
    """The whole frame if the free memory allows it, else the largest tile that it allows.

    Arguments:
        height, width, bands: of the frames.
        options: of the network.
        overlap: of neighbouring tiles.
        host, gpu: free bytes, see `available_memory`; gpu: None where the network is on the host.
        frames: given ones of a window.

    Returns: the side of a tile, a multiple of PATCH; however little memory there is, the least that
        has room for the overlap.
    """

    def fits(side: int) -> bool:
        network = network_bytes(side, options, frames)
        blending = blending_bytes(height, width, side, overlap, bands, frames)
        if gpu is None:
            return network + blending <= USABLE * host
        return network <= USABLE * gpu and blending <= USABLE * host

    whole = -(-max(height, width) // PATCH) * PATCH
    sides = [whole] if whole <= LARGEST_WHOLE else []
    least = -(-2 * overlap // PATCH) * PATCH
    sides += range(min(LARGEST_TILE, whole), least, -PATCH)
    return next(filter(fits, sides), least)


def smaller_tile(tile: int, height: int, width: int, overlap: int) -> int | None:
    """The next tile to try when memory ran out, or None if there is none."""
    tile = min(tile, -(-max(height, width) // PATCH) * PATCH)
    smaller = max(tile * 2 // 3 // PATCH, 1) * PATCH
    return smaller if 2 * overlap <= smaller < tile else None


def available_memory(device: torch.device) -> int:
    """Free bytes of a GPU, or of the host as far as this process may use them."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return usable_memory()
