"""Feature extraction (paper section 2.1): each given frame on its own, at low resolution."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.blocks import in_every_clip, residual_blocks
from models.layers import Conv

LEVELS = 255.0  # the range of the pictures that SPAN's weights were trained on
MEAN = (0.4488, 0.4371, 0.4040)  # mean colour of photographs (DIV2K), in [0, 1]


class FeatureExtraction(nn.Module):
    """A convolution and residual blocks."""

    def __init__(self, channels: int, blocks: int):
        super().__init__()
        self.conv_first = Conv(3, channels, slope=0.1)
        self.blocks = residual_blocks(channels, blocks)

    def forward(self, frames: Tensor) -> Tensor:
        """frames: (B, N, 3, H, W) -> features (B, N, C, H, W)."""
        return in_every_clip(self.extract, frames)

    def extract(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, C, H, W)."""
        return self.blocks(self.conv_first(x))


class SpanExtraction(FeatureExtraction):
    """SPAN (Wan et al., CVPR workshops 2024) up to its enlargement.

    A network for single images, made for speed; its published weights can be started from, see
    `training.span`. Its features are scaled to about 1, which is what the other stages expect.

    channels: C; blocks: number of attention blocks (SPAN: 6), at least 1.
    """

    def __init__(self, channels: int, blocks: int):
        nn.Module.__init__(self)
        if blocks < 1:
            raise ValueError(f"front_blocks is {blocks}; the extraction span needs at least 1")
        self.conv_first = Conv(3, channels)
        nn.init.normal_(self.conv_first.weight, std=1 / LEVELS)  # features of about 1
        self.blocks = nn.ModuleList(AttentionBlock(channels) for _ in range(blocks))
        self.conv_body = Conv(channels, channels)
        self.fusion = Conv(4 * channels, channels, kernel=1)
        mean = torch.tensor(MEAN, dtype=torch.float32).view(3, 1, 1)
        self.register_buffer("mean", mean, persistent=False)

    def extract(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, C, H, W)."""
        first = self.conv_first((x - self.mean.to(x.dtype)) * LEVELS)
        x, inside = self.blocks[0](first)
        after_one = x
        for block in self.blocks[1:]:
            x, inside = block(x)
        # Of the last block its first activation, as the published weights want it.
        return self.fusion(torch.cat((first, self.conv_body(x), after_one, inside), dim=1))


class AttentionBlock(nn.Module):
    """Three convolutions; their result, squashed, is the attention on it and the input.

    The attention has no parameters: sigmoid - 1/2 is zero where the convolutions give zero, and
    keeps their sign. The initial weights are large enough for a block to keep the scale of its
    input; with PyTorch's own, features would vanish within three blocks.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = Conv(channels, channels)
        self.conv2 = Conv(channels, channels)
        self.conv3 = Conv(channels, channels)
        for conv, gain in ((self.conv1, 1), (self.conv2, 1), (self.conv3, 2)):
            nn.init.kaiming_normal_(conv.weight)
            conv.weight.data.mul_(gain)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x: (B, C, H, W) -> the result and the first activation, of the same shape."""
        inside = F.silu(self.conv1(x))
        found = self.conv3(F.silu(self.conv2(inside)))
        # tanh(x / 2) / 2 is sigmoid(x) - 1/2, without its cancellation in bfloat16.
        return (found + x) * (0.5 * torch.tanh(found / 2)), inside
