"""enhance.py on folders: what comes out, what survives an interruption, what is refused."""

import json
import os
from itertools import combinations

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
    write_frames,
)
from tqdm import tqdm

import enhance
from enhancement import job, tiling
from enhancement.job import CARRIED, Job, window_name, work_folder
from media.folder import ImageSink, write_image_file
from media.open import open_source
from models import MSTT
from models.checkpoint import load_network, save_network
from models.enhanced_flow import EnhancedFlow
from models.ensemble import Ensemble
from models.inference import pick_precision, super_resolve
from models.weights import shipped_weights, trained_flow
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


def test_windows_are_as_long_as_the_weights_or_the_user_want(tmp_path, network):
    """Nine frames: in windows of four, of six as the file says, and of eight."""
    weights, frames = tmp_path / "six.safetensors", make_frames(9)
    save_network(weights, network, {"window": 6})
    given = write_frames(tmp_path / "in", frames)
    results = []
    for name, window, flags in (("six", 6, ()), ("eight", 8, ("--window", 8))):
        results.append(read_all(run(weights, given, tmp_path / name, *flags)))
        expected = np.stack(list(super_resolve(network, frames, "dis", window=window)))
        np.testing.assert_array_equal(results[-1], expected)
    usual = np.stack(list(super_resolve(network, frames, "dis")))
    assert all((one != other).any() for one, other in combinations([*results, usual], 2))


def test_frames_between_follow_the_finished_ones(tmp_path):
    """Which a propagation has changed since the first flow was found."""
    torch.manual_seed(0)
    options = {"global_skip": "enhanced", "propagation_blocks": 1}
    network = MSTT(8, 2, 1, 1, midpoint_flow=True, **options).eval()
    torch.nn.init.normal_(network.propagation.reconstruction.conv_last.weight, std=0.3)
    save_network(tmp_path / "net.safetensors", network, {})
    frames = make_frames(3)
    given = write_frames(tmp_path / "in", frames)
    flags = ("--flow-method", "enhanced")
    result = read_all(run(tmp_path / "net.safetensors", given, tmp_path / "out", *flags))
    expected = np.stack(list(super_resolve(network, frames, "enhanced")))
    # The flow sees the contrast of the values here, and there that of a part of the frames.
    assert (result != expected).mean() < 0.01
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EnhancedFlow, "between_finished", lambda self: None)
        without = np.stack(list(super_resolve(network, frames, "enhanced")))
    assert (without != expected).mean() > 0.05


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
    frames, short = make_frames(3, 16, 24), ("--window", 2)  # two windows
    given = write_frames(tmp_path / "in", frames)
    whole = read_all(run(checkpoint, given, tmp_path / "whole", "--ensemble", *short))
    expected = np.stack(list(super_resolve(Ensemble(network), frames, "dis", window=2)))
    assert np.abs(whole.astype(int) - expected).max() <= 1
    assert (whole != read_all(run(checkpoint, given, tmp_path / "plain", *short))).mean() > 0.01
    with monkeypatch.context() as patch:
        interrupt_at(patch, {2})
        with pytest.raises(KeyboardInterrupt):
            run(checkpoint, given, tmp_path / "cut", "--ensemble", *short)
    with pytest.raises(ValueError, match="ensemble"):
        run(checkpoint, given, tmp_path / "cut", "--resume", *short)
    resumed = read_all(run(checkpoint, given, tmp_path / "cut", "--resume", "--ensemble", *short))
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


TILES = ("--tile", "80", "--overlap", "32")


def interrupted_in_tiles(tmp_path, checkpoint, monkeypatch, frames, calls, *flags):
    """Frames in four tiles, one below the other, whole and interrupted in some of the tiles."""
    monkeypatch.setattr(job, "KEEP_SECONDS", 0)
    given = write_frames(tmp_path / "in", frames)
    whole = read_all(run(checkpoint, given, tmp_path / "whole", *TILES, *flags))
    forward, seen = MSTT.forward, []

    def counted(self, *arguments):
        seen.append(arguments)
        if len(seen) in calls:
            raise KeyboardInterrupt
        return forward(self, *arguments)

    monkeypatch.setattr(MSTT, "forward", counted)
    for _ in calls:
        with pytest.raises(KeyboardInterrupt):
            run(checkpoint, given, tmp_path / "cut", *TILES, *flags, "--resume")
    return given, whole, seen


