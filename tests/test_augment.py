"""Frames and flows turn together."""

import itertools

import numpy as np
import pytest

from data.augment import Augmentation, augment_flows, augment_frames, draw_augmentation

TURNS = list(itertools.product([False, True], repeat=4))


def matching_flow(a, b):
    """Flow (2, H, W) from a to b, two images (H, W) with the same distinct values."""
    place = {value: (y, x) for (y, x), value in np.ndenumerate(b)}
    flow = np.zeros((2, *a.shape), np.float32)
    for (y, x), value in np.ndenumerate(a):
        to_y, to_x = place[value]
        flow[:, y, x] = to_x - x, to_y - y
    return flow


def flows_of(frames):
    pairs = list(itertools.pairwise(frames[:, 0]))
    forward = np.stack([matching_flow(a, b) for a, b in pairs])
    return forward, np.stack([matching_flow(b, a) for a, b in pairs])


@pytest.mark.parametrize("turns", TURNS)
@pytest.mark.parametrize("size", [(6, 6), (4, 7)])
def test_flow_of_the_augmented_pair_is_the_augmented_flow(turns, size):
    # Every frame holds the same distinct values in another order: the flow is exact.
    rng = np.random.default_rng(0)
    frames = np.stack([rng.permutation(size[0] * size[1]).reshape(1, *size) for _ in range(4)])
    augmentation = Augmentation(0, 0, *size, *turns)
    expected = flows_of(augment_frames(frames, augmentation))
    turned = augment_flows(*flows_of(frames), augmentation)
    for a, b in zip(turned, expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_no_two_turns_are_the_same():
    frames = np.arange(2 * 4 * 4).reshape(2, 1, 4, 4)
    turned = {augment_frames(frames, Augmentation(0, 0, 4, 4, *t)).tobytes() for t in TURNS}
    assert len(turned) == 16


def test_draws_cover_every_place_and_turn():
    rng = np.random.default_rng(0)
    draws = {draw_augmentation(rng, 10, 9, 8) for _ in range(3000)}
    assert draws == {
        Augmentation(top, left, 8, 8, *turns)
        for top in range(3)
        for left in range(2)
        for turns in TURNS
    }
