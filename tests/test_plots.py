"""Which frame and which place of a clip its figure shows, and that the figure is drawn."""

import itertools
import warnings

import cv2
import numpy as np
import pytest

from utils import plots
from utils.metrics import psnr
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


def test_figure_is_drawn_with_one_column_per_panel(tmp_path):
    widths = []
    for moving_from, names in ((3, "a"), (7, "ab")):
        truth = clip_with_traffic(moving_from)
        given, outputs = truth[::2, ::4, ::4], dict.fromkeys(names, truth)
        comparison_figure(tmp_path / "clip.png", "clip", given, truth, outputs)
        image = cv2.imread(str(tmp_path / "clip.png"))
        assert image.std() > 20
        widths.append(image.shape[1])
    assert widths[1] - widths[0] == pytest.approx(160 * 3.06, abs=2)


def test_names_that_the_usual_font_lacks_are_drawn_by_another(tmp_path, monkeypatch, caplog):
    """STIXGeneral, which comes with matplotlib, stands for a Chinese font, U+0359 for a name."""
    monkeypatch.setattr(plots, "DPI", 40)
    image = np.zeros((16, 16, 3), np.uint8)
    panels = [plots.Panel("", image), plots.Panel("", image[..., 0])]

    def drawn(title, fonts):
        monkeypatch.setattr(plots, "CHINESE_FONTS", fonts)
        plots._draw(tmp_path / "a.png", title, panels, np.s_[0:4, 0:4])
        return cv2.imread(str(tmp_path / "a.png"))

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        boxes = drawn("\u0359 \u4e2d", ("No Such Font",))
        assert (drawn("\u0359 \u4e2d", ("No Such Font", "STIXGeneral")) != boxes).any()
    np.testing.assert_array_equal(drawn("clip", ("STIXGeneral",)), drawn("clip", ()))
    assert not caplog.records


def test_every_panel_holds_its_frame_and_its_crop(tmp_path, monkeypatch):
    """Of the file: what stands above the crop in every panel's whole frame, and in its crop."""
    truth = np.full((7, 64, 96, 3), 90, np.uint8)
    truth[5, 54:60, 80:90] = 240  # what moves, in the corner of the crop
    given = truth[::2, ::4, ::4].copy()
    given[2] = (200, 40, 40)  # the one before time 5
    first, last = np.full_like(truth, 60), np.full_like(truth, 130)
    first[5], last[5] = (30, 180, 60), (40, 60, 220)
    first[5, :14], last[5, :14] = 10, 20
    panels = []
    draw = plots._draw
    monkeypatch.setattr(plots, "_draw", lambda *a: (panels.extend(a[2]), draw(*a)))
    comparison_figure(tmp_path / "a.png", "a$b^$", given, truth, {"a": first, "b": last})

    labels = [panel.label.split(",")[0] for panel in panels]
    assert labels == ["low resolution", "a", "b", "truth", "error of b"]
    error = np.abs(last[5].astype(float) - truth[5]).mean(axis=2)
    np.testing.assert_allclose(panels[-1].image, error)
    assert f"{psnr(first[5], truth[5]):.2f}" in panels[1].label

    image = cv2.imread(str(tmp_path / "a.png"))[..., ::-1].astype(int)
    height, width = 480 * 64 // 96, 480  # of a panel
    bottom = image.shape[0] - round(plots.DPI * plots.GAP)
    for column, (whole, part) in enumerate(
        [((200, 40, 40),) * 2, ((10, 10, 10), (30, 180, 60)), ((20, 20, 20), (40, 60, 220))]
    ):
        left = round(plots.DPI * (plots.GAP + column * (plots.PANEL + plots.GAP)))
        frame = image[bottom - 2 * height - 10 + height // 10, left + width // 2]
        assert np.abs(frame - whole).max() < 6, column
        for down in (0.1, 0.5):
            crop = image[round(bottom - height * (1 - down)), left + width // 2]
            assert np.abs(crop - part).max() < 6, column
