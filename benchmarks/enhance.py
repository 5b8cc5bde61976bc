"""Memory and speed of enhance.py, and whether interruptions change its result.

    python -m benchmarks.enhance memory     peak memory of square frames, and what the plan says
    python -m benchmarks.enhance pipeline   where the time of a clip goes, stage by stage
    python -m benchmarks.enhance interrupt  Ctrl-C and SIGKILL at random moments, then --resume

Every run but that of `pipeline` is a process of its own, whose peak resident memory the system
counts. Weights are random unless --model names some: they change neither memory nor speed.
"""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from unittest.mock import patch

import numpy as np
import torch

import enhance
from benchmarks.inference import network_of
from benchmarks.timing import Stopwatch
from data import lists
from enhancement import enhancer, tiling
from media.folder import ImageSink
from media.open import open_source
from models import SIZES
from models.blocks import SCALE
from models.checkpoint import load_network, save_network
from models.enhanced_flow import EnhancedFlow
from models.inference import autocast, windows, with_flow
from models.weights import trained_window
from utils.config import parse_config, run_script
from utils.images import to_tensor
from utils.resize import imresize

ENHANCE = Path(__file__).parent.parent / "enhance.py"


@dataclass(frozen=True)
class Config:
    what: Literal["memory", "pipeline", "interrupt"]  # of the above
    model: str = "none"  # a checkpoint; none: random weights, of all sizes
    sides: str = "80,160,240,320"  # of the frames in `memory`, LR pixels
    clip: str = "25x256x256"  # frames, width and height in `pipeline`
    flow_method: str = "dis"  # method of the optical flow, see flow/
    precision: str = "float32"  # float32, bfloat16 or auto
    interruptions: int = 10  # of each kind of output in `interrupt`
    seed: int = 1  # of their moments


def main() -> None:
    config = parse_config(Config, __doc__, positional=("what",))
    with tempfile.TemporaryDirectory() as folder:
        BENCHMARKS[config.what](config, Path(folder))


def checkpoints(config: Config, folder: Path) -> dict[str, Path]:
    """The networks to measure: the user's, or random ones of all sizes."""
    if config.model != "none":
        return {Path(config.model).stem: Path(config.model)}
    paths = {size: folder / f"{size}.safetensors" for size in SIZES}
    for size, path in paths.items():
        save_network(path, network_of(size), {})
    return paths


