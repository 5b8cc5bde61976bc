"""From frames in a file to what the network takes, and back.

A survey reads every frame once, before the long work starts: damaged frames are named at once,
and the values of the whole sequence decide what becomes black and white, so that neither the
enhancement nor the flow flickers. Next to the network that costs nothing.
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from data.resize import imresize
from flow import estimate_flow
from models.blocks import SCALE
from utils.frames import FrameError, ImageSink, Source

# Integer values of unknown depth are taken as one of these; 12 bits are often kept in 16.
DEPTHS = (8, 10, 11, 12, 14, 16, 32)
# Percentiles that the 8-bit view of deeper frames stretches between.
VIEW_PERCENTILES = (0.5, 99.5)
REDUCED_ROWS = 64  # of the result, that a frame is reduced to at once
SAMPLES = 100_000  # values per frame that the percentiles are taken of


@dataclass(frozen=True)
class Levels:
    """Which values are black and white for the network, and for the 8-bit view of the flow.

    Values beyond are not clipped for the network, only for the view.
    """

    black: float
    white: float
    view_black: float
    view_white: float

    def to_unit(self, pixels: np.ndarray) -> np.ndarray:
        """File values -> float32, black 0 and white 1."""
        unit = pixels.astype(np.float32)
        unit -= np.float32(self.black)
        unit /= np.float32(self.white - self.black)
        return unit

    def from_unit(self, pixels: np.ndarray, dtype: np.dtype) -> np.ndarray:
        """The inverse of `to_unit`, rounded and clipped to the range of an integer type."""
        values = pixels * np.float32(self.white - self.black) + np.float32(self.black)
        if np.issubdtype(dtype, np.floating):
            return values.astype(dtype)
        limits = np.iinfo(dtype)
        # In float32 the largest 32-bit integers round up, out of the range of the type.
        values = np.rint(values, dtype=np.float64 if limits.bits > 16 else np.float32)
        return np.clip(values, limits.min, limits.max).astype(dtype)

    def view(self, pixels: np.ndarray) -> np.ndarray:
        """File values -> uint8, the contrast that flow and human eyes need."""
        if pixels.dtype == np.uint8:
            return pixels
        scale = 255 / max(self.view_white - self.view_black, 1e-12)
        stretched = (pixels.astype(np.float32) - self.view_black) * scale
        return np.clip(np.rint(stretched), 0, 255).astype(np.uint8)


def full_scale(dtype: np.dtype) -> Levels:
    """Levels of an integer type whose largest value is white."""
    white = float(np.iinfo(dtype).max)
    return Levels(0.0, white, 0.0, white)


def survey(source: Source, white: float | None = None) -> tuple[Levels, dict[int, str]]:
    """Read all frames once.

    Arguments:
        source: of the frames.
        white: the value that is white; None: 255 in 8 bits, full scale in video, otherwise the
            largest value of the fewest bits that hold all values of the sequence (4095 for 12-bit
            data in 16 bits); for floating values 1, or their largest value if that is more.

    Returns: the levels, and the damaged frames with what is wrong with them.

    Raises:
        ValueError: fewer than two frames, or fewer than two that can be read; or values that
            have no black and white.
    """
    if source.count < 2:
        raise ValueError(
            f"{source.path} holds {source.count} frame{'s' * (source.count != 1)}; "
            "frames between frames need at least two"
        )
    damaged, lowest, highest, views = {}, [], [], []
    for index in tqdm(range(source.count), desc="reading", unit="frame", leave=False):
        try:
            pixels = source.read(index)
        except FrameError as error:
            damaged[index] = str(error)
            continue
        values = np.ma.compressed(pixels)
        if values.size:
            lowest.append(values.min())
            highest.append(values.max())
            if pixels.dtype != np.uint8:
                some = values[:: max(values.size // SAMPLES, 1)]
                views.append(np.percentile(some, VIEW_PERCENTILES))
    if source.count - len(damaged) < 2:
        raise ValueError(f"{source.path} has fewer than two frames that can be read")
    if not highest:
        raise ValueError(f"{source.path} has no pixel with data")
    low, high = float(min(lowest)), float(max(highest))
    if np.issubdtype(source.dtype, np.integer) and high > 2 ** DEPTHS[-1] - 1:
        raise ValueError(
            f"{source.path} has values up to {high:.0f}; the largest possible is 2^{DEPTHS[-1]} - 1"
        )
    black = min(low, 0.0)
    if white is None:
        white = _white_of(source, high)
    if not black < white < math.inf:
        raise ValueError(
            f"white is {white:g}; it has to be a number above the darkest value, {black:g}"
        )
    if not views or source.full_scale:
        return Levels(black, white, 0.0, white), damaged
    view_low, view_high = np.array(views)[:, 0].min(), np.array(views)[:, 1].max()
    return Levels(black, white, float(view_low), float(view_high)), damaged


def _white_of(source: Source, highest: float) -> float:
    if np.issubdtype(source.dtype, np.floating):
        return max(highest, 1.0)
    if source.full_scale:
        return float(np.iinfo(source.dtype).max)
    return float(next(2**depth - 1 for depth in DEPTHS if highest <= 2**depth - 1))


def band_groups(bands: int, colour: tuple[int, int, int] | None) -> list[tuple[int, int, int]]:
    """What goes through the network together: red, green and blue; every other band as grey."""
    groups = [colour] if colour else []
    return groups + [(band,) * 3 for band in range(bands) if not colour or band not in colour]


def fill_missing(pixels: np.ndarray) -> np.ndarray:
    """Give masked pixels the value of the nearest pixel with data, so that none bleeds into it."""
    mask = np.ma.getmask(pixels)
    if mask is np.ma.nomask or not mask.any():
        return np.ma.getdata(pixels)
    filled = np.ma.getdata(pixels).copy()
    for band in range(pixels.shape[2]):
        missing = mask[..., band]
        if missing.all():
            filled[..., band] = 0
        elif missing.any():
            # The label of a pixel is that of the nearest zero; pixels with data are the zeros.
            _, labels = cv2.distanceTransformWithLabels(
                missing.astype(np.uint8),
                cv2.DIST_L2,
                cv2.DIST_MASK_5,
                labelType=cv2.DIST_LABEL_PIXEL,
            )
            values = np.zeros(labels.max() + 1, filled.dtype)
            values[labels[~missing]] = filled[..., band][~missing]
            filled[..., band] = values[labels]
    return filled


def missing_pixels(pixels: np.ndarray) -> np.ndarray | None:
    """The mask (H, W, bands) of a frame, or None if it has none."""
    mask = np.ma.getmask(pixels)
    return None if mask is np.ma.nomask else mask


def view_rgb(source: Source, levels: Levels, pixels: np.ndarray) -> np.ndarray:
    """A frame as flow and human eyes see it, (H, W, 3) uint8: its colours, or the mean of bands."""
    if source.colour:
        pixels = pixels[..., list(source.colour)]
    elif source.bands > 1:
        pixels = pixels.mean(axis=2, keepdims=True, dtype=np.float32)
    if source.dtype == np.uint8 and pixels.dtype != np.uint8:
        # a mean of bands, or a frame of an earlier pass
        pixels = np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
    view = levels.view(pixels)
    return view if source.colour else np.repeat(view, 3, axis=2)


class Bridged(Source):
    """A source whose damaged frames are made from their neighbours.

    The nearest frames that can be read are warped along the flow between them to the time of the
    damaged one and blended; at either end of the sequence the nearest frame is repeated.

    Arguments:
        source: with damaged frames.
        levels: of the sequence.
        damaged: their indices.
        flow_method: see `flow.estimate_flow`.
    """

    def __init__(self, source: Source, levels: Levels, damaged: set[int], flow_method: str):
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
        pair = [self.source.read(other) for other in (before, after)]
        times = self.times or range(self.count)
        share = float((times[index] - times[before]) / (times[after] - times[before]))
        filled = [fill_missing(pixels) for pixels in pair]
        views = np.stack([view_rgb(self.source, self.levels, pixels) for pixels in filled])
        forward, backward = estimate_flow(views, method=self.flow_method)
        blended = (1 - share) * _warp(filled[0], share * backward[0])
        blended += share * _warp(filled[1], (1 - share) * forward[0])
        if np.issubdtype(self.dtype, np.integer):
            blended = np.rint(blended)
        blended = blended.astype(self.dtype)
        masks = [mask for mask in map(missing_pixels, pair) if mask is not None]
        return np.ma.array(blended, mask=np.any(masks, axis=0)) if masks else blended


def _warp(pixels: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """Backward warping of (H, W, bands) along (2, H, W), float32; the border is repeated."""
    height, width = pixels.shape[:2]
    x = np.arange(width, dtype=np.float32) + flow[0]
    y = np.arange(height, dtype=np.float32)[:, None] + flow[1]
    bands = [
        cv2.remap(
            np.ascontiguousarray(pixels[..., band], np.float32),
            x.astype(np.float32),
            y.astype(np.float32),
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REPLICATE,
        )
        for band in range(pixels.shape[2])
    ]
    return np.stack(bands, axis=2)


class LowResolutionSink(ImageSink):
    """Keeps the frames between the given ones, reduced to LR, for another pass in time.

    They stay unrounded, as NumPy files named by their number in the output.
    """

    def __init__(self, folder: Path):
        super().__init__(folder, ".npy")

    def finished(self) -> int:
        between = 1
        while self.path(between).exists():
            between += 2
        return between - 1

    def write(self, start, frames) -> None:
        for index, pixels in enumerate(frames, start):
            if index % 2:
                super().write(index, [pixels])

    def write_frame(self, path: Path, index: int, pixels: np.ndarray) -> None:
        np.save(path, reduce_frame(np.ma.getdata(pixels)))


def reduce_frame(pixels: np.ndarray) -> np.ndarray:
    """`imresize` by 1/4 in float32, in parts: (H, W, bands) may fill most of the memory.

    H is a multiple of SCALE.
    """
    height = len(pixels) // SCALE
    reduced = []
    for top in range(0, height, REDUCED_ROWS):
        bottom = min(top + REDUCED_ROWS, height)
        # The kernel reaches less than two rows of the result, 8 of the frame, beyond its own.
        first, last = max(top - 2, 0), min(bottom + 2, height)
        part = imresize(pixels[SCALE * first : SCALE * last].astype(np.float32), 1 / SCALE)
        reduced.append(part[top - first : bottom - first])
    return np.concatenate(reduced)


class Denser(Source):
    """A source with the LR frames of an earlier pass between its own.

    Arguments:
        source: N frames.
        folder: of the LowResolutionSink that holds the N - 1 frames between them.
    """

    def __init__(self, source: Source, folder: Path):
        self.adopt_from(source)
        self.source, self.sink = source, LowResolutionSink(folder)
        self.count = 2 * source.count - 1
        if source.times:
            self.times = list(denser_times(source.times))

    def name(self, index: int) -> str:
        return f"{self.source.name(index // 2)}{' and a half' if index % 2 else ''}"

    def read(self, index: int) -> np.ndarray:
        if index % 2 == 0:
            return self.source.read(index // 2)
        between = np.load(self.sink.path(index))
        neighbours = (self.source.read(index // 2), self.source.read(index // 2 + 1))
        masks = [mask for mask in map(missing_pixels, neighbours) if mask is not None]
        return np.ma.array(between, mask=np.any(masks, axis=0)) if masks else between


def denser_times(times: list[Fraction]) -> Iterator[Fraction]:
    """The given times, and midway between each two of them the time of a new frame."""
    for before, after in itertools.pairwise(times):
        yield before
        yield (before + after) / 2
    yield times[-1]
