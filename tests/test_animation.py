"""Clips from stills: determinism, camera, traffic, odd stills, and the command's folders."""

import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
import rasterio
import torch
from rasterio.enums import ColorInterp
from rasters import write_geotiff
from torch.utils.data import DataLoader

from data import lists, traffic
from data.animation import (
    FRAMES,
    Animation,
    Config,
    StillsDataset,
    animate,
    draw_camera,
    ground_to_frames,
    write_clips,
)
from data.clips import find_clips, read_clip
from data.septuplets import SeptupletDataset
from data.stills import Stills, find_stills, read_still, stretch_to_8_bits
from utils.resize import imresize

PATCH = 16
QUIET = Animation(traffic_share=0, aircraft_share=0, stretch_share=0)


def texture(height, width, seed=0, low=60, high=200):
    """A smooth random RGB image, (H, W, 3) uint8."""
    noise = np.random.default_rng(seed).standard_normal((height, width, 3)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 2)
    return cv2.normalize(smooth, None, low, high, cv2.NORM_MINMAX).astype(np.uint8)


@pytest.fixture
def stills(tmp_path):
    """Three stills in two folders, one of them large enough to count several times."""
    (tmp_path / "stills" / "more").mkdir(parents=True)
    cv2.imwrite(str(tmp_path / "stills" / "a.png"), texture(80, 96, 1))
    cv2.imwrite(str(tmp_path / "stills" / "b.jpg"), texture(72, 72, 2))
    cv2.imwrite(str(tmp_path / "stills" / "more" / "c.png"), texture(200, 190, 3))
    return tmp_path / "stills"


def same(a, b):
    return all(torch.equal(a[key], b[key]) for key in a if key != "name") and a["name"] == b["name"]


def test_sample_shapes_and_length(stills):
    dataset = StillsDataset(stills, patch=PATCH)
    assert len(dataset) == 1 + 1 + 3
    sample = dataset[0]
    assert sample["frames"].shape == (4, 3, 16, 16)
    assert sample["truth"].shape == (7, 3, 64, 64)
    assert sample["forward_flow"].shape == sample["backward_flow"].shape == (3, 2, 16, 16)
    assert {sample[name].dtype for name in ("frames", "truth")} == {torch.uint8}
    assert {sample[name].dtype for name in ("forward_flow", "backward_flow")} == {torch.float32}
    assert dataset[4]["name"] == "more/c.png:4"
    with pytest.raises(IndexError):
        dataset[5]


@pytest.mark.parametrize(
    ("given", "degrade"), [(1, "none"), (2, "real"), (3, "faults"), (1, "real")]
)
def test_fewer_given_frames_are_the_first_ones_of_the_same_clip(stills, given, degrade):
    look = Animation(traffic_share=1, aircraft_share=0.5)
    whole = StillsDataset(stills, PATCH, animation=look, degrade=degrade)
    shorter = StillsDataset(stills, PATCH, animation=look, given_frames=given, degrade=degrade)
    for index in range(4):
        all_frames, cut = whole[index], shorter[index]
        assert torch.equal(cut["truth"], all_frames["truth"][: 2 * given - 1])
        assert torch.equal(cut["frames"], all_frames["frames"][:given])
        for name in ("forward_flow", "backward_flow"):
            assert torch.equal(cut[name], all_frames[name][: given - 1])


@pytest.mark.parametrize("degrade", ["none", "real"])
def test_stills_allow_more_given_frames_than_septuplets(stills, degrade):
    dataset = StillsDataset(stills, PATCH, given_frames=6, degrade=degrade)
    for index in range(4):
        sample = dataset[index]
        assert sample["frames"].shape == (6, 3, 16, 16)
        assert sample["truth"].shape == (11, 3, 64, 64)
        assert sample["backward_flow"].shape == (5, 2, 16, 16)


def test_given_frames_are_the_reduced_truth(stills):
    sample = StillsDataset(stills, patch=PATCH)[3]
    truth = sample["truth"].permute(0, 2, 3, 1).numpy()
    given = sample["frames"].permute(0, 2, 3, 1).numpy()
    assert np.array_equal(given, imresize(truth[::2], 1 / 4))


def test_samples_depend_on_seed_epoch_and_index_only(stills):
    first, second = StillsDataset(stills, patch=PATCH), StillsDataset(stills, patch=PATCH)
    wanted = first[(2, 3)]
    second[0], second[(1, 4)]
    assert same(second[(2, 3)], wanted)
    assert same(first[3], first[(0, 3)])
    for other in (first[(1, 3)], first[(2, 4)], StillsDataset(stills, PATCH, seed=5)[(2, 3)]):
        assert not torch.equal(other["truth"], wanted["truth"])


