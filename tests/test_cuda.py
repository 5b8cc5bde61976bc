"""What has to hold on a GPU. MSTT_TEST_DEVICE=cpu rehearses all of it on a CPU."""

import os

import numpy as np
import pytest
import torch

import enhance
from dcn import DCNv2, backend, deform_conv2d
from dcn.reference import deform_conv2d_gather
from media.images import write_image
from media.open import open_source
from models import MSTT
from models.checkpoint import load_network, load_torch_file, save_network
from models.inference import autocast, super_resolve
from tests.enhancing import make_frames
from tests.test_dcn import random_case, relative_error
from tests.test_dcn import run as output_and_gradients
from tests.test_fast import NEIGHBOURS, NEWER, random_inputs, random_network
from tests.trainings import Training, team_of

DEVICE = os.environ.get("MSTT_TEST_DEVICE") or ("cuda" if torch.cuda.is_available() else "")
pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not DEVICE, reason="no GPU; MSTT_TEST_DEVICE=cpu rehearses"),
]
LAYOUTS = [torch.contiguous_format, torch.channels_last]
BACKENDS = ["native"] if DEVICE == "cpu" else ["triton", "torchvision"]


@pytest.fixture(params=[*BACKENDS, "reference"])
def chosen(request, monkeypatch):
    """A backend of the deformable convolution, forced."""
    monkeypatch.setenv("MSTT_DCN_BACKEND", request.param)
    try:
        backend(torch.zeros(1, device=DEVICE))
    except ValueError as error:
        pytest.skip(str(error))
    return request.param


def moved(tensors, layout=torch.contiguous_format):
    """Tensors on the device, float32."""
    formats = [layout if tensor.ndim == 4 else torch.preserve_format for tensor in tensors]
    return [
        tensor.to(DEVICE, torch.float32).contiguous(memory_format=form)
        if tensor.ndim == 4
        else tensor.to(DEVICE, torch.float32)
        for tensor, form in zip(tensors, formats, strict=True)
    ]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "case",
    [
        {"channels": 64, "outputs": 64, "groups": 8, "size": (20, 33)},
        {"channels": 6, "groups": 3, "size": (7, 5), "stride": (2, 1), "dilation": (1, 2)},
    ],
)
def test_deformable_convolution_and_its_gradients(chosen, layout, case):
    tensors, geometry = random_case(**case)
    # Exact in float32 and never a whole pixel, where rounding would choose another gradient.
    tensors[1] = (tensors[1] * 64).round() / 64 + 1 / 128
    expected = output_and_gradients(deform_conv2d_gather, tensors, geometry)
    generator = torch.Generator().manual_seed(1)
    grad = torch.randn(expected[0].shape, generator=generator, dtype=torch.float64)
    results = output_and_gradients(
        deform_conv2d, moved(tensors, layout), geometry, grad.to(DEVICE, torch.float32)
    )
    assert relative_error([result.cpu().double() for result in results], expected) < 1e-5


def test_deformable_convolution_of_nothing(chosen):
    tensors, geometry = random_case(batch=0)
    results = output_and_gradients(
        deform_conv2d, moved(tensors), geometry, torch.zeros(0, 6, 6, 7, device=DEVICE)
    )
    assert [tuple(result.shape) for result in results[1:]] == [tuple(t.shape) for t in tensors]


def test_deformable_convolution_under_autocast(chosen):
    torch.manual_seed(0)
    layer = DCNv2(8, 8, groups=2).to(DEVICE)
    torch.nn.init.normal_(layer.conv_offset_mask.weight, std=0.1)
    x = torch.randn(1, 8, 12, 13, device=DEVICE)
    exact = layer(x, x)
    with torch.autocast(torch.device(DEVICE).type, torch.bfloat16):
        low = layer(x.bfloat16(), x.bfloat16())
    assert low.dtype == torch.bfloat16
    assert (low.float() - exact).abs().max() < 0.05 * exact.abs().max()


