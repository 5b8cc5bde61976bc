"""What a container, a batch job or a user's limit leaves of a machine: cores and memory."""

import resource
import sys

import cv2
import pytest
import torch

from utils import machine

GIB = 2**30


@pytest.fixture
def cgroups(monkeypatch, tmp_path):
    """A machine of 64 cores and 4 GiB, and a function of its cgroup files: {path: text}."""
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda _: range(64), raising=False)
    monkeypatch.setattr(machine, "_machine_memory", lambda: 4 * GIB)
    monkeypatch.setattr(machine, "CGROUPS", tmp_path)
    unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    monkeypatch.setattr(resource, "getrlimit", lambda _: unlimited)
    monkeypatch.setattr(machine, "OWN_CGROUPS", tmp_path / "own")

    def write(own, files):
        (tmp_path / "own").write_text(own)
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)

    return write


V1_QUOTA, V1_PERIOD = "cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"
JOB = "/slurm/job_7/step_0"


@pytest.mark.parametrize(
    ("own", "files", "cores"),
    [
        ("", {}, 64),
        ("0::/\n", {"cpu.max": "max 100000\n"}, 64),
        ("0::/\n", {"cpu.max": "200000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 2),  # part of a core counts
        ("0::/\n", {"cpu.max": "10000 100000\n"}, 1),
        ("0::/\n", {"cpu.max": "9900000 100000\n"}, 64),
        # A job outside of a container; its own group has no limit, the one above has.
        (f"0::{JOB}\n", {f"{JOB[1:]}/cpu.max": "max 1", "slurm/job_7/cpu.max": "8 1"}, 8),
        (f"0::{JOB}\n", {f"{JOB[1:]}/cpu.max": "9 1", "slurm/cpu.max": "4 1"}, 4),
        # A container of version 1, which sees its group as the topmost, and that name from outside.
        ("4:cpu,cpuacct:/docker/5\n", {V1_QUOTA: "300000", V1_PERIOD: "100000"}, 3),
        ("4:cpu,cpuacct:/\n0::/\n", {V1_QUOTA: "-1", V1_PERIOD: "100000"}, 64),
    ],
)
def test_cores_are_those_of_the_machine_or_of_a_quota(cgroups, own, files, cores):
    cgroups(own, files)
    assert machine.usable_cores() == cores


V1_MEMORY = ("memory/a/memory.limit_in_bytes", "memory/a/memory.usage_in_bytes")


@pytest.mark.parametrize(
    ("own", "files", "free"),
    [
        ("", {}, 4 * GIB),
        ("0::/\n", {"memory.max": "max", "memory.current": "5", "memory.stat": ""}, 4 * GIB),
        ("0::/\n", {"memory.max": "900", "memory.current": "500"}, 400),
        ("0::/\n", {"memory.max": "400", "memory.current": "500", "memory.stat": ""}, 0),
        (
            "0::/\n",
            {
                "memory.max": "900",
                "memory.current": "890",
                "memory.stat": "anon 90\nfile 800\ninactive_file 700\n",
            },
            710,
        ),
        (
            "0::/job/step\n",
            {"job/memory.max": "900", "job/memory.current": "100", "job/memory.stat": ""},
            800,
        ),
        (
            "3:memory:/a\n",
            {
                V1_MEMORY[0]: "700",
                V1_MEMORY[1]: "600",
                "memory/a/memory.stat": "cache 7\ntotal_inactive_file 400\n",
            },
            500,
        ),
    ],
)
def test_memory_is_that_of_the_machine_or_of_a_limit(cgroups, own, files, free):
    cgroups(own, files)
    assert machine.usable_memory() == free


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_is_at_most_the_address_space_that_is_left(cgroups, monkeypatch):
    cgroups("", {})
    monkeypatch.setattr(resource, "getrlimit", lambda _: (2**50, 2**50))
    assert machine.usable_memory() == 4 * GIB
    monkeypatch.setattr(resource, "getrlimit", lambda _: (2**10, 2**50))
    assert machine.usable_memory() == 0


@pytest.mark.parametrize(
    ("text", "free"),
    [("MemTotal: 9 kB\nMemAvailable:  2048 kB\n", 2 * 2**20), (None, 4 * GIB)],
)
def test_memory_of_a_machine(monkeypatch, text, free):
    def read(path):
        if text is None:
            raise FileNotFoundError(path)
        return text

    pages = {"SC_PHYS_PAGES": 2**21, "SC_PAGE_SIZE": 2**12}
    monkeypatch.setattr(machine.Path, "read_text", read)
    monkeypatch.setattr(machine.os, "sysconf", pages.get)
    assert machine._machine_memory() == free


def test_no_more_threads_than_cores(monkeypatch):
    for name in machine.THREADS_SET:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(machine, "usable_cores", lambda: 2)
    torch.set_num_threads(3)
    cv2.setNumThreads(3)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    machine.limit_threads()
    assert torch.get_num_threads() == 3  # as the user wants
    monkeypatch.delenv("OMP_NUM_THREADS")
    machine.limit_threads()
    assert (torch.get_num_threads(), cv2.getNumThreads()) == (2, 2)
    torch.set_num_threads(1)
    machine.limit_threads()
    assert torch.get_num_threads() == 1
