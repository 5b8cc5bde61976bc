"""How an animated clip looks: its tone, its colours, its optics.

Values are levels 0..255 throughout, float32 until the last step.
"""

import math

import cv2
import numpy as np

from utils.metrics import BT601_GREY

MOST_BLACK = 0.1  # share of pixels that may be exactly black, as those without data are


def blur(image: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur, cut off at three sigmas. image: (H, W, 3) float32; sigma in its pixels."""
    size = 2 * math.ceil(3 * sigma) + 1
    return cv2.GaussianBlur(image, (size, size), sigma)


def black_share(image: np.ndarray) -> float:
    """Share of exactly black pixels of (H, W, 3); every fourth row and column counts."""
    return (image[::4, ::4] == 0).all(axis=-1).mean()


def draw_saturation(rng: np.random.Generator, grey_share: float) -> float:
    """Factor on the colour of one clip: satellite video is often nearly grey."""
    return rng.uniform(0.1, 0.4) if rng.random() < grey_share else rng.uniform(0.4, 1.1)


def tone(
    image: np.ndarray, rng: np.random.Generator, saturation: float, stretch_share: float
) -> np.ndarray:
    """One clip's gamma, contrast, brightness, haze and colour cast, drawn from rng.

    Arguments:
        image: (H, W, 3) uint8.
        saturation: 0 is grey, 1 keeps the colours.
        stretch_share: share of clips whose contrast is stretched to nearly the full range, as
            providers of satellite video do; the others vary around the still's own.

    Returns: (H, W, 3) float32, levels that may leave 0..255 a little.
    """
    gamma = math.exp(rng.uniform(-0.25, 0.25))
    contrast, brightness = rng.uniform(0.75, 1.2), rng.uniform(-20.0, 20.0)
    haze = rng.uniform(0.0, 0.3) if rng.random() < 0.3 else 0.0
    cast = rng.normal(0.0, 0.02, 3)
    levels = 255 * np.linspace(0, 1, 256) ** gamma
    if rng.random() < stretch_share:
        low, high = levels[np.percentile(image[::8, ::8, 1], [1, 99]).astype(int)]
        black, white = rng.uniform(10, 50), rng.uniform(215, 255)
        # Flat scenes, fields and water, are not blown up without bound.
        contrast = min((white - black) / max(high - low, 1), 2.0)
        levels = (black + white) / 2 + contrast * (levels - (low + high) / 2)
    else:
        levels = 110 + contrast * (levels - 110) + brightness
        levels += haze * (200 - levels)
    # Rows mix each channel with the luma, then weigh it.
    mix = saturation * np.eye(3) + (1 - saturation) * BT601_GREY
    mix *= (1 + cast)[:, None]
    return cv2.transform(cv2.LUT(image, levels.astype(np.float32)), mix.astype(np.float32))


def brightness_drift(rng: np.random.Generator, frames: int) -> tuple[np.ndarray, np.ndarray]:
    """Gain and offset in levels of every frame: a slow trend and a little flicker."""
    time = np.arange(frames) - (frames - 1) / 2
    gain = 1 + rng.normal(0, 0.002) * time + rng.normal(0, 0.001, frames)
    offset = rng.normal(0, 0.2) * time
    return gain, offset
