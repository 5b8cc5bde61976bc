"""Several processes: the same result as one, and an end with a message where one of them dies."""

import math
import os
import shutil
import signal
import sys

import pytest
import torch
from torch.distributed.launcher.api import LaunchConfig, elastic_launch
from trainings import (
    Training,
    at_step,
    in_samples,
    look_often,
    nan_in_second_rank,
    own_group,
    pause,
    team_of,
    wait_for,
)

import main
from models.checkpoint import load_torch_file
from models.inference import NotFinite
from training import validation
from training.validation import mean_psnr
from utils.config import run_script
from utils.team import Team, read_environment

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="gloo and signals of Linux")
# Four steps at low rates: Adam divides by the size of the gradient, which makes rounding errors
# of tiny gradients large, so equality is tested where the schedule starts.
RESTARTS = "TORCHELASTIC_RESTART_COUNT"
STEPS = ("--steps", "4", "--validate-every", "2", "--rate", "1e-4", "--batch", "4")


@pytest.fixture(scope="module")
def one(train):
    """The state of a run in one process."""
    return load_torch_file(train("one", *STEPS) / "last.pt")


def held_team(step, data, *flags):
    """Two processes that wait before a step."""
    team = team_of(2, data, *flags, tricks=[(at_step, step, pause)])
    for training in team:
        training.wait_until_held()
    return team


def largest_difference(first, second):
    return max((first[name] - second[name]).abs().max().item() for name in first)


@pytest.mark.parametrize("accumulate", ["1", "2"])
def test_two_processes_train_as_one(data, one, accumulate):
    run = data / f"two-{accumulate}"
    team = team_of(2, data, *STEPS, "--run", str(run), "--accumulate", accumulate)
    assert [training.wait() for training in team] == [0, 0], team[1].err
    two = load_torch_file(run / "last.pt")
    for part in ("network", "ema"):
        # Muon moves every weight by about 1e-2 a step, and sums in another order by up to 2e-5.
        assert largest_difference(one[part], two[part]) < 1e-4
    assert two["best_score"] == pytest.approx(one["best_score"], abs=1e-4)
    assert "MSTT    " in team[0].out
    assert team[1].out == ""
    assert len((run / "log.jsonl").read_text().splitlines()) == 6  # four steps, two validations


def test_a_run_goes_on_with_another_number_of_processes(data, one):
    run = data / "changing"
    team = held_team(2, data, *STEPS, "--run", str(run))
    for training in team:
        os.kill(training.pid, signal.SIGTERM)
        training.go_on()
    assert [training.wait() for training in team] == [128 + signal.SIGTERM] * 2
    assert load_torch_file(run / "last.pt")["step"] == 3
    training = Training(data, "--resume", "--run", str(run), "--validate-every", "2")
    assert training.wait() == 0, training.err
    assert largest_difference(one["ema"], load_torch_file(run / "last.pt")["ema"]) < 1e-6


def test_a_dying_process_ends_the_others_with_a_message(data):
    run = data / "dying"
    team = held_team(2, data, *STEPS, "--run", str(run))
    os.kill(team[1].pid, signal.SIGKILL)
    team[0].go_on()
    assert team[0].wait() == 2
    assert "process 0 of 2 lost contact with the others" in team[0].last_line
    assert load_torch_file(run / "last.pt")["step"] == 2


def test_the_first_process_saves_when_another_one_fails(data):
    """Whose loader hangs; no validation has saved anything before."""
    flags = ("--steps", "500", "--batch", "2", "--run", "failing", "--workers", "1")
    tricks = [(in_samples, 1, pause, "1")]
    team = team_of(2, data, *flags, "--patience", "2", tricks=tricks)
    assert [training.wait() for training in team] == [2, 2]
    assert "lost contact" in team[0].last_line
    assert "none came for 2 s" in team[1].last_line
    assert load_torch_file(data / "failing" / "last.pt")["step"] == 1


def test_a_signal_to_processes_of_which_one_waits_is_a_stop(data):
    flags = ("--steps", "500", "--batch", "2", "--run", "waiting", "--workers", "1")
    tricks = [(own_group,), (look_often,), (in_samples, 1, pause, "1")]
    team = team_of(2, data, *flags, tricks=tricks)
    team[1].wait_until_held()
    log = data / "waiting" / "log.jsonl"
    wait_for(lambda: log.exists() and '"loss"' in log.read_text(), "a step")
    for training in team:
        os.killpg(training.pid, signal.SIGTERM)
    assert [training.wait() for training in team] == [128 + signal.SIGTERM] * 2, team[0].err
    assert load_torch_file(data / "waiting" / "last.pt")["step"] == 1


