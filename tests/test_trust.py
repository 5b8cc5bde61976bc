"""Promises about a training that is stopped, killed, short of disk, or shared with another one."""

import json
import math
import os
import signal
import sys

import pytest
import torch
from trainings import (
    Training,
    at_step,
    deliver,
    in_replace,
    in_samples,
    look_often,
    nan_in_second_rank,
    own_group,
    pause,
    same_training,
    small_files,
    wait_for,
    write_data,
)

from benchmarks.trust import largest_difference, loss_difference
from models.checkpoint import load_network, load_torch_file

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="signals and limits of Linux")
# Five steps are an epoch of the three clips, and more.
STEPS = ("--steps", "5", "--validate-every", "1", "--ema", "0.9")


@pytest.fixture(scope="module")
def whole(train):
    """The state of a run that was never stopped."""
    return load_torch_file(train("whole", *STEPS) / "last.pt")


def held_at(step, data, *flags):
    """A training that waits before a step."""
    training = Training(data, *flags, tricks=[(at_step, step, pause)])
    training.wait_until_held()
    return training


def complete(run):
    """The training state of a run that was killed, or None before its first checkpoint."""
    if not (run / "last.pt").exists():
        return None
    load_network(run / "last.pt")
    return load_torch_file(run / "last.pt")


def partial_files(run):
    return list(run.glob(".*.partial"))


def log_of(run, step):
    return [line for line in open(run / "log.jsonl") if json.loads(line)["step"] == step]


def test_the_same_seed_gives_the_same_run(data, whole):
    training = Training(data, *STEPS, "--run", "again", "--workers", "2")
    assert training.wait() == 0, training.err
    assert same_training(load_torch_file(data / "again" / "last.pt"), whole)


def test_a_run_killed_at_any_moment_resumes_exactly(data, whole):
    """Before its first checkpoint, between two steps, and while it saves, again and again."""
    run = data / "killed"
    saves = [(in_replace, "last.pt", number, pause) for number in (1, 2)]
    moments = [(at_step, 0, pause), (at_step, 2, pause), *saves]
    for trick, step in zip(moments, (0, 2, 2, 3), strict=True):
        flags = ("--resume",) if complete(run) else STEPS
        training = Training(data, *flags, "--run", str(run), tricks=[trick])
        training.wait_until_held()
        os.kill(training.pid, signal.SIGKILL)
        training.wait()
        assert bool(partial_files(run)) == (trick in saves)
        state = complete(run)
        assert (state["step"] if state else 0) == step
    training = Training(data, "--resume", "--run", str(run))
    assert training.wait() == 0, training.err
    assert same_training(complete(run), whole)
    assert not partial_files(run)


def test_a_stop_signal_saves_and_the_run_resumes_exactly(data, whole):
    run = data / "stopped"
    training = held_at(2, data, *STEPS, "--run", str(run), "--workers", "2")
    os.kill(training.pid, signal.SIGINT)
    training.go_on()
    assert training.wait() == 128 + signal.SIGINT
    assert f"--resume --run {run}" in training.out
    assert complete(run)["step"] == 3  # the step in work is finished
    training = Training(data, "--resume", "--run", str(run))
    assert training.wait() == 0, training.err
    assert same_training(complete(run), whole)


def test_a_second_signal_is_not_waited_for(data):
    tricks = [(at_step, 2, deliver, signal.SIGINT), (at_step, 2, deliver, signal.SIGINT)]
    training = Training(data, *STEPS, "--run", "in a hurry", tricks=tricks)
    assert training.wait() == 130
    assert complete(data / "in a hurry")["step"] == 2


@pytest.mark.parametrize("comes", [True, False])
def test_a_signal_to_the_loader_workers_too_is_a_stop(data, whole, comes):
    """SIGTERM for the whole group while a batch is waited for, which may never come."""
    run = data / f"group {comes}"
    tricks = [(own_group,), (in_samples, 1, pause)]
    tricks += [] if comes else [(look_often,)]
    training = Training(data, *STEPS, "--run", str(run), "--workers", "2", tricks=tricks)
    training.wait_until_held()
    wait_for(lambda: '"psnr"' in "".join(log_of(run, step=3)), "the end of the first epoch")
    os.killpg(training.pid, signal.SIGTERM)
    if comes:
        training.go_on()
    assert training.wait() == 128 + signal.SIGTERM, training.err
    assert complete(run)["step"] in ((3, 4) if comes else (3,))
    training = Training(data, "--resume", "--run", str(run), "--workers", "2")
    assert training.wait() == 0, training.err
    assert same_training(complete(run), whole)


