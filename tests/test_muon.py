"""Muon against its definition by a singular value decomposition, and what it is used for."""

import pytest
import torch

from models import MSTT
from training.diagnosis import mean_offset
from training.muon import Muon, orthogonal
from training.optimiser import Optimiser


@pytest.mark.parametrize("shape", [(6, 6), (4, 36), (40, 8)])
def test_the_iteration_keeps_the_singular_vectors_and_evens_the_values(shape):
    generator = torch.Generator().manual_seed(0)
    matrices = torch.randn(3, *shape, generator=generator)
    u, _, v = torch.linalg.svd(matrices, full_matrices=False)
    values = u.mT @ orthogonal(matrices) @ v.mT  # diagonal, if the vectors are the same
    diagonal = torch.diagonal(values, dim1=1, dim2=2)
    torch.testing.assert_close(values, torch.diag_embed(diagonal), atol=1e-4, rtol=0)
    assert diagonal.min() > 0.6
    assert diagonal.max() < 1.3


def test_a_parameter_without_gradient_stays():
    parameter = torch.nn.Parameter(torch.ones(2, 2))
    Muon([parameter]).step()
    assert torch.equal(parameter, torch.ones(2, 2))


def test_who_is_optimised_by_what():
    network = MSTT(8, 2, 1, 1, global_skip="enhanced", skip_refinement=True, enlargement="direct")
    optimiser = Optimiser(network, "muon", rate=8e-4, muon_rate=1e-2, alignment_share=0.1)
    peaks = {
        id(parameter): (name, group["peak"])
        for name, part in optimiser.parts.items()
        for group in part.param_groups
        for parameter in group["params"]
    }
    named = dict(network.named_parameters())
    assert len(peaks) == len(named)
    for name, expected in {
        "extraction.conv_first.weight": ("adam", 8e-4),
        "extraction.blocks.0.conv1.weight": ("muon", 1e-2),
        "extraction.blocks.0.conv1.bias": ("adam", 8e-4),
        "interpolation.fusion.weight": ("muon", 1e-2),
        "interpolation.alignment.mul_scale1.weight": ("adam", pytest.approx(8e-5)),
        "interpolation.alignment.dcnpack.weight": ("adam", pytest.approx(8e-5)),
        "transformer.block.attention.query_embedding.weight": ("muon", 1e-2),
        "skip_refinement.blocks.0.conv1.weight": ("adam", 8e-4),
        "reconstruction.conv_last.weight": ("adam", 8e-4),
    }.items():
        assert peaks[id(named[name])] == expected, name
    attention = MSTT(64, 8, 6, 1, extraction="dat", enlargement="direct")
    by_adam = Optimiser(attention, "muon", 8e-4, 1e-2, 0.1).parts["adam"].param_groups[0]["params"]
    scales = [p for name, p in attention.named_parameters() if name.endswith("temperature")]
    assert scales
    assert {id(scale) for scale in scales} <= {id(parameter) for parameter in by_adam}
    optimiser.set_rate(0.5)
    assert {group["lr"] for group in optimiser.parts["muon"].param_groups} == {5e-3}
    assert [group["lr"] for group in optimiser.parts["adam"].param_groups] == [4e-4, 4e-5]


def test_pictures_and_shares_are_left_to_adam():
    options = {"global_skip": "enhanced", "frame_fusion": True, "propagation_blocks": 1}
    network = MSTT(8, 2, 1, 1, **options)
    muon = Optimiser(network, "muon", 8e-4, 1e-2, 0.1).parts["muon"].param_groups[0]["params"]
    by_muon = {id(parameter) for parameter in muon}
    left = {name for name, weight in network.named_parameters() if id(weight) not in by_muon}
    assert left >= {
        "frame_fusion.conv_first.weight",
        "frame_fusion.blocks.0.conv1.weight",
        "propagation.backwards.conv_first.weight",
        "propagation.forwards.conv_first.weight",
        "propagation.reconstruction.conv_last.weight",
        "propagation.share.weight",
    }
    assert not left & {"propagation.forwards.blocks.0.conv1.weight", "propagation.fusion.weight"}


def offset_after_training(steps, rate, **options):
    """The mean |offset| of a tiny network's alignment after so many steps on noise."""
    torch.manual_seed(0)
    network = MSTT(8, 2, 1, 1, global_skip="enhanced", enlargement="direct", **options)
    optimiser = Optimiser(network, "muon", rate=8e-4, muon_rate=1e-2, alignment_share=rate)
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        frames = torch.rand(1, 2, 3, 16, 16, generator=generator)
        truth = torch.rand(1, 3, 3, 64, 64, generator=generator)
        flow = torch.randn(1, 1, 2, 16, 16, generator=generator)
        (network(frames, flow, -flow) - truth).abs().mean().backward()
        optimiser.set_rate(1.0)
        optimiser.step()
        optimiser.zero_grad()
    return mean_offset(network)


@pytest.mark.filterwarnings("ignore:DCNv2")
def test_offsets_stay_alive():
    """Rates far above the usual ones drive free offsets away, and neither bounded ones nor those
    at the usual share of the rate."""
    assert offset_after_training(20, rate=100) > 10
    assert offset_after_training(20, rate=100, offset_limit=5.0) <= 5
    assert 0.001 < offset_after_training(30, rate=0.1) < 10
