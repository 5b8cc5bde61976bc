"""The parts of training that main.py's loop is made of: schedule, loss, EMA, log, stop signals."""

import contextlib
import json
import math
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.loading import LoadingError
from dcn import DCNv2
from dcn.deform_conv import bounded
from utils.checkpoint import one_line
from utils.distributed import Team
from utils.metrics import BT601_GREY, MOVING_LEVELS, PEAK


def learning_rate(
    step: int, steps: int, peak: float, warmup: int, final: float, elapsed: float = 0.0
) -> float:
    """The learning rate of a step: linear warm-up, then a half cosine down to the final rate.

    A pure function of step and time used, so that without a limit of time a resumed run has the
    rate of an uninterrupted one.

    Arguments:
        step: 0 .. steps - 1.
        steps: length of the run.
        peak, final: rates after the warm-up and at the end.
        warmup: steps of the warm-up.
        elapsed: share of the run's time that is used, 0 to 1. The cosine is as far as the larger
            of this and the share of the steps.
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = min(max((step - warmup) / max(steps - warmup, 1), elapsed), 1.0)
    return final + (peak - final) * (1 + math.cos(math.pi * progress)) / 2


def charbonnier(output: Tensor, truth: Tensor, moving_weight: float = 1.0) -> Tensor:
    """Charbonnier loss, the mean of sqrt(d^2 + 1e-6).

    The released code takes the sum. The mean gives Adam the same steps (it divides by the size of
    the gradient), and a loss and a gradient norm that do not depend on the patch.

    Arguments:
        output, truth: same shape, (B, T, 3, 4H, 4W) where something is weighted, any range;
            computed in float32.
        moving_weight: of the pixels of interpolated frames where something moves, about 1 % of
            all: what corrects the flow learns from nothing else.
    """
    error = torch.sqrt((output.float() - truth.float()).square() + 1e-6)
    if moving_weight == 1 or error.ndim != 5 or error.shape[1] == 1:
        return error.mean()
    weight = 1 + (moving_weight - 1) * moving_pixels(truth.float()).float()
    return (error[:, ::2].sum() + (weight * error[:, 1::2]).sum()) / error.numel()


def moving_pixels(truth: Tensor) -> Tensor:
    """Where something moves in the interpolated frames, nearly as `utils.metrics.moving_mask`.

    Arguments:
        truth: (B, T, 3, H, W) in [0, 1], T odd and at least 3.

    Returns: (B, T // 2, 1, H, W) bool.
    """
    luma = truth.new_tensor(BT601_GREY).view(3, 1, 1)
    grey = (truth * luma).sum(dim=2)  # (B, T, H, W)
    grey = F.avg_pool2d(grey, 3, stride=1, padding=1, count_include_pad=False)
    before, now, after = grey[:, :-1:2], grey[:, 1::2], grey[:, 2::2]
    change = torch.maximum((now - before).abs(), (now - after).abs())
    moving = (change > MOVING_LEVELS / PEAK).float()
    return F.max_pool2d(moving, 3, stride=1, padding=1)[:, :, None] > 0


class Clock:
    """The time that a training has used of what it was given.

    Arguments:
        minutes: what it was given; None: no limit.
        used: seconds that the run had used before it was resumed.
    """

    LAST = 60.0  # seconds at the end that belong to validation and saving

    def __init__(self, minutes: float | None, used: float = 0.0):
        self.limit = math.inf if minutes is None else 60 * minutes
        self.start = time.monotonic() - used
        self.last = self.LAST
        self.validated = self.took = 0.0
        self.saved()

    @property
    def used(self) -> float:
        """Seconds since the start, those before a resume included."""
        return time.monotonic() - self.start

    def saved(self) -> None:
        """Note that the run is saved now."""
        self.save = time.monotonic()

    @property
    def since_save(self) -> float:
        """Seconds since the last save, or the start."""
        return time.monotonic() - self.save

    @property
    def elapsed(self) -> float:
        """The share of the time for optimiser steps that is used; 1 or more: no more steps."""
        # A short run is not all validation.
        return self.used / (self.limit - min(self.last, self.limit / 4))

    @contextlib.contextmanager
    def validating(self) -> Iterator[None]:
        """A validation, which the run ends with, and which is then repeated for its report."""
        start = self.used
        yield
        self.validated = self.used
        self.took = self.validated - start
        self.last = max(self.last, 2.5 * self.took)

    @property
    def rested(self) -> bool:
        """Whether steps have had at least twice the time of the last validation since then."""
        return self.used - self.validated > 2 * self.took


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
        averages, values = list(self.weights.values()), [current[name] for name in self.weights]
        torch._foreach_lerp_(averages, values, 1 - decay)  # on a GPU in one go

    def averaged(self, network: nn.Module) -> nn.Module:
        """A copy of the network with the averaged weights, ready to be evaluated."""
        device = next(network.parameters()).device
        with torch.random.fork_rng(devices=[]):  # its initial weights are drawn for nothing
            copy = type(network)(**network.options)
        copy = copy.to(device, memory_format=torch.channels_last).eval()
        copy.load_state_dict(self.weights)
        return copy


def move_batch(
    batch: dict[str, Any], device: torch.device
) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
    """The network's inputs and the truth, on the device, images as float32 in [0, 1]."""
    names = ("frames", "forward_flow", "backward_flow", "truth")
    frames, *flows, truth = (batch[name].to(device, non_blocking=True) for name in names)
    return (frames.float() / 255, *flows), truth.float() / 255


class Meter:
    """Mean loss and speed since it was made, left-out steps apart."""

    def __init__(self):
        self.losses: list[float] = []
        self.samples = 0
        self.start = time.perf_counter()

    def add(self, loss: float, samples: int) -> None:
        """Count a step."""
        self.samples += samples
        if math.isfinite(loss):
            self.losses.append(loss)

    @property
    def loss(self) -> float:
        """The mean loss; NaN where no step counted."""
        return sum(self.losses) / len(self.losses) if self.losses else math.nan

    @property
    def speed(self) -> float:
        """Samples per second."""
        return self.samples / (time.perf_counter() - self.start)


class RunLog:
    """A run's log: one JSON object per line in log.jsonl, and TensorBoard where it is installed.

    A resumed run appends; lines of steps that are taken again stay, the later one counts. Numbers
    that are not finite become null, which JSON has no other word for.

    Arguments:
        folder: the folder of the run, or None to write nothing.
    """

    def __init__(self, folder: Path | None):
        self.file = self.board = None
        if folder is None:
            return
        self.file = open(folder / "log.jsonl", "a", encoding="utf-8")  # noqa: SIM115
        try:
            from torch.utils.tensorboard import SummaryWriter

            self.board = SummaryWriter(str(folder / "tensorboard"))
        except ImportError:
            pass
        except Exception as error:  # it builds on packages of many versions, and is not needed
            reason = one_line(f"{type(error).__name__}: {error}")
            print(f"no TensorBoard log, which fails here ({reason})", flush=True)

    def write(self, step: int, **values: float) -> None:
        """Add the values of a step."""
        if self.file is None:
            return
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
        line = {"step": step, "time": round(time.time(), 1)} | finite
        self.file.write(json.dumps(line) + "\n")
        self.file.flush()
        if self.board:
            for name, value in values.items():
                self.board.add_scalar(name, value, step)

    def close(self) -> None:
        if self.file:
            self.file.close()
        if self.board:
            self.board.close()


class Stopped(Exception):
    """A training leaves its loop because of a signal, whose number this is."""

    def __init__(self, number: int):
        super().__init__(number)
        self.number = number


class StopSignals:
    """Ctrl-C and SIGTERM as a wish: the loop finishes its step, saves, and then leaves.

    Use as a context. `received` is the signal's number, or None; a second Ctrl-C acts at once.
    `stopped` is the number of the signal that the loop was left for, see `saving`. `sound` is
    False while weights and optimiser are between two steps.

    Arguments:
        patient: a second signal waits too. torchrun passes on to its processes a Ctrl-C that the
            terminal has sent them already; it kills them itself if they take more than 30 s.
    """

    def __init__(self, patient: bool = False):
        self.received: int | None = None
        self.stopped: int | None = None
        self.sound = True
        self.patient = patient

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
        if not self.patient:
            signal.signal(number, self.previous[number])

    @contextlib.contextmanager
    def saving(self, save: Callable[[], None]) -> Iterator[None]:
        """A training's loop, which is saved where it stops or fails.

        A signal to all processes of a training, which is how launchers send it, may end those that
        this one waits for. Their loss is then part of the stop.

        Raises:
            Exception: what the loop fails with, after the save; LoadingError and ConnectionError
                only where no signal came.
        """
        try:
            yield
        except (Stopped, LoadingError, ConnectionError) as error:
            save()
            self.stopped = error.number if isinstance(error, Stopped) else self.received
            if not self.stopped:
                raise
        except (FloatingPointError, RuntimeError, MemoryError):  # NaN, out of memory, a bug
            if self.sound:
                save()
            raise


def blame(
    team: Team,
    step: int,
    norm: float,
    losses: Sequence[Tensor],
    parts: Sequence[dict[str, Any]],
    offset_on: Callable[[dict[str, Any]], float],
) -> str:
    """What a step without a finite loss or gradient happened on; called in every process.

    Arguments:
        team: the processes that took the step.
        step: its number.
        norm: norm of its gradient.
        losses, parts: the batches of this process and their losses.
        offset_on: gives the network's largest deformable offset on a batch, in pixels.
    """
    mine = [
        (loss.item(), part["name"], offset_on(part))
        for loss, part in zip(losses, parts, strict=True)
    ]
    everyone = [batch for process in team.gather(mine) for batch in process]
    # A finite loss can have a gradient that is not; then any batch may be the cause.
    guilty = [batch for batch in everyone if not math.isfinite(batch[0])] or everyone
    batches = "; ".join(
        f"the loss is {loss:.4g} on {one_line(', '.join(names))}, "
        f"its largest offset {offset:.4g} pixels"
        for loss, names, offset in guilty
    )
    return f"step {step}: {batches}; the gradient's norm is {norm:.4g}. The step changed nothing"


@torch.no_grad()
def largest_offset(network: nn.Module, inputs: Sequence[Tensor]) -> float:
    """The largest |offset| in pixels of the network's deformable convolutions on these inputs.

    A runaway offset is the usual cause of a loss that is no number. The pass is repeated with a
    look at the offsets, because looking at them in every step would cost time.
    """
    sizes = []

    def look(limit: float | None, layer: nn.Module, arguments: Any, output: Tensor) -> None:
        offsets = output[:, : output.shape[1] * 2 // 3]  # the last third is the mask
        sizes.append(bounded(offsets, limit).abs().max().item())

    layers = [layer for layer in network.modules() if isinstance(layer, DCNv2)]
    hooks = [
        layer.conv_offset_mask.register_forward_hook(partial(look, layer.offset_limit))
        for layer in layers
    ]
    try:
        network(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    # With one given frame there is no alignment.
    return max(sizes, key=lambda size: (math.isnan(size), size), default=0.0)


def mean_offset(network: nn.Module) -> float:
    """The mean |offset| in pixels of the network's deformable convolutions in their last pass.

    NaN where they were not seen: with one given frame, or in a compiled network.
    """
    means = [layer.mean_offset for layer in network.modules() if isinstance(layer, DCNv2)]
    return max((mean.item() for mean in means if mean is not None), default=math.nan)


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
    """The states of PyTorch's random generators in use, for a checkpoint."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_initialized():  # the other GPUs are other processes', leave them alone
        states[f"cuda:{torch.cuda.current_device()}"] = torch.cuda.get_rng_state()
    return states


def restore_random_states(states: dict[str, Tensor]) -> None:
    """The inverse of `random_states`; states of GPUs that are not here are left out."""
    torch.set_rng_state(states["cpu"])
    for index in range(torch.cuda.device_count()):
        if f"cuda:{index}" in states:
            torch.cuda.set_rng_state(states[f"cuda:{index}"], index)
