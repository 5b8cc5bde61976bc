"""Frame fusion: each given frame cleaned with the help of its two neighbours, before all else.

Not in the paper. Noise and coding errors differ from frame to frame, the ground does not: what the
neighbours show at the same place is a second and a third look at it.
"""

import torch
from torch import Tensor, nn

from models.blocks import channels_last, flow_warp, residual_blocks
from models.layers import Conv

WIDTH = 32  # channels: little beside the extraction
DIFFERENCE = 10.0  # noise of a few levels, 0.01 of the range, becomes a signal of about 0.1


class FrameFusion(nn.Module):
    """frame + w (previous - frame) + w' (following - frame) + residual, neighbours warped to it.

    The weights and the residual are found pixel by pixel, from the frame and both differences.
    Starts at weights and a residual of nothing.
    """

    def __init__(self):
        super().__init__()
        self.conv_first = Conv(9, WIDTH, slope=0.1)
        self.blocks = residual_blocks(WIDTH, 1)
        self.conv_last = Conv(WIDTH, 2 + 3)
        nn.init.zeros_(self.conv_last.weight)
        nn.init.zeros_(self.conv_last.bias)

    def forward(self, frames: Tensor, forward_flow: Tensor, backward_flow: Tensor) -> Tensor:
        """Clean frames (B, N, 3, H, W) along flows (B, N - 1, 2, H, W), LR pixels.

        A frame alone stays as it is; the first and the last have one neighbour.
        """
        if frames.shape[1] == 1:
            return frames
        previous = _warped(frames[:, :-1], backward_flow) - frames[:, 1:]
        following = _warped(frames[:, 1:], forward_flow) - frames[:, :-1]
        none = torch.zeros_like(frames[:, :1])
        previous, following = torch.cat((none, previous), 1), torch.cat((following, none), 1)
        seen = torch.cat((frames, DIFFERENCE * previous, DIFFERENCE * following), dim=2)
        x = self.blocks(self.conv_first(channels_last(seen.flatten(0, 1))))
        found = self.conv_last(x).to(frames.dtype).unflatten(0, frames.shape[:2])
        to_previous, to_following, residual = found.tensor_split((1, 2), dim=2)
        return frames + to_previous * previous + to_following * following + residual


def _warped(frames: Tensor, flow: Tensor) -> Tensor:
    """(B, N - 1, 3, H, W) sampled along a flow, sharply."""
    warped = flow_warp(frames.flatten(0, 1), flow.flatten(0, 1), padding="border", mode="bicubic")
    return warped.unflatten(0, frames.shape[:2])
