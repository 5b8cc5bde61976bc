"""enhance.py: what it refuses before or instead of work, and what of other people's it keeps."""

import json
import multiprocessing
import os

import cv2
import numpy as np
import pytest
import torch
from enhancing import (
    HEIGHT,
    WIDTH,
    Frames,
    interrupt_at,
    make_frames,
    read_all,
    run,
    save_small_network,
    write_frames,
)

import enhance
from enhancement.job import locked
from enhancement.outputs import check_outputs
from media.folder import write_image_file
from models.checkpoint import save_network


def test_unfinished_work_is_not_lost_by_accident(tmp_path, checkpoint, monkeypatch):
    given = write_frames(tmp_path / "in", make_frames(5))
    interrupt_at(monkeypatch, {2})
    with pytest.raises(KeyboardInterrupt):
        run(checkpoint, given, tmp_path / "out")
    assert len(list((tmp_path / "out.partial" / "frames").glob("*.png"))) == 7
    with pytest.raises(ValueError, match="holds unfinished work; --resume"):
        run(checkpoint, given, tmp_path / "out")
    with pytest.raises(ValueError, match="was made with overlap 32, now it is 24"):
        run(checkpoint, given, tmp_path / "out", "--resume", "--overlap", 24)
    run(checkpoint, given, tmp_path / "out", "--overwrite")


def test_unfinished_work_from_before_windows_were_recorded_goes_on(
    tmp_path, checkpoint, monkeypatch
):
    given = write_frames(tmp_path / "in", make_frames(5))
    interrupt_at(monkeypatch, {2})
    with pytest.raises(KeyboardInterrupt):
        run(checkpoint, given, tmp_path / "out")
    record = tmp_path / "out.partial" / "job.json"
    content = json.loads(record.read_text())
    assert content["settings"].pop("window") == 4
    record.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="was made with window 4, now it is 5"):
        run(checkpoint, given, tmp_path / "out", "--resume", "--window", 5)
    run(checkpoint, given, tmp_path / "out", "--resume")


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_unfinished_work_of_unknown_levels_goes_on_only_at_full_scale(
    tmp_path, checkpoint, monkeypatch, kind
):
    given = write_frames(tmp_path / "in", make_frames(5).astype(kind))
    interrupt_at(monkeypatch, {2})
    with pytest.raises(KeyboardInterrupt):
        run(checkpoint, given, tmp_path / "out")
    record = tmp_path / "out.partial" / "job.json"
    content = json.loads(record.read_text())
    content["settings"].pop("levels")
    record.write_text(json.dumps(content))
    if kind == np.uint16:
        with pytest.raises(ValueError, match="was made with levels None, now it is 'levels: black"):
            run(checkpoint, given, tmp_path / "out", "--resume")
    else:
        run(checkpoint, given, tmp_path / "out", "--resume")


def test_unfinished_work_of_other_frames_is_refused(tmp_path, checkpoint, monkeypatch):
    given = write_frames(tmp_path / "in", make_frames(5))
    interrupt_at(monkeypatch, {2})
    with pytest.raises(KeyboardInterrupt):
        run(checkpoint, given, tmp_path / "out")
    write_image_file(given / "4.png", make_frames(6)[5])
    with pytest.raises(ValueError, match=r"was made with content '\w+', now it is '"):
        run(checkpoint, given, tmp_path / "out", "--resume")


def test_masks_and_damage_are_part_of_the_content():
    config = enhance.Config("in", "out", skip_bad=True, cuts="keep")
    first, second, third = make_frames(3)
    masked = np.ma.array([first, second, third], mask=False)
    masked.mask[1, :4] = True
    sequences = [[first, second, third], masked, [first, second, None], [first, None, second]]
    contents = [enhance.look_through(Frames(frames), config)[3] for frames in sequences]
    assert len(set(contents)) == 4


