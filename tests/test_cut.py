"""Cutting septuplets from video: timing, bad frames, averaging, and never overwriting."""

import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from trainings import run_here

from data.cut import Config, cut, still_mean, tile_corners
from data.septuplets import SeptupletDataset
from media.folder import write_image_file
from media.images import read_image, write_image
from media.tiff import write_tiff


def texture(seed, height=64, width=80):
    noise = np.random.default_rng(seed).standard_normal((height, width, 3))
    return np.clip(cv2.GaussianBlur(noise, (0, 0), 4) * 700 + 128, 0, 255).astype(np.uint8)


def make_frame(time, seed=0):
    """A texture with a mark on it that tells the time."""
    frame = texture(seed)
    frame[5:15, 2 + 2 * time : 12 + 2 * time] = 255
    return frame


def write_frames(folder, frames, numbers=None):
    folder.mkdir(exist_ok=True)
    for number, frame in zip(numbers or range(len(frames)), frames, strict=True):
        write_image(folder / f"f{number}.png", frame)


@pytest.fixture
def config(tmp_path):
    return Config("cut", str(tmp_path / "city"), str(tmp_path / "out"))


def read_clip(config, name):
    folder = Path(config.out) / "train" / name
    return np.stack([read_image(folder / f"im{number}.png") for number in range(1, 8)])


def test_spacing_stride_and_layout(tmp_path, config):
    frames = [make_frame(time) for time in range(20)]
    write_frames(tmp_path / "city", frames)
    names, counts = cut(replace(config, spacing=2, stride=3))
    assert names == ["city_s2_000000", "city_s2_000003", "city_s2_000006"]
    assert counts == Counter(read=20)
    for name, start in zip(names, (0, 3, 6), strict=True):
        np.testing.assert_array_equal(read_clip(config, name), frames[start : start + 13 : 2])
    dataset = SeptupletDataset(config.out, patch=16)
    assert dataset.names == names


def test_stride_longer_than_a_septuplet(tmp_path, config):
    write_frames(tmp_path / "city", [make_frame(time) for time in range(25)])
    assert cut(replace(config, stride=9))[0] == [
        "city_s1_000000",
        "city_s1_000009",
        "city_s1_000018",
    ]


def test_repeats_are_dropped_and_breaks_are_not_spanned(tmp_path, config):
    frames = [make_frame(time) for time in range(10)]
    good = [*frames[:4], frames[3], *frames[4:7]]
    black = [np.zeros_like(frames[0])]
    other = [make_frame(time, seed=1) for time in range(8)]
    # 7 frames and a repeat; 6 then black; 5 then a cut; 8 of the other scene.
    write_frames(tmp_path / "city", good + black + frames[:6] + black + frames[:5] + other)
    names, counts = cut(config)
    assert names == ["city_s1_000000", "city_s1_000021"]
    assert counts == Counter({"read": 29, "repeated": 1, "empty": 2, "scene cuts": 1})
    np.testing.assert_array_equal(read_clip(config, names[0]), frames[:7])
    np.testing.assert_array_equal(read_clip(config, names[1]), other[:7])


def test_missing_frames_of_a_video_break(tmp_path, config):
    pytest.importorskip("av")
    from videos import write_video

    frames = [make_frame(time) for time in range(20)]
    times = [index / 25 + (index >= 9) for index in range(20)]
    path = write_video(tmp_path / "v.mp4", frames, times)
    names, counts = cut(replace(config, source=str(path)))
    assert names == ["v_s1_000000", "v_s1_000009"]
    assert counts == Counter({"read": 20, "gaps in time": 1})


def test_unreadable_frames_and_gaps_in_the_numbers_break(tmp_path, config, capsys):
    frames = [make_frame(time) for time in range(24)]
    numbers = [*range(10, 18), *range(20, 36)]
    write_frames(tmp_path / "city", frames, numbers)
    (tmp_path / "city/f27.png").write_bytes(b"no image")
    names, counts = cut(config)
    assert counts == Counter({"read": 24, "gaps in the numbers": 1, "unreadable": 1})
    assert "f27.png cannot be decoded" in capsys.readouterr().out
    starts = [0, 8, 16]
    assert len(names) == 3
    for name, start in zip(names, starts, strict=True):
        clip = read_clip(config, name)
        np.testing.assert_array_equal(clip[0], frames[start if start < 16 else 16])


