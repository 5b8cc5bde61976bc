"""PyFlow's method: the native core against the original's flows and the NumPy definition."""

import inspect
import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest

from flow import coarse2fine
from flow import coarse2fine_reference as reference
from flow.coarse2fine import coarse2fine_flow, plan_levels
from utils.native import NativeBuildError

RELEASED = {  # what the released code passes
    "alpha": 0.012,
    "ratio": 0.75,
    "minWidth": 20,
    "nOuterFPIterations": 7,
    "nInnerFPIterations": 1,
    "nSORIterations": 30,
}
PAIRS = ("rgb_80", "rgb_odd", "rgb_160", "gray_96", "large_motion", "other_parameters")
OTHER_PARAMETERS = {
    "alpha": 0.03,
    "ratio": 0.5,
    "minWidth": 16,
    "nOuterFPIterations": 4,
    "nInnerFPIterations": 2,
    "nSORIterations": 20,
}


@pytest.fixture(scope="module")
def recorded():
    """Pairs and flows of the original PyFlow."""
    with np.load(Path(__file__).with_name("data") / "pyflow_reference.npz") as arrays:
        return dict(arrays)


@pytest.fixture
def no_compiler(monkeypatch):
    def fail(*_):
        raise NativeBuildError("no working C++ compiler")

    coarse2fine._native_library.cache_clear()
    monkeypatch.setattr(coarse2fine, "load_library", fail)
    yield
    coarse2fine._native_library.cache_clear()


def test_names_and_defaults_are_those_of_pyflow():
    parameters = inspect.signature(coarse2fine_flow).parameters
    assert {name: parameter.default for name, parameter in parameters.items()} == {
        "Im1": inspect.Parameter.empty,
        "Im2": inspect.Parameter.empty,
        "alpha": 1,
        "ratio": 0.5,
        "minWidth": 40,
        "nOuterFPIterations": 3,
        "nInnerFPIterations": 1,
        "nSORIterations": 20,
        "colType": 0,
    }
    im1, im2 = textured_pair(81, 84)
    given = coarse2fine_flow(Im1=im1, Im2=im2)
    for a, b in zip(given, coarse2fine_flow(im1, im2, 1, 0.5, 40, 3, 1, 20, 0), strict=True):
        np.testing.assert_array_equal(a, b)


def recorded_case(recorded, name):
    """(im1, im2, keyword arguments, flow) of one recorded pair."""
    im1, im2 = recorded[f"{name}_im1"], recorded[f"{name}_im2"]
    arguments = {}
    if name == "gray_96":
        im1, im2 = (cv2.cvtColor(im, cv2.COLOR_RGB2GRAY)[..., None] for im in (im1, im2))
        arguments = {"colType": 1}
    if name == "other_parameters":
        arguments = OTHER_PARAMETERS
    return im1 / 255, im2 / 255, arguments, recorded[f"{name}_flow"]


def textured_pair(height, width, shift=(0.6, -0.4), channels=3, seed=0):
    """Smooth noise, and the same moved by `shift` = (dx, dy) pixels; float64 in [0, 1]."""
    noise = np.random.default_rng(seed).random((height + 24, width + 24, channels))
    noise = cv2.GaussianBlur(noise, (0, 0), 2.0).reshape(height + 24, width + 24, channels)
    noise = (noise - noise.min()) / np.ptp(noise)
    matrix = np.float64([[1, 0, shift[0]], [0, 1, shift[1]]])
    moved = cv2.warpAffine(noise, matrix, noise.shape[1::-1], flags=cv2.INTER_LINEAR)
    inner = np.s_[12:-12, 12:-12]
    return noise[inner].copy(), moved.reshape(noise.shape)[inner].copy()


def endpoint_error(u, v, flow):
    return np.hypot(u - flow[..., 0], v - flow[..., 1]).mean()


