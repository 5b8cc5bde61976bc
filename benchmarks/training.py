"""Seconds per training step, side by side with the obvious formulation.

    python -m benchmarks.training
    python -m benchmarks.training --size small --given-frames 2

A step is forward, loss, backward and Adam on one sample, without the loader. The variants take
turns, each in a process of its own; the table gives medians, ratios to the first and the peak
memory of a step. The first runs with the memory allocator as PyTorch finds it, the others as our
scripts set it (utils/memory.py). At the default size the result goes into figures/speed.json.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from benchmarks.inference import precisions
from benchmarks.obvious import obvious
from benchmarks.speed import store
from benchmarks.timing import in_turns, machine, print_table
from models import build_network
from models.inference import autocast
from training.loop import charbonnier
from utils.config import parse_config, run_script


@dataclass(frozen=True)
class Config:
    size: str = "mstt"  # mstt or small
    given_frames: int = 4  # N
    patch: int = 80  # LR pixels, a multiple of 80
    batch: int = 1  # samples per step
    repeats: int = 5  # counted steps of each variant


def make_step(config: Config, fast: bool, precision: str) -> Callable[[], None]:
    """A function that trains a new network by one step."""
    torch.manual_seed(0)
    network = build_network(config.size).train()
    network = network.to(memory_format=torch.channels_last) if fast else obvious(network)
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-5)
    count, side = config.given_frames, config.patch
    frames = torch.rand(config.batch, count, 3, side, side)
    flows = torch.randn(2, config.batch, count - 1, 2, side, side) * 0.3
    truth = torch.rand(config.batch, 2 * count - 1, 3, 4 * side, 4 * side)

    def step() -> None:
        with autocast(torch.device("cpu"), precision):
            loss = charbonnier(network(frames, *flows), truth)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()

    return step


def main() -> None:
    config = parse_config(Config, __doc__)
    variants = {
        "obvious, float32": (config, False, "float32"),
        "obvious, freed memory kept, float32": (config, False, "float32"),
    }
    variants |= {f"ours, {name}": (config, True, name) for name in precisions()}
    results = in_turns(make_step, variants, config.repeats, default=["obvious, float32"])
    print(f"{machine()}, {torch.get_num_threads()} threads; {config}")
    base = results["obvious, float32"]
    rows = [
        {
            "formulation": name,
            "seconds per step": f"{result.wall:.2f}",
            "faster": f"{base.wall / result.wall:.1f}x",
            "faster, processor": f"{base.processor / result.processor:.1f}x",
            "peak memory": f"{result.peak_bytes / 2**20:.0f} MiB" if result.peak_bytes else "-",
        }
        for name, result in results.items()
    ]
    print_table("a training step", rows)
    if config == Config(repeats=config.repeats):  # docs/speed.md shows these
        store("training", {"rows": rows})


if __name__ == "__main__":
    run_script(main)
