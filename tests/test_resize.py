"""`imresize` against MATLAB's definition written out as two matrices."""

import math
from pathlib import Path

import numpy as np
import pytest

from media.images import read_image
from utils.resize import imresize

JILIN = Path(__file__).resolve().parents[2] / "shared/data/test/jilin_001"


def cubic(x):
    x = np.abs(x)
    inner = 1.5 * x**3 - 2.5 * x**2 + 1
    outer = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return np.where(x <= 1, inner, np.where(x < 2, outer, 0))


def matlab_matrix(size, scale):
    """(output size, size) float64: what imresize does along one axis."""
    matrix = np.zeros((math.ceil(size * scale), size))
    widening = min(scale, 1)
    for row, weights in enumerate(matrix):
        centre = (row + 0.5) / scale - 0.5
        reach = 2 / widening
        for pixel in range(math.floor(centre - reach), math.ceil(centre + reach) + 1):
            mirrored = pixel % (2 * size)
            mirrored = min(mirrored, 2 * size - 1 - mirrored)
            weights[mirrored] += cubic(widening * (centre - pixel))
        weights /= weights.sum()
    return matrix


def slow_imresize(image, scale):
    rows, columns = (matlab_matrix(size, scale) for size in image.shape[:2])
    return np.einsum("ah,hwc,bw->abc", rows, image.astype(np.float64), columns)


SIZES = [(1, 1), (3, 5), (8, 9), (17, 30), (64, 33)]


@pytest.mark.parametrize("scale", [1 / 4, 4])
@pytest.mark.parametrize("size", SIZES)
def test_bytes_equal_the_definition_rounded_half_up(size, scale):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    expected = np.clip(np.floor(slow_imresize(image, scale) + 0.5), 0, 255)
    out = imresize(image, scale)
    assert out.dtype == np.uint8
    np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("scale", [1 / 4, 4])
@pytest.mark.parametrize("size", SIZES)
def test_floats_equal_the_definition_and_may_overshoot(size, scale):
    image = np.random.default_rng(1).random((*size, 3), dtype=np.float32)
    expected = slow_imresize(image, scale)
    out = imresize(image, scale)
    assert out.dtype == np.float32
    np.testing.assert_allclose(out, expected, atol=1e-6)
    double = imresize(image.astype(np.float64), scale)
    assert double.dtype == np.float64
    np.testing.assert_allclose(double, expected, atol=1e-12)
    if scale == 4 and min(size) > 1:
        assert out.max() > 1


def test_halves_are_rounded_up():
    # Alternate columns of 10 and 11 average to 10.5 exactly, away from the border.
    image = np.tile(np.array([10, 11], np.uint8), (64, 32))
    assert (imresize(image, 1 / 4)[4:-4, 4:-4] == 11).all()


def test_layouts_agree():
    image = np.random.default_rng(2).integers(0, 256, (2, 3, 20, 24, 3), dtype=np.uint8)
    small = imresize(image, 1 / 4)
    assert small.shape == (2, 3, 5, 6, 3)
    np.testing.assert_array_equal(small[1, 2], imresize(image[1, 2], 1 / 4))
    np.testing.assert_array_equal(small[1, 2, ..., 0], imresize(image[1, 2, ..., 0], 1 / 4))
    np.testing.assert_array_equal(imresize(image[..., ::-1, :], 1 / 4), small[..., ::-1, :])


def test_part_of_a_frame_gives_the_pixels_of_the_whole():
    image = np.random.default_rng(3).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    whole, part = imresize(image, 1 / 4), imresize(image[16:80, 24:88], 1 / 4)
    np.testing.assert_array_equal(part[2:-2, 2:-2], whole[6:18, 8:20])


@pytest.mark.parametrize(
    ("image", "scale", "message"),
    [
        (np.zeros((8, 8), np.uint8), 0.5, "scale 1/4 or 4"),
        (np.zeros((8, 8), np.uint16), 0.25, "uint16"),
        (np.zeros((0, 8), np.uint8), 0.25, "0, 8"),
        (np.zeros(8, np.uint8), 0.25, "8,"),
    ],
)
def test_refusals(image, scale, message):
    with pytest.raises(ValueError, match=message):
        imresize(image, scale)


@pytest.mark.skipif(not JILIN.exists(), reason="needs the shared test imagery")
def test_reproduces_the_released_test_clip():
    for truth_path in sorted((JILIN / "truth").iterdir()):
        out = imresize(read_image(truth_path), 1 / 4).astype(np.float64)
        given = read_image(JILIN / "input4" / truth_path.name)
        assert 10 * np.log10(255**2 / np.mean((out - given) ** 2)) > 66
        np.testing.assert_array_equal(out[2:-2, 2:-2], given[2:-2, 2:-2])
