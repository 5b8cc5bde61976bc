"""Which backend a deformable convolution takes, and DCNv2, the layer around it."""

import math
import sys
import types

import pytest
import torch
import torch.nn.functional as F
from test_dcn import force, relative_error, released, run

import dcn
from dcn import DCNv2, cpu, deform_conv, deform_conv2d
from dcn.reference import deform_conv2d_gather, deform_conv2d_grid_sample
from utils.native import NativeBuildError


@pytest.fixture
def no_compiler(monkeypatch):
    """A machine where the native kernel cannot be built."""

    def fail():
        raise NativeBuildError("no working C++ compiler")

    monkeypatch.delenv(deform_conv.BACKEND_VARIABLE, raising=False)
    monkeypatch.setattr(cpu, "library", fail)
    for function in (deform_conv._native_problem, deform_conv._warn_of_slow_fallback):
        function.cache_clear()
    yield
    deform_conv._native_problem.cache_clear()


def test_backend_can_be_forced(monkeypatch):
    monkeypatch.setenv(deform_conv.BACKEND_VARIABLE, "reference")
    assert dcn.backend(torch.zeros(1)) == "reference"


def test_unknown_backend_lists_what_there_is(monkeypatch):
    monkeypatch.setenv(deform_conv.BACKEND_VARIABLE, "fast")
    with pytest.raises(ValueError, match=r"fast is not a backend .*usable on cpu: reference"):
        dcn.backend(torch.zeros(1))


