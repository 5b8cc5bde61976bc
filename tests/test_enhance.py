"""enhance.py on folders: what comes out, what survives an interruption, what is refused."""

import json
import os
import random
import sys

import cv2
import numpy as np
import pytest
import torch
from enhancing import (
    HEIGHT,
    WIDTH,
    interrupt_at,
    make_frames,
    read_all,
    run,
    save_small_network,
    write_frames,
)
from trainings import Child, small_files

import enhance
from enhancement import tiling
from media.folder import ImageSink
from media.open import open_source
from models import MSTT
from models.checkpoint import load_network, save_network, shipped_weights, trained_flow
from models.ensemble import Ensemble
from models.inference import super_resolve
from utils.files import file_sha256
from utils.resize import imresize


@pytest.fixture(scope="module")
def network(checkpoint):
    return load_network(checkpoint)[0].eval()


@pytest.mark.parametrize("count", [2, 3, 4, 5, 9])
def test_a_folder_is_what_super_resolve_gives(tmp_path, checkpoint, network, count):
    frames = make_frames(count)
    given = write_frames(tmp_path / "in", frames)
    result = run(checkpoint, given, tmp_path / "out")
    expected = np.stack(list(super_resolve(network, frames, "dis")))
    np.testing.assert_array_equal(read_all(result), expected)
    assert sorted(os.listdir(result)) == [f"{index:08d}.png" for index in range(2 * count - 1)]
    assert not (tmp_path / "out.partial").exists()


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bits_take_no_step_through_eight(tmp_path, checkpoint, suffix):
    frames = make_frames(3)
    eight = read_all(run(checkpoint, write_frames(tmp_path / "8", frames), tmp_path / "out8"))
    deep = write_frames(tmp_path / "16", frames.astype(np.uint16) * 257, suffix)
    sixteen = read_all(run(checkpoint, deep, tmp_path / "out16", "--white", 65535))
    assert sixteen.dtype == np.uint16
    inside = (eight > 0) & (eight < 255)
    # The flow sees a stretched view, so frames between may differ a little; given ones do not.
    difference = np.abs(sixteen[::2] / 257 - eight[::2])[inside[::2]]
    assert difference.max() < 0.51
    assert difference.mean() > 0.1  # the digits behind those of 8 bits are there


def test_grey_comes_out_grey(tmp_path, checkpoint, network):
    grey = make_frames(2)[..., 1:2]
    given = write_frames(tmp_path / "in", grey)
    result = read_all(run(checkpoint, given, tmp_path / "out"))
    assert result.shape == (3, 4 * HEIGHT, 4 * WIDTH, 1)
    triple = np.stack(list(super_resolve(network, np.repeat(grey, 3, axis=3), "dis")))
    assert np.abs(result[..., 0] - triple.mean(axis=3)).max() <= 1


def test_the_ensemble_is_that_of_the_network_and_resumes_as_such(
    tmp_path, checkpoint, network, monkeypatch
):
    frames = make_frames(5)
    given = write_frames(tmp_path / "in", frames)
    whole = read_all(run(checkpoint, given, tmp_path / "whole", "--ensemble"))
    expected = np.stack(list(super_resolve(Ensemble(network), frames, "dis")))
    assert np.abs(whole.astype(int) - expected).max() <= 1
    assert (whole != read_all(run(checkpoint, given, tmp_path / "plain"))).mean() > 0.01
    with monkeypatch.context() as patch:
        interrupt_at(patch, {2})
        with pytest.raises(KeyboardInterrupt):
            run(checkpoint, given, tmp_path / "cut", "--ensemble")
    with pytest.raises(ValueError, match="ensemble"):
        run(checkpoint, given, tmp_path / "cut", "--resume")
    resumed = read_all(run(checkpoint, given, tmp_path / "cut", "--resume", "--ensemble"))
    np.testing.assert_array_equal(resumed, whole)


def test_the_network_makes_its_own_flow(tmp_path, checkpoint, network):
    frames = make_frames(3)
    given = write_frames(tmp_path / "in", frames)
    flags = ("--flow-method", "enhanced")
    whole = read_all(run(checkpoint, given, tmp_path / "whole", *flags))
    expected = np.stack(list(super_resolve(network, frames, "enhanced")))
    assert np.abs(whole.astype(int) - expected).max() <= 1
    assert (whole != read_all(run(checkpoint, given, tmp_path / "dis"))).mean() > 0.001
    # A damaged frame is made before anything is enhanced, by another flow.
    (given / sorted(path.name for path in given.iterdir())[1]).write_bytes(b"nothing")
    bridged = read_all(run(checkpoint, given, tmp_path / "bridged", "--skip-bad", *flags))
    assert bridged.shape == whole.shape