def test_workers_change_nothing(stills):
    dataset = StillsDataset(stills, patch=PATCH, cache_bytes=30_000)
    keys = [(epoch, index) for epoch in (0, 1) for index in range(len(dataset))]
    alone = list(DataLoader(dataset, batch_size=None, sampler=keys))
    shared = list(DataLoader(dataset, batch_size=None, sampler=keys, num_workers=2))
    assert all(same(a, b) for a, b in zip(alone, shared, strict=True))


@pytest.mark.parametrize(("still", "size"), [((300, 280), (64, 96)), ((72, 104), (96, 64))])
def test_camera_stays_on_the_still_and_below_its_speed(still, size):
    animation = Animation(drift_fast_share=0.5)
    corners = np.array([[0, 0, 1], [0, size[0] - 1, 1], [size[1] - 1, 0, 1]])
    corners = np.concatenate([corners, [[size[1] - 1, size[0] - 1, 1]]])
    for seed in range(200):
        camera, reduction = draw_camera(np.random.default_rng(seed), still, size, animation)
        seen = np.einsum("tij,kj->tki", camera, corners)
        assert seen.min() >= 0
        assert (seen <= (still[1] - 1, still[0] - 1)).all()
        assert 1 <= reduction <= animation.reduction_max
        step = np.linalg.norm(np.diff(seen, axis=0), axis=-1) / reduction
        assert step.max() < animation.drift_max + 8 * animation.jitter + 0.2


def test_the_camera_sees_a_still_turned_and_mirrored_in_every_way():
    ways = set()
    for seed in range(60):
        rng = np.random.default_rng(seed)
        camera, reduction = draw_camera(rng, (200, 200), (64, 64), Animation())
        ways.add(tuple(np.rint(camera[3, :, :2] / reduction).ravel().astype(int)))
    axes = [(a, 0, 0, b) for a in (1, -1) for b in (1, -1)]
    assert ways == {*axes, *((0, a, b, 0) for a, _, _, b in axes)}


def test_most_clips_drift_below_a_tenth_of_a_pixel():
    speeds = []
    for seed in range(200):
        camera, reduction = draw_camera(
            np.random.default_rng(seed), (400, 400), (64, 64), Animation(jitter=0)
        )
        centre = camera @ (31.5, 31.5, 1)
        speeds.append(np.linalg.norm(centre[-1] - centre[0]) / 6 / reduction)
    assert 0.6 < np.mean(np.array(speeds) < 0.1) < 0.8
    assert 1 < max(speeds) <= 2


def test_frames_are_the_still_where_the_camera_looks(monkeypatch):
    """Against the definition: the blurred still sampled at the camera's positions."""
    still = texture(120, 110)
    monkeypatch.setattr("data.look.tone", lambda image, *_: image.astype(np.float32))
    monkeypatch.setattr("data.look.brightness_drift", lambda *_: (np.ones(7), np.zeros(7)))
    for seed in range(4):
        clip = animate(still, (64, 64), np.random.default_rng(seed), QUIET)
        rng = np.random.default_rng(seed)
        camera, reduction = draw_camera(rng, still.shape[:2], (64, 64), QUIET)
        sigma = reduction * rng.uniform(QUIET.blur_min, QUIET.blur_max)
        blurred = cv2.GaussianBlur(still.astype(np.float32), (0, 0), sigma)
        y, x = np.mgrid[:64, :64]
        for frame, matrix in zip(clip, camera, strict=True):
            place = (matrix @ np.stack([x, y, np.ones_like(x)]).reshape(3, -1)).astype(np.float32)
            wanted = cv2.remap(blurred, *place.reshape(2, 64, 64), cv2.INTER_LINEAR)
            assert np.abs(wanted - frame).max() < 6
            assert np.abs(wanted - frame).mean() < 0.8


def test_the_camera_looks_where_there_is_data():
    still = texture(120, 600)
    still[:, :350] = 0
    for seed in range(3):
        clip = animate(still, (64, 64), np.random.default_rng(seed), replace(QUIET, blur_max=0.5))
        assert clip.std(axis=(1, 2)).min() > 3
    animate(np.zeros_like(still), (64, 64), np.random.default_rng(0), QUIET)  # nowhere: it ends


