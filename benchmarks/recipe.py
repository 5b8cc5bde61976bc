"""What each choice of the training recipe is worth: one change at a time, same samples.

    python -m benchmarks.recipe STILLS TESTSET
    python -m benchmarks.recipe STILLS TESTSET --samples 1000 --variants base,symmetric

The base is the recipe of main.py, with averages over fewer steps (EMA), for short runs. Every
variant is a run of main.py from the same initial weights on the same samples, animated from STILLS,
and is measured on the test clips of TESTSET (PSNR in dB, RGB, 8 bits, no border cut). Short runs
rank what matters early; they do not tell what a long run would reach.
"""

import math
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from benchmarks.inference import TRAINED_OPTIONS
from benchmarks.sizes import jointly, quality
from models import MSTT, build_network
from models.checkpoint import load_network, save_network
from training.validation import FramesAlone
from utils.config import parse_config, run_script

MAIN = Path(__file__).resolve().parent.parent / "main.py"
BASE = {
    # Network: a size of models.mstt.SIZES, and options of MSTT that take the place of its own.
    "size": "fast",
    "network": TRAINED_OPTIONS,
    # Flags of main.py, where they are not its defaults or needed here.
    "batch": 1,
    "flow_method": "dis2x",
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
    "L1": {"bend": 1e-6},
    "charbonnier 0.03": {"bend": 0.03},
    "moving pixels as others": {"moving_weight": 1.0},
    "offsets at full rate": {"alignment_share": 1.0},
    "one given frame": {"given_frames": 1},
    "four given frames": {"given_frames": 4},
    "batch 4": {"batch": 4},
    "flow dis": {"flow_method": "dis"},
    "flow dis4x": {"flow_method": "dis4x"},
    "flow pyflow": {"flow_method": "pyflow"},
    "sharper optics": {"blur_min": 0.5, "blur_max": 0.8},
    "all traffic fast": {"fast_share": 1.0},
    "real clips": {"clips_weight": 0.2},
    "no average": {"ema": 0.0},
}


@dataclass(frozen=True)
class Config:
    stills: str  # folder of stills to train on
    testset: str  # folder of test clips
    samples: int = 300  # that every variant trains on
    given_frames: int = 2  # N of every variant that does not name its own
    weights: str | None = None  # trained weights to start from; none: new ones
    clips: str | None = None  # septuplets of real video, for the variant "real clips"
    seed: int = 123  # of the samples and of new weights
    variants: str = "all"  # names of the table, separated by commas

    def __post_init__(self):
        unknown = set(self.names) - set(VARIANTS)
        if unknown:
            raise ValueError(f"no variants {sorted(unknown)}; there are {', '.join(VARIANTS)}")
        if "real clips" in self.names and self.clips is None:
            raise ValueError("the variant 'real clips' needs --clips, a folder of septuplets")

    @property
    def names(self) -> list[str]:
        if self.variants != "all":
            return self.variants.split(",")
        return [name for name in VARIANTS if self.clips or name != "real clips"]


def train(config: Config, choice: dict, folder: Path) -> torch.nn.Module:
    """The network after config.samples samples, trained by main.py; `folder` is for its files."""
    torch.manual_seed(config.seed)
    network = build_network(choice["size"], **choice["network"])
    if config.weights:
        start_from(network, config.weights)
    save_network(folder / "start.safetensors", network, {})
    steps = config.samples // choice["batch"]
    flags = {name: value for name, value in choice.items() if name not in ("size", "network")}
    flags |= {"weights": folder / "start.safetensors", "run": folder / "run", "device": "cpu"}
    flags |= {"stills": config.stills, "steps": steps, "workers": 1, "seed": config.seed}
    if "clips_weight" in choice:
        flags["clips"] = config.clips
    flags |= {"validation": config.testset, "validate-every": steps}
    command = [sys.executable, str(MAIN), *(f"--{name}={value}" for name, value in flags.items())]
    status = subprocess.run(command, stdout=subprocess.DEVNULL).returncode
    if status:
        raise ValueError(f"main.py ended with status {status}")
    network, _ = load_network(folder / "run" / "last.pt")
    return FramesAlone(network) if choice["given_frames"] == 1 else network


def start_from(network: MSTT, path: str) -> None:
    """Take over what trained weights have in common with a network, by names and shapes."""
    trained, own = load_network(path)[0].state_dict(), network.state_dict()
    common = {n: trained[n] for n in own if n in trained and trained[n].shape == own[n].shape}
    network.load_state_dict(common, strict=False)
    print(f"{len(common)} of {len(own)} tensors are those of {path}")


def main() -> None:
    config = parse_config(Config, __doc__, positional=("stills", "testset"))
    print(f"{config.samples} samples; mean of the clips of {config.testset}")
    print(f"{'variant':<20}{'all':>8}{'given':>8}{'interpolated':>14}{'moving':>8}{'minutes':>9}")
    for name in config.names:
        choice = BASE | {"given_frames": config.given_frames} | VARIANTS[name]
        choice["network"] = BASE["network"] | choice["network"]
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            try:
                network = train(config, choice, Path(folder))
            except ValueError as error:
                print(f"{name:<20}  {error}", flush=True)
                continue
        method = partial(jointly, network, choice["flow_method"], precision="auto")
        mean = quality(method, config.testset)
        print(
            f"{name:<20}{mean['psnr_rgb']:8.2f}{mean['psnr_rgb_given']:8.2f}"
            f"{mean['psnr_rgb_interpolated']:14.2f}{mean['psnr_rgb_moving'] or math.nan:8.2f}"
            f"{(time.perf_counter() - start) / 60:9.1f}",
            flush=True,
        )


if __name__ == "__main__":
    run_script(main)
