"""The built-in scenes: layout, reproducibility, motion within bounds, folders that are reused."""

import json
import math

import cv2
import numpy as np
import pytest

from data.scenes.canvas import DENSITY, Canvas, Material, Sun, box, cast_shadow, polygon_coverage
from data.scenes.layouts import KINDS, paint_scene
from data.scenes.make import (
    FRAMES,
    MAX_DRIFT,
    make_scenes,
    platform_motion,
    render_clip,
    sample_world,
)
from data.scenes.traffic import add_traffic
from media.images import read_image

SMALL = {"clips": 2, "test_clips": 1, "size": (64, 96), "test_size": (64, 64)}


def contents(folder):
    return {
        path.relative_to(folder): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_scenes(tmp_path_factory.mktemp("scenes") / "set", workers=1, **SMALL)


def test_layout_is_that_of_189_vime7_and_of_test_clips(made):
    names = (made / "189_vime7_train.txt").read_text().splitlines()
    assert len(names) == 2
    for name in names:
        frames = sorted((made / "train" / name).iterdir())
        assert [path.name for path in frames] == [f"im{k}.png" for k in range(1, 8)]
        assert all(read_image(path).shape == (64, 96, 3) for path in frames)
    (clip,) = (made / "test").iterdir()
    truth = sorted((clip / "truth").iterdir())
    assert [path.name for path in truth] == [f"{k:08d}.png" for k in range(7)]
    assert read_image(truth[0]).shape == (64, 64, 3)


def test_same_pixels_with_any_number_of_workers(made, tmp_path):
    assert contents(made) == contents(make_scenes(tmp_path / "set", workers=2, **SMALL))


def test_another_seed_and_the_test_clips_show_other_scenes(made, tmp_path):
    other = make_scenes(tmp_path / "set", seed=2, workers=1, **SMALL)
    ours, theirs = contents(made), contents(other)
    assert ours.keys() == theirs.keys()
    assert all(ours[path] != theirs[path] for path in ours if path.suffix == ".png")
    rng = [np.random.default_rng([1, testing, 0]) for testing in (0, 1)]
    train, test = (render_clip("city", (64, 64), generator) for generator in rng)
    assert np.abs(train.astype(int) - test).mean() > 10


def test_global_generators_are_neither_used_nor_touched():
    np.random.seed(5)  # noqa: NPY002
    first = render_clip("suburb", (64, 64), np.random.default_rng(3))
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    np.random.seed(6)  # noqa: NPY002
    second = render_clip("suburb", (64, 64), np.random.default_rng(3))
    np.random.seed(5)  # noqa: NPY002
    np.testing.assert_array_equal(state, np.random.get_state()[1])  # noqa: NPY002
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_textured_natural_frames(kind):
    frames = render_clip(kind, (96, 96), np.random.default_rng(11))
    assert frames.shape == (FRAMES, 96, 96, 3)
    assert frames.dtype == np.uint8
    middle = frames[3].astype(float)
    assert 25 < middle.mean() < 200
    # Satellite images are nearly grey: no channel leads the others by much.
    assert np.ptp(middle.mean((0, 1))) < 60
    assert cv2.Laplacian(middle, cv2.CV_64F).std() > 3


def test_drift_is_mostly_below_a_tenth_and_never_above_the_bound():
    steps = []
    for seed in range(200):
        motion = platform_motion(np.random.default_rng(seed))
        assert motion.shape == (FRAMES, 3)
        np.testing.assert_array_equal(motion[3], 0)
        steps.append(np.linalg.norm(np.diff(motion[:, :2], axis=0), axis=1))
        assert np.abs(motion[:, 2]).max() * 500 < 0.5  # pixels at the corner of a large frame
    steps = np.array(steps)
    assert steps.max() < MAX_DRIFT
    assert np.median(steps) < 0.1
    assert steps.max() > 1


def test_a_frame_shows_the_canvas_where_the_platform_points():
    rows, columns = np.mgrid[:160, :200].astype(np.float32)
    world = np.stack([columns, rows, 0 * rows], axis=-1)
    x, y, turn = 1.25, -0.5, 0.02
    frame = sample_world(world, (48, 64), x, y, turn)
    v, u = np.mgrid[:48, :64] - np.array([23.5, 31.5])[:, None, None]
    seen_x = 99.5 + DENSITY * (math.cos(turn) * u - math.sin(turn) * v + x)
    seen_y = 79.5 + DENSITY * (math.sin(turn) * u + math.cos(turn) * v + y)
    # OpenCV rounds places, and the sum over columns and rows, to 1/32 canvas pixel, in float32.
    np.testing.assert_allclose(frame[..., 0], seen_x, atol=1.05 / 16)
    np.testing.assert_allclose(frame[..., 1], seen_y, atol=1.05 / 16)


def test_vehicles_move_along_their_lane_at_their_speed():
    canvas = Canvas((96, 96), np.random.default_rng(2), angle=0.3, bend=0.0)
    lane = np.array([(-60.0, 0.0), (60.0, 0.0)])
    vehicles = add_traffic(canvas, lane, speed=2.5, spacing=20)
    assert vehicles
    for vehicle in vehicles:
        (start, heading), (end, _) = vehicle.pose(0.0), vehicle.pose(1.0)
        step = (end - start) / DENSITY
        assert np.hypot(*step) == pytest.approx(vehicle.speed)
        assert vehicle.speed <= 3
        assert math.atan2(step[1], step[0]) == pytest.approx(heading)


def test_a_vehicle_changes_the_frame_where_it_is_and_passes_under_a_bridge():
    canvas = Canvas((96, 96), np.random.default_rng(2), angle=0.0, bend=0.0)
    canvas.fill(box(-90, -90, 90, 90), Material((0.3, 0.3, 0.3), 0, 0, 0))
    light = np.ones((*canvas.shape, 3), np.float32)
    vehicle = add_traffic(canvas, np.array([(-60.0, 0.0), (60.0, 0.0)]), 2.0, 30)[1]
    row, column = (int(k) for k in vehicle.pose(0.0)[0][::-1])
    frame = canvas.colour.copy()
    vehicle.draw(canvas, light, frame, 0.0)
    changed = np.abs(frame - canvas.colour).max(-1) > 0.02
    assert changed[row - 12 : row + 12, column - 20 : column + 20].sum() == changed.sum() > 10
    canvas.height[:] = 7.0
    hidden = canvas.colour.copy()
    vehicle.draw(canvas, light, hidden, 0.0)
    np.testing.assert_array_equal(hidden, canvas.colour)


def test_scenes_contain_moving_vehicles():
    scene = paint_scene("junction", (128, 128), np.random.default_rng(8))
    moving = [mover for mover in scene.movers if mover.visible(scene.canvas, FRAMES)]
    assert len(moving) > 5
    assert max(mover.speed for mover in scene.movers) <= 3


def test_shadow_equals_the_march_along_the_ray():
    rng = np.random.default_rng(0)
    heights = np.zeros((60, 60), np.float32)
    for _ in range(6):
        y, x = rng.integers(5, 45, 2)
        heights[y : y + 8, x : x + 8] = rng.uniform(2, 9)
    sun = Sun(1.0, 0.0, math.radians(45))
    expected = np.zeros_like(heights)
    for distance in range(1, 60):
        above = heights[:, distance:] - heights[:, :-distance] - distance / DENSITY
        rise = np.clip((above - 0.15) / 0.5, 0, 1)
        expected[:, :-distance] = np.maximum(expected[:, :-distance], rise)
    expected = cv2.GaussianBlur(expected, (0, 0), 0.7)
    np.testing.assert_allclose(cast_shadow(heights, sun), expected, atol=1e-5)
    assert expected.max() > 0.9


def test_coverage_of_a_small_shape_follows_it_by_fractions_of_a_pixel():
    corners = np.array([(20.0, 20.0), (29.0, 20.0), (29.0, 24.0), (20.0, 24.0)])
    centres = []
    for shift in (0.0, 0.1, 0.3, 0.7):
        where, mask = polygon_coverage(np.add(corners, (shift, 0)), (60, 60))
        columns = np.arange(where[1].start, where[1].stop) + 0.5
        centres.append((mask.sum(0) * columns).sum() / mask.sum())
        assert mask.sum() == pytest.approx(36, rel=0.15)
    assert np.diff(centres) == pytest.approx([0.1, 0.2, 0.4], abs=0.03)
    assert polygon_coverage(np.add(corners, (100, 0)), (60, 60))[1].size == 0


def test_leaning_moves_a_roof_and_keeps_the_ground():
    canvas = Canvas((64, 64), np.random.default_rng(2), angle=0.0, bend=0.0)
    canvas.lean = np.array([0.2, 0.0])
    canvas.colour[:] = 0.25
    canvas.colour[100:120, 80:100] = 0.75
    canvas.height[100:120, 80:100] = 20.0
    canvas.tilt(np.ones((*canvas.shape, 3), np.float32))
    # 20 m at 0.2 m per metre are 8 canvas pixels; walls appear on the side that was left.
    assert (canvas.colour[100:120, 88:108] == 0.75).all()
    wall = canvas.colour[100:120, 80:88]
    assert (wall < 0.75).all()
    assert (wall > 0.25).all()
    assert (canvas.colour[100:120, 108:] == 0.25).all()
    assert (canvas.colour[:100] == 0.25).all()


def test_complete_folder_is_reused_without_writing(made):
    before = {path: path.stat().st_mtime_ns for path in made.rglob("*")}
    make_scenes(made, workers=1, **SMALL)
    assert before == {path: path.stat().st_mtime_ns for path in made.rglob("*")}


def test_other_settings_need_overwrite(tmp_path):
    tiny = {"test_clips": 0, "size": (64, 64), "workers": 1}
    folder = make_scenes(tmp_path / "set", clips=1, **tiny)
    with pytest.raises(ValueError, match="--overwrite"):
        make_scenes(folder, clips=2, **tiny)
    make_scenes(folder, clips=2, overwrite=True, **tiny)
    assert len(list((folder / "train").iterdir())) == 2
    assert json.loads((folder / "scenes.json").read_text())["clips"] == 2


def test_a_folder_of_the_user_is_never_replaced(tmp_path):
    (tmp_path / "photo.png").write_text("mine")
    with pytest.raises(ValueError, match="choose another folder"):
        make_scenes(tmp_path, clips=1, test_clips=0, size=(64, 64), overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["photo.png"]


def test_a_failure_leaves_nothing_behind(tmp_path, monkeypatch):
    def fail(path, image):
        raise OSError("disk full")

    monkeypatch.setattr("data.lists.write_image", fail)
    with pytest.raises(OSError, match="disk full"):
        make_scenes(tmp_path / "set", clips=2, test_clips=0, size=(64, 64))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("setting", "value"),
    [("clips", -1), ("size", (30, 32)), ("size", (16, 16)), ("seed", -1), ("workers", -1)],
)
def test_settings_out_of_range_are_named(tmp_path, setting, value):
    with pytest.raises(ValueError, match=setting):
        make_scenes(tmp_path / "set", **{setting: value})
    assert not list(tmp_path.iterdir())
