"""Fair comparisons: interleaved medians, peak memory, and what they were measured on.

Other programs slow a machine down for seconds at a time. Functions that are compared
therefore take turns, and their medians are compared, never figures of different runs.
"""

import contextlib
import ctypes
import gc
import multiprocessing
import os
import platform
import re
import statistics
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

from utils.memory import keep_freed_memory


class Seconds(NamedTuple):
    """What a call takes. Other programs lengthen the wall time, hardly the processor time."""

    wall: float
    processor: float  # of all threads together


def timed(function: Callable) -> Seconds:
    """What one call takes."""
    wall, processor = time.perf_counter(), time.process_time()
    function()
    return Seconds(time.perf_counter() - wall, time.process_time() - processor)


def _medians(clocks: Mapping[str, Callable[[], Seconds]], repeats: int, warm_up: int) -> dict:
    """Medians of what clocks show, read in turns, the first `warm_up` times for nothing."""
    times = [{name: clock() for name, clock in clocks.items()} for _ in range(warm_up + repeats)]
    columns = {name: zip(*(turn[name] for turn in times[warm_up:]), strict=True) for name in clocks}
    return {name: Seconds(*map(statistics.median, column)) for name, column in columns.items()}


def interleaved_medians(functions: Mapping[str, Callable], repeats: int) -> dict[str, Seconds]:
    """Median times of every function, called in turns after one warm-up call each."""
    clocks = {name: partial(timed, function) for name, function in functions.items()}
    return _medians(clocks, repeats, warm_up=1)


def in_turns(
    make: Callable[..., Callable], variants: dict[str, tuple], repeats: int, default: Sequence[str]
) -> dict[str, tuple[Seconds, int | None]]:
    """Time functions in turns, each in a process of its own with a memory allocator of its own.

    Arguments:
        make: make(*arguments) gives the function to time; importable by its name.
        variants: name -> arguments.
        repeats: counted calls of each, after two that are not.
        default: names whose allocator stays as PyTorch finds it; for the others freed memory is
            kept, as our scripts do (utils/memory.py).

    Returns: name -> medians, and bytes of memory on top at the peak.
    """
    context, threads = multiprocessing.get_context("spawn"), torch.get_num_threads()
    with contextlib.ExitStack() as stack:
        processes = {
            name: stack.enter_context(ProcessPoolExecutor(1, context, _start, settings))
            for name, arguments in variants.items()
            for settings in [(make, arguments, name not in default, threads)]
        }

        def ask(name: str, what: Callable):
            return processes[name].submit(_ask, what).result()

        medians = _medians({name: partial(ask, name, timed) for name in variants}, repeats, 2)
        return {name: (medians[name], ask(name, peak_extra_memory)) for name in variants}


def _start(make: Callable, arguments: tuple, keep: bool, threads: int) -> None:
    if keep:
        keep_freed_memory()
    torch.set_num_threads(threads)
    _start.function = make(*arguments)


def _ask(what: Callable):
    return what(_start.function)


class Stopwatch:
    """The seconds by a clock that named stages are at work."""

    def __init__(self, clock: Callable[[], float]):
        self.clock, self.seconds = clock, Counter()

    def call(self, name: str, function: Callable) -> Callable:
        """The function, its time counted."""

        def watched(*arguments, **options):
            start = self.clock()
            try:
                return function(*arguments, **options)
            finally:
                self.seconds[name] += self.clock() - start

        return watched

    def items(self, name: str, function: Callable) -> Callable:
        """The same for what yields items: only the making of them counts."""

        def watched(*arguments) -> Iterator:
            advance, end = self.call(name, next), object()
            items = function(*arguments)
            while (item := advance(items, end)) is not end:
                yield item

        return watched


def peak_extra_memory(function: Callable) -> int | None:
    """Bytes of memory a call needs at its peak on top of what is in use before it.

    Measured by the operating system, so that memory that PyTorch does not know of counts
    too. None where there is no such measurement (anywhere but on Linux).
    """
    if not Path("/proc/self/clear_refs").exists():
        return None
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # memory kept for reuse would hide that it is needed
    before = process_memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # 5 resets the peak
    function()
    return process_memory("VmHWM") - before


def process_memory(field: str) -> int:
    """A figure of /proc/self/status in bytes; 0 where there is none, anywhere but on Linux."""
    if not Path("/proc/self/status").exists():
        return 0
    return int(re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024


def machine() -> str:
    """Processor, cores and versions, in one line."""
    processor = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        named = re.search(r"^model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text(), re.M)
        processor = named[1] if named else processor
    return (
        f"{processor}, {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}, "
        f"{platform.system()}, Python {platform.python_version()}, PyTorch {torch.__version__}"
    )


def commit() -> str:
    """The commit of the checkout, "unknown" outside of one."""
    command = ("git", "rev-parse", "--short", "HEAD")
    try:
        run = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True)
    except OSError:
        return "unknown"
    return run.stdout.strip() or "unknown"


def print_table(title: str, rows: list[dict[str, str]]) -> None:
    """Print rows that share their keys, which become the heads of the columns."""
    print(f"\n{title}")
    widths = {key: max(len(key), *(len(row[key]) for row in rows)) for key in rows[0]}
    for row in [{key: key for key in widths}, *rows]:
        print("  " + "  ".join(row[key].ljust(width) for key, width in widths.items()).rstrip())


def mebibytes(count: int | None) -> str:
    """Bytes for a table, which nobody may have measured."""
    return "-" if count is None else f"{count / 2**20:.0f} MiB"
