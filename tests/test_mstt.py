"""The network against the released network's own output, and its promises on shapes and skips."""

import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from models import MSTT, build_network
from utils.checkpoint import load_network

REFERENCE = Path(__file__).parent / "data"


def reference_weights():
    """The released names with the weights that the reference was computed with."""
    weights = {}
    for line in (REFERENCE / "mstt_state_dict.txt").read_text().splitlines():
        name, _, shape = line.partition(" ")
        shape = tuple(int(size) for size in shape.strip("()").split(",") if size)
        rng = np.random.default_rng(zlib.crc32(f"mstt-reference:{name}".encode()))
        values = rng.standard_normal(shape)
        scale = 0.05 if name.endswith("bias") else 0.7 / np.sqrt(np.prod(shape[1:]))
        weights[name] = torch.from_numpy((values * scale).astype(np.float32))
    return weights


@pytest.fixture(scope="module")
def reference():
    return np.load(REFERENCE / "mstt_reference.npz")


@pytest.fixture(scope="module")
def inputs(reference):
    frames = torch.from_numpy(reference["frames"]).permute(0, 3, 1, 2)[None] / 255
    flows = (
        torch.from_numpy(reference[name]).permute(0, 3, 1, 2)[None]
        for name in ("forward_flow", "backward_flow")
    )
    return frames, *flows


@pytest.fixture(scope="module")
def released_network(tmp_path_factory):
    path = tmp_path_factory.mktemp("released") / "4x_released.pth"
    torch.save(reference_weights(), path)
    network, information = load_network(path)
    assert information["origin"] == "released code"
    return network


def random_inputs(height=32, width=32, count=4, batch=1, motion=0.5):
    generator = torch.Generator().manual_seed(1)
    frames = torch.rand(batch, count, 3, height, width, generator=generator)
    flows = torch.randn(2, batch, count - 1, 2, height, width, generator=generator) * motion
    return frames, *flows


def test_default_size_has_the_papers_parameters():
    assert sum(p.numel() for p in MSTT().parameters()) == 5_664_283


def test_small_size_is_about_a_million():
    assert sum(p.numel() for p in build_network("small").parameters()) == 1_264_891


def test_output_and_intermediate_maps_equal_the_released_network(
    released_network, reference, inputs
):
    maps = {}
    network = released_network
    hooks = [
        network.extraction.register_forward_hook(lambda m, i, o: maps.update(features=o)),
        network.interpolation.alignment.register_forward_hook(
            lambda m, i, o: maps.update(aligned=o)
        ),
        network.interpolation.register_forward_hook(lambda m, i, o: maps.update(between=o)),
        network.transformer.register_forward_hook(lambda m, i, o: maps.update(attended=o)),
    ]
    with torch.inference_mode():
        output = network(*inputs)
    for hook in hooks:
        hook.remove()
    seen = {
        "feature_extraction": maps["features"][0, :, ::8, ::4, ::4],
        "aligned_0_to_1": maps["aligned"][0, ::8, ::4, ::4],
        "interpolated_0": maps["between"][0, 1, ::8, ::4, ::4],
        "transformer": (maps["between"] + maps["attended"])[0, :, ::8, ::4, ::4],
        "output": output[0, :, :, ::4, ::4],
    }
    for name, value in seen.items():
        np.testing.assert_allclose(value, reference[name], atol=1e-4, rtol=0, err_msg=name)
