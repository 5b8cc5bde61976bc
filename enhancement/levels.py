"""A video's levels as the network sees them: black and white, gaps filled, three bands.

A survey reads every frame, before the long work starts: damaged frames are named at once,
and the values of the whole sequence decide what becomes black and white, so that neither the
enhancement nor the flow flickers. Next to the network that costs nothing.

docs/files.md says which values become black and white. Those beyond are enlarged beside the
network, which never sees a value outside of black and white.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import cv2
import numpy as np

from media.frames import FrameError, Source
from utils.streams import progress_bar

SAMPLES = 100_000  # values per frame that the percentiles are taken of
# Percentiles of almost all values, and those that the 8-bit view of the flow stretches between.
PERCENTILES = (0.1, 99.9, 0.5, 99.5)
# Levels reach beyond almost all values by as many times their range at most. Networks lose little
# when their input fills a tenth of black to white, and much when it fills a hundredth.
REACH = 10
# And beyond all values that a pixel shares with a neighbour, by as many times their range: a hot
# pixel then costs all others 0.1 dB, not 0.5, and a roof or a glint nothing of its sharpness.
LONE_REACH = 1
AROUND = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 1]], np.uint8)
ROWS = 1024  # of a frame whose pixels are compared with their neighbours at once
# Pictures of more than 8 bits are taken as one of these in a video; 12 bits are often kept in 16.
DEPTHS = (8, 10, 11, 12, 14, 16, 32, 64)
LARGEST = 2**53  # integers beyond are not exact in the arithmetic of levels
SAID = 4  # levels of so many groups of bands are told


@dataclass(frozen=True)
class Levels:
    """Which values are black and white for the network, the flow and a video.

    All but the last are float64 arrays with a number per band, or one for all bands. White lies
    below black where zero is white.
    """

    black: np.ndarray  # 0 and 1 for the network
    white: np.ndarray
    view_black: np.ndarray  # 0 and 255 in the 8-bit view of the flow
    view_white: np.ndarray
    shown_black: np.ndarray  # the ends of a video that is made of these frames
    shown_white: np.ndarray
    lowest: np.ndarray  # no result lies beyond
    highest: np.ndarray
    told: str = ""  # the levels in a line, where the values decided

    def to_unit(self, pixels: np.ndarray) -> np.ndarray:
        """File values (..., bands) -> float32, black 0 and white 1."""
        kind = exact_type(pixels.dtype)
        unit = pixels.astype(kind)
        unit -= self.black.astype(kind)
        unit /= (self.white - self.black).astype(kind)
        return unit.astype(np.float32, copy=False)

    def from_unit(self, pixels: np.ndarray, dtype: np.dtype) -> np.ndarray:
        """The inverse of `to_unit`, clipped to `lowest` and `highest`, integers rounded."""
        kind = exact_type(dtype)
        values = pixels * (self.white - self.black).astype(kind) + self.black.astype(kind)
        if np.issubdtype(dtype, np.integer):
            np.rint(values, out=values)
        np.clip(values, self.lowest.astype(kind), self.highest.astype(kind), out=values)
        return values.astype(dtype, copy=False)

    def view(self, pixels: np.ndarray) -> np.ndarray:
        """File values -> uint8, the contrast that flow and human eyes need."""
        kind, span = exact_type(pixels.dtype), self.view_white - self.view_black
        if pixels.dtype == np.uint8 and (span == 255).all() and not self.view_black.any():
            return pixels
        scale = (255 / np.where(span == 0, 1, span)).astype(kind)
        stretched = (pixels.astype(kind) - self.view_black.astype(kind)) * scale
        return np.clip(np.rint(stretched), 0, 255).astype(np.uint8)

    def stretched(self, dtype: np.dtype) -> "Levels":
        """The levels of these frames in a video: what is shown black and white at its ends."""
        full = full_scale(dtype)
        scale = full.white / (self.shown_white - self.shown_black)
        names = ("black", "white", "view_black", "view_white")
        moved = {name: (getattr(self, name) - self.shown_black) * scale for name in names}
        return replace(full, **moved)


def exact_type(dtype: np.dtype) -> type:
    """The shortest floating type that holds all values of a type that levels are for."""
    return np.float32 if np.can_cast(dtype, np.float32) else np.float64


def full_scale(dtype: np.dtype) -> Levels:
    """Levels of an integer type whose largest value is white."""
    ends = np.zeros(1), np.full(1, float(np.iinfo(dtype).max))
    return Levels(*ends, *ends, *ends, *ends)


def survey(
    source: Source,
    black: float | None = None,
    white: float | None = None,
    look: Callable[[np.ndarray], None] = lambda pixels: None,
    bar: bool = True,
) -> tuple[Levels, dict[int, str]]:
    """Read all frames.

    Arguments:
        source: of the frames.
        black, white: values that become them; None: see docs/files.md, but black is 0 (or the
            lowest value below) where only white is given.
        look: is called with every frame that can be read, as `Source.read` gives it.
        bar: whether a progress bar is shown.

    Returns: the levels, and the damaged frames with what is wrong with them.
    Raises: ValueError: fewer than two frames that can be read, or values without black and white.
    """
    if source.count < 2:
        raise ValueError(
            f"{source.path}: {source.count} frame{'s' * (source.count != 1)} to enhance (--start "
            "and --frames count); interpolation needs at least two frames"
        )
    # Bands that share their levels: the colours; every other band is a quantity of its own.
    groups = [sorted({*group}) for group in band_groups(source.bands, source.colour)]
    damaged: dict[int, str] = {}
    ranges: list[list[np.ndarray]] = [[] for _ in groups]
    for index in progress_bar(
        range(source.count), desc="reading", unit="frame", leave=False, disable=not bar
    ):
        try:
            pixels = source.read(index)
        except FrameError as error:
            damaged[index] = str(error)
            continue
        look(pixels)
        for group, found in zip(groups, ranges, strict=True):
            part = pixels[..., group]
            if np.ma.count(part):
                found.append(_range(part, source.full_scale))
    if source.count - len(damaged) < 2:
        raise ValueError(f"{source.path} has fewer than two frames that can be read")
    if not any(ranges):
        raise ValueError(f"{source.path} has no pixel with data")
    told, parts = [], np.empty((8, source.bands))
    for group, found in zip(groups, ranges, strict=True):
        parts[:, group], line = _group_levels(source, group, found, black, white)
        told.append(line)
    return Levels(*parts, "" if source.full_scale else _line(groups, told)), damaged


def _range(pixels: np.ndarray, is_full_scale: bool) -> np.ndarray:
    """Lowest and highest value, the percentiles and `_shared_range`.

    Where the type says what is white, all are the first two.
    """
    values = np.ma.compressed(pixels)
    ends = [values.min(), values.max()]
    if is_full_scale:
        return np.array([*ends, *3 * ends], float)
    some = values[:: max(values.size // SAMPLES, 1)]
    return np.array([*ends, *np.percentile(some, PERCENTILES), *_shared_range(pixels)], float)


def _shared_range(pixels: np.ndarray) -> tuple[float, float]:
    """Lowest and highest value of (H, W, bands) that a pixel and one of its neighbours reach.

    The lowest lies above the highest where no two pixels with data are neighbours.
    """
    kind, low, high = exact_type(pixels.dtype), math.inf, -math.inf
    for band in np.moveaxis(pixels, 2, 0):
        for top in range(0, len(band), ROWS):  # and a row on either side
            rows = band[max(top - 1, 0) : top + ROWS + 1].astype(kind)
            above, below = np.ma.filled(rows, math.inf), np.ma.filled(rows, -math.inf)
            low = min(low, np.maximum(above, cv2.erode(above, AROUND)).min())
            high = max(high, np.minimum(below, cv2.dilate(below, AROUND)).max())
    return low, high


def _group_levels(
    source: Source,
    group: list[int],
    found: list[np.ndarray],
    black: float | None,
    white: float | None,
) -> tuple[np.ndarray, str]:
    """The eight numbers of `Levels` for a group of bands, as a column, and a line about them."""
    ranges = np.array(found or [np.zeros(8)])  # a band without any data has any levels
    low, most_low, view_low, shared_low = ranges[:, ::2].min(axis=0)
    high, most_high, view_high, shared_high = ranges[:, 1::2].max(axis=0)
    is_alpha, is_integer = source.alpha in group, np.issubdtype(source.dtype, np.integer)
    if is_integer and max(high, -low) > LARGEST:
        raise ValueError(
            f"{source.path} has values from {low:.0f} to {high:.0f}; "
            "the largest possible is 2^53 (9007199254740992)"
        )
    if source.full_scale or is_alpha:
        ends = 0.0, _largest(source) if is_integer else max(high, 1.0)
    else:
        reach = REACH * (most_high - most_low) or math.inf
        ends = max(low, most_low - reach), min(high, most_high + reach)
        lone_reach = LONE_REACH * (shared_high - shared_low)
        if lone_reach > 0:
            ends = max(ends[0], shared_low - lone_reach), min(ends[1], shared_high + lone_reach)
    if ends[0] == ends[1]:  # nothing but one value
        ends = ends[0], ends[0] + (abs(ends[0]) / 1000 or 1.0)
    shown = ends
    if source.measured and not source.full_scale and most_low < most_high:
        shown = most_low, most_high
    elif is_integer and not (source.measured or source.full_scale):
        shown = min(low, 0.0), float(next(2**bits - 1 for bits in DEPTHS if high <= 2**bits - 1))
    if not is_alpha and (black, white) != (None, None):
        darkest = ends[0] if white is None else min(low, 0.0)
        ends = darkest if black is None else black, ends[1] if white is None else white
        shown = ends
    if not -math.inf < ends[0] < ends[1] < math.inf:
        raise ValueError(
            f"white is {ends[1]:g}; it has to be a number above black, which is {ends[0]:g}"
        )
    view = ends if source.full_scale else (view_low, view_high)
    numbers = np.array([ends, view, shown])
    if source.inverted and not is_alpha:
        numbers = numbers[:, ::-1]
    limits = _limits(source, low, high)
    line = f"black {numbers[0, 0]:.10g} and white {numbers[0, 1]:.10g}"
    if low < ends[0] or high > ends[1]:
        line += (
            f" (values from {low:.10g} to {high:.10g}; "
            "what lies beyond is enlarged without the network)"
        )
    return np.append(numbers, limits)[:, None], "" if is_alpha else line


def _largest(source: Source) -> float:
    """The largest value of an integer type, or of as many bits as the file keeps of it."""
    return float(2**source.bits - 1 if source.bits else np.iinfo(source.dtype).max)


def _limits(source: Source, low: float, high: float) -> tuple[float, float]:
    """Where results are clipped: the range of the type, and the sign that all values have."""
    smallest, largest = -math.inf, math.inf
    if np.issubdtype(source.dtype, np.integer):
        smallest = max(float(np.iinfo(source.dtype).min), -LARGEST)
        largest = min(_largest(source), LARGEST)
    return smallest if low < 0 else 0.0, largest if high > 0 else 0.0


def _line(groups: list[list[int]], told: list[str]) -> str:
    """What is said about the levels of all groups of bands."""
    parts = [
        f"band {', '.join(str(band + 1) for band in group)}: {line}" if len(groups) > 1 else line
        for group, line in zip(groups, told, strict=True)
        if line
    ]
    more = f"; and {len(parts) - SAID} more" if len(parts) > SAID else ""
    return f"levels: {'; '.join(parts[:SAID])}{more}; --black and --white set others"


def band_groups(
    bands: int, colour: tuple[int, int, int] | None, alpha: int | None = None
) -> list[tuple[int, int, int]]:
    """What goes through the network together: red, green and blue; every other band as grey.

    An alpha band is no picture and does not.
    """
    groups = [colour] if colour else []
    beside = (*(colour or ()), alpha)
    return groups + [(band,) * 3 for band in range(bands) if band not in beside]


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


def view_rgb(source: Source, levels: Levels, pixels: np.ndarray) -> np.ndarray:
    """A frame as flow and human eyes see it, (H, W, 3) uint8: its colours, or the mean of bands."""
    view = levels.view(pixels)
    if source.colour:
        return view[..., list(source.colour)]
    shown = [band for band in range(view.shape[2]) if band != source.alpha]
    if len(shown) > 1:
        view = np.rint(view[..., shown].mean(axis=2, keepdims=True, dtype=np.float32))
    return np.repeat(view[..., :1].astype(np.uint8, copy=False), 3, axis=2)
