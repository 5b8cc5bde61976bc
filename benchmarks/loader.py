"""Samples per second of the stills dataset: one process, one thread, and where the time goes.

    python -m benchmarks.loader STILLS [--patch 80 --samples 200 --flow-method dis]
    python -m benchmarks.loader STILLS --degrade real         what degrading costs

STILLS is any folder of stills; the time hardly depends on what they show, only on how many are
reduced. Wall time suffers when other programs run, processor time hardly does; both are printed,
and the stages in processor time. Aim: 50 samples per second and core at patch 80 with DIS flow;
one server core gave 36, a third of its time in the flow and a quarter in the warps.
"""

import time
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
import torch

from benchmarks.timing import Stopwatch, timed
from data import animation, degrade, flow_cache, look, traffic
from data.animation import StillsDataset
from data.degrade import DRAWS
from utils.config import parse_config, run_script


@dataclass(frozen=True)
class Config:
    stills: str  # folder of stills
    patch: int = 80  # side of the given frames in pixels
    samples: int = 200  # samples to time
    flow_method: str = "dis"  # one of flow.FLOW_METHODS
    degrade: Literal[*DRAWS] = "none"  # what the given frames went through


STAGES = {
    "tone": (look, "tone"),
    "blur": (look, "blur"),
    "camera (7 bicubic warps)": (cv2, "warpAffine"),
    "traffic: roads and vehicles": (traffic, "plan_vehicles"),
    "traffic: drawing": (traffic, "draw_vehicles"),
    "brightness, to 8 bits": (cv2, "addWeighted"),
    "reduction by 4": (degrade, "imresize"),
    "blur, noise, codecs": (degrade.Degradation, "apply"),
    "flow (6 pairs)": (flow_cache, "estimate_flow"),
    "to tensors": (animation, "to_tensor"),
}


def main() -> None:
    config = parse_config(Config, __doc__, positional=("stills",))
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    dataset = StillsDataset(config.stills, config.patch, config.flow_method, degrade=config.degrade)
    order = np.random.default_rng(0).integers(len(dataset), size=config.samples).tolist()
    for index in order[:10]:
        dataset[index]
    stopwatch = Stopwatch(time.thread_time)
    for name, (module, attribute) in STAGES.items():  # each adds its processor time
        setattr(module, attribute, stopwatch.call(name, getattr(module, attribute)))

    def load_all() -> None:
        for index in order:
            dataset[(1, index)]

    wall = timed(stopwatch.call("all", load_all)).wall
    spent = stopwatch.seconds
    processor = spent.pop("all")
    count = config.samples
    print(f"{count} samples, patch {config.patch}, one thread")
    print(f"  flow {config.flow_method}, degrade {config.degrade}")
    print(f"  {count / wall:6.1f} samples per second of wall time")
    print(f"  {count / processor:6.1f} samples per second of processor time")
    for name in STAGES:
        print(f"  {spent[name] / count * 1e3:6.2f} ms  {name}")
    print(f"  {(processor - sum(spent.values())) / count * 1e3:6.2f} ms  everything else")


if __name__ == "__main__":
    run_script(main)
