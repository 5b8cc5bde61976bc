"""Which flow serves interpolation best, above all where traffic moves.

    python -m benchmarks.flow_methods DIR                      of the bicubic + flow skip
    python -m benchmarks.flow_methods DIR --checkpoint FILE    of a network, its own flow too

For every flow method it prints how good the frames of the test clips of DIR are (PSNR in dB, RGB,
no border cut; moving pixels as in utils/metrics.py) and the time as a ratio to that of "dis": of
the flow alone, or of the network and its flow. One process, one thread.
"""

from dataclasses import dataclass
from functools import partial
from unittest.mock import patch

import cv2
import torch

from benchmarks.sizes import jointly, quality
from benchmarks.timing import interleaved_medians
from data.clips import find_clips, read_clip
from flow import estimate_flow
from models import load_network
from models.blocks import bicubic_flow_baseline
from models.inference import ENHANCED
from models.weights import trained_window
from utils.config import parse_config, run_script

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
    network, options = bicubic_flow_baseline, {}
    given = read_clip(find_clips(config.data)[0])[0]
    calls = {method: partial(estimate_flow, given, method) for method in METHODS}
    if config.checkpoint:
        network, information = load_network(config.checkpoint)
        options, methods = {"window": trained_window(information)}, (*METHODS, ENHANCED)
        calls = {method: partial(jointly, network, method, given, **options) for method in methods}
    seconds = interleaved_medians(calls, 3)
    print(f"{'flow':<10}{'all':>8}{'interpolated':>14}{'moving':>8}{'time':>8}")
    for method in calls:
        mean = quality(partial(jointly, network, method, **options), config.data)
        ratio = seconds[method].wall / seconds["dis"].wall
        print(
            f"{method:<10}{mean['psnr_rgb']:8.2f}{mean['psnr_rgb_interpolated']:14.2f}"
            f"{mean['psnr_rgb_moving'] or float('nan'):8.2f}{ratio:7.1f}x",
            flush=True,
        )


if __name__ == "__main__":
    run_script(main)
