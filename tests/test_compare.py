"""enhance.py --compare: the split screen, the sheet of crops and the page."""

import cv2
import numpy as np
import pytest
from enhancing import interrupt_at, make_frames, read_all, run, save_small_network, write_frames

from media.open import open_source

pytest.importorskip("av")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("network") / "small.safetensors"
    save_small_network(path)
    return path


def test_comparison(tmp_path, checkpoint):
    given = write_frames(tmp_path / "in", make_frames(4, 48, 64))
    run(checkpoint, given, tmp_path / "out", "--compare")
    video = read_all(tmp_path / "out_compare.mp4")
    assert video.shape == (7, 4 * 48, 2 * 4 * 64, 3)
    left, right = np.split(video.astype(int), 2, axis=2)
    assert 0.5 < np.abs(left - right).mean() < 20
    sheet = cv2.imread(str(tmp_path / "out_compare.png"))
    assert min(sheet.shape[:2]) > 200


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
