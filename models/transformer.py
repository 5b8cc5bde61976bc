"""Multi-scale spatial-temporal transformer (paper section 2.3, figure 4).

Every head cuts the feature maps of all frames into patches of its own size; a token is one patch
of one frame, and attends to all patches of all frames. Large patches see structure, small ones
detail.
"""

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.blocks import channels_last, frame_by_frame, lacking
from models.cpu.attention import attend
from models.layers import Conv

PATCH_SIZES = (40, 20, 10, 5)  # one per head, at half of the low resolution
SLOPE = 0.2  # of the leaky ReLUs


class MultiScaleAttention(nn.Module):
    """Attention between patches of all frames, one patch size per head.

    channels: D of the maps, a multiple of the number of heads.
    """

    def __init__(self, channels: int):
        super().__init__()
        if channels % len(PATCH_SIZES):
            raise ValueError(
                f"attention_channels is {channels}; give a multiple of {len(PATCH_SIZES)}"
            )
        self.query_embedding = Conv(channels, channels, kernel=1)
        self.key_embedding = Conv(channels, channels, kernel=1)
        self.value_embedding = Conv(channels, channels, kernel=1)
        self.output_linear = Conv(channels, channels, slope=SLOPE)

    def forward(self, x: Tensor, frames: int) -> Tensor:
        """x: (B * frames, D, h, w), any h and w -> the same shape, x + attention."""
        embedded = (self.query_embedding(x), self.key_embedding(x), self.value_embedding(x))
        heads = zip(*(part.chunk(len(PATCH_SIZES), dim=1) for part in embedded), strict=True)
        attended = [
            patch_attention(query, key, value, patch, frames)
            for patch, (query, key, value) in zip(PATCH_SIZES, heads, strict=True)
        ]
        out = channels_last(torch.cat(attended, dim=1))
        return self.output_linear(out, residual=x)


def patch_attention(query: Tensor, key: Tensor, value: Tensor, patch: int, frames: int) -> Tensor:
    """One head: softmax(q k^T / sqrt(d p p)) v between the p x p patches of all frames.

    Where the patches do not divide the map, it is padded to the next multiple. The padding takes
    no part: padded queries and keys are zero, so they add nothing to a product of two patches,
    and each place of a patch is averaged only over the patches that have real content there.
    At multiples of the patch the result is that of the released code.

    Arguments:
        query, key, value: (B * frames, d, h, w).
        patch: p.
        frames: T, the frames that attend to each other.

    Returns: (B * frames, d, h, w).
    """
    channels, height, width = value.shape[1:]
    grow = (0, lacking(width, patch), 0, lacking(height, patch))
    padded = any(grow)
    if padded:
        real = value.new_ones(()).expand(value.shape[0], 1, height, width)
        value = torch.cat((value, real), dim=1)  # the last channel counts the real content
        query, key, value = (F.pad(part, grow) for part in (query, key, value))
    rows = query.shape[-2] // patch
    query, key, value = (_to_tokens(part, patch, frames) for part in (query, key, value))
    attended = attend(query, key, value)
    attended = _from_tokens(attended, patch, frames, rows)[:, :, :height, :width]
    if padded:
        weight = attended[:, channels:].clamp_min(torch.finfo(attended.dtype).tiny)
        attended = attended[:, :channels] / weight
    return attended


def _to_tokens(x: Tensor, patch: int, frames: int) -> Tensor:
    """(B * frames, d, rows * p, columns * p) -> (B, frames * rows * columns, p * p * d)."""
    x = x.unflatten(3, (-1, patch)).unflatten(2, (-1, patch))  # (BT, d, rows, p, columns, p)
    x = x.permute(0, 2, 4, 3, 5, 1).flatten(3)  # (BT, rows, columns, ppd)
    return x.unflatten(0, (-1, frames)).flatten(1, 3)


def _from_tokens(x: Tensor, patch: int, frames: int, rows: int) -> Tensor:
    """The inverse of `_to_tokens`."""
    x = x.unflatten(1, (frames, rows, -1)).flatten(0, 1)  # (BT, rows, columns, ppd)
    x = x.unflatten(3, (patch, patch, -1))  # (BT, rows, columns, p, p, d)
    return x.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)


class FeedForward(nn.Module):
    """x + two 3x3 convolutions, the first dilated by 2."""

    def __init__(self, channels: int):
        super().__init__()
        # Numbered as in the released code, whose activations are modules of their own.
        dilated = Conv(channels, channels, dilation=2, slope=SLOPE)
        self.conv = nn.ModuleDict({"0": dilated, "2": Conv(channels, channels, slope=SLOPE)})

    def forward(self, x: Tensor) -> Tensor:
        return self.conv["2"](self.conv["0"](x), residual=x)


class TransformerBlock(nn.Module):
    """Attention and feed-forward, each with its residual."""

    def __init__(self, channels: int):
        super().__init__()
        self.attention = MultiScaleAttention(channels)
        self.feed_forward = FeedForward(channels)

    def forward(self, x: Tensor, frames: int) -> Tensor:
        """x: (B * frames, D, h, w) -> the same shape."""
        # The released code adds x once inside the attention and once here: 2x + attention.
        x = x + self.attention(x, frames)
        return frame_by_frame(self.feed_forward, x)


class SpatialTemporalTransformer(nn.Module):
    """Encoder to half resolution, one transformer block, decoder back; the change of the features.

    channels: C of the features; attention_channels: D of the maps that the attention works on
    (released: 4C).
    """

    def __init__(self, channels: int, attention_channels: int):
        super().__init__()
        between = attention_channels // 2
        # Numbered as in the released code, whose activations are modules of their own.
        encoder = {
            "0": Conv(channels, channels, slope=SLOPE),
            "2": Conv(channels, between, stride=2, slope=SLOPE),
            "4": Conv(between, attention_channels, slope=SLOPE),
        }
        self.encoder = nn.Sequential(OrderedDict(encoder))
        self.block = TransformerBlock(attention_channels)
        decoder = {
            "0": nn.UpsamplingBilinear2d(scale_factor=2),  # align_corners=True
            "1": Conv(attention_channels, between, slope=SLOPE),
            "3": Conv(between, channels, slope=SLOPE),
            "5": Conv(channels, channels, slope=SLOPE),
            "7": nn.Tanh(),
        }
        self.decoder = nn.Sequential(OrderedDict(decoder))

    def forward(self, features: Tensor) -> Tensor:
        """features: (B, T, C, H, W) -> what to add to them, the same shape."""
        frames, _, height, width = features.shape[1:]
        x = channels_last(features.flatten(0, 1))
        if height % 2 or width % 2:  # for the stride of 2
            x = F.pad(x, (0, width % 2, 0, height % 2), mode="replicate")
        x = self.block(frame_by_frame(self.encoder, x), frames)
        x = frame_by_frame(self.decoder, x)[:, :, :height, :width]
        return x.unflatten(0, (-1, frames))
