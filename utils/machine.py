"""What this process may use of its machine: cores and memory, as a container or a job allows."""

import contextlib
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import cv2
import torch

CGROUPS = Path("/sys/fs/cgroup")  # where Linux keeps the limits of containers and jobs
OWN_CGROUPS = Path("/proc/self/cgroup")  # which of them are this process's
# Of cgroups version 2, then 1: limit, use, counts, and the count of files that were read, which
# stay in memory until others want the place.
MEMORY_FILES = (
    ("memory.max", "memory.current", "memory.stat", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "memory.stat", "total_inactive_file"),
)
THREADS_SET = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")  # by a user or launcher who knows better


def usable_cores() -> int:
    """How many cores this process may use, at least 1; part of a core counts as one."""
    if hasattr(os, "sched_getaffinity"):  # fewer than the machine has, in a container or a job
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    return max(1, min([cores, *map(math.ceil, _cpu_quotas())]))


def limit_threads() -> None:
    """Let PyTorch and OpenCV, which know no quota, start no more threads than there are cores.

    What the environment sets for PyTorch stays.
    """
    cores = usable_cores()
    if cores < torch.get_num_threads() and not any(name in os.environ for name in THREADS_SET):
        torch.set_num_threads(cores)
    if cores < cv2.getNumThreads():
        cv2.setNumThreads(cores)


def usable_memory() -> int:
    """Bytes of the host's memory that this process may still take."""
    return max(min([_machine_memory(), *_cgroup_memory(), *_address_space()]), 0)


def _cgroups(controller: str) -> Iterator[Path]:
    """Where the limits for a controller's resource are: this process's group, and all above it.

    Not all are there: a container may see its own group as the topmost, and the topmost has none.
    """
    try:
        lines = OWN_CGROUPS.read_text(errors="surrogateescape").splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if number != "0" and controller not in controllers.split(","):
            continue
        mount = CGROUPS if number == "0" else CGROUPS / controller  # version 2, or 1
        own = PurePosixPath(path.lstrip("/"))
        yield from (mount / group for group in (own, *own.parents))


def _cpu_quotas() -> Iterator[float]:
    """How many cores each limit grants."""
    for group in _cgroups("cpu"):
        with contextlib.suppress(OSError, ValueError):  # no such file, or "max": no limit
            quota, period = map(int, (group / "cpu.max").read_text().split())
            yield quota / period
        with contextlib.suppress(OSError, ValueError):
            names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
            quota, period = (int((group / name).read_text()) for name in names)
            if quota > 0:  # -1: no limit
                yield quota / period


def _cgroup_memory() -> Iterator[int]:
    """Bytes that each limit leaves."""
    for group in _cgroups("memory"):
        for limit, usage, counts, cache in MEMORY_FILES:
            with contextlib.suppress(OSError, ValueError):  # no such file, or "max": no limit
                most, used = (int((group / name).read_text()) for name in (limit, usage))
                yield most - used + _counted(group / counts, cache)


def _counted(path: Path, name: str) -> int:
    with contextlib.suppress(OSError, ValueError):
        return int(dict(map(str.split, path.read_text().splitlines())).get(name, 0))
    return 0


def _address_space() -> Iterator[int]:
    """Bytes that are left of `ulimit -v`, which some batch systems set."""
    with contextlib.suppress(ImportError, OSError):  # not Linux
        import resource

        most, _ = resource.getrlimit(resource.RLIMIT_AS)
        if sys.platform.startswith("linux") and most != resource.RLIM_INFINITY:
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            yield most - pages * resource.getpagesize()


def _machine_memory() -> int:
    """MemAvailable on Linux; elsewhere half of what is built in; 4 GiB if even that is unknown."""
    with contextlib.suppress(OSError, IndexError):
        text = Path("/proc/meminfo").read_text()
        return int(text.split("MemAvailable:")[1].split()[0]) * 1024
    with contextlib.suppress(AttributeError, ValueError, OSError):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    return 4 * 2**30
