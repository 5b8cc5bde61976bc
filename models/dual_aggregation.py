"""DAT-light (Chen et al., "Dual aggregation transformer for image super-resolution", ICCV 2023).

A transformer for single-image super-resolution whose blocks alternate window-based spatial and
channel self-attention. Better features than convolutions give, in much more time: for GPUs. Its
published weights can be started from, see `training.dat`.

Maps are (B, H, W, C) here, as the linear layers want them. Two things of the published network
are left out, because its results are the same without: the batch normalisation, which is part of
the layer before it, and the position bias of the windows, whose inner width is one in DAT-light,
so that its layer normalisation makes it the same for all positions.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.blocks import lacking
from models.extraction import MEAN, FeatureExtraction
from models.layers import Conv

WIDTH = 60  # channels
HEADS = 6
WINDOWS = ((8, 32), (32, 8))  # sides of a window, for either half of the channels
SIDE = 32  # maps are filled up to a multiple of it, which both windows divide
FUSED_WIDTH = 16  # channels of a head; GPUs have fast kernels for multiples of 8


class DatExtraction(FeatureExtraction):
    """DAT-light up to its enlargement.

    channels: C of the result, at least 60; blocks: number of blocks (DAT-light: 18), at least 1.
    """

    def __init__(self, channels: int, blocks: int):
        nn.Module.__init__(self)
        if blocks < 1 or channels < WIDTH:
            raise ValueError(
                f"front_blocks is {blocks} and channels {channels}; the extraction dat needs at "
                f"least 1 and {WIDTH}"
            )
        self.conv_first = Conv(3, channels)
        self.norm_first = nn.LayerNorm(WIDTH)
        self.blocks = nn.ModuleList(DualAggregationBlock(number) for number in range(blocks))
        self.conv_group = bottleneck(WIDTH)
        self.norm_last = nn.LayerNorm(WIDTH)
        self.conv_body = bottleneck(channels)
        mean = torch.tensor(MEAN, dtype=torch.float32).view(3, 1, 1)
        self.register_buffer("mean", mean, persistent=False)

    def extract(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, C, H, W)."""
        first = self.conv_first(x - self.mean.to(x.dtype))
        start = self.norm_first(to_last(first[:, :WIDTH]))
        x = start
        for block in self.blocks:
            x = block(x)
        x = self.norm_last(to_last(self.conv_group(to_first(x))) + start)
        return self.conv_body(to_first(x)) + first


def to_last(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, H, W, C)."""
    return x.permute(0, 2, 3, 1)


def to_first(x: Tensor) -> Tensor:
    """(B, H, W, C) -> (B, C, H, W), still with the channels of a pixel together in memory."""
    return x.permute(0, 3, 1, 2)


def bottleneck(outputs: int) -> nn.Sequential:
    """Three convolutions through a quarter of the channels."""
    narrow = WIDTH // 4
    return nn.Sequential(
        Conv(WIDTH, narrow, slope=0.2),
        Conv(narrow, narrow, kernel=1, slope=0.2),
        Conv(narrow, outputs),
    )


class DualAggregationBlock(nn.Module):
    """Attention and feed-forward, each with its residual.

    number: of the block; even ones attend between places, odd ones between channels, and of the
    even ones every second shifts its windows.
    """

    def __init__(self, number: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(WIDTH)
        self.attention = ChannelAttention() if number % 2 else WindowAttention(number % 4 == 2)
        self.norm2 = nn.LayerNorm(WIDTH)
        self.feed_forward = GatedFeedForward()

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, H, W, C) -> the same shape."""
        x = x + self.attention(self.norm1(x))
        return x + self.feed_forward(self.norm2(x))


