"""What tests share: a start that is always the same, tiny data, and calls of main.py."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # a core for each worker of pytest-xdist

import gc
import shutil
import sys
from dataclasses import dataclass

import cv2
import pytest
import torch
from enhancing import last_of_each, save_small_network
from trainings import FEW_CHANNELS, TINY, make_optimiser, write_data

import main
from data import septuplets
from data.augment import Augmentation
from models import MSTT
from models.checkpoint import save_network
from models.mstt import SIZES
from training.loop import Ema
from training.run import Progress, training_state

gc.set_threshold(50_000)  # to look through all that stays 70 times as often took 5 % of the time


@pytest.fixture(scope="session", autouse=True)
def nothing_waits_for_the_disk():
    """No file need outlive a loss of power, but those of processes that tests start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda file: None)
        yield


@pytest.fixture(autouse=True)
def same_start():
    """The same random numbers for every test; and a test leaves threads as it found them."""
    torch.manual_seed(0)
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()  # a size seen by an earlier test becomes a symbol: 20 s for a graph
    threads = torch.get_num_threads(), cv2.getNumThreads()
    yield
    torch.set_num_threads(threads[0])
    cv2.setNumThreads(threads[1])


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder with septuplets/ and clips/ of three clips each."""
    folder = tmp_path_factory.mktemp("data")
    write_data(folder)
    return folder


@pytest.fixture
def middle_patch(monkeypatch):
    """Let septuplets be cut in the middle, and not turned, until it is undone."""

    def middle(rng, height, width, patch):
        return Augmentation((height - patch) // 2, (width - patch) // 2, patch, patch)

    monkeypatch.setattr(septuplets, "draw_augmentation", middle)
    return monkeypatch


@pytest.fixture
def few_channels(monkeypatch):
    """Networks of every named size are tiny."""
    for name in SIZES:
        monkeypatch.setitem(SIZES, name, FEW_CHANNELS)


@pytest.fixture
def run_main(data, tmp_path, monkeypatch):
    """Call main.py's main in an empty folder beside the data; returns its exit status."""
    for name in ("septuplets", "clips"):
        (tmp_path / name).symlink_to(data / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(SIZES, "small", FEW_CHANNELS)

    def run(*flags):
        monkeypatch.setattr(sys, "argv", ["main.py", *last_of_each(*TINY, *flags)])
        return main.main()

    return run


@pytest.fixture(scope="module")
def train(data):
    """A function of flags that trains in the folder of the data; returns the run's folder."""

    def run(name, *flags):
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(data)
            patch.setitem(SIZES, "small", FEW_CHANNELS)
            words = last_of_each(*TINY, "--run", name, *flags)
            patch.setattr(sys, "argv", ["main.py", *words])
            assert main.main() == 0
        return data / name

    return run


@pytest.fixture(scope="module")
def one_step(train):
    return train("one step", "--steps", "1", "--coupling", "symmetric")


@pytest.fixture
def begun(run_main, one_step):
    """A finished run of one step in the folder a, of a network that is not the usual one."""
    shutil.copytree(one_step, "a")


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """The file of a small network."""
    path = tmp_path_factory.mktemp("network") / "small.safetensors"
    save_small_network(path)
    return path


@pytest.fixture
def saved(tmp_path):
    """The file of a tiny network, to be damaged."""
    path = tmp_path / "net.safetensors"
    save_network(path, MSTT(**FEW_CHANNELS), {"recipe": "none"})
    return path


@dataclass
class NoConstants:
    """A Config."""


@pytest.fixture
def trained():
    """A function of the optimiser's kind: the state of a network that took one step, and it."""

    def train(kind):
        network = MSTT(**FEW_CHANNELS)
        optimiser, ema = make_optimiser(network, kind), Ema(network, 0.9)
        for parameter in network.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimiser.step()
        return training_state(NoConstants(), network, ema, optimiser, Progress(1, 20.0)), network

    return train
