"""The two native operators side by side with the obvious formulation.

    python -m benchmarks.operators [--threads 1 --repeats 9]

Deformable convolution: the native CPU kernel against the fastest PyTorch formulation in
dcn/reference.py, 64 -> 64 channels, 3x3, 8 groups, float32. Aims on one thread: 2.5 times
faster forward and 3 times forward + backward at 1 x 64 x 160 x 160, 5 times at
4 x 64 x 160 x 160, a third of the memory.

Optical flow: PyFlow's method against OpenCV's DIS (medium preset, finest scale 0). Aims on one
thread: at most 8 times the time of DIS (the original PyFlow takes 31 to 35 times), and a mean
endpoint difference to the flows of the original of at most 0.001 px.

All ratios are those of medians over calls that take turns.
"""

import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch

from benchmarks.timing import (
    interleaved_medians,
    machine,
    mebibytes,
    peak_extra_memory,
    print_table,
)
from dcn import cpu
from dcn.reference import deform_conv2d_gather, deform_conv2d_grid_sample
from flow import PYFLOW_PARAMETERS, coarse2fine_flow, dis_flow
from utils.config import parse_config, run_script
from utils.machine import usable_cores


@dataclass(frozen=True)
class Config:
    threads: int = 1  # of PyTorch and of the native kernels
    repeats: int = 9  # calls per median
    side: int = 160  # of the maps that are convolved
    tiles: int = 4  # how often the largest pair of frames is repeated along each axis


# Pairs of images with the flows of the original PyFlow.
PYFLOW_REFERENCE = Path(__file__).parents[1] / "tests" / "data" / "pyflow_reference.npz"

GEOMETRY = {"stride": (1, 1), "padding": (1, 1), "dilation": (1, 1)}
FUNCTIONS = {
    "gather": deform_conv2d_gather,
    "grid_sample": deform_conv2d_grid_sample,
    "native": cpu.deform_conv2d,
}


