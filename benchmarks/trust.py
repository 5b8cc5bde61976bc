"""Train, kill, and train again: does a run come out as one that was left alone?

    python -m benchmarks.trust kills        SIGKILL at 20 random times, half of them while saving
    python -m benchmarks.trust processes --steps 1    the same batch in one process and in two
    python -m benchmarks.trust repeat       the same seed twice, on a GPU where there is one

On built-in scenes of a few pixels, with main.py in processes of its own. Ends with status 1 where
a promise is broken: kills must lose nothing, and two processes differ by less than 1e-6 after a
step (rounding grows with every further one).
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from data.scenes import make_scenes
from tests.trainings import Training
from utils.checkpoint import load_network, load_torch_file
from utils.config import parse_config, run_script

MAIN = Path(__file__).resolve().parent.parent / "main.py"
FLAGS = "--patch 16 --given-frames 2 --flow-method dis --size small --log-every 1 --warmup 5 --run"
PARTS = ("network", "ema", "optimiser", "random", "best_score")


@dataclass(frozen=True)
class Config:
    what: Literal["kills", "processes", "repeat"]  # which promise
    kills: int = 20  # how often the run is killed
    steps: int = 100  # length of the runs
    precision: Literal["auto", "bfloat16", "float32"] = "float32"  # of the training
    seed: int = 1  # of the times of the kills


def command(scenes: Path, run: Path, config: Config, *more: str) -> list[str]:
    """The arguments of main.py for a new run."""
    flags = [str(MAIN), *FLAGS.split(), str(run), "--data-root", str(scenes)]
    flags += ["--validation", str(scenes / "test"), "--steps", str(config.steps)]
    return [*flags, "--precision", config.precision, *more]


def train(arguments: list[str], launcher: tuple[str, ...] = ()) -> None:
    """Run main.py to its end."""
    with tempfile.TemporaryFile("w+") as output:
        done = subprocess.run(
            [sys.executable, *launcher, *arguments], stdout=output, stderr=subprocess.STDOUT
        )
        if done.returncode:
            output.seek(0)
            raise ValueError(f"main.py ended with status {done.returncode}:\n{output.read()}")


def largest_difference(first: Any, second: Any) -> float:
    """Over all numbers of two nested states; infinite where their structure differs."""
    if isinstance(first, torch.Tensor):
        return (first.double() - second.double()).abs().max().item() if first.numel() else 0.0
    if isinstance(first, dict):
        if first.keys() != second.keys():
            return float("inf")
        return max((largest_difference(first[k], second[k]) for k in first), default=0.0)
    if isinstance(first, list | tuple):
        pairs = zip(first, second, strict=True)
        return max((largest_difference(a, b) for a, b in pairs), default=0.0)
    if isinstance(first, int | float):
        return abs(first - second)
    return 0.0 if first == second else float("inf")


def kill_at_random(scenes: Path, folder: Path, config: Config) -> bool:
    """Kill a run again and again; whether it ends as the run that was left alone."""
    flags = ("--data-root", str(scenes), "--validation", str(scenes / "test"))
    flags += ("--workers", "2", "--validate-every", "2", "--steps", str(config.steps))
    whole, run = folder / "whole", folder / "killed"
    if Training(folder, *flags, "--run", str(whole)).wait():
        raise ValueError("the run that is left alone failed")
    rng, checkpoint = random.Random(config.seed), run / "last.pt"
    kills = while_saving = 0
    while kills < config.kills:
        resume = ["--resume"] if checkpoint.exists() else []
        if not resume:
            shutil.rmtree(run, ignore_errors=True)
        training = Training(folder, *flags, "--run", str(run), *resume)
        if kills % 2:
            while training.running and not list(run.glob(".*.partial")):
                time.sleep(0.0002)
        else:
            before = checkpoint.stat().st_mtime_ns if resume else 0
            while training.running and not (
                checkpoint.exists() and checkpoint.stat().st_mtime_ns > before
            ):
                time.sleep(0.01)
            time.sleep(rng.uniform(0, 1))
        if not training.running:
            raise ValueError(f"the run ended after {kills} kills; give it more --steps")
        os.kill(training.pid, signal.SIGKILL)
        training.wait()
        kills += 1
        while_saving += bool(list(run.glob(".*.partial")))
        step = 0
        if checkpoint.exists():  # both raise if it is not complete
            load_network(checkpoint)
            step = load_torch_file(checkpoint)["step"]
        print(f"kill {kills}: the last complete checkpoint is of step {step}", flush=True)
    if Training(folder, *flags, "--run", str(run), "--resume").wait():
        raise ValueError("the killed run cannot be resumed")
    states = [load_torch_file(path / "last.pt") for path in (whole, run)]
    difference = max(largest_difference(*(state[part] for state in states)) for part in PARTS)
    print(
        f"{kills} kills survived, {while_saving} of them left a partial file; the run's end "
        f"differs by {difference:g} from that of a run left alone"
    )
    return difference == 0


def compare_processes(scenes: Path, folder: Path, config: Config) -> bool:
    """Train the same batch in one process and in two; whether the weights are the same."""
    flags = ("--batch", "4", "--rate", "1e-4", "--device", "cpu")
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--")
    train(command(scenes, folder / "one", config, *flags))
    one = load_torch_file(folder / "one" / "last.pt")
    worst = 0.0
    for parts in (1, 2):
        run = folder / f"two-{parts}"
        train(command(scenes, run, config, *flags, "--accumulate", str(parts)), torchrun)
        two = load_torch_file(run / "last.pt")
        difference = largest_difference(one["network"], two["network"])
        score = abs(one["best_score"] - two["best_score"])
        print(
            f"two processes, {parts} part(s): weights differ by {difference:.2g} after "
            f"{config.steps} steps, the score by {score:.2g} dB"
        )
        worst = max(worst, difference)
    return worst < 1e-6 or config.steps > 1


def compare_repeats(scenes: Path, folder: Path, config: Config) -> bool:
    """Train twice with one seed, and evaluate one checkpoint twice; prints the differences."""
    for name in ("first", "second"):
        train(command(scenes, folder / name, config))
    first, second = (load_torch_file(folder / name / "last.pt") for name in ("first", "second"))
    logs = [(folder / name / "log.jsonl").read_text() for name in ("first", "second")]
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "the CPU"
    print(
        f"on {device}, {config.precision}, {config.steps} steps: weights differ by "
        f"{largest_difference(first['network'], second['network']):.2g}, best score by "
        f"{abs(first['best_score'] - second['best_score']):.2g} dB; "
        f"{sum('loss' in line for line in logs[0].splitlines())} losses logged"
    )
    return torch.cuda.is_available() or same_losses(*logs)


def same_losses(first: str, second: str) -> bool:
    """Whether two logs hold the same losses to the last digit."""
    losses = [
        [line.split('"loss": ')[1].split(",")[0] for line in log.splitlines() if "loss" in line]
        for log in (first, second)
    ]
    return losses[0] == losses[1]


def main() -> int:
    config = parse_config(Config, __doc__, positional=("what",))
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    promise = {
        "kills": kill_at_random,
        "processes": compare_processes,
        "repeat": compare_repeats,
    }[config.what]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        scenes = make_scenes(
            folder / "scenes", clips=4, test_clips=2, size=(96, 96), test_size=(96, 96)
        )
        return int(not promise(scenes, folder, config))


if __name__ == "__main__":
    run_script(main)
