"""What a network costs and what it brings: PSNR against time, for weights of several sizes.

    python -m benchmarks.sizes CLIPS sizes.png
    python -m benchmarks.sizes CLIPS sizes.png --weights "fast=FILE,SPAN=START.safetensors+flow"

PSNR in dB is the mean of all frames of the test clips of CLIPS, and of their moving pixels (RGB, no
border cut). The time is that of the first clip's frames with their flow, one thread, float32, the
median of calls in turns. With +flow behind a file its network enlarges each given frame by itself,
and OpenCV's DIS makes the others from them: what `training.span` and `training.dat` write are then
SPAN and DAT-light as a user would put them to work.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import nn

from benchmarks.timing import interleaved_medians, machine, print_table
from data.clips import find_clips, read_clip
from models import load_network, super_resolve
from models.baselines import bicubic_flow, interpolate_along_flow
from models.weights import SHIPPED, trained_flow, trained_window
from utils.config import parse_config, run_script
from utils.images import to_tensor, to_uint8
from utils.metrics import Metrics, clip_metrics, mean_metrics
from utils.streams import progress_bar

FLOW = "+flow"
Method = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Config:
    clips: str  # folder of test clips
    out: str  # the picture to write
    weights: str | None = None  # NAME=FILE,NAME=FILE+flow; none: all weights in the box
    repeats: int = 3  # timed calls of each

    def __post_init__(self):
        if self.repeats < 1:
            raise ValueError(f"repeats is {self.repeats}; it must be at least 1")


def in_two_stages(network: nn.Module, given: np.ndarray) -> np.ndarray:
    """The given frames, each enlarged by itself, and DIS between them."""
    none = torch.zeros(1, 0, 2, *given.shape[1:3])
    with torch.no_grad():
        enlarged = [to_uint8(network(to_tensor(x[None])[None], none, none)[0])[0] for x in given]
    return np.stack(interpolate_along_flow(enlarged, "dis"))


def jointly(network: nn.Module, flow_method: str, given: np.ndarray, **options) -> np.ndarray:
    """All frames by the network; options: `super_resolve`'s precision and window."""
    return np.stack(list(super_resolve(network, given, flow_method, **options)))


def open_methods(weights: str | None) -> dict[str, Method]:
    """What is compared, by its name; ValueError: a part of `weights` is not NAME=FILE."""
    if weights is None:
        there = {name: path for name, path in SHIPPED.items() if path.is_file()}
        weights = ",".join(f"{name}={path}" for name, path in there.items())
    methods: dict[str, Method] = {"bicubic + flow": lambda given: np.stack(bicubic_flow(given))}
    for part in weights.split(","):
        name, _, file = part.partition("=")
        if not name or not file:
            raise ValueError(f"weights has {part!r}; give NAME=FILE,NAME=FILE{FLOW}")
        network, information = load_network(file.removesuffix(FLOW))
        if file.endswith(FLOW):
            methods[name] = partial(in_two_stages, network)
        else:
            window = trained_window(information)
            methods[name] = partial(jointly, network, trained_flow(information), window=window)
    return methods


def quality(method: Method, testset: str) -> Metrics:
    """The mean figures of a method over the test clips of a folder."""
    pairs = map(read_clip, find_clips(testset))
    return mean_metrics([clip_metrics(method(given), truth) for given, truth in pairs])


def draw(path: str, rows: list[dict[str, float | str]]) -> None:
    """PSNR of all frames and of moving pixels over the time, a point for every method."""
    figure = Figure(figsize=(8.4, 3.4), dpi=110, layout="constrained")
    plots = figure.subplots(1, 2)
    for axes, key, title in zip(
        plots, ("all", "moving"), ("all frames", "moving pixels"), strict=True
    ):
        for row in rows:
            axes.plot(row["seconds"], row[key], "o", ms=8, label=row["method"])
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:g}")
        axes.margins(0.15)
        axes.set_xlabel("seconds for a clip")
        axes.set_ylabel(f"PSNR of {title} (dB, RGB)")
        axes.grid(alpha=0.3)
    figure.legend(*plots[0].get_legend_handles_labels(), loc="outside right center", fontsize=9)
    figure.savefig(path)


def main() -> None:
    config = parse_config(Config, __doc__, positional=("clips", "out"))
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    methods = open_methods(config.weights)
    means = {
        name: quality(method, config.clips)
        for name, method in progress_bar(methods.items(), unit="method")
    }
    clips = find_clips(config.clips)
    first = read_clip(clips[0])[0]
    calls = {name: partial(method, first) for name, method in methods.items()}
    times = interleaved_medians(calls, config.repeats)
    rows = [
        {"method": name, "all": mean["psnr_rgb"], "moving": mean["psnr_rgb_moving"] or np.nan}
        | {"seconds": times[name].wall}
        for name, mean in means.items()
    ]
    shape = "x".join(map(str, first.shape[:3]))
    print_table(
        f"{machine()}, one thread, float32; {len(clips)} clips, time of {shape}",
        [{k: v if k == "method" else f"{v:.2f}" for k, v in row.items()} for row in rows],
    )
    Path(config.out).parent.mkdir(parents=True, exist_ok=True)
    draw(config.out, rows)


if __name__ == "__main__":
    run_script(main)
