"""What is not asked for is not needed, nor waited for: other libraries, PyTorch's compiler."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from data.stills import read_still
from media.images import write_image

ROOT = Path(__file__).resolve().parents[1]
BLOCKED = ("rasterio", "av", "tensorboard", "lpips", "torchvision", "triton")
CODE = f"""
import sys

sys.path[0] = {str(ROOT)!r}  # as python ROOT/main.py does, from whatever folder it is started
sys.modules |= dict.fromkeys({BLOCKED}, None)  # each raises ImportError
import main, test, benchmarks.gpu, data.pack, data.stills

assert "torch._dynamo" not in sys.modules  # the compiler, which takes seconds
assert test.__file__ == {str(ROOT / "test.py")!r}, test.__file__
print(*(data.stills.read_still(path).shape for path in sys.argv[1:]))
"""


def test_scripts_and_stills_need_none_of_the_optional_packages(tmp_path):
    """In a process of its own, and in another folder."""
    paths = [tmp_path / "still.jpg", tmp_path / "still.png"]
    for path in paths:
        write_image(path, np.zeros((20, 30, 3), np.uint8))
    command = [sys.executable, "-c", CODE, *map(str, paths)]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert result.stdout == "(20, 30, 3) (20, 30, 3)\n", result.stderr


def test_a_tiff_without_rasterio_is_told_how_to_get_it(tmp_path, monkeypatch):
    (tmp_path / "still.tif").write_bytes(b"II*\0")
    monkeypatch.setitem(sys.modules, "rasterio", None)
    with pytest.raises(ValueError, match=r"rasterio.*pip install"):
        read_still(tmp_path / "still.tif")
