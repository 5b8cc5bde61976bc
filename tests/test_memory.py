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
    pages = 10_000  # 40 MB, which glibc by itself gives back at once

    def work():
        torch.ones(pages * 1024)

    try:
        assert keep_freed_memory()
        # What is free may be too short for all as long as small objects settle in it.
        assert min(faults_of(work) for _ in range(20)) < pages // 10
        assert keep_freed_memory(False)
        assert faults_of(work) > pages // 2
    finally:
        keep_freed_memory(False)


def test_other_systems_are_left_as_they_are(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not keep_freed_memory()