def test_all_processes_leave_out_a_nonfinite_step_of_one_and_stop_before_the_next(data):
    flags = (*STEPS, "--run", "poisoned", "--skip-nonfinite", "1")
    tricks = [(nan_in_second_rank, 1), (nan_in_second_rank, 2)]
    team = team_of(2, data, *flags, tricks=tricks)
    assert [training.wait() for training in team] == [1, 1]
    assert "left out: step 1: the loss is nan on clip" in team[0].out
    lines = {training.last_line for training in team}
    assert len(lines) == 1
    assert lines.pop().startswith("stopped: step 2: the loss is nan on clip")
    state = load_torch_file(data / "poisoned" / "last.pt")
    assert (state["step"], state["skipped"]) == (2, 1)
    assert all(torch.isfinite(weights).all() for weights in state["network"].values())


def test_bad_input_is_named_by_every_process(data):
    team = team_of(2, data, "--steps", "1", "--batch", "3", "--run", "uneven")
    assert [training.wait() for training in team] == [2, 2]
    for training in team:
        assert "batch is 3; it must be a multiple of 2" in training.last_line
    team = team_of(2, data, "--resume", "--run", "absent")
    assert [training.wait() for training in team] == [2, 2]
    for training in team:
        assert "nothing to resume" in training.last_line


def under_torchrun():
    """Let main.py be what torchrun starts twice, by forks; the first process waits at a step."""
    train = main.main

    def worker():
        if (os.environ["RANK"], os.environ[RESTARTS]) == ("0", "0"):
            at_step(2, pause)
        run_script(train)

    place = {"rdzv_backend": "c10d", "rdzv_endpoint": "localhost:0", "run_id": "elastic"}
    limits = {"max_restarts": 1, "monitor_interval": 0.1}

    def launch():
        elastic_launch(LaunchConfig(1, 1, 2, start_method="fork", **limits, **place), worker)()

    main.main = launch


def test_torchrun_restarts_from_the_last_checkpoint(data):
    """A process is killed; torchrun starts both again, and they go on without being told to."""
    run = data / "elastic"
    flags = ("--steps", "4", "--batch", "2", "--validate-every", "1", "--run", str(run))
    torchrun = Training(data, *flags, tricks=[(under_torchrun,)])
    torchrun.wait_until_held()
    owner = (run / ".lock").read_text()
    os.kill(int(owner.split()[1]), signal.SIGKILL)
    assert torchrun.wait() == 0, torchrun.err
    assert (run / ".lock").read_text() != owner
    steps = [line.count('"loss"') for line in (run / "log.jsonl").read_text().splitlines()]
    assert sum(steps) == 4  # the restart began where the last checkpoint was
    assert load_torch_file(run / "last.pt")["step"] == 4


@pytest.mark.parametrize(("torchrun", "slurm", "restarts"), [(0, 0, 0), (0, 2, 2), (1, 0, 1)])
def test_restarts_of_torchrun_and_of_slurm_count(monkeypatch, torchrun, slurm, restarts):
    environment = {"RANK": 1, "WORLD_SIZE": 2, "LOCAL_RANK": 1}
    environment |= {"TORCHELASTIC_RESTART_COUNT": torchrun, "SLURM_RESTART_COUNT": slurm}
    for name, value in environment.items():
        monkeypatch.setenv(name, str(value))
    team = read_environment()
    assert (team.rank, team.world, team.restarts) == (1, 2, restarts)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "often")
    with pytest.raises(ValueError, match="SLURM_RESTART_COUNT is 'often'"):
        read_environment()


@pytest.mark.parametrize("variable", ["TORCHELASTIC_MAX_RESTARTS", "SLURM_RESTART_COUNT"])
def test_restarts_need_a_name_for_the_run(run_main, monkeypatch, variable):
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", variable: "3"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match="a job that is restarted needs --run NAME"):
        run_main("--steps", "1")


