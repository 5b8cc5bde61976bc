"""The parts of training that main.py's loop is made of: schedule, loss, EMA, log, stop signals."""

import json
import math
import os
import signal
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


def learning_rate(step: int, steps: int, peak: float, warmup: int, final: float) -> float:
    """The learning rate of a step: linear warm-up, then a half cosine down to the final rate.

    A pure function of the step, so that a resumed run has the rate of an uninterrupted one.

    Arguments:
        step: 0 .. steps - 1.
        steps: length of the run.
        peak, final: rates after the warm-up and at the end.
        warmup: steps of the warm-up.
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = min((step - warmup) / max(steps - warmup, 1), 1.0)
    return final + (peak - final) * (1 + math.cos(math.pi * progress)) / 2


def charbonnier(output: Tensor, truth: Tensor) -> Tensor:
    """Charbonnier loss, the mean of sqrt(d^2 + 1e-6).

    The released code takes the sum. The mean gives Adam the same steps (it divides by the size of
    the gradient), and a loss and a gradient norm that do not depend on the patch.

    Arguments:
        output, truth: same shape, any range; computed in float32.
    """
    return torch.sqrt((output.float() - truth.float()).square() + 1e-6).mean()


class Ema:
    """Exponential moving average of a network's weights, the ones that are evaluated and shipped.

    Arguments:
        network: its current weights are the start.
        decay: share of the old average kept each step; smaller during the first steps, so that
            the initial weights are forgotten soon.
    """

    def __init__(self, network: nn.Module, decay: float):
        self.decay = decay
        self.weights = {name: value.clone() for name, value in network.state_dict().items()}

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Take in the weights after `step` steps."""
        decay = min(self.decay, (1 + step) / (10 + step))
        current = network.state_dict()
        for name, average in self.weights.items():
            average.lerp_(current[name], 1 - decay)


class RunLog:
    """A run's log: one JSON object per line in log.jsonl, and TensorBoard where it is installed.

    A resumed run appends; lines of steps that are taken again stay, the later one counts.

    Arguments:
        folder: the folder of the run.
    """

    def __init__(self, folder: Path):
        self.file = open(folder / "log.jsonl", "a", encoding="utf-8")  # noqa: SIM115
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            self.board = None
        else:
            self.board = SummaryWriter(str(folder / "tensorboard"))

    def write(self, step: int, **values: float) -> None:
        """Add the values of a step."""
        line = {"step": step, "time": round(time.time(), 1)} | values
        self.file.write(json.dumps(line) + "\n")
        self.file.flush()
        if self.board:
            for name, value in values.items():
                self.board.add_scalar(name, value, step)

    def close(self) -> None:
        self.file.close()
        if self.board:
            self.board.close()


class StopSignals:
    """Ctrl-C and SIGTERM as a wish: the loop finishes its step, saves, and then leaves.

    Use as a context. `received` is the signal's number, or None; a second Ctrl-C acts at once.
    """

    def __init__(self):
        self.received: int | None = None

    def __enter__(self) -> "StopSignals":
        self.previous = {
            number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)
        }
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: Any) -> None:
        self.received = number
        signal.signal(number, self.previous[number])


def memory_in_use(device: torch.device) -> float:
    """GiB that the process holds: resident memory, or on a GPU the peak of what was allocated."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:  # no /proc: the peak is what the standard library knows
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**30
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**30


def random_states() -> dict[str, Tensor]:
    """The states of PyTorch's random generators, for a checkpoint."""
    states = {"cpu": torch.get_rng_state()}
    return states | {f"cuda:{i}": s for i, s in enumerate(torch.cuda.get_rng_state_all())}


def restore_random_states(states: dict[str, Tensor]) -> None:
    """The inverse of `random_states`; states of GPUs that are not here are left out."""
    torch.set_rng_state(states["cpu"])
    for index in range(torch.cuda.device_count()):
        if f"cuda:{index}" in states:
            torch.cuda.set_rng_state(states[f"cuda:{index}"], index)
