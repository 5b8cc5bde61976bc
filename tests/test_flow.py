"""estimate_flow: direction, order and shapes of the flows, methods, and bad input."""

import inspect
import sys
import types

import cv2
import numpy as np
import pytest

import flow
from flow import FLOW_METHODS, PYFLOW_PARAMETERS, coarse2fine_flow, estimate_flow

OURS = ("pyflow", "dis", "dis2x", "dis4x")


def moving_frames(count, height, width, step=(1.0, -0.5), seed=0):
    """Smooth noise whose content moves by `step` = (dx, dy) pixels a frame; (N, H, W, 3) uint8."""
    noise = np.random.default_rng(seed).random((height + 32, width + 32, 3))
    noise = cv2.GaussianBlur(noise, (0, 0), 2.0)
    noise = (255 * (noise - noise.min()) / np.ptp(noise)).astype(np.uint8)
    frames = []
    for i in range(count):
        matrix = np.float64([[1, 0, i * step[0]], [0, 1, i * step[1]]])
        moved = cv2.warpAffine(noise, matrix, noise.shape[1::-1], flags=cv2.INTER_CUBIC)
        frames.append(moved[16:-16, 16:-16])
    return np.stack(frames)


@pytest.fixture
def fake_pyflow(monkeypatch):
    """Installs a stand-in for the user's own PyFlow; returns the calls it has seen."""
    calls = []

    def recorder(im1, im2, *parameters):
        calls.append((im1, im2, parameters))
        return im1[..., 0], im2[..., 0], im2

    module = types.ModuleType("pyflow")
    module.coarse2fine_flow = recorder
    monkeypatch.setitem(sys.modules, "pyflow", module)
    return calls


def test_pyflow_is_the_default():
    assert inspect.signature(estimate_flow).parameters["method"].default == "pyflow"
    assert FLOW_METHODS == ("pyflow", "dis", "dis2x", "dis4x", "pyflow-original")


@pytest.mark.parametrize("method", OURS)
@pytest.mark.parametrize(("count", "height", "width"), [(2, 33, 47), (4, 40, 32)])
def test_shapes_and_direction(method, count, height, width):
    frames = moving_frames(count, height, width)
    forward, backward = estimate_flow(frames, method)
    for flows, sign in ((forward, 1), (backward, -1)):
        assert flows.shape == (count - 1, 2, height, width)
        assert flows.dtype == np.float32
        centre = np.median(flows[:, :, 8:-8, 8:-8], axis=(2, 3))
        np.testing.assert_allclose(centre, [[sign * 1.0, sign * -0.5]] * (count - 1), atol=0.15)


@pytest.mark.parametrize("method", OURS)
def test_every_pair_stands_for_itself(method):
    frames = moving_frames(4, 32, 40)
    forward, backward = estimate_flow(frames, method)
    for i in range(3):
        one_forward, one_backward = estimate_flow(frames[i : i + 2], method)
        np.testing.assert_array_equal(one_forward[0], forward[i])
        np.testing.assert_array_equal(one_backward[0], backward[i])
    reversed_forward, reversed_backward = estimate_flow(frames[::-1], method)
    np.testing.assert_array_equal(reversed_forward, backward[::-1])
    np.testing.assert_array_equal(reversed_backward, forward[::-1])


def test_pyflow_is_coarse2fine_flow():
    frames = moving_frames(3, 36, 41)
    forward, backward = estimate_flow(frames)
    for i in range(2):
        u, v, _ = coarse2fine_flow(frames[i] / 255, frames[i + 1] / 255, *PYFLOW_PARAMETERS)
        np.testing.assert_allclose(forward[i], [u, v], atol=1e-6)
        u, v, _ = coarse2fine_flow(frames[i + 1] / 255, frames[i] / 255, *PYFLOW_PARAMETERS)
        np.testing.assert_allclose(backward[i], [u, v], atol=1e-6)


def test_dis_is_opencv_on_grey():
    frames = moving_frames(2, 32, 40)
    dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    dis.setFinestScale(0)
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
    expected = dis.calc(*grey, None)
    np.testing.assert_array_equal(estimate_flow(frames, "dis")[0][0].transpose(1, 2, 0), expected)


def test_dis4x_sees_a_vehicle_that_dis_loses():
    """A bright spot of less than one LR pixel that drives over still ground."""
    ground = cv2.GaussianBlur(np.random.default_rng(0).random((160, 160)), (0, 0), 6)
    ground = 60 + 300 * (ground - ground.mean())
    frames = []
    for i in range(2):
        large = ground.copy()
        cv2.rectangle(large, (78 + 6 * i, 79), (81 + 6 * i, 81), 255, -1)  # moves 1.5 LR pixels
        small = cv2.resize(large, (40, 40), interpolation=cv2.INTER_AREA).clip(0, 255)
        frames.append(np.repeat(small.astype(np.uint8)[..., None], 3, axis=2))
    speeds = {m: estimate_flow(np.stack(frames), m)[0][0, 0, 20, 20] for m in ("dis", "dis4x")}
    assert speeds["dis4x"] > 0.75
    assert speeds["dis"] < 0.75 * speeds["dis4x"]