def test_the_number_that_differs_counts_the_frames(tmp_path, config):
    write_frames(tmp_path / "city", [make_frame(time) for time in range(10)])
    for number in reversed(range(10)):
        new = f"f{10 + number + 6 * (number > 3)}_x4.png"
        (tmp_path / f"city/f{number}.png").rename(tmp_path / "city" / new)
    with pytest.raises(ValueError, match="1 gaps in the numbers"):
        cut(config)


def test_still_mean_removes_noise_and_keeps_what_moves():
    rng = np.random.default_rng(0)
    truth = [make_frame(3 * time) for time in range(5)]
    noisy = [np.clip(t + rng.normal(0, 6, t.shape), 0, 255).round().astype(np.uint8) for t in truth]
    out = still_mean(noisy)
    error = (out.astype(float) - truth[2])[20:]
    assert error.std() < 0.55 * (noisy[2].astype(float) - truth[2])[20:].std()
    mark = np.s_[6:14, 15:23]
    moving = np.abs(out.astype(float) - truth[2])[mark].mean()
    smeared = np.abs(np.mean(noisy, axis=0) - truth[2])[mark].mean()
    assert moving < 6 < smeared


def test_still_mean_of_equal_frames_is_the_frame():
    frame = texture(0)
    np.testing.assert_array_equal(still_mean([frame] * 5), frame)


def test_average_takes_frames_on_either_side(tmp_path, config):
    frames = [make_frame(time) for time in range(9)]
    write_frames(tmp_path / "city", frames)
    (name,), _ = cut(replace(config, average=1))
    expected = [still_mean(frames[m - 1 : m + 2]) for m in range(1, 8)]
    np.testing.assert_array_equal(read_clip(config, name), expected)


def test_large_frames_are_cut_into_tiles(tmp_path, config):
    frames = [texture(0, 132, 198) + np.uint8(time) for time in range(7)]
    write_frames(tmp_path / "city", frames)
    names, _ = cut(replace(config, crop=64))
    corners = [(top, left) for top in (0, 68) for left in (0, 66, 132)]
    assert names == [f"city_s1_000000_{top}_{left}" for top, left in corners]
    np.testing.assert_array_equal(read_clip(config, names[4])[3], frames[3][68:132, 66:130])
    assert tile_corners(60, 64) == [0]
    assert (tile_corners(720, 640), tile_corners(1080, 640)) == ([0], [0, 440])


@pytest.mark.parametrize(("black", "kept"), [(0.1, 4), (0.6, 5), (1.0, 6)])
def test_tiles_without_data_are_left_out(tmp_path, config, black, kept):
    frames = np.stack([texture(0, 132, 198) + np.uint8(time) for time in range(7)])
    frames[:, :64, :64] = 0
    frames[3, 68:100, :64] = 0  # half of a tile in one frame
    write_frames(tmp_path / "city", frames)
    names, counts = cut(replace(config, crop=64, black=black))
    assert len(names) == kept
    assert counts["black tiles"] == 6 - kept


def test_nothing_but_black_is_said(tmp_path, config):
    frames = np.stack([texture(0, 64, 64)] * 7) + np.arange(7, dtype=np.uint8)[:, None, None, None]
    frames[:, :32] = 0
    write_frames(tmp_path / "city", frames)
    with pytest.raises(ValueError, match=r"all tiles are more than 0\.1 black; raise --black"):
        cut(config)


def test_nothing_is_overwritten_unasked(tmp_path, config):
    write_frames(tmp_path / "city", [make_frame(time) for time in range(21)])
    assert len(cut(config)[0]) == 3
    before = read_clip(config, "city_s1_000007")
    write_frames(tmp_path / "city", [make_frame(time, seed=2) for time in range(14)])
    for number in range(14, 21):
        (tmp_path / f"city/f{number}.png").unlink()
    with pytest.raises(ValueError, match="exists already; give another --name"):
        cut(config)
    np.testing.assert_array_equal(read_clip(config, "city_s1_000007"), before)

    cut(replace(config, name="other"))
    cut(replace(config, overwrite=True))
    assert SeptupletDataset(config.out, patch=16).names == [
        "other_000000",
        "other_000007",
        "city_s1_000000",
        "city_s1_000007",
    ]
    assert len(list((Path(config.out) / "train").iterdir())) == 4
    assert (read_clip(config, "city_s1_000007") != before).any()


