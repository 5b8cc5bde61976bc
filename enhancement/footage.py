"""Which weights footage takes: those for clean frames, or those for real ones.

Lossy compression is known from the file, noise is measured. It differs from frame to frame, what
the frames show hardly does: the Laplacian that Immerkaer (1996, "Fast noise variance estimation")
takes of a picture is taken here of the difference between neighbouring frames, where texture does
not pass for noise, and the median of it instead of the mean, so that what moves does not either.
"""

import math
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import torch

from enhancement.levels import fill_missing, survey, view_rgb
from enhancement.shots import Shot
from media.frames import Source
from models.weights import find_weights, shipped_weights

# Levels of 255 from which on the weights for real footage are ahead: `python test.py` on the 12
# validation clips, which have 0.3 to 1.6 levels by this measure (those that jitter by a pixel).
NOISY = 2.0
SIDE = 512  # pixels of the part in the middle of the frames that is measured
BORDER = 4  # pixels there that are left out, for what comes in from the other side
LAPLACIAN = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)  # six times the noise
DIFFERENCES = {2: (1, -1), 3: (1, -2, 1)}  # of so many frames; three: even motion cancels too
MEDIAN_TO_SIGMA = 1 / 0.6745  # from the median of a normal deviate's size to its standard deviation


def pick_weights(
    model: str,
    given: Source,
    device: torch.device,
    black: float | None = None,
    white: float | None = None,
) -> Path:
    """The checkpoint that a name stands for; "auto" looks at the footage and says what it takes.

    Arguments:
        model: "auto", "real", the name of shipped weights, or a file.
        given: the frames.
        device: what it runs on, which takes a size of its own.
        black, white: as `survey` takes them.

    Raises: FileNotFoundError: there are no such weights.
    """
    if model not in ("auto", "real"):
        return find_weights(model)
    real = shipped_weights(device, real=True)
    if model == "real":
        if real is None:
            raise FileNotFoundError("no weights for real footage in checkpoints/; give a file")
        return real
    clean = shipped_weights(device)
    noise = 0.0 if given.lossy or real is None else find_noise(given, black, white)
    found = "lossy compression" if given.lossy else f"lossless, noise of {noise:.1f} levels"
    if real and (given.lossy or noise >= NOISY):
        print(f"{given.path}: {found}, using {real.stem} (--model real)")
        return real
    if clean is None:
        raise FileNotFoundError("no weights in checkpoints/; give a checkpoint with --model FILE")
    print(f"{given.path}: {found}, using {clean.stem}")
    return clean


def find_noise(source: Source, black: float | None, white: float | None) -> float:
    """The noise of the frames of a source.

    It is the least found at its beginning, in its middle and at its end: a cut, or a camera that
    shakes, is not everywhere. The search ends where one of them is not `NOISY`. Where frames are
    damaged, none is found.

    Arguments:
        source: of the frames.
        black, white: as `survey` takes them.

    Returns: the standard deviation in levels of 255, as the network sees the frames; 0 where too
        few frames can be read.
    """
    frames, least = min(source.count, max(DIFFERENCES)), math.inf
    last = source.count - frames
    for start in sorted({0, last // 2, last}):
        found = _noise_of(Shot(source, range(start, start + frames)), black, white)
        least = min(least, math.inf if found is None else found)
        if least < NOISY:
            break
    return least if math.isfinite(least) else 0.0


def _noise_of(shot: Shot, black: float | None, white: float | None) -> float | None:
    top, left = (max(side - SIDE, 0) // 2 for side in (shot.height, shot.width))
    parts = []
    try:
        levels, damaged = survey(
            shot,
            black,
            white,
            lambda pixels: parts.append(pixels[top : top + SIDE, left : left + SIDE].copy()),
        )
    except ValueError:  # what is wrong is said when all frames are read
        return None
    if damaged:
        return None
    return noise_level(np.stack([view_rgb(shot, levels, fill_missing(part)) for part in parts]))


def noise_level(frames: np.ndarray) -> float:
    """The standard deviation of the noise of two or three neighbouring frames, in their levels.

    Arguments:
        frames: (2 or 3, H, W, 3) uint8; the camera may have moved a little from one to the other.
    """
    weights = np.array(DIFFERENCES[len(frames)], np.float32)
    frames = frames.astype(np.float32)
    sigmas = []
    for candidate in (frames, np.stack(list(_aligned(frames)))):
        difference = np.tensordot(weights, candidate, 1)  #                    (H, W, 3)
        rough = cv2.filter2D(difference, -1, LAPLACIAN)[BORDER:-BORDER, BORDER:-BORDER]
        sigmas.append(np.median(np.abs(rough)) * MEDIAN_TO_SIGMA / 6 / np.linalg.norm(weights))
    return float(min(sigmas))


def _aligned(frames: np.ndarray) -> Iterator[np.ndarray]:
    """The frames moved onto the second one, all pixels by the same.

    They are moved by a Fourier transform, which, unlike any interpolation, leaves noise as it is.
    """
    grey = frames.mean(axis=3)
    height, width = grey.shape[1:]
    window = cv2.createHanningWindow((width, height), cv2.CV_32F)
    rows, columns = np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)
    for frame, own in zip(frames, grey, strict=True):
        (right, down), _ = cv2.phaseCorrelate(own, grey[1], window)
        phase = np.exp(-2j * np.pi * (rows * down + columns * right))[..., None]
        moved = np.fft.ifft2(np.fft.fft2(frame, axes=(0, 1)) * phase, axes=(0, 1))
        yield moved.real.astype(np.float32)
