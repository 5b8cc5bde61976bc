"""Every fast path of the network against the slow, obvious one, gradients included."""

import pytest
import torch
import torch.nn.functional as F

import models.cpu.attention
import models.cpu.enlargement
import models.transformer
from benchmarks.obvious import obvious
from models import MSTT
from models.blocks import bicubic_flow_baseline, channels_last, frame_by_frame, lacking
from models.ensemble import Ensemble
from models.layers import Conv
from models.reconstruction import DirectReconstruction, Reconstruction
from models.transformer import patch_attention


def random_inputs(size, count=2):
    generator = torch.Generator().manual_seed(1)
    frames = torch.rand(1, count, 3, *size, generator=generator)
    return frames, *torch.randn(2, 1, count - 1, 2, *size, generator=generator)


# Every choice that MSTT has, other than the released ones.
NEWER = {
    "midpoint_flow": True,
    "global_skip": "enhanced",
    "skip_refinement": True,
    "extraction": "span",
    "offset_channels": 8,
    "offset_limit": 0.5,
    "attention_channels": 16,
    "enlargement": "direct",
}
LARGE = NEWER | {"extraction": "dat", "channels": 64, "front_blocks": 3, "propagation_blocks": 1}
NEIGHBOURS = NEWER | {"global_skip": "neighbours", "frame_fusion": True, "propagation_blocks": 1}


def random_network(**options):
    torch.manual_seed(0)
    few = {"channels": 16, "groups": 2, "front_blocks": 1, "back_blocks": 1}
    network = MSTT(**(few | options))
    if network.frame_fusion is not None:
        torch.nn.init.normal_(network.frame_fusion.conv_last.weight, std=0.05)
    if network.propagation is not None:
        torch.nn.init.normal_(network.propagation.share.weight, std=0.05)
    if network.skip_refinement is not None:
        torch.nn.init.normal_(network.skip_refinement.conv_last.weight, std=0.05)
    if network.global_skip == "neighbours":
        # Places in a frame of 640 pixels are rounded to 4e-5 of one, which shows in steep noise.
        network.reconstruction.conv_last.weight.data.mul_(0.02)
    # The released start puts every offset at zero, where there is nothing to sample between pixels.
    torch.nn.init.normal_(network.interpolation.alignment.dcnpack.conv_offset_mask.weight, std=0.05)
    return network


@pytest.mark.parametrize("options", [{}, {"coupling": "symmetric"}, NEWER, NEIGHBOURS])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_network_equals_the_obvious_formulation(options, layout):
    network = random_network(**options).to(memory_format=layout).eval()
    inputs = random_inputs((80, 160))  # wider than a tile
    with torch.inference_mode():
        torch.testing.assert_close(
            network(*inputs), obvious(network)(*inputs), atol=3e-5, rtol=1e-5
        )


@pytest.mark.parametrize(
    "options", [{"coupling": "symmetric", "midpoint_flow": True}, NEWER, NEIGHBOURS]
)
def test_gradients_equal_those_of_the_obvious_formulation(options):
    network = random_network(**{"channels": 8} | options).double()  # half as wide, for speed
    other = obvious(network).double()
    inputs = [x.double() for x in random_inputs((80, 80))]
    for formulation in (network, other):
        formulation(*inputs).square().sum().backward()
    # The keys' bias has no gradient but rounding: it adds the same to every score of a query.
    total = torch.cat([p.grad.flatten() for p in other.parameters()]).norm()
    for (name, fast), slow in zip(network.named_parameters(), other.parameters(), strict=True):
        error = (fast.grad - slow.grad).norm()
        assert error < 1e-10 * slow.grad.norm() + 1e-12 * total, name


@pytest.mark.filterwarnings("ignore:strong noise")  # which random weights take badly
@pytest.mark.parametrize("options", [NEIGHBOURS, LARGE])
def test_a_network_of_float64_gives_float64(options):
    network = random_network(**options).double().eval()
    network.guarded = True
    inputs = [x.double() for x in random_inputs((16, 20))]
    with torch.no_grad():
        assert network(*inputs).dtype == torch.float64
        assert bicubic_flow_baseline(*inputs).dtype == torch.float64
        if options is NEIGHBOURS:
            assert Ensemble(network)(*inputs).dtype == torch.float64