def test_no_black_border_at_the_highest_speed(monkeypatch):
    monkeypatch.setattr("data.look.tone", lambda image, *_: image.astype(np.float32))
    animation = Animation(
        traffic_share=0,
        aircraft_share=0,
        drift_usual=2,
        drift_fast_share=1,
        rotation=0.2,
        zoom=0.01,
    )
    still = np.full((80, 72, 3), 150, np.uint8)
    for seed in range(20):
        clip = animate(still, (64, 64), np.random.default_rng(seed), animation)
        assert clip.min() > 140


def one_vehicle(position, velocity, shade=0.0):
    return traffic.Vehicles(
        position=np.array([position]),
        velocity=np.array([velocity]),
        heading=np.array([np.arctan2(velocity[1], velocity[0])]),
        length=np.array([5.0]),
        width=np.array([2.0]),
        colour=np.array([[200, 100, 50]], np.float32),
        glass=np.zeros(1),
        shadow=np.array([3.0, 3.0]),
        shade=shade,
    )


def still_camera():
    return np.broadcast_to(np.eye(2, 3), (FRAMES, 2, 3))


def test_a_vehicle_keeps_its_area_and_moves_with_its_velocity():
    frames = [np.zeros((48, 48, 3), np.float32) for _ in range(FRAMES)]
    velocity = np.array([1.3, -0.7])
    traffic.draw_vehicles(frames, one_vehicle((22.3, 25.6), velocity), still_camera(), 0.8)
    y, x = np.mgrid[:48, :48]
    for t, frame in enumerate(frames):
        mass = frame.sum((0, 1))
        assert mass == pytest.approx(10 * np.array([200, 100, 50]), rel=0.01)
        centre = np.array([(frame[..., 0] * x).sum(), (frame[..., 0] * y).sum()]) / mass[0]
        assert centre == pytest.approx((22.3, 25.6) + (t - 3) * velocity, abs=0.02)


def test_a_vehicle_matches_supersampled_drawing():
    frames = [np.full((32, 32, 3), 90, np.float32) for _ in range(FRAMES)]
    vehicle = one_vehicle((15.4, 16.2), (0.9, 0.5), shade=0.5)
    traffic.draw_vehicles(frames, vehicle, still_camera(), 0.8)
    fine = np.full((32 * 16, 32 * 16, 3), 90, np.float32)
    middle = (np.array([15.4, 16.2]) + 0.5) * 16 - 0.5
    y, x = np.mgrid[: 32 * 16, : 32 * 16]
    for shift, colour in (((3, 3), (45, 45, 45)), ((0, 0), (200, 100, 50))):
        dx, dy = x - middle[0] - 16 * shift[0], y - middle[1] - 16 * shift[1]
        cos, sin = np.cos(vehicle.heading[0]), np.sin(vehicle.heading[0])
        inside = (np.abs(dx * cos + dy * sin) < 40) & (np.abs(dy * cos - dx * sin) < 16)
        fine[inside] = colour
    wanted = cv2.resize(
        cv2.GaussianBlur(fine, (0, 0), 0.8 * 16), (32, 32), interpolation=cv2.INTER_AREA
    )
    # Where body and shadow overlap, blurring each by itself is not quite blurring both.
    assert np.abs(wanted - frames[3]).max() < 8
    assert np.abs(wanted - frames[3]).mean() < 0.2


def test_vehicles_at_and_beyond_the_border_are_clipped():
    for position in ((0.2, 20.0), (47.8, 47.5), (-30.0, 5.0), (5.0, 90.0)):
        frames = [np.zeros((48, 48, 3), np.float32) for _ in range(FRAMES)]
        traffic.draw_vehicles(frames, one_vehicle(position, (1.0, 0.0)), still_camera(), 0.6)
        assert (frames[3].sum() > 0) == (min(position) >= 0 and max(position) < 48)


