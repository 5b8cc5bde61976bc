"""Stills that are recompressed to travel."""

import sys

import cv2
import numpy as np
import pytest

from data import pack
from data.stills import read_still
from media.images import write_image


@pytest.fixture
def stills(tmp_path):
    for name, size in (("a/one.png", (64, 90)), ("b/two.png", (70, 64))):
        noise = np.random.default_rng(len(name)).integers(0, 256, (*size, 3), dtype=np.uint8)
        path = tmp_path / "stills" / name
        path.parent.mkdir(parents=True)
        write_image(path, cv2.GaussianBlur(noise, (0, 0), 2))
    return tmp_path / "stills"


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["pack", *map(str, arguments)])
    pack.main()


def test_the_highest_quality_that_fits(stills, tmp_path, monkeypatch):
    out = tmp_path / "out"
    run(monkeypatch, stills, out, "--mebibytes", 0.002)
    paths = sorted(out.rglob("*.jpg"))
    assert [path.relative_to(out).as_posix() for path in paths] == ["a/one.jpg", "b/two.jpg"]
    originals = [read_still(path) for path in sorted(stills.rglob("*.png"))]
    (quality,) = {
        q
        for q in pack.QUALITIES
        if [pack.encode(still, q) for still in originals] == [p.read_bytes() for p in paths]
    }
    total = {q: sum(len(pack.encode(still, q)) for still in originals) for q in pack.QUALITIES}
    assert total[quality] <= 0.002 * 2**20 < total[quality + 1]
    for path, still in zip(paths, originals, strict=True):
        assert np.abs(read_still(path).astype(float) - still).mean() < 6  # the colours in order


def test_what_cannot_be_packed_is_said(stills, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"do not fit 0\.0001 MiB even in quality 30"):
        run(monkeypatch, stills, tmp_path / "out", "--mebibytes", 0.0001)
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        run(monkeypatch, tmp_path / "out", tmp_path / "other")
    with pytest.raises(ValueError, match="holds something already"):
        run(monkeypatch, stills, stills)
    with pytest.raises(ValueError, match="JPEG cannot hold a still of 70000x16"):
        pack.encode(np.zeros((16, 70000, 3), np.uint8), 80)
    with pytest.raises(ValueError, match=r"mebibytes is 0\.0"):
        run(monkeypatch, stills, tmp_path / "out", "--mebibytes", 0)
