"""Flow between frames that the network has enhanced: as "dis4x", on other pictures."""

from typing import ClassVar

import cv2
import numpy as np
import pytest
import torch

import flow
from flow import estimate_flow, flow_between_enlarged
from models import MSTT, super_resolve
from models.blocks import bicubic, bicubic_flow_baseline, mean_of_neighbours
from models.enhanced_flow import EnhancedFlow
from utils.images import to_tensor, to_uint8


def moving_texture(count=3, height=48, width=56, step=1.25):
    """Grey noise that moves to the right by `step` LR pixels a frame, (N, H, W, 3) uint8."""
    noise = np.random.default_rng(0).random((4 * height, 4 * width + 64)).astype(np.float32)
    noise = cv2.GaussianBlur(noise, (0, 0), 4)
    noise = (noise - noise.min()) / np.ptp(noise) * 255
    frames = []
    for index in range(count):
        shift = np.float32([[1, 0, 4 * step * index - 32], [0, 1, 0]])
        large = cv2.warpAffine(noise, shift, (4 * width, 4 * height), flags=cv2.INTER_LINEAR)
        frames.append(cv2.resize(large, (width, height), interpolation=cv2.INTER_AREA))
    return np.repeat(np.rint(np.stack(frames)).astype(np.uint8)[..., None], 3, axis=3)


def test_flow_between_enlarged_frames_is_that_of_dis4x():
    frames = moving_texture()
    size = (4 * frames.shape[2], 4 * frames.shape[1])
    enlarged = np.stack([cv2.resize(x, size, interpolation=cv2.INTER_CUBIC) for x in frames])
    expected = estimate_flow(frames, "dis4x")
    assert abs(np.median(expected[0][:, 0]) - 1.25) < 0.1
    for ours, theirs in zip(flow_between_enlarged(enlarged, 4), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_large_frames_are_done_in_blocks(monkeypatch):
    frames = moving_texture(2, 96, 112)
    enlarged = np.stack([cv2.resize(x, None, fx=4, fy=4) for x in frames])
    whole = flow_between_enlarged(enlarged, 4)
    monkeypatch.setattr(flow, "BLOCK", 60)
    monkeypatch.setattr(flow, "BLOCK_MARGIN", 24)
    for ours, theirs in zip(flow_between_enlarged(enlarged, 4), whole, strict=True):
        assert ours.shape == theirs.shape
        assert np.abs(ours - theirs).mean() < 0.02


class Enlarger(torch.nn.Module):
    """Enlarges a frame alone; of several it keeps the flows."""

    options: ClassVar = {}

    def extract(self, frames):
        return None

    def forward(self, frames, forward_flow, backward_flow, features=None, flow_between=None):
        if frames.shape[1] == 1:
            return bicubic(frames)
        self.flows = (forward_flow, backward_flow)
        return torch.zeros(1)


@pytest.mark.parametrize("contrast", [1.0, 0.05])
def test_the_network_gets_the_flow_between_its_own_frames(contrast):
    """Of every clip of a batch its own, whatever its contrast."""
    clips = [moving_texture(step=step) for step in (1.25, -0.75)]
    frames = torch.stack([to_tensor(clip) for clip in clips]) * contrast + 0.3
    none = torch.zeros(2, 2, 2, *frames.shape[-2:])
    network = Enlarger()
    EnhancedFlow(network)(frames, none, none)
    for number, clip in enumerate(clips):
        enlarged = to_uint8(bicubic(to_tensor(clip)[None])[0])
        expected = flow_between_enlarged(enlarged, 4)
        for ours, theirs in zip(network.flows, expected, strict=True):
            assert np.abs(ours[number].numpy() - theirs).mean() < 0.05
    assert network.flows[0][0, :, 0].median() > 1 > -0.5 > network.flows[0][1, :, 0].median()


def test_finished_frames_are_warped_along_the_flow_between_them():
    """The propagation sees the flow between frames enlarged alone."""
    torch.manual_seed(0)
    options = {"global_skip": "enhanced", "propagation_blocks": 1}
    network = MSTT(8, 2, 1, 1, midpoint_flow=True, **options).eval()
    torch.nn.init.normal_(network.propagation.reconstruction.conv_last.weight, std=0.3)
    frames, none = to_tensor(moving_texture())[None], torch.zeros(1, 2, 2, 48, 56)
    with torch.no_grad():
        alone = [network(frame, none[:, :0], none[:, :0]) for frame in frames.split(1, dim=1)]
        first = flow_between(torch.cat(alone, dim=1)[0])
        output = network(frames, *first)
        given = output[:, ::2]
        second = flow_between(given[0])
        residual = output[:, 1::2] - mean_of_neighbours(given, *first, mode="bicubic")
        between = mean_of_neighbours(given, *second, mode="bicubic") + residual
        found = EnhancedFlow(network)(frames, none, none)
    assert torch.equal(found[:, ::2], given)
    torch.testing.assert_close(found[:, 1::2], between, atol=1e-5, rtol=0)
    assert (output[:, 1::2] - between).abs().mean() > 1e-3


def test_all_bands_of_a_window_move_alike():
    options = {"propagation_blocks": 1, "global_skip": "enhanced"}
    network = EnhancedFlow(MSTT(8, 2, 1, 1, **options).eval())
    shared = network.between_finished()
    first = shared(torch.rand(1, 2, 3, 64, 64))
    assert shared(torch.rand(1, 2, 3, 64, 64)) is first
    assert network.between_finished()(torch.rand(1, 2, 3, 64, 64)) is not first
    assert EnhancedFlow(MSTT(8, 2, 1, 1)).between_finished() is None


def flow_between(enlarged):
    """Forward and backward, of pictures (N, 3, 4H, 4W), each (1, N - 1, 2, H, W)."""
    low, high = np.percentile(enlarged[..., ::8, ::8].numpy(), (0.5, 99.5))
    flows = flow_between_enlarged(to_uint8((enlarged - low) / (high - low)), 4)
    return [torch.from_numpy(flow)[None] for flow in flows]


def test_frames_without_any_contrast_do_not_move():
    network, frames = Enlarger(), torch.full((1, 2, 3, 20, 24), 0.5)
    none = torch.zeros(1, 1, 2, 20, 24)
    EnhancedFlow(network)(frames, none, none)
    assert (network.flows[0] == 0).all()


def test_super_resolve_takes_it_by_its_name():
    torch.manual_seed(0)
    network = MSTT(8, 2, 1, 1, midpoint_flow=True, global_skip="enhanced").eval()
    frames = moving_texture()
    none = torch.zeros(1, 2, 2, *frames.shape[1:3])
    with torch.no_grad():
        expected = EnhancedFlow(network)(to_tensor(frames)[None], none, none)
        still = network(to_tensor(frames)[None], none, none)
    output = np.stack(list(super_resolve(network, frames, "enhanced")))
    np.testing.assert_array_equal(output, to_uint8(expected[0]))
    assert (output != to_uint8(still[0])).mean() > 0.05


def test_it_has_no_gradient_and_the_network_has():
    network = EnhancedFlow(MSTT(8, 2, 1, 1, midpoint_flow=True, global_skip="enhanced"))
    frames = torch.rand(1, 2, 3, 16, 20)
    none = torch.zeros(1, 1, 2, 16, 20)
    network(frames, none, none).sum().backward()
    assert network.network.reconstruction.conv_last.weight.grad.abs().sum() > 0


def test_what_is_no_network_has_no_enhanced_flow():
    with pytest.raises(ValueError, match="needs a network"):
        list(super_resolve(bicubic_flow_baseline, moving_texture(), "enhanced"))
