"""Optical flow between frames that the network itself has enlarged.

Vehicles of one low-resolution pixel and waves have an outline in enhanced frames, which bicubic
enlargement does not show: flow between them follows such things more closely than "dis4x".
"""

import numpy as np
import torch
from torch import Tensor, nn

from flow import flow_between_enlarged
from models.blocks import SCALE
from models.ensemble import Ensemble
from models.mstt import MSTT
from utils.images import to_uint8

PERCENTILES = (0.5, 99.5)  # of a clip, that its 8 bits for the flow reach from and to
SAMPLED = 8  # every so many rows and columns are looked at for them


def stretched(clip: Tensor) -> Tensor:
    """A clip (N, 3, H, W) of any contrast, with the one that a flow of 8 bits sees most in."""
    sample = clip[..., ::SAMPLED, ::SAMPLED].float().flatten().cpu().numpy()
    low, high = np.percentile(sample, PERCENTILES)
    return (clip - low) / max(high - low, 1e-3)


class EnhancedFlow(nn.Module):
    """A network that makes its flow itself: it sees every given frame alone first.

    Arguments:
        network: in evaluation mode.
    """

    def __init__(self, network: MSTT | Ensemble):
        super().__init__()
        self.network = network
        self.options = network.options

    def forward(self, frames: Tensor, forward_flow: Tensor, backward_flow: Tensor) -> Tensor:
        """As `MSTT.forward`, the given flows left aside."""
        return self.network(frames, *self.between(frames))

    def between(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """The flows between frames (B, N, 3, H, W), each (B, N - 1, 2, H, W), LR pixels."""
        none = frames.new_zeros(len(frames), 0, 2, *frames.shape[-2:])
        alone = [self.network(frame, none, none) for frame in frames.split(1, dim=1)]
        enlarged = torch.cat(alone, dim=1)
        flows = [flow_between_enlarged(to_uint8(stretched(clip)), SCALE) for clip in enlarged]
        forward_flow, backward_flow = (
            torch.stack([torch.from_numpy(flow) for flow in side]).to(frames.device)
            for side in zip(*flows, strict=True)
        )
        return forward_flow, backward_flow
