"""How close a super-resolved clip comes to its truth. Every convention is stated here, once.

- Images are (H, W, 3) uint8 RGB, as a PNG would hold them: outputs are rounded to 8 bits before
  they are measured. Everything is computed in float64 with a data range of 255 on the whole
  frame; no border is cut.
- PSNR is 10 log10(255^2 / MSE), the MSE over all pixels and channels. The figure of a clip is the
  mean of its frames' PSNR, the figure of a test set the mean of its clips.
- SSIM is scikit-image's with an 11x11 Gaussian window of sigma 1.5, K1 = 0.01, K2 = 0.03 and
  population covariance: the settings of Wang et al., IEEE TIP 13(4), 2004. RGB: the mean of the
  three channels. scikit-image averages its map over all positions where the window lies inside
  the frame, as Wang's code does.
- Y is the luma of ITU-R BT.601 in studio range, 16 to 235, not rounded after the conversion
  (MATLAB's rgb2ycbcr of a uint8 image rounds it. That adds an error of 1/6 to the MSE, which
  lowers PSNR by about 0.01 dB near 30 dB, but by 0.1 dB near 40 and by 1 dB near 50).
- "given" are the even times of a clip, whose low-resolution frame the method has seen;
  "interpolated" are the odd ones.
- "moving" are the pixels of the interpolated frames that `moving_mask` marks. One MSE over those
  of the whole clip makes its figure, so that a frame with three moving pixels does not weigh as
  much as one with three thousand. None where nothing moves.
- "flicker" is the mean absolute difference in levels between neighbouring frames of the output,
  over the pixels that do not move; "flicker_truth" that of the truth, which a method should meet.
- A PSNR is at most PSNR_CAP in the figures of a clip, since the mean with an infinite one would
  say nothing and JSON has no infinity.
"""

import warnings
from collections.abc import Iterable, Mapping, Sequence

import cv2
import numpy as np
from skimage.metrics import structural_similarity

PEAK = 255.0  # levels
PSNR_CAP = 100.0  # dB, stands for identical images; one wrong value in 640 x 640 x 3 gives 109 dB
SSIM_SIDE = 11  # pixels, side of the Gaussian window
MOVING_BLUR = 1.0  # pixels, sigma: sensor noise must not count as motion
MOVING_LEVELS = 12.0  # grey levels: more than this between neighbouring frames is motion
BT601_LUMA = np.array([65.481, 128.553, 24.966]) / 255.0  # of R, G, B levels; rgb2ycbcr's first row
BT601_GREY = np.array([0.299, 0.587, 0.114])  # the same weights in full range

Metrics = dict[str, float | None]


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Peak signal-to-noise ratio of two images.

    Arguments:
        a, b: two arrays of the same shape, uint8, or float in levels 0..255.

    Returns: dB, infinite for identical images.

    Raises:
        ValueError: the shapes differ.
    """
    _check_same_shape(a, b)
    _warn_of_unit_range(a, b)
    error = np.mean((a.astype(np.float64) - b) ** 2)
    with np.errstate(divide="ignore"):
        return float(10 * np.log10(PEAK**2 / error))


def ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Structural similarity of two images (Wang et al. 2004).

    Arguments:
        a, b: two images of the same shape, (H, W) or (H, W, 3), uint8, or float in levels 0..255;
            H and W at least 11.

    Returns: the mean over pixels and channels, 1 for identical images.

    Raises:
        ValueError: the shapes differ, are those of several images, or smaller than the window.
    """
    _check_same_shape(a, b)
    if a.ndim not in (2, 3) or (a.ndim == 3 and a.shape[2] > 4):
        raise ValueError(f"SSIM needs one image (H, W) or (H, W, 3), got shape {a.shape}")
    if min(a.shape[:2]) < SSIM_SIDE:
        raise ValueError(f"SSIM needs images of at least 11 x 11 pixels, got shape {a.shape}")
    _warn_of_unit_range(a, b)
    return float(
        structural_similarity(
            a.astype(np.float64),
            b.astype(np.float64),
            data_range=PEAK,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            channel_axis=2 if a.ndim == 3 else None,
        )
    )


def to_y(rgb: np.ndarray) -> np.ndarray:
    """Luma of an RGB image: ITU-R BT.601 in studio range, as MATLAB's rgb2ycbcr has it.

    Arguments:
        rgb: (..., 3), levels 0..255.

    Returns: (...) float64, 16..235, not rounded.

    Raises:
        ValueError: another number of channels.
    """
    if rgb.shape[-1:] != (3,):
        raise ValueError(f"Y needs RGB images (..., 3), got shape {rgb.shape}")
    return 16.0 + rgb.astype(np.float64) @ BT601_LUMA


def moving_mask(previous: np.ndarray, current: np.ndarray, following: np.ndarray) -> np.ndarray:
    """Pixels of a frame where something moves.

    The grey frame, smoothed by a Gaussian of 1.0 pixel, differs by more than 12 levels from the
    frame before or from the one after; the set is grown by one pixel, diagonals included.

    Arguments:
        previous, current, following: (H, W, 3) uint8 RGB, three successive frames of the truth.

    Returns: (H, W) bool.

    Raises:
        ValueError: the shapes differ.
    """
    _check_same_shape(previous, current)
    _check_same_shape(current, following)
    before, now, after = (
        cv2.GaussianBlur(frame.astype(np.float64) @ BT601_GREY, (0, 0), MOVING_BLUR)
        for frame in (previous, current, following)
    )
    change = np.maximum(np.abs(now - before), np.abs(now - after))
    # The margin keeps a change of exactly 12 levels out, in whatever order a machine sums.
    moving = (change > MOVING_LEVELS + 1e-6).astype(np.uint8)
    return cv2.dilate(moving, np.ones((3, 3), np.uint8)).astype(bool)


