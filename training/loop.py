"""What the training loop of main.py is made of: schedule, loss, clock, averaged weights."""

import contextlib
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.blocks import ResidualBlock
from models.dual_aggregation import DualAggregationBlock
from utils.metrics import BT601_GREY, MOVING_LEVELS, PEAK


def share_of_peak(step: int, steps: int, warmup: int, final: float, elapsed: float = 0.0) -> float:
    """The rate of a step as a share of its peak: linear warm-up, then a half cosine down.

    A pure function: without a limit of time a resumed run has the rates of an uninterrupted one.

    Arguments:
        step: 0 .. steps - 1, of which the first are the warm-up, see `fitting_warmup`.
        final: share at the end.
        elapsed: share of the run's time that is used, 0 to 1. The cosine is as far as the larger
            of this and the share of the steps; in the warm-up too, where it is the lower one.
    """
    warmup = fitting_warmup(warmup, steps)
    progress = min(max((step - warmup) / max(steps - warmup, 1), elapsed), 1.0)
    share = final + (1 - final) * (1 + math.cos(math.pi * progress)) / 2
    return min((step + 1) / warmup, share) if step < warmup else share


def fitting_warmup(warmup: int, steps: int) -> int:
    """Steps of warm-up in a run of so many: half of them where it would take all."""
    return warmup if warmup < steps else steps // 2


def charbonnier(
    output: Tensor, truth: Tensor, moving_weight: float = 1.0, epsilon: float = 1e-3
) -> Tensor:
    """Charbonnier loss, the mean of sqrt(d^2 + epsilon^2), a number.

    The released code takes the sum. The mean gives Adam the same steps, and a loss and a gradient
    norm that do not depend on the patch.

    Arguments:
        output, truth: same shape, any range; computed in float32. Where something is weighted
            (B, T, 3, 4H, 4W), T odd, the truth in [0, 1].
        moving_weight: of the pixels of interpolated frames where something moves, about 1 % of
            all: what corrects the flow learns from nothing else.
        epsilon: errors far below it count by their square, far above it by their size.
    """
    error = torch.sqrt((output.float() - truth.float()).square() + epsilon**2)
    if moving_weight == 1 or error.shape[1] == 1:
        return error.mean()
    weight = 1 + (moving_weight - 1) * moving_pixels(truth.float()).float()
    return (error[:, ::2].sum() + (weight * error[:, 1::2]).sum()) / error.numel()


def moving_pixels(truth: Tensor) -> Tensor:
    """Where something moves in the interpolated frames, nearly as `utils.metrics.moving_mask`.

    truth: (B, T, 3, H, W) in [0, 1], T odd from 3 on -> (B, T // 2, 1, H, W) bool.
    """
    luma = truth.new_tensor(BT601_GREY).view(3, 1, 1)
    grey = (truth * luma).sum(dim=2)  # (B, T, H, W)
    grey = F.avg_pool2d(grey, 3, stride=1, padding=1, count_include_pad=False)
    before, now, after = grey[:, :-1:2], grey[:, 1::2], grey[:, 2::2]
    change = torch.maximum((now - before).abs(), (now - after).abs())
    moving = (change > MOVING_LEVELS / PEAK).float()
    return F.max_pool2d(moving, 3, stride=1, padding=1)[:, :, None] > 0


def compiled(model: nn.Module, network: nn.Module) -> nn.Module:
    """A network, or the model that wraps it, which PyTorch compiles when it first computes.

    Where its extraction is of many equal blocks, only these are compiled, and those of its
    propagation: all of them take as long as one of each kind.
    """
    print("compiling the network; the first steps take minutes", flush=True)
    blocks = [part for part in network.modules() if isinstance(part, DualAggregationBlock)]
    if not blocks:
        return torch.compile(model)
    carrying = network.propagation.modules() if network.propagation is not None else ()
    for block in blocks + [part for part in carrying if isinstance(part, ResidualBlock)]:
        block.compile()
    return model


class Clock:
    """The time that a training has used of what it was given.

    minutes: what it was given; None: no limit. used: seconds before the run was resumed.
    """

    LAST = 60.0  # seconds at the end that belong to validation and saving, until one is timed
    LEAST = 10.0  # of them, however fast a validation is

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
        """A validation, with which the run ends."""
        start = self.used
        yield
        self.validated = self.used
        self.took = self.validated - start
        self.last = max(self.LEAST, 1.5 * self.took)

    @property
    def rested(self) -> bool:
        """Whether steps have had at least twice the time of the last validation since then."""
        return self.used - self.validated > 2 * self.took


class Ema:
    """Exponential moving average of a network's weights, the ones that are evaluated and shipped.

    decay: share of the old average kept each step; smaller during the first steps, so that the
    initial weights are forgotten soon.
    """

    def __init__(self, network: nn.Module, decay: float):
        self.decay = decay
        self.weights = {name: value.clone() for name, value in network.state_dict().items()}

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Take in the weights after `step` steps."""
        decay = min(self.decay, (1 + step) / (10 + step))
        state = network.state_dict()
        values = [state[name] for name in self.weights]
        torch._foreach_lerp_(list(self.weights.values()), values, 1 - decay)  # on a GPU in one go

    def averaged(self, network: nn.Module) -> nn.Module:
        """A copy of the network with the averaged weights, ready to be evaluated."""
        device = next(network.parameters()).device
        with torch.random.fork_rng(devices=[]):  # its initial weights are drawn for nothing
            copy = type(network)(**network.options)
        copy = copy.to(device, memory_format=torch.channels_last).eval()
        copy.load_state_dict(self.weights)
        copy.guarded = True  # as weights from a file are
        return copy


def move_batch(
    batch: dict[str, Any], device: torch.device
) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
    """The network's inputs and the truth, on the device, images as float32 in [0, 1]."""
    names = ("frames", "forward_flow", "backward_flow", "truth")
    frames, *flows, truth = (batch[name].to(device, non_blocking=True) for name in names)
    return (frames.float() / 255, *flows), truth.float() / 255


def memory_in_use(device: torch.device) -> float:
    """GiB that the process holds: resident memory, or on a GPU the peak of what was allocated.

    NaN where the system does not tell (only Linux does).
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    pages = Path("/proc/self/statm")  # of Linux
    if not pages.exists():
        return math.nan
    return int(pages.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**30
