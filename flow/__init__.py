"""Optical flow between neighbouring frames: one call, a choice of method.

Flow is (dx, dy) in pixels of the given frames, for backward warping: the flow from frame
A to frame B holds, at each pixel (x, y) of A, where in B its content is found:
B at (x + dx, y + dy) looks like A at (x, y).
"""

import importlib
import itertools
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import cv2
import numpy as np

from flow.coarse2fine import coarse2fine_flow, plan_levels
from utils.machine import usable_cores
from utils.resize import SMALLEST_SIDE, equal_parts

FLOW_METHODS = ("pyflow", "dis", "dis2x", "dis4x", "pyflow-original")
# alpha, ratio, minWidth, outer, inner and SOR iterations, colType of the released code
PYFLOW_PARAMETERS = (0.012, 0.75, 20, 7, 1, 30, 0)
ENLARGEMENTS = {"dis2x": 2, "dis4x": 4}  # of the frames
BLOCK = 1024  # pixels; longest side that is enlarged at once, by four in about 1 GB
BLOCK_MARGIN = 64  # pixels that a block sees beyond its border


def estimate_flow(frames, method="pyflow", threads=None):
    """Optical flow between neighbouring frames, in both directions of time.

    Arguments:
        frames: (N, H, W, 3) uint8 RGB array, N >= 2, H and W >= 16.
        method: "pyflow", PyFlow's method with the parameters of the released code, W >= 27;
            "dis", OpenCV's DIS (Kroeger et al., ECCV 2016), medium preset, finest scale 0,
            on BT.601 grey; "dis4x", DIS between the frames enlarged four times, averaged
            back: its patches are small enough for vehicles of one LR pixel, which the others
            lose (benchmarks/flow_methods.py), at 12 to 16 times the time of "dis". Frames
            larger than BLOCK are done in blocks; "dis2x", the same by two, in between in both;
            "pyflow-original", the PyFlow that the user has installed.
        threads: pairs that "pyflow" works on at the same time; None takes every core.

    Returns: (forward, backward), each (N - 1, 2, H, W) float32, (dx, dy) in pixels. forward[i]
        leads from frame i to frame i + 1, backward[i] from frame i + 1 to frame i.

    Raises: ValueError: unknown method, frames of another shape or type or too small for the
        method, or "pyflow-original" without PyFlow.
    """
    if method not in FLOW_METHODS:
        raise ValueError(f"unknown flow method {method!r}; choose one of {', '.join(FLOW_METHODS)}")
    check_frames(frames)
    if method == "dis":
        return _both_ways(frames, _dis_flows)
    if method in ENLARGEMENTS:
        return _both_ways(frames, partial(_enlarged_dis_flows, factor=ENLARGEMENTS[method]))
    # The original crashes the process where there is no level.
    plan_levels(*frames.shape[1:3], *PYFLOW_PARAMETERS[1:3])
    compute, threads = coarse2fine_flow, usable_cores() if threads is None else threads
    if method == "pyflow-original":
        compute, threads = _original_pyflow(), 1
    with ThreadPoolExecutor(threads) as pool:
        return _both_ways(frames, lambda pairs: list(pool.map(partial(_pyflow, compute), pairs)))


def flow_between_enlarged(frames, factor):
    """What "dis4x" finds, between frames that somebody else has enlarged, by a factor.

    frames: (N, factor * H, factor * W, 3) uint8 RGB array, N >= 2, H and W >= 16.

    Returns: as `estimate_flow`, each (N - 1, 2, H, W) in pixels of the frames before.

    Raises: ValueError: frames of another shape or type, or too small.
    """
    check_frames(frames, factor)
    return _both_ways(frames, partial(_enlarged_dis_flows, factor=factor, enlarged=True))


def _both_ways(frames, flows_of_pairs):
    """The flows forward in time and those backward, two arrays (N - 1, 2, H, W)."""
    pairs = list(itertools.pairwise(frames))
    flows = flows_of_pairs(pairs + [(b, a) for a, b in pairs])
    return tuple(np.split(np.stack(flows), 2))


