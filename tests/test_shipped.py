"""The weights in the box compute what they did when they were shipped.

    python -m tests.test_shipped NAME       after weights were shipped on purpose: keep their output

A change of a kernel, a padding or a place that is sampled shows here, however small it is.
"""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from models.blocks import flow_warp
from models.checkpoint import load_network
from models.weights import SHIPPED
from utils.files import file_sha256

GOLDEN = Path(__file__).parent / "data" / "shipped"
THERE = {name: path for name, path in SHIPPED.items() if path.is_file()}
SAMPLE = (slice(None), slice(None), slice(1, None, 5), slice(2, None, 5))


def output_of(path):
    """Every fifth pixel of what the weights make of three noisy frames, (5, 3, 13, 16)."""
    generator = torch.Generator().manual_seed(0)
    ramp = torch.linspace(0, 1, 20).expand(1, 3, 3, 16, 20)
    frames = (ramp + 0.1 * torch.rand(1, 3, 3, 16, 20, generator=generator)).clamp(0, 1)
    flows = 1.5 * torch.randn(2, 1, 2, 2, 16, 20, generator=generator)
    network, _ = load_network(path)
    with torch.no_grad():
        return network(frames, *flows)[0][SAMPLE].numpy()


def test_there_are_weights_in_the_box():
    assert THERE


@pytest.mark.parametrize("name", THERE)
def test_the_file_is_the_one_that_is_described(name):
    description = json.loads(THERE[name].with_suffix(".json").read_text())
    assert description["sha256"] == file_sha256(THERE[name])


@pytest.mark.parametrize("name", THERE)
def test_the_output_is_the_one_that_was_shipped(name):
    golden = np.load(GOLDEN / f"{name}.npy")
    # The order of sums, which threads and kernels change, shows in the sixth digit.
    np.testing.assert_allclose(output_of(THERE[name]), golden, atol=2e-5, rtol=3e-5)


@pytest.mark.parametrize("change", ["padding", "kernel", "place"])
def test_a_small_change_would_show(monkeypatch, change):
    name = "small"  # whose skip enlarges and warps bicubic frames
    if change == "padding":
        monkeypatch.setattr(
            "models.blocks.flow_warp", lambda x, flow, padding="zeros", **o: flow_warp(x, flow, **o)
        )
    elif change == "kernel":
        interpolate = torch.nn.functional.interpolate

        def other_kernel(x, *sizes, antialias=False, **options):
            return interpolate(x, *sizes, **options)  # a = -0.75 instead of -0.5

        monkeypatch.setattr("models.blocks.F.interpolate", other_kernel)
    else:
        monkeypatch.setattr(
            "models.blocks.flow_warp", lambda x, flow, *o, **k: flow_warp(x, flow + 0.02, *o, **k)
        )
    golden = np.load(GOLDEN / f"{name}.npy")
    assert np.abs(output_of(THERE[name]) - golden).max() > 2e-4  # ten times what passes


def test_other_weights_beside_a_description_are_refused(tmp_path):
    path = next(iter(THERE.values()))
    copy = tmp_path / path.name
    copy.write_bytes(path.read_bytes()[:-1] + b"\0")
    copy.with_suffix(".json").write_text(path.with_suffix(".json").read_text())
    with pytest.raises(ValueError, match="its SHA-256 differs"):
        load_network(copy)


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    np.save(GOLDEN / f"{sys.argv[1]}.npy", output_of(SHIPPED[sys.argv[1]]))