def write_clip(folder: Path, count: int, height: int, width: int) -> Path:
    """Frames of smooth noise that drifts by a pixel per frame."""
    rng = np.random.default_rng(0)
    ground = rng.integers(0, 256, (height // 4 + 2, (width + count) // 4 + 2, 3), np.uint8)
    ground = imresize(ground, SCALE)
    lists.write_clip(folder, (ground[:height, i : i + width] for i in range(count)), test=True)
    return folder


def measure(source: Path, output: Path, model: Path, config: Config, *flags) -> tuple[float, float]:
    """Run enhance.py; returns its seconds and peak resident GiB."""
    command = command_of(source, output, model, config, *flags)
    start, quiet = time.perf_counter(), {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command, text=True, **quiet)
    problems = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise ValueError(f"{' '.join(command)} failed: {problems[-300:]}")
    kibibytes = usage.ru_maxrss if sys.platform != "darwin" else usage.ru_maxrss / 1024
    return time.perf_counter() - start, kibibytes / 2**20


def command_of(source: Path, output: Path, model: Path, config: Config, *flags) -> list[str]:
    fixed = ["--model", model, "--flow-method", config.flow_method, "--precision", config.precision]
    fixed += ["--device", "cpu", *flags]
    return list(map(str, [sys.executable, ENHANCE, source, output, *fixed]))


def memory(config: Config, folder: Path) -> None:
    """Peak memory of enhance.py on a window of square frames of one tile, and the plan for it."""
    print("network   side  peak MiB  bytes/LR pixel above the smallest  planned MiB")
    sides = [int(side) for side in config.sides.split(",")]
    for name, model in checkpoints(config, folder).items():
        network, information = load_network(model)
        window, least = trained_window(information), None
        for side in sides:
            clip = write_clip(folder / f"clip_{name}{side}", window, side, side)
            _, peak = measure(clip, folder / f"{name}{side}", model, config, "--tile", 100_000)
            least = least or peak
            growth = (peak - least) * 2**30 / max(side**2 - sides[0] ** 2, 1)
            planned = tiling.network_bytes(side, network.options, window)
            planned += tiling.blending_bytes(side, side, side, 32, frames=window)
            print(
                f"{name:8}  {side:4}  {peak * 1024:8.0f}  {growth:34.0f}  {planned / 2**20:11.0f}",
                flush=True,
            )


# What `pipeline` times; an indented stage is part of the one above.
STAGES = {
    "whole": (enhancer.Enhancer, "run"),
    "reading": (enhancer.Enhancer, "read_windows"),
    "  flow": (enhancer, "window_flow"),
    "network": (enhancer.Enhancer, "enhance_window"),
    "  own flow": (EnhancedFlow, "between_enlarged"),
    "  keeping": (enhancer.WindowBuffer, "append"),
    "writing": (ImageSink, "write"),
}


def pipeline(config: Config, folder: Path) -> None:
    """Reading, network and writing of one clip, how long each waits, and the network by itself.

    Flow between given frames is found while reading, beside the network; its own flow within it.
    Aim: the whole at most 1.25 times the network.
    """
    count, width, height = map(int, config.clip.split("x"))
    clip = write_clip(folder / "clip", count, height, width)
    frames = to_tensor(np.stack([open_source(clip).read(index) for index in range(count)]))
    megapixels = (2 * count - 1) * SCALE**2 * width * height / 1e6
    for name, model in checkpoints(config, folder).items():
        watch = Stopwatch(time.perf_counter)
        with contextlib.ExitStack() as stack:
            for stage, (owner, attribute) in STAGES.items():
                count_time = watch.items if stage == "reading" else watch.call
                timed = count_time(stage, getattr(owner, attribute))
                stack.enter_context(patch.object(owner, attribute, timed))
            enhance.main(command_of(clip, folder / name, model, config)[2:])
        watch.call("network alone", run_alone)(*load_network(model), frames, config)
        whole, by_itself = watch.seconds["whole"], watch.seconds["network alone"]
        print(f"{name}, {count} frames of {width}x{height}: stage, seconds, waiting")
        for stage in [stage for stage in STAGES if stage != "whole"]:
            busy = watch.seconds[stage]
            waiting = "" if stage.startswith(" ") else f"{whole - busy:8.1f}"
            print(f"  {stage:12} {busy:8.1f} {waiting}")
        for title, seconds in (("whole", whole), ("network alone", by_itself)):
            print(f"  {title:13} {seconds:7.1f}  {megapixels / seconds:.2f} MP/s")
        print(f"  the whole takes {whole / by_itself:.2f} times the network alone", flush=True)


def run_alone(network, information: dict, frames: torch.Tensor, config: Config) -> None:
    """All windows of a clip, without motion unless the flow is the network's own; nothing kept."""
    network, device = with_flow(network, config.flow_method), torch.device("cpu")
    with torch.no_grad(), autocast(device, config.precision):
        for start, stop, _ in windows(len(frames), trained_window(information)):
            given = frames[None, start:stop]
            none = given.new_zeros(1, stop - start - 1, 2, *given.shape[-2:])
            network(given, none, none)


def interrupt(config: Config, folder: Path) -> None:
    """Frames and a video, interrupted at random moments: the same bytes as in one go?"""
    _, model = list(checkpoints(config, folder).items())[-1]
    clip, rng = write_clip(folder / "clip", 13, 96, 96), random.Random(config.seed)
    for name in ("frames", "video.mp4"):
        whole, output, done = folder / f"whole_{name}", folder / name, Counter()
        seconds, _ = measure(clip, whole, model, config)
        while True:
            enough = done["SIGINT"] + done["SIGKILL"] >= config.interruptions
            command = command_of(clip, output, model, config, "--resume")
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            try:
                _, log = process.communicate(
                    timeout=None if enough else rng.uniform(0.2, 1) * seconds
                )
            except subprocess.TimeoutExpired:
                kind = rng.choice((signal.SIGINT, signal.SIGKILL))
                process.send_signal(kind)
                process.communicate()
                done[kind.name] += 1
                if not output.exists():  # it may have come just after the end
                    continue
            else:
                if process.returncode:
                    raise ValueError(f"{name} failed after {dict(done)}: {log.decode()[-300:]}")
            if content(output) != content(whole):
                raise ValueError(f"{name} differs after {dict(done)}")
            done["complete results"] += 1
            if enough:
                break
            shutil.rmtree(output) if output.is_dir() else output.unlink()
        print(f"{name}: {dict(done)}, every result equal to the byte", flush=True)


def content(output: Path) -> list[tuple[str, bytes]]:
    """Names and bytes of a file, or of the files in a folder."""
    files = sorted(output.iterdir()) if output.is_dir() else [output]
    return [(file.name if output.is_dir() else "", file.read_bytes()) for file in files]


BENCHMARKS = {f.__name__: f for f in (memory, pipeline, interrupt)}


if __name__ == "__main__":
    run_script(main)
