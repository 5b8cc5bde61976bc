"""Seconds per training step, side by side with the obvious formulation.

    python -m benchmarks.training
    python -m benchmarks.training --size small --given-frames 2
    THP_MEM_ALLOC_ENABLE=1 python -m benchmarks.training    with huge pages, see NOTES.md

A step is forward, loss, backward and Adam on one sample, without the loader. The variants take
turns in one process; the table gives medians, ratios to the first and the peak memory of a step.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from benchmarks.obvious import obvious
from benchmarks.timing import interleaved_medians, machine, peak_extra_memory, print_table
from models import build_network
from utils.config import parse_config, run_script
from utils.inference import autocast
from utils.training import charbonnier


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
    steps = {
        "obvious, float32": make_step(config, False, "float32"),
        "ours, float32": make_step(config, True, "float32"),
        "ours, bfloat16": make_step(config, True, "bfloat16"),
    }
    medians = interleaved_medians(steps, config.repeats)
    print(f"{machine()}, {torch.get_num_threads()} threads; {config}")
    base = next(iter(medians.values()))
    rows = []
    for name, median in medians.items():
        memory = peak_extra_memory(steps[name])
        rows.append(
            {
                "formulation": name,
                "seconds per step": f"{median.wall:.2f}",
                "faster": f"{base.wall / median.wall:.1f}x",
                "faster, processor": f"{base.processor / median.processor:.1f}x",
                "peak memory": "-" if memory is None else f"{memory / 2**20:.0f} MiB",
            }
        )
    print_table("a training step", rows)


if __name__ == "__main__":
    run_script(main)
