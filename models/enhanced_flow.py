"""Optical flow between frames that the network itself has enlarged.

Vehicles of one low-resolution pixel and waves have an outline in enhanced frames, which bicubic
enlargement does not show: flow between them follows such things more closely than "dis4x". A
network with propagation improves its given frames with this flow; interpolated frames are then
warped along a second flow, between these finished frames.
"""

import numpy as np
import torch
from torch import Tensor, nn

from flow import flow_between_enlarged
from models.blocks import SCALE
from models.ensemble import Ensemble
from models.mstt import MSTT, FlowBetween
from utils.images import to_uint8

PERCENTILES = (0.5, 99.5)  # of a clip's values; they become black and white of the flow's 8 bits
SAMPLED = 8  # the percentiles are those of every eighth row and column


def stretched(clip: Tensor) -> Tensor:
    """A clip (N, 3, H, W) of any contrast, stretched so that flow of 8 bits sees most in it."""
    sample = clip[..., ::SAMPLED, ::SAMPLED].float().flatten().cpu().numpy()
    low, high = np.percentile(sample, PERCENTILES)
    return (clip - low) / max(high - low, 1e-3)


class EnhancedFlow(nn.Module):
    """A network that makes its flow itself: it sees every given frame alone first."""

    def __init__(self, network: MSTT | Ensemble):
        super().__init__()
        self.network = network
        self.options = network.options

    def forward(self, frames: Tensor, forward_flow: Tensor, backward_flow: Tensor) -> Tensor:
        """As `MSTT.forward`, the given flows left aside."""
        features = self.network.extract(frames)
        flows = self.between(frames, features)
        return self.network(frames, *flows, features, self.between_finished())

    def between(self, frames: Tensor, features: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The flows between frames (B, N, 3, H, W), each (B, N - 1, 2, H, W), LR pixels.

        features: of the frames, if they are there already.
        """
        known = [None] * frames.shape[1] if features is None else features.split(1, dim=1)
        alone = map(self.enlarge, frames.split(1, dim=1), known)
        return self.between_enlarged(torch.cat(list(alone), dim=1))

    def enlarge(self, frame: Tensor, features: Tensor | None = None) -> Tensor:
        """One frame alone, (B, 1, 3, H, W) -> (B, 1, 3, 4H, 4W)."""
        none = frame.new_zeros(len(frame), 0, 2, *frame.shape[-2:])
        return self.network(frame, none, none, features)

    def between_enlarged(self, enlarged: Tensor) -> tuple[Tensor, Tensor]:
        """As `between`, of frames (B, N, 3, 4H, 4W); no gradient goes through it."""
        clips = enlarged.detach()
        flows = [flow_between_enlarged(to_uint8(stretched(clip)), SCALE) for clip in clips]
        forward_flow, backward_flow = (
            torch.stack([torch.from_numpy(flow) for flow in side]).to(enlarged.device)
            for side in zip(*flows, strict=True)
        )
        return forward_flow, backward_flow

    def between_finished(self) -> FlowBetween | None:
        """A function for one window that makes the flow between its finished given frames.

        It does so once: the bands or views of a window all take the flow of the first call. None
        for a network without propagation, whose finished frames show little that is new.
        """
        if not self.options.get("propagation_blocks"):
            return None
        found = []

        def flow_between(given: Tensor) -> tuple[Tensor, Tensor]:
            if not found:
                found.append(self.between_enlarged(given))
            return found[0]

        return flow_between
