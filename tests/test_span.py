"""A start from SPAN's published weights: the network made of them computes what SPAN does."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from trainings import run_here

from models.blocks import mean_of_neighbours
from models.checkpoint import load_network
from models.extraction import MEAN, SpanExtraction
from tests.test_mstt import random_inputs
from training.span import read_ncnn, start_from_span

CHANNELS = 6


def layer_shapes():
    shapes = {"conv_1/eval_conv": (CHANNELS, 3, 3, 3)}
    for block in range(1, 7):
        for place in range(1, 4):
            shapes[f"block_{block}/c{place}_r/eval_conv"] = (CHANNELS, CHANNELS, 3, 3)
    return shapes | {
        "conv_2/eval_conv": (CHANNELS, CHANNELS, 3, 3),
        "conv_cat": (CHANNELS, 4 * CHANNELS, 1, 1),
        "upsampler/upsampler.0": (48, CHANNELS, 3, 3),
    }


def write_ncnn(path, half=True):
    """A SPAN of few channels in ncnn's format; returns its weights and biases."""
    generator = np.random.default_rng(0)
    lines = ["7767517", "0 0", "Input data 0 1 data"]
    lines.append("MemoryData mean 0 1 mean 0=1 1=1 2=3")
    data, layers = np.array(MEAN, np.float32).tobytes(), {}
    for name, shape in layer_shapes().items():
        weight = generator.normal(0, 0.3 / np.sqrt(np.prod(shape[1:])), shape)
        if name == "conv_1/eval_conv":
            weight /= 50  # which sees levels of 0 to 255
        weight = weight.astype("<f2" if half else "<f4")
        bias = generator.normal(0, 0.1, shape[0]).astype("<f4")
        count, side = weight.size, shape[2]
        lines.append(f"Convolution /{name}/Conv 1 1 a b 0={shape[0]} 1={side} 5=1 6={count}")
        lines.append("Swish act 1 1 b c")
        data += (0x01306B47 if half else 0).to_bytes(4, "little") + weight.tobytes()
        data += bytes(-len(data) % 4) + bias.tobytes()
        layers[name] = (torch.tensor(weight.astype(np.float32)), torch.tensor(bias))
    path.write_text("\n".join(lines) + "\n")
    path.with_suffix(".bin").write_bytes(data)
    return layers


def span(layers, frames):
    """SPAN as its paper and its published code have it, layer by layer."""

    def conv(name, x):
        weight, bias = layers[name]
        return F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2)

    first = x = conv("conv_1/eval_conv", 255 * (frames - torch.tensor(MEAN).view(3, 1, 1)))
    outputs = []
    for block in range(1, 7):
        one = F.silu(conv(f"block_{block}/c1_r/eval_conv", x))
        two = F.silu(conv(f"block_{block}/c2_r/eval_conv", one))
        three = conv(f"block_{block}/c3_r/eval_conv", two)
        x = (three + x) * (torch.sigmoid(three) - 0.5)
        outputs.append(x)
    body = conv("conv_2/eval_conv", x)
    joined = conv("conv_cat", torch.cat((first, body, outputs[0], one), dim=1))
    return F.pixel_shuffle(conv("upsampler/upsampler.0", joined), 4)


@pytest.mark.parametrize("half", [True, False])
def test_the_network_starts_as_span(tmp_path, half):
    layers = write_ncnn(tmp_path / "span.param", half)
    read = read_ncnn(tmp_path / "span.param")
    assert sorted(read) == sorted(f"/{name}/Conv" for name in layers)
    network = start_from_span(tmp_path / "span.param", seed=0).eval()
    frames, *flows = random_inputs(24, 20, count=2)
    with torch.no_grad():
        output = network(frames, *flows)
        expected = span(layers, frames[0])[None]
        assert expected.std() > 0.05
        torch.testing.assert_close(output[:, ::2], expected, atol=1e-5, rtol=1e-4)
        between = mean_of_neighbours(expected, *flows, mode="bicubic")
    torch.testing.assert_close(output[:, 1::2], between, atol=1e-5, rtol=1e-4)


def test_what_the_wider_network_has_more_can_learn(tmp_path):
    """Every weight that leads into SPAN's channels from the new ones has a gradient."""
    write_ncnn(tmp_path / "span.param")
    network = start_from_span(tmp_path / "span.param", seed=0)
    network(*random_inputs(20, 20, count=2)).square().mean().backward()
    for block in network.extraction.blocks:
        for conv in (block.conv1, block.conv2, block.conv3):
            assert (conv.weight[:CHANNELS, CHANNELS:] == 0).all()
            assert conv.weight.grad[:CHANNELS, CHANNELS:].abs().max() > 0
    for weight in (
        network.reconstruction.conv_last.weight,
        network.skip_refinement.conv_last.weight,
    ):
        assert weight.grad.abs().max() > 0


def test_from_scratch_every_block_learns():
    """SPAN's attention is nearly zero where its convolutions find little."""
    torch.manual_seed(0)
    extraction = SpanExtraction(64, 6)
    sizes = []
    for block in extraction.blocks:
        block.register_forward_hook(lambda block, inputs, outputs: sizes.append(outputs[0].std()))
    frames = torch.rand(1, 1, 3, 24, 24, generator=torch.Generator().manual_seed(1))
    extraction(frames).square().mean().backward()
    assert all(0.2 < size < 20 for size in sizes), sizes
    gradients = [weight.grad.norm() for weight in extraction.parameters() if weight.ndim == 4]
    assert min(gradients) > 1e-3 * max(gradients)


def test_the_command_writes_weights_that_load(tmp_path):
    write_ncnn(tmp_path / "span.param")
    assert run_here("training.span", tmp_path / "span.param", tmp_path / "a.safetensors") == 0
    network, information = load_network(tmp_path / "a.safetensors")
    assert network.options["global_skip"] == "neighbours"
    assert "SPAN" in information["started_from"]


def test_other_files_are_refused(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"no .*a\.param"):
        read_ncnn(tmp_path / "a.param")
    write_ncnn(tmp_path / "a.param")
    data = (tmp_path / "a.bin").read_bytes()
    text = (tmp_path / "a.param").read_text()
    for broken in (data[:-9], data + b"0000", data[:12] + b"0123" + data[16:]):
        (tmp_path / "a.bin").write_bytes(broken)
        with pytest.raises(ValueError, match=r"its \.bin"):
            read_ncnn(tmp_path / "a.param")
    (tmp_path / "a.bin").write_bytes(data)
    (tmp_path / "a.param").write_text(text.replace("block_6", "block_7"))
    with pytest.raises(ValueError, match="not a SPAN of 6 blocks"):
        start_from_span(tmp_path / "a.param", seed=0)
    (tmp_path / "a.param").write_text(text + "Convolution a\n")
    with pytest.raises(ValueError, match=r"its \.bin"):
        read_ncnn(tmp_path / "a.param")
    (tmp_path / "a.param").write_text("hello\n")
    with pytest.raises(ValueError, match="not a network of ncnn"):
        read_ncnn(tmp_path / "a.param")
    monkeypatch.setitem(globals(), "CHANNELS", 66)
    write_ncnn(tmp_path / "a.param")
    with pytest.raises(ValueError, match=r"66 x 3 channels do not fit into \(64, 3, 3, 3\)"):
        start_from_span(tmp_path / "a.param", seed=0)
