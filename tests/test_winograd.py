"""The Winograd kernel against PyTorch's convolution in float64, gradients included."""

import copy

import pytest
import torch
import torch.nn.functional as F

from models import MSTT
from models.blocks import channels_last
from models.cpu import winograd
from utils.native import NativeBuildError


@pytest.fixture(autouse=True)
def kernel():
    try:
        winograd.library()
    except NativeBuildError as error:
        pytest.skip(str(error))


def make(channels, outputs, dilation=1):
    torch.manual_seed(0)
    return torch.nn.Conv2d(channels, outputs, 3, padding=dilation, dilation=dilation)


def random(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def exact(conv, x, slope=1.0):
    """The definition, in float64."""
    weight, bias = conv.weight.double(), conv.bias.double()
    y = F.conv2d(x.double(), weight, bias, padding=conv.padding, dilation=conv.dilation)
    return F.leaky_relu(y, slope)


def assert_close(fast, slow, tolerance=1e-5):
    error = (fast.double() - slow).abs().max()
    assert error <= tolerance * slow.abs().max(), error


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("size", [(1, 1), (4, 4), (9, 14), (30, 5)])
@pytest.mark.parametrize("channels", [(16, 16), (32, 48), (80, 16)])
@pytest.mark.parametrize("dilation", [1, 2, 3])
def test_equals_the_convolution(size, channels, dilation, layout):
    conv = make(*channels, dilation)
    x = random(2, channels[0], *size).contiguous(memory_format=layout)
    residual = random(2, channels[1], *size)
    with torch.no_grad():
        assert winograd.suits(conv, x)
        fast = winograd.convolve(conv, x, 0.1, residual)
    assert fast.is_contiguous(memory_format=torch.channels_last)
    assert_close(fast, exact(conv, x, 0.1) + residual)


@pytest.mark.parametrize("slope", [1.0, 0.2, 0.0])
@pytest.mark.parametrize("dilation", [1, 2])
def test_gradients_equal_those_of_the_convolution(slope, dilation):
    conv = make(16, 32, dilation)
    x = random(3, 16, 11, 14).requires_grad_()
    residual = random(3, 32, 11, 14).requires_grad_()
    weight = random(3, 32, 11, 14)
    leaves = (x, conv.weight, conv.bias, residual)
    fast = winograd.convolve(conv, x, slope, residual)
    assert_close(fast, exact(conv, x, slope) + residual)
    gradients = torch.autograd.grad((fast * weight).sum(), leaves)
    slow = exact(conv, x, slope) + residual
    for mine, theirs in zip(
        gradients, torch.autograd.grad((slow * weight).sum(), leaves), strict=True
    ):
        assert_close(mine, theirs.double())


def test_channels_that_lie_in_a_wider_map_are_read_right():
    conv, wide = make(16, 16), channels_last(random(1, 48, 8, 8))
    x = wide[:, 16:32, 1:, 2:]
    with torch.no_grad():
        assert_close(winograd.convolve(conv, x), exact(conv, x))


def test_the_number_of_threads_and_images_changes_nothing():
    conv, x = make(16, 16), random(3, 16, 50, 50)
    threads = torch.get_num_threads()
    try:
        with torch.no_grad():
            torch.set_num_threads(1)
            one = winograd.convolve(conv, x)
            torch.set_num_threads(3)
            assert torch.equal(winograd.convolve(conv, x), one)
            assert torch.equal(winograd.convolve(conv, x[1:2]), one[1:2])
    finally:
        torch.set_num_threads(threads)


def test_gradients_repeat_to_the_last_bit():
    conv, x = make(32, 32), random(2, 32, 40, 40)
    first, second = (
        torch.autograd.grad(winograd.convolve(conv, x, 0.1).square().sum(), conv.weight)[0]
        for _ in range(2)
    )
    assert torch.equal(first, second)


def change_in_place(conv):
    conv.weight.data.mul_(2)  # which PyTorch's count of changes does not see


def change_by_state(conv):
    conv.load_state_dict({"weight": random(16, 16, 3, 3), "bias": random(16)})


@pytest.mark.parametrize("change", [change_in_place, change_by_state])
def test_changed_weights_are_seen(change):
    conv, x = make(16, 16), random(1, 16, 8, 8)
    with torch.no_grad():
        winograd.convolve(conv, x)
        change(conv)
        assert_close(winograd.convolve(conv, x), exact(conv, x))
        assert_close(winograd.convolve(copy.deepcopy(conv), x), exact(conv, x))


@pytest.fixture(params=[torch.float64, torch.bfloat16])
def default_type(request):
    torch.set_default_dtype(request.param)
    yield
    torch.set_default_dtype(torch.float32)


def test_pytorchs_default_type_changes_nothing(default_type):
    conv, x = make(16, 16).float(), random(1, 16, 8, 8).float()
    with torch.no_grad():
        fast = winograd.convolve(conv, x)
    assert fast.dtype == torch.float32
    assert_close(fast, exact(conv, x))


def test_planes_do_not_outlive_their_convolution():
    conv, known = make(16, 16), len(winograd._planes)
    with torch.no_grad():
        winograd.convolve(conv, random(1, 16, 8, 8))
    assert len(winograd._planes) == known + 1
    del conv
    assert len(winograd._planes) == known


@pytest.mark.parametrize(
    "other",
    [
        torch.nn.Conv2d(16, 16, 3),
        torch.nn.Conv2d(16, 16, 5, padding=2),
        torch.nn.Conv2d(16, 16, 3, padding=1, stride=2),
        torch.nn.Conv2d(16, 16, 3, padding=1, groups=2),
        torch.nn.Conv2d(16, 16, 3, padding=1, bias=False),
        torch.nn.Conv2d(16, 16, 3, padding=1, padding_mode="reflect"),
        torch.nn.Conv2d(16, 16, 3, padding=(1, 2), dilation=(1, 2)),
        torch.nn.Conv2d(16, 12, 3, padding=1),
        torch.nn.Conv2d(3, 16, 3, padding=1),
        torch.nn.Conv2d(16, 16, 3, padding=1).double(),
    ],
)
def test_leaves_other_convolutions_alone(other):
    assert not winograd.suits(other, random(1, other.in_channels, 8, 8).to(other.weight.dtype))


def test_leaves_bfloat16_and_a_forbidden_kernel_alone(monkeypatch):
    conv, x = make(16, 16), random(1, 16, 8, 8)
    assert winograd.suits(conv, x)
    assert not winograd.suits(conv, x.bfloat16())
    with torch.autocast("cpu", torch.bfloat16):
        assert not winograd.suits(conv, x)
    monkeypatch.setenv(winograd.VARIABLE, "pytorch")
    assert not winograd.suits(conv, x)
    monkeypatch.setenv(winograd.VARIABLE, "fft")
    with pytest.raises(ValueError, match="winograd"):
        winograd.suits(conv, x)


def test_opcheck():
    conv, x = make(16, 16), random(1, 16, 6, 7).requires_grad_()
    planes = winograd._to_planes(conv.weight.detach())
    arguments = (x, conv.weight, planes, conv.bias, None, 0.1, 1)
    torch.library.opcheck(winograd.convolution3x3, arguments)


@pytest.mark.parametrize("gradients", [False, True])
def test_compiles(gradients):
    conv, x = make(16, 64), random(1, 16, 8, 12)
    compiled = torch.compile(winograd.convolve, backend="aot_eager", fullgraph=True)
    with torch.set_grad_enabled(gradients):
        for _ in range(2):
            fast, slow = compiled(conv, x, 0.1), winograd.convolve(conv, x, 0.1)
            torch.testing.assert_close(fast, slow)
            conv.weight.data.mul_(2)
    if gradients:
        leaves = (conv.weight, conv.bias)
        pairs = zip(*(torch.autograd.grad(y.sum(), leaves) for y in (fast, slow)), strict=True)
        for mine, theirs in pairs:
            torch.testing.assert_close(mine, theirs)


def test_network_with_and_without(monkeypatch):
    torch.manual_seed(0)
    network = MSTT(16, 2, 1, 2, coupling="symmetric", midpoint_flow=True)
    frames, flows = random(1, 3, 3, 24, 28).sigmoid(), random(2, 1, 2, 2, 24, 28)
    results = {}
    for choice in winograd.CHOICES:
        monkeypatch.setenv(winograd.VARIABLE, choice)
        with torch.no_grad():
            inferred = network(frames, *flows)
        network.zero_grad()
        output = network(frames, *flows)
        output.square().mean().backward()
        gradient = torch.cat([p.grad.flatten() for p in network.parameters()])
        results[choice] = (inferred, output.detach(), gradient)
    for fast, slow in zip(*results.values(), strict=True):
        assert_close(fast, slow.double(), 1e-4)


def test_without_a_compiler_pytorch_convolves_unless_the_kernel_is_asked_for(monkeypatch):
    def fail(source):
        raise NativeBuildError("no working C++ compiler")

    monkeypatch.setattr(winograd, "load_library", fail)
    winograd.library.cache_clear()
    conv, x = make(16, 16), random(1, 16, 8, 8)
    try:
        assert not winograd.suits(conv, x)
        monkeypatch.setenv(winograd.VARIABLE, "winograd")
        with pytest.raises(ValueError, match=r"=winograd cannot be used here: no working C\+\+"):
            winograd.suits(conv, x)
    finally:
        winograd.library.cache_clear()
