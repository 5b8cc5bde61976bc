"""Test clips: layouts, pairing of LR and HR, and what is refused."""

import os
import warnings

import numpy as np
import pytest
import tifffile
from rasters import write_geotiff, write_plain

from data.clips import check_files, find_clips, read_clip
from media.folder import write_image_file
from media.images import write_image
from media.open import open_source
from media.rgb import Rgb
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
    write_frames(tmp_path / "heights/truth", 7)
    write_frames(tmp_path / "heights/input4", 7, 17, 17)
    write_frames(tmp_path / "small/truth", 3, 60, 64)
    write_frames(tmp_path / "broken/truth", 3)
    (tmp_path / "broken/truth/00000001.png").write_bytes(b"no image")
    write_frames(tmp_path / "mixed/truth", 3)
    write_image(tmp_path / "mixed/truth/00000002.png", np.zeros((64, 64, 3), np.uint8))
    with pytest.raises(ValueError, match=r"^7 problems in ") as error:
        find_clips(tmp_path)
    for line in (
        "few/truth: 2 frame(s); a clip needs at least 3",
        "counts/input4: 5 LR frames for 7 in",
        "give 7, or 4 for the even times, or none",
        "sizes/input4: frames of 16x16, a quarter of 68x64 is needed",
        "heights/input4: frames of 17x17, a quarter of 68x64 is needed",
        "small/truth: frames of 64x60; needs 64 pixels a side",
        "broken/truth/00000001.png: neither PNG, JPEG, BMP nor TIFF",
        "mixed/truth/00000002.png: 64x64 pixels, but 68x64 in 00000000.png",
    ):
        assert line in str(error.value)


def test_links_out_of_the_root_are_refused(tmp_path):
    write_frames(tmp_path / "elsewhere", 3)
    (tmp_path / "root/a").mkdir(parents=True)
    os.symlink(tmp_path / "elsewhere", tmp_path / "root/a/truth")
    with pytest.raises(ValueError, match=r"00000000\.png: leads out of"):
        find_clips(tmp_path / "root")


@pytest.mark.parametrize(("truth", "given"), [("GT", "BIx4"), ("HR", "LR"), ("gt", "lrx4")])
@pytest.mark.parametrize("clip_first", [True, False])
def test_layouts_of_other_projects(tmp_path, truth, given, clip_first):
    """Vid4 as BasicSR has it (GT/calendar, BIx4/calendar), and both folders in that of the clip."""
    places = ("{1}/{0}", "{0}/{1}")
    hr, lr = (places[not clip_first].format(name, "calendar") for name in (truth, given))
    frames, small = write_frames(tmp_path / hr, 5), write_frames(tmp_path / lr, 5, 16, 17)
    write_frames(tmp_path / lr.replace(given, "other"), 5, 16, 17)
    (clip,) = find_clips(tmp_path)
    assert clip.name == "calendar"
    read_given, read_truth = read_clip(clip)
    np.testing.assert_array_equal(read_truth, frames)
    np.testing.assert_array_equal(read_given, small[::2])


def test_of_several_names_the_first_one_counts(tmp_path):
    for name in ("GT", "HR", "truth"):
        write_frames(tmp_path / "a" / name, 3)
    (clip,) = find_clips(tmp_path)
    assert clip.truth[0].parent.name == "truth"


def test_a_clip_whose_lr_frames_are_missing(tmp_path):
    for name in ("a", "b"):
        write_frames(tmp_path / "GT" / name, 5)
    write_frames(tmp_path / "LR/a", 5, 16, 17)
    with pytest.raises(ValueError, match="LR/b: 0 LR frames for 5"):
        find_clips(tmp_path)


