"""Propagation: features carried through all frames of a window, forwards and backwards in time.

Not in the paper. The ground stands still and the camera drifts, so every frame samples the ground
at other places, and one frame shows what another misses. Here features run through all frames from
the last to the first, and from the first to the last, warped along the flow from one to the next
(BasicVSR, Chan et al., CVPR 2021).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.blocks import (
    SCALE,
    bilinear,
    channels_last,
    flow_warp,
    full_precision,
    in_every_clip,
    residual_blocks,
)
from models.layers import Conv
from models.reconstruction import Reconstruction

SLOPE = 0.1  # of the leaky ReLUs
SMOOTH = 5  # LR pixels; side of the square over which the mean of the flow is taken


class Propagation(nn.Module):
    """A second enhanced version of each given frame, made from all of them, mixed with the first.

    The mixing weight is found pixel by pixel and starts at one half; the second version starts near
    the bilinear enlargement. blocks: residual blocks for each direction (BasicVSR: 30).
    """

    def __init__(self, channels: int, blocks: int):
        super().__init__()
        self.backwards = Branch(channels, blocks)
        self.forwards = Branch(channels, blocks)
        self.fusion = Conv(3 * channels, channels, kernel=1, slope=SLOPE)
        self.reconstruction = Reconstruction(channels, blocks=0)
        nn.init.normal_(self.reconstruction.conv_last.weight, std=1e-3)
        nn.init.zeros_(self.reconstruction.conv_last.bias)
        self.share = Conv(channels, SCALE**2)
        nn.init.zeros_(self.share.weight)
        nn.init.zeros_(self.share.bias)

    def forward(
        self,
        alone: Tensor,
        frames: Tensor,
        features: Tensor,
        forward_flow: Tensor,
        backward_flow: Tensor,
    ) -> Tensor:
        """Improve enhanced given frames; the result has full precision.

        Arguments:
            alone: the first versions, (B, N, 3, 4H, 4W). With N = 1 they come back unchanged.
            frames: (B, N, 3, H, W).
            features: what the extraction found in each, (B, N, C, H, W).
            forward_flow, backward_flow: (B, N - 1, 2, H, W), LR pixels.
        """
        if frames.shape[1] == 1:
            return alone
        forward_flow, backward_flow = smooth(forward_flow), smooth(backward_flow)
        seen = torch.cat((frames.to(features.dtype), features), dim=2)  #    (B, N, 3+C, H, W)
        later = self.backwards(seen.flip(1), forward_flow.flip(1)).flip(1)  # (B, N, C, H, W)
        earlier = self.forwards(seen, backward_flow)  #                      (B, N, C, H, W)
        x = torch.cat((later, earlier, features), dim=2)  #                  (B, N, 3C, H, W)
        x = in_every_clip(self.fusion, x)
        logit = full_precision(F.pixel_shuffle(in_every_clip(self.share, x), SCALE))
        together = full_precision(self.reconstruction.enlarge(x)) + bilinear(frames)
        return torch.lerp(full_precision(alone), together, torch.sigmoid(logit))


class Branch(nn.Module):
    """One direction: features that go from frame to frame and take in what each shows."""

    def __init__(self, channels: int, blocks: int):
        super().__init__()
        self.conv_first = Conv(3 + 2 * channels, channels, slope=SLOPE)
        self.blocks = residual_blocks(channels, blocks)

    def forward(self, seen: Tensor, flow: Tensor) -> Tensor:
        """Go through frames in the order in which they come.

        seen: (B, N, 3 + C, H, W), each frame and its features; flow: (B, N - 1, 2, H, W), LR
        pixels, from each but the first to the one before it.

        Returns: (B, N, C, H, W).
        """
        carried, found = torch.zeros_like(seen[:, 0, 3:]), []
        for index in range(seen.shape[1]):
            if index > 0:
                carried = flow_warp(carried, flow[:, index - 1])
            x = channels_last(torch.cat((seen[:, index], carried), dim=1))
            carried = self.blocks(self.conv_first(x))
            found.append(carried)
        return torch.stack(found, dim=1)


def smooth(flow: Tensor) -> Tensor:
    """The mean of a flow (B, N, 2, H, W) around each pixel, as far as there are pixels.

    A flow that follows single vehicles jitters on the ground by a fraction of a pixel, and the
    ground is what propagation improves: 0.1 to 0.2 dB on clips whose camera drifts.
    """
    pooled = F.avg_pool2d(flow.flatten(0, 1), SMOOTH, 1, SMOOTH // 2, count_include_pad=False)
    return pooled.unflatten(0, flow.shape[:2])
