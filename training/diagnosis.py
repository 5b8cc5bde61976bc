"""What a step without a finite loss or gradient happened on; offsets of the alignment."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dcn import DCNv2
from utils.team import Team
from utils.text import one_line


def blame(
    team: Team,
    step: int,
    norm: float,
    losses: Sequence[Tensor],
    parts: Sequence[dict[str, Any]],
    offset_on: Callable[[dict[str, Any]], float],
) -> str:
    """What a step without a finite loss or gradient happened on; called in every process.

    norm: of the step's gradient; losses, parts: the batches of this process and their losses;
    offset_on: gives the network's largest deformable offset on a batch, in pixels.
    """
    mine = [
        (loss.item(), part["name"], offset_on(part))
        for loss, part in zip(losses, parts, strict=True)
    ]
    everyone = [batch for process in team.gather(mine) for batch in process]
    # A finite loss can have a gradient that is not; then any batch may be the cause.
    guilty = [batch for batch in everyone if not math.isfinite(batch[0])] or everyone
    batches = "; ".join(
        f"the loss is {loss:.4g} on {one_line(', '.join(names))}, "
        f"its largest offset {offset:.4g} pixels"
        for loss, names, offset in guilty
    )
    return f"step {step}: {batches}; the gradient's norm is {norm:.4g}. The step changed nothing"


@torch.no_grad()
def largest_offset(network: nn.Module, inputs: Sequence[Tensor]) -> float:
    """The largest |offset| in pixels of the network's deformable convolutions on these inputs.

    A runaway offset is the usual cause of a loss that is NaN.
    """
    network(*inputs)
    return _largest(network, "largest_offset", otherwise=0.0)  # with one given frame


def mean_offset(network: nn.Module) -> float:
    """The mean |offset| in pixels of the network's deformable convolutions in their last pass.

    NaN where they were not seen: with one given frame, or in a compiled network.
    """
    return _largest(network, "mean_offset", otherwise=math.nan)


def _largest(network: nn.Module, name: str, otherwise: float) -> float:
    """The largest figure of a pass that any of its deformable convolutions has; NaN counts most."""
    seen = [getattr(layer, name) for layer in network.modules() if isinstance(layer, DCNv2)]
    sizes = [size.item() for size in seen if size is not None]
    return max(sizes, key=lambda size: (math.isnan(size), size), default=otherwise)
