"""What each choice of the training recipe is worth: one change at a time, same samples.

    python -m benchmarks.recipe STILLS TESTSET
    python -m benchmarks.recipe STILLS TESTSET --samples 1000 --variants base,symmetric

The base is the recipe of main.py, with averages over fewer steps (EMA), for short runs. Every
variant trains from the same initial weights on the same samples, animated
from STILLS, and is measured on the test clips of TESTSET (PSNR in dB, RGB, 8 bits, no border cut).
Short runs rank what matters early; they do not tell what a long run would reach.
"""

import math
import time
from dataclasses import dataclass
from functools import partial

import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

from benchmarks.sizes import jointly, quality
from data.animation import Animation, StillsDataset
from data.loading import one_opencv_thread, start_worker
from data.sampler import MixedDataset, ResumableSampler
from models import MSTT, build_network
from models.checkpoint import load_network
from models.inference import autocast
from training.loop import Ema, charbonnier, learning_rate, move_batch
from training.optimiser import Optimiser
from training.validation import FramesAlone
from utils.config import parse_config, run_script

BASE = {
    # Network: a size of models.mstt.SIZES, and options of MSTT that take the place of its own.
    "size": "fast",
    "network": {
        "global_skip": "enhanced",
        "skip_refinement": True,
        "offset_limit": 10.0,
        "midpoint_flow": True,
    },
    "optimiser": "muon",
    "rate": 8e-4,
    "muon_rate": 1e-2,
    "alignment_share": 0.1,
    "final_share": 1e-3,
    "batch": 1,
    "flow_method": "dis2x",
    "blur_min": 0.8,
    "blur_max": 1.5,
    "fast_share": 0.5,
    "ema": 0.99,
}
VARIANTS = {
    "base": {},
    "small": {"size": "small"},
    "48 channels": {"network": {"channels": 48, "back_blocks": 20}},
    "no skip": {"network": {"global_skip": "none", "skip_refinement": False}},
    "bicubic skip": {"network": {"global_skip": "bicubic", "skip_refinement": False}},
    "plain mean": {"network": {"skip_refinement": False}},
    "free offsets": {"network": {"offset_limit": None}},
    "whole flows": {"network": {"midpoint_flow": False}},
    "symmetric": {"network": {"coupling": "symmetric"}},
    "adam": {"optimiser": "adam"},
    "muon 5e-3": {"muon_rate": 5e-3},
    "muon 2e-2": {"muon_rate": 2e-2},
    "final 1e-1": {"final_share": 0.1},
    "one given frame": {"given_frames": 1},
    "four given frames": {"given_frames": 4},
    "batch 4": {"batch": 4},
    "flow dis": {"flow_method": "dis"},
    "flow dis4x": {"flow_method": "dis4x"},
    "flow pyflow": {"flow_method": "pyflow"},
    "sharper optics": {"blur_min": 0.5, "blur_max": 0.8},
    "all traffic fast": {"fast_share": 1.0},
    "no average": {"ema": 0.0},
}


@dataclass(frozen=True)
class Config:
    stills: str  # folder of stills to train on
    testset: str  # folder of test clips
    samples: int = 300  # that every variant trains on
    given_frames: int = 2  # N of every variant that does not name its own
    weights: str | None = None  # trained weights to start from; none: new ones
    variants: str = "all"  # names of the table, separated by commas

    def __post_init__(self):
        unknown = set(self.names) - set(VARIANTS)
        if unknown:
            raise ValueError(f"no variants {sorted(unknown)}; there are {', '.join(VARIANTS)}")

    @property
    def names(self) -> list[str]:
        return list(VARIANTS) if self.variants == "all" else self.variants.split(",")


def train(config: Config, choice: dict) -> torch.nn.Module:
    """The network after config.samples samples."""
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
    count = config.samples // choice["batch"]
    sampler = ResumableSampler([len(stills)], [1.0], range(count * choice["batch"]))
    loader = DataLoader(
        MixedDataset([stills]),
        sampler=sampler,
        batch_size=choice["batch"],
        num_workers=1,
        worker_init_fn=start_worker,
    )
    network = build_network(choice["size"], **choice["network"])
    if config.weights:
        start_from(network, config.weights)
    network = network.to(memory_format=torch.channels_last)
    average = Ema(network, choice["ema"])
    names = ("optimiser", "rate", "muon_rate", "alignment_share")
    optimiser = Optimiser(network, *(choice[name] for name in names))
    for step, batch in enumerate(tqdm(loader, unit="step", leave=False)):
        optimiser.set_rate(learning_rate(step, count, 50, choice["final_share"]))
        inputs, truth = move_batch(batch, torch.device("cpu"))
        with autocast(torch.device("cpu")):
            output = network(*inputs)
        loss = charbonnier(output, truth)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 0.5)
        optimiser.step()
        average.update(network, step + 1)
    network.load_state_dict(average.weights)
    return FramesAlone(network).eval() if choice["given_frames"] == 1 else network.eval()


def start_from(network: MSTT, path: str) -> None:
    """Take over what trained weights have in common with a network, by names and shapes."""
    trained, own = load_network(path)[0].state_dict(), network.state_dict()
    common = {n: trained[n] for n in own if n in trained and trained[n].shape == own[n].shape}
    network.load_state_dict(common, strict=False)
    print(f"{len(common)} of {len(own)} tensors are those of {path}")


def main() -> None:
    config = parse_config(Config, __doc__, positional=("stills", "testset"))
    one_opencv_thread()
    print(f"{config.samples} samples; mean of the clips of {config.testset}")
    print(f"{'variant':<20}{'all':>8}{'given':>8}{'interpolated':>14}{'moving':>8}{'minutes':>9}")
    for name in config.names:
        choice = BASE | {"given_frames": config.given_frames} | VARIANTS[name]
        choice["network"] = BASE["network"] | choice["network"]
        start = time.perf_counter()
        method = partial(jointly, train(config, choice), choice["flow_method"], precision="auto")
        mean = quality(method, config.testset)
        print(
            f"{name:<20}{mean['psnr_rgb']:8.2f}{mean['psnr_rgb_given']:8.2f}"
            f"{mean['psnr_rgb_interpolated']:14.2f}{mean['psnr_rgb_moving'] or math.nan:8.2f}"
            f"{(time.perf_counter() - start) / 60:9.1f}",
            flush=True,
        )


if __name__ == "__main__":
    run_script(main)