@pytest.mark.parametrize(("channels", "size"), [(8, (33, 12)), (16, (17, 40))])
def test_enlarging_in_tiles_changes_nothing(channels, size, monkeypatch):
    """Without and with the Winograd kernel, which takes multiples of 16 channels."""
    torch.manual_seed(0)
    stage = Reconstruction(channels, 1)
    features = torch.randn(1, 2, channels, *size)
    with torch.no_grad():
        whole = stage.enlarge(features)
        monkeypatch.setattr(models.cpu.enlargement, "TILE", 10)
        tiled = stage.enlarge(features)
    torch.testing.assert_close(tiled, whole, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(tiled, stage.enlarge(features).detach(), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("slope", [0, 0.1])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_convolution_with_its_activation_equals_the_two(slope, precision):
    torch.manual_seed(0)
    conv = Conv(8, 16, kernel=5, slope=slope)
    x, residual = channels_last(torch.randn(2, 8, 7, 9)), channels_last(torch.randn(2, 16, 7, 9))
    low = precision == "bfloat16"
    with torch.autocast("cpu", torch.bfloat16, enabled=low):
        fast = conv(x, residual)
        convolved = F.conv2d(x, conv.weight, conv.bias, padding=2)
        slow = F.leaky_relu(convolved, slope) + residual.to(convolved.dtype)
    torch.testing.assert_close(fast, slow, rtol=0, atol=0)
    assert fast.is_contiguous(memory_format=torch.channels_last)
    for mine, theirs in zip(
        torch.autograd.grad(fast.sum(), conv.parameters()),
        torch.autograd.grad(slow.sum(), conv.parameters()),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("size", [(20, 30), (13, 17)])
def test_attention_in_blocks_equals_fused_attention(size, monkeypatch):
    monkeypatch.setattr(models.cpu.attention, "SCORES", 1)  # blocks of 64 queries
    parts = torch.randn(3, 6, 4, *size, generator=torch.Generator().manual_seed(0))

    def fused(query, key, value):
        return F.scaled_dot_product_attention(query[:, None], key[:, None], value[:, None])[:, 0]

    with torch.no_grad():
        blocks = patch_attention(*parts, patch=2, frames=3)
    leaves = [part.requires_grad_() for part in parts.unbind()]
    at_once = patch_attention(*leaves, patch=2, frames=3)
    monkeypatch.setattr(models.transformer, "attend", fused)
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


@pytest.mark.parametrize(
    ("sides", "counts"), [((8, 10), [2, 1]), ((8, 4), [3]), ((16, 10), [1, 1, 1])]
)
def test_a_gpu_takes_small_frames_together_and_large_ones_alone(monkeypatch, sides, counts):
    monkeypatch.setattr("models.blocks.TOGETHER", 2 * 8 * 10)
    seen = []

    class OnGpu(torch.Tensor):
        is_cuda = True

    x = torch.randn(3, 1, *sides)
    with torch.no_grad():
        out = frame_by_frame(lambda part: seen.append(len(part)) or 2 * part, x.as_subclass(OnGpu))
    assert torch.equal(out, 2 * x)
    assert seen == counts


@pytest.mark.parametrize("options", [NEWER, LARGE])
def test_the_network_compiles_into_one_graph_and_exports(options):
    network, inputs = random_network(**options).eval(), random_inputs((16, 20))
    ways = [torch.export.export(network, inputs).module()]
    with pytest.raises(AssertionError, match="size"):  # as docs/scripting.md says
        ways[0](*random_inputs((16, 24)))
    if options is NEWER:  # of the other one, blocks are compiled each by itself; see test_dat.py
        ways.append(torch.compile(network, backend="eager", fullgraph=True))
    with torch.no_grad():
        expected = network(*inputs)
        for way in ways:
            torch.testing.assert_close(way(*inputs), expected, atol=1e-5, rtol=1e-5)


def test_second_derivatives_and_functional_gradients_without_our_kernels(monkeypatch):
    monkeypatch.setenv("MSTT_CONVOLUTION", "pytorch")  # as docs/scripting.md says
    monkeypatch.setenv("MSTT_DCN_BACKEND", "reference")
    network, (frames, *flows) = MSTT(16, 4, 1, 1), random_inputs((16, 16))

    def size(frames):
        return network(frames, *flows).square().mean()

    slope = torch.func.grad(size)(frames)
    (same,) = torch.autograd.grad(size(frames.requires_grad_()), frames, create_graph=True)
    torch.testing.assert_close(slope, same)
    same.square().sum().backward()
    assert frames.grad.abs().sum() > 0


def test_frames_of_another_size_compile():
    """torch.compile keeps a size that has changed as a symbol."""

    def filled(x):
        x = F.pad(x, (0, lacking(x.shape[1], 5)))
        return x * x.shape[1] ** -0.5

    compiled = torch.compile(filled, backend="aot_eager", dynamic=True, fullgraph=True)
    for size, full in ((12, 15), (13, 15), (20, 20)):
        assert compiled(torch.ones(1, size)).shape == (1, full)


def test_bfloat16_does_not_round_grey_levels():
    """With the last convolution in it, a picture without a skip had 8 bits of grey, at best."""
    torch.manual_seed(0)
    stage = DirectReconstruction(16, 1)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        features = stage.trunk(torch.rand(1, 1, 16, 16, 16))
        frames = stage.enlarge(features)
    assert features.dtype == torch.bfloat16
    parameters = stage.conv_last.weight, stage.conv_last.bias
    expected = F.conv2d(features[0].float(), *parameters, padding=1)
    torch.testing.assert_close(frames[0], F.pixel_shuffle(expected, 4), atol=1e-5, rtol=1e-5)
