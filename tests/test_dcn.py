"""Deformable convolution: the definition, and the operator against it."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from dcn import deform_conv, deform_conv2d
from dcn.reference import deform_conv2d_gather, deform_conv2d_grid_sample, output_size

REFERENCE = Path(__file__).parent / "data" / "dcnv2_reference.npz"
FORMULATIONS = [deform_conv2d_gather, deform_conv2d_grid_sample]
NAMES = ("input", "offset", "weight", "bias", "mask")


def random_case(
    batch=2, channels=4, size=(6, 7), outputs=6, kernel=(3, 3), groups=2, weight_groups=1,
    stride=(1, 1), padding=(1, 1), dilation=(1, 1), dtype=torch.float64, spread=1.5, seed=0,
):  # fmt: skip
    """Random tensors in NAMES order, and the geometry."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    taps = kernel[0] * kernel[1]
    out = output_size(size, kernel, stride, padding, dilation)
    tensors = [
        normal(batch, channels, *size),
        normal(batch, 2 * groups * taps, *out) * spread,
        normal(outputs, channels // weight_groups, *kernel),
        normal(outputs),
        torch.sigmoid(normal(batch, groups * taps, *out)),
    ]
    return tensors, {"stride": stride, "padding": padding, "dilation": dilation}


def run(function, tensors, geometry, grad_output=None):
    """Output and the gradients of all tensors that there are."""
    leaves = [None if t is None else t.detach().requires_grad_() for t in tensors]
    output = function(*leaves[:4], mask=leaves[4], **geometry)
    if grad_output is None:
        generator = torch.Generator().manual_seed(1)
        grad_output = torch.randn(output.shape, generator=generator, dtype=torch.float64)
    output.backward(grad_output.to(output.dtype))
    return [output.detach(), *(leaf.grad for leaf in leaves if leaf is not None)]


def relative_error(values, references) -> float:
    return max(
        ((value - reference).abs().max() / reference.abs().max().clamp(min=1e-30)).item()
        for value, reference in zip(values, references, strict=True)
    )


def released(case):
    """The original kernel's inputs and results for a case of dcnv2_reference.npz."""
    arrays = {
        key.removeprefix(f"{case}_"): torch.from_numpy(array)
        for key, array in np.load(REFERENCE).items()
        if key.startswith(f"{case}_")
    }
    results = [arrays["output"], *(arrays[f"grad_{name}"] for name in NAMES)]
    return [arrays[name] for name in NAMES], arrays["grad_output"], results


def deform_conv2d_loops(input, offset, weight, bias, mask, stride, padding, dilation):
    """Equation 1, one scalar at a time."""
    batch, channels, height, width = input.shape
    outputs, group_weights, kernel_height, kernel_width = weight.shape
    groups = offset.shape[1] // (2 * kernel_height * kernel_width)
    result = torch.empty(batch, outputs, *offset.shape[2:], dtype=input.dtype)

    def pixel(n, c, y, x):
        return input[n, c, y, x].item() if 0 <= y < height and 0 <= x < width else 0.0

    def sample(n, c, y, x):
        top, left = math.floor(y), math.floor(x)
        return sum(
            pixel(n, c, i, j) * max(0, 1 - abs(y - i)) * max(0, 1 - abs(x - j))
            for i in (top, top + 1)
            for j in (left, left + 1)
        )

    for n, o, row, column in np.ndindex(*result.shape):
        total = bias[o].item()
        first = o // (outputs // (channels // group_weights)) * group_weights
        for c, i, j in np.ndindex(group_weights, kernel_height, kernel_width):
            group = (first + c) // (channels // groups)
            tap = (group * kernel_height + i) * kernel_width + j
            dy, dx = offset[n, 2 * tap : 2 * tap + 2, row, column].tolist()
            y = row * stride[0] - padding[0] + i * dilation[0] + dy
            x = column * stride[1] - padding[1] + j * dilation[1] + dx
            value = sample(n, first + c, y, x) * mask[n, tap, row, column].item()
            total += value * weight[o, c, i, j].item()
        result[n, o, row, column] = total
    return result


GEOMETRIES = [
    {},
    {"size": (1, 1)},
    {"size": (1, 5), "kernel": (1, 3), "padding": (0, 1)},
    {"kernel": (3, 2), "stride": (2, 1), "padding": (0, 2), "dilation": (1, 2)},
    {"channels": 6, "groups": 3, "weight_groups": 2, "outputs": 4, "spread": 4.0},
    {"channels": 5, "groups": 1, "kernel": (1, 1), "padding": (0, 0), "stride": (3, 2)},
]


@pytest.mark.parametrize("options", GEOMETRIES, ids=str)
@pytest.mark.parametrize("function", FORMULATIONS)
def test_formulations_equal_scalar_loops(function, options):
    tensors, geometry = random_case(batch=1, **{"size": (4, 5), **options})
    expected = deform_conv2d_loops(*tensors, **geometry)
    input, offset, weight, bias, mask = tensors
    output = function(input, offset, weight, bias, mask=mask, **geometry)
    torch.testing.assert_close(output, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("options", GEOMETRIES, ids=str)
def test_formulations_have_equal_gradients(options):
    tensors, geometry = random_case(**options)
    gather, grid_sample = (run(function, tensors, geometry) for function in FORMULATIONS)
    assert relative_error(grid_sample, gather) < 1e-10


@pytest.mark.parametrize("case", ["random", "zero_offset"])
@pytest.mark.parametrize("function", [*FORMULATIONS, deform_conv2d])
def test_equals_the_original_kernels(function, case):
    tensors, grad_output, expected = released(case)
    geometry = {"stride": (1, 1), "padding": (1, 1), "dilation": (1, 1)}
    assert relative_error(run(function, tensors, geometry, grad_output), expected) < 1e-5


@pytest.mark.parametrize("function", FORMULATIONS)
def test_gradcheck(function):
    tensors, geometry = random_case(batch=1, size=(3, 4), outputs=2, channels=2)
    leaves = [tensor.requires_grad_() for tensor in tensors]

    def call(input, offset, weight, bias, mask):
        return function(input, offset, weight, bias, mask=mask, **geometry)

    assert torch.autograd.gradcheck(call, leaves, fast_mode=True)


@pytest.mark.parametrize("backend", ["reference", "native"])
@pytest.mark.parametrize("value", [math.inf, -math.inf, 1e30, -1.0])
def test_samples_outside_have_no_value_and_no_gradient(monkeypatch, backend, value):
    force(monkeypatch, backend)
    tensors, geometry = random_case(size=(1, 1), kernel=(1, 1), padding=(0, 0))
    tensors[1].fill_(value)
    output, *grads = run(deform_conv2d, tensors, geometry)
    torch.testing.assert_close(output, tensors[3].view(1, -1, 1, 1).expand_as(output))
    grad_input, grad_offset, grad_weight, _, grad_mask = grads
    for grad in (grad_input, grad_offset, grad_weight, grad_mask):
        assert grad.count_nonzero() == 0


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("backend", ["gather", "grid_sample", "native"])
def test_a_nan_offset_gives_nan_there_and_nowhere_else(monkeypatch, backend, dtype, axis):
    if backend == "native":
        force(monkeypatch, backend)
    operator = {"gather": deform_conv2d_gather, "grid_sample": deform_conv2d_grid_sample}.get(
        backend, deform_conv2d
    )
    tensors, geometry = random_case(dtype=dtype)
    expected = operator(*tensors[:4], mask=tensors[4], **geometry)
    tensors[1][0, axis, 2, 3] = math.nan
    expected[0, :, 2, 3] = math.nan
    output = operator(*tensors[:4], mask=tensors[4], **geometry)
    torch.testing.assert_close(output, expected, equal_nan=True)


@pytest.mark.parametrize("backend", ["reference", "native"])
def test_empty_batch(monkeypatch, backend):
    force(monkeypatch, backend)
    tensors, geometry = random_case(batch=0)
    output, *grads = run(deform_conv2d, tensors, geometry)
    assert output.shape == (0, 6, 6, 7)
    assert [grad.shape for grad in grads] == [tensor.shape for tensor in tensors]
    assert grads[2].count_nonzero() == 0


@pytest.mark.parametrize("backend", ["reference", "native"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_types_are_computed_in_float32(monkeypatch, backend, dtype):
    force(monkeypatch, backend)
    tensors, geometry = random_case(dtype=dtype)
    grad_output = torch.randn(2, 6, 6, 7, generator=torch.Generator().manual_seed(1)).to(dtype)
    halves = run(deform_conv2d, tensors, geometry, grad_output)
    wide = run(deform_conv2d, [t.float() for t in tensors], geometry, grad_output.float())
    for half, expected in zip(halves, wide, strict=True):
        torch.testing.assert_close(half, expected.to(dtype), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input": torch.zeros(4, 6, 7)}, r"input must have 4 dimensions, not shape \(4, 6, 7\)"),
        ({"input": torch.zeros(2, 4, 6, 7).int()}, "input must be floating point"),
        ({"input": torch.zeros(2, 4, 6, 7, device="meta")}, "offset is on cpu, input on meta"),
        ({"mask": torch.ones(2, 18, 6, 7).to_sparse()}, "mask must be dense, not torch.sparse_coo"),
        ({"weight": torch.zeros(6, 3, 3, 3)}, r"weight \(6, 3, 3, 3\) does not fit the 4"),
        ({"weight": torch.zeros(5, 2, 3, 3)}, "2 weight groups do not divide"),
        ({"offset": torch.zeros(2, 35, 6, 7)}, r"offset \(2, 35, 6, 7\) must have 2 \* groups"),
        ({"offset": torch.zeros(2, 54, 6, 7)}, "groups dividing the 4 input channels"),
        ({"offset": torch.zeros(2, 36, 5, 7)}, r"offset must be \(2, 36, 6, 7\)"),
        ({"offset": torch.zeros(1, 36, 6, 7)}, r"offset must be \(2, 36, 6, 7\)"),
        ({"mask": torch.zeros(2, 36, 6, 7)}, r"mask must be \(2, 18, 6, 7\)"),
        ({"bias": torch.zeros(4)}, r"bias must be \(6,\) for weight .*, not \(4,\)"),
        ({"dilation": 9}, "leave an output of"),
        ({"input": torch.zeros(2, 4, 0, 7)}, "leave an output of"),
        ({"stride": 0}, "stride must be one or two integers of at least 1, not 0"),
        ({"stride": None}, "stride must be .* not None"),
        ({"dilation": 1.5}, "dilation must be .* not 1.5"),
        ({"padding": (1, -1)}, r"padding must be .* not \(1, -1\)"),
    ],
    ids=lambda value: None if isinstance(value, dict) else value,
)
def test_wrong_arguments(change, message):
    tensors, geometry = random_case(dtype=torch.float32)
    arguments = {**dict(zip(NAMES, tensors, strict=True)), **geometry, **change}
    with pytest.raises(ValueError, match=message):
        deform_conv2d(**arguments)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_no_tensor(name):
    tensors, geometry = random_case(dtype=torch.float32)
    arguments = {**dict(zip(NAMES, tensors, strict=True)), **geometry}
    for value in (arguments[name].numpy(), 1.0, None):
        if value is None and name in ("bias", "mask"):
            continue  # which there need not be
        with pytest.raises(TypeError, match=f"{name} must be a tensor, not {type(value).__name__}"):
            deform_conv2d(**arguments | {name: value})


def test_tensors_without_numbers():
    tensors, geometry = random_case(dtype=torch.float32)
    input, offset, weight, bias, mask = (tensor.to("meta") for tensor in tensors)
    with pytest.raises(ValueError, match="the tensors are on meta"):
        deform_conv2d(input, offset, weight, bias, mask=mask, **geometry)


def force(monkeypatch, backend: str) -> None:
    monkeypatch.setenv(deform_conv.BACKEND_VARIABLE, backend)
    if backend == "native" and deform_conv._problem("native", "cpu"):
        pytest.skip("no native kernel on this machine")


@pytest.mark.parametrize("padding", [1, 2])
def test_sizes_that_a_compiler_sees_as_symbols(padding):
    compiled = torch.compile(deform_conv2d, dynamic=True, fullgraph=True, backend="eager")
    for side in (6, 9):
        generator = torch.Generator().manual_seed(side)
        input = torch.randn(1, 4, side, side + 1, generator=generator)
        grown = side + 2 * padding - 2
        offset = torch.randn(1, 18, grown, grown + 1, generator=generator)
        weight = torch.randn(5, 4, 3, 3, generator=generator)
        expected = deform_conv2d(input, offset, weight, padding=padding)
        torch.testing.assert_close(compiled(input, offset, weight, padding=padding), expected)


def test_integers_of_numpy_are_integers():
    tensors, geometry = random_case(dtype=torch.float32)
    tensors = dict(zip(NAMES, tensors, strict=True))
    expected = deform_conv2d(**tensors, **geometry)
    geometry = {name: tuple(map(np.int64, value)) for name, value in geometry.items()}
    assert torch.equal(deform_conv2d(**tensors, **geometry), expected)
