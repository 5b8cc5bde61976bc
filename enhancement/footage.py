"""Which weights footage takes: those for clean frames, or those for real ones.

Lossy compression is known from the file, noise is measured. It differs from frame to frame, what
the frames show hardly does: the Laplacian that Immerkaer (1996, "Fast noise variance estimation")
takes of a picture is taken here of the difference between neighbouring frames, where texture does
not pass for noise, and the median of it instead of the mean, so that what moves does not either.
"""

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import torch

from enhancement.levels import fill_missing, survey
from enhancement.shots import Shot
from media.frames import Source
from models.weights import find_weights, shipped_weights
from utils.resize import SMALLEST_SIDE

# Levels of 255 from which on the weights for real footage are taken. They are ahead from 1 on
# (docs/training.md), but clean frames have up to 1.6 by this measure, where a camera jitters.
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
    noise = None if given.lossy or real is None else find_noise(given, black, white)
    found = "lossy compression" if given.lossy else "lossless"
    found += "" if noise is None else f", noise of {noise:.1f} levels"
    if real and (given.lossy or (noise or 0.0) >= NOISY):
        print(f"{given.path}: {found}, using {real.stem} (--model real)")
        return real
    if clean is None:
        raise FileNotFoundError("no weights in checkpoints/; give a checkpoint with --model FILE")
    print(f"{given.path}: {found}, using {clean.stem}")
    return clean


def find_noise(source: Source, black: float | None, white: float | None) -> float | None:
    """The noise of the frames of a source.

    It is the least found at its beginning, in its middle and at its end: a cut, or a camera that
    shakes, is not everywhere. The search ends where one of them is not `NOISY`; a place with a
    damaged frame is passed over. Frames that stand there twice hide their noise.

    Arguments:
        source: of the frames.
        black, white: as `survey` takes them.

    Returns: the standard deviation in levels of 255, as the network sees the frames (by the values
        of these few, where levels come from the values); None where it cannot be measured.
    """
    if min(source.height, source.width) < SMALLEST_SIDE:  # refused when the flow is chosen
        return None
    frames, found = min(source.count, max(DIFFERENCES)), []
    last = source.count - frames
    for start in sorted({0, last // 2, last}):
        noise = _noise_of(Shot(source, range(start, start + frames)), black, white)
        if noise is None:
            continue
        found.append(noise)
        if noise < NOISY:
            break
    return min(found, default=None)


def _noise_of(shot: Shot, black: float | None, white: float | None) -> float | None:
    top, left = (max(side - SIDE, 0) // 2 for side in (shot.height, shot.width))
    parts = []

    def keep(pixels: np.ndarray) -> None:
        parts.append(pixels[top : top + SIDE, left : left + SIDE].copy())

    try:
        levels, damaged = survey(shot, black, white, keep, bar=False)
    except ValueError:  # what is wrong is said when all frames are read
        return None
    if damaged:
        return None
    shown = [band for band in range(shot.bands) if band != shot.alpha]
    frames = np.stack([255 * levels.to_unit(fill_missing(part)) for part in parts])[..., shown]
    missing = np.any([np.ma.getmaskarray(part) for part in parts], axis=(0, 3))
    return noise_level(frames, missing)


def noise_level(frames: np.ndarray, missing: np.ndarray) -> float | None:
    """The standard deviation of the noise of two or three neighbouring frames, in their levels.

    Arguments:
        frames: (2 or 3, H, W, bands); the camera may have moved a little from one to the other.
        missing: (H, W) bool, pixels without data, which have none.

    Returns: None where no pixel has data.
    """
    weights = np.array(DIFFERENCES[len(frames)], np.float32)
    frames = frames.astype(np.float32)
    inner = (slice(BORDER, -BORDER),) * 2
    has_data = cv2.dilate(missing.astype(np.uint8), np.ones((3, 3)))[inner] == 0
    if not has_data.any():
        return None
    sigmas = []
    for candidate in (frames, np.stack(list(_aligned(frames)))):
        difference = np.tensordot(weights, candidate, 1)  #                    (H, W, bands)
        rough = np.stack(
            [cv2.filter2D(band, -1, LAPLACIAN) for band in np.moveaxis(difference, 2, 0)]
        )
        middle = np.median(np.abs(rough[:, *inner][:, has_data]))
        sigmas.append(middle * MEDIAN_TO_SIGMA / 6 / np.linalg.norm(weights))
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
