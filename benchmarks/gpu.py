"""One command for a new GPU machine: is all well, how fast is it, and a training for what is left.

    python -m benchmarks.gpu STILLS TESTSET OUT --minutes 9
    python -m benchmarks.gpu STILLS TESTSET OUT --rehearse      the same on a CPU, tiny, in minutes

STILLS is a folder of stills to train on, TESTSET one of test clips, OUT an empty or new folder.
Each part is a process of its own with a time of its own, so that none holds up or ends the others;
what it prints goes into OUT/PART.txt, and report.json says how each of them ended. In order:

    versions    device, driver, packages
    tests       tests/test_cuda.py
    operators   deformable convolution by every backend
    inference   four frames to seven, by size and precision
    steps       samples per second of a training step by batch, and the largest kernels
    training    main.py, default size, for the time that is left; OUT/run, best weights in half
                precision as OUT/best.safetensors, the whole state in parts in OUT/state
    evaluation  test.py with these weights on TESTSET

With too little time the tables are left out first and the training last. No file passes 16 MiB.
"""

import contextlib
import itertools
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.benchmark import Timer

from benchmarks.inference import SHIPPED_OPTIONS, TRAINED_OPTIONS, call, random_window
from benchmarks.operators import deformable_calls, deformable_tensors
from benchmarks.timing import commit, machine, print_table
from dcn import deform_conv2d
from dcn.deform_conv import BACKEND_VARIABLE, BACKENDS, _problem
from models import SIZES, build_network
from models.inference import autocast, pick_precision
from training import slim
from training.loop import Ema, charbonnier
from training.optimiser import Optimiser
from utils.config import parse_config, run_script

ROOT = Path(__file__).resolve().parents[1]
LARGEST_FILE = 16 * 2**20  # bytes; passes where the size of files is limited
CLOSING = 20.0  # seconds kept for the export and the report
NETWORKS = SHIPPED_OPTIONS | {"mstt": TRAINED_OPTIONS}  # that a GPU meets
# Part -> seconds that it may take, and in a rehearsal.
LIMITS = {"versions": (20, 20), "tests": (90, 120), "operators": (40, 60), "inference": (60, 60)}
LIMITS |= {"steps": (60, 60), "evaluation": (60, 60)}
TABLES = ("steps", "inference", "operators", "tests")  # in the order in which they are left out
TINY = "--patch 16 --given-frames 2 --workers 0 --steps 2"  # of the training in a rehearsal
LEAST_TRAINING = 120.0  # seconds, before anything is left out


@dataclass(frozen=True)
class Config:
    stills: str  # folder of stills to train on
    testset: str  # folder of test clips
    out: str  # folder for the results
    minutes: float = 9.0  # for everything together
    size: Literal[*SIZES] = "mstt"  # of the network that is trained
    flow_method: str = "dis2x"  # of the training
    validation: str = "auto"  # clips to choose the best on; auto: see main.py, may take a minute
    rehearse: bool = False  # on a CPU, with tiny settings
    part: Literal["all", "versions", "operators", "inference", "steps"] = "all"  # or one alone

    def __post_init__(self):
        if not self.minutes > 0:
            raise ValueError(f"minutes is {self.minutes}; it must be above 0")


def seconds_of(run: Callable[[], object], repeats: int) -> float:
    """Seconds of a call, the mean of several after two that are not counted."""
    timer = Timer("run()", globals={"run": run}, num_threads=torch.get_num_threads())
    return timer.timeit(repeats).mean


def versions(config: Config, device: torch.device) -> None:
    """What this machine is."""
    print(f"{machine()}, commit {commit()}")
    for name in ("torchvision", "triton", "numpy", "cv2"):
        try:
            print(name, __import__(name).__version__)
        except Exception as error:  # a build that does not fit raises anything
            print(f"{name}: {type(error).__name__}: {error}")
    for name in BACKENDS:
        print(f"deformable convolution by {name}: {_problem(name, device.type) or 'usable'}")
    if device.type == "cuda":
        print(torch.cuda.get_device_properties(device), f"CUDA {torch.version.cuda}")
        subprocess.run(["nvidia-smi"], check=False)


