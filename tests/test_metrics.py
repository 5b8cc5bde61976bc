"""The figures against their formulas, written out slowly."""

import itertools
import json
import math

import numpy as np
import pytest

from utils.metrics import (
    PSNR_CAP,
    clip_metrics,
    flicker,
    mean_metrics,
    moving_mask,
    psnr,
    ssim,
    to_y,
)


def noisy_pair(shape, seed=0):
    rng = np.random.default_rng(seed)
    a = rng.integers(0, 256, shape, dtype=np.uint8)
    b = np.clip(a + rng.normal(0, 20, shape), 0, 255).astype(np.uint8)
    return a, b


def moving_clip(frames=7, height=24, width=32, step=3, seed=1):
    """A bright square that moves over a quiet background."""
    background = np.random.default_rng(seed).integers(90, 110, (height, width, 3), dtype=np.uint8)
    clip = np.stack([background] * frames)
    for t in range(frames):
        clip[t, 8:13, 2 + step * t : 7 + step * t] = 230
    return clip


def slow_ssim(a, b):
    """Wang et al. 2004 on one channel: an 11x11 Gaussian window at every place where it fits."""
    axis = np.arange(-5, 6)
    kernel = np.exp(-(axis[:, None] ** 2 + axis**2) / (2 * 1.5**2))
    kernel /= kernel.sum()
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    a, b = a.astype(np.float64), b.astype(np.float64)
    values = []
    for y, x in itertools.product(range(a.shape[0] - 10), range(a.shape[1] - 10)):
        p, q = a[y : y + 11, x : x + 11], b[y : y + 11, x : x + 11]
        mean_p, mean_q = (kernel * p).sum(), (kernel * q).sum()
        var_p = (kernel * (p - mean_p) ** 2).sum()
        var_q = (kernel * (q - mean_q) ** 2).sum()
        cov = (kernel * (p - mean_p) * (q - mean_q)).sum()
        values.append(
            (2 * mean_p * mean_q + c1)
            * (2 * cov + c2)
            / ((mean_p**2 + mean_q**2 + c1) * (var_p + var_q + c2))
        )
    return np.mean(values)


def slow_moving_mask(previous, current, following):
    """The definition, pixel by pixel: grey, Gaussian of 1.0, 12 levels, grown by one pixel."""
    taps = np.exp(-(np.arange(-4, 5) ** 2) / 2)
    taps /= taps.sum()

    def smooth_grey(frame):
        grey = frame @ np.array([0.299, 0.587, 0.114])
        for axis in (0, 1):
            padded = np.pad(grey, [(4, 4) if i == axis else (0, 0) for i in (0, 1)], mode="reflect")
            grey = sum(
                tap * np.take(padded, range(i, i + grey.shape[axis]), axis)
                for i, tap in enumerate(taps)
            )
        return grey

    before, now, after = map(smooth_grey, (previous, current, following))
    height, width = now.shape
    mask = np.zeros((height, width), bool)
    for y, x in itertools.product(range(height), range(width)):
        if abs(now[y, x] - before[y, x]) > 12 or abs(now[y, x] - after[y, x]) > 12:
            mask[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2] = True
    return mask


def test_psnr_is_its_formula():
    a, b = noisy_pair((13, 17, 3))
    error = np.mean([(int(p) - int(q)) ** 2 for p, q in zip(a.ravel(), b.ravel(), strict=True)])
    assert psnr(a, b) == pytest.approx(10 * math.log10(255**2 / error), abs=1e-10)
    assert psnr(a, a) == math.inf


def test_ssim_is_wangs():
    a, b = noisy_pair((16, 14, 3))
    slow = np.mean([slow_ssim(a[..., c], b[..., c]) for c in range(3)])
    assert ssim(a, b) == pytest.approx(slow, abs=1e-10)
    assert ssim(a[..., 0], b[..., 0]) == pytest.approx(slow_ssim(a[..., 0], b[..., 0]), abs=1e-10)
    assert ssim(a, a) == 1.0


def test_y_is_bt601_in_studio_range():
    colours = np.array([[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 255, 0], [0, 0, 255]])
    expected = [16, 235, 16 + 65.481, 16 + 128.553, 16 + 24.966]
    np.testing.assert_allclose(to_y(colours.astype(np.uint8)), expected, atol=1e-12)
    # Not rounded: one level of blue is less than a tenth of a level of Y.
    step = to_y(np.uint8([0, 0, 1])) - to_y(np.uint8([0, 0, 0]))
    assert step == pytest.approx(24.966 / 255)


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_different_shapes_are_refused(metric):
    with pytest.raises(ValueError, match=r"\(16, 16, 3\) and \(16, 20, 3\)"):
        metric(np.zeros((16, 16, 3), np.uint8), np.zeros((16, 20, 3), np.uint8))


def test_ssim_of_an_image_below_its_window_is_refused():
    with pytest.raises(ValueError, match="11 x 11"):
        ssim(np.zeros((10, 16, 3), np.uint8), np.zeros((10, 16, 3), np.uint8))


@pytest.mark.parametrize("shape", [(16, 16, 16), (12, 16, 16, 3)])
def test_ssim_of_several_images_is_refused(shape):
    """A stack of grey frames would be one image with as many channels as columns."""
    with pytest.raises(ValueError, match="SSIM needs one image"):
        ssim(np.zeros(shape, np.uint8), np.zeros(shape, np.uint8))


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_images_up_to_one_are_told(metric):
    a, b = (image / 255 for image in noisy_pair((16, 16, 3), seed=1))
    with pytest.warns(UserWarning, match=r"multiply images in \[0, 1\] by 255"):
        metric(a, b)


