"""Every fast path of the network against the slow, obvious one, gradients included."""

import pytest
import torch
import torch.nn.functional as F

import models.mstt
import models.transformer
from benchmarks.obvious import obvious
from models import MSTT
from models.blocks import channels_last, frame_by_frame
from models.mstt import Reconstruction, shuffled_convolution
from models.transformer import patch_attention


def random_inputs(size, count=2):
    generator = torch.Generator().manual_seed(1)
    frames = torch.rand(1, count, 3, *size, generator=generator)
    return frames, *torch.randn(2, 1, count - 1, 2, *size, generator=generator)


def random_network(**options):
    torch.manual_seed(0)
    network = MSTT(16, 2, 1, 1, **options)
    # The released start puts every offset at zero, where there is nothing to sample between pixels.
    torch.nn.init.normal_(network.interpolation.alignment.dcnpack.conv_offset_mask.weight, std=0.05)
    return network


@pytest.mark.parametrize("coupling", ["released", "symmetric"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_network_equals_the_obvious_formulation(coupling, layout):
    network = random_network(coupling=coupling).to(memory_format=layout).eval()
    inputs = random_inputs((80, 160), count=3)  # wider than a tile
    with torch.inference_mode():
        torch.testing.assert_close(
            network(*inputs), obvious(network)(*inputs), atol=1e-5, rtol=1e-5
        )


@pytest.mark.parametrize("options", [{}, {"coupling": "symmetric", "midpoint_flow": True}])
def test_gradients_equal_those_of_the_obvious_formulation(options):
    network = random_network(**options).double()
    other = obvious(network).double()
    inputs = [x.double() for x in random_inputs((80, 80))]
    for formulation in (network, other):
        formulation(*inputs).square().sum().backward()
    # The keys' bias has no gradient but rounding: it adds the same to every score of a query.
    total = torch.cat([p.grad.flatten() for p in other.parameters()]).norm()
    for (name, fast), slow in zip(network.named_parameters(), other.parameters(), strict=True):
        error = (fast.grad - slow.grad).norm()
        assert error < 1e-6 * slow.grad.norm() + 1e-12 * total, name


@pytest.mark.parametrize("size", [(17, 40), (33, 12)])
def test_enlarging_in_tiles_changes_nothing(size, monkeypatch):
    monkeypatch.setattr(models.mstt, "TILE", 10)
    torch.manual_seed(0)
    stage = Reconstruction(8, 1)
    features = torch.randn(1, 2, 8, *size)
    with torch.no_grad():
        tiled = stage(features)
    torch.testing.assert_close(tiled, stage(features).detach(), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_shuffled_convolution_equals_its_parts(layout):
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(3, 20, 3, padding=1).double()
    x = torch.randn(2, 3, 5, 7, dtype=torch.double, requires_grad=True)
    fast = shuffled_convolution(x.contiguous(memory_format=layout), conv)
    slow = F.leaky_relu(F.pixel_shuffle(conv(x), 2), 0.1)
    torch.testing.assert_close(fast, slow)
    assert fast.is_contiguous(memory_format=torch.channels_last)
    leaves, weight = (x, conv.weight, conv.bias), torch.randn_like(slow)
    gradients = [torch.autograd.grad(y, leaves, weight) for y in (fast, slow)]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("size", [(20, 30), (13, 17)])
def test_attention_in_blocks_equals_fused_attention(size, monkeypatch):
    monkeypatch.setattr(models.transformer, "SCORES", 1)  # blocks of 64 queries
    parts = torch.randn(3, 6, 4, *size, generator=torch.Generator().manual_seed(0))

    def fused(query, key, value):
        return F.scaled_dot_product_attention(query[:, None], key[:, None], value[:, None])[:, 0]

    with torch.no_grad():
        blocks = patch_attention(*parts, patch=2, frames=3)
    leaves = [part.requires_grad_() for part in parts.unbind()]
    at_once = patch_attention(*leaves, patch=2, frames=3)
    monkeypatch.setattr(models.transformer, "_attend", fused)
    slow = patch_attention(*leaves, patch=2, frames=3)
    torch.testing.assert_close(blocks, slow.detach(), atol=1e-6, rtol=1e-5)
    gradients = [torch.autograd.grad(y.square().sum(), leaves) for y in (at_once, slow)]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_frame_by_frame_sees_one_frame_only_without_gradients():
    seen = []

    def stage(x):
        seen.append(len(x))
        return 2 * x

    x = channels_last(torch.randn(3, 2, 4, 4))
    with torch.no_grad():
        torch.testing.assert_close(frame_by_frame(stage, x), 2 * x, rtol=0, atol=0)
    frame_by_frame(stage, x)
    assert seen == [1, 1, 1, 3]
