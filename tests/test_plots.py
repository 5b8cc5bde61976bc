"""Which frame and which place of a clip its figure shows, and that the figure is drawn."""

import itertools

import cv2
import numpy as np
import pytest

from utils.plots import comparison_figure, crop_size, detailed_place, figure_time


def clip_with_traffic(moving_from=3, frames=7):
    """Still ground; from one time on a bright vehicle drives."""
    ground = np.random.default_rng(0).integers(80, 100, (64, 96, 3), dtype=np.uint8)
    clip = np.stack([ground] * frames)
    for t in range(moving_from, frames):
        clip[t, 40:44, 8 * t : 8 * t + 6] = 240
    return clip


def test_figure_shows_the_interpolated_frame_with_the_most_motion():
    time, moving = figure_time(clip_with_traffic(moving_from=5))
    assert time == 5
    assert moving[41, 42]
    assert not moving[:30].any()


def test_figure_of_a_still_clip_shows_a_given_frame():
    time, moving = figure_time(clip_with_traffic(moving_from=7))
    assert time == 2
    assert not moving.any()


def test_detailed_place_is_the_best_of_all_places():
    frame = np.random.default_rng(1).integers(0, 256, (40, 52, 3), dtype=np.uint8)
    within = np.zeros((40, 52), bool)
    within[20:33, 11:39] = True
    grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(int)

    def energy(top, left, mask):
        total = 0
        for y, x in itertools.product(range(top, top + 12), range(left, left + 16)):
            across = (grey[y, x] - grey[y, x - 1]) ** 2 if x else 0
            down = (grey[y, x] - grey[y - 1, x]) ** 2 if y else 0
            total += mask[y, x] * (across + down)
        return total

    places = list(itertools.product(range(0, 29, 4), range(0, 37, 4)))
    everywhere = np.ones((40, 52), bool)
    for mask, argument in ((everywhere, None), (within, within), (everywhere, ~everywhere)):
        best = max(places, key=lambda place: energy(*place, mask))
        assert detailed_place(frame, (12, 16), argument) == best


def test_a_window_larger_than_the_frame_is_refused():
    with pytest.raises(ValueError, match=r"\(48, 16\) does not fit"):
        detailed_place(np.zeros((40, 52, 3), np.uint8), (48, 16))


@pytest.mark.parametrize(
    ("frame", "crop"),
    [((640, 640), (160, 160)), ((64, 96), (48, 72)), ((100, 400), (48, 192)), ((16, 16), (16, 16))],
)
def test_crop_has_the_shape_of_the_frame(frame, crop):
    assert crop_size(*frame) == crop


@pytest.mark.parametrize("moving_from", [3, 7])
def test_figure_is_drawn_with_one_column_per_panel(tmp_path, moving_from):
    truth = clip_with_traffic(moving_from)
    given = truth[::2, ::4, ::4]
    widths = []
    for outputs in ({"a": truth}, {"a": truth, "b": truth // 2}):
        comparison_figure(tmp_path / "clip.png", "clip", given, truth, outputs)
        image = cv2.imread(str(tmp_path / "clip.png"))
        assert image.std() > 20
        widths.append(image.shape[1])
    assert widths[1] - widths[0] == pytest.approx(160 * 3.06, abs=2)
