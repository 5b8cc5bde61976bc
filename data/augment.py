"""Random crop, mirroring, transposition and time reversal, of frames and flows alike."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Augmentation:
    """One way to cut and turn a clip.

    Applied in the order of the fields: the LR patch from (top, left), 4 times as large in HR;
    then left-right mirror, upside-down flip, transposition of rows and columns, time reversal.

    Attributes:
        top, left, height, width: the patch, LR pixels.
        mirror, flip, transpose, reverse: whether to.
    """

    top: int
    left: int
    height: int
    width: int
    mirror: bool = False
    flip: bool = False
    transpose: bool = False
    reverse: bool = False


def draw_augmentation(rng, height, width, patch):
    """Draw an augmentation: place and the four switches, all uniform.

    Arguments:
        rng: numpy Generator.
        height, width: size of the LR frames, pixels.
        patch: side of the LR patch.

    Returns:
        Augmentation.
    """
    top = int(rng.integers(height - patch + 1))
    left = int(rng.integers(width - patch + 1))
    switches = (bool(switch) for switch in rng.integers(2, size=4))
    return Augmentation(top, left, patch, patch, *switches)


def _turn(x, augmentation):
    if augmentation.mirror:
        x = x[..., ::-1]
    if augmentation.flip:
        x = x[..., ::-1, :]
    if augmentation.transpose:
        x = x.swapaxes(-1, -2)
    return x[::-1] if augmentation.reverse else x


def augment_frames(frames, augmentation):
    """Turn frames that are cut to the patch already.

    Arguments:
        frames: array (T, C, H, W).
        augmentation: Augmentation.

    Returns:
        A view of them, (T, C, H, W), or (T, C, W, H) where transposed.
    """
    return _turn(frames, augmentation)


def augment_flows(forward, backward, augmentation):
    """Turn flows that are cut to the patch already: vectors turn with the frames.

    Arguments:
        forward, backward: arrays (N-1, 2, h, w), (dx, dy), from frame i to i + 1 and back.
        augmentation: Augmentation.

    Returns:
        (forward, backward) of the turned frames, newly allocated.
    """
    sign = np.array(
        [-1 if augmentation.mirror else 1, -1 if augmentation.flip else 1], forward.dtype
    ).reshape(2, 1, 1)
    forward, backward = (_turn(flow * sign, augmentation) for flow in (forward, backward))
    if augmentation.transpose:
        forward, backward = forward[:, ::-1], backward[:, ::-1]
    return (backward, forward) if augmentation.reverse else (forward, backward)