def test_every_process_of_a_machine_has_a_gpu_of_its_own(monkeypatch):
    taken, cpu, gpu = [], torch.device("cpu"), torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    third = Team(rank=3, world=4, local_rank=1, local_world=2)
    assert third.own_device(gpu) == torch.device("cuda", 1)
    assert third.own_device(cpu) == cpu
    assert Team(rank=3, world=4).own_device(torch.device("cuda", 1)) == torch.device("cuda", 1)
    assert taken == [1]
    with pytest.raises(ValueError, match="device is 'cuda:0' for 2 processes; give cuda"):
        third.own_device(torch.device("cuda", 0))
    with pytest.raises(ValueError, match=r"3 processes on 2 GPU\(s\)"):
        Team(world=3, local_world=3).own_device(gpu)


def test_a_launcher_that_says_little_means_one_machine(monkeypatch):
    for name in ("LOCAL_RANK", "LOCAL_WORLD_SIZE", "SLURM_RESTART_COUNT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert read_environment() == Team(rank=2, world=4, local_world=4, launched=True)


def test_a_restart_that_one_machine_knows_of_is_one(data, one):
    """torchrun counts them for each machine; the first one may have been replaced."""
    run = shutil.copytree(data / "one", data / "replaced")
    machines = [{"LOCAL_WORLD_SIZE": "1"}, {"LOCAL_WORLD_SIZE": "1", RESTARTS: "1"}]
    team = team_of(2, data, *STEPS, "--run", str(run), environments=machines)
    assert [training.wait() for training in team] == [0, 0], team[0].err


def test_processes_that_see_different_data_are_refused(data, tmp_path):
    """Such as on two machines, one of which lacks a clip."""
    other = tmp_path / "other"
    shutil.copytree(data / "septuplets", other / "septuplets")
    shutil.copytree(data / "clips", other / "clips")
    shutil.rmtree(other / "clips" / "clip 2")
    team = team_of(2, data, *STEPS, "--run", str(tmp_path / "r"), folders=[data, other])
    assert [training.wait() for training in team] == [2, 2]
    for training in team:
        assert "the processes see different data: validation was 3" in training.last_line


def test_different_clips_never_give_a_mean(monkeypatch):
    monkeypatch.setattr(validation, "read_clip", lambda clip: ([0], [30.0]))
    monkeypatch.setattr(validation, "psnr", lambda ours, truth: truth)

    class Rank(Team):
        def gather(self, value):
            return [value, {}]

    with pytest.raises(ValueError, match="see different validation clips"):
        mean_psnr(list("abc"), list, Rank(world=2))


def test_a_score_that_is_not_finite_keeps_nobody_waiting(monkeypatch):
    monkeypatch.setattr(validation, "read_clip", lambda clip: ([0], [clip]))
    monkeypatch.setattr(validation, "psnr", lambda ours, truth: truth)

    def method(given):
        if not gathered:
            raise NotFinite
        return given

    gathered = [1]
    assert mean_psnr([30.0, math.inf], method) == (30 + 100) / 2  # identical pictures count 100 dB
    gathered.clear()
    assert math.isnan(mean_psnr([30.0, 40.0], method))


def test_more_processes_than_clips_count_every_clip_once(monkeypatch):
    """Three of four processes have a clip; the mean is over three clips."""
    scores = {"a": 30.0, "b": 40.0, "c": 20.0}
    monkeypatch.setattr(validation, "read_clip", lambda clip: ([0], [scores[clip]]))
    monkeypatch.setattr(validation, "psnr", lambda ours, truth: truth)
    parts = []

    class Rank(Team):
        def gather(self, value):
            parts.append(value)
            return parts if len(parts) == self.world else [dict.fromkeys(range(3), 0.0)]

    means = [mean_psnr(list("abc"), list, Rank(rank=rank, world=4)) for rank in range(4)]
    assert means[-1] == 30.0
    assert sorted(number for part in parts for number in part) == [0, 1, 2]


def test_processes_train_the_enlargement_alone(data):
    """With one given frame the interpolation has no gradient, which DDP has to know."""
    flags = ("--steps", "2", "--given-frames", "1", "--batch", "2", "--run", "alone")
    team = team_of(2, data, *flags)
    assert [training.wait() for training in team] == [0, 0], team[0].err
    assert load_torch_file(data / "alone" / "last.pt")["step"] == 2
