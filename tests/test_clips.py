"""Test clips: layouts, pairing of LR and HR, and what is refused."""

import os

import numpy as np
import pytest

from data.clips import find_clips, read_clip
from media.images import write_image
from utils.resize import imresize


def write_frames(folder, count, height=64, width=68, name="{:08d}.png"):
    folder.mkdir(parents=True)
    rng = np.random.default_rng([count, height])
    frames = rng.integers(0, 256, (count, height, width, 3), dtype=np.uint8)
    for number, frame in enumerate(frames):
        write_image(folder / name.format(number), frame)
    return frames


def test_missing_lr_is_made_from_the_even_frames(tmp_path):
    truth = write_frames(tmp_path / "a/truth", 7)
    (clip,) = find_clips(tmp_path)
    assert (clip.name, clip.given) == ("a", None)
    given, read = read_clip(clip)
    np.testing.assert_array_equal(read, truth)
    np.testing.assert_array_equal(given, imresize(truth[::2], 1 / 4))


@pytest.mark.parametrize(("count", "expected"), [(7, slice(0, 7, 2)), (4, slice(0, 4))])
def test_lr_frames_are_all_given_or_the_even_ones(tmp_path, count, expected):
    write_frames(tmp_path / "a/truth", 7)
    small = write_frames(tmp_path / "a/input4", count, 16, 17)
    (clip,) = find_clips(tmp_path / "a")
    given, truth = read_clip(clip)
    np.testing.assert_array_equal(given, small[expected])
    assert len(truth) == 2 * len(given) - 1


@pytest.mark.parametrize("lr_count", [0, 6, 3])
def test_even_number_of_frames_loses_the_last(tmp_path, lr_count):
    truth = write_frames(tmp_path / "a/truth", 6)
    small = write_frames(tmp_path / "a/input4", lr_count, 16, 17) if lr_count else None
    with pytest.warns(UserWarning, match="6 frames, an even number; the last is left out"):
        (clip,) = find_clips(tmp_path)
    given, read = read_clip(clip)
    np.testing.assert_array_equal(read, truth[:5])
    if lr_count:
        np.testing.assert_array_equal(given, small[:5:2] if lr_count == 6 else small)


def test_natural_order_of_clips_and_frames(tmp_path):
    for name in ("clip10", "clip2", "clip1"):
        truth = write_frames(tmp_path / name / "truth", 11, name="f{}.png")
    clips = find_clips(tmp_path)
    assert [clip.name for clip in clips] == ["clip1", "clip2", "clip10"]
    np.testing.assert_array_equal(read_clip(clips[0])[1], truth)


def test_folders_of_frames_without_truth(tmp_path):
    for name in ("a", "b"):
        write_frames(tmp_path / name, 3)
    assert [clip.name for clip in find_clips(tmp_path)] == ["a", "b"]
    assert [clip.name for clip in find_clips(tmp_path / "b")] == ["b"]


def test_sides_that_are_no_multiple_of_4_are_cut(tmp_path):
    truth = write_frames(tmp_path / "a/truth", 3, 67, 70)
    with pytest.warns(UserWarning, match="cut to 68x64"):
        (clip,) = find_clips(tmp_path)
    given, read = read_clip(clip)
    np.testing.assert_array_equal(read, truth[:, :64, :68])
    np.testing.assert_array_equal(given, imresize(truth[::2, :64, :68], 1 / 4))


def test_problems_of_all_clips_come_together(tmp_path):
    write_frames(tmp_path / "few/truth", 2)
    write_frames(tmp_path / "counts/truth", 7)
    write_frames(tmp_path / "counts/input4", 5, 16, 17)
    write_frames(tmp_path / "sizes/truth", 7)
    write_frames(tmp_path / "sizes/input4", 7, 16, 16)
    write_frames(tmp_path / "small/truth", 3, 60, 64)
    write_frames(tmp_path / "broken/truth", 3)
    (tmp_path / "broken/truth/00000001.png").write_bytes(b"no image")
    write_frames(tmp_path / "mixed/truth", 3)
    write_image(tmp_path / "mixed/truth/00000002.png", np.zeros((64, 64, 3), np.uint8))
    with pytest.raises(ValueError, match=r"^6 problems in ") as error:
        find_clips(tmp_path)
    for line in (
        "few/truth: 2 frame(s); a clip needs at least 3",
        "counts/input4: 5 LR frames for 7 in",
        "give 7, or 4 for the even times, or none",
        "sizes/input4: frames of 16x16, a quarter of 68x64 is needed",
        "small/truth: frames of 64x60; needs 64 pixels a side",
        "broken/truth/00000001.png: neither PNG nor JPEG",
        "mixed/truth/00000002.png: 64x64 pixels, but 68x64 in 00000000.png",
    ):
        assert line in str(error.value)


def test_links_out_of_the_root_are_refused(tmp_path):
    write_frames(tmp_path / "elsewhere", 3)
    (tmp_path / "root/a").mkdir(parents=True)
    os.symlink(tmp_path / "elsewhere", tmp_path / "root/a/truth")
    with pytest.raises(ValueError, match=r"00000000\.png: leads out of"):
        find_clips(tmp_path / "root")


def test_nothing_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder"):
        find_clips(tmp_path / "a")
    with pytest.raises(ValueError, match="no test clips"):
        find_clips(tmp_path)