class Depthwise(nn.Conv2d):
    """A 3x3 convolution of every channel alone, (B, H, W, C) -> the same shape."""

    def __init__(self):
        super().__init__(WIDTH, WIDTH, 3, padding=1, groups=WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return to_last(super().forward(to_first(x)))


class DualAttention(nn.Module):
    """What both kinds of attention share: a convolution beside them, and how the two meet.

    The attention is weighed by what the convolution found, and the other way round: channel by
    channel from the mean over all places, place by place from all channels.
    """

    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.convolution = nn.Sequential(Depthwise(), nn.GELU())
        self.channel_weight = weight_layers(WIDTH // 8, WIDTH)
        self.place_weight = weight_layers(WIDTH // 16, 1)
        self.output = nn.Linear(WIDTH, WIDTH)

    def of_channels(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> weights (B, 1, 1, C)."""
        return torch.sigmoid(self.channel_weight(x.mean(dim=(1, 2), keepdim=True)))

    def of_places(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> weights (B, H, W, 1)."""
        return torch.sigmoid(self.place_weight(x))


def weight_layers(inside: int, outputs: int) -> nn.Sequential:
    """Two linear layers from C channels to the logits of weights."""
    return nn.Sequential(nn.Linear(WIDTH, inside), nn.GELU(), nn.Linear(inside, outputs))


class WindowAttention(DualAttention):
    """Attention between the places of a window; half of the heads have it turned.

    shifted: whether the windows are moved by half, so that they overlap those of other blocks.
    """

    def __init__(self, shifted: bool):
        super().__init__()
        self.shifted = shifted
        if shifted:
            apart = torch.stack([places_apart(window) for window in WINDOWS])
            self.register_buffer("apart", apart, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, H, W, C) -> the same shape."""
        height, width = x.shape[1:3]
        qkv = self.qkv(x)
        convolved = self.convolution(qkv[..., 2 * WIDTH :])
        # Pixels beyond the image are zeros, and take part.
        padded = F.pad(qkv, (0, 0, 0, lacking(width, SIDE), 0, lacking(height, SIDE)))
        # Of queries, keys and values each the first half of the channels, then the second.
        halves = padded.unflatten(-1, (3, 2, WIDTH // 2)).unbind(-2)
        attended = [
            self.attend(half, turned)[:, :height, :width] for turned, half in enumerate(halves)
        ]
        attended = torch.cat(attended, dim=-1)
        weighed = attended * self.of_channels(convolved)
        return self.output(weighed + convolved * self.of_places(attended))

    def attend(self, qkv: Tensor, turned: int) -> Tensor:
        """One half of the heads, (B, H, W, 3, C / 2) -> (B, H, W, C / 2), H and W full windows."""
        window = WINDOWS[turned]
        if not self.shifted:
            return attend_in_windows(qkv, window)
        down, right = (side // 2 for side in window)
        qkv = qkv.roll((-down, -right), dims=(1, 2))
        # Only the last windows of a direction hold places from both sides of the image.
        masks = (-100.0 * self.apart[turned].to(qkv.dtype)).unbind()
        upper, lower = qkv.tensor_split((-window[0],), dim=1)
        bands = []
        for band, pair in ((upper, (None, masks[0])), (lower, masks[1:])):
            parts = zip(band.tensor_split((-window[1],), dim=2), pair, strict=True)
            attended = [attend_in_windows(part, window, mask) for part, mask in parts]
            bands.append(torch.cat(attended, dim=2))
        return torch.cat(bands, dim=1).roll((down, right), dims=(1, 2))


def places_apart(window: tuple[int, int]) -> Tensor:
    """Which places of windows that are shifted by half come from different sides of the image.

    Returns: (3, n, n) bool, of the last window of a row, of a column, and of both.
    """
    place = torch.cartesian_prod(*(torch.arange(side) >= side // 2 for side in window))
    rows, columns = (place[:, None] != place).unbind(-1)
    return torch.stack((columns, rows, rows | columns))


def attend_in_windows(qkv: Tensor, window: tuple[int, int], mask: Tensor | None = None) -> Tensor:
    """Attention in each of the windows that fill H and W, (B, H, W, 3, C / 2) -> (B, H, W, C / 2).

    mask: (n, n), what to add to the product of two places, or None.
    """
    size = qkv.shape[:3]
    if size[1] == 0 or size[2] == 0:
        return qkv[..., 0, :]
    qkv = to_windows(qkv, window)  #                                      (BK, n, 3, C / 2)
    qkv = qkv.unflatten(-1, (HEADS // 2, -1)).permute(2, 0, 3, 1, 4)  #   (3, BK, heads, n, d)
    depth = qkv.shape[-1]
    if qkv.is_cuda:
        qkv = F.pad(qkv, (0, FUSED_WIDTH - depth))
    x = F.scaled_dot_product_attention(*qkv.unbind(0), attn_mask=mask, scale=depth**-0.5)
    x = x[..., :depth].transpose(1, 2).flatten(2)  #                      (BK, n, C / 2)
    return from_windows(x, window, size)


def to_windows(x: Tensor, window: tuple[int, int]) -> Tensor:
    """(B, H, W, ...) -> (B K, n, ...): K windows of n places each."""
    x = x.unflatten(2, (-1, window[1])).unflatten(1, (-1, window[0]))
    return x.transpose(2, 3).flatten(3, 4).flatten(0, 2)


def from_windows(x: Tensor, window: tuple[int, int], size: tuple[int, int, int]) -> Tensor:
    """The inverse of `to_windows` for (B K, n, C); size: B, H and W."""
    rows, columns = size[1] // window[0], size[2] // window[1]
    x = x.unflatten(1, window).unflatten(0, (size[0], rows, columns))
    return x.transpose(2, 3).flatten(3, 4).flatten(1, 2)


class ChannelAttention(DualAttention):
    """Attention between channels: a head mixes its channels by how alike they are everywhere."""

    def __init__(self):
        super().__init__()
        self.temperature = nn.Parameter(torch.ones(HEADS, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, H, W, C) -> the same shape."""
        size = x.shape[1:3]
        qkv = self.qkv(x)
        convolved = self.convolution(qkv[..., 2 * WIDTH :])
        parts = qkv.flatten(1, 2).unflatten(-1, (3, HEADS, -1))  #          (B, HW, 3, heads, d)
        query, key, value = parts.permute(2, 0, 3, 4, 1)  #                 (B, heads, d, HW) each
        alike = F.normalize(query, dim=-1) @ F.normalize(key, dim=-1).mT
        attended = (alike * self.temperature).softmax(dim=-1) @ value
        attended = attended.flatten(1, 2).mT.unflatten(1, size)  #          (B, H, W, C)
        weighed = attended * self.of_places(convolved)
        return self.output(weighed + convolved * self.of_channels(attended))


class GatedFeedForward(nn.Module):
    """Two linear layers; half of what is between them is convolved and weighs the other half."""

    def __init__(self):
        super().__init__()
        self.linear1 = nn.Linear(WIDTH, 2 * WIDTH)
        self.norm = nn.LayerNorm(WIDTH)
        self.convolution = Depthwise()
        self.linear2 = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, H, W, C) -> the same shape."""
        x, gate = F.gelu(self.linear1(x)).chunk(2, dim=-1)
        return self.linear2(x * self.convolution(self.norm(gate)))
