"""Which flow serves interpolation best, above all where traffic moves.

    python -m benchmarks.flow_methods DIR                      of the bicubic + flow skip
    python -m benchmarks.flow_methods DIR --checkpoint FILE    of a network, its own flow too

For every flow method it prints how good the frames of the test clips of DIR are (PSNR in dB, RGB,
no border cut; moving pixels as in utils/metrics.py) and the time as a ratio to that of "dis": of
the flow alone, or of the network and its flow. One process, one thread.
"""

import time
from dataclasses import dataclass
from unittest.mock import patch

import cv2
import numpy as np
import torch
from tqdm import tqdm

from data.clips import find_clips, read_clip
from flow import estimate_flow
from models import load_network, super_resolve
from models.blocks import bicubic_flow_baseline
from models.inference import ENHANCED
from utils.config import parse_config, run_script
from utils.metrics import clip_metrics, mean_metrics

METHODS = ("dis", "dis2x", "dis4x", "pyflow")


@dataclass(frozen=True)
class Config:
    data: str  # folder of test clips
    checkpoint: str | None = None  # the network that interpolates; none: bicubic + flow


@patch("flow.usable_cores", lambda: 1)
def main() -> None:
    config = parse_config(Config, __doc__, positional=("data",))
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    methods, network = METHODS, bicubic_flow_baseline
    if config.checkpoint:
        network, _ = load_network(config.checkpoint)
        methods = (*METHODS, ENHANCED)
    figures = {method: [] for method in methods}
    seconds = {method: [] for method in methods}
    for clip in tqdm(find_clips(config.data), unit="clip"):
        given, truth = read_clip(clip)
        for method in methods:
            start = time.perf_counter()
            output = np.stack(list(super_resolve(network, given, method)))
            if not config.checkpoint:
                start = time.perf_counter()
                estimate_flow(given, method)
            seconds[method].append(time.perf_counter() - start)
            figures[method].append(clip_metrics(output, truth))
    print(f"{'flow':<10}{'all':>8}{'interpolated':>14}{'moving':>8}{'time':>8}")
    for method in methods:
        mean = mean_metrics(figures[method])
        ratio = np.median(np.divide(seconds[method], seconds["dis"]))
        print(
            f"{method:<10}{mean['psnr_rgb']:8.2f}{mean['psnr_rgb_interpolated']:14.2f}"
            f"{mean['psnr_rgb_moving'] or float('nan'):8.2f}{ratio:7.1f}x"
        )


if __name__ == "__main__":
    run_script(main)
