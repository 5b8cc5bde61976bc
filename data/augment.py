"""Random crop, mirroring, transposition and time reversal, of frames and flows alike."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Augmentation:
    """One way to cut and turn a clip, applied in the order of the fields."""

    top: int  # of the LR patch, pixels; it is 4 times as large in HR
    left: int
    height: int
    width: int
    mirror: bool = False  # left and right
    flip: bool = False  # upside down
    transpose: bool = False  # rows and columns
    reverse: bool = False  # time


def draw_augmentation(rng, height, width, patch):
    """Draw a patch of LR frames of height x width pixels, and the switches, all uniform.

    patch: its side, LR pixels, at most height and width.
    """
    top = int(rng.integers(height - patch + 1))
    left = int(rng.integers(width - patch + 1))
    switches = (bool(switch) for switch in rng.integers(2, size=4))
    return Augmentation(top, left, patch, patch, *switches)


def augment_frames(x, augmentation):
    """Turn frames (T, C, H, W) that are cut to the patch already.

    Returns: a view, (T, C, W, H) where rows and columns change places.
    """
    if augmentation.mirror:
        x = x[..., ::-1]
    if augmentation.flip:
        x = x[..., ::-1, :]
    if augmentation.transpose:
        x = x.swapaxes(-1, -2)
    return x[::-1] if augmentation.reverse else x


def augment_flows(forward, backward, augmentation):
    """Turn flows that are cut to the patch already: vectors turn with the frames.

    Arguments:
        forward, backward: arrays (N-1, 2, h, w), (dx, dy), from frame i to i + 1 and back.

    Returns: (forward, backward) of the turned frames, newly allocated.
    """
    sign = np.array(
        [-1 if augmentation.mirror else 1, -1 if augmentation.flip else 1], forward.dtype
    ).reshape(2, 1, 1)
    forward, backward = (augment_frames(flow * sign, augmentation) for flow in (forward, backward))
    if augmentation.transpose:
        forward, backward = forward[:, ::-1], backward[:, ::-1]
    return (backward, forward) if augmentation.reverse else (forward, backward)