@pytest.mark.parametrize("length", [7, 13])
def test_ground_moves_with_the_camera(length):
    """A point of the still is where ground_to_frames says, in every frame."""
    camera, _ = draw_camera(np.random.default_rng(3), (200, 200), (64, 64), Animation(), length)
    point = np.array([20.0, 40.0, 1.0])
    assert len(camera) == length
    on_still = camera[length // 2] @ point
    for motion, matrix in zip(ground_to_frames(camera), camera, strict=True):
        assert matrix @ np.append(motion @ point, 1) == pytest.approx(on_still)


@pytest.mark.parametrize("share", ["traffic_share", "aircraft_share"])
def test_traffic_moves_over_ground_at_rest(share):
    rest = {"drift_fast_share": 0, "drift_usual": 1e-6, "jitter": 0, "rotation": 0, "zoom": 0}
    none = {"traffic_share": 0, "aircraft_share": 0, "fast_share": 1}
    still = texture(160, 160, low=80, high=120)
    moving = 0
    for seed in range(6):
        changes = [
            np.abs(np.diff(clip.astype(int), axis=0)).max(axis=(0, 3))
            for clip in (
                animate(still, (128, 128), np.random.default_rng(seed), Animation(**rest | none)),
                animate(
                    still,
                    (128, 128),
                    np.random.default_rng(seed),
                    Animation(**rest | none | {share: 1}),
                ),
            )
        ]
        assert changes[0].max() <= 6
        assert np.mean(changes[1] > 12) < 0.3
        moving += (changes[1] > 12).sum() > 20
    assert moving >= 5


def test_traffic_is_as_much_and_as_fast_as_the_animation_says(monkeypatch):
    asked, flown = [], []
    drive, fly = traffic.plan_vehicles, traffic.plan_aircraft

    def plan_vehicles(rng, scene, roads, speed, saturation):
        asked.append((roads, speed))
        return drive(rng, scene, roads, speed, saturation)

    def plan_aircraft(rng, scene, speed_max):
        flown.append(speed_max)
        return fly(rng, scene, speed_max)

    monkeypatch.setattr(traffic, "plan_vehicles", plan_vehicles)
    monkeypatch.setattr(traffic, "plan_aircraft", plan_aircraft)
    shares = {"traffic_share": 1, "aircraft_share": 1, "roads_max": 2}
    for share, speed in ((0, (0.15, 0.9)), (1, (0.9, 2.0))):
        busy = Animation(**shares, fast_share=share, speed_split=0.9, speed_max=2.0)
        asked.clear()
        for seed in range(8):
            animate(texture(90, 90), (64, 64), np.random.default_rng(seed), busy, count=1)
        assert set(asked) == {(1, speed), (2, speed)}
    assert set(flown) == {2.0}


def test_grey_alpha_and_16_bit_stills(tmp_path):
    image = texture(40, 50)
    cv2.imwrite(str(tmp_path / "grey.png"), image[..., 0])
    cv2.imwrite(str(tmp_path / "alpha.png"), np.dstack([image, image[..., :1]]))
    cv2.imwrite(str(tmp_path / "deep.png"), image.astype(np.uint16) * 9 + 500)
    grey = read_still(tmp_path / "grey.png")
    assert np.array_equal(grey, np.repeat(image[..., :1], 3, axis=2))
    assert np.array_equal(read_still(tmp_path / "alpha.png"), image[..., ::-1])
    deep = read_still(tmp_path / "deep.png")
    assert np.array_equal(deep, stretch_to_8_bits(image[..., ::-1].astype(np.uint16) * 9 + 500))
    assert deep.min() == 0
    assert deep.max() == 255


def test_geotiff_keeps_the_order_of_bands_and_ignores_missing_pixels(tmp_path):
    bands = np.arange(4, dtype=np.int16)[:, None, None] * 1000 + texture(40, 50)[..., 0]
    bands[:, :5] = -9999
    still = read_still(write_geotiff(tmp_path / "scene.tif", bands, nodata=-9999))
    assert still.shape == (40, 50, 3)
    red, green, blue = still[5:].mean((0, 1))
    assert red < 30 < green < 200 < blue
    assert still[:5].max() == 0


def test_colours_of_a_geotiff_are_found_by_their_names(tmp_path):
    bands = np.arange(4, dtype=np.int16)[:, None, None] * 1000 + texture(40, 50)[..., 0]
    colours = [ColorInterp.blue, ColorInterp.green, ColorInterp.red, ColorInterp.undefined]
    still = read_still(write_geotiff(tmp_path / "scene.tif", bands, colours=colours))
    red, green, blue = still.mean((0, 1))
    assert blue < 30 < green < 200 < red
    described = write_geotiff(tmp_path / "described.tif", bands)
    with rasterio.open(described, "r+") as file:
        file.descriptions = ("Blue", "green ", "RED", "nir")
    np.testing.assert_array_equal(read_still(described), still)


def test_stretch_ignores_outliers_and_zeros():
    image = np.linspace(1000, 2000, 10_000).reshape(100, 100)
    image[0, :10], image[1, 0] = 0, 60_000
    stretched = stretch_to_8_bits(image)
    assert int(stretched[50, 50]) == pytest.approx(128, abs=2)
    assert stretched[0, 0] == 0
    assert not stretch_to_8_bits(np.zeros((4, 4))).any()


def test_bad_stills_are_named_together(stills):
    (stills / "broken.jpg").write_bytes(b"not a picture")
    (stills / "cut.jpg").write_bytes((stills / "b.jpg").read_bytes()[:800])
    (stills / "empty.png").touch()
    (stills / "cut.tif").write_bytes(b"II*\0 no more")
    cv2.imwrite(str(stills / "small.png"), texture(60, 200))
    with pytest.raises(ValueError, match="5 of 8 stills cannot be used") as error:
        StillsDataset(stills, patch=PATCH)
    for name in ("broken.jpg", "cut.jpg", "empty.png", "cut.tif", "small.png"):
        assert name in str(error.value)


@pytest.mark.parametrize(
    ("patch", "remedy"),
    [
        (80, "328x328 pixels are needed, fewer with a lower --patch"),
        (16, "72x72 pixels are needed"),
    ],
)
def test_small_stills_are_refused_with_what_makes_them_do(tmp_path, patch, remedy):
    cv2.imwrite(str(tmp_path / "small.png"), texture(60, 200))
    with pytest.raises(ValueError, match=rf"at least {remedy}\):"):
        StillsDataset(tmp_path, patch=patch)


def test_no_stills(tmp_path):
    with pytest.raises(FileNotFoundError, match="no stills"):
        StillsDataset(tmp_path)
    with pytest.raises(FileNotFoundError, match="not a folder"):
        StillsDataset(tmp_path / "nowhere")
    for name in ("._a.png", ".thumbs/a.png"):  # what others hide are no stills
        (tmp_path / name).parent.mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / name), texture(200, 200))
    with pytest.raises(FileNotFoundError, match="no stills"):
        StillsDataset(tmp_path)