def deformable_tensors(batch: int, size: int) -> list[torch.Tensor]:
    """Input, offsets of 1.5 pixels, weight, bias and mask of the network's layer."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(shape, generator=generator)

    return [
        normal(batch, 64, size, size),
        normal(batch, 144, size, size) * 1.5,
        normal(64, 64, 3, 3) / 24,
        normal(64),
        torch.sigmoid(normal(batch, 72, size, size)),
    ]


def deformable_calls(tensors: list[torch.Tensor], functions=FUNCTIONS) -> dict[str, dict]:
    """Pass -> name -> a call without arguments."""
    leaves = [tensor.clone().requires_grad_() for tensor in tensors]
    grad_output = torch.randn(tensors[0].shape, generator=torch.Generator().manual_seed(1))
    grad_output = grad_output.to(tensors[0].device)

    def forward(function, tensors=tensors) -> torch.Tensor:
        *tensors, mask = tensors
        return function(*tensors, mask=mask, **GEOMETRY)

    def both(function) -> None:
        torch.autograd.grad(forward(function, leaves), leaves, grad_output)

    return {
        name: {key: partial(call, function) for key, function in functions.items()}
        for name, call in (("forward", forward), ("forward + backward", both))
    }


def deformable_rows(config: Config) -> list[dict[str, str]]:
    """The table of deformable convolution, against the faster of the two formulations."""
    rows = []
    for batch in (1, 4):
        for name, calls in deformable_calls(deformable_tensors(batch, config.side)).items():
            once = interleaved_medians(calls, 1)
            plain = min(("gather", "grid_sample"), key=lambda key: once[key].processor)
            pair = [calls[plain], calls["native"]]
            seconds = interleaved_medians(dict(enumerate(pair)), config.repeats)
            memory = [peak_extra_memory(call) for call in pair]
            less = "-" if None in memory else f"{memory[0] / max(memory[1], 1):.1f}"
            rows.append(
                {
                    "input": f"{batch} x 64 x {config.side} x {config.side}",
                    "pass": name,
                    "against": plain,
                    "plain": f"{seconds[0].wall * 1e3:.0f} ms",
                    "native": f"{seconds[1].wall * 1e3:.0f} ms",
                    "times faster": f"{seconds[0].wall / seconds[1].wall:.1f}",
                    "in processor time": f"{seconds[0].processor / seconds[1].processor:.1f}",
                    "memory plain": mebibytes(memory[0]),
                    "memory native": mebibytes(memory[1]),
                    "times less": less,
                }
            )
    return rows


def flow_rows(config: Config) -> list[dict[str, str]]:
    """The table of PyFlow's method, against OpenCV's DIS with the same number of threads."""
    recorded = np.load(PYFLOW_REFERENCE)
    rows = []
    for name in ("rgb_80", "rgb_odd", "large_motion", "rgb_160"):
        pair = np.stack([recorded[f"{name}_im1"], recorded[f"{name}_im2"]])
        u, v, _ = coarse2fine_flow(*(pair / 255), *PYFLOW_PARAMETERS)
        difference = np.linalg.norm(np.dstack([u, v]) - recorded[f"{name}_flow"], axis=-1).mean()
        row = flow_row(f"1 pair, {name}", [pair], 1, config.repeats)
        rows.append(row | {"difference to PyFlow": f"{difference:.1e} px"})
    tiled = np.tile(pair, (1, config.tiles, config.tiles, 1))
    rows.append(flow_row("1 pair", [tiled], 1, config.repeats))
    sample = [np.stack([recorded["rgb_80_im1"], recorded["rgb_80_im2"]])] * 6
    for threads in sorted({1, usable_cores()}):
        rows.append(flow_row("6 pairs, rgb_80", sample, threads, config.repeats))
    return rows


def flow_row(title: str, pairs: list[np.ndarray], threads: int, repeats: int) -> dict[str, str]:
    """DIS and PyFlow's method on pairs, each (2, H, W, 3) uint8."""

    def pyflow(pair: np.ndarray) -> tuple[np.ndarray, ...]:
        return coarse2fine_flow(*pair, *PYFLOW_PARAMETERS)

    dis = dis_flow()
    cv2.setNumThreads(threads)
    grey = [[cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in pair] for pair in pairs]
    colour = [pair / 255 for pair in pairs]
    with ThreadPoolExecutor(threads) as pool:
        calls = {
            "DIS": lambda: [dis.calc(*pair, None) for pair in grey],
            "PyFlow method": lambda: list(pool.map(pyflow, colour)),
        }
        seconds = interleaved_medians(calls, repeats)
    dis_time, time = seconds["DIS"], seconds["PyFlow method"]
    return {
        "input": title,
        "size": "{} x {}".format(*pairs[0].shape[1:3]),
        "threads": str(threads),
        **{name: f"{value.wall * 1e3:.1f} ms" for name, value in seconds.items()},
        "times DIS": f"{time.wall / dis_time.wall:.1f}",
        "in processor time": f"{time.processor / dis_time.processor:.1f}",
        "difference to PyFlow": "",
    }


def seconds_of_use(cache: str) -> float:
    """Seconds that a new process takes to get the native kernel, with this cache folder."""
    code = (
        "import time; from dcn import cpu; start = time.perf_counter(); cpu.library();"
        "print(time.perf_counter() - start)"
    )
    variables = os.environ | {"XDG_CACHE_HOME": cache, "LOCALAPPDATA": cache}
    return float(subprocess.check_output([sys.executable, "-c", code], env=variables, text=True))


def main() -> None:
    config = parse_config(Config, __doc__)
    torch.set_num_threads(config.threads)
    print(f"{machine()}\nthreads: {config.threads}, medians of {config.repeats}")
    print_table(
        "Deformable convolution (64 -> 64, 3x3, 8 groups, float32)", deformable_rows(config)
    )
    with tempfile.TemporaryDirectory() as cache:
        first, second = seconds_of_use(cache), seconds_of_use(cache)
    print(f"\nFirst use, with compiling: {first:.1f} s; second use: {second:.3f} s")
    print_table("Optical flow by PyFlow's method", flow_rows(config))


if __name__ == "__main__":
    run_script(main)