def test_y_of_another_number_of_channels_is_refused():
    with pytest.raises(ValueError, match=r"RGB images \(\.\.\., 3\), got shape \(8, 8, 4\)"):
        to_y(np.zeros((8, 8, 4), np.uint8))


@pytest.mark.parametrize("clip", [moving_clip() / 255, moving_clip()[..., 0]])
def test_a_clip_of_another_kind_is_refused(clip):
    with pytest.raises(ValueError, match=r"a clip is \(T, H, W, 3\) uint8 RGB, not"):
        clip_metrics(clip, clip)


def test_moving_mask_is_its_definition():
    rng = np.random.default_rng(2)
    clip = moving_clip(frames=3).astype(np.int64)
    # Changes around the threshold of 12, some of them at the border.
    clip[1:, :6, :9] += rng.integers(0, 26, (6, 9, 1))
    clip[2, -7:, -9:] -= rng.integers(0, 26, (7, 9, 1))
    clip = clip.clip(0, 255).astype(np.uint8)
    mask = moving_mask(*clip)
    np.testing.assert_array_equal(mask, slow_moving_mask(*clip))
    assert 0 < mask.sum() < mask.size


def test_moving_mask_ignores_twelve_levels_and_marks_thirteen():
    still = np.full((16, 16, 3), 100, np.uint8)
    assert not moving_mask(still, still + np.uint8(12), still).any()
    assert moving_mask(still, still + np.uint8(13), still + np.uint8(13)).all()
    assert moving_mask(still, still, still + np.uint8(13)).all()


def test_clip_metrics_average_over_frames_and_tell_times_apart():
    truth = moving_clip()
    output = noisy_pair(truth.shape, seed=3)[1] // 8 + truth // 8 * 7
    metrics = clip_metrics(output, truth)
    each = [psnr(a, b) for a, b in zip(output, truth, strict=True)]
    assert [frame["psnr_rgb"] for frame in metrics["frames"]] == each
    assert metrics["psnr_rgb"] == pytest.approx(np.mean(each))
    assert metrics["psnr_rgb_given"] == pytest.approx(np.mean([each[t] for t in (0, 2, 4, 6)]))
    assert metrics["psnr_rgb_interpolated"] == pytest.approx(np.mean([each[t] for t in (1, 3, 5)]))
    y = [ssim(to_y(output[t]), to_y(truth[t])) for t in range(7)]
    assert metrics["ssim_y"] == pytest.approx(np.mean(y))
    assert metrics["ssim_y_given"] == pytest.approx(np.mean(y[::2]))


def test_moving_psnr_pools_the_squared_error_of_a_clip():
    truth = moving_clip()
    output = noisy_pair(truth.shape, seed=4)[0] // 16 + truth // 16 * 15
    squared, count = 0.0, 0
    for t in (1, 3, 5):
        mask = slow_moving_mask(truth[t - 1], truth[t], truth[t + 1])
        squared += ((output[t][mask].astype(float) - truth[t][mask]) ** 2).sum()
        count += 3 * mask.sum()
    metrics = clip_metrics(output, truth)
    assert metrics["psnr_rgb_moving"] == pytest.approx(10 * math.log10(255**2 / (squared / count)))
    assert metrics["moving_fraction"] == pytest.approx(count / 3 / (3 * truth[0, ..., 0].size))
    # Errors at given times do not count.
    output[::2] = 0
    assert clip_metrics(output, truth)["psnr_rgb_moving"] == metrics["psnr_rgb_moving"]


def test_flicker_is_the_change_between_frames_where_nothing_moves():
    truth = moving_clip()
    output = noisy_pair(truth.shape, seed=4)[0] // 16 + truth // 16 * 15
    changes = []
    for t in (1, 3, 5):
        still = ~slow_moving_mask(truth[t - 1], truth[t], truth[t + 1])
        for other in (t - 1, t + 1):
            changes.append(np.abs(output[t].astype(float) - output[other])[still])
    metrics = clip_metrics(output, truth)
    assert metrics["flicker"] == pytest.approx(np.concatenate(changes).mean())
    assert metrics["flicker_truth"] == clip_metrics(truth, truth)["flicker"] != metrics["flicker"]
    assert flicker(truth, np.zeros((3, *truth.shape[1:3]), bool)) is None


def test_a_perfect_still_clip_is_valid_json():
    truth = np.stack([moving_clip(frames=1)[0]] * 3)
    metrics = clip_metrics(truth, truth)
    assert metrics["psnr_rgb"] == metrics["psnr_y_interpolated"] == PSNR_CAP
    assert metrics["ssim_rgb_given"] == 1.0
    assert metrics["psnr_rgb_moving"] is None
    assert json.loads(json.dumps(metrics, allow_nan=False)) == metrics


def test_perfect_moving_pixels_have_the_cap():
    assert clip_metrics(moving_clip(), moving_clip())["psnr_rgb_moving"] == PSNR_CAP


@pytest.mark.parametrize("frames", [1, 4])
def test_a_clip_has_an_odd_number_of_frames(frames):
    clip = moving_clip(frames=frames)
    with pytest.raises(ValueError, match=f"got {frames}"):
        clip_metrics(clip, clip)


def test_mean_leaves_out_what_a_clip_has_not():
    rows = [{"a": 1.0, "b": None, "frames": []}, {"a": 2.0, "b": 5.0, "frames": []}]
    assert mean_metrics(rows) == {"a": 1.5, "b": 5.0}
    assert mean_metrics(rows[:1]) == {"a": 1.0, "b": None}
