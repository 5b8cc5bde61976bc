"""What one gets without a network: bicubic enlargement, and frames between by blending or flow.

Both baselines take given frames (N, h, w, 3) and return 2N - 1 frames (4h, 4w, 3), uint8 RGB.
They are the yardstick of main.py and test.py, so they are made as well as ready-made parts allow.
"""

import itertools
from collections.abc import Sequence

import cv2
import numpy as np

from flow import estimate_flow
from utils.resize import imresize


def bicubic_blend(given: np.ndarray) -> list[np.ndarray]:
    """Enlarge the given frames by MATLAB's bicubic; between two of them take their mean."""
    enlarged = [imresize(frame.astype(np.float32), 4) for frame in given]
    frames = [to_levels(enlarged[0])]
    for before, after in itertools.pairwise(enlarged):
        frames += [to_levels((before + after) / 2), to_levels(after)]
    return frames


def bicubic_flow(given: np.ndarray, flow_method: str = "dis") -> list[np.ndarray]:
    """Enlarge the given frames by MATLAB's bicubic, then interpolate the HR video along its flow.

    What one gets from ready-made parts. Flow between enlarged frames sees vehicles of one LR pixel
    that flow between LR frames misses: a harder baseline than that of the network's global skip.

    flow_method: see flow.estimate_flow; between enlarged frames, where DIS suffices.
    """
    return interpolate_along_flow([imresize(frame, 4) for frame in given], flow_method)


def interpolate_along_flow(enlarged: Sequence[np.ndarray], flow_method: str) -> list[np.ndarray]:
    """Put a frame between every two: both of them, warped half-way along their flow, averaged.

    enlarged: N frames (H, W, 3) uint8 RGB; flow_method: see flow.estimate_flow.

    Returns: 2N-1 frames (H, W, 3) uint8.
    """
    frames = [enlarged[0]]
    for before, after in itertools.pairwise(enlarged):
        forward, backward = estimate_flow(np.stack((before, after)), method=flow_method)
        pair = (before.astype(np.float32), after.astype(np.float32))
        half_way = (sample(pair[0], backward[0] / 2) + sample(pair[1], forward[0] / 2)) / 2
        frames += [to_levels(half_way), after]
    return frames


def sample(image: np.ndarray, flow: np.ndarray, interpolation: int = cv2.INTER_CUBIC) -> np.ndarray:
    """Backward warping of (H, W, bands) floating by a flow (2, H, W), border repeated."""
    height, width = image.shape[:2]
    xs = np.arange(width, dtype=np.float32) + flow[0]
    ys = np.arange(height, dtype=np.float32)[:, None] + flow[1]
    how = {"interpolation": interpolation, "borderMode": cv2.BORDER_REPLICATE}
    bands = np.ascontiguousarray(np.moveaxis(image, 2, 0))  # of many together it rounds the flow
    return np.stack([cv2.remap(band, xs, ys, **how) for band in bands], axis=2)


def to_levels(image: np.ndarray) -> np.ndarray:
    """Levels 0..255 in float, rounded and clipped to uint8."""
    return np.rint(image).clip(0, 255).astype(np.uint8)
