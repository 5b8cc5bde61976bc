"""Between files and network: levels, views, missing pixels, reduction, bridges over damage."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from enhancing import HEIGHT, WIDTH, Frames, make_frames

from enhancement import enhancer
from enhancement.enhancer import output_masks, window_flow
from enhancement.levels import band_groups, fill_missing, survey, view_rgb
from enhancement.repair import Bridged, reduce_frame
from flow import estimate_flow
from utils.resize import imresize
from utils.text import natural_key, one_line


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


def test_text_of_a_file_is_cut_and_escaped():
    assert one_line("a\n" * 300) == r"a\n" * 200


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32, np.int64, np.float32, np.float64])
@pytest.mark.parametrize(("offset", "scale"), [(0, 1), (40_000, 1), (0, 200), (20, 0.5)])
def test_levels_are_the_ends_of_the_data(dtype, offset, scale):
    frames = (make_frames(3).astype(float) * scale + offset).astype(dtype)
    levels, damaged = survey(Frames(frames))
    assert damaged == {}
    assert (levels.black == frames.min()).all()
    assert (levels.white == frames.max()).all()
    unit = levels.to_unit(frames)
    assert (unit.min(), unit.max(), unit.dtype) == (0, 1, np.float32)
    np.testing.assert_allclose(
        levels.from_unit(unit, np.dtype(dtype)), frames, rtol=0, atol=np.ptp(frames) * 1e-6
    )
    assert f"black {frames.min():.10g} and white {frames.max():.10g}" in levels.told


def test_few_values_far_away_do_not_stretch_the_levels():
    frames = np.random.default_rng(0).uniform(0.2, 0.7, (2, 64, 64, 1)).astype(np.float32)
    expected = survey(Frames(frames))[0]
    frames[0, 3, 4], frames[1, 5, 6] = -9999, 1e20  # fewer than one of a thousand values
    levels, _ = survey(Frames(frames))
    assert expected.black - 10 < levels.black < expected.black
    assert expected.white < levels.white < expected.white + 10
    assert "values from -9999 to 1.000000" in levels.told


def test_one_value_almost_everywhere_leaves_the_others_inside():
    frames = np.full((2, 64, 64, 1), 5, np.float32)
    frames[0, 3, 4] = 100
    levels, _ = survey(Frames(frames))
    assert (levels.black[0], levels.white[0]) == (5, 100)


def test_bands_without_data_and_many_bands():
    frames = np.ma.array(np.random.default_rng(0).uniform(0, 1, (2, 16, 16, 6)), mask=False)
    frames[..., 4] = np.ma.masked
    source = Frames(frames.astype(np.float32))
    source.colour = None
    levels, _ = survey(source)
    assert (levels.black < levels.white).all()
    assert levels.white[5] == frames[..., 5].astype(np.float32).max()
    assert levels.told.count("band ") == 4
    assert levels.told.endswith("; and 2 more; --black and --white set others")


def test_bands_have_levels_of_their_own_and_colours_share_them():
    frames = np.random.default_rng(0).uniform(0, 1, (2, 16, 16, 4)).astype(np.float32)
    frames *= (0.1, 0.2, 0.3, 5)
    frames[..., 3] += 290  # a thermal band in kelvin beside reflectances
    levels, _ = survey(Frames(frames))
    np.testing.assert_array_equal(levels.white[:3], frames[..., :3].max())
    assert (levels.black[3], levels.white[3]) == (frames[..., 3].min(), frames[..., 3].max())


def test_results_keep_the_sign_and_the_bits_of_the_data():
    def clipped(frames, bits=0):
        source = Frames(frames)
        source.bits, source.full_scale = bits, False
        beyond = np.array([[-40], [40]], np.float32)
        return survey(source)[0].from_unit(beyond, frames.dtype).ravel().tolist()

    ramp = np.arange(256).reshape(1, 16, 16, 1).repeat(2, axis=0)
    assert clipped(ramp.astype(np.uint16)) == [0, 40 * 255]
    assert clipped(ramp.astype(np.uint16), 9) == [0, 511]
    assert clipped((ramp // 16).astype(np.uint8), 4) == [0, 15]
    assert clipped(ramp.astype(np.int16)) == [0, 40 * 255]
    assert clipped(ramp.astype(np.int16) - 5) == [-40 * 255 - 5, 40 * 255 - 5]
    assert clipped(-ramp.astype(np.float32)) == [-41 * 255, 0]
    assert clipped(ramp.astype(np.float32)) == [0, 40 * 255]


def test_black_and_white_of_the_user():
    source = Frames(make_frames(2).astype(np.float32))
    low, high = source.frames.min(), source.frames.max()
    for given, expected in (((None, 300), (0, 300)), ((5, None), (5, high)), ((5, 30), (5, 30))):
        levels, _ = survey(source, *given)
        assert (levels.black[0], levels.white[0]) == expected
    for given in ((300, None), (7, 7), (np.nan, None), (None, np.inf)):
        with pytest.raises(ValueError, match=r"white is .* a number above black, which is"):
            survey(source, *given)
    assert low > 0


def test_where_zero_is_white_the_network_sees_it_white():
    source = Frames(make_frames(2)[..., :1])
    source.inverted, source.measured, source.full_scale = True, True, False
    levels, _ = survey(source)
    low, high = source.frames.min(), source.frames.max()
    assert levels.to_unit(np.array([[low], [high]])).ravel().tolist() == [1, 0]
    assert levels.view(np.array([[low], [high]])).ravel().tolist() == [255, 0]
    video = levels.stretched(np.dtype(np.uint16))
    unit = np.array([[0], [1]], np.float32)
    assert video.from_unit(unit, np.dtype(np.uint16)).ravel().tolist() == [0, 65535]


def test_pictures_of_ten_bits_keep_their_exposure_in_a_video():
    """Measurements fill the range; a picture of half the brightness stays one."""
    frames = np.linspace(0, 1000, 2 * 16 * 16).reshape(2, 16, 16, 1).astype(np.uint16)
    source, middle = Frames(frames), np.array([[0.5]], np.float32)
    for measured, expected in ((False, 500 / 1023), (True, 0.5)):
        source.measured = measured
        video = survey(source)[0].stretched(np.dtype(np.uint16))
        value = int(video.from_unit(middle, np.dtype(np.uint16))[0, 0])
        assert abs(value - expected * 65535) < 20


def test_views_of_frames_of_an_earlier_pass_are_clipped():
    """Such frames are not rounded and go beyond the range; grey ones as well as coloured."""
    given = np.full((2, 16, 16, 3), 100, np.uint8)
    unrounded = np.full((16, 16, 3), -2.5, np.float32)
    unrounded[8:] = 257.5
    unrounded[0] = 99.7
    for bands in (1, 2, 3):
        source = Frames(given[..., :bands])
        levels, _ = survey(source)
        view = view_rgb(source, levels, unrounded[..., :bands])
        assert view.shape == (16, 16, 3)
        assert view[[0, 1, 8], 0].tolist() == [[100] * 3, [0] * 3, [255] * 3]


def test_how_opaque_pixels_are_is_not_seen():
    frames = np.dstack([np.full((16, 16), 90, np.uint8), np.arange(256).reshape(16, 16)])
    source = Frames(frames[None].astype(np.uint8).repeat(2, axis=0))
    source.alpha = 1
    assert (view_rgb(source, survey(source)[0], source.frames[0]) == 90).all()


@pytest.mark.parametrize("size", [(512, 24, 1), (260, 32, 3), (16, 16, 4)])
def test_frames_reduced_in_parts_are_those_reduced_whole(size):
    frame = np.random.default_rng(0).integers(0, 65536, size).astype(np.uint16)
    np.testing.assert_array_equal(reduce_frame(frame), imresize(frame.astype(np.float32), 1 / 4))


def test_a_bridge_follows_the_times_of_the_frames():
    frames = np.zeros((3, 16, 16, 3), np.uint8)
    frames[2] = 100
    source = Frames(frames, [Fraction(0), Fraction(1, 10), Fraction(1)])
    bridged = Bridged(source, survey(source)[0], {1}, "dis")
    np.testing.assert_array_equal(bridged.read(1), np.full((16, 16, 3), 10))


def test_values_that_are_not_exact_are_refused():
    for value in (2**53 + 2, -(2**53) - 2):
        with pytest.raises(ValueError, match=r"values from .* the largest possible is 2\^53"):
            survey(Frames(np.full((2, 16, 16, 1), value, np.int64)))
    levels, _ = survey(Frames(np.full((2, 16, 16, 1), 2**53, np.uint64)))
    unit = levels.to_unit(np.full((1, 1), 2**53, np.uint64))
    assert levels.from_unit(unit, np.dtype(np.uint64))[0, 0] == 2**53


def test_frames_without_a_pixel_are_refused():
    with pytest.raises(ValueError, match="has no pixel with data"):
        survey(Frames(np.ma.masked_all((2, 16, 16, 1), np.uint8)))


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
    assert band_groups(4, (0, 1, 2), alpha=3) == [(0, 1, 2)]


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
    masks = output_masks([first, np.ma.nomask, last])
    assert [None if mask is np.ma.nomask else mask.tolist() for mask in masks] == [
        [True, False, False],
        [True, False, False],
        None,
        [False, True, False],
        [False, True, False],
    ]
