"""Promises about a training that is stopped, killed, short of disk, or shared with another one."""

import math
import os
import random
import signal
import sys
import time
from pathlib import Path

import pytest
from trainings import (
    Training,
    nan_in_second_rank,
    own_group,
    same_training,
    slow_samples,
    slow_saves,
    small_files,
    wait_for,
    write_data,
)

from benchmarks.trust import loss_difference
from models.checkpoint import load_network, load_torch_file

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="signals and limits of Linux")
STEPS = ("--steps", "6", "--validate-every", "1", "--ema", "0.9")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_data(folder)
    return folder


@pytest.fixture(scope="module")
def whole(data):
    """The state of a run that was never stopped."""
    training = Training(data, *STEPS, "--run", "whole")
    assert training.wait() == 0, training.err
    return load_torch_file(data / "whole" / "last.pt")


def complete(run):
    """The training state of a run that was killed, or None before its first checkpoint."""
    if not (run / "last.pt").exists():
        return None
    load_network(run / "last.pt")
    return load_torch_file(run / "last.pt")


def child_processes(pid):
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def partial_files(run):
    return list(run.glob(".*.partial"))


def test_the_same_seed_gives_the_same_run(data, whole):
    training = Training(data, *STEPS, "--run", "again", "--workers", "2")
    assert training.wait() == 0, training.err
    assert same_training(load_torch_file(data / "again" / "last.pt"), whole)


def test_a_run_killed_at_any_moment_resumes_exactly(data, whole):
    rng, run = random.Random(1), data / "killed"
    for kill in range(4):
        started_at = complete(run)
        flags = ("--resume",) if started_at else STEPS
        if run.exists() and not started_at:
            run = data / f"killed again {kill}"
        training = Training(data, *flags, "--run", str(run), tricks=[(slow_saves,)])
        step = started_at["step"] if started_at else 0
        wait_for(lambda: (state := complete(run)) and state["step"] > step, "a checkpoint")  # noqa: B023
        if kill % 2:
            wait_for(lambda: partial_files(run) or not training.running, "a save")  # noqa: B023
        else:
            training.process.join(rng.uniform(0, 0.3))
        os.kill(training.pid, signal.SIGKILL)
        training.wait()
        assert complete(run)["step"] > step
    training = Training(data, "--resume", "--run", str(run))
    assert training.wait() == 0, training.err
    assert same_training(complete(run), whole)
    assert not partial_files(run)


@pytest.mark.parametrize(("number", "workers"), [(signal.SIGTERM, "0"), (signal.SIGINT, "2")])
def test_a_stop_signal_saves_and_the_run_resumes_exactly(data, whole, number, workers):
    run = data / f"stopped by {number.name}"
    training = Training(data, *STEPS, "--run", str(run), "--workers", workers)
    wait_for(lambda: complete(run), "a checkpoint")
    os.kill(training.pid, number)
    assert training.wait() == 128 + number
    assert f"--resume --run {run}" in training.out
    assert complete(run)["step"] < 6
    training = Training(data, "--resume", "--run", str(run), "--workers", workers)
    assert training.wait() == 0, training.err
    assert same_training(complete(run), whole)


@pytest.mark.parametrize("seconds", [0.3, 60])
def test_a_signal_to_the_loader_workers_too_is_a_stop(data, whole, seconds):
    """SIGTERM for the whole group while a batch is waited for, which may never come."""
    run = data / f"group {seconds}"
    training = Training(data, *STEPS, "--run", str(run))
    wait_for(lambda: complete(run), "a checkpoint")
    os.kill(training.pid, signal.SIGTERM)
    training.wait()
    tricks = [(own_group,), (slow_samples, seconds)]
    flags = ("--resume", "--run", str(run), "--workers", "2")
    training = Training(data, *flags, tricks=tricks)
    wait_for(lambda: len(child_processes(training.pid)) == 2, "the loader workers")
    time.sleep(0.3)
    started = time.monotonic()
    os.killpg(training.pid, signal.SIGTERM)
    assert training.wait() == 128 + signal.SIGTERM, training.err
    assert time.monotonic() - started < 10
    assert complete(run)["step"] < 6
    training = Training(data, "--resume", "--run", str(run), "--workers", "2")
    assert training.wait() == 0, training.err
    assert same_training(complete(run), whole)


def test_a_full_disk_ends_the_run_and_keeps_the_last_checkpoint(data, whole):
    run = data / "full"
    training = Training(data, *STEPS, "--run", str(run))
    wait_for(lambda: complete(run), "a checkpoint")
    os.kill(training.pid, signal.SIGTERM)
    training.wait()
    before = (run / "last.pt").read_bytes()
    training = Training(
        data, "--resume", "--run", str(run), tricks=[(small_files, len(before) // 2)]
    )
    assert training.wait() == 2
    assert training.last_line.startswith("error: ")
    assert ".pt" in training.last_line
    assert (run / "last.pt").read_bytes() == before
    assert not partial_files(run)


def test_a_vanished_folder_ends_the_run(data):
    run = data / "vanishing"
    training = Training(data, "--steps", "500", "--validate-every", "5", "--run", str(run))
    wait_for(lambda: complete(run), "a checkpoint")
    run.rename(data / "vanished")
    assert training.wait() == 2
    assert training.last_line.startswith("error: ")
    assert str(run) in training.last_line
    assert complete(data / "vanished")["step"] >= 5
    assert not run.exists()


def test_a_vanished_sample_ends_the_run_after_a_save(tmp_path):
    write_data(tmp_path)
    flags = ("--steps", "500", "--validate-every", "500", "--run", "r", "--workers", "1")
    training = Training(tmp_path, *flags)
    wait_for(lambda: (tmp_path / "r" / "log.jsonl").exists(), "the first step")
    gone = tmp_path / "septuplets" / "train" / "clip 1" / "im4.png"
    gone.unlink()
    assert training.wait() == 2
    assert training.last_line.startswith("error: a sample cannot be loaded")
    assert str(gone.relative_to(tmp_path)) in training.last_line
    assert complete(tmp_path / "r")["step"] > 0


def test_two_trainings_do_not_share_a_folder(data):
    run = data / "mine"
    first = Training(data, "--steps", "500", "--validate-every", "1", "--run", str(run))
    wait_for(lambda: complete(run), "a checkpoint")
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


def test_every_temporary_name_is_no_checkpoint(data, whole):
    """A partial file, even a complete one, is never resumed from."""
    run = data / "only partial"
    run.mkdir()
    (run / ".last.pt.1.partial").write_bytes((data / "whole" / "last.pt").read_bytes())
    training = Training(data, "--resume", "--run", str(run))
    assert training.wait() == 2
    assert "nothing to resume" in training.last_line


def test_a_run_killed_before_its_first_checkpoint_starts_again(data, whole):
    run = data / "killed early"
    training = Training(data, "--steps", "500", "--run", str(run), "--validate-every", "500")
    wait_for(lambda: (run / "log.jsonl").exists(), "the log")
    os.kill(training.pid, signal.SIGKILL)
    training.wait()
    (run / ".last.pt.1.partial").write_bytes(b"not yet")
    assert not complete(run)
    training = Training(data, *STEPS, "--run", str(run))
    assert training.wait() == 0, training.err
    assert same_training(complete(run), whole)
    assert not partial_files(run)
