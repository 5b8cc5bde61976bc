"""What each choice of the training recipe is worth: one change at a time, same samples.

    python -m benchmarks.recipe STILLS TESTSET
    python -m benchmarks.recipe STILLS TESTSET --steps 1000 --variants base,symmetric

Every variant trains the small network from the same initial weights on the same samples, animated
from STILLS, and is measured on the test clips of TESTSET (PSNR in dB, RGB, 8 bits, no border cut).
Short runs rank what matters early; they do not tell what a long run would reach.
"""

import time
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

from data.animation import Animation, StillsDataset
from data.clips import find_clips, read_clip
from data.loading import one_opencv_thread
from data.sampler import MixedDataset, ResumableSampler
from models import build_network
from utils.config import parse_config, run_script
from utils.inference import autocast, super_resolve
from utils.metrics import clip_metrics, mean_metrics
from utils.training import Ema, charbonnier, learning_rate, move_batch

BASE = {
    "global_skip": True,
    "midpoint_flow": True,
    "coupling": "released",
    "rate": 8e-4,
    "given_frames": 2,
    "flow_method": "dis",
    "blur_min": 0.8,
    "blur_max": 1.5,
    "fast_share": 0.5,
    "ema": True,
}
VARIANTS = {
    "base": {},
    "no global skip": {"global_skip": False},
    "whole flows": {"midpoint_flow": False},
    "symmetric": {"coupling": "symmetric"},
    "rate 2e-4": {"rate": 2e-4},
    "four given frames": {"given_frames": 4},
    "flow dis4x": {"flow_method": "dis4x"},
    "flow pyflow": {"flow_method": "pyflow"},
    "sharper optics": {"blur_min": 0.5, "blur_max": 0.8},
    "all traffic fast": {"fast_share": 1.0},
    "no average": {"ema": False},
}


@dataclass(frozen=True)
class Config:
    stills: str  # folder of stills to train on
    testset: str  # folder of test clips
    steps: int = 300  # optimiser steps of every variant, batch 1
    variants: str = "all"  # names of the table, separated by commas

    def __post_init__(self):
        unknown = set(self.names) - set(VARIANTS)
        if unknown:
            raise ValueError(f"no variants {sorted(unknown)}; there are {', '.join(VARIANTS)}")

    @property
    def names(self) -> list[str]:
        return list(VARIANTS) if self.variants == "all" else self.variants.split(",")


def train(config: Config, choice: dict) -> torch.nn.Module:
    """The small network after config.steps steps."""
    torch.manual_seed(0)
    look = Animation(
        blur_min=choice["blur_min"], blur_max=choice["blur_max"], fast_share=choice["fast_share"]
    )
    stills = StillsDataset(
        config.stills,
        flow_method=choice["flow_method"],
        animation=look,
        given_frames=choice["given_frames"],
    )
    sampler = ResumableSampler([len(stills)], [1.0], count=config.steps)
    loader = DataLoader(
        MixedDataset([stills]), sampler=sampler, num_workers=1, worker_init_fn=one_opencv_thread
    )
    options = {name: choice[name] for name in ("global_skip", "midpoint_flow", "coupling")}
    network = build_network("small", **options).to(memory_format=torch.channels_last)
    average = Ema(network, 0.99 if choice["ema"] else 0.0)
    optimiser = torch.optim.Adam(network.parameters())
    for step, batch in enumerate(tqdm(loader, unit="step", leave=False)):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(step, config.steps, choice["rate"], 50, 1e-6)
        inputs, truth = move_batch(batch, torch.device("cpu"))
        with autocast(torch.device("cpu")):
            output = network(*inputs)
        loss = charbonnier(output, truth)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 0.5)
        optimiser.step()
        average.update(network, step + 1)
    network.load_state_dict(average.weights)
    return network.eval()


def measure(network: torch.nn.Module, testset: str, flow_method: str) -> dict:
    """The mean figures over the test clips."""
    figures = []
    for clip in find_clips(testset):
        given, truth = read_clip(clip)
        output = np.stack(list(super_resolve(network, given, flow_method, precision="auto")))
        figures.append(clip_metrics(output, truth))
    return mean_metrics(figures)


def main() -> None:
    config = parse_config(Config, __doc__, positional=("stills", "testset"))
    one_opencv_thread()
    print(f"{config.steps} steps, batch 1; mean of the clips of {config.testset}")
    print(f"{'variant':<20}{'all':>8}{'given':>8}{'interpolated':>14}{'moving':>8}{'minutes':>9}")
    for name in config.names:
        choice = BASE | VARIANTS[name]
        start = time.perf_counter()
        mean = measure(train(config, choice), config.testset, choice["flow_method"])
        print(
            f"{name:<20}{mean['psnr_rgb']:8.2f}{mean['psnr_rgb_given']:8.2f}"
            f"{mean['psnr_rgb_interpolated']:14.2f}{mean['psnr_rgb_moving']:8.2f}"
            f"{(time.perf_counter() - start) / 60:9.1f}",
            flush=True,
        )


if __name__ == "__main__":
    run_script(main)
