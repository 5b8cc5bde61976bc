"""Scripts as processes of their own, mostly trainings on tiny clips with a network of few channels.

They are forked from a server that has imported PyTorch, which starts them in a fraction of a
second; the server itself never computes.
"""

import contextlib
import itertools
import multiprocessing
import os
import runpy
import signal
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from enhancing import last_of_each

import enhance
import main
import training.sources as main_sources
from data import loading
from media.images import write_image
from models.mstt import SIZES
from training.optimiser import Optimiser
from utils.config import run_script
from utils.memory import MMAP_MAX, TRIM_THRESHOLD, _glibc, return_freed_memory

ROOT = Path(__file__).resolve().parent.parent
TINY = ["--patch", "16", "--size", "small", "--given-frames", "2", "--flow-method", "dis"]
TINY += ["--log-every", "1", "--warmup", "2", "--precision", "float32", "--data-root", "septuplets"]
TINY += ["--validation", "clips", "--device", "cpu", "--workers", "0"]
FEW_CHANNELS = {"channels": 8, "groups": 2, "front_blocks": 1, "back_blocks": 1}
LABELS = itertools.count()  # what processes print goes to a file of their own
SECONDS = 500  # that anything here may take on a busy machine
# Where glibc's own adjustment ends once a program has freed large tensors; -3: M_MMAP_THRESHOLD
GLIBC = {MMAP_MAX: 65536, -3: 32 * 2**20, TRIM_THRESHOLD: 64 * 2**20}


def write_clip(folder, seed, names, side):
    """Frames of a smooth texture that drifts."""
    texture = np.random.default_rng(seed).integers(0, 256, (side, side + 30, 3), dtype=np.uint8)
    texture = cv2.GaussianBlur(texture, (0, 0), 1.5)
    folder.mkdir(parents=True)
    for shift, name in enumerate(names):
        write_image(folder / name, texture[:, shift : shift + side])


def write_data(folder):
    """Three septuplets for training and three clips for validation."""
    for seed in range(3):
        names = [f"im{number}.png" for number in range(1, 8)]
        write_clip(folder / "septuplets" / "train" / f"clip {seed}", seed, names, side=80)
        names = [f"{number:08d}.png" for number in range(3)]
        write_clip(folder / "clips" / f"clip {seed}" / "truth", 9 + seed, names, side=64)


def make_optimiser(network, kind):
    return Optimiser(network, kind, rate=1e-3, muon_rate=1e-2, alignment_share=0.1)


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
        time.sleep(0.02)
    return value


def pause():
    """Say that this process waits, and wait until its parent lets it go on. Signals are noted."""
    here, label = Path(os.environ["HELD_IN"]), os.environ["LABEL"]
    (here / f"held-{label}").touch()
    while not (here / f"go-{label}").exists():
        time.sleep(0.02)


def deliver(number):
    """What a signal to this process would do, where somebody listens to it."""
    handler = signal.getsignal(number)
    assert callable(handler), f"nobody listens to signal {number}"
    handler(number, None)


def at_step(step, action, *arguments):
    """Do something before a step, which is counted from 0."""
    share_of_peak = main.share_of_peak

    def acting(current, *schedule):
        if current == step:
            action(*arguments)
        return share_of_peak(current, *schedule)

    main.share_of_peak = acting


def in_replace(name, number, action):
    """Do something in the n-th renaming to a name: the file is complete, but not in its place."""
    replace, calls = os.replace, itertools.count(1)

    def acting(source, target):
        if Path(target).name == name and next(calls) == number:
            action()
        replace(source, target)

    os.replace = acting


def in_samples(epoch, action, rank="0"):
    """Do something before every sample that a process of one rank loads from an epoch on."""
    load = main_sources.SeptupletDataset.__getitem__

    def acting(dataset, key):
        if key[0] >= epoch:
            action()
        return load(dataset, key)

    if os.environ.get("RANK", "0") == rank:
        main_sources.SeptupletDataset.__getitem__ = acting


def give_back_freed_memory():
    """Undo `keep_freed_memory` in this process, and return what is free now."""
    if _glibc() is not None:
        for name, value in GLIBC.items():
            _glibc().mallopt(name, value)
    return_freed_memory()


