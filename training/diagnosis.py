"""What a step without a finite loss or gradient happened on; offsets of the alignment."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dcn import DCNv2
from dcn.deform_conv import bounded
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

    Arguments:
        team, step: the processes that took the step, and its number.
        norm: of its gradient.
        losses, parts: the batches of this process and their losses.
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

    A runaway offset is the usual cause of a loss that is NaN. The pass is repeated with a
    look at the offsets, because looking at them in every step would cost time.
    """
    sizes = []

    def look(limit: float | None, layer: nn.Module, arguments: Any, output: Tensor) -> None:
        offsets = output[:, : output.shape[1] * 2 // 3]  # the last third is the mask
        sizes.append(bounded(offsets, limit).abs().max().item())

    layers = [layer for layer in network.modules() if isinstance(layer, DCNv2)]
    hooks = [
        layer.conv_offset_mask.register_forward_hook(partial(look, layer.offset_limit))
        for layer in layers
    ]
    try:
        network(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    # With one given frame there is no alignment.
    return max(sizes, key=lambda size: (math.isnan(size), size), default=0.0)


def mean_offset(network: nn.Module) -> float:
    """The mean |offset| in pixels of the network's deformable convolutions in their last pass.

    NaN where they were not seen: with one given frame, or in a compiled network.
    """
    means = [layer.mean_offset for layer in network.modules() if isinstance(layer, DCNv2)]
    return max((mean.item() for mean in means if mean is not None), default=math.nan)