def test_what_two_windows_share_is_made_once_and_changes_nothing(tmp_path, checkpoint, monkeypatch):
    given = write_frames(tmp_path / "in", make_frames(9))
    extract, seen = MSTT.extract, []

    def counted(self, frames):
        seen.append(frames.shape[1])
        return extract(self, frames)

    monkeypatch.setattr(MSTT, "extract", counted)
    flags = ("--flow-method", "enhanced")
    whole = read_all(run(checkpoint, given, tmp_path / "whole", *flags))
    assert seen == [1] * 9
    # Begun anew, every window makes all of it itself.
    interrupt_at(monkeypatch, {2, 4})
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            run(checkpoint, given, tmp_path / "cut", "--resume", *flags)
    cut = read_all(run(checkpoint, given, tmp_path / "cut", "--resume", *flags))
    np.testing.assert_array_equal(cut, whole)
    assert sum(seen) > 2 * 9


def test_a_full_disk_while_the_next_window_is_in_work(tmp_path, checkpoint, monkeypatch):
    """What a thread fails to write ends the run; what is finished stays."""
    given, write = write_frames(tmp_path / "in", make_frames(8)), ImageSink.write_frame

    def full(self, path, index, pixels):
        if index == 9:
            raise OSError(28, "No space left on device", str(path))
        write(self, path, index, pixels)

    with monkeypatch.context() as patch:
        patch.setattr(ImageSink, "write_frame", full)
        with pytest.raises(OSError, match=r"No space left.*finished frames are in .*--resume"):
            run(checkpoint, given, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    resumed = read_all(run(checkpoint, given, tmp_path / "out", "--resume"))
    np.testing.assert_array_equal(resumed, read_all(run(checkpoint, given, tmp_path / "whole")))


def test_jpeg_stays_jpeg_unless_lossless(tmp_path, checkpoint):
    given = write_frames(tmp_path / "in", make_frames(2), ".jpg")
    jpeg = run(checkpoint, given, tmp_path / "out")
    png = run(checkpoint, given, tmp_path / "out2", "--lossless")
    assert {path.suffix for path in jpeg.iterdir()} == {".jpg"}
    assert {path.suffix for path in png.iterdir()} == {".png"}
    assert np.abs(read_all(jpeg).astype(int) - read_all(png)).mean() < 2


def test_tiff_stacks(tmp_path, checkpoint):
    frames = make_frames(5)
    given = write_frames(tmp_path / "in", frames)
    stack = run(checkpoint, given, tmp_path / "stack.tif")
    np.testing.assert_array_equal(read_all(stack), read_all(run(checkpoint, given, tmp_path / "x")))
    from_stack = run(checkpoint, stack, tmp_path / "again.tif", "--tile", 100_000)
    assert read_all(from_stack).shape == (17, 16 * HEIGHT, 16 * WIDTH, 3)


def test_two_passes_in_time(tmp_path, checkpoint, network, monkeypatch):
    frames = make_frames(3)
    given = write_frames(tmp_path / "in", frames)
    result = read_all(run(checkpoint, given, tmp_path / "out", "--times", 4))
    once = np.stack(list(super_resolve(network, frames, "dis")))
    denser = np.empty((5, *frames.shape[1:]), np.uint8)
    denser[::2] = frames
    denser[1::2] = imresize(once[1::2], 1 / 4)
    twice = np.stack(list(super_resolve(network, denser, "dis")))
    # The middle frames are rounded to 8 bits here and are not there.
    assert np.abs(result.astype(int) - twice).max() <= 2

    interrupt_at(monkeypatch, {2, 3, 4})
    for flags in ((), ("--resume",), ("--resume",)):
        with pytest.raises(KeyboardInterrupt):
            run(checkpoint, given, tmp_path / "again", "--times", 4, *flags)
    again = run(checkpoint, given, tmp_path / "again", "--times", 4, "--resume")
    np.testing.assert_array_equal(read_all(again), result)


@pytest.mark.parametrize("output", ["out", "out.mkv"])
def test_interrupted_ten_times(tmp_path, checkpoint, monkeypatch, output):
    if output.endswith(".mkv"):
        pytest.importorskip("av")
    given = write_frames(tmp_path / "in", make_frames(12, 16, 24))
    whole = run(checkpoint, given, tmp_path / f"whole_{output}", "--lossless")
    interrupt_at(monkeypatch, set(random.Random(7).sample(range(1, 15), 10)))
    interruptions = 0
    while not (tmp_path / output).exists():
        try:
            run(checkpoint, given, tmp_path / output, "--lossless", "--resume")
        except KeyboardInterrupt:
            interruptions += 1
            partial = tmp_path / f"{output}.partial"
            assert (partial / "job.json").exists()
            assert not (tmp_path / output).exists()
    assert interruptions == 10
    np.testing.assert_array_equal(read_all(tmp_path / output), read_all(whole))
    if output.endswith(".mkv"):
        assert open_source(tmp_path / output).times == open_source(whole).times


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


def test_outputs_are_never_overwritten(tmp_path, checkpoint):
    given = write_frames(tmp_path / "in", make_frames(2))
    output = run(checkpoint, given, tmp_path / "out")
    before = read_all(output)
    with pytest.raises(ValueError, match="exists; choose another OUTPUT or add --overwrite"):
        run(checkpoint, given, output)
    np.testing.assert_array_equal(before, read_all(run(checkpoint, given, output, "--overwrite")))
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
    with pytest.raises(FileNotFoundError, match="nowhere is not a folder to put out in"):
        run(checkpoint, given, tmp_path / "nowhere" / "out")


def test_a_damaged_frame_is_named_and_bridged(tmp_path, checkpoint):
    frames = make_frames(5)
    given = write_frames(tmp_path / "in", frames)
    (given / "2.png").write_bytes((given / "2.png").read_bytes()[:900])
    with pytest.raises(ValueError, match=r"2.png cannot be decoded.*--skip-bad"):
        run(checkpoint, given, tmp_path / "out")
    result = read_all(run(checkpoint, given, tmp_path / "out", "--skip-bad"))
    assert len(result) == 9
    whole = write_frames(tmp_path / "whole", frames)
    expected = read_all(run(checkpoint, whole, tmp_path / "expected"))
    assert np.abs(result[4].astype(int) - expected[4]).mean() < 4
    np.testing.assert_array_equal(result[0], expected[0])


def test_damage_at_the_end_repeats_the_nearest_frame(tmp_path, checkpoint):
    given = write_frames(tmp_path / "in", make_frames(4))
    (given / "0.png").write_bytes(b"")
    result = read_all(run(checkpoint, given, tmp_path / "out", "--skip-bad"))
    np.testing.assert_array_equal(result[0], result[2])
    for name in ("1.png", "2.png"):
        (given / name).write_bytes(b"")
    with pytest.raises(ValueError, match="fewer than two frames that can be read"):
        run(checkpoint, given, tmp_path / "none", "--skip-bad")


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
        "one frame": "holds 1 frame; frames between frames need at least two",
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


def test_missing_bfloat16_is_said_once(tmp_path, checkpoint, monkeypatch, capsys):
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    given = write_frames(tmp_path / "in", make_frames(5, 24, 100))
    run(checkpoint, given, tmp_path / "out", "--precision", "bfloat16", "--tile", 80)
    lines = [line for line in capsys.readouterr().err.splitlines() if "bfloat16" in line]
    assert lines == ["no bfloat16 on this cpu; computing in float32"]


def test_weights_of_no_use_are_found_out(tmp_path):
    network = save_small_network(tmp_path / "nan.safetensors")
    with torch.no_grad():
        network.reconstruction.conv_last.bias.fill_(torch.nan)
    save_network(tmp_path / "nan.safetensors", network, {})
    given = write_frames(tmp_path / "in", make_frames(2))
    with pytest.raises(ValueError, match="produced NaN or Inf"):
        run(tmp_path / "nan.safetensors", given, tmp_path / "out")


@pytest.mark.parametrize("error", [MemoryError(), cv2.error("Insufficient memory")])
def test_out_of_memory_anywhere_is_one_line(tmp_path, checkpoint, monkeypatch, error):
    def fail(*arguments, **keywords):
        raise error

    if isinstance(error, cv2.error):
        error.code = cv2.Error.StsNoMem
    monkeypatch.setattr("enhancement.enhancer.given_flow", fail)
    given = write_frames(tmp_path / "in", make_frames(2))
    with pytest.raises(ValueError, match=r"out of memory; finished frames are in .*--resume"):
        run(checkpoint, given, tmp_path / "out")


def test_out_of_memory_tries_the_next_smaller_tile(tmp_path, checkpoint, monkeypatch, capsys):
    given = write_frames(tmp_path / "in", make_frames(2, 100, 100))
    expected = read_all(run(checkpoint, given, tmp_path / "small", "--tile", 80))
    forward, most = enhance.Enhancer.strips, [80]

    def small_memory(self, source, frames, flows, tile, first_new):
        if tile > most[0]:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, source, frames, flows, tile, first_new)

    monkeypatch.setattr(enhance.Enhancer, "strips", small_memory)
    np.testing.assert_array_equal(read_all(run(checkpoint, given, tmp_path / "out")), expected)
    assert "out of memory with tiles of 160, going on with 80" in capsys.readouterr().out
    with pytest.raises(ValueError, match="out of memory with --tile 160; try --tile 80 --over"):
        run(checkpoint, given, tmp_path / "forced", "--tile", 160)
    most[0] = 0
    with pytest.raises(ValueError, match="out of memory, even with tiles of 80"):
        run(checkpoint, given, tmp_path / "none")