def moving_masks(truth: np.ndarray) -> np.ndarray:
    """The moving pixels of the interpolated frames of a clip.

    Arguments:
        truth: (T, H, W, 3) uint8 RGB, T odd.

    Returns: (T // 2, H, W) bool, for the times 1, 3, 5, ...
    """
    return np.stack([moving_mask(*truth[t - 1 : t + 2]) for t in range(1, len(truth), 2)])


def clip_metrics(output: np.ndarray, truth: np.ndarray) -> dict[str, float | list[Metrics] | None]:
    """All figures of one clip.

    Arguments:
        output: (T, H, W, 3) uint8 RGB, T odd and at least 3; even times are the given ones.
        truth: the same shape and kind.

    Returns: psnr_rgb, ssim_rgb, psnr_y and ssim_y, means over the frames, each also over the
        given and over the interpolated frames alone (psnr_rgb_given, psnr_rgb_interpolated, ...);
        psnr_rgb_moving, None where nothing moves; moving_fraction of the interpolated frames;
        flicker and flicker_truth, in levels, None where everything moves;
        and "frames", a dict of the first four for every time.

    Raises:
        ValueError: the shapes differ, another kind of array, or T is even or less than 3.
    """
    _check_same_shape(output, truth)
    for clip in (output, truth):
        if clip.dtype != np.uint8 or clip.ndim != 4 or clip.shape[3] != 3:
            raise ValueError(f"a clip is (T, H, W, 3) uint8 RGB, not {clip.shape} {clip.dtype}")
    if len(truth) < 3 or len(truth) % 2 == 0:
        raise ValueError(f"a clip has 2N-1 frames from N >= 2 given ones, got {len(truth)}")
    frames = [frame_metrics(*pair) for pair in zip(output, truth, strict=True)]
    metrics = mean_metrics(frames)
    metrics |= {f"{name}_given": value for name, value in mean_metrics(frames[::2]).items()}
    metrics |= {f"{name}_interpolated": value for name, value in mean_metrics(frames[1::2]).items()}

    moving = moving_masks(truth)
    metrics["psnr_rgb_moving"] = None
    if moving.any():
        at_moving = psnr(output[1::2][moving], truth[1::2][moving])
        metrics["psnr_rgb_moving"] = min(at_moving, PSNR_CAP)
    metrics["moving_fraction"] = float(moving.mean())
    metrics["flicker"], metrics["flicker_truth"] = flicker(output, ~moving), flicker(truth, ~moving)
    return metrics | {"frames": frames}


def flicker(clip: np.ndarray, static: np.ndarray) -> float | None:
    """How much neighbouring frames differ where nothing moves.

    Arguments:
        clip: (T, H, W, 3) uint8, T odd.
        static: (T // 2, H, W) bool, the pixels that do not move from the frame before times 1, 3,
            5, ... to the frame after.

    Returns: the mean absolute difference in levels, None where everything moves.
    """
    if not static.any():
        return None
    clip = clip.astype(np.int16)
    change = np.abs(clip[1::2] - clip[:-1:2]) + np.abs(clip[2::2] - clip[1::2])
    return float(change[static].mean() / 2)


def frame_metrics(output: np.ndarray, truth: np.ndarray) -> Metrics:
    """psnr_rgb, ssim_rgb, psnr_y and ssim_y of one frame, both (H, W, 3) uint8 RGB."""
    output_y, truth_y = to_y(output), to_y(truth)
    return {
        "psnr_rgb": min(psnr(output, truth), PSNR_CAP),
        "ssim_rgb": ssim(output, truth),
        "psnr_y": min(psnr(output_y, truth_y), PSNR_CAP),
        "ssim_y": ssim(output_y, truth_y),
    }


def mean_metrics(rows: Sequence[Mapping[str, object]]) -> Metrics:
    """The mean of every figure over frames or clips that have it; None where none of them has."""
    return {name: _mean(row[name] for row in rows) for name in rows[0] if name != "frames"}


def _mean(values: Iterable[object]) -> float | None:
    present = [value for value in values if value is not None]
    return float(np.mean(present)) if present else None


def _check_same_shape(a: np.ndarray, b: np.ndarray) -> None:
    if a.shape != b.shape:
        raise ValueError(f"images to compare must have one shape, got {a.shape} and {b.shape}")


def _warn_of_unit_range(a: np.ndarray, b: np.ndarray) -> None:
    is_float = a.dtype.kind == b.dtype.kind == "f"  # else nothing is computed
    if is_float and 0 < max(np.max(image, initial=0) for image in (a, b)) <= 1:
        warnings.warn(
            "images of numbers up to 1 are measured in levels 0..255, where they are nearly equal; "
            "multiply images in [0, 1] by 255",
            stacklevel=3,
        )