def test_a_full_disk_ends_the_run_and_keeps_the_last_checkpoint(data):
    run = data / "full"
    training = held_at(2, data, *STEPS, "--run", str(run))
    before = (run / "last.pt").read_bytes()
    os.kill(training.pid, signal.SIGKILL)
    training.wait()
    tricks = [(small_files, len(before) // 2)]
    training = Training(data, "--resume", "--run", str(run), tricks=tricks)
    assert training.wait() == 2
    assert training.last_line.startswith("error: ")
    assert ".pt" in training.last_line
    assert (run / "last.pt").read_bytes() == before
    assert not partial_files(run)


def test_a_vanished_folder_ends_the_run(data):
    run = data / "vanishing"
    training = held_at(2, data, *STEPS, "--run", str(run))
    run.rename(data / "vanished")
    training.go_on()
    assert training.wait() == 2
    # TensorBoard's thread may say something after it.
    (said,) = (line for line in training.err.splitlines() if line.startswith("error: "))
    assert str(run) in said
    assert complete(data / "vanished")["step"] == 2
    assert not run.exists()


def test_a_vanished_sample_ends_the_run_after_a_save(tmp_path):
    write_data(tmp_path)
    flags = ("--steps", "9", "--validate-every", "9", "--run", "r", "--workers", "1")
    training = held_at(1, tmp_path, *flags)
    gone = tmp_path / "septuplets" / "train" / "clip 1" / "im4.png"
    gone.unlink()
    training.go_on()
    assert training.wait() == 2
    assert training.last_line.startswith("error: a sample cannot be loaded")
    assert str(gone.relative_to(tmp_path)) in training.last_line
    assert complete(tmp_path / "r")["step"] > 0


def test_a_start_that_fails_leaves_no_folder(data):
    (data / "taken").mkdir()
    for name in ("new", "taken"):
        flags = ("--run", str(data / name), "--frozen", "nothing")
        assert Training(data, *flags, rank=0).wait() == 2
    assert not (data / "new").exists()
    assert (data / "taken").exists()  # by whoever made it
    (data / "file").touch()
    training = Training(data, "--run", str(data / "file"), rank=0)
    assert training.wait() == 2
    assert "file is a file; give a folder with --run" in training.last_line


def test_two_trainings_do_not_share_a_folder(data):
    run = data / "mine"
    first = held_at(1, data, "--steps", "2", "--validate-every", "1", "--run", str(run))
    second = Training(data, "--resume", "--run", str(run), rank=0)
    assert second.wait() == 2
    assert f"in use by process {first.pid}" in second.last_line
    os.kill(first.pid, signal.SIGKILL)  # a dead process holds no lock
    first.wait()
    third = Training(data, "--resume", "--run", str(run), "--steps", "1")
    assert third.wait() == 0, third.err


def test_nonfinite_steps_are_left_out_up_to_the_limit(data):
    flags = ("--steps", "3", "--skip-nonfinite", "1")
    training = Training(data, *flags, "--run", "one", tricks=[(nan_in_second_rank, 1)])
    assert training.wait() == 0, training.err
    assert "left out: step 1: the loss is nan on clip" in training.out
    assert load_torch_file(data / "one" / "last.pt")["skipped"] == 1
    training = Training(  # the limit is that of the run, not of each of its parts
        data, "--resume", "--run", "one", "--steps", "5", tricks=[(nan_in_second_rank, 0)]
    )
    assert training.wait() == 1
    assert training.last_line.startswith("stopped: step 3: the loss is nan on clip")
    tricks = [(nan_in_second_rank, 1), (nan_in_second_rank, 2)]
    training = Training(data, *flags, "--run", "two", tricks=tricks)
    assert training.wait() == 1
    assert training.last_line.startswith("stopped: step 2: the loss is nan on clip")
    assert "largest offset" in training.last_line


def test_the_benchmark_of_repeats_needs_losses_to_compare():
    losses = '{"step": 1, "loss": 0.5}\n{"step": 1, "psnr": 20.0}\n{"step": 2, "loss": 0.25}\n'
    assert loss_difference(losses, losses) == 0
    assert loss_difference(losses, losses.replace("0.25", "0.2")) == pytest.approx(0.2)
    for other in ("", losses.replace("0.25", "null"), losses.splitlines()[0]):
        assert loss_difference(losses, other) == math.inf
    assert loss_difference("", "") == math.inf


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ([1], [1, 2]),
        ({"a": 1}, None),
        (torch.zeros(2), torch.zeros(3)),
        (torch.zeros(2), 0.0),
        (1, "1"),
    ],
)
def test_other_structures_differ_without_end(first, second):
    assert largest_difference([first], [second]) == math.inf


def test_every_temporary_name_is_no_checkpoint(data, whole, train):
    """A partial file, even a complete one, is never resumed from."""
    run = data / "only partial"
    run.mkdir()
    (run / ".last.pt.1.partial").write_bytes((data / "whole" / "last.pt").read_bytes())
    with pytest.raises(FileNotFoundError, match="nothing to resume"):
        train("only partial", "--resume")
