"""enhance.py in several processes: the bytes of one, and one message where it fails."""

import json
import os
import shutil
import signal
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from enhancing import make_frames, write_frames
from rasters import sixteen_bits, write_sequence
from trainings import Child, in_replace, launcher_store, pause, place, small_files

from enhancement import shares
from enhancement.enhancer import Enhancer
from enhancement.shares import check_alike, deal, wait_to_see
from models.inference import windows
from utils.team import Team

linux = pytest.mark.skipif(sys.platform != "linux", reason="gloo and signals of Linux")
FLAGS = ("--flow-method", "dis", "--device", "cpu", "--precision", "float32")


@pytest.fixture
def start(tmp_path, checkpoint):
    """A function that starts processes which enhance tmp_path/in together."""

    def start(output, *flags, world=2, tricks=((), ())):
        store = launcher_store()
        command = ("in", output, "--model", checkpoint, *FLAGS, *flags)
        team = []
        for rank in range(world):
            environment = place(rank, world, store.port) if world > 1 else {}
            mine = tricks[rank] if rank < len(tricks) else ()
            team.append(Child("enhance", tmp_path, *command, environment=environment, tricks=mine))
            team[-1].store = store
        return team

    return start


def finished(team):
    """The exit status of every process."""
    return [child.wait() for child in team]


def content(path):
    """The bytes of a file, or of all files of a folder by their names."""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    return {file.name.removeprefix("one_"): file.read_bytes() for file in files}


def write_input(folder, kind):
    if kind == "GeoTIFF":
        write_sequence(folder, sixteen_bits(3))  # one window, so one process has nothing to do
    else:
        film = np.concatenate([make_frames(5, 16, 24), 255 - make_frames(2, 16, 24)])
        write_frames(folder, film)


@linux
@pytest.mark.parametrize(
    ("kind", "output", "flags"),
    [
        ("folder", "out", ("--times", 4)),
        ("film", "out.mp4", ()),
        ("GeoTIFF", "out", ()),
        ("GeoTIFF", "out.tif", ()),
    ],
)
def test_two_processes_write_the_bytes_of_one(tmp_path, start, kind, output, flags):
    if output.endswith(".mp4"):
        pytest.importorskip("av")
    write_input(tmp_path / "in", kind)
    alone, (first, second) = start(f"one_{output}", *flags, world=1), start(output, *flags)
    assert finished([*alone, first, second]) == [0, 0, 0], first.err + second.err
    assert content(tmp_path / output) == content(tmp_path / f"one_{output}")
    assert not (tmp_path / f"{output}.partial").exists()
    assert "frames of" in first.out
    assert second.out + second.err == ""


@linux
def test_a_killed_process_ends_the_job_and_another_number_of_them_goes_on(tmp_path, start):
    write_frames(tmp_path / "in", make_frames(10, 16, 24))  # three windows, the first has two
    held = [(in_replace, "00000014.png", 1, pause)]
    first, second = start("out", tricks=((), held))
    second.wait_until_held()
    os.kill(second.pid, signal.SIGKILL)
    assert finished([first, second]) == [2, -signal.SIGKILL]
    assert "process 0 of 2 lost contact with the others" in first.last_line
    pieces = tmp_path / "out.partial" / "frames"
    made = {file.name: file.stat().st_mtime_ns for file in pieces.glob("????????.png")}
    assert made.keys() >= {f"{index:08d}.png" for index in range(13)}
    (pieces / "00000003.png").unlink()  # as if the first one had died too
    alone, team = start("one_out", world=1), start("out", "--resume", world=3)
    assert finished([*alone, *team]) == [0, 0, 0, 0], team[0].err
    assert content(tmp_path / "out") == content(tmp_path / "one_out")
    for index in range(7, 13):
        name = f"{index:08d}.png"
        assert (tmp_path / "out" / name).stat().st_mtime_ns == made[name]


@linux
def test_a_full_disk_of_one_process_ends_all_with_one_line(tmp_path, start):
    write_frames(tmp_path / "in", make_frames(8, 64, 64))
    first, second = start("out", "--json", tricks=((), [(small_files, 20_000)]))
    assert finished([first, second]) == [2, 2]
    events = [json.loads(line) for line in first.out.splitlines()]
    assert events[-1]["event"] == "error"
    message = events[-1]["message"]
    assert message.startswith("process 1: ")
    assert "File too large" in message
    assert "finished frames are in out.partial, go on with --resume" in message
    assert first.last_line == f"error: {message}"
    assert second.out + second.err == ""
    assert (tmp_path / "out.partial" / "frames" / "00000000.png").exists()