def test_the_test_list_of_vimeo(tmp_path):
    for name in ("00001/0001", "00001/0266", "00002/0003"):
        write_frames(tmp_path / "sequences" / name, 7, name="im{}.png")
    (tmp_path / "sep_testlist.txt").write_text("00002/0003\n00001/0266\n")
    names = ["00002/0003", "00001/0266"]
    assert [clip.name for clip in find_clips(tmp_path)] == names
    assert [clip.name for clip in find_clips(tmp_path / "sequences")] == names
    (tmp_path / "fast.txt").write_text("00001/0001 7 (64,68,3)\n")
    assert [clip.name for clip in find_clips(tmp_path, tmp_path / "fast.txt")] == ["00001/0001"]
    (tmp_path / "fast.txt").write_text("../a\n")
    with pytest.raises(ValueError, match="leads out of"):
        find_clips(tmp_path, tmp_path / "fast.txt")
    (tmp_path / "fast.txt").write_text("00009/0001\n")
    with pytest.raises(FileNotFoundError, match="00009/0001: no such clip"):
        find_clips(tmp_path, tmp_path / "fast.txt")


def test_a_clip_that_a_list_names_in_several_ways_counts_once(tmp_path):
    for clip in ("a", "b"):
        write_frames(tmp_path / "train" / clip, 3)
    (tmp_path / "list.txt").write_text("./b\nb/\na\nb\ntrain/a\n")
    names = [clip.name for clip in find_clips(tmp_path, tmp_path / "list.txt")]
    assert names == ["b", "a"]


@pytest.mark.parametrize("name", ["b", "GT/b", "gt/b"])
def test_a_list_of_clips_whose_lr_frames_lie_apart(tmp_path, name):
    """GT/a, GT/b and BIx4/a, BIx4/b: a list's names may have the leading folder."""
    for clip in ("a", "b"):
        write_frames(tmp_path / "GT" / clip, 5)
        small = write_frames(tmp_path / "BIx4" / clip, 5, 16, 17)
    (tmp_path / "list.txt").write_text(f"{name}\n")
    (clip,) = find_clips(tmp_path, tmp_path / "list.txt")
    assert clip.name == "b"
    np.testing.assert_array_equal(read_clip(clip)[0], small[::2])
    (tmp_path / "list.txt").write_text("BIx4/b\n")
    with pytest.raises(FileNotFoundError, match="GT/BIx4/b: no such clip"):
        find_clips(tmp_path, tmp_path / "list.txt")


@pytest.mark.parametrize("suffix", [".bmp", ".tif"])
def test_frames_of_other_formats(tmp_path, suffix):
    truth = write_frames(tmp_path / "png", 3)
    (tmp_path / "a").mkdir()
    for number, frame in enumerate(truth):
        write_image_file(tmp_path / f"a/{number}{suffix}", frame)
    (clip,) = find_clips(tmp_path / "a")
    np.testing.assert_array_equal(read_clip(clip)[1], truth)


def test_deep_tiff_frames_keep_one_range(tmp_path):
    ramp = np.linspace(0, 200, 64 * 68 * 3).reshape(64, 68, 3)
    for folder, step in (("truth", 1), ("LR", 4)):
        (tmp_path / "a" / folder).mkdir(parents=True)
        for number in range(3):
            values = np.rint(ramp[::step, ::step] * 40 + 900 + 400 * number).astype(np.uint16)
            write_image_file(tmp_path / f"a/{folder}/{number}.tif", values)
    with pytest.warns(UserWarning, match="truth: uint16 9[0-9.]+ to 9[0-9.]+ becomes 8 bits"):
        (clip,) = find_clips(tmp_path)
    given, truth = read_clip(clip)
    assert truth.dtype == given.dtype == np.uint8
    np.testing.assert_array_equal(given, truth[::2, ::4, ::4])
    brighter = truth[1].astype(int) - truth[0]
    assert np.abs(np.median(brighter) - 400 * 255 / 8800) < 2


def test_several_pages_in_a_file_are_no_clip(tmp_path):
    (tmp_path / "a").mkdir()
    for number in range(3):
        pages = np.full((2, 64, 64, 3), 20 * number, np.uint8)
        tifffile.imwrite(tmp_path / f"a/{number}.tif", pages, photometric="rgb")
    with pytest.raises(ValueError, match="6 pages in 3 files"):
        find_clips(tmp_path)