@pytest.mark.parametrize("options", [{}, NEWER, NEIGHBOURS])
@pytest.mark.parametrize("size", [(80, 80), (33, 40)])  # the second pads the attention
def test_the_network_and_its_gradients_equal_those_of_the_cpu(options, size):
    network, inputs = random_network(**options), random_inputs(size)
    expected = network(*inputs)
    expected.square().mean().backward()
    gradients = {name: p.grad.clone() for name, p in network.named_parameters()}
    network.zero_grad()
    network.to(DEVICE, memory_format=torch.channels_last)
    inputs = [x.to(DEVICE) for x in inputs]
    with autocast(torch.device(DEVICE), "float32"):
        output = network(*inputs)
    output.square().mean().backward()
    torch.testing.assert_close(output.cpu(), expected, atol=1e-4, rtol=1e-4)
    total = torch.cat([grad.flatten() for grad in gradients.values()]).norm()
    for name, parameter in network.named_parameters():
        error = (parameter.grad.cpu() - gradients[name]).norm()
        assert error < 1e-3 * gradients[name].norm() + 1e-5 * total, name
    device_type = torch.device(DEVICE).type
    with torch.no_grad(), torch.autocast(device_type, torch.bfloat16):
        low = network(*inputs).float().cpu()
    assert (low - expected).abs().mean() < 1e-2 * expected.abs().mean() + 1e-3


@pytest.mark.parametrize("precision", ["float32", "auto"])
def test_the_flow_of_enhanced_frames(precision):
    """Both flows, before the propagation and behind it."""
    network, frames = random_network(**NEIGHBOURS).eval(), make_frames(3, 40, 48)
    settings = {"flow_method": "enhanced", "precision": precision}
    expected, found = (
        np.stack(list(super_resolve(network.to(device), frames, device=device, **settings)))
        for device in ("cpu", DEVICE)
    )
    assert np.abs(found.astype(int) - expected).mean() < (0.1 if precision == "float32" else 3)


def test_a_training_stops_resumes_and_loads_on_a_cpu(data):
    flags = ("--device", DEVICE, "--batch", "2", "--precision", "auto", "--run", "gpu", "--steps")
    first = Training(data, *flags, "2")
    assert first.wait() == 0, first.err
    second = Training(data, *flags, "4", "--resume")
    assert second.wait() == 0, second.err
    assert load_torch_file(data / "gpu" / "last.pt")["step"] == 4
    for name in ("best.pt", "best.safetensors"):
        network, _ = load_network(data / "gpu" / name, "cpu")
        assert all(torch.isfinite(p).all() for p in network.parameters())


@pytest.mark.skipif(
    DEVICE != "cpu" and torch.cuda.device_count() < 2, reason="for two GPUs or more"
)
def test_two_processes_train_together(data):
    device = DEVICE.split(":")[0]
    team = team_of(2, data, "--device", device, "--batch", "2", "--steps", "2", "--run", "team")
    assert [training.wait() for training in team] == [0, 0], team[0].err
    assert load_torch_file(data / "team" / "last.pt")["step"] == 2


@pytest.fixture
def weights(tmp_path):
    torch.manual_seed(0)
    network = MSTT(16, 2, 1, 1, **NEWER)
    torch.nn.init.normal_(network.reconstruction.conv_last.weight, std=0.01)
    save_network(tmp_path / "net.safetensors", network, {"flow_method": "dis"})
    return tmp_path / "net.safetensors"


def test_evaluation_equals_that_of_the_cpu(weights):
    frames = np.random.default_rng(0).integers(0, 256, (5, 33, 40, 3), dtype=np.uint8)
    outputs = [
        np.stack(list(super_resolve(load_network(weights, device)[0], frames, "dis", device)))
        for device in ("cpu", DEVICE)
    ]
    difference = outputs[0].astype(int) - outputs[1]
    assert np.abs(difference).max() <= 1  # level of 255
    assert (difference != 0).mean() < 0.01


def test_enhancing_in_tiles_equals_that_of_the_cpu(weights, tmp_path):
    noise = np.random.default_rng(0)
    (tmp_path / "frames").mkdir()
    for number in range(3):
        frame = noise.integers(0, 256, (90, 130, 3), dtype=np.uint8)
        write_image(tmp_path / "frames" / f"{number}.png", frame)
    results = []
    for device in ("cpu", DEVICE):
        out = tmp_path / f"on {device} {len(results)}"
        flags = ("--model", weights, "--device", device, "--tile", 80, "--precision", "float32")
        enhance.main([str(word) for word in (tmp_path / "frames", out, *flags)])
        source = open_source(out)
        results.append(np.stack([source.read(index) for index in range(source.count)]))
    assert np.abs(results[0].astype(int) - results[1]).max() <= 1