def test_stills_have_one_order_on_every_system(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "__lt__", None)  # which has no case on Windows
    for name in ("b.png", "C.png", "a/d.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    names = [path.relative_to(tmp_path).as_posix() for path in find_stills(tmp_path)]
    assert names == ["C.png", "a/d.png", "b.png"]


def test_stills_beyond_the_limit_are_read_again(stills):
    kept = Stills(stills, (64, 64), cache_bytes=10**9)
    read = Stills(stills, (64, 64), cache_bytes=20_000)
    assert all(np.array_equal(kept[number], read[number]) for number in range(3))
    assert kept[2] is kept[2]
    assert read[2] is not read[2]


@pytest.mark.parametrize(
    "setting", [{"blur_min": 2}, {"traffic_share": 1.5}, {"drift_usual": 3}, {"reduction_max": 0.5}]
)
def test_impossible_settings(setting):
    with pytest.raises(ValueError, match=next(iter(setting)).split("_")[0]):
        Animation(**setting)


def test_command_writes_septuplets_that_the_dataset_reads(stills, tmp_path):
    out = tmp_path / "out"
    names = write_clips(Config(stills=str(stills), out=str(out), clips=4, height=64, width=64))
    assert (out / "189_vime7_train.txt").read_text().split() == names
    for name in names:
        folder = out / "train" / name
        assert sorted(path.name for path in folder.iterdir()) == [f"im{t}.png" for t in range(1, 8)]
    dataset = SeptupletDataset(out, patch=PATCH, flow_method="dis")
    assert len(dataset) == 4
    assert dataset[0]["truth"].shape == (7, 3, 64, 64)


def test_clips_of_stills_of_any_name_are_read_back(tmp_path):
    (tmp_path / "stills").mkdir()
    for name in ("a .png", "b\nc.png", "x 7 (256,448,3).png"):
        (tmp_path / "stills" / name).write_bytes(cv2.imencode(".png", texture(80, 80))[1].tobytes())
    out = str(tmp_path / "out")
    write_clips(Config(stills=str(tmp_path / "stills"), out=out, clips=3, height=64, width=64))
    assert len(SeptupletDataset(out, patch=PATCH, flow_method="dis")) == 3


def test_test_clips_of_any_odd_length(stills, tmp_path):
    settings = {
        "stills": str(stills),
        "out": str(tmp_path / "out"),
        "clips": 1,
        "height": 64,
        "width": 64,
    }
    with pytest.raises(ValueError, match="frames 9 is for --test; a septuplet has 7"):
        Config(**settings, frames=9)
    for frames in (1, 8):
        with pytest.raises(ValueError, match=f"clips of {frames} frames: want an odd number"):
            Config(**settings, frames=frames, test=True)
    write_clips(Config(**settings, frames=9, test=True))
    (clip,) = find_clips(tmp_path / "out")
    given, truth = read_clip(clip)
    assert (len(given), len(truth)) == (5, 9)
    assert all((before != after).any() for before, after in pairwise(truth))


def test_clips_are_not_written_among_the_stills(stills):
    with pytest.raises(ValueError, match="would be taken for some"):
        write_clips(
            Config(stills=str(stills), out=str(stills / "out"), clips=1, height=64, width=64)
        )


def test_command_films_every_still_in_turn_as_it_is_told(stills, tmp_path, monkeypatch):
    filmed = []

    def film(still, size, rng, animation, count):
        filmed.append((still, rng.random(), animation))
        return np.zeros((count, *size, 3), np.uint8)

    monkeypatch.setattr("data.animation.animate", film)
    sizes = {"clips": 4, "height": 64, "width": 64}
    config = Config(stills=str(stills), out=str(tmp_path / "out"), seed=5, **sizes)
    write_clips(config)
    read = Stills(stills, (72, 72), 0)
    for number, (still, drawn, animation) in enumerate(filmed):
        np.testing.assert_array_equal(still, read[number % 3])
        assert drawn == np.random.default_rng((5, 0, number)).random()
        assert animation is config


def test_clips_that_are_there_stay_in_the_list(stills, tmp_path):
    out = tmp_path / "out"
    config = Config(stills=str(stills), out=str(out), clips=1, height=64, width=64)
    (name,) = write_clips(config)
    with pytest.raises(ValueError, match=f"{name}: exists already; remove it or give another OUT"):
        write_clips(config)
    for other in ("listed", "unlisted"):
        (out / "train" / name).rename(out / "train" / other)
        (out / "189_vime7_train.txt").write_text("listed\n")
        assert write_clips(config) == [name]
    assert SeptupletDataset(out, patch=PATCH).names == ["listed", name]
    shutil.rmtree(out / "train" / name)
    (out / "189_vime7_train.txt").unlink()
    write_clips(config)
    assert sorted(SeptupletDataset(out, patch=PATCH).names) == sorted(["listed", "unlisted", name])


def test_an_interruption_leaves_no_part_of_a_clip(stills, tmp_path, monkeypatch):
    config = Config(stills=str(stills), out=str(tmp_path), clips=2, height=64, width=64)
    write, written = lists.write_image, []

    def write_ten(path, image):
        if len(written) == 10:  # in the middle of the second clip
            raise KeyboardInterrupt
        written.append(path)
        write(path, image)

    monkeypatch.setattr(lists, "write_image", write_ten)
    with pytest.raises(KeyboardInterrupt):
        write_clips(config)
    (whole,) = (tmp_path / "train").iterdir()
    assert len(list(whole.iterdir())) == 7


def test_clips_are_not_added_where_they_would_not_be_seen(stills, tmp_path):
    config = Config(stills=str(stills), out=str(tmp_path), clips=1, height=64, width=64)
    (tmp_path / "sep_trainlist.txt").write_text("00001/0001\n")
    with pytest.raises(ValueError, match=r"clips are not added to .*sep_trainlist\.txt"):
        write_clips(config)
    (tmp_path / "sep_trainlist.txt").rename(tmp_path / "189_vime7_train.txt")
    with pytest.raises(ValueError, match="its clip 00001/0001 is not in train/"):
        write_clips(config)


def test_command_fits_test_clips_to_small_stills(stills, tmp_path):
    settings = {"stills": str(stills), "out": str(tmp_path / "out"), "clips": 3, "test": True}
    with pytest.raises(ValueError, match=r"2 of 3 stills .* fewer with --fit"):
        write_clips(Config(**settings, height=128, width=128))
    names = write_clips(Config(**settings, height=128, width=128, fit=True))
    folders = [tmp_path / "out" / name / "truth" for name in names]
    assert sorted(path.name for path in folders[0].iterdir()) == [f"{t:08d}.png" for t in range(7)]
    shapes = [cv2.imread(str(folder / "00000000.png")).shape[:2] for folder in folders]
    assert shapes == [(72, 88), (64, 64), (128, 128)]
    with pytest.raises(ValueError, match="holds something already; give an empty folder"):
        write_clips(Config(**settings, height=128, width=128, fit=True))