def operators(config: Config, device: torch.device) -> None:
    """Deformable convolution, 64 channels in 8 groups, forward and with gradients."""
    sizes = [(1, 16)] if config.rehearse else [(1, 80), (4, 80), (16, 80), (4, 160)]
    repeats = 2 if config.rehearse else 10
    usable = [name for name in BACKENDS if not _problem(name, device.type)]
    usable.sort(key="triton".__eq__)  # last: a fault in a kernel ends the use of the GPU
    rows = []
    for name, (batch, side) in itertools.product(usable, sizes):
        os.environ[BACKEND_VARIABLE] = name
        row = {"input": f"{batch} x 64 x {side} x {side}", "backend": name}
        rows.append(row | {"forward": "failed", "forward + backward": "failed"})
        try:
            tensors = [x.to(device) for x in deformable_tensors(batch, side)]
            for key, calls in deformable_calls(tensors, {name: deform_conv2d}).items():
                rows[-1][key] = f"{seconds_of(calls[name], repeats) * 1e3:.2f} ms"
        except Exception as error:  # a kernel or compiler that does not fit raises anything
            print(f"{name}, {row['input']}: {type(error).__name__}: {error}")
    print_table("deformable convolution, float32", rows)


def inference(config: Config, device: torch.device) -> None:
    """Four frames to seven, flow given."""
    rows = []
    for size in ("fast",) if config.rehearse else SIZES:
        network = build_network(size, **NETWORKS[size]).eval()
        network = network.to(device, memory_format=torch.channels_last)
        for side in (16,) if config.rehearse else (160, 320):
            inputs = [x.to(device) for x in random_window(side)]
            # What there is: bfloat16 is slow where a CPU has to imitate it.
            for precision in dict.fromkeys((torch.float32, pick_precision(device, "auto"))):
                try:
                    run = call(network, inputs, precision, device)
                    milliseconds = f"{seconds_of(run, 2 if config.rehearse else 10) * 1e3:.1f}"
                except torch.OutOfMemoryError:
                    milliseconds = "out of memory"
                row = {"network": size, "frames": f"4 x {side} x {side}"}
                row |= {"precision": str(precision).removeprefix("torch.")}
                rows.append(row | {"milliseconds": milliseconds})
                print(*rows[-1].values(), flush=True)  # should the time not suffice for all
    print_table("4 frames in, 7 frames of 4 times the side out", rows)


def steps(config: Config, device: torch.device) -> None:
    """Training steps without the loader, and where the time of one goes."""
    side, rows, fits = (16 if config.rehearse else 80), [], 1
    torch.backends.cudnn.benchmark = True  # as in main.py
    for batch in (1,) if config.rehearse else (1, 4, 8, 16, 32):
        try:
            step = make_step(config, device, batch, side)
            seconds = seconds_of(step, 1 if config.rehearse else 8)
        except torch.OutOfMemoryError:
            rows.append({"batch": str(batch), "samples per second": "out of memory", "memory": ""})
            break
        fits = batch
        memory = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else 0.0
        rows.append(
            {"batch": str(batch), "samples per second": f"{batch / seconds:.1f}"}
            | {"memory": f"{memory:.1f} GiB"}
        )
        print(*rows[-1].values(), flush=True)
    print_table(f"training steps, {config.size}, 4 given frames of {side}x{side}", rows)
    step = make_step(config, device, min(fits, 16), side)
    step()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        for _ in range(1 if config.rehearse else 5):
            step()
    order = "self_cuda_time_total" if device.type == "cuda" else "self_cpu_time_total"
    print(profiler.key_averages().table(sort_by=order, row_limit=30, max_name_column_width=60))


def make_step(config: Config, device: torch.device, batch: int, side: int) -> Callable[[], None]:
    """A function that takes a training step on random frames."""
    network = build_network(config.size, **NETWORKS[config.size]).train()
    network = network.to(device, memory_format=torch.channels_last)
    optimiser, ema = Optimiser(network, "muon", 8e-4, 1e-2, 0.1), Ema(network, 0.999)
    inputs = [x.to(device) for x in random_window(side, batch=batch)]
    truth = torch.rand(batch, 7, 3, 4 * side, 4 * side, device=device)

    def step() -> None:
        with autocast(device):
            loss = charbonnier(network(*inputs), truth)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 0.5)
        optimiser.step()
        ema.update(network, 1)

    return step


HERE = {f.__name__: f for f in (versions, operators, inference, steps)}


