"""The Triton kernels, through Triton's interpreter on the CPU, and through its compiler."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton is not installed"
)

INTERPRETED = """
import torch
from dcn import backend, deform_conv2d
from dcn.reference import deform_conv2d_gather
from tests.test_dcn import random_case, relative_error, run

assert backend(torch.zeros(1)) == "triton"
cases = [
    dict(batch=2, channels=6, groups=2, size=(4, 5), kernel=(2, 2), spread=3.0),
    dict(channels=3, groups=1, size=(7, 5), kernel=(3, 2), stride=(2, 1), padding=(0, 2),
         dilation=(1, 2), dtype=torch.float32),
    dict(channels=2, size=(1, 1), kernel=(1, 1), padding=(0, 0)),
    dict(size=(12, 12), kernel=(1, 1), padding=(0, 0)),  # more pixels than one block
]
for options in cases:
    tensors, geometry = random_case(**{"batch": 1, **options})
    tolerance = 1e-12 if tensors[0].dtype == torch.float64 else 1e-5
    expected = run(deform_conv2d_gather, tensors, geometry)
    if options is cases[0]:
        tensors = [t.to(memory_format=torch.channels_last) if t.ndim == 4 else t for t in tensors]
    assert relative_error(run(deform_conv2d, tensors, geometry), expected) < tolerance
tensors, geometry = random_case(batch=1, size=(3, 2))
unknown = tensors[1].clone()
unknown[0, 1, 2, 0] = torch.nan
results = [
    function(tensors[0], unknown, *tensors[2:4], mask=tensors[4], **geometry)
    for function in (deform_conv2d, deform_conv2d_gather)
]
assert results[0][0, :, 2, 0].isnan().all()
torch.testing.assert_close(*results, equal_nan=True)
zero = [tensors[0], torch.zeros_like(tensors[1]), *tensors[2:4], None]
expected = run(deform_conv2d_gather, zero, geometry)
assert relative_error(run(deform_conv2d, zero, geometry), expected) < 1e-12
empty, geometry = random_case(batch=0)
assert [tuple(grad.shape) for grad in run(deform_conv2d, empty, geometry)[1:]] == [
    tuple(tensor.shape) for tensor in empty
]
"""


def test_equals_the_definition():
    """In a process of its own: Triton reads its variables when it is imported."""
    variables = {"OMP_NUM_THREADS": "1", "TRITON_INTERPRET": "1", "MSTT_DCN_BACKEND": "triton"}
    result = subprocess.run(
        [sys.executable, "-c", INTERPRETED],
        cwd=ROOT, env=os.environ | variables, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr


def test_kernels_compile_for_a_gpu(tmp_path, monkeypatch):
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    from dcn import cuda

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    constants = {"CHANNELS": 64, "GROUP_CHANNELS": 8, "TAPS": 9, "KERNEL_WIDTH": 3, "BLOCK": 128}
    constants |= {"LANES": 8}
    integers = ["height", "width", "pixels", "out_width"]
    integers += [f"{name}_{axis}" for name in ("stride", "padding", "dilation") for axis in "yx"]
    for kernel in (cuda._sample_kernel, cuda._gradient_kernel):
        types = dict.fromkeys(kernel.arg_names, "*fp32")
        types |= dict.fromkeys(constants, "constexpr") | dict.fromkeys(integers, "i32")
        source = ASTSource(fn=kernel, signature=types, constexprs=constants)
        assert "ptx" in compile(source, target=GPUTarget("cuda", 80, 32)).asm
