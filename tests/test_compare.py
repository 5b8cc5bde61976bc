"""enhance.py --compare: the split screen, the sheet of crops and the page."""

import cv2
import numpy as np
import pytest
from enhancing import interrupt_at, make_frames, read_all, run, write_frames
from matplotlib.axes import Axes

from enhancement.compare import detailed_places
from media.open import open_source
from media.video_sink import VideoSink
from utils.resize import imresize

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