def test_dis4x_in_blocks_is_that_of_the_whole_frame(monkeypatch):
    frames = moving_frames(2, 150, 190, step=(2.5, -1.5))
    whole = estimate_flow(frames, "dis4x")
    monkeypatch.setattr(flow, "BLOCK", 64)
    monkeypatch.setattr(flow, "BLOCK_MARGIN", 32)
    resize, sides = cv2.resize, []

    def recorded(image, *arguments, **options):
        sides.extend(image.shape[:2])
        return resize(image, *arguments, **options)

    monkeypatch.setattr(cv2, "resize", recorded)
    blocks = estimate_flow(frames, "dis4x")
    assert max(sides) <= 4 * (64 + 2 * 32)
    for in_blocks, at_once, sign in zip(blocks, whole, (1, -1), strict=True):
        truth = sign * np.array([2.5, -1.5])[:, None, None]
        errors = [np.abs(x[0] - truth)[:, 8:-8, 8:-8].mean() for x in (in_blocks, at_once)]
        assert errors[0] < 1.1 * errors[1]
        # The cuts, at 63 and 126, show no more than other places.
        steps = np.abs(np.diff(in_blocks[0], axis=-1))
        assert steps[..., [62, 125]].mean() < 2 * steps.mean()


@pytest.mark.parametrize("method", OURS)
def test_number_of_threads_does_not_matter(method):
    frames = moving_frames(4, 32, 32)
    expected = estimate_flow(frames, method, threads=1)
    before = cv2.getNumThreads()
    try:
        for threads in (1, 3):
            cv2.setNumThreads(threads)
            for a, b in zip(estimate_flow(frames, method, threads=threads), expected, strict=True):
                np.testing.assert_array_equal(a, b)
    finally:
        cv2.setNumThreads(before)


@pytest.mark.parametrize("method", OURS)
def test_identical_frames_do_not_move(method):
    frames = np.repeat(moving_frames(1, 32, 32), 3, axis=0)
    forward, backward = estimate_flow(frames, method)
    assert not forward.any()
    assert not backward.any()


@pytest.mark.parametrize(("height", "width"), [(16, 16), (16, 17), (19, 90), (90, 16)])
@pytest.mark.parametrize("method", ["dis", "dis2x", "dis4x"])
def test_dis_takes_the_smallest_frames(method, height, width):
    forward, backward = estimate_flow(moving_frames(2, height, width), method)
    assert forward.shape == backward.shape == (1, 2, height, width)
    assert abs(np.median(forward[0, 0]) - 1) < 0.2
    assert abs(np.median(backward[0, 0]) + 1) < 0.2


@pytest.mark.parametrize("method", ["pyflow", "pyflow-original"])
def test_too_narrow_for_pyflow_names_the_remedy(method):
    with pytest.raises(ValueError, match=r'26x30 .*27 pixels wide.*such as "dis"'):
        estimate_flow(moving_frames(2, 30, 26), method)


def test_smallest_frames_for_pyflow():
    forward, backward = estimate_flow(moving_frames(2, 16, 27))
    assert np.isfinite(forward).all()
    assert np.isfinite(backward).all()


@pytest.mark.parametrize("method", OURS)
def test_layout_of_the_frames_does_not_matter(method):
    frames = moving_frames(2, 32, 36)
    strided = np.zeros((2, 64, 36, 6), np.uint8)[:, ::2, :, ::2]
    strided[:] = frames
    for a, b in zip(estimate_flow(strided, method), estimate_flow(frames, method), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (np.zeros((2, 32, 32, 3), np.float32), r"\(2, 32, 32, 3\) float32"),
        (np.zeros((2, 3, 32, 32), np.uint8), r"\(2, 3, 32, 32\) uint8"),
        (np.zeros((32, 32, 3), np.uint8), r"\(32, 32, 3\)"),
        (np.zeros((1, 32, 32, 3), np.uint8), "at least 2 frames, not 1"),
        (np.zeros((0, 32, 32, 3), np.uint8), "at least 2 frames, not 0"),
        (np.zeros((2, 15, 32, 3), np.uint8), "32x15"),
        ([np.zeros((32, 32, 3), np.uint8)] * 2, "numpy array, not list"),
    ],
)
def test_wrong_frames(frames, message):
    with pytest.raises(ValueError, match=message):
        estimate_flow(frames, "dis")


def test_unknown_method():
    with pytest.raises(ValueError, match=r"'raft'.*pyflow, dis, dis2x, dis4x, pyflow-original"):
        estimate_flow(moving_frames(2, 32, 32), "raft")


def test_original_pyflow(fake_pyflow):
    frames = moving_frames(3, 32, 32)
    forward, backward = estimate_flow(frames, "pyflow-original")
    assert len(fake_pyflow) == 4
    for im1, im2, parameters in fake_pyflow:
        assert parameters == (0.012, 0.75, 20, 7, 1, 30, 0)
        for image in (im1, im2):
            assert image.dtype == np.float64
            assert image.flags.c_contiguous
    expected = (frames[..., 0] / 255).astype(np.float32)
    np.testing.assert_array_equal(forward[:, 0], expected[:-1])
    np.testing.assert_array_equal(forward[:, 1], expected[1:])
    np.testing.assert_array_equal(backward[:, 0], expected[1:])


@pytest.mark.parametrize("installed", [None, types.ModuleType("pyflow")])
def test_original_pyflow_absent_or_another_package(monkeypatch, installed):
    monkeypatch.setitem(sys.modules, "pyflow", installed)
    with pytest.raises(ValueError, match=r"needs PyFlow.*on PyPI is something else"):
        estimate_flow(moving_frames(2, 32, 32), "pyflow-original")


def test_original_pyflow_as_a_package(monkeypatch, fake_pyflow):
    """A clone on the Python path is a folder `pyflow` with the module `pyflow` inside."""
    package = types.ModuleType("pyflow")
    package.__path__ = []
    monkeypatch.setitem(sys.modules, "pyflow.pyflow", sys.modules["pyflow"])
    monkeypatch.setitem(sys.modules, "pyflow", package)
    assert flow._original_pyflow() is sys.modules["pyflow.pyflow"].coarse2fine_flow