def test_links_have_names_of_their_own(tmp_path):
    root = tmp_path / "root"
    for place in ("first", "second"):
        write_frames(root / ".data" / place / "clip" / "truth", 3)
        (root / place).symlink_to(root / ".data" / place / "clip")
    assert [clip.name for clip in find_clips(root)] == ["first", "second"]


def test_endings_that_are_not_read_are_the_problem(tmp_path):
    write_frames(tmp_path / "a/truth", 3)
    for path in (tmp_path / "a/truth").iterdir():
        path.rename(path.with_suffix(".webp"))
    with pytest.raises(ValueError, match=r"0 frame\(s\); .* which end in \.png, \.jpg"):
        find_clips(tmp_path)


def test_folders_that_are_left_out_are_said(tmp_path):
    write_frames(tmp_path / "a/truth", 3)
    write_frames(tmp_path / "b/tru", 3)
    (tmp_path / "empty").mkdir()
    with pytest.warns(UserWarning, match="folders without truth frames are left out: 2, b the fir"):
        (clip,) = find_clips(tmp_path)
    assert clip.name == "a"
    write_frames(tmp_path / "truth", 3)
    write_frames(tmp_path / "input4", 3, 16, 17)  # belongs to it
    with pytest.warns(UserWarning, match="clip folders beside truth are left out: 1, a the first"):
        (clip,) = find_clips(tmp_path)
    assert clip.truth[0].parent == tmp_path / "truth"


@pytest.mark.parametrize("place", ["a/{}", "{}/a", "{}"])
def test_frames_beside_the_truth_under_a_name_that_is_not_known_are_said(tmp_path, place):
    for name, side in (("truth", 64), ("LR4", 16)):
        write_frames(tmp_path / place.format(name), 3, side, side)
    with pytest.warns(UserWarning, match="truth of 1 clip.*LR4.* name it input4") as told:
        (clip,) = find_clips(tmp_path)
    assert clip.given is None
    assert len(told) == 1
    write_frames(tmp_path / place.format("LR"), 3, 16, 16)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*made from the truth")
        find_clips(tmp_path)


def test_frames_beside_the_truth_of_another_size_are_no_lr_frames(tmp_path):
    for name, side in (("truth", 64), ("mask", 64), ("thumbs", 8)):
        write_frames(tmp_path / name, 3, side, side)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*made from the truth")
        find_clips(tmp_path)


@pytest.mark.parametrize("kind", ["nodata", "alpha", "nan", "whole"])
def test_truth_with_pixels_without_data_is_said(tmp_path, kind):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(3):
            values = np.full((4 if kind == "alpha" else 3, 64, 64), 90 + number, np.float32)
            values[-1, :9, :9] = {"nodata": 7, "alpha": 0, "nan": np.nan, "whole": 1}[kind]
            values = values if kind == "nan" else values.astype(np.uint8)
            options = {"nodata": 7} if kind == "nodata" else {}
            options |= {"alpha": "YES", "photometric": "RGB"} if kind == "alpha" else {}
            write_geotiff(tmp_path / name / f"{number}.tif", values, **options)
    clips = find_clips(tmp_path)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        check_files(clips)
    text = "2 of 2 clips have pixels without data, a the first"
    assert [str(line.message)[: len(text)] for line in told] == [text] * (kind != "whole")


def test_the_folder_that_is_meant_is_named(tmp_path):
    """In a set with training and test clips, and of Vimeo-90K, by a folder above it or inside."""
    write_frames(tmp_path / "set/train/a", 7)
    with pytest.raises(ValueError, match=r"no test clips;.* Is it .*set/train that is meant\?"):
        find_clips(tmp_path / "set")
    write_frames(tmp_path / "set/zz/b/truth", 3)
    with pytest.raises(ValueError, match=r"Is it .*set/zz that is meant\?"):
        find_clips(tmp_path / "set")
    write_frames(tmp_path / "set/test/b/truth", 3)
    with pytest.raises(ValueError, match=r"Is it .*set/test that is meant\?"):
        find_clips(tmp_path / "set")
    for name in ("0001", "0002"):
        write_frames(tmp_path / "above/vimeo/sequences/00001" / name, 3)
    (tmp_path / "above/vimeo/sep_testlist.txt").write_text("00001/0002\n")
    with pytest.raises(ValueError, match=r"Is it .*above/vimeo that is meant\?"):
        find_clips(tmp_path / "above")
    inside = tmp_path / "above/vimeo/sequences/00001"
    with pytest.warns(UserWarning, match="00001: holds clips for training, too; give .*vimeo for"):
        assert len(find_clips(inside)) == 2
    write_frames(inside.parent / "00002/0001", 3)
    write_frames(inside.parent / "00002/0002", 3)
    (tmp_path / "above/vimeo/sep_testlist.txt").write_text("00002/0001\n00002/0002\n")
    assert len(find_clips(inside.parent / "00002")) == 2  # and nothing to warn of
    assert len(find_clips(inside / "0001")) == 1