def test_a_resumed_run_keeps_the_tile(tmp_path, checkpoint, monkeypatch):
    given = write_frames(tmp_path / "in", make_frames(8, 24, 100))
    whole = read_all(run(checkpoint, given, tmp_path / "whole"))
    interrupt_at(monkeypatch, {2})
    with pytest.raises(KeyboardInterrupt):
        run(checkpoint, given, tmp_path / "out")
    monkeypatch.setattr(tiling, "available_memory", lambda device: 0)
    again = run(checkpoint, given, tmp_path / "out", "--resume")
    np.testing.assert_array_equal(read_all(again), whole)


def test_deep_frames_become_full_scale_video(tmp_path, checkpoint):
    pytest.importorskip("av")
    frames = np.repeat(make_frames(2, 32, 32), 2, axis=0).astype(np.uint16) * 8
    video = open_source(
        run(checkpoint, write_frames(tmp_path / "in", frames), tmp_path / "out.mp4", "--fps", 10)
    )
    assert video.depth == 10
    assert video.times[1] * 20 == 1
    assert np.abs(video.read(0).mean() / 65535 - frames[0].mean() / 2047) < 0.02


@pytest.mark.skipif(sys.platform != "linux", reason="limits of Linux")
def test_a_full_disk_is_one_line(tmp_path, checkpoint):
    """A limit on file sizes stands in for the end of the disk: the same error from write."""
    given = write_frames(tmp_path / "in", make_frames(2, 100, 100))
    flags = ("--model", checkpoint, "--flow-method", "dis", "--precision", "float32")
    tricks = [(small_files, 100_000)]
    process = Child("enhance", tmp_path, given, tmp_path / "out", *flags, tricks=tricks)
    assert process.wait() == 2
    assert process.last_line.startswith("error: ")
    assert "File too large" in process.last_line
    assert "Traceback" not in process.err
    assert not (tmp_path / "out").exists()


