"""Damaged frames are made along the motion between their neighbours, at their own time."""

from dataclasses import replace
from fractions import Fraction

import cv2
import numpy as np
import pytest
from enhancing import Frames

from enhancement.levels import full_scale
from enhancement.repair import Bridged, Denser, LowResolutionSink, reduce_frame

LEVELS = full_scale(np.dtype(np.uint8))


def drifting(count, step):
    """A texture that moves `step` pixels to the right from frame to frame, and how it began."""
    texture = np.random.default_rng(0).integers(0, 256, (64, 96 + count * step, 3), dtype=np.uint8)
    texture = cv2.GaussianBlur(texture, (0, 0), 2.5)
    texture = cv2.normalize(texture, None, 0, 255, cv2.NORM_MINMAX)
    starts = [(count - index) * step for index in range(count)]
    return np.stack([texture[:, start : start + 96] for start in starts])


def error_of(pixels, truth):
    return np.abs(pixels.astype(float) - truth)[8:-8, 16:-16].mean()


@pytest.mark.parametrize("damaged", [{1}, {1, 2}, {2}])
def test_a_bridged_frame_follows_the_motion(damaged):
    frames = drifting(4, step=2)
    bridged = Bridged(Frames(frames), LEVELS, damaged, "dis")
    before, after = (min(damaged) - 1, max(damaged) + 1)
    for index in damaged:
        made = bridged.read(index)
        share = (index - before) / (after - before)
        mean = (1 - share) * frames[before] + share * frames[after].astype(float)
        assert error_of(made, frames[index]) < 0.4 * error_of(mean, frames[index])
    np.testing.assert_array_equal(bridged.read(0), frames[0])


def test_the_time_of_a_frame_decides_where_things_are():
    """The frame between came a quarter of the way after the first one."""
    frames = drifting(5, step=2)
    given = frames[[0, 1, 4]]
    times = [Fraction(0), Fraction(1), Fraction(4)]
    made = Bridged(Frames(given, times), LEVELS, {1}, "dis").read(1)
    assert error_of(made, frames[1]) < 0.4 * error_of(made, frames[2])


@pytest.mark.parametrize(("damaged", "index", "shown"), [({0, 1}, 0, 2), ({3}, 3, 2)])
def test_at_an_end_the_nearest_frame_is_repeated(damaged, index, shown):
    frames = drifting(4, step=4)
    bridged = Bridged(Frames(frames), LEVELS, damaged, "dis")
    np.testing.assert_array_equal(bridged.read(index), frames[shown])


@pytest.mark.parametrize(("dtype", "value"), [(np.uint32, 2**32 - 1), (np.int32, 1_000_000_007)])
def test_large_integers_stay_exact(dtype, value):
    frames = np.full((3, 32, 40, 1), value, dtype)
    levels = replace(LEVELS, view_white=np.full(1, float(value)))
    assert (Bridged(Frames(frames), levels, {1}, "dis").read(1) == value).all()
    enlarged = np.full((64, 80, 1), value, dtype)
    np.testing.assert_allclose(reduce_frame(enlarged), value, rtol=1e-12)


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_types_and_missing_pixels_stay(dtype):
    frames = np.ma.array(drifting(3, step=4).astype(dtype), mask=False)
    frames.mask[0, :5], frames.mask[2, :, :5] = True, True
    made = Bridged(Frames(frames), LEVELS, {1}, "dis").read(1)
    assert made.dtype == dtype
    assert made.mask[:5].all()
    assert made.mask[:, :5].all()
    assert not made.mask[5:, 5:].any()


def test_frames_of_an_earlier_pass_come_between_and_are_masked_like_their_neighbours(tmp_path):
    frames = np.ma.array(drifting(2, step=4), mask=False)
    frames.mask[0, :5], frames.mask[1, :, :5] = True, True
    enlarged = np.full((3, 256, 384, 3), 70, np.uint8)
    LowResolutionSink(tmp_path / "pass1").write(0, enlarged)
    source = Frames(frames, [Fraction(0), Fraction(1, 10)])
    denser = Denser(source, tmp_path / "pass1")
    assert denser.count == 3
    made = denser.read(1)
    assert (made == 70).all()
    np.testing.assert_array_equal(made.mask, frames.mask[0] | frames.mask[1])
    np.testing.assert_array_equal(denser.read(2), frames[1])
    assert (denser.name(1), denser.name(2)) == ("frame 0 and a half", "frame 1")
