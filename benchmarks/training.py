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
from typing import Literal

import torch

from benchmarks.inference import OBVIOUS, random_window, variants_of
from benchmarks.obvious import obvious
from benchmarks.speed import faster, store
from benchmarks.timing import in_turns, machine, mebibytes, print_table
from models import SIZES, build_network
from models.inference import autocast
from training.loop import charbonnier
from utils.config import parse_config, run_script


@dataclass(frozen=True)
class Config:
    size: Literal[*SIZES] = "mstt"
    given_frames: int = 4  # N
    patch: int = 80  # LR pixels, a multiple of 80
    batch: int = 1  # samples per step
    repeats: int = 5  # counted steps of each variant


def make_step(config: Config, formulation: str, precision: str) -> Callable[[], None]:
    """A function that trains a new network by one step."""
    torch.manual_seed(0)
    network = build_network(config.size).train()
    plain = formulation == "obvious"
    network = obvious(network) if plain else network.to(memory_format=torch.channels_last)
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-5)
    side, count = config.patch, config.given_frames
    inputs = random_window(side, count, config.batch)
    truth = torch.rand(config.batch, 2 * count - 1, 3, 4 * side, 4 * side)

    def step() -> None:
        with autocast(torch.device("cpu"), precision):
            loss = charbonnier(network(*inputs), truth)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()

    return step


def main() -> None:
    config = parse_config(Config, __doc__)
    variants = variants_of(lambda formulation, precision: (config, formulation, precision))
    results = in_turns(make_step, variants, config.repeats, default=[OBVIOUS])
    print(f"{machine()}, {torch.get_num_threads()} threads; {config}")
    rows = [
        {"formulation": name, "seconds per step": f"{seconds.wall:.2f}"}
        | faster(results[OBVIOUS][0], seconds)
        | {"peak memory": mebibytes(peak_bytes)}
        for name, (seconds, peak_bytes) in results.items()
    ]
    print_table("a training step", rows)
    if config == Config(repeats=config.repeats):  # docs/speed.md shows these
        store("training", {"rows": rows})


if __name__ == "__main__":
    run_script(main)