def test_damage_and_cuts_are_told_in_a_few_lines(capsys, monkeypatch):
    damaged = {1: "b is damaged", 2: "c is damaged", 3: "d is damaged"}
    config = enhance.Config("in", "out")
    with pytest.raises(ValueError, match=r"^b is damaged \(and 2 more frames\); --skip-bad"):
        enhance.check_damaged(damaged, config)
    with pytest.raises(ValueError, match=r"^d is damaged; --skip-bad"):
        enhance.check_damaged({3: damaged[3]}, config)
    cuts = [(index, index + 1) for index in range(13)]
    monkeypatch.setattr(enhance, "find_cuts", lambda *_: cuts)
    assert enhance.cuts_of(Frames(make_frames(2)), None, {}, config) == cuts
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith("cut before frame 1: ")
    assert len(told) == 11
    assert told[-1] == "and 3 more cuts"


def test_a_damaged_record_is_named(tmp_path, checkpoint):
    given = write_frames(tmp_path / "in", make_frames(2))
    (tmp_path / "out.partial").mkdir()
    for content in ("", "{}", "[]", '{"settings": {}}', '{"settings": [1], "notes": {}}'):
        (tmp_path / "out.partial" / "job.json").write_text(content)
        with pytest.raises(ValueError, match=r"job\.json is damaged .* with --overwrite"):
            run(checkpoint, given, tmp_path / "out", "--resume")
    run(checkpoint, given, tmp_path / "out", "--overwrite")


def test_two_processes_do_not_share_an_output(tmp_path, checkpoint):
    given = write_frames(tmp_path / "in", make_frames(2))
    begun, end = multiprocessing.Event(), multiprocessing.Event()

    def hold():
        with locked(tmp_path / "out"):
            begun.set()
            end.wait()

    other = multiprocessing.get_context("fork").Process(target=hold)
    other.start()
    try:
        assert begun.wait(60)
        for flags in ((), ("--resume",), ("--overwrite",)):
            with pytest.raises(ValueError, match=rf"in use by process {other.pid} on"):
                run(checkpoint, given, tmp_path / "out", *flags)
    finally:
        end.set()
        other.join()
    assert not (tmp_path / "out.partial").exists()  # in which nothing was made
    run(checkpoint, given, tmp_path / "out", "--resume")


def test_a_lock_that_was_being_removed_is_none(tmp_path, monkeypatch):
    flags = []

    def remove_it(file, how):
        flags.append(how)
        (tmp_path / "out.partial" / ".lock").unlink()

    fcntl = pytest.importorskip("fcntl")
    monkeypatch.setattr(fcntl, "lockf", remove_it)
    with pytest.raises(ValueError, match="was in use just now"), locked(tmp_path / "out"):
        pass
    assert flags


def test_the_input_under_another_name_is_not_overwritten(tmp_path):
    (tmp_path / "IN.mp4").touch()  # as in.mp4 is where names have no case
    (tmp_path / "in.mp4").hardlink_to(tmp_path / "IN.mp4")
    config = enhance.Config(str(tmp_path / "IN.mp4"), str(tmp_path / "in.mp4"), overwrite=True)
    with pytest.raises(ValueError, match=r"in\.mp4 is in the input"):
        check_outputs(config, tmp_path / "in.mp4")


def test_what_only_looks_like_a_result_is_not_overwritten(tmp_path, checkpoint):
    scenes = write_frames(tmp_path / "scenes", make_frames(1))
    (scenes / "0.png").rename(scenes / "20240101.png")
    given = write_frames(scenes / "20240102", make_frames(2))
    for output in (scenes, tmp_path):
        with pytest.raises(ValueError, match=r"the input .*20240102 is in"):
            run(checkpoint, given, output, "--overwrite")
    given = given.rename(tmp_path / "in")
    with pytest.raises(ValueError, match=r"files that are not frames .* \(20240101\.png"):
        run(checkpoint, given, scenes, "--overwrite")
    for name in (".", ".."):
        with pytest.raises(ValueError, match="has no name of its own"):
            run(checkpoint, given, name)