@pytest.mark.parametrize(("first", "count"), [(0, 2), (1, 5)])
def test_a_window_in_tiles_goes_on_with_the_row_it_was_at(
    tmp_path, checkpoint, monkeypatch, capfd, first, count
):
    """The only window, or the second one, which has two new frames."""
    frames, begun = make_frames(count, 200, WIDTH), 4 * first
    calls = {begun + 3, begun + 5}  # in the third tile; once resumed, in the fourth
    given, whole, seen = interrupted_in_tiles(tmp_path, checkpoint, monkeypatch, frames, calls)
    assert len(list((tmp_path / "cut.partial").glob("window*"))) == 1
    result = read_all(run(checkpoint, given, tmp_path / "cut", *TILES, "--resume"))
    np.testing.assert_array_equal(result, whole)
    assert len(seen) == begun + 4 + 2
    assert not (tmp_path / "cut.partial").exists()
    assert f"frame {2 * count - 1}/{2 * count - 1}" in capfd.readouterr().err.splitlines()[-1]


def test_a_second_pass_in_tiles_goes_on_too(tmp_path, checkpoint, monkeypatch):
    frames, twice = make_frames(2, 200, WIDTH), ("--times", 4)
    given, whole, seen = interrupted_in_tiles(
        tmp_path, checkpoint, monkeypatch, frames, {4 + 3}, *twice
    )
    result = read_all(run(checkpoint, given, tmp_path / "cut", *TILES, *twice, "--resume"))
    np.testing.assert_array_equal(result, whole)
    assert len(seen) == 4 + 3 + 2


def test_what_is_kept_is_not_counted_as_made_now(tmp_path, checkpoint, monkeypatch):
    """Or the time that is left would be far too short."""
    bars = []

    class Bar(tqdm):
        def __init__(self, *arguments, **keywords):
            super().__init__(*arguments, **keywords)
            bars.append(self)

    monkeypatch.setattr("enhancement.enhancer.progress_bar", Bar)
    frames = make_frames(2, 200, WIDTH)
    given, *_ = interrupted_in_tiles(tmp_path, checkpoint, monkeypatch, frames, {3})
    run(checkpoint, given, tmp_path / "cut", *TILES, "--resume")
    assert bars[-1].n == pytest.approx(bars[-1].total)
    assert bars[-1].initial == pytest.approx(bars[-1].total * 2 / 4)


def test_rows_of_larger_tiles_are_of_no_use(tmp_path, checkpoint, monkeypatch):
    monkeypatch.setattr(job, "KEEP_SECONDS", 0)
    given = write_frames(tmp_path / "in", make_frames(2, 300, WIDTH))
    expected = read_all(run(checkpoint, given, tmp_path / "small", *TILES))
    forward, large = MSTT.forward, []

    def small_memory(self, frames, *others):
        is_large = frames.shape[-2] > 80
        large.extend([frames.shape] if is_large else [])
        if is_large and len(large) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, frames, *others)

    monkeypatch.setattr(MSTT, "forward", small_memory)
    monkeypatch.setattr(tiling, "choose_tile", lambda *_: 160)
    result = read_all(run(checkpoint, given, tmp_path / "out", "--overlap", 32))
    np.testing.assert_array_equal(result, expected)
    assert len(large) == 2


