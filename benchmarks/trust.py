"""Train, kill, and train again: does a run come out as one that was left alone?

    python -m benchmarks.trust kills        SIGKILL at 20 random times, half of them while saving
    python -m benchmarks.trust processes --steps 1    the same batch in one process and in two
    python -m benchmarks.trust repeat       the same seed twice, on a GPU where there is one

On built-in scenes of a few pixels, with main.py in processes of its own. Ends with status 1 where
a promise is broken: kills must lose nothing, and two processes differ by less than 1e-6 after a
step (rounding grows with every further one). The same seed gives on a CPU the same losses to the
last digit, on a GPU up to 1% of each; evaluating one checkpoint twice is exact on both.
"""

import json
import math
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from data.scenes.make import make_scenes
from models.checkpoint import load_network, load_torch_file
from tests.trainings import Training
from utils.config import parse_config, run_script

MAIN = Path(__file__).resolve().parent.parent / "main.py"
TEST = MAIN.with_name("test.py")
GPU_TOLERANCE = 0.01  # of a loss: sums on a GPU have no fixed order, and training amplifies that
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


def run_python(arguments: list[str], launcher: tuple[str, ...] = ()) -> None:
    """Run a script to its end."""
    # Not a pipe, which a process left behind by one that was killed would hold open.
    with tempfile.TemporaryFile("w+") as output:
        command = [sys.executable, *launcher, *arguments]
        status = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT).returncode
        if status:
            output.seek(0)
            script = Path(arguments[0]).name
            raise ValueError(f"{script} ended with status {status}:\n{output.read()}")


def largest_difference(first: Any, second: Any) -> float:
    """Over all numbers of two nested states; infinite where their structure differs."""
    if type(first) is not type(second):
        return math.inf
    if isinstance(first, dict) and first.keys() == second.keys():
        first, second = list(first.values()), [second[key] for key in first]
    if isinstance(first, list | tuple) and len(first) == len(second):
        return max(map(largest_difference, first, second), default=0.0)
    if not isinstance(first, torch.Tensor | int | float):
        return 0.0 if first == second else math.inf
    first, second = torch.as_tensor(first), torch.as_tensor(second)
    if first.shape != second.shape:
        return math.inf
    if torch.equal(first, second):
        return 0.0
    difference = (first.double() - second.double()).abs().max().item()
    return math.inf if math.isnan(difference) else difference


def kill_at_random(scenes: Path, folder: Path, config: Config) -> bool:
    """Kill a run again and again; whether it ends as the run that was left alone."""
    flags = ("--data-root", str(scenes), "--validation", str(scenes / "test"), "--workers", "2")
    flags += ("--validate-every", "2", "--steps", str(config.steps))
    whole, run = folder / "whole", folder / "killed"
    if Training(folder, *flags, "--run", str(whole)).wait():
        raise ValueError("the run that is left alone failed")
    rng, checkpoint = random.Random(config.seed), run / "last.pt"
    kills = while_saving = 0
    while kills < config.kills:
        resume = ["--resume"] if checkpoint.exists() else []
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
    run_python(command(scenes, folder / "one", config, *flags))
    one = load_torch_file(folder / "one" / "last.pt")
    worst = 0.0
    for parts in (1, 2):
        run = folder / f"two-{parts}"
        run_python(command(scenes, run, config, *flags, "--accumulate", str(parts)), torchrun)
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
    """Train twice with one seed, and evaluate one checkpoint twice; whether they are the same."""
    figures = []
    for name in ("first", "second"):
        run_python(command(scenes, folder / name, config))
        results = folder / f"results of {name}"
        evaluation = [str(TEST), "--data", str(scenes / "test"), "--out", str(results)]
        evaluation += ["--checkpoint", str(folder / "first" / "best.pt"), "--no-save-frames"]
        run_python([*evaluation, "--no-figures", "--no-baselines"])
        figures.append(json.loads((results / "results.json").read_text())["methods"])
    first, second = (load_torch_file(folder / name / "last.pt") for name in ("first", "second"))
    logs = [(folder / name / "log.jsonl").read_text() for name in ("first", "second")]
    gpu = torch.cuda.is_available()
    device = torch.cuda.get_device_name() if gpu else "the CPU"
    losses = loss_difference(*logs)
    evaluations = largest_difference(*figures)
    print(
        f"on {device}, {config.precision}, {config.steps} steps: weights differ by "
        f"{largest_difference(first['network'], second['network']):.2g}, best score by "
        f"{abs(first['best_score'] - second['best_score']):.2g} dB, losses by at most "
        f"{losses:.2g} of their size; one checkpoint evaluated twice differs by {evaluations:g}"
    )
    return losses <= (GPU_TOLERANCE if gpu else 0) and evaluations == 0


def loss_difference(first: str, second: str) -> float:
    """The largest relative difference of the losses of two logs; infinite where one is missing."""
    losses = [
        [line["loss"] for line in map(json.loads, log.splitlines()) if "loss" in line]
        for log in (first, second)
    ]
    if not losses[0] or len(losses[0]) != len(losses[1]) or None in losses[0] + losses[1]:
        return math.inf
    return max(abs(a - b) / max(abs(a), abs(b), 1e-12) for a, b in zip(*losses, strict=True))


def main() -> int:
    config = parse_config(Config, __doc__, positional=("what",))
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    promises = {"kills": kill_at_random, "processes": compare_processes, "repeat": compare_repeats}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sizes = {"size": (96, 96), "test_size": (96, 96)}
        scenes = make_scenes(folder / "scenes", clips=4, test_clips=2, **sizes)
        return int(not promises[config.what](scenes, folder, config))


if __name__ == "__main__":
    run_script(main)