def test_outputs_are_never_overwritten(tmp_path, checkpoint):
    given = write_frames(tmp_path / "in", make_frames(2))
    output = run(checkpoint, given, tmp_path / "out")
    before = read_all(output)
    notes = tmp_path / "notes"
    notes.write_text("mine")
    with pytest.raises(ValueError, match="notes is no earlier result, so it stays"):
        run(checkpoint, given, notes, "--overwrite")
    assert notes.read_text() == "mine"
    with pytest.raises(ValueError, match="exists; choose another OUTPUT or add --overwrite"):
        run(checkpoint, given, output)
    np.testing.assert_array_equal(before, read_all(run(checkpoint, given, output, "--overwrite")))
    (output / ".DS_Store").touch()
    run(checkpoint, given, output, "--overwrite")
    (output / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"holds files that are not frames.*notes.txt"):
        run(checkpoint, given, output, "--overwrite")
    with pytest.raises(ValueError, match="is in the input"):
        run(checkpoint, given, given, "--overwrite")
    with pytest.raises(ValueError, match="is in the input"):
        run(checkpoint, given, given / "out")


def test_what_appears_during_the_run_is_kept(tmp_path, checkpoint, monkeypatch):
    given = write_frames(tmp_path / "in", make_frames(2))
    output, strips = tmp_path / "out", enhance.Enhancer.strips

    def slow(self, *arguments):
        output.mkdir(exist_ok=True)
        (output / "00000000.png").write_bytes(b"someone else's")
        return strips(self, *arguments)

    monkeypatch.setattr(enhance.Enhancer, "strips", slow)
    with pytest.raises(ValueError, match=r"out exists; .* waits in .*out.partial, --resume puts"):
        run(checkpoint, given, output)
    assert (output / "00000000.png").read_bytes() == b"someone else's"
    monkeypatch.undo()
    interrupt_at(monkeypatch, {1})  # nothing is computed again
    assert len(read_all(run(checkpoint, given, output, "--resume", "--overwrite"))) == 3


@pytest.mark.parametrize("flags", [(), ("--resume",), ("--overwrite",)])
def test_a_foreign_folder_of_that_name_is_kept(tmp_path, checkpoint, flags):
    given = write_frames(tmp_path / "in", make_frames(2))
    (tmp_path / "out.partial").mkdir()
    notes = tmp_path / "out.partial" / "notes.txt"
    notes.write_text("mine")
    with pytest.raises(ValueError, match=r"out.partial is not unfinished work"):
        run(checkpoint, given, tmp_path / "out", *flags)
    assert notes.read_text() == "mine"


def test_an_output_that_is_a_link_or_in_no_folder_is_refused_at_once(tmp_path, checkpoint):
    given = write_frames(tmp_path / "in", make_frames(2))
    (tmp_path / "real").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "real")
    with pytest.raises(ValueError, match="out is a link to a folder"):
        run(checkpoint, given, tmp_path / "out")
    assert not (tmp_path / "out.partial").exists()
    with pytest.raises(FileNotFoundError, match="nowhere is not a folder; create it first"):
        run(checkpoint, given, tmp_path / "nowhere" / "out")


@pytest.mark.parametrize("change", ["one frame", "mixed sizes", "mixed depths", "no frames"])
def test_what_is_no_sequence_is_refused(tmp_path, checkpoint, change):
    given = write_frames(tmp_path / "in", make_frames(1 if change == "one frame" else 3))
    last = given / "2.png"
    if change == "mixed sizes":
        cv2.imwrite(str(last), np.zeros((30, 20, 3), np.uint8))
    if change == "mixed depths":
        cv2.imwrite(str(last), np.zeros((HEIGHT, WIDTH, 3), np.uint16))
    if change == "no frames":
        for path in given.iterdir():
            path.unlink()
    message = {
        "one frame": "1 frame to enhance .*; interpolation needs at least two frames",
        "mixed sizes": "2.png is 20x30, 3 bands, uint8, the first frame 32x24, 3 bands, uint8",
        "mixed depths": "2.png is 32x24, 3 bands, uint16, the first frame",
        "no frames": "holds no frames",
    }[change]
    with pytest.raises(ValueError, match=message):
        run(checkpoint, given, tmp_path / "out")


