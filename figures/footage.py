"""Real footage, as it is and compressed, enhanced with the weights for clean and for real frames.

    python -m figures.footage VIDEO figures/footage.png [--start 40 --crf 28 --left 200 --top 120]

VIDEO is whatever enhance.py reads. The sheet has a row for the footage as it is and one for the
same after H.264, and in each a crop of bicubic enlargement and of both weights, magnified.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from data.degrade import Degradation
from media.open import open_source
from models.baselines import bicubic_flow
from models.checkpoint import load_network, shipped_weights, trained_flow
from models.inference import WINDOW, super_resolve
from utils.config import parse_config, run_script

DPI = 130
AROUND = 40  # LR pixels that the network sees beyond the crop on each side


@dataclass(frozen=True)
class Config:
    video: str  # footage of 8 bits, in colour
    out: str  # the picture
    start: int = 0  # frame that the window of four begins with
    left: int = 100  # LR pixels, of the crop
    top: int = 100  # LR pixels, of the crop
    side: int = 56  # LR pixels, of the crop
    time: int = 3  # output time that is shown, 0 to 6; odd ones are interpolated
    crf: int = 28  # of the H.264 of the second row


def main() -> None:
    config = parse_config(Config, __doc__, positional=("video", "out"))
    source = open_source(config.video)
    rows = slice(max(config.top - AROUND, 0), config.top + config.side + AROUND)
    columns = slice(max(config.left - AROUND, 0), config.left + config.side + AROUND)
    frames = range(config.start, config.start + 2 * WINDOW - 1)
    if not 0 <= config.start <= source.count - len(frames):
        raise ValueError(f"start is {config.start}; the window needs {len(frames)} frames from it")
    clip = np.stack([source.read(index)[rows, columns] for index in frames])
    if clip.dtype != np.uint8 or clip.shape[-1] != 3 or min(clip.shape[1:3]) < config.side:
        raise ValueError(f"{config.video}: {clip.dtype} of {clip.shape}; want 8 bits, RGB, a crop")
    codec = Degradation(codec="h264", strength=config.crf)
    sequences = {
        "as it is": clip[:WINDOW],
        f"H.264, CRF {config.crf}": codec.apply(clip, np.random.default_rng(0))[:WINDOW],
    }
    device = torch.device("cpu")
    panels = {}
    for footage, given in sequences.items():
        panels[f"bicubic + flow, {footage}"] = np.stack(list(bicubic_flow(given)))
        for name, real in (("clean", False), ("real", True)):
            network, information = load_network(shipped_weights(device, real))
            output = super_resolve(network, given, trained_flow(information))
            panels[f"{name} weights, {footage}"] = np.stack(list(output))
    top, left = 4 * (config.top - rows.start), 4 * (config.left - columns.start)
    figure = Figure(figsize=(11.4, 8.0), dpi=DPI, layout="constrained")
    for axes, (label, output) in zip(figure.subplots(2, 3).flat, panels.items(), strict=True):
        crop = output[config.time, top : top + 4 * config.side, left : left + 4 * config.side]
        axes.imshow(crop, interpolation="nearest")
        axes.set_title(label, fontsize=10)
        axes.set_axis_off()
    figure.savefig(Path(config.out))
    print(f"{config.out}: time {config.time} of the window from frame {config.start}")


if __name__ == "__main__":
    run_script(main)