@linux
@pytest.mark.parametrize("problem", ["input", "flag", "unknown flag", "output"])
def test_what_cannot_be_done_is_said_once(tmp_path, start, problem):
    write_frames(tmp_path / "in", make_frames(2, 16, 24))
    flags = {"flag": ("--tile", 3), "unknown flag": ("--tiles", 80)}.get(problem, ())
    if problem == "input":
        shutil.rmtree(tmp_path / "in")
    if problem == "output":
        write_frames(tmp_path / "out", make_frames(1))
    first, second = start("out", *flags)
    assert finished([first, second]) == [2, 2]
    said = {
        "input": "in does not exist",
        "flag": "tile is 3",
        "unknown flag": "unrecognized arguments",
        "output": "out exists",
    }
    assert said[problem] in first.last_line
    assert second.out + second.err == ""


@linux
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_all_processes(tmp_path, start, number):
    """Which launchers send a second time."""
    write_frames(tmp_path / "in", make_frames(8, 16, 24))
    names = ("00000002.png", "00000013.png")
    team = start("out", tricks=[[(in_replace, name, 1, pause)] for name in names])
    for child in team:
        child.wait_until_held()
        os.kill(child.pid, number)
    for child in team:
        os.kill(child.pid, number)
        child.go_on()
    assert finished(team) == [130, 130]
    assert "finished frames are in out.partial; go on with --resume" in team[0].err
    assert "Traceback" not in team[0].err
    assert team[1].out + team[1].err == ""
    made = sorted(path.name for path in (tmp_path / "out.partial" / "frames").glob("????????.png"))
    assert set(names) <= set(made)


@pytest.mark.parametrize("world", [1, 2, 3, 9])
def test_every_window_is_dealt_to_one_process_and_neighbours_stay_together(world):
    missing = [windows(17), [], windows(2), windows(9)[1:]]
    team = [deal(missing, rank, world) for rank in range(world)]
    for number, cuts in enumerate(missing):
        assert [cut for dealt in team for cut in dealt[number].cuts] == cuts
        whole = sum(dealt[number].frames for dealt in team)
        assert all(dealt[number].elsewhere == whole - dealt[number].frames for dealt in team)
    numbers = [sum(len(share.cuts) for share in dealt) for dealt in team]
    assert numbers[0] == max(numbers)
    assert max(numbers) - min(numbers) <= 1


class Gathered(Team):
    """A team whose other processes have said something before."""

    def gather(self, value):
        return [value, *said]


said = []


def test_processes_that_would_make_other_frames_are_refused():
    team = Gathered(world=2)
    said[:] = [{"device": "cpu", "precision": "torch.bfloat16"}]
    check_alike(team, {"device": "cpu", "precision": "torch.bfloat16"})
    with pytest.raises(ValueError, match="process 1 has device 'cpu', the first 'cuda'"):
        check_alike(team, {"device": "cuda", "precision": "torch.bfloat16"})


def test_all_processes_take_the_smallest_tile_that_one_of_them_needs(monkeypatch):
    """And share the memory of their machine."""
    memory = []

    def choose(height, width, channels, bands, overlap, host, gpu, frames):
        memory.append(host)
        assert frames == 5
        return 400

    monkeypatch.setattr("enhancement.tiling.choose_tile", choose)
    monkeypatch.setattr("enhancement.tiling.available_memory", lambda device: 80)
    said[:] = [160, 240]
    notes = {}
    job = SimpleNamespace(notes=notes, note=notes.__setitem__)
    network = SimpleNamespace(options={"channels": 8})
    settings = (torch.device("cpu"), torch.float32, "dis", 5, 0, 32, None, job, None)
    enhancer = Enhancer(network, *settings, Gathered(world=4, local_world=4))
    enhancer.agree_on_tile(SimpleNamespace(height=500, width=500, bands=3))
    assert notes == {"tile": 160}
    assert memory == [20]


def test_a_machine_that_does_not_see_the_work_of_the_others_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(shares.time, "sleep", lambda seconds: slept.append(seconds))
    slept, team = [], Team(world=2)
    wait_to_see(lambda: len(slept) == 2, tmp_path, team)
    assert slept == [1, 1]
    with pytest.raises(FileNotFoundError, match=r"does not see in .*on a disk that they share"):
        wait_to_see(lambda: False, tmp_path, team)
    assert sum(slept) < 2 + 2 * shares.LAG
