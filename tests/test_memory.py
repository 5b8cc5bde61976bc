"""Keeping freed memory: told to glibc, and taken back."""

import resource
import sys

import pytest
import torch

from utils.memory import keep_freed_memory


def faults_of(work) -> int:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    work()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(not keep_freed_memory(False), reason="another C library than glibc")
def test_memory_is_kept_and_given_back():
    pages = 25_000  # 100 MB, more than glibc ever keeps by itself

    def work():
        torch.ones(pages * 1024)

    try:
        assert keep_freed_memory()
        # Small objects may settle in what is free, and the next time it is too short for all.
        assert min(faults_of(work) for _ in range(5)) < pages // 10
        assert keep_freed_memory(False)
        assert faults_of(work) > pages // 2
    finally:
        keep_freed_memory(False)


def test_other_systems_are_left_as_they_are(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not keep_freed_memory()
