"""The mean of a network over the eight flips and turns of its frames.

A network is not quite the same to every direction, and the errors of its eight views are not quite
the same either (Lim et al., "Enhanced Deep Residual Networks", CVPRW 2017, section 3.4).
"""

import itertools

import torch
from torch import Tensor, nn

from models.blocks import full_precision
from models.mstt import MSTT, FlowBetween


class Ensemble(nn.Module):
    """A network that sees its frames in eight ways and averages what it makes of them."""

    def __init__(self, network: MSTT):
        super().__init__()
        self.network = network
        self.options = network.options

    def extract(self, frames: Tensor) -> None:
        """Nothing: every view has features of its own."""

    def forward(
        self,
        frames: Tensor,
        forward_flow: Tensor,
        backward_flow: Tensor,
        features: None = None,
        flow_between: FlowBetween | None = None,
    ) -> Tensor:
        """As `MSTT.forward`."""
        total = 0
        for view in itertools.product((False, True), repeat=3):

            def turned(given: Tensor, view: tuple[bool, ...] = view) -> tuple[Tensor, Tensor]:
                flows = flow_between(turn_back(given, *view))
                return turn_flow(flows[0], *view), turn_flow(flows[1], *view)

            seen = self.network(
                turn(frames, *view),
                turn_flow(forward_flow, *view),
                turn_flow(backward_flow, *view),
                flow_between=flow_between and turned,
            )
            total = total + turn_back(full_precision(seen), *view)
        return total / 8


def turn(x: Tensor, transpose: bool, upside_down: bool, mirror: bool) -> Tensor:
    """Transpose, then flip the rows, then the columns of (..., H, W)."""
    return (x.mT if transpose else x).flip([-2] * upside_down + [-1] * mirror)


def turn_back(x: Tensor, transpose: bool, upside_down: bool, mirror: bool) -> Tensor:
    """The inverse of `turn`."""
    x = x.flip([-2] * upside_down + [-1] * mirror)
    return x.mT if transpose else x


def turn_flow(flow: Tensor, transpose: bool, upside_down: bool, mirror: bool) -> Tensor:
    """Turn a flow (..., 2, H, W), (dx, dy), as `turn` turns the frames that it leads between."""
    dx, dy = turn(flow, transpose, upside_down, mirror).unbind(-3)
    dx, dy = (dy, dx) if transpose else (dx, dy)
    return torch.stack((-dx if mirror else dx, -dy if upside_down else dy), dim=-3)