def test_a_gap_in_the_numbers_of_frames_is_said(tmp_path):
    write_frames(tmp_path / "a", 4, name="f{}.png")
    write_frames(tmp_path / "even", 3, name="x2_{}0.png")  # 0, 10, 20
    (tmp_path / "a/f2.png").unlink()
    with pytest.warns(UserWarning, match=r"a: f3\.png follows f1\.png, a gap in the num") as told:
        find_clips(tmp_path)
    assert len(told) == 1


def test_numbers_of_dates_and_times_have_no_gap(tmp_path):
    (tmp_path / "a").mkdir()
    for minutes in (57, 58, 59, 100, 101):
        name = f"sat_20240101T120{minutes:03d}.png"
        write_image(tmp_path / "a" / name, np.zeros((64, 64, 3), np.uint8))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        find_clips(tmp_path)


def test_lr_frames_of_the_odd_times_are_refused(tmp_path):
    write_frames(tmp_path / "a/truth", 8)
    write_frames(tmp_path / "a/input4", 8, 16, 17)
    for number in range(0, 8, 2):
        (tmp_path / f"a/input4/{number:08d}.png").unlink()
    with pytest.raises(ValueError, match="LR frames of the odd times"):
        find_clips(tmp_path)


@pytest.mark.parametrize("name", ["2020010{}T120000.png", "{}.png"])
def test_lr_frames_without_numbers_belong_to_the_even_times(tmp_path, name):
    letters = "1234567" if "T" in name else "abcdefg"
    for folder, count, size in (("truth", 7, (64, 68)), ("input4", 4, (16, 17))):
        (tmp_path / "a" / folder).mkdir(parents=True)
        for letter in letters[:count]:
            picture = np.zeros((*size, 3), np.uint8)
            write_image(tmp_path / "a" / folder / name.format(letter), picture)
    (clip,) = find_clips(tmp_path)
    assert len(clip.given) == 4


def test_a_counter_beside_a_date_has_gaps(tmp_path):
    (tmp_path / "a").mkdir()
    for number in (1, 2, 3, 9, 10):
        name = f"JL1_20170602_{number:04d}.png"
        write_image(tmp_path / "a" / name, np.zeros((64, 64, 3), np.uint8))
    with pytest.warns(UserWarning, match=r"0009\.png follows JL1_20170602_0003\.png, a gap"):
        find_clips(tmp_path)


def test_frames_of_one_number_in_two_spellings_have_no_gap(tmp_path):
    for name in ("1.png", "01.png", "2.png"):
        write_image(tmp_path / name, np.zeros((64, 64, 3), np.uint8))
    (clip,) = find_clips(tmp_path)
    assert len(clip.truth) == 3


def test_nothing_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder"):
        find_clips(tmp_path / "a")
    with pytest.raises(ValueError, match="no test clips"):
        find_clips(tmp_path)


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_frames_whose_zero_is_white_are_turned_round(tmp_path):
    values = np.arange(32 * 48, dtype=np.uint16).reshape(1, 32, 48)
    for index in range(2):
        write_plain(tmp_path / f"{index}.tif", values, photometric="MINISWHITE")
    read = Rgb(open_source(tmp_path)).read(0)
    assert read[0, 0].tolist() == [255] * 3
    assert read[-1, -1].tolist() == [0] * 3