def check_frames(frames, factor=1):
    """Refuse frames, enlarged by a factor, that no flow can be found between.

    Raises: ValueError: another shape or type, too small, or not as many as two.
    """
    if not isinstance(frames, np.ndarray):
        raise ValueError(f"frames must be a numpy array, not {type(frames).__name__}")
    if frames.ndim != 4 or frames.shape[3] != 3 or frames.dtype != np.uint8:
        seen = f"{frames.shape} {frames.dtype}"
        raise ValueError(f"frames must be (N, H, W, 3) uint8 RGB, not {seen}")
    if len(frames) < 2:
        raise ValueError(f"flow needs at least 2 frames, not {len(frames)}")
    sides = frames.shape[1:3]
    if any(side % factor or side < factor * SMALLEST_SIDE for side in sides):
        multiple = f", and multiples of {factor}" if factor > 1 else ""
        raise ValueError(
            f"frames must be at least {factor * SMALLEST_SIDE} pixels on each side{multiple}, "
            f"not {frames.shape[2]}x{frames.shape[1]}"
        )


def dis_flow():
    """OpenCV's DIS as "dis" has it, whose `calc` takes two grey frames (H, W) uint8 and None."""
    dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    dis.setFinestScale(0)
    return dis


def _dis_flows(pairs):
    """DIS flow of each (a, b) of (H, W, 3) uint8: a list of (2, H, W) float32."""
    dis = dis_flow()
    flows = (dis.calc(_grey(a), _grey(b), None) for a, b in pairs)
    return [np.ascontiguousarray(flow.transpose(2, 0, 1)) for flow in flows]


def _enlarged_dis_flows(pairs, factor, enlarged=False):
    """DIS flow between frames enlarged here, or already, reduced: a list of (2, H, W) float32.

    Without DIS's variational refinement, which costs more than half of the time and smooths
    single vehicles away: the average over 4x4 pixels steadies the flow enough.
    """
    dis = dis_flow()
    dis.setVariationalRefinementIterations(0)
    return [_enlarged_dis_flow(dis, _grey(a), _grey(b), factor, enlarged) for a, b in pairs]


def _enlarged_dis_flow(dis, a, b, factor, enlarged):
    """The flow of one pair of grey frames, in blocks where they are large."""
    height, width = (side // factor for side in a.shape) if enlarged else a.shape
    flow = np.empty((2, height, width), np.float32)
    blocks = itertools.product(equal_parts(height, BLOCK), equal_parts(width, BLOCK))
    for (top, bottom), (left, right) in blocks:
        rows = slice(max(top - BLOCK_MARGIN, 0), min(bottom + BLOCK_MARGIN, height))
        columns = slice(max(left - BLOCK_MARGIN, 0), min(right + BLOCK_MARGIN, width))
        large = (_enlarged_part(x, rows, columns, factor, enlarged) for x in (a, b))
        small = (columns.stop - columns.start, rows.stop - rows.start)
        part = cv2.resize(dis.calc(*large, None), small, interpolation=cv2.INTER_AREA)
        inner = part[top - rows.start : bottom - rows.start, left - columns.start :]
        flow[:, top:bottom, left:right] = inner[:, : right - left].transpose(2, 0, 1)
    flow /= factor
    return flow


def _enlarged_part(grey, rows, columns, factor, enlarged):
    """Some rows and columns of a frame, enlarged here if it is not yet."""
    if enlarged:
        rows, columns = (slice(factor * s.start, factor * s.stop) for s in (rows, columns))
        return np.ascontiguousarray(grey[rows, columns])
    size = (factor * (columns.stop - columns.start), factor * (rows.stop - rows.start))
    return cv2.resize(grey[rows, columns], size, interpolation=cv2.INTER_CUBIC)


def _grey(image):
    return cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY)


def _pyflow(compute, pair):
    im1, im2 = (np.ascontiguousarray(image) / 255 for image in pair)
    u, v, _ = compute(im1, im2, *PYFLOW_PARAMETERS)
    return np.stack([u, v]).astype(np.float32)


def _original_pyflow():
    """`coarse2fine_flow` of pathak22/pyflow, as its clone (a folder) or its built module."""
    for name in ("pyflow.pyflow", "pyflow"):
        try:
            module = importlib.import_module(name)
        except ImportError:
            continue
        if hasattr(module, "coarse2fine_flow"):
            return module.coarse2fine_flow
    raise ValueError(
        'flow method "pyflow-original" needs PyFlow (github.com/pathak22/pyflow) built and on '
        "the Python path; the package named pyflow on PyPI is something else. "
        'Method "pyflow" computes the same without it'
    )