@pytest.mark.parametrize("name", PAIRS)
def test_equals_the_original(recorded, name):
    im1, im2, arguments, flow = recorded_case(recorded, name)
    u, v, warped = coarse2fine_flow(im1, im2, **RELEASED | arguments)
    assert endpoint_error(u, v, flow) <= 0.001
    assert u.dtype == v.dtype == warped.dtype == np.float64
    assert u.shape == v.shape == im1.shape[:2]
    assert warped.shape == im1.shape
    if name == "rgb_80":
        np.testing.assert_allclose(warped, recorded["rgb_80_warped"], atol=1e-4)


@pytest.mark.parametrize("name", ["rgb_80", "gray_96", "other_parameters"])
def test_definition_equals_the_original(recorded, name, no_compiler):
    im1, im2, arguments, flow = recorded_case(recorded, name)
    with pytest.warns(RuntimeWarning):
        u, v, warped = coarse2fine_flow(im1, im2, **RELEASED | arguments)
    assert endpoint_error(u, v, flow) <= 1e-6
    if name == "rgb_80":
        np.testing.assert_allclose(warped, recorded["rgb_80_warped"], atol=1e-6)


@pytest.mark.parametrize(
    ("height", "width", "channels"),
    [(40, 40, 3), (33, 61, 3), (61, 33, 1), (1, 40, 3), (2, 40, 1), (130, 30, 3), (17, 145, 1)],
)
def test_native_equals_definition(height, width, channels):
    im1, im2 = textured_pair(height, width, channels=channels)
    min_width = 8 if height > 2 else 16  # one or two rows do not last for more levels
    levels, ratio = plan_levels(height, width, 0.6, min_width)
    expected = reference.coarse2fine_flow(im1, im2, levels, 0.012, ratio, 2, 2, 11)
    col_type = 0 if channels == 3 else 1
    computed = coarse2fine_flow(im1, im2, 0.012, 0.6, min_width, 2, 2, 11, col_type)
    for a, b in zip(computed, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)
        assert np.abs(a - b).mean() <= 1e-4


def test_relax_is_a_sweep_in_reading_order():
    """The diagonals of the definition against SOR written pixel by pixel."""
    rng = np.random.default_rng(1)
    height, width, sweeps = 7, 5, 4
    weight, a12, b1, b2 = rng.random((4, height, width))
    a11, a22 = rng.random((2, height, width)) + 4
    du, dv = np.zeros((height + 2, width + 2)), np.zeros((height + 2, width + 2))
    omega = reference.OMEGA

    def neighbours(d, y, x):
        left = weight[y, x - 1] * d[y + 1, x] if x > 0 else 0
        up = weight[y - 1, x] * d[y, x + 1] if y > 0 else 0
        return left + up + weight[y, x] * (d[y + 1, x + 2] + d[y + 2, x + 1])

    for _ in range(sweeps):
        for y in range(height):
            for x in range(width):
                rest = b1[y, x] - a12[y, x] * dv[y + 1, x + 1] + neighbours(du, y, x)
                du[y + 1, x + 1] *= 1 - omega
                du[y + 1, x + 1] += omega * rest / a11[y, x]
                rest = b2[y, x] - a12[y, x] * du[y + 1, x + 1] + neighbours(dv, y, x)
                dv[y + 1, x + 1] *= 1 - omega
                dv[y + 1, x + 1] += omega * rest / a22[y, x]
    result = reference.relax(weight, a11, a12, a22, b1, b2, sweeps)
    np.testing.assert_allclose(result, (du[1:-1, 1:-1], dv[1:-1, 1:-1]), rtol=1e-10)


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_flat_images_do_not_move(value):
    flat = np.full((40, 40, 3), value)
    u, v, warped = coarse2fine_flow(flat, flat, **RELEASED)
    assert not u.any()
    assert not v.any()
    np.testing.assert_allclose(warped, flat, atol=1e-6)