def test_unusable_backend_says_why(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setenv(deform_conv.BACKEND_VARIABLE, "triton")
    with pytest.raises(ValueError, match=r"triton (runs on CUDA only|needs the package)"):
        dcn.backend(torch.zeros(1))


def test_native_cannot_be_forced_without_a_compiler(monkeypatch, no_compiler):
    monkeypatch.setenv(deform_conv.BACKEND_VARIABLE, "native")
    with pytest.raises(ValueError, match="no working C"):
        dcn.backend(torch.zeros(1))


def test_without_a_compiler_one_warning_and_the_same_result(no_compiler, recwarn):
    tensors, grad_output, expected = released("random")
    geometry = {"stride": (1, 1), "padding": (1, 1), "dilation": (1, 1)}
    for _ in range(2):
        results = run(deform_conv2d, tensors, geometry, grad_output)
    assert relative_error(results, expected) < 1e-5
    (warning,) = [w for w in recwarn if issubclass(w.category, RuntimeWarning)]
    assert "no working C++ compiler" in str(warning.message)


def trained_layer(**options) -> DCNv2:
    torch.manual_seed(0)
    layer = DCNv2(8, 6, groups=4, **options)
    torch.nn.init.normal_(layer.conv_offset_mask.weight, std=0.2)
    return layer


def test_layer_has_the_released_parameters():
    shapes = {name: tuple(value.shape) for name, value in DCNv2(64, 64).named_parameters()}
    assert shapes == {
        "weight": (64, 64, 3, 3),
        "bias": (64,),
        "conv_offset_mask.weight": (216, 64, 3, 3),
        "conv_offset_mask.bias": (216,),
    }


def test_layer_starts_as_half_a_convolution():
    layer = DCNv2(8, 6, groups=4)
    x, features = torch.randn(2, 8, 5, 6), torch.randn(2, 8, 5, 6)
    expected = 0.5 * F.conv2d(x, layer.weight, padding=1)
    torch.testing.assert_close(layer(x, features), expected, rtol=1e-5, atol=1e-6)
    assert layer.weight.abs().max() <= 1 / math.sqrt(8 * 9)


@pytest.mark.parametrize(
    "options", [{}, {"stride": 2}, {"dilation": 2, "padding": 2}, {"kernel_size": (1, 3)}], ids=str
)
def test_layer_reads_offsets_and_mask_in_thirds(options):
    layer = trained_layer(**options)
    x, features = torch.randn(2, 8, 5, 6), torch.randn(2, 8, 5, 6)
    parameters = layer.conv_offset_mask(features)
    count = parameters.shape[1] // 3
    expected = deform_conv2d_gather(
        x, parameters[:, : 2 * count], layer.weight, layer.bias,
        layer.stride, layer.padding, layer.dilation, torch.sigmoid(parameters[:, 2 * count :]),
    )  # fmt: skip
    torch.testing.assert_close(layer(x, features), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backend", ["reference", "native"])
def test_layer_keeps_offsets_in_float32_under_autocast(monkeypatch, backend):
    force(monkeypatch, backend)
    layer = trained_layer()
    x, features = torch.randn(2, 2, 8, 9, 7).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        output = layer(x, features)
    assert output.dtype == torch.bfloat16
    assert torch.equal(output, layer(x.float(), features.float()).bfloat16())


def test_layer_warns_once_of_large_offsets(recwarn):
    layer = trained_layer()
    x = torch.randn(1, 8, 4, 4)
    layer(x, x)
    assert not recwarn.list
    layer.conv_offset_mask.bias.data.fill_(200)
    layer(x, x)
    layer(x, x)
    (warning,) = recwarn.list
    assert "mean |offset| is 200" in str(warning.message)


def test_layer_warns_of_offsets_that_are_not_numbers():
    layer = trained_layer()
    layer.conv_offset_mask.bias.data.fill_(math.nan)
    with pytest.warns(RuntimeWarning, match="nan"):
        layer(torch.zeros(1, 8, 4, 4), torch.zeros(1, 8, 4, 4))


def test_layer_refuses_other_channels():
    """Twice the channels would be a convolution in two groups."""
    with pytest.raises(ValueError, match=r"x is \(1, 16, 4, 4\); give \(B, 8, H, W\)"):
        DCNv2(8, 8, groups=2)(torch.zeros(1, 16, 4, 4), torch.zeros(1, 8, 4, 4))


def test_layer_refuses_groups_that_do_not_divide():
    with pytest.raises(ValueError, match="groups must divide the 8 input channels, not 3"):
        DCNv2(8, 8, groups=3)


@pytest.fixture
def torchvision_stub(monkeypatch):
    """A torchvision whose operator is there for the CPU only; counts its calls."""
    calls = []

    def operator(input, offset, weight, bias, stride, padding, dilation, mask):
        calls.append(input.shape)
        geometry = (stride, padding, dilation)
        return deform_conv2d_grid_sample(input, offset, weight, bias, *geometry, mask)

    ops = types.ModuleType("torchvision.ops")
    ops.deform_conv2d = operator
    package = types.ModuleType("torchvision")
    package.ops = ops
    monkeypatch.setitem(sys.modules, "torchvision", package)
    monkeypatch.setitem(sys.modules, "torchvision.ops", ops)
    monkeypatch.setattr(deform_conv, "_functions", dict(deform_conv._functions))
    has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key

    def has(name, key):
        ours = name == deform_conv.TORCHVISION_OPERATOR
        return key == "CPU" if ours else has_kernel(name, key)

    monkeypatch.setattr(torch._C, "_dispatch_has_kernel_for_dispatch_key", has)
    deform_conv._torchvision_problem.cache_clear()
    yield calls
    deform_conv._torchvision_problem.cache_clear()


@pytest.mark.parametrize(
    ("missing", "small", "large"),
    [
        ("", "torchvision", "triton"),
        ("triton", "torchvision", "torchvision"),
        ("torchvision", "triton", "triton"),
        ("triton torchvision", "reference", "reference"),
    ],
)
def test_a_gpu_takes_what_is_fastest_of_what_there_is(monkeypatch, missing, small, large):
    monkeypatch.setattr(deform_conv, "_problem", lambda name, device: name in missing.split())
    assert deform_conv._pick("cuda", False, "") == small
    assert deform_conv._pick("cuda", True, "") == large
    asked = []
    monkeypatch.setattr(deform_conv, "_choose", lambda *choice: asked.append(choice))
    for side in (255, 256):
        dcn.backend(torch.zeros(1, 64, 256, side))
    assert [choice[1] for choice in asked] == [False, True]


def test_torchvision_is_asked_for_its_kernels(torchvision_stub, monkeypatch):
    assert deform_conv._pick("cuda", False, "") != "torchvision"  # it would fail when first called
    with pytest.raises(ValueError, match="a torchvision with kernels for cuda"):
        deform_conv._pick("cuda", False, "torchvision")
    monkeypatch.setenv("MSTT_DCN_BACKEND", "torchvision")
    tensors, geometry = uneven_case()
    out = deform_conv2d(*tensors[:4], *geometry, mask=tensors[4])
    expected = deform_conv2d_grid_sample(*tensors[:4], *geometry, tensors[4])
    torch.testing.assert_close(out, expected)
    assert torchvision_stub == [(1, 4, 9, 11)]


def uneven_case():
    """Tensors, and a geometry in which no two numbers are alike, so that their order counts."""
    stride, padding, dilation = (2, 1), (0, 3), (1, 2)
    tensors = (torch.randn(1, 4, 9, 11), torch.randn(1, 18, 4, 13), torch.randn(4, 4, 3, 3))
    return (*tensors, torch.randn(4), torch.rand(1, 9, 4, 13)), (stride, padding, dilation)


def test_torchvisions_own_operator_computes_the_same(monkeypatch):
    pytest.importorskip("torchvision")
    monkeypatch.setenv("MSTT_DCN_BACKEND", "torchvision")
    tensors, geometry = uneven_case()
    out = deform_conv2d(*tensors[:4], *geometry, mask=tensors[4])
    expected = deform_conv2d_grid_sample(*tensors[:4], *geometry, tensors[4])
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)


def test_torchvisions_operator_compiles_into_one_graph(torchvision_stub, monkeypatch):
    monkeypatch.setenv("MSTT_DCN_BACKEND", "torchvision")
    layer = DCNv2(4, 4, groups=2)
    x = torch.randn(1, 4, 6, 7)
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, x), layer(x, x))
