"""Samples that cannot be loaded end a training with one line, and are never replaced."""

import os
import signal
import time

import pytest

from data.loading import LoadingError, load_steps, open_loader


class Source:
    """Ten samples, one of which fails as the test says."""

    def __init__(self, fail):
        self.fail = fail

    def __len__(self):
        return 10

    def __getitem__(self, key):
        if key[1] == 5:
            self.fail()
        return {"name": key[1]}


def overflow():
    raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left")


def vanish():
    open("gone.png").close()


def refuse():
    raise ValueError("im4.png: truncated image; restore or remove the file")


def refuse_an_odd_name():
    raise ValueError("new\nline/im1.png\x1b[2J: no image")


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def hang():
    time.sleep(600)


def names(fail, workers, patience=60, batch=1, stopping=lambda: None):
    loader = open_loader([(Source(fail), 1.0)], batch, range(10), 3, workers)
    loaded = []
    for (batch,) in load_steps(loader, 1, patience, stopping):
        loaded += batch["name"].tolist()
    return loaded


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    ("fail", "message"),
    [
        (vanish, "gone.png"),
        (refuse, "im4.png: truncated image"),
        (refuse_an_odd_name, r"new\\nline/im1.png\\x1b\[2J: no image"),
    ],
)
def test_a_sample_that_fails_is_named_in_one_line(fail, message, workers):
    with pytest.raises(LoadingError, match=message) as caught:
        names(fail, workers)
    assert str(caught.value).startswith("a sample cannot be loaded: ")
    assert str(caught.value).isprintable()


def test_shared_memory_that_is_full_is_said():
    with pytest.raises(LoadingError, match=r"^/dev/shm is too small .* --workers 0 \(unable to"):
        names(overflow, workers=1)


def test_a_machine_without_shared_memory_trains_without_workers(monkeypatch):
    def refused(*_, **__):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("multiprocessing.synchronize.SemLock.__init__", refused)
    with pytest.raises(LoadingError, match=r"^loader workers .* --workers 0 .*Read-only"):
        names(lambda: None, workers=1)
    assert len(names(lambda: None, workers=0)) == 10


def test_a_worker_that_dies_is_reported():
    with pytest.raises(LoadingError, match="a loader worker died") as caught:
        names(die, workers=1)
    assert "\n" not in str(caught.value)


@pytest.fixture
def often(monkeypatch):
    """Look at the loader processes five times a second."""
    monkeypatch.setattr("data.loading.LOOK", 0.2)


def test_a_disk_that_hangs_is_reported(often):
    """After several looks."""
    with pytest.raises(LoadingError, match=r"none came for 0\.7 s"):
        names(hang, workers=1, patience=0.7, batch=2)


def test_a_stop_does_not_wait_for_a_disk_that_hangs(often):
    started = time.monotonic()
    with pytest.raises(LoadingError, match="given up, to stop"):
        names(hang, workers=1, stopping=lambda: True)
    assert time.monotonic() - started < 300


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_workers_leave_signals_to_the_process_that_they_load_for():
    assert sorted(names(lambda: os.kill(os.getpid(), signal.SIGTERM), workers=1)) == list(range(10))


def test_every_sample_comes_once():
    assert sorted(names(lambda: None, workers=0)) == list(range(10))


def test_the_batches_of_a_step_come_together():
    loader = open_loader([(Source(lambda: None), 1.0)], 2, range(10), 3, 0, rank=1, world=2)
    with pytest.raises(LoadingError):  # five samples are no whole number of steps
        list(load_steps(loader, 2, 60))
    loader = open_loader([(Source(lambda: None), 1.0)], 1, range(8), 3, 0, rank=1, world=2)
    steps = [[part["name"].item() for part in step] for step in load_steps(loader, 2, 60)]
    whole = open_loader([(Source(lambda: None), 1.0)], 1, range(8), 3, 0)
    order = [step[0]["name"].item() for step in load_steps(whole, 1, 60)]
    assert steps == [order[1:4:2], order[5:8:2]]
