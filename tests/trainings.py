"""Trainings as processes of their own, on clips of 80 pixels with a network of a few channels.

They are forked from a server that has imported PyTorch, which starts them in a fraction of a
second; the server itself never computes.
"""

import contextlib
import itertools
import multiprocessing
import os
import socket
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import torch

import main
import training.sources as main_sources
import utils.files
from media.images import write_image
from models.mstt import SIZES
from utils.config import run_script

ROOT = Path(__file__).resolve().parent.parent
TINY = ["--patch", "16", "--size", "small", "--given-frames", "2", "--flow-method", "dis"]
TINY += ["--log-every", "1", "--warmup", "2", "--precision", "float32", "--data-root", "septuplets"]
TINY += ["--validation", "clips", "--device", "cpu", "--workers", "0"]
FEW_CHANNELS = {"channels": 8, "groups": 2, "front_blocks": 1, "back_blocks": 1}
LABELS = itertools.count()  # what processes print goes to a file of their own
SECONDS = 120  # that anything here may take on a busy machine


def write_clip(folder, seed, names):
    """Seven frames of a smooth texture that drifts."""
    texture = np.random.default_rng(seed).integers(0, 256, (110, 110, 3), dtype=np.uint8)
    texture = cv2.GaussianBlur(texture, (0, 0), 1.5)
    folder.mkdir(parents=True)
    for shift, name in enumerate(names):
        write_image(folder / name, texture[:80, shift : shift + 80])


def write_data(folder):
    """Three septuplets for training and three clips for validation."""
    for seed in range(3):
        names = [f"im{number}.png" for number in range(1, 8)]
        write_clip(folder / "septuplets" / "train" / f"clip {seed}", seed, names)
        names = [f"{number:08d}.png" for number in range(7)]
        write_clip(folder / "clips" / f"clip {seed}" / "truth", 9 + seed, names)


def same_state(first, second):
    """Whether two nested states of tensors are equal to the last bit."""
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same_state(first[k], second[k]) for k in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same_state, first, second))
    return first == second


def same_training(first, second):
    """Whether two training states hold the same run, whatever folder and workers it had."""
    parts = ("step", "network", "ema", "optimiser", "random", "best_score", "skipped")
    return all(same_state(first[part], second[part]) for part in parts)


def wait_for(condition, what):
    """Wait until condition() is true and return its value."""
    end = time.monotonic() + SECONDS
    while not (value := condition()):
        assert time.monotonic() < end, f"waited {SECONDS} s for {what}"
        time.sleep(0.005)
    return value


def nan_in_second_rank(step):
    """Let the loss of the process of rank 1 be no number from a step on."""
    calls, charbonnier = iter(range(10**9)), main.charbonnier
    guilty = os.environ.get("RANK", "1") == "1"

    def loss(*arguments):
        value = charbonnier(*arguments)
        return value * float("nan") if next(calls) == step and guilty else value

    main.charbonnier = loss


def slow_saves():
    """Stretch the moment in which a checkpoint is complete but not yet in its place."""
    replace = os.replace

    def slowly(source, target):
        time.sleep(0.2)
        replace(source, target)

    utils.files.os = type("SlowOs", (), {**vars(os), "replace": staticmethod(slowly)})


def slow_samples(seconds, rank="0", epoch=0):
    """Let every sample of the process of one rank take this long, from an epoch on."""
    load = main_sources.SeptupletDataset.__getitem__

    def slowly(dataset, key):
        time.sleep(seconds if key[0] >= epoch else 0)
        return load(dataset, key)

    if os.environ.get("RANK", "0") == rank:
        main_sources.SeptupletDataset.__getitem__ = slowly


def own_group():
    """Let the process and its loader workers be a process group, as under torchrun and systemd."""
    os.setpgrp()


def small_files(size):
    """Let no file grow beyond a size, as on a full disk."""
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def _train(folder, label, flags, environment, tricks):
    os.chdir(folder)
    os.environ.update(environment)
    # Loader workers are forked, as they are where python starts main.py.
    multiprocessing.set_start_method("fork", force=True)
    torch.set_num_threads(1)
    SIZES["small"] = FEW_CHANNELS
    for trick, *arguments in tricks:
        trick(*arguments)
    sys.argv = ["main.py", *TINY, *flags]
    with contextlib.ExitStack() as stack:
        out, err = (stack.enter_context(open(f"{name}-{label}", "w")) for name in ("out", "err"))
        stack.enter_context(contextlib.redirect_stdout(out))
        stack.enter_context(contextlib.redirect_stderr(err))
        run_script(main.main)


class Training:
    """main.py in a process of its own.

    Arguments:
        folder: where it runs, beside the data.
        flags: besides TINY.
        rank, world, port: its place among several processes.
        environment: variables to set.
        tricks: functions above with their arguments, called before it.
    """

    def __init__(self, folder, *flags, rank=0, world=1, port=0, environment=(), tricks=()):
        environment = dict(environment)
        if world > 1:
            environment |= {"RANK": rank, "WORLD_SIZE": world, "LOCAL_RANK": rank}
            environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        environment = {name: str(value) for name, value in environment.items()}
        self.folder, self.label = folder, str(next(LABELS))
        os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["trainings"])
        arguments = (folder, self.label, flags, environment, tricks)
        self.process = context.Process(target=_train, args=arguments)
        self.process.start()
        self.pid = self.process.pid

    def wait(self):
        """Its exit status, negative for a signal that ended it."""
        self.process.join(SECONDS)
        if self.process.exitcode is None:
            self.process.kill()
            raise AssertionError(f"still running after {SECONDS} s: {self.err}")
        return self.process.exitcode

    @property
    def running(self):
        return self.process.exitcode is None

    @property
    def out(self):
        return (self.folder / f"out-{self.label}").read_text()

    @property
    def err(self):
        return (self.folder / f"err-{self.label}").read_text()

    @property
    def last_line(self):
        """What it says at its end."""
        return self.err.strip().splitlines()[-1]


def team_of(world, folder, *flags, environments=None, folders=None, **options):
    """Processes that train together, perhaps each with an environment and folder of its own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    team = []
    for rank in range(world):
        here = folders[rank] if folders else folder
        mine = {"environment": environments[rank]} if environments else {}
        team.append(Training(here, *flags, rank=rank, world=world, port=port, **options, **mine))
    return team
