"""Sources that repair or thin out others: damaged frames bridged, denser times, LR files kept."""

import itertools
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np

from enhancement.levels import Levels, exact_type, fill_missing, view_rgb
from enhancement.shots import Cut, last_before
from flow import estimate_flow
from media.folder import ImageSink
from media.frames import Source
from models.baselines import sample
from models.blocks import SCALE
from utils.resize import imresize

REDUCED_ROWS = 64  # of the result, that a frame is reduced to at once


class Bridged(Source):
    """A source whose damaged frames are made from their neighbours.

    The nearest frames that can be read are warped along the flow between them to the time of the
    damaged one and blended; at either end of the sequence, and on a cut, the nearest frame is
    repeated.

    Arguments:
        source, levels: of the sequence.
        damaged: indices of the frames that cannot be read.
        flow_method: see `flow.estimate_flow`.
        cuts: between shots.
    """

    def __init__(
        self,
        source: Source,
        levels: Levels,
        damaged: set[int],
        flow_method: str,
        cuts: Sequence[Cut] = (),
    ):
        self.cuts = cuts
        self.adopt_from(source)
        self.source, self.levels, self.damaged = source, levels, damaged
        self.flow_method = flow_method

    def name(self, index: int) -> str:
        return self.source.name(index)

    def read(self, index: int) -> np.ndarray:
        if index not in self.damaged:
            return self.source.read(index)
        good = [other for other in range(self.count) if other not in self.damaged]
        before = max((other for other in good if other < index), default=None)
        after = min((other for other in good if other > index), default=None)
        if before is None or after is None:
            return self.source.read(after if before is None else before)
        if (before, after) in self.cuts:
            return self.source.read(before if index <= last_before((before, after)) else after)
        pair = [self.source.read(other) for other in (before, after)]
        times = self.times or range(self.count)
        share = float((times[index] - times[before]) / (times[after] - times[before]))
        filled = [fill_missing(pixels) for pixels in pair]
        views = np.stack([view_rgb(self.source, self.levels, pixels) for pixels in filled])
        forward, backward = estimate_flow(views, method=self.flow_method)
        before, after = (pixels.astype(exact_type(self.dtype)) for pixels in filled)
        blended = (1 - share) * sample(before, share * backward[0], cv2.INTER_LINEAR)
        blended += share * sample(after, (1 - share) * forward[0], cv2.INTER_LINEAR)
        if np.issubdtype(self.dtype, np.integer):
            limits = np.iinfo(self.dtype)
            blended = np.clip(np.rint(blended), limits.min, limits.max)
        blended = blended.astype(self.dtype)
        return _masked_like(blended, pair)


def _masked_like(pixels: np.ndarray, neighbours: Sequence[np.ndarray]) -> np.ndarray:
    """Pixels, masked where a neighbour is."""
    mask = np.ma.mask_or(*map(np.ma.getmask, neighbours), shrink=False)
    return pixels if mask is np.ma.nomask else np.ma.array(pixels, mask=mask)


class LowResolutionSink(ImageSink):
    """Keeps the frames between the given ones, reduced to LR, for another pass in time.

    They stay unrounded, as NumPy files named by their number in the output.
    """

    def __init__(self, folder: Path):
        super().__init__(folder, ".npy")

    def holds(self, start: int, stop: int) -> bool:
        return all(self.path(between).exists() for between in range(start | 1, stop, 2))

    def write(self, start, frames) -> None:
        for index, pixels in enumerate(frames, start):
            if index % 2:
                super().write(index, [pixels])

    def write_frame(self, path: Path, index: int, pixels: np.ndarray) -> None:
        np.save(path, reduce_frame(np.ma.getdata(pixels)))


def reduce_frame(pixels: np.ndarray) -> np.ndarray:
    """`imresize` by 1/4 of (H, W, bands), H a multiple of SCALE, unrounded.

    In parts: the frame may fill most of the memory.
    """
    height = len(pixels) // SCALE
    reduced = []
    for top in range(0, height, REDUCED_ROWS):
        bottom = min(top + REDUCED_ROWS, height)
        # The kernel reaches less than two rows of the result, 8 of the frame, beyond its own.
        first, last = max(top - 2, 0), min(bottom + 2, height)
        part = pixels[SCALE * first : SCALE * last].astype(exact_type(pixels.dtype))
        reduced.append(imresize(part, 1 / SCALE)[top - first : bottom - first])
    return np.concatenate(reduced)


class Denser(Source):
    """A source with the LR frames of an earlier pass, which `folder` holds, in between."""

    def __init__(self, source: Source, folder: Path):
        self.adopt_from(source)
        self.source, self.sink = source, LowResolutionSink(folder)
        self.count, self.times = 2 * source.count - 1, None

    def name(self, index: int) -> str:
        return f"{self.source.name(index // 2)}{' and a half' if index % 2 else ''}"

    def read(self, index: int) -> np.ndarray:
        if index % 2 == 0:
            return self.source.read(index // 2)
        between = np.load(self.sink.path(index))
        neighbours = (self.source.read(index // 2), self.source.read(index // 2 + 1))
        return _masked_like(between, neighbours)


def denser_times(times: list[Fraction], step: int) -> list[Fraction]:
    """The given times, and `step` - 1 others between each two of them."""
    gaps = [after - before for before, after in itertools.pairwise(times)]
    starts = zip(times, gaps, strict=False)
    return [a + gap * part / step for a, gap in starts for part in range(step)] + times[-1:]
