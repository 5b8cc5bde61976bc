"""Between files and network: levels, views, missing pixels, reduction, bridges over damage."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from enhancing import HEIGHT, WIDTH, make_frames, write_frames

from enhancement import enhancer
from enhancement.enhancer import output_masks, window_flow
from enhancement.levels import band_groups, fill_missing, survey, view_rgb
from enhancement.repair import Bridged, reduce_frame
from flow import estimate_flow
from media.frames import Source
from media.open import open_source
from utils.resize import imresize
from utils.text import natural_key


def test_names_sort_as_people_do():
    names = ["frame10.png", "frame9.png", "Frame1.png", "frame9b.png", "a.png"]
    ordered = sorted(map(Path, names), key=natural_key)
    assert [path.name for path in ordered] == [
        "a.png",
        "Frame1.png",
        "frame9.png",
        "frame9b.png",
        "frame10.png",
    ]


def test_levels_follow_the_depth_of_the_data(tmp_path):
    frames = make_frames(3).astype(np.uint16) * 8  # up to 1760: 11 bits
    levels, damaged = survey(open_source(write_frames(tmp_path / "in", frames)))
    assert (levels.black, levels.white, damaged) == (0, 2047, {})
    assert 0 < levels.view_black < levels.view_white < 2047
    unit = levels.to_unit(frames)
    assert unit.max() < 1
    np.testing.assert_array_equal(levels.from_unit(unit, np.dtype(np.uint16)), frames)
    over = np.array([-0.1, 40.0], np.float32)
    assert levels.from_unit(over, np.dtype(np.uint16)).tolist() == [0, 65535]


class Arrays(Source):
    """Frames from memory."""

    suffix = ".png"

    def __init__(self, frames, times=None):
        self.path, self.frames, self.count, self.times = Path("arrays"), frames, len(frames), times
        self.adopt(frames[0])

    def read(self, index):
        return self.frames[index]

    def name(self, index):
        return f"array {index}"


def test_views_of_frames_of_an_earlier_pass_are_clipped():
    """Such frames are not rounded and go beyond the range; grey ones as well as coloured."""
    given = np.full((2, 16, 16, 3), 100, np.uint8)
    unrounded = np.full((16, 16, 3), -2.5, np.float32)
    unrounded[8:] = 257.5
    unrounded[0] = 99.7
    for bands in (1, 2, 3):
        source = Arrays(given[..., :bands])
        levels, _ = survey(source)
        view = view_rgb(source, levels, unrounded[..., :bands])
        assert view.shape == (16, 16, 3)
        assert view[[0, 1, 8], 0].tolist() == [[100] * 3, [0] * 3, [255] * 3]


@pytest.mark.parametrize("size", [(512, 24, 1), (260, 32, 3), (16, 16, 4)])
def test_frames_reduced_in_parts_are_those_reduced_whole(size):
    frame = np.random.default_rng(0).integers(0, 65536, size).astype(np.uint16)
    np.testing.assert_array_equal(reduce_frame(frame), imresize(frame.astype(np.float32), 1 / 4))


def test_a_bridge_follows_the_times_of_the_frames():
    frames = np.zeros((3, 16, 16, 3), np.uint8)
    frames[2] = 100
    source = Arrays(frames, [Fraction(0), Fraction(1, 10), Fraction(1)])
    bridged = Bridged(source, survey(source)[0], {1}, "dis")
    np.testing.assert_array_equal(bridged.read(1), np.full((16, 16, 3), 10))


def test_values_of_more_than_32_bits_are_refused():
    with pytest.raises(ValueError, match="values up to 4294967296; the largest possible is 2"):
        survey(Arrays(np.full((2, 16, 16, 1), 2**32, np.uint64)))
    assert survey(Arrays(np.full((2, 16, 16, 1), 9, np.uint64)))[0].white == 255


def test_missing_pixels_take_the_nearest_value():
    pixels = np.ma.array(np.arange(30, dtype=np.uint16).reshape(5, 6, 1), mask=False)
    pixels[:, 3:] = np.ma.masked
    filled = fill_missing(pixels)[..., 0]
    np.testing.assert_array_equal(filled[:, :3], np.arange(30).reshape(5, 6)[:, :3])
    np.testing.assert_array_equal(filled[:, 5], np.arange(30).reshape(5, 6)[:, 2])


def test_bands_go_through_together_or_alone():
    assert band_groups(1, None) == [(0, 0, 0)]
    assert band_groups(3, (0, 1, 2)) == [(0, 1, 2)]
    assert band_groups(4, (2, 1, 0)) == [(2, 1, 0), (3, 3, 3)]
    assert band_groups(2, None) == [(0, 0, 0), (1, 1, 1)]


@pytest.mark.parametrize("method", ["dis", "pyflow"])
def test_flow_between_large_frames_is_that_of_all_at_once(monkeypatch, method):
    frames = make_frames(4)
    expected = window_flow(frames, method)
    calls, flow = [], estimate_flow
    monkeypatch.setattr(enhancer, "given_flow", lambda *given: calls.append(1) or flow(*given))
    monkeypatch.setattr(enhancer, "LARGE", HEIGHT * WIDTH)
    for large, all_at_once in zip(window_flow(frames, method), expected, strict=True):
        np.testing.assert_array_equal(large, all_at_once)
    assert len(calls) == 3


def test_masks_between_are_those_of_either_side():
    first, last = np.array([True, False, False]), np.array([False, True, False])
    masks = output_masks([first, None, last])
    assert [None if mask is None else mask.tolist() for mask in masks] == [
        [True, False, False],
        [True, False, False],
        None,
        [False, True, False],
        [False, True, False],
    ]