def test_rows_that_were_written_but_not_kept_are_made_again(tmp_path, checkpoint, monkeypatch):
    keep, kept = job.WindowBuffer.keep, []

    def interrupted(self):
        kept.append(self)
        if len(kept) == 4 + 2:
            raise KeyboardInterrupt
        keep(self)

    monkeypatch.setattr(job.WindowBuffer, "keep", interrupted)
    frames = make_frames(2, 200, WIDTH)
    given, whole, seen = interrupted_in_tiles(tmp_path, checkpoint, monkeypatch, frames, {0})
    result = read_all(run(checkpoint, given, tmp_path / "cut", *TILES, "--resume"))
    np.testing.assert_array_equal(result, whole)
    assert len(seen) == 2 + 3


def test_what_no_run_can_go_on_with_is_removed(tmp_path):
    output = tmp_path / "out"
    work_folder(output).mkdir()
    job = Job(output, {}, resume=False, overwrite=False)
    windows = {
        "made": ("enhancing", 0, 0),
        "begun": ("enhancing", 0, 3),
        "empty": ("enhancing", 0, 3),
    }
    windows["of another pass"] = ("pass 1 of 2", 0, 0)
    folders = {name: job.folder / f"{window_name(*place)}{name}" for name, place in windows.items()}
    for name, folder in folders.items():
        folder.mkdir()
        if name != "empty":
            (folder / CARRIED).touch()
    job.clear_windows("enhancing", [(0, 3)])
    kept = [name for name, folder in folders.items() if folder.exists()]
    assert kept == ["begun", "of another pass"]


def test_the_record_is_removed_last(tmp_path, monkeypatch):
    """Without it nobody knows whose the rest is."""
    work_folder(tmp_path / "out").mkdir()
    made = Job(tmp_path / "out", {}, resume=False, overwrite=False)
    for name in ("frames", "window", ".lock"):
        (made.folder / name).touch()
    removed = []
    monkeypatch.setattr(job, "remove", lambda path: removed.append(path.name))
    made._clear()
    assert removed == ["frames", "window", "job.json"]


