"""enhance.py --compare: the split screen, the sheet of crops and the page."""

from fractions import Fraction

import cv2
import numpy as np
import pytest
from enhancing import Frames, interrupt_at, make_frames, read_all, run, write_frames
from matplotlib.axes import Axes

import enhance
from enhancement import compare
from enhancement.compare import Pair, detailed_places, write_split_screen, write_viewer
from enhancement.levels import full_scale
from media.open import open_source
from media.video_sink import VideoSink
from utils.resize import imresize
from utils.team import Team

pytest.importorskip("av")


def test_the_left_half_is_bicubic_and_the_right_one_the_result(tmp_path, checkpoint, monkeypatch):
    frames, split, write = make_frames(4, 48, 64), [], VideoSink.write

    def watch(sink, start, pictures):
        write(sink, start, (split.append(picture) or picture for picture in pictures))

    monkeypatch.setattr(VideoSink, "write", watch)
    given = write_frames(tmp_path / "in", frames)
    result = read_all(run(checkpoint, given, tmp_path / "out", "--compare"))
    enlarged = imresize(frames.astype(np.float32), 4)
    for time in range(7):
        left, right = np.split(split[time][30:], 2, axis=1)  # below the labels
        bicubic = (enlarged[time // 2] + enlarged[(time + 1) // 2]) / 2
        assert np.abs(left - bicubic[30:].clip(0, 255)).max() <= 1
        np.testing.assert_array_equal(right[:, 2:], result[time, 30:, 2:])  # beside the line
    video = read_all(tmp_path / "out_compare.mp4")
    assert np.abs(video.astype(int) - np.stack(split)).mean() < 3


def test_the_sheet_shows_the_same_places_of_a_given_frame_and_one_between(
    tmp_path, checkpoint, monkeypatch
):
    frames, times = make_frames(4, 64, 64), 4
    drawn, imshow = [], Axes.imshow

    def watch(axes, picture, **options):
        drawn.append(picture)
        return imshow(axes, picture, **options)

    monkeypatch.setattr(Axes, "imshow", watch)
    given = write_frames(tmp_path / "in", frames)
    result = read_all(run(checkpoint, given, tmp_path / "out", "--compare", "--times", times))
    places = detailed_places(frames[1])
    assert len(places) == 4
    columns = [drawn[start : start + 4] for start in range(0, 20, 4)]
    for number, (rows, cols) in enumerate(places):
        large = np.s_[4 * rows.start : 4 * rows.stop, 4 * cols.start : 4 * cols.stop]
        at, bicubic, enhanced, bicubic_between, between = (column[number] for column in columns)
        np.testing.assert_array_equal(at, frames[1][rows, cols])
        np.testing.assert_array_equal(enhanced, result[times][large])
        np.testing.assert_array_equal(between, result[times + times // 2][large])
        enlarged = imresize(frames[1:3].astype(np.float32), 4)
        for picture, whole in ((bicubic, enlarged[0]), (bicubic_between, enlarged.mean(axis=0))):
            assert np.abs(picture - whole[large]).max() <= 1
    assert read_all(tmp_path / "out_compare.mp4").shape[0] == 3 * times + 1
    assert min(cv2.imread(str(tmp_path / "out_compare.png")).shape[:2]) > 200


def test_both_halves_of_a_comparison_show_the_same_contrast(tmp_path, checkpoint):
    """Deep frames become full scale in a video; the view of either stretches them alike."""
    given = write_frames(tmp_path / "in", make_frames(2, 48, 64).astype(np.uint16) * 8)
    run(checkpoint, given, tmp_path / "out.mp4", "--compare")
    left, right = np.split(read_all(tmp_path / "out_compare.mp4").astype(int), 2, axis=2)
    assert abs(left[:, 40:].mean() - right[:, 40:].mean()) < 3


def test_a_comparison_shows_bridged_frames(tmp_path, checkpoint):
    given = write_frames(tmp_path / "in", make_frames(3))
    (given / "1.png").write_bytes(b"")
    run(checkpoint, given, tmp_path / "out", "--compare", "--skip-bad")
    assert open_source(tmp_path / "out_compare.mp4").count == 5


def test_an_interrupted_comparison_is_resumed(tmp_path, checkpoint, monkeypatch):
    given = write_frames(tmp_path / "in", make_frames(2, 48, 64))

    def pressed(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("enhancement.compare.write_sheet", pressed)
        with pytest.raises(KeyboardInterrupt):
            run(checkpoint, given, tmp_path / "out", "--compare")
    interrupt_at(monkeypatch, {1})  # the frames are there already
    run(checkpoint, given, tmp_path / "out", "--compare", "--resume")
    names = ["in", "out", "out_compare.html", "out_compare.mp4", "out_compare.png"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names


def test_a_comparison_never_replaces_the_input(tmp_path, checkpoint):
    given = write_frames(tmp_path / "in", make_frames(2))
    video = run(checkpoint, given, tmp_path / "out_compare.mp4")
    before = video.read_bytes()
    with pytest.raises(ValueError, match=r"out_compare.mp4 is in the input"):
        run(checkpoint, video, tmp_path / "out", "--compare", "--overwrite")
    assert video.read_bytes() == before


@pytest.fixture
def pair_of(monkeypatch):
    """A function of LR frames and of how many times as many there are, of their repeated pixels."""

    def make(frames, times):
        result = frames.repeat(4, axis=1).repeat(4, axis=2).repeat(times, axis=0)
        result = result[: times * (len(frames) - 1) + 1]
        monkeypatch.setattr(compare, "open_source", lambda *_: Frames(result))
        return Pair(Frames(frames), full_scale(np.dtype(np.uint8)), None, times, 0)

    return make


def test_bicubic_frames_between_are_blended_by_their_time(pair_of):
    pair = pair_of(np.stack([np.full((16, 16, 3), level, np.uint8) for level in (100, 200)]), 4)
    place = (slice(4, 8), slice(0, 16))
    levels = [pair.bicubic(index, [place])[0].mean() for index in range(5)]
    assert levels == [100, 125, 150, 175, 200]


def test_the_split_screen_shows_the_middle_at_its_times(pair_of, monkeypatch, tmp_path):
    split = {}

    class Written:
        def __init__(self, folder, height, width, times):
            split.update(size=(height, width), times=times)

        def write(self, start, pictures):
            split["pictures"] = list(pictures)

        def join(self, path):
            split["path"] = path

    monkeypatch.setattr(compare, "VideoSink", Written)
    monkeypatch.setattr(compare, "LARGEST_HALF", (16, 24))
    pair = pair_of(make_frames(2, 48, 64), 2)
    pair.given.times = [Fraction(0), Fraction(1, 10)]
    write_split_screen(pair, tmp_path / "split.mp4")
    assert split["size"] == (64, 192)
    assert split["times"] == [0, Fraction(1, 20), Fraction(1, 10)]
    _, right = np.split(split["pictures"][2], 2, axis=1)
    shown = pair.result.read(2)[64:128, 80:176]
    np.testing.assert_array_equal(right[30:, 2:], shown[30:, 2:])


def test_the_page_says_where_its_part_lies(pair_of, monkeypatch, tmp_path):
    pages, entry = [], compare.page_entry
    monkeypatch.setattr(compare, "page_entry", lambda clip, n: pages.append(clip) or entry(clip, n))
    monkeypatch.setattr(compare, "VIEWED", 16)
    frames = np.full((20, 40, 64, 3), 90, np.uint8)
    frames[:, 4:16, 36:48] = np.random.default_rng(0).integers(0, 256, (12, 12, 3), np.uint8)
    pair = pair_of(frames, 2)
    write_viewer(pair, tmp_path / "page.html")
    (clip,) = pages
    top, left = (side // 4 for side in clip.origin)
    assert top <= 4
    assert 32 <= left <= 36
    assert clip.whole == (160, 256)
    np.testing.assert_array_equal(
        clip.sources[compare.GIVEN][0], frames[0, top : top + 16, left : left + 16]
    )
    assert clip.first == 2 * (9 - compare.MOST_FRAMES // 4)
    assert len(clip.sources["enhanced"]) == 2 * len(clip.sources[compare.GIVEN]) - 1


def test_times_are_those_of_the_flag_or_the_usual_ones(tmp_path, checkpoint):
    given, out = write_frames(tmp_path / "in", make_frames(3)), tmp_path / "out"
    for flags, rate in (({"fps": 5.0, "compare": True}, 5), ({}, 25)):
        config = enhance.Config(str(given), str(out), model=str(checkpoint), **flags)
        source = enhance.prepare(config, out, Team())[1]
        assert source.times == [Fraction(index, rate) for index in range(3)]
        assert source.last == Fraction(1, rate)
