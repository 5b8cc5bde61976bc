"""Keeping freed memory: told to glibc, and taken back."""

import subprocess
import sys
from pathlib import Path

import pytest

from utils.memory import _glibc, keep_freed_memory

ROOT = Path(__file__).resolve().parent.parent
# In a process of its own: glibc keeps the memory of each thread apart, and that of workers of
# pytest-xdist may be none that can be kept.
KEEPING = """
import os
from pathlib import Path
import numpy as np
from utils.memory import keep_freed_memory, return_freed_memory

SIZE = 64 * 2**20  # which glibc by itself gives back at once

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

def left():
    before = resident()
    array = np.ones(SIZE, np.uint8)
    assert resident() - before > SIZE // 2  # it was not there before
    del array
    return resident() - before

assert left() < SIZE // 4
start = resident()
assert keep_freed_memory()
assert left() > SIZE // 2
return_freed_memory()
assert resident() < start + SIZE // 4
"""


@pytest.mark.skipif(_glibc() is None, reason="another C library than glibc")
def test_memory_is_kept_and_given_back():
    done = subprocess.run(
        [sys.executable, "-c", KEEPING], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr


def test_other_systems_are_left_as_they_are(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not keep_freed_memory()
