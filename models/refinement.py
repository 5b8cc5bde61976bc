"""Interpolated frames from enhanced neighbours, whose flow and weights are corrected first.

Flow between low-resolution frames misses small vehicles and the edges of what moves; these then
appear twice, or where they should be hidden. Once both neighbours are enhanced and warped, the
errors show: there the two differ.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.blocks import (
    SCALE,
    channels_last,
    full_precision,
    half_way_flow,
    residual_blocks,
    warp_neighbours,
)
from models.layers import Conv


class SkipRefinement(nn.Module):
    """Warp both neighbours, look at them, correct the flows and the weights, and warp again.

    All work is done at low resolution, on the pixels of 4x4 blocks as channels. Starts at no
    correction and equal weights, which is `mean_of_neighbours`.

    channels: C; residual: also add what neither neighbour shows, which starts at zero.
    """

    def __init__(self, channels: int, residual: bool = False):
        super().__init__()
        self.conv_first = Conv(channels + 2 * 3 * SCALE**2, channels, slope=0.1)
        self.blocks = residual_blocks(channels, 1)
        corrections = 2 + 2 + 1 + 3 * residual  # two flows, a weight, perhaps three colours
        self.conv_last = Conv(channels, corrections * SCALE**2)
        nn.init.zeros_(self.conv_last.weight)
        nn.init.zeros_(self.conv_last.bias)

    def forward(
        self, features: Tensor, given: Tensor, forward_flow: Tensor, backward_flow: Tensor
    ) -> Tensor:
        """The frames between given ones, (B, N - 1, 3, 4H, 4W), full precision.

        features: of the interpolated frames, (B, N - 1, C, H, W); given: enhanced given frames,
        (B, N, 3, 4H, 4W); the flows: (B, N - 1, 2, H, W), LR pixels.
        """
        flow = half_way_flow(forward_flow, backward_flow)
        seen = warp_neighbours(given, flow, mode="bicubic")
        change, weight, residual = self.correct(features.flatten(0, 1), *seen)
        previous, following = warp_neighbours(given, flow + change, mode="bicubic")
        between = torch.lerp(previous, following, torch.sigmoid(weight)) + residual
        return between.unflatten(0, features.shape[:2])

    def correct(
        self, features: Tensor, previous: Tensor, following: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Look at both warped neighbours, (B (N - 1), 3, 4H, 4W), and find the corrections.

        Returns: what to add to the flows, (2, B (N - 1), 2, 4H, 4W), HR pixels; the logit of the
            weight of the following frame, (B (N - 1), 1, 4H, 4W); and the residual,
            (B (N - 1), 3, 4H, 4W), zero where there is none; all in full precision.
        """
        seen = torch.cat((previous, following), dim=1).detach()  # it looks, it does not change them
        x = torch.cat((features, F.pixel_unshuffle(seen, SCALE).to(features.dtype)), dim=1)
        x = self.blocks(self.conv_first(channels_last(x)))
        x = full_precision(F.pixel_shuffle(self.conv_last(x), SCALE))
        to_following, to_previous, weight, residual = x.tensor_split((2, 4, 5), dim=1)
        if residual.shape[1] == 0:
            residual = torch.zeros_like(previous)
        return torch.stack((to_following, to_previous)), weight, residual
