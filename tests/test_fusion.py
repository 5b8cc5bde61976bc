"""Frame fusion: neighbours clean each given frame before the network sees it."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from enhancing import make_frames, read_all, run, write_frames

from models import MSTT, load_network
from models.blocks import flow_warp
from models.checkpoint import save_network
from models.fusion import FrameFusion
from models.inference import super_resolve
from models.mstt import widened

TINY = {"channels": 8, "groups": 2, "front_blocks": 1, "back_blocks": 1}


@pytest.fixture
def fusion():
    torch.manual_seed(0)
    fusion = FrameFusion()
    torch.nn.init.normal_(fusion.conv_last.weight, std=0.3)
    return fusion


def some_inputs(count, dtype=torch.float32):
    generator = torch.Generator().manual_seed(3)
    frames = torch.rand(2, count, 3, 16, 20, generator=generator, dtype=dtype)
    flows = torch.randn(2, 2, count - 1, 2, 16, 20, generator=generator, dtype=dtype)
    return frames, flows[0], flows[1]


def obvious(fusion, frames, forward_flow, backward_flow):
    """Frame by frame, from the formula."""
    cleaned = []
    for i in range(frames.shape[1]):
        frame, previous, following = frames[:, i], frames[:, i], frames[:, i]
        if i > 0:
            flow = backward_flow[:, i - 1]
            previous = flow_warp(frames[:, i - 1], flow, padding="border", mode="bicubic")
        if i + 1 < frames.shape[1]:
            flow = forward_flow[:, i]
            following = flow_warp(frames[:, i + 1], flow, padding="border", mode="bicubic")
        x = torch.cat((frame, 10 * (previous - frame), 10 * (following - frame)), dim=1)
        for conv, slope in ((fusion.conv_first, 0.1), *((c, None) for c in fusion.blocks)):
            if slope is None:
                inside = F.relu(F.conv2d(x, conv.conv1.weight, conv.conv1.bias, padding=1))
                x = x + F.conv2d(inside, conv.conv2.weight, conv.conv2.bias, padding=1)
            else:
                x = F.leaky_relu(F.conv2d(x, conv.weight, conv.bias, padding=1), slope)
        x = F.conv2d(x, fusion.conv_last.weight, fusion.conv_last.bias, padding=1)
        first, second, residual = x[:, :1], x[:, 1:2], x[:, 2:]
        change = first * (previous - frame) + second * (following - frame)
        cleaned.append(frame + change + residual)
    return torch.stack(cleaned, dim=1)


@pytest.mark.parametrize("count", [2, 4])
def test_it_is_its_formula_gradients_included(fusion, count):
    fusion = fusion.double()
    inputs = some_inputs(count, torch.float64)
    gradients = []
    for formula in (fusion, lambda *given: obvious(fusion, *given)):
        frames = inputs[0].clone().requires_grad_()
        output = formula(frames, *inputs[1:])
        output.sin().sum().backward()
        weights = [p.grad.clone() for p in fusion.parameters()]
        fusion.zero_grad()
        gradients.append((output.detach(), frames.grad, *weights))
    for ours, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-6, atol=1e-6)


def test_a_frame_alone_stays_as_it_is(fusion):
    frames = torch.rand(2, 1, 3, 16, 16)
    assert fusion(frames, frames.new_zeros(2, 0, 2, 16, 16), frames) is frames


def test_it_can_be_added_to_any_network_and_starts_at_nothing(tmp_path):
    torch.manual_seed(0)
    network = MSTT(**TINY).eval()
    wider = widened(network, frame_fusion=True).eval()
    inputs = some_inputs(3)
    with torch.no_grad():
        assert torch.equal(network(*inputs), wider(*inputs))
        torch.nn.init.normal_(wider.frame_fusion.conv_last.weight, std=0.3)
        changed = wider(*inputs)
    assert not torch.allclose(network(*inputs), changed, atol=1e-3)
    assert widened(wider, frame_fusion=True) is wider
    save_network(tmp_path / "wider.safetensors", wider, {"flow_method": "dis"})
    loaded, _ = load_network(tmp_path / "wider.safetensors")
    with torch.no_grad():
        assert torch.equal(loaded(*inputs), changed)


def test_it_learns_that_the_mean_of_a_still_scene_has_less_noise():
    torch.manual_seed(0)
    fusion = FrameFusion()
    optimiser = torch.optim.Adam(fusion.parameters(), 3e-3)
    still = F.interpolate(torch.rand(1, 3, 6, 6), size=(24, 24), mode="bicubic").clamp(0, 1)
    none = torch.zeros(1, 2, 2, 24, 24)

    def error():
        noisy = still[:, None] + 0.03 * torch.randn(1, 3, 3, 24, 24)
        return (fusion(noisy, none, none)[:, 1] - still).square().mean()

    for _ in range(150):
        optimiser.zero_grad()
        error().backward()
        optimiser.step()
    with torch.no_grad():
        assert error().sqrt() < 0.7 * 0.03  # a third each would give 0.58


FUSED = {"global_skip": "bicubic", "frame_fusion": True}
PROPAGATED = {"global_skip": "enhanced", "propagation_blocks": 1}


@pytest.mark.parametrize("options", [FUSED, PROPAGATED])
def test_enhancing_across_windows_is_what_super_resolve_gives(tmp_path, options):
    """What the network makes of a frame alone is shared by two windows; all else is not."""
    torch.manual_seed(0)
    network = MSTT(**TINY, **options).eval()
    changed = network.frame_fusion or network.propagation.reconstruction
    torch.nn.init.normal_(changed.conv_last.weight, std=0.3)
    path = tmp_path / "network.safetensors"
    save_network(path, network, {})
    frames = make_frames(6)
    given = write_frames(tmp_path / "in", frames)
    for method in ("dis", "enhanced"):
        result = run(path, given, tmp_path / method, "--flow-method", method)
        expected = np.stack(list(super_resolve(network, frames, method)))
        np.testing.assert_array_equal(read_all(result), expected)
