"""A video's levels as the network sees them: black and white, gaps filled, three bands.

A survey reads every frame once, before the long work starts: damaged frames are named at once,
and the values of the whole sequence decide what becomes black and white, so that neither the
enhancement nor the flow flickers. Next to the network that costs nothing.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np
from tqdm import tqdm

from media.frames import FrameError, Source

SAMPLES = 100_000  # values per frame that the percentiles are taken of
# Percentiles that the 8-bit view of deeper frames stretches between.
VIEW_PERCENTILES = (0.5, 99.5)
# Integer values of unknown depth are taken as one of these; 12 bits are often kept in 16.
DEPTHS = (8, 10, 11, 12, 14, 16, 32)


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
