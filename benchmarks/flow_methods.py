"""Which flow serves interpolation best, above all where traffic moves.

    python -m benchmarks.flow_methods DIR

For every flow method: the bicubic + flow skip of the network on the test clips of DIR (PSNR in dB,
RGB, no border cut; moving pixels as in utils/metrics.py), and the time of the flow per LR pixel,
as a ratio to "dis", in one process on one thread.
"""

import time
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from tqdm import tqdm

from data.clips import find_clips, read_clip
from flow import estimate_flow
from models.blocks import bicubic_flow_baseline
from models.inference import super_resolve
from utils.config import parse_config, run_script
from utils.metrics import clip_metrics, mean_metrics

METHODS = ("dis", "dis2x", "dis4x", "pyflow")


@dataclass(frozen=True)
class Config:
    data: str  # folder of test clips


def flow_seconds(given: np.ndarray, method: str) -> float:
    """Seconds per LR pixel and pair of frames."""
    start = time.perf_counter()
    estimate_flow(given, method, threads=1)
    pairs = 2 * (len(given) - 1)
    return (time.perf_counter() - start) / (pairs * given.shape[1] * given.shape[2])


def main() -> None:
    config = parse_config(Config, __doc__, positional=("data",))
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    figures = {method: [] for method in METHODS}
    seconds = {method: [] for method in METHODS}
    for clip in tqdm(find_clips(config.data), unit="clip"):
        given, truth = read_clip(clip)
        for method in METHODS:
            output = np.stack(list(super_resolve(bicubic_flow_baseline, given, method)))
            figures[method].append(clip_metrics(output, truth))
            seconds[method] += [flow_seconds(given, method) for _ in range(3)]
    print(f"{'flow':<10}{'all':>8}{'interpolated':>14}{'moving':>8}{'time':>8}")
    for method in METHODS:
        mean = mean_metrics(figures[method])
        ratio = np.median(np.divide(seconds[method], seconds["dis"]))
        print(
            f"{method:<10}{mean['psnr_rgb']:8.2f}{mean['psnr_rgb_interpolated']:14.2f}"
            f"{mean['psnr_rgb_moving'] or float('nan'):8.2f}{ratio:7.1f}x"
        )


if __name__ == "__main__":
    run_script(main)
