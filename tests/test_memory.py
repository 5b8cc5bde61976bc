"""Keeping freed memory: told to glibc, and taken back."""

import os
import sys
from pathlib import Path

import pytest
import torch

from utils.memory import keep_freed_memory


def resident() -> int:
    """Bytes of memory that the process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not keep_freed_memory(False), reason="another C library than glibc")
def test_memory_is_kept_and_given_back():
    size = 64 * 2**20  # which glibc by itself gives back at once

    def left() -> int:
        """What stays of a tensor that is gone."""
        before = resident()
        tensor = torch.ones(size, dtype=torch.uint8)
        assert resident() - before > size // 2  # it was not there before
        del tensor
        return resident() - before

    try:
        assert keep_freed_memory(False)  # also of earlier tests
        assert left() < size // 4
        assert keep_freed_memory()
        assert left() > size // 2
        assert keep_freed_memory(False)
        assert left() < size // 4
    finally:
        keep_freed_memory(False)


def test_other_systems_are_left_as_they_are(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not keep_freed_memory()