def test_one_image_and_a_video_of_four_bands_are_no_outputs(tmp_path, checkpoint):
    alpha = np.full((2, HEIGHT, WIDTH, 4), 200, np.uint8)
    given = write_frames(tmp_path / "in", alpha)
    with pytest.raises(ValueError, match=r"out\.png is one image; name a folder, a video or a"):
        run(checkpoint, given, tmp_path / "out.png")
    with pytest.raises(ValueError, match="has 4 bands, a video one or three"):
        run(checkpoint, given, tmp_path / "out.mp4")


def test_without_flags_the_shipped_weights_and_their_flow_are_used(tmp_path, monkeypatch):
    """And the job says so, with the hash of the weights."""
    weights = shipped_weights(torch.device("cpu"))
    asked = json.loads(weights.with_suffix(".json").read_text())
    given = write_frames(tmp_path / "in", make_frames(2, 16, 20))
    interrupt_at(monkeypatch, {1})
    with pytest.raises(KeyboardInterrupt):
        enhance.main([str(given), str(tmp_path / "out"), "--device", "cpu"])
    settings = json.loads((tmp_path / "out.partial" / "job.json").read_text())["settings"]
    assert settings["model"] == file_sha256(weights) == asked["sha256"]
    assert settings["flow_method"] == trained_flow(asked)
    assert (settings["times"], settings["scale"], settings["precision"]) == (2, 4, "auto")


def test_eight_times_as_many_frames(tmp_path, checkpoint):
    frames = make_frames(2, 16, 24)
    given = write_frames(tmp_path / "in", frames)
    once, eight = (
        read_all(run(checkpoint, given, tmp_path / f"out{times}", "--times", times))
        for times in (2, 8)
    )
    assert len(eight) == 9
    assert np.abs(eight[[0, 8]].astype(int) - once[[0, 2]]).max() <= 2
    # The square, which has little blue, moves by a pixel of the input in all.
    places = [np.nonzero(frame[..., 2] < 85)[1].mean() for frame in eight]
    assert min(np.diff(places)) > 0
    assert places[-1] - places[0] == pytest.approx(4, abs=1)