def test_layout_and_precision_of_the_input_do_not_matter():
    im1, im2 = (im.astype(np.float32) for im in textured_pair(40, 44))
    expected = coarse2fine_flow(im1, im2, **RELEASED)
    strided = np.zeros((80, 44, 6), np.float32)[::2, :, ::2]
    strided[:] = im1
    fortran = np.asfortranarray(im2.astype(np.float64))
    for a, b in zip(coarse2fine_flow(strided, fortran, **RELEASED), expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_input_is_left_alone():
    im1, im2 = textured_pair(40, 40)
    before = im1.copy(), im2.copy()
    coarse2fine_flow(im1, im2, **RELEASED)
    np.testing.assert_array_equal((im1, im2), before)


def test_silent(capfd):
    coarse2fine_flow(*textured_pair(40, 40), **RELEASED)
    assert capfd.readouterr() == ("", "")


def test_without_compiler_one_warning_and_the_same_flow(no_compiler):
    im1, im2 = textured_pair(36, 40)
    with pytest.warns(RuntimeWarning, match="no working C\\+\\+ compiler") as caught:
        slow = coarse2fine_flow(im1, im2, **RELEASED)
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = coarse2fine_flow(im1, im2, **RELEASED)
    for a, b in zip(slow, again, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("height", "width", "message"),
    [(64, 26, "26x64 .*at least 27 pixels wide"), (2, 200, "200x2 ")],
)
def test_too_small_for_its_levels(height, width, message):
    with pytest.raises(ValueError, match=message):
        coarse2fine_flow(*textured_pair(height, width), **RELEASED)


@pytest.mark.parametrize("ratio", [0.3, 0.99])
def test_ratio_out_of_range_becomes_the_default(ratio):
    im1, im2 = textured_pair(40, 40)
    for a, b in zip(
        coarse2fine_flow(im1, im2, **RELEASED | {"ratio": ratio}),
        coarse2fine_flow(im1, im2, **RELEASED),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_not_finite(bad):
    im1, im2 = textured_pair(40, 40)
    im2[3, 4, 1] = bad
    with pytest.raises(ValueError, match="Im2 holds NaN or infinity"):
        coarse2fine_flow(im1, im2, **RELEASED)


@pytest.mark.parametrize(
    ("im1", "im2", "col_type", "message"),
    [
        (np.zeros((40, 40, 3), np.uint8), np.zeros((40, 40, 3)), 0, "Im1 .*uint8.*divide"),
        (np.zeros((40, 40, 3)), [[0.0]], 0, "Im2 .*list"),
        (np.zeros((40, 40, 3)), np.zeros((40, 41, 3)), 0, r"\(40, 41, 3\)"),
        (np.zeros((40, 40, 1)), np.zeros((40, 40, 1)), 0, r"\(H, W, 3\) with colType 0"),
        (np.zeros((40, 40, 3)), np.zeros((40, 40, 3)), 1, r"\(H, W, 1\) with colType 1"),
        (np.zeros((40, 40)), np.zeros((40, 40)), 1, r"\(40, 40\)"),
        (np.zeros((0, 40, 3)), np.zeros((0, 40, 3)), 0, r"\(0, 40, 3\)"),
        (np.full((40, 40, 3), 255.0), np.zeros((40, 40, 3)), 0, r"in \[0, 1\], not \[255, 255\]"),
        (np.zeros((40, 40, 3)), np.zeros((40, 40, 3)), 2, "colType must be 0"),
    ],
)
def test_wrong_images(im1, im2, col_type, message):
    with pytest.raises(ValueError, match=message):
        coarse2fine_flow(im1, im2, colType=col_type)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("alpha", 0),
        ("alpha", float("nan")),
        ("alpha", "much"),
        ("ratio", -0.5),
        ("minWidth", 0),
        ("nOuterFPIterations", 0),
        ("nInnerFPIterations", 1.5),
        ("nSORIterations", -3),
    ],
)
def test_wrong_parameters(name, value):
    im1, im2 = textured_pair(40, 40)
    with pytest.raises(ValueError, match=name):
        coarse2fine_flow(im1, im2, **{name: value})