def test_rows_are_kept_from_time_to_time(tmp_path, monkeypatch):
    now, kept = [0.0], []
    monkeypatch.setattr(job.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(job, "write_atomically", lambda path, write: kept.append(now[0]))
    buffer = job.WindowBuffer(tmp_path / "window", 1, 4, 1, np.dtype(np.uint8))
    buffer.carried.rows = np.zeros((1, 2, 4, 1), np.float32)
    for now[0] in (29.0, 31.0, 32.0, 60.0, 62.0):
        buffer.keep()
    assert kept == [31, 62]


@pytest.mark.parametrize("damage", ["carried.npz", "0.raw", "full disk"])
def test_a_window_in_tiles_begins_again(tmp_path, checkpoint, monkeypatch, damage):
    frames = make_frames(2, 200, WIDTH)
    if damage == "full disk":
        monkeypatch.setattr(np, "savez", lambda *_, **__: os.open("/dev/full/no", os.O_RDONLY))
    given, whole, seen = interrupted_in_tiles(tmp_path, checkpoint, monkeypatch, frames, {3})
    if damage != "full disk":
        (path,) = (tmp_path / "cut.partial").glob(f"window*/{damage}")
        path.write_bytes(path.read_bytes()[:-100])
    result = read_all(run(checkpoint, given, tmp_path / "cut", *TILES, "--resume"))
    assert len(seen) == 3 + 4
    np.testing.assert_array_equal(result, whole)


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
    frames = make_frames(2, 16, 24)
    given = write_frames(tmp_path / "in", frames)
    stack = run(checkpoint, given, tmp_path / "stack.tif")
    np.testing.assert_array_equal(read_all(stack), read_all(run(checkpoint, given, tmp_path / "x")))
    from_stack = run(checkpoint, stack, tmp_path / "again.tif", "--tile", 100_000)
    assert read_all(from_stack).shape == (5, 16 * 16, 16 * 24, 3)


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


def test_a_video_interrupted_again_and_again(tmp_path, checkpoint, monkeypatch):
    """Before anything is done, between two pieces, and twice in the same one."""
    pytest.importorskip("av")
    given = write_frames(tmp_path / "in", make_frames(9, 16, 24))
    whole = run(checkpoint, given, tmp_path / "whole.mkv", "--lossless")
    interrupt_at(monkeypatch, {1, 3, 4})
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            run(checkpoint, given, tmp_path / "out.mkv", "--lossless", "--resume")
        assert (tmp_path / "out.mkv.partial" / "job.json").exists()
        assert not (tmp_path / "out.mkv").exists()
    again = run(checkpoint, given, tmp_path / "out.mkv", "--lossless", "--resume")
    np.testing.assert_array_equal(read_all(again), read_all(whole))
    assert open_source(again).times == open_source(whole).times


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


def test_missing_bfloat16_is_said_once(tmp_path, checkpoint, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    given = write_frames(tmp_path / "in", make_frames(5, 24, 100))
    with pytest.warns(UserWarning, match="no bfloat16 on this cpu; computing in float32") as told:
        run(checkpoint, given, tmp_path / "out", "--precision", "bfloat16", "--tile", 80)
    assert len(told) == 1


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


@pytest.mark.parametrize("library", ["PyTorch", "OpenCV"])
def test_out_of_memory_tries_the_next_smaller_tile(
    tmp_path, checkpoint, monkeypatch, capsys, library
):
    given = write_frames(tmp_path / "in", make_frames(2, 100, 100))
    expected = read_all(run(checkpoint, given, tmp_path / "small", "--tile", 80))
    forward, most = enhance.Enhancer.strips, [80]

    def small_memory(self, source, frames, flows, tile, *others):
        if tile > most[0] and library == "PyTorch":
            raise torch.OutOfMemoryError("CUDA out of memory")
        if tile > most[0]:
            error = cv2.error("Insufficient memory")
            error.code = cv2.Error.StsNoMem
            raise error
        return forward(self, source, frames, flows, tile, *others)

    monkeypatch.setattr(enhance.Enhancer, "strips", small_memory)
    np.testing.assert_array_equal(read_all(run(checkpoint, given, tmp_path / "out")), expected)
    assert "out of memory with tiles of 160, going on with 80" in capsys.readouterr().out
    with pytest.raises(ValueError, match="out of memory with --tile 160; try --tile 80 --over"):
        run(checkpoint, given, tmp_path / "forced", "--tile", 160)
    most[0] = 0
    with pytest.raises(ValueError, match="out of memory, even with tiles of 80"):
        run(checkpoint, given, tmp_path / "none")


def test_a_smaller_tile_begins_a_window_afresh(tmp_path, checkpoint, monkeypatch):
    """What was made of its frames, which the next window needs too, was of larger tiles."""
    given = write_frames(tmp_path / "in", make_frames(5, 16, 100))
    flags = ("--flow-method", "enhanced")
    expected = read_all(run(checkpoint, given, tmp_path / "small", *flags, "--tile", 80))
    forward, large = MSTT.forward, []

    def small_memory(self, frames, *others):
        if frames.shape[1] > 1 and frames.shape[-1] > 80:
            large.append(frames)
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, frames, *others)

    monkeypatch.setattr(MSTT, "forward", small_memory)
    monkeypatch.setattr(tiling, "choose_tile", lambda *_: 160)
    result = read_all(run(checkpoint, given, tmp_path / "out", *flags))
    np.testing.assert_array_equal(result, expected)
    assert len(large) == 1


def test_the_frames_that_are_taken_decide_the_size(tmp_path, checkpoint):
    given = write_frames(tmp_path / "in", make_frames(1, 16, 20))
    for index, pixels in enumerate(make_frames(2), 1):
        write_image_file(given / f"{index}.png", pixels)
    taken = read_all(run(checkpoint, given, tmp_path / "out", "--start", 1))
    assert taken.shape == (3, 4 * HEIGHT, 4 * WIDTH, 3)


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
    assert (settings["times"], settings["scale"]) == (2, 4)
    assert f"torch.{settings['precision']}" == str(pick_precision(torch.device("cpu")))


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