class Run:
    """The parts, one after the other, and the report of how each of them ended."""

    def __init__(self, config: Config, device: torch.device):
        self.config, self.device, self.out = config, device, Path(config.out)
        self.end = time.monotonic() + 60 * config.minutes
        self.report: dict[str, dict] = {}

    @property
    def left(self) -> float:
        """Seconds until everything has to be over."""
        return self.end - time.monotonic()

    def command(self, name: str) -> list[str]:
        """How a part is started."""
        config, python, device = self.config, sys.executable, f"--device={self.device.type}"
        if name == "tests":
            return [python, "-m", "pytest", "-vv", "--tb=short", "tests/test_cuda.py"]
        if name == "training":
            seconds = self.left - CLOSING - LIMITS["evaluation"][config.rehearse]
            flags = ["--stills", config.stills, "--validation", config.validation, device]
            flags += ["--run", str(self.out / "run"), "--size", config.size]
            flags += ["--flow-method", config.flow_method, f"--minutes={max(seconds, 5.0) / 60}"]
            return [python, "main.py", *flags, *TINY.split() * config.rehearse]
        if name == "evaluation":
            flags = ["--data", config.testset, "--out", str(self.out / "results")]
            flags += ["--checkpoint", str(self.out / "best.safetensors"), device]
            return [python, "test.py", *flags, "--no-save-frames", "--no-figures"]
        flags = [config.stills, config.testset, config.out, "--part", name, "--size", config.size]
        return [python, "-m", "benchmarks.gpu", *flags, *["--rehearse"] * config.rehearse]

    def do(self, name: str, limit: float) -> None:
        """Run a part for at most so many seconds, and write down how it ended."""
        start = time.monotonic()
        # What is stopped has printed what it knew by then.
        environment = os.environ | {"MSTT_TEST_DEVICE": self.device.type, "PYTHONUNBUFFERED": "1"}
        outcome = f"stopped after {limit:.0f} s"
        try:
            with open(self.out / f"{name}.txt", "w", encoding="utf-8") as file:
                streams = {"stdin": subprocess.DEVNULL, "stdout": file, "stderr": subprocess.STDOUT}
                process = subprocess.Popen(self.command(name), cwd=ROOT, env=environment, **streams)
                try:
                    outcome = f"status {process.wait(timeout=max(limit, 1))}"
                except subprocess.TimeoutExpired:
                    process.terminate()  # main.py saves
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(timeout=10)
                    process.kill()  # where that did not end it
        except OSError as error:
            outcome = f"{type(error).__name__}: {error}"
        self.note(name, outcome, time.monotonic() - start)

    def note(self, name: str, outcome: str, seconds: float = 0.0) -> None:
        """Put a line into report.json; a full disk is said and ends nothing."""
        self.report[name] = {"outcome": outcome, "seconds": round(seconds, 1)}
        print(f"{name:<11} {outcome}, {seconds:.0f} s; {max(self.left, 0):.0f} s left", flush=True)
        try:
            (self.out / "report.json").write_text(json.dumps(self.report, indent=2) + "\n")
        except OSError as error:
            print(f"the report cannot be written: {error}", flush=True)

    def export(self) -> None:
        """What is worth taking along, in files that pass everywhere."""
        run = self.out / "run"
        try:
            for name in ("best.safetensors", "best.json", "log.jsonl"):
                if (run / name).is_file():
                    shutil.copy(run / name, self.out)
            if (run / "last.pt").is_file():
                slim.pack(run / "last.pt", self.out / "state", LARGEST_FILE - 2**20)
            shutil.rmtree(run, ignore_errors=True)
            large = [p for p in self.out.rglob("*") if p.stat().st_size > LARGEST_FILE]
            names = ", ".join(path.name for path in large)
            self.note("export", f"over 16 MiB: {names}" if large else "status 0")
        except (OSError, ValueError) as error:
            self.note("export", f"{type(error).__name__}: {error}")

    def everything(self) -> None:
        """All parts, as far as the time goes."""
        limits = {name: pair[self.config.rehearse] for name, pair in LIMITS.items()}
        for name in TABLES:
            if sum(limits.values()) + LEAST_TRAINING + CLOSING > self.left:
                limits.pop(name)
                self.note(name, "left out for lack of time")
        for name in [name for name in limits if name != "evaluation"]:
            self.do(name, limits[name])
        self.do("training", self.left - CLOSING - limits["evaluation"] / 2)
        self.export()
        if (self.out / "best.safetensors").is_file():
            self.do("evaluation", self.left - CLOSING / 2)


def main() -> None:
    config = parse_config(Config, __doc__, positional=("stills", "testset", "out"))
    if not (config.rehearse or torch.cuda.is_available()):
        raise ValueError("no GPU here; --rehearse does everything on a CPU, tiny")
    device = torch.device("cpu" if config.rehearse else "cuda")
    if config.part != "all":
        return HERE[config.part](config, device)
    for folder in (config.stills, config.testset):
        if not Path(folder).is_dir():
            raise FileNotFoundError(f"{folder} is not a folder")
    out = Path(config.out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} is there already and not empty; give a new folder")
    out.mkdir(parents=True, exist_ok=True)
    Run(config, device).everything()


if __name__ == "__main__":
    run_script(main)
