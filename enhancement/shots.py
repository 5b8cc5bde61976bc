"""Cuts between shots: where they are, and frames between that are no blend of both.

Two frames are of different shots where the similarity of their pictures, reduced to 32x32, is below
a threshold, the test that RIFE makes before it interpolates, or where the colours differ by more
than another, which flat pictures need. Each shot is enhanced by itself (docs/video.md).
"""

from collections.abc import Collection, Iterable, Iterator
from itertools import islice, pairwise
from pathlib import Path

import cv2
import numpy as np

from enhancement.levels import Levels, fill_missing, view_rgb
from media.frames import Sink, Source
from utils.metrics import ssim

SIDE = 32  # pixels of the pictures that are compared
# Neighbours in our satellite video have a similarity of 0.999; 99 % of the pairs of aerial stills
# are told apart by these two.
LEAST_SIMILAR = 0.3  # SSIM below which two frames are of different shots
MOST_DIFFERENT = 30.0  # mean difference of RGB above which they are, levels of 255

Cut = tuple[int, int]  # the frames before and after it, neighbours but for damaged ones


def find_cuts(source: Source, levels: Levels, damaged: Collection[int]) -> list[Cut]:
    """The cuts of a sequence of these levels, whose `damaged` frames cannot be read."""
    good = [index for index in range(source.count) if index not in damaged]
    cuts, last = [], None
    for before, index in zip([None, *good], good, strict=False):
        view = view_rgb(source, levels, fill_missing(source.read(index)))
        small = cv2.resize(view, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
        if before is not None and is_cut(last, small):
            cuts.append((before, index))
        last = small
    return cuts


def is_cut(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two pictures (SIDE, SIDE, 3) uint8 are of different shots."""
    if np.abs(a.astype(np.float32) - b).mean() > MOST_DIFFERENT:
        return True
    grey = [cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) for picture in (a, b)]
    return ssim(*grey) < LEAST_SIMILAR


def last_before(cut: Cut) -> int:
    """The last frame that is taken from the shot before a cut, the damaged ones shared out."""
    before, after = cut
    return before + (after - before) // 2


def shots(count: int, cuts: list[Cut]) -> list[range]:
    """The frames of every shot."""
    starts = [0, *(last_before(cut) + 1 for cut in cuts), count]
    return [range(*ends) for ends in pairwise(starts)]


class Shot(Source):
    """Some `frames` of a source; a single one stands there twice, for a network that wants two."""

    def __init__(self, source: Source, frames: range):
        self.adopt_from(source)
        self.source, self.frames = source, frames if len(frames) > 1 else [*frames, *frames]
        self.count, self.times = len(self.frames), None

    def read(self, index: int) -> np.ndarray:
        return self.source.read(self.frames[index])

    def name(self, index: int) -> str:
        return self.source.name(self.frames[index])


class ShotSink(Sink):
    """Where the frames of one shot go in the result, with those that are repeated on its cuts.

    Arguments:
        sink: of the whole result.
        frames: of the source, the shot's.
        count: frames of the source.
        times: frames of the result per frame of the source.
    """

    def __init__(self, sink: Sink, frames: range, count: int, times: int):
        self.sink, self.first = sink, times * frames.start
        self.count = times * (len(frames) - 1) + 1
        self.before = (times - 1) // 2 if frames.start else 0
        self.after = times // 2 if frames.stop < count else 0

    def holds(self, start: int, stop: int) -> bool:
        if start >= self.count:  # of a single frame, which stands there twice
            return True
        end = self.first + min(stop, self.count) + (self.after if stop >= self.count else 0)
        return self.sink.holds(self._position(start), end)

    def write(self, start: int, frames: Iterable[np.ndarray]) -> None:
        frames = islice(frames, self.count - start)
        self.sink.write(self._position(start), self._repeated(start, frames))

    def _position(self, start: int) -> int:
        """Where in the whole result a frame of the shot, with its repetitions before, begins."""
        return self.first + start - (0 if start else self.before)

    def _repeated(self, start: int, frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        for index, pixels in enumerate(frames, start):
            copies = 1 + (self.before if index == 0 else 0)
            copies += self.after if index == self.count - 1 else 0
            for _ in range(copies):
                yield pixels

    def join(self, target: Path) -> None:
        self.sink.join(target)
