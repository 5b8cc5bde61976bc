"""The loader of training batches, and its failures as one clear line each."""

import multiprocessing
import re
import signal
import time
from collections.abc import Callable, Generator, Iterator
from typing import Any

import cv2
import torch
from torch.utils.data import DataLoader, Dataset

from data.sampler import MixedDataset, ResumableSampler
from utils.text import escaped

LOOK = 1  # seconds between two looks at the loader processes while no batch comes


class LoadingError(OSError):
    """A sample could not be loaded: a file vanished or is damaged, a worker died, a disk hangs."""


def one_opencv_thread() -> None:
    """Keep OpenCV to one thread: loader workers share the cores among themselves.

    The main process does so before it forks them: a worker that inherits OpenCV's threads has
    only their locks, and would wait for ever to end them.
    """
    if cv2.getNumThreads() != 1:
        cv2.setNumThreads(1)


def start_worker(worker: int) -> None:
    """What a loader process does first.

    A signal to stop often goes to all processes of a training. The first one answers it, and may
    still need the samples of these.
    """
    one_opencv_thread()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def open_loader(
    sources: list[tuple[Dataset, float]],
    batch: int,
    samples: range,
    seed: int,
    workers: int,
    pin_memory: bool = False,
    rank: int = 0,
    world: int = 1,
) -> DataLoader:
    """Batches of the samples with these numbers, the same whatever the workers.

    Arguments:
        sources: data sets and their weights.
        batch: samples that this process takes at once.
        samples: numbers of the samples of all processes, see `ResumableSampler`.
        seed: of their order.
        workers: loader processes; 0 loads in this one, which can then not watch the time.
        pin_memory: for fast copies to a GPU.
        rank, world: this process takes every world-th sample, from the rank-th.
    """
    one_opencv_thread()
    datasets, weights = zip(*sources, strict=True)
    sampler = ResumableSampler([*map(len, datasets)], weights, samples, seed, rank, world)
    return DataLoader(
        MixedDataset(datasets),
        batch_size=batch,
        sampler=sampler,
        num_workers=workers,
        worker_init_fn=start_worker,
        pin_memory=pin_memory,
        prefetch_factor=2 if workers else None,
        timeout=LOOK if workers else 0,
        generator=torch.Generator(),  # its own, so that the global one resumes exactly
    )


def load_steps(
    loader: DataLoader, parts: int, patience: float, stopping: Callable[[], Any] = lambda: None
) -> Generator[tuple[dict[str, Any], ...], None, None]:
    """The batches of a loader of `open_loader`, `parts` of them for each step.

    Arguments:
        patience: seconds that a batch may take to come, where loader processes are used.
        stopping: whether to give up a batch that has not come within LOOK.

    Raises: LoadingError: one line that says what could not be loaded, or that it was given up. No
        sample is ever left out or replaced by another one.
    """
    try:
        batches = _batches(loader, patience, stopping)
        yield from zip(*[batches] * parts, strict=True)
    except LoadingError:
        raise
    except (OSError, EOFError, ValueError, RuntimeError) as error:
        raise LoadingError(_explain(error)) from error


def _batches(
    loader: DataLoader, patience: float, stopping: Callable[[], Any]
) -> Iterator[dict[str, Any]]:
    try:
        if loader.num_workers:
            multiprocessing.Lock()  # fails in peace, where PyTorch leaves a traceback
        iterator = iter(loader)
    except OSError as error:  # no place for their locks, or no more processes or open files
        problem = "loader workers cannot start: is there /dev/shm? --workers 0 does without"
        raise LoadingError(f"{problem} ({error})") from error
    if hasattr(signal, "SIGCHLD"):
        handler = signal.getsignal(signal.SIGCHLD)
        # PyTorch's handler raises at the death of a worker in the middle of whatever is done then,
        # perhaps of a save. The iterator notices it too, when it looks at its workers.
        if getattr(handler, "__module__", "").startswith("torch.utils.data"):
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    end = time.monotonic() + patience
    try:
        while True:
            try:
                yield next(iterator)
            except StopIteration:
                return
            except RuntimeError as error:
                if "timed out after" not in str(error):
                    raise
                if stopping():
                    raise TimeoutError("given up, to stop") from error
                if time.monotonic() > end:
                    raise TimeoutError(
                        f"none came for {patience:g} s. Does the disk hang? Or raise --patience"
                    ) from error
            else:
                end = time.monotonic() + patience
    finally:  # they ignore the signal by which PyTorch would end them, and may hang
        for worker in getattr(iterator, "_workers", ()):
            worker.kill()


def _explain(error: Exception) -> str:
    """One line of an error of a DataLoader, which hands on a worker's whole traceback as text."""
    text = str(error).strip()
    if text.startswith("Caught "):  # in a worker, whose traceback ends with TYPE: MESSAGE
        kind = error.__class__.__name__
        marked = re.findall(rf"^(?:\w+\.)*{kind}: ", text, re.MULTILINE)
        last = re.sub(r"^(\w+\.)*\w+: ", "", text.splitlines()[-1])
        text = text.rpartition(marked[-1])[2] if marked else last
    # A file's name may hold a newline or a terminal's control characters.
    text = escaped(text)
    if "shared memory" in text:  # which loader processes return their batches in
        remedy = "docker run --shm-size=8g, a smaller --batch, or --workers 0"
        return f"/dev/shm is too small for the loader workers: {remedy} ({text})"
    died = re.search(r"DataLoader worker .*(killed|exited unexpectedly)", text)
    if died or isinstance(error, ConnectionError | EOFError):  # its last batch went with it
        return f"a loader worker died, perhaps for lack of memory: lower --workers ({text})"
    return f"a sample cannot be loaded: {text}"
