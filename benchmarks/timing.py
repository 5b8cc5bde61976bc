"""Fair comparisons: interleaved medians, peak memory, and what they were measured on.

Other programs slow a machine down for seconds at a time. Functions that are compared
therefore take turns, and their medians are compared, never figures of different runs.
"""

import ctypes
import gc
import multiprocessing
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from utils.memory import keep_freed_memory


class Seconds(NamedTuple):
    """What a call takes. Other programs lengthen the wall time, hardly the processor time."""

    wall: float
    processor: float  # of all threads together


def interleaved_medians(functions: dict[str, Callable], repeats: int) -> dict[str, Seconds]:
    """Median times of every function, called in turns after one warm-up call each."""
    times = {name: [] for name in functions}
    for function in functions.values():
        function()
    for _ in range(repeats):
        for name, function in functions.items():
            start = Seconds(time.perf_counter(), time.process_time())
            function()
            stop = Seconds(time.perf_counter(), time.process_time())
            times[name].append(Seconds(stop.wall - start.wall, stop.processor - start.processor))
    return {
        name: Seconds(*(statistics.median(column) for column in zip(*rows, strict=True)))
        for name, rows in times.items()
    }


class Measured(NamedTuple):
    """Medians of a function in a process of its own, and bytes of memory on top at the peak."""

    wall: float
    processor: float
    peak_bytes: int | None


def in_turns(
    make: Callable[..., Callable], variants: dict[str, tuple], repeats: int, default: Sequence[str]
) -> dict[str, Measured]:
    """Time functions in turns, each in a process of its own with a memory allocator of its own.

    Arguments:
        make: make(*arguments) gives the function to time; importable by its name.
        variants: name -> arguments.
        repeats: counted calls of each, after two that are not.
        default: names whose allocator stays as PyTorch finds it; for the others freed memory is
            kept, as our scripts do (utils/memory.py).
    """
    context = multiprocessing.get_context("spawn")
    pipes, processes = {}, []
    try:
        for name, arguments in variants.items():
            pipes[name], end = context.Pipe()
            settings = (make, arguments, name not in default, torch.get_num_threads())
            process = context.Process(target=_answer, args=(end, *settings), daemon=True)
            process.start()
            end.close()
            processes.append(process)

        def ask(name, question):
            pipes[name].send(question)
            return pipes[name].recv()

        times = {name: [] for name in variants}
        for turn in range(-2, repeats):
            for name, column in times.items():
                seconds = ask(name, "time")
                if turn >= 0:
                    column.append(seconds)
        results = {}
        for name, column in times.items():
            wall, processor = map(statistics.median, zip(*column, strict=True))
            results[name] = Measured(wall, processor, ask(name, "memory"))
        return results
    finally:
        for process in processes:
            process.kill()


def _answer(pipe, make: Callable, arguments: tuple, keep: bool, threads: int) -> None:
    if keep:
        keep_freed_memory()
    torch.set_num_threads(threads)
    function = make(*arguments)
    while True:
        if pipe.recv() == "memory":
            pipe.send(peak_extra_memory(function))
            continue
        start = Seconds(time.perf_counter(), time.process_time())
        function()
        stop = Seconds(time.perf_counter(), time.process_time())
        pipe.send((stop.wall - start.wall, stop.processor - start.processor))


def peak_extra_memory(function: Callable) -> int | None:
    """Bytes of memory a call needs at its peak on top of what is in use before it.

    Measured by the operating system, so that memory that PyTorch does not know of counts
    too. None where there is no such measurement (anywhere but on Linux).
    """
    if not Path("/proc/self/clear_refs").exists():
        return None
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # memory kept for reuse would hide that it is needed
    before = _process_memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # 5 resets the peak
    function()
    return _process_memory("VmHWM") - before


def _process_memory(field: str) -> int:
    """A figure of /proc/self/status in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {field}")


def machine() -> str:
    """Processor, cores and versions, in one line."""
    processor = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                processor = line.partition(":")[2].strip()
                break
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
