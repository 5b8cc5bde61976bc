"""The mean over eight views."""

import itertools

import pytest
import torch

from models import MSTT
from models.blocks import bicubic_flow_baseline
from models.ensemble import Ensemble, turn, turn_back, turn_flow

VIEWS = list(itertools.product((False, True), repeat=3))


def random_inputs():
    generator = torch.Generator().manual_seed(0)
    frames = torch.rand(1, 3, 3, 16, 20, generator=generator)
    return frames, *torch.randn(2, 1, 2, 2, 16, 20, generator=generator)


@pytest.mark.parametrize("view", VIEWS)
def test_views_turn_back_and_flows_turn_with_the_frames(view):
    frames, forward_flow, backward_flow = random_inputs()
    assert torch.equal(turn_back(turn(frames, *view), *view), frames)
    # Warping turned frames along turned flows is turning what is warped.
    flows = (turn_flow(flow, *view) for flow in (forward_flow, backward_flow))
    warped = turn_back(bicubic_flow_baseline(turn(frames, *view), *flows), *view)
    expected = bicubic_flow_baseline(frames, forward_flow, backward_flow)
    torch.testing.assert_close(warped, expected, atol=1e-5, rtol=0)


def test_the_eight_views_differ():
    frames = random_inputs()[0][..., :16]
    assert len({turn(frames, *view).numpy().tobytes() for view in VIEWS}) == 8


def test_the_ensemble_is_the_mean_and_sees_all_directions_alike():
    torch.manual_seed(0)
    network = MSTT(8, 2, 1, 1, global_skip="enhanced").eval()
    torch.nn.init.normal_(network.reconstruction.conv_last.weight, std=0.1)
    frames, *flows = random_inputs()
    with torch.no_grad():
        output = Ensemble(network)(frames, *flows)
        views = [
            turn_back(network(turn(frames, *v), *(turn_flow(f, *v) for f in flows)), *v)
            for v in VIEWS
        ]
        torch.testing.assert_close(output, torch.stack(views).mean(0), atol=1e-6, rtol=1e-5)
        assert (output - network(frames, *flows)).abs().max() > 1e-3
        view = (True, False, True)
        turned = Ensemble(network)(turn(frames, *view), *(turn_flow(f, *view) for f in flows))
    torch.testing.assert_close(turn_back(turned, *view), output, atol=1e-5, rtol=0)
    assert Ensemble(network).options is network.options


def test_every_view_warps_along_the_flow_between_finished_frames():
    torch.manual_seed(0)
    network = MSTT(8, 2, 1, 1, global_skip="enhanced").eval()
    frames, *flows = random_inputs()
    others = [flow.flip(-1) + 1 for flow in flows]

    def flow_between(given):
        shown.append(given)
        return others

    shown = []
    with torch.no_grad():
        output = Ensemble(network)(frames, *flows, flow_between=flow_between)
        views = []
        for v in VIEWS:
            turned = [[turn_flow(flow, *v) for flow in both] for both in (flows, others)]
            seen = network(turn(frames, *v), *turned[0], flow_between=lambda _, f=turned[1]: f)
            views.append(turn_back(seen, *v))
        torch.testing.assert_close(output, torch.stack(views).mean(0), atol=1e-6, rtol=1e-5)
        assert (output - Ensemble(network)(frames, *flows))[:, 1::2].abs().max() > 1e-3
    for given, view in zip(shown, views, strict=True):
        torch.testing.assert_close(given, view[:, ::2])