@pytest.mark.parametrize(("flags", "message"), [
    (("--scale", 2), "scale is 2; the network enlarges by 4 only"),
    (("--times", 3), "times is 3"),
    (("--fps", 0), "fps is 0"),
    (("--fps", 10_000), "from 1/1001 to below 10000"),
    (("--frames", 1), "frames is 1; give 2 or more"),
    (("--slow-motion",), "--slow-motion is for an OUTPUT that is a video"),
    (("--fps", 10), "--fps is for an OUTPUT that is a video, or for --compare"),
    (("--palette", "rgb"), "--palette is for TIFF files, not for"),
    (("--tile", 40), "tile is 40"),
    (("--device", "cuda:77"), "cuda:77"),
    (("--model", "nowhere.pth"), "nowhere.pth"),
    (("--white", -5), "white is -5"),
    (("--white", "nan"), "white is nan"),
    (("--white", "inf"), "white is inf"),
    (("--fps", 0.0001), "fps is 0.0001"),
    (("--fps", "nan"), "fps is nan"),
    (("--bands-per-frame", -1), "bands per frame is -1"),
    (("--bands-per-frame", 1), "--bands-per-frame is for one TIFF whose bands are frames"),
    (("--precision", "foo"), "precision is 'foo'"),
    (("--black", 9, "--white", 8), "white is 8; it has to be a number above black, which is 9"),
])  # fmt: skip
def test_settings_that_make_no_sense_are_refused(tmp_path, checkpoint, flags, message):
    given = write_frames(tmp_path / "in", make_frames(2))
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        run(checkpoint, given, tmp_path / "out", *flags)
    assert os.listdir(tmp_path) == ["in"]


@pytest.mark.parametrize(("height", "width", "method"), [(15, 32, "dis"), (32, 26, "pyflow")])
def test_frames_too_small_are_refused_before_any_work(tmp_path, checkpoint, height, width, method):
    given = write_frames(tmp_path / "in", make_frames(2, height, width))
    with pytest.raises(ValueError, match=rf"{width}x{height}\b"):
        run(checkpoint, given, tmp_path / "out", "--flow-method", method)
    assert os.listdir(tmp_path) == ["in"]


def test_weights_of_no_use_are_found_out(tmp_path):
    network = save_small_network(tmp_path / "nan.safetensors")
    with torch.no_grad():
        network.reconstruction.conv_last.bias.fill_(torch.nan)
    save_network(tmp_path / "nan.safetensors", network, {})
    given = write_frames(tmp_path / "in", make_frames(2))
    with pytest.raises(ValueError, match="produced NaN or Inf"):
        run(tmp_path / "nan.safetensors", given, tmp_path / "out")


@pytest.mark.parametrize("size", [(16, 16400), (16400, 16)])
def test_frames_too_large_for_jpeg_are_refused(tmp_path, size):
    source = Frames(np.zeros((2, *size, 3), np.uint8))
    source.suffix = ".jpg"
    with pytest.raises(ValueError, match=f"JPEG cannot hold {4 * size[1]}x{4 * size[0]} pixels"):
        enhance.open_sink(enhance.Config("in", "out"), source, tmp_path)
    lossless = enhance.open_sink(enhance.Config("in", "out", lossless=True), source, tmp_path)
    assert lossless.suffix == ".png"


def test_one_image_and_a_video_of_four_bands_are_no_outputs(tmp_path, checkpoint):
    alpha = np.full((2, HEIGHT, WIDTH, 4), 200, np.uint8)
    given = write_frames(tmp_path / "in", alpha)
    with pytest.raises(ValueError, match=r"out\.png is one image; name a folder, a video or a"):
        run(checkpoint, given, tmp_path / "out.png")
    with pytest.raises(ValueError, match="has 4 bands, a video has one or three"):
        run(checkpoint, given, tmp_path / "out.mp4")