def run_here(name, *arguments):
    """Run a script, or a module of this name, as python would, in this process.

    Returns: its exit status.
    """
    before, sys.argv = sys.argv, [name, *map(str, arguments)]
    try:
        if name.endswith(".py"):
            runpy.run_path(str(ROOT / name), run_name="__main__")
        else:
            runpy.run_module(name, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        return end.code
    finally:
        sys.argv = before
        give_back_freed_memory()
    raise AssertionError(f"{name} left no exit status")


def nan_in_second_rank(step):
    """Let the loss of the process of rank 1 be no number from a step on."""
    calls, charbonnier = itertools.count(), main.charbonnier
    guilty = os.environ.get("RANK", "1") == "1"

    def loss(*arguments):
        value = charbonnier(*arguments)
        return value * float("nan") if next(calls) == step and guilty else value

    main.charbonnier = loss


def own_group():
    """Let the process and its loader workers be a process group, as under torchrun and systemd."""
    os.setpgrp()


def look_often():
    """Look ten times a second, where no batch comes, whether to stop waiting for it."""
    loading.LOOK = 0.1


def small_files(size):
    """Let no file grow beyond a size, as on a full disk."""
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def _run(script, folder, label, flags, environment, tricks):
    os.chdir(folder)
    os.environ.update(environment | {"HELD_IN": str(folder), "LABEL": label})
    # Loader workers are forked, as they are where python starts main.py.
    multiprocessing.set_start_method("fork", force=True)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what starts in background ignores it
    torch.set_num_threads(1)
    SIZES["small"] = FEW_CHANNELS
    for trick, *arguments in tricks:
        trick(*arguments)
    sys.argv = [f"{script}.py", *map(str, flags)]
    with contextlib.ExitStack() as stack:
        out, err = (stack.enter_context(open(f"{name}-{label}", "w")) for name in ("out", "err"))
        stack.enter_context(contextlib.redirect_stdout(out))
        stack.enter_context(contextlib.redirect_stderr(err))
        run_script({"main": main.main, "enhance": enhance.main}[script])


def forkserver():
    """The context of multiprocessing that forks from a server that has imported PyTorch.

    And the optional packages that are there, each of which takes longer than a training of a step.
    """
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    context = multiprocessing.get_context("forkserver")
    preload = ["trainings", "torch._dynamo", "torch.utils.tensorboard", "av", "rasterio"]
    context.set_forkserver_preload(preload)
    return context


class Child:
    """main.py or enhance.py in a process of its own.

    Arguments:
        script: "main" or "enhance".
        folder: where it runs.
        flags: of its command line.
        environment: variables to set.
        tricks: functions above with their arguments, called before it.
    """

    def __init__(self, script, folder, *flags, environment=(), tricks=()):
        environment = {name: str(value) for name, value in dict(environment).items()}
        self.folder, self.label = folder, str(next(LABELS))
        arguments = (script, folder, self.label, flags, environment, tricks)
        self.process = forkserver().Process(target=_run, args=arguments)
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

    def wait_until_held(self):
        """Until it has come to `pause`."""
        held = self.folder / f"held-{self.label}"
        wait_for(lambda: held.exists() or not self.running, "a process that is held")
        assert held.exists(), self.err

    def go_on(self):
        """Let it leave `pause`."""
        (self.folder / f"go-{self.label}").touch()

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


def launcher_store():
    """As under torchrun, the store is the launcher's: on a port that nobody else can take."""
    return torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)


def place(rank, world, port):
    """The variables that torchrun sets for one of several processes."""
    variables = {"RANK": rank, "WORLD_SIZE": world, "LOCAL_RANK": rank}
    variables |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return variables | {"TORCHELASTIC_USE_AGENT_STORE": True}


class Training(Child):
    """main.py with TINY and other flags, perhaps as one of several processes.

    Arguments:
        rank, world, port: its place among them.
        options: of Child.
    """

    def __init__(self, folder, *flags, rank=0, world=1, port=0, environment=(), **options):
        environment = dict(environment)
        if world > 1:
            environment |= place(rank, world, port)
        words = last_of_each(*TINY, *flags)
        super().__init__("main", folder, *words, environment=environment, **options)


def team_of(world, folder, *flags, environments=None, folders=None, **options):
    """Processes that train together, perhaps each with an environment and folder of its own."""
    store = launcher_store()
    team = []
    for rank in range(world):
        here = folders[rank] if folders else folder
        mine = {"environment": environments[rank]} if environments else {}
        place = {"rank": rank, "world": world, "port": store.port}
        team.append(Training(here, *flags, **place, **options, **mine))
        team[-1].store = store
    return team
