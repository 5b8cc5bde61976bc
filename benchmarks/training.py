"""Seconds per training step: plain float32 against channels_last and bfloat16.

    python -m benchmarks.training
    python -m benchmarks.training --size small --given-frames 2

A step is forward, loss, backward and Adam on one sample, without the loader. The variants take
turns in one process; the table gives medians and the ratio to the first.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from unittest import mock

import torch

import models
from benchmarks.timing import interleaved_medians, machine
from models import build_network
from utils.config import parse_config, run_script
from utils.inference import autocast
from utils.training import charbonnier

MODULES = (models.mstt, models.interpolation, models.transformer)


@dataclass(frozen=True)
class Config:
    size: str = "mstt"  # mstt or small
    given_frames: int = 4  # N
    patch: int = 80  # LR pixels
    batch: int = 1  # samples per step
    repeats: int = 5  # counted steps of each variant


@contextlib.contextmanager
def contiguous_activations() -> Iterator[None]:
    """The network with its activations laid out as (B, C, H, W), the usual way."""
    with contextlib.ExitStack() as stack:
        for module in MODULES:
            stack.enter_context(mock.patch.object(module, "channels_last", torch.Tensor.contiguous))
        yield


def make_step(config: Config, channels_last: bool, precision: str) -> Callable[[], None]:
    """A function that trains a new network by one step."""
    torch.manual_seed(0)
    network = build_network(config.size, global_skip=True).train()
    if channels_last:
        network = network.to(memory_format=torch.channels_last)
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-5)
    count, side = config.given_frames, config.patch
    frames = torch.rand(config.batch, count, 3, side, side)
    flows = torch.randn(2, config.batch, count - 1, 2, side, side) * 0.3
    truth = torch.rand(config.batch, 2 * count - 1, 3, 4 * side, 4 * side)

    def step() -> None:
        layout = contextlib.nullcontext() if channels_last else contiguous_activations()
        with layout, autocast(torch.device("cpu"), precision):
            loss = charbonnier(network(frames, *flows), truth)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()

    return step


def main() -> None:
    config = parse_config(Config, __doc__)
    steps = {
        "float32, plain": make_step(config, False, "float32"),
        "float32, channels_last": make_step(config, True, "float32"),
        "bfloat16, channels_last": make_step(config, True, "bfloat16"),
    }
    medians = interleaved_medians(steps, config.repeats)
    print(f"{machine()}, {torch.get_num_threads()} threads; {config}")
    first = next(iter(medians.values())).wall
    for name, median in medians.items():
        print(f"{name:<26}{median.wall:8.2f} s per step{first / median.wall:8.1f}x")


if __name__ == "__main__":
    run_script(main)
