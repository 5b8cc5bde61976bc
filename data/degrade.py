"""What real footage has gone through before it is given: a sensor's optics, its noise, a codec.

The low-resolution frames of a whole clip are degraded as one video, in the order of a camera:
blur, noise, dead and hot pixels, sharpening, rounding to 8 bits, compression. The given ones are
taken out of it afterwards. `draw_degradation` gives a training its variety, CONDITIONS and FAULTS
are what test.py measures.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import cv2
import numpy as np

from media.codec import CODECS
from utils.resize import imresize


@dataclass(frozen=True)
class Degradation:
    """What happens to the low-resolution frames of one clip; nothing by default."""

    blur: tuple[float, float] = (0.0, 0.0)  # Gaussian sigma along two axes, LR pixels
    blur_angle: float = 0.0  # radians, of the first axis
    noise: float = 0.0  # standard deviation in levels, the same in light and shadow
    shot_noise: float = 0.0  # the same at white; it grows with the root of the signal
    impulses: float = 0.0  # share of the pixels that are black or white: dead ones, hot ones
    sharpening: float = 0.0  # amount of an unsharp mask: times (frame - blurred)
    sharpening_sigma: float = 1.0  # of the Gaussian that blurs it, LR pixels
    codec: str | None = None  # one of media.codec.CODECS
    strength: int = 0  # CRF of H.264 and H.265, quality of JPEG
    exact: bool = False  # how the codec's colours are read, see media.codec.through_video
    backwards: bool = False  # the codec gets the last frame first, which is its key frame then

    def apply(self, frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Degrade the frames of a clip.

        Arguments:
            frames: (T, H, W, 3) uint8 RGB, low resolution, all of the clip; so is the result.
            rng: source of the noise.
        """
        camera = (*self.blur, self.noise, self.shot_noise, self.impulses, self.sharpening)
        if any(camera):
            kernel = blur_kernel(self.blur, self.blur_angle)
            frames = np.stack([self._through_camera(frame, kernel, rng) for frame in frames])
        if self.codec is None:
            return frames
        order = -1 if self.backwards else 1
        return CODECS[self.codec](frames[::order], self.strength, exact=self.exact)[::order]

    def _through_camera(
        self, frame: np.ndarray, kernel: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray:
        """Blur, noise, faults and sharpening of one frame (H, W, 3) uint8."""
        signal = frame.astype(np.float32)
        if kernel.size > 1:
            signal = cv2.filter2D(signal, -1, kernel, borderType=cv2.BORDER_REFLECT_101)
        variance = self.noise**2 + self.shot_noise**2 * np.maximum(signal, 0) / 255
        signal = signal + np.sqrt(variance) * rng.standard_normal(signal.shape, dtype=np.float32)
        if self.impulses:
            flaws = rng.random(frame.shape[:2]) < self.impulses
            signal[flaws] = 255.0 * rng.integers(0, 2, (np.count_nonzero(flaws), 1))
        if self.sharpening:
            blurred = cv2.GaussianBlur(signal, (0, 0), self.sharpening_sigma)
            signal = signal + self.sharpening * (signal - blurred)
        return np.clip(np.rint(signal), 0, 255).astype(np.uint8)


CLEAN = Degradation()
CONDITIONS = {
    "clean": CLEAN,
    "crf18": Degradation(codec="h264", strength=18),
    "crf23": Degradation(codec="h264", strength=23),
    "crf28": Degradation(codec="h264", strength=28),
    "noise": Degradation(noise=3.0),
    "noise+crf23": Degradation(noise=3.0, codec="h264", strength=23),
}
FAULTS = {  # what a network must survive rather than be good at
    "noise20": Degradation(noise=20.0),
    "impulses": Degradation(impulses=0.01),
    "sharpened": Degradation(sharpening=1.0),
}

# What a training sees. Shares of the clips, those of blur to codec of the ones not clean.
CLEAN_SHARE = 0.15
BLUR_SHARE, BLUR_RANGE = 0.1, (0.2, 0.8)  # LR pixels, each axis for itself
NOISE_SHARE, NOISE_RANGE = 0.5, (0.0, 5.0)  # levels, of constant and of shot noise
# Cameras and producers of satellite imagery sharpen what they deliver; what takes that for detail
# sharpens its halos once more.
SHARPEN_SHARE, SHARPEN_RANGE, SHARPEN_SIGMAS = 0.2, (0.2, 1.5), (0.6, 1.5)  # amount, LR pixels
CODEC_SHARE = 0.75
EXACT_SHARE = 0.7  # enhance.py reads colours that way, many other programs do not
CODEC_RANGES = {  # share of the codec among the compressed clips, range of its strength
    "h264": (0.6, (15, 32)),
    "hevc": (0.2, (15, 32)),
    "jpeg": (0.2, (50, 95)),
}
FAULT_SHARE = 0.1  # of all clips; one half has strong noise, the other impulses
STRONG_RANGE = (5.0, 40.0)  # levels of noise
IMPULSE_RANGE = (1e-4, 0.05)  # share of the pixels
FAULT_DRAWS = f"faults {FAULT_SHARE} {STRONG_RANGE} {IMPULSE_RANGE}"
# The kinds of main.py's --degrade, with all that each draws, for the record of a run: with others,
# its samples are others.
DRAWS = {
    "none": "",
    "faults": FAULT_DRAWS,
    "real": f"clean {CLEAN_SHARE}, blur {BLUR_SHARE} {BLUR_RANGE}, noise {NOISE_SHARE} "
    f"{NOISE_RANGE}, sharpening {SHARPEN_SHARE} {SHARPEN_RANGE} {SHARPEN_SIGMAS}, codec "
    f"{CODEC_SHARE} {CODEC_RANGES}, exact {EXACT_SHARE}, {FAULT_DRAWS}",
}


def draw_degradation(rng: np.random.Generator, kind: str) -> Degradation:
    """The degradation of one clip of a training.

    Arguments:
        rng: what it is drawn from.
        kind: one of DRAWS. none: clean. faults: clean but for a few clips of strong noise or dead
            and hot pixels, which a network that has never seen them answers with garbage. real: a
            variety of real footage, some of it clean, and the faults on top.
    """
    if kind == "none":
        return CLEAN
    drawn = _draw_footage(rng) if kind == "real" else CLEAN
    if rng.random() >= FAULT_SHARE:
        return drawn
    if rng.random() < 0.5:
        return replace(drawn, noise=math.exp(rng.uniform(*np.log(STRONG_RANGE))))
    return replace(drawn, impulses=math.exp(rng.uniform(*np.log(IMPULSE_RANGE))))


def _draw_footage(rng: np.random.Generator) -> Degradation:
    if rng.random() < CLEAN_SHARE:
        return CLEAN
    drawn = {}
    if rng.random() < BLUR_SHARE:
        drawn["blur"] = tuple(rng.uniform(*BLUR_RANGE, 2).tolist())
        drawn["blur_angle"] = rng.uniform(0, math.pi)
    if rng.random() < NOISE_SHARE:
        drawn["noise"], drawn["shot_noise"] = rng.uniform(*NOISE_RANGE, 2).tolist()
    if rng.random() < CODEC_SHARE:
        shares = [share for share, _ in CODEC_RANGES.values()]
        drawn["codec"] = str(rng.choice(list(CODEC_RANGES), p=shares))
        low, high = CODEC_RANGES[drawn["codec"]][1]
        drawn["strength"] = int(rng.integers(low, high + 1))
    drawn["backwards"] = bool(rng.random() < 0.5)  # so that first frames are not always key frames
    drawn["exact"] = bool(rng.random() < EXACT_SHARE)
    if rng.random() < SHARPEN_SHARE:
        drawn["sharpening"] = rng.uniform(*SHARPEN_RANGE)
        drawn["sharpening_sigma"] = rng.uniform(*SHARPEN_SIGMAS)
    return Degradation(**drawn)


def draw_for_sample(degrade: str, *sample: int) -> tuple[Degradation, np.random.Generator]:
    """What a sample of a training goes through, and the source of its noise.

    They are drawn from a stream of their own: crops and clips stay those of a training without.

    Arguments:
        degrade: what the training does to its samples, one of DRAWS.
        sample: the seed, the epoch and the index.
    """
    rng = np.random.default_rng((*sample, 1))
    return draw_degradation(rng, degrade), rng


def blur_kernel(sigmas: tuple[float, float], angle: float) -> np.ndarray:
    """A Gaussian of two widths, turned.

    Arguments:
        sigmas: along its two axes, pixels; 0 is no blur along that axis.
        angle: from the x axis to the first one, radians.

    Returns: (size, size) float32, size odd, of sum 1.
    """
    radius = math.ceil(3 * max(sigmas))
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    along = x * math.cos(angle) + y * math.sin(angle)
    across = y * math.cos(angle) - x * math.sin(angle)
    first, second = (max(sigma, 1e-3) for sigma in sigmas)
    kernel = np.exp(-((along / first) ** 2 + (across / second) ** 2) / 2)
    return (kernel / kernel.sum()).astype(np.float32)


def quarter(frames: np.ndarray) -> np.ndarray:
    """The low-resolution frames of HR frames (T, H, W, 3) uint8: MATLAB's bicubic reduction."""
    return imresize(frames, 1 / 4)


def lr_frames(
    truth: np.ndarray,
    degradation: Degradation,
    rng: np.random.Generator,
    reduce: Callable[[np.ndarray], np.ndarray] = quarter,
) -> np.ndarray:
    """The given frames of a clip: at its even times, of low resolution, degraded.

    Arguments:
        truth: (T, H, W, 3) uint8, all frames of the clip.
        degradation: what its low-resolution frames go through.
        rng: source of the noise.
        reduce: from HR frames to LR frames.

    Returns: (N, h, w, 3) uint8.
    """
    if degradation.codec is None:  # frames are degraded one by one
        return degradation.apply(reduce(truth[::2]), rng)
    return degradation.apply(reduce(truth), rng)[::2]