def test_clips_that_no_list_names_stay_in_the_data_set(tmp_path, config):
    write_frames(tmp_path / "city", [make_frame(time) for time in range(7)])
    cut(replace(config, name="old"))
    (tmp_path / "out/189_vime7_train.txt").unlink()
    (tmp_path / "out/train/notes").mkdir()  # no clip, so it must not come into the list
    cut(config)
    assert SeptupletDataset(config.out, patch=16).names == ["old_000000", "city_s1_000000"]
    (tmp_path / "out/train").rename(tmp_path / "loose")
    with pytest.raises(ValueError, match="city_s1_000000 the first, are not in train/; move them"):
        cut(replace(config, out=str(tmp_path / "loose")))


def test_video_file(tmp_path, config):
    pytest.importorskip("av")
    from videos import write_video

    frames = [make_frame(time) for time in range(8)]
    path = write_video(tmp_path / "a b.mp4", frames)
    (name,), counts = cut(replace(config, source=str(path)))
    assert (name, counts["read"]) == ("a_b_s1_000000", 8)
    assert np.abs(read_clip(config, name).astype(int) - np.stack(frames[:7])).mean() < 8


@pytest.mark.parametrize(("suffix", "scale"), [(".tif", 1), (".tif", 100), (".png", 257)])
def test_frames_of_any_depth_become_8_bits_all_alike(tmp_path, config, capsys, suffix, scale):
    frames = [make_frame(time) for time in range(7)]
    frames[3] = frames[3] - np.minimum(frames[3], 10)  # darker, and has to stay so
    (tmp_path / "city").mkdir()
    for number, frame in enumerate(frames):
        values = frame if scale == 1 else frame.astype(np.uint16) * scale
        write_image_file(tmp_path / f"city/f{number}{suffix}", values)
    (name,), _ = cut(config)
    clip, expected = read_clip(config, name).astype(float), np.stack(frames).astype(float)
    assert ("uint16" in capsys.readouterr().out) == (scale != 1)
    if scale == 1:
        np.testing.assert_array_equal(clip, expected)
    gain = np.polyfit(expected[0].ravel(), clip[0].ravel(), 1)[0]
    assert 0.9 < gain < 1.3
    assert abs(np.median(clip[2] - clip[3]) - 10 * gain) < 1.5


def test_pages_of_one_tiff(tmp_path, config):
    frames = [make_frame(time) for time in range(8)]
    write_tiff(tmp_path / "stack.tif", frames)
    (name,), counts = cut(replace(config, source=str(tmp_path / "stack.tif")))
    assert (name, counts["read"]) == ("stack_s1_000000", 8)
    np.testing.assert_array_equal(read_clip(config, name), frames[:7])


def test_file_that_is_no_video(tmp_path, config):
    pytest.importorskip("av")
    (tmp_path / "a.mp4").write_bytes(b"no video")
    with pytest.raises(ValueError, match=r"a\.mp4 cannot be read as video"):
        cut(replace(config, source=str(tmp_path / "a.mp4")))


def test_missing_pyav_names_the_requirements(tmp_path, config, monkeypatch):
    (tmp_path / "a.mp4").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ValueError, match=r"requirements-video\.txt"):
        cut(replace(config, source=str(tmp_path / "a.mp4")))


def test_command_line(tmp_path, capsys):
    write_frames(tmp_path / "city", [make_frame(time) for time in range(7)])
    command = ("data.septuplets", "cut", tmp_path / "city", tmp_path / "out")
    assert run_here(*command) == 0
    written = capsys.readouterr()
    assert "1 septuplets written" in written.out
    assert written.err == ""
    assert run_here(*command) == 2
    again = capsys.readouterr().err
    assert again.startswith("error: ")
    assert len(again.splitlines()) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"spacing": 0}, "--spacing is 0"),
        ({"crop": 66}, "--crop is 66"),
        ({"black": 1.5}, "--black is 1.5"),
        ({"name": "../x"}, "--name"),
    ],
)
def test_bad_settings(config, changes, message):
    with pytest.raises(ValueError, match=message):
        replace(config, **changes)


def test_nothing_to_cut(tmp_path, config):
    with pytest.raises(FileNotFoundError, match="no such video"):
        cut(config)
    write_frames(tmp_path / "city", [make_frame(time) for time in range(6)])
    with pytest.raises(ValueError, match=r"no 7 good frames in a row at spacing 1 \(6 read\)"):
        cut(config)
    assert not (tmp_path / "out").exists()
