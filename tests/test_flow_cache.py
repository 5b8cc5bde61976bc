"""Flows are computed once, shared between processes, and recomputed where damaged."""

import os

import numpy as np
import pytest
from trainings import forkserver

import data.flow_cache
from data.flow_cache import FlowCache, content_key
from flow import estimate_flow

FRAMES = np.random.default_rng(0).integers(0, 256, (4, 20, 24, 3), dtype=np.uint8)
CONTENTS = [frame.tobytes() for frame in FRAMES]


def refuse():
    raise AssertionError("the frames were asked for although the flow is there")


def assert_is_flow(flows):
    for a, b in zip(flows, estimate_flow(FRAMES, "dis"), strict=True):
        np.testing.assert_array_equal(a, b)


def test_second_call_reads(tmp_path):
    assert_is_flow(FlowCache(tmp_path, "dis").flows(CONTENTS, lambda: FRAMES))
    assert_is_flow(FlowCache(tmp_path, "dis").flows(CONTENTS, refuse))


def test_no_folder_computes_every_time(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cache = FlowCache(None, "dis")
    assert_is_flow(cache.flows(CONTENTS, lambda: FRAMES))
    with pytest.raises(AssertionError, match="asked for"):
        cache.flows(CONTENTS, refuse)
    assert not list(tmp_path.iterdir())


def test_key_tells_content_order_method_and_version_apart(monkeypatch):
    keys = [
        content_key([b"ab", b"c"], "dis"),
        content_key([b"a", b"bc"], "dis"),
        content_key([b"c", b"ab"], "dis"),
        content_key([b"ab", b"c"], "pyflow"),
    ]
    monkeypatch.setattr(data.flow_cache, "FLOW_VERSION", -1)
    keys.append(content_key([b"ab", b"c"], "dis"))
    assert len(set(keys)) == 5


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty"])
def test_damaged_entry_is_computed_again(tmp_path, damage):
    cache = FlowCache(tmp_path, "dis")
    cache.flows(CONTENTS, lambda: FRAMES)
    (entry,) = tmp_path.rglob("*.flow")
    good = bytearray(entry.read_bytes())
    bad = {"flip": good[:500] + b"\xff" + good[501:], "truncate": good[:-100], "empty": b""}[damage]
    entry.write_bytes(bad)
    assert_is_flow(cache.flows(CONTENTS, lambda: FRAMES))
    assert entry.read_bytes() == good


def test_failed_write_raises_and_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        FlowCache(tmp_path, "dis").flows(CONTENTS, lambda: FRAMES)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def _fill(folder, barrier):
    barrier.wait()
    assert_is_flow(FlowCache(folder, "dis").flows(CONTENTS, lambda: FRAMES))


def test_two_processes_at_once(tmp_path):
    context = forkserver()  # a fork of this process might hold locks of its threads for ever
    arguments = (tmp_path, context.Barrier(2))
    # Daemons, or Python would wait at its end for one that hangs.
    processes = [context.Process(target=_fill, args=arguments, daemon=True) for _ in "ab"]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    assert [path.suffix for path in tmp_path.rglob("*") if path.is_file()] == [".flow"]
    assert_is_flow(FlowCache(tmp_path, "dis").flows(CONTENTS, refuse))
