"""The native deformable convolution: equal to the definition, at home in PyTorch."""

import importlib
import sys

import pytest
import torch
from trainings import SECONDS, forkserver

from dcn import cpu, deform_conv, deform_conv2d
from dcn.reference import deform_conv2d_gather
from tests.test_dcn import random_case, relative_error, run
from utils.native import NativeBuildError

try:
    cpu.library()
except NativeBuildError as error:
    pytest.skip(f"no native kernel: {error}", allow_module_level=True)


@pytest.fixture(autouse=True)
def native(monkeypatch):
    """Force the native backend, and restore the number of threads."""
    monkeypatch.setenv(deform_conv.BACKEND_VARIABLE, "native")
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def channels_last(tensors):
    """The 4-dimensional tensors in that memory format."""
    return [t.to(memory_format=torch.channels_last) if t.ndim == 4 else t for t in tensors]


# Sizes off every block, vector and tile; channels per group below, at and above a vector.
GEOMETRIES = [
    {"channels": 64, "groups": 8, "outputs": 64, "size": (13, 11)},
    {"channels": 64, "groups": 2, "outputs": 33, "size": (7, 9)},
    {"channels": 38, "groups": 2, "outputs": 17, "size": (5, 23)},
    {"channels": 15, "groups": 5, "outputs": 7, "size": (9, 17), "spread": 20.0},
    {"channels": 3, "groups": 1, "outputs": 130, "size": (31, 2)},
    {"channels": 6, "groups": 6, "outputs": 1, "size": (1, 1), "kernel": (1, 1), "padding": (0, 0)},
    {"size": (1, 80), "kernel": (1, 5), "padding": (0, 0)},
    {"kernel": (3, 2), "stride": (2, 1), "padding": (0, 2), "dilation": (1, 3), "size": (9, 17)},
    {"kernel": (5, 5), "stride": (3, 3), "padding": (4, 4), "size": (12, 30)},
]


@pytest.mark.parametrize("options", GEOMETRIES, ids=str)
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)], ids=str
)
@pytest.mark.parametrize("layout", [list, channels_last])
def test_equals_the_definition(options, dtype, tolerance, layout):
    tensors, geometry = random_case(dtype=dtype, **options)
    expected = run(deform_conv2d_gather, tensors, geometry)
    results = run(deform_conv2d, layout(tensors), geometry)
    assert relative_error(results, expected) < tolerance


@pytest.mark.parametrize("threads", [2, 3, 7])
@pytest.mark.parametrize("groups", [1, 2])
def test_threads_share_the_pixels_of_a_plane(threads, groups):
    tensors, geometry = random_case(batch=1, groups=groups, size=(21, 23))
    torch.set_num_threads(1)
    expected = run(deform_conv2d, tensors, geometry)
    torch.set_num_threads(threads)
    first, second = (run(deform_conv2d, tensors, geometry) for _ in range(2))
    assert relative_error(first, expected) < 1e-12
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_tensors_that_are_not_contiguous():
    tensors, geometry = random_case()
    expected = run(deform_conv2d, tensors, geometry)
    strided = [tensor.repeat_interleave(2, -1)[..., ::2] for tensor in tensors]
    assert not any(tensor.is_contiguous() for tensor in strided)
    assert relative_error(run(deform_conv2d, strided, geometry), expected) == 0
    transposed = [t.transpose(0, 1).contiguous().transpose(0, 1) for t in (tensors[0], tensors[1])]
    assert relative_error(run(deform_conv2d, transposed + tensors[2:], geometry), expected) == 0


def test_gradient_that_is_expanded():
    tensors, geometry = random_case()
    leaf = tensors[0].requires_grad_()
    deform_conv2d(leaf, *tensors[1:4], **geometry).sum().backward()
    (expected,) = torch.autograd.grad(
        deform_conv2d_gather(leaf, *tensors[1:4], **geometry).sum(), leaf
    )
    torch.testing.assert_close(leaf.grad, expected)


@pytest.mark.parametrize("missing", [(), ("mask",), ("bias",), ("mask", "bias")], ids=str)
def test_optional_tensors(missing):
    tensors, geometry = random_case()
    tensors[3] = None if "bias" in missing else tensors[3]
    tensors[4] = None if "mask" in missing else tensors[4]
    expected = run(deform_conv2d_gather, tensors, geometry)
    assert relative_error(run(deform_conv2d, tensors, geometry), expected) < 1e-12


def test_output_has_the_memory_format_of_the_input():
    tensors, geometry = random_case()
    input, offset, weight, *_ = tensors
    output = deform_conv2d(*channels_last([input, offset, weight]), **geometry)
    assert output.is_contiguous(memory_format=torch.channels_last)
    assert deform_conv2d(input, offset, weight, **geometry).is_contiguous()


def operator_arguments(layout):
    tensors, geometry = random_case(dtype=torch.float32)
    leaves = [tensor.requires_grad_() for tensor in layout(tensors)]
    input, offset, weight, bias, mask = leaves
    return (input, offset, mask, weight, bias, *(list(value) for value in geometry.values()))


@pytest.mark.parametrize("layout", [list, channels_last])
def test_opcheck(layout):
    torch.library.opcheck(torch.ops.mstt.deform_conv2d.default, operator_arguments(layout))


def test_operator_is_cast_to_float32_by_autocast():
    arguments = operator_arguments(list)
    halves = [a.detach().bfloat16() if isinstance(a, torch.Tensor) else a for a in arguments]
    with torch.autocast("cpu", torch.bfloat16):
        output = torch.ops.mstt.deform_conv2d(*halves)
    assert output.dtype == torch.float32


def test_layer_compiles_under_autocast():
    layer = deform_conv.DCNv2(8, 8, groups=4)
    x, features = torch.randn(2, 1, 8, 6, 7).bfloat16()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(compiled(x, features), layer(x, features))


def test_export():
    layer = deform_conv.DCNv2(8, 8, groups=4)
    torch.nn.init.normal_(layer.conv_offset_mask.weight, std=0.2)
    size = {2: torch.export.Dim("height"), 3: torch.export.Dim("width")}
    program = torch.export.export(
        layer, (torch.randn(1, 8, 6, 7), torch.randn(1, 8, 6, 7)), dynamic_shapes=(size, size)
    )
    x, features = torch.randn(2, 1, 8, 9, 5)
    assert torch.equal(program.module()(x, features), layer(x, features))
    targets = [
        str(node.target) for module in program.graph_module.modules() for node in module.graph.nodes
    ]
    assert any("mstt.deform_conv2d" in target for target in targets)


def register_again():
    tensors, geometry = random_case()
    expected = run(deform_conv2d, tensors, geometry)
    for name in [name for name in sys.modules if name.split(".")[0] == "dcn"]:
        del sys.modules[name]
    again = importlib.import_module("dcn")
    assert again.deform_conv2d is not deform_conv2d
    for function in (again.deform_conv2d, deform_conv2d):
        assert relative_error(run(function, tensors, geometry), expected) == 0


def test_registering_twice_is_harmless():
    """In a process of its own: PyTorch keeps what was registered last."""
    process = forkserver().Process(target=register_again, daemon=True)
    process.start()
    process.join(SECONDS)
    assert process.exitcode == 0
