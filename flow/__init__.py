"""Optical flow between neighbouring frames: one call, a choice of method.

Flow is (dx, dy) in pixels of the given frames, for backward warping: the flow from frame
A to frame B holds, at each pixel (x, y) of A, where in B its content is found:
B at (x + dx, y + dy) looks like A at (x, y).
"""

import itertools

import cv2
import numpy as np

__all__ = ["FLOW_METHODS", "estimate_flow"]

FLOW_METHODS = ("dis",)

# The smallest side the network takes; OpenCV's DIS works from 12 pixels on.
MIN_SIDE = 16


def estimate_flow(frames, method="dis"):
    """Optical flow between neighbouring frames, in both directions of time.

    Args:
        frames: (N, H, W, 3) uint8 RGB array, N >= 2, H and W >= 16.
        method: one of `FLOW_METHODS`. "dis" is OpenCV's DIS (Kroeger et al., ECCV 2016),
            medium preset, finest scale 0, on BT.601 grey.

    Returns:
        (forward, backward), each (N - 1, 2, H, W) float32, (dx, dy) in pixels. forward[i]
        leads from frame i to frame i + 1, backward[i] from frame i + 1 to frame i.

    Raises:
        ValueError: unknown method, or frames of another shape or type.
    """
    if method not in FLOW_METHODS:
        raise ValueError(f"unknown flow method {method!r}; choose one of {', '.join(FLOW_METHODS)}")
    _check_frames(frames)
    pairs = list(itertools.pairwise(frames))
    pairs += [(b, a) for a, b in pairs]
    flows = np.ascontiguousarray(_dis_flows(pairs))
    return flows[: len(frames) - 1], flows[len(frames) - 1 :]


def _check_frames(frames):
    if not isinstance(frames, np.ndarray):
        raise ValueError(f"frames must be a numpy array, not {type(frames).__name__}")
    if frames.ndim != 4 or frames.shape[3] != 3 or frames.dtype != np.uint8:
        raise ValueError(
            f"frames must be (N, H, W, 3) uint8 RGB, not {frames.shape} {frames.dtype}"
        )
    if len(frames) < 2:
        raise ValueError(f"flow needs at least 2 frames, not {len(frames)}")
    if min(frames.shape[1:3]) < MIN_SIDE:
        raise ValueError(
            f"frames must be at least {MIN_SIDE} pixels on each side, "
            f"not {frames.shape[1]} x {frames.shape[2]} (height x width)"
        )


def _dis_flows(pairs):
    """DIS flow of each (a, b) of (H, W, 3) uint8: a list of (2, H, W) float32."""
    dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    dis.setFinestScale(0)
    return [dis.calc(_grey(a), _grey(b), None).transpose(2, 0, 1) for a, b in pairs]


def _grey(image):
    return cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY)
