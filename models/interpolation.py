"""Flow-DConv deep-coupled feature interpolation (paper section 2.2, figure 2).

The features of a frame that was not given are made from its two neighbours twice: warped along
the optical flow, which follows large motion, and aligned by a multi-scale deformable convolution
(MSD), which corrects what flow misses. 1x1 convolutions couple the two.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dcn import DCNv2
from models.blocks import channels_last, flow_warp, interleave
from models.layers import Conv
from utils.text import check_choice

COUPLINGS = ("released", "symmetric")
SLOPE = 0.1  # of the leaky ReLUs


class MultiScaleAlignment(nn.Module):
    """MSD: align a neighbour's features to a target's by deformable convolution.

    The offsets are estimated from both at three scales of context (3x3, 5x5, 7x7), as in MSDTGP
    (TGRS 2022).

    Arguments:
        channels: C.
        offset_channels: width of the part that estimates the offsets (released: C).
        groups, offset_limit: see `dcn.DCNv2`.
    """

    def __init__(
        self, channels: int, groups: int, offset_channels: int, offset_limit: float | None
    ):
        super().__init__()
        self.offset_conv1 = Conv(2 * channels, offset_channels, slope=SLOPE)
        self.mul_scale1 = Conv(offset_channels, offset_channels, kernel=3, slope=SLOPE)
        self.mul_scale2 = Conv(offset_channels, offset_channels, kernel=5, slope=SLOPE)
        self.mul_scale3 = Conv(offset_channels, offset_channels, kernel=7, slope=SLOPE)
        self.offset_conv2 = Conv(3 * offset_channels, offset_channels, slope=SLOPE)
        offsets = {"offset_channels": offset_channels, "offset_limit": offset_limit}
        self.dcnpack = DCNv2(channels, channels, groups=groups, **offsets)

    def forward(self, neighbour: Tensor, target: Tensor) -> Tensor:
        """neighbour, target: (B, C, H, W) -> the neighbour aligned to the target, (B, C, H, W)."""
        context = self.offset_conv1(torch.cat((neighbour, target), dim=1))
        scales = (self.mul_scale1, self.mul_scale2, self.mul_scale3)
        multi_scale = torch.cat([conv(context) for conv in scales], dim=1)
        offset_features = self.offset_conv2(multi_scale, residual=context)
        return F.leaky_relu(self.dcnpack(neighbour, offset_features), SLOPE, inplace=True)


class FeatureInterpolation(nn.Module):
    """From the features of N given frames to those of T = 2N - 1, all gaps at once.

    Arguments:
        channels: C.
        coupling: "released" computes what the released code computes: its second blend uses the
            warped features of both neighbours, so that the second alignment is left out.
            "symmetric" is the reading of the paper's text: each blend takes one alignment and one
            warp, in opposite directions.
        midpoint_flow: halve the flows, so that both neighbours are warped to the time between
            them, and sample at the exact place (see `flow_warp`). The released code does neither.
        groups, offset_channels, offset_limit: of the MSD.
    """

    def __init__(
        self,
        channels: int,
        groups: int,
        coupling: str,
        midpoint_flow: bool,
        offset_channels: int,
        offset_limit: float | None,
    ):
        super().__init__()
        check_choice("coupling", coupling, COUPLINGS)
        self.coupling = coupling
        self.midpoint_flow = midpoint_flow
        self.alignment = MultiScaleAlignment(channels, groups, offset_channels, offset_limit)
        self.fusion = Conv(2 * channels, channels, kernel=1)
        self.blending = Conv(2 * channels, channels, kernel=1)

    def forward(self, features: Tensor, forward_flow: Tensor, backward_flow: Tensor) -> Tensor:
        """(B, N, C, H, W) along flows (B, N - 1, 2, H, W), LR pixels -> (B, T, C, H, W)."""
        if features.shape[1] == 1:
            return features
        previous = channels_last(features[:, :-1].flatten(0, 1))  # (B(N-1), C, H, W)
        following = channels_last(features[:, 1:].flatten(0, 1))  # (B(N-1), C, H, W)
        warped_following = self._warp(following, forward_flow.flatten(0, 1))
        warped_previous = self._warp(previous, backward_flow.flatten(0, 1))

        if self.coupling == "released":
            aligned_previous = self.alignment(previous, following)
            blend1 = self._fuse(aligned_previous, warped_following)
            blend2 = self._fuse(warped_previous, warped_following)
        else:
            neighbours, targets = (previous, following), (following, previous)
            aligned = self.alignment(torch.cat(neighbours), torch.cat(targets))
            aligned_previous, aligned_following = aligned.chunk(2)
            blend1 = self._fuse(aligned_previous, warped_following)
            blend2 = self._fuse(warped_previous, aligned_following)

        between = self.blending(torch.cat((blend1, blend2), dim=1))  # (B(N-1), C, H, W)
        return interleave(features, between.unflatten(0, (features.shape[0], -1)))

    def _warp(self, features: Tensor, flow: Tensor) -> Tensor:
        if self.midpoint_flow:
            return flow_warp(features, flow / 2)
        return flow_warp(features, flow, released=True)

    def _fuse(self, first: Tensor, second: Tensor) -> Tensor:
        return self.fusion(torch.cat((first, second), dim=1))
