"""The optimiser of a training: Muon for the convolutions inside the network and Adam, or Adam."""

from typing import Any

import torch
from torch import nn

from models import MSTT
from training.muon import Muon

ALIGNMENT = "interpolation.alignment."
# Names of weights that Muon leaves alone: the first and last convolutions, whose inputs and
# outputs are pictures and flows, and the alignment, whose offsets run away under Muon.
NOT_MUON = (
    "frame_fusion.",
    "extraction.conv_first.",
    "reconstruction.conv_last.",
    "propagation.backwards.conv_first.",
    "propagation.forwards.conv_first.",
    "propagation.reconstruction.conv_last.",
    "propagation.share.",
    "skip_refinement.",
    ALIGNMENT,
)


class Optimiser:
    """One or two of PyTorch's optimisers, whose rates follow the same schedule.

    Arguments:
        network: its parameters are optimised.
        kind: "muon": the weights inside the network by Muon, all else by Adam; "adam": all by Adam.
        rate, muon_rate: peak rates of Adam and of Muon.
        alignment_share: of Adam's rate, for the alignment, whose gradients are weak where the
            global skip carries the motion: Adam turns their noise into a walk of the offsets.
    """

    def __init__(
        self, network: MSTT, kind: str, rate: float, muon_rate: float, alignment_share: float
    ):
        named = {name: p for name, p in network.named_parameters() if p.requires_grad}
        muon = [name for name in named if kind == "muon" and _is_inside(name, named[name])]
        alignment = [name for name in named if name.startswith(ALIGNMENT)]
        others = [name for name in named if name not in {*muon, *alignment}]
        on_gpu = all(parameter.is_cuda for parameter in named.values())
        groups = [
            {"params": [named[name] for name in names], "peak": peak}
            for names, peak in ((others, rate), (alignment, rate * alignment_share))
        ]
        self.parts: dict[str, torch.optim.Optimizer] = {
            "adam": torch.optim.Adam(groups, lr=rate, betas=(0.9, 0.999), fused=on_gpu or None)
        }
        if muon:
            group = {"params": [named[name] for name in muon], "peak": muon_rate}
            self.parts["muon"] = Muon([group], lr=muon_rate)

    def set_rate(self, share: float) -> None:
        """Set all rates to a share of their peaks."""
        for part in self.parts.values():
            for group in part.param_groups:
                group["lr"] = share * group["peak"]

    def zero_grad(self) -> None:
        for part in self.parts.values():
            part.zero_grad(set_to_none=True)

    def step(self) -> None:
        for part in self.parts.values():
            part.step()

    def state_dict(self) -> dict[str, Any]:
        """What a run needs to go on exactly: the moments of every part, by its name."""
        return {name: part.state_dict()["state"] for name, part in self.parts.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over moments; rates and constants are those of the program, not of any file."""
        for name, part in self.parts.items():
            groups = part.state_dict()["param_groups"]
            part.load_state_dict({"state": state[name], "param_groups": groups})


def _is_inside(name: str, parameter: nn.Parameter) -> bool:
    # A scale of each head (ChannelAttention.temperature) has three dimensions and is no matrix.
    is_weight = name.endswith(".weight") and parameter.ndim >= 2
    return is_weight and not name.startswith(NOT_MUON)
