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

from models.extraction import MEAN, FeatureExtraction
from models.layers import Conv

WIDTH = 60  # channels
HEADS = 6
WINDOWS = ((8, 32), (32, 8))  # sides of a window, for either half of the channels
SHIFTS = ((4, 16), (16, 4))  # of the windows of every second block, so that they overlap
SIDE = 32  # maps are filled up to a multiple of it, which both windows divide
FUSED_WIDTH = 16  # channels of a head; GPUs have fast kernels for multiples of 8


class DatExtraction(FeatureExtraction):
    """DAT-light up to its enlargement.

    Arguments:
        channels: C of the result, at least 60.
        blocks: number of blocks (DAT-light: 18), at least 1.
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
        mean = torch.tensor(MEAN).view(3, 1, 1)
        self.register_buffer("mean", mean, persistent=False)

    def extract(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, C, H, W)."""
        first = self.conv_first(x - self.mean.to(x.dtype))
        start = self.norm_first(to_last(first[:, :WIDTH]))
        height, width = x.shape[2:]
        masks = [shift_mask(height, width, turned, first) for turned in (False, True)]
        x = start
        for block in self.blocks:
            x = block(x, masks)
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

    Arguments:
        number: of the block; even ones attend between places, odd ones between channels, and of
            the even ones every second shifts its windows.
    """

    def __init__(self, number: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(WIDTH)
        self.attention = ChannelAttention() if number % 2 else WindowAttention(number % 4 == 2)
        self.norm2 = nn.LayerNorm(WIDTH)
        self.feed_forward = GatedFeedForward()

    def forward(self, x: Tensor, masks: list[Tensor]) -> Tensor:
        """x: (B, H, W, C); masks: of shifted windows, see `shift_mask`."""
        x = x + self.attention(self.norm1(x), masks)
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

    Arguments:
        shifted: whether the windows are moved by half.
    """

    def __init__(self, shifted: bool):
        super().__init__()
        self.shifted = shifted

    def forward(self, x: Tensor, masks: list[Tensor]) -> Tensor:
        """x: (B, H, W, C) -> the same shape."""
        height, width = x.shape[1:3]
        qkv = self.qkv(x)
        convolved = self.convolution(qkv[..., 2 * WIDTH :])
        # Pixels beyond the image are zeros, and take part.
        padded = F.pad(qkv, (0, 0, 0, -width % SIDE, 0, -height % SIDE))
        # Of queries, keys and values each the first half of the channels, then the second.
        halves = padded.unflatten(-1, (3, 2, WIDTH // 2)).unbind(-2)
        attended = [
            self.attend(half, turned, masks[turned])[:, :height, :width]
            for turned, half in enumerate(halves)
        ]
        attended = torch.cat(attended, dim=-1)
        weighed = attended * self.of_channels(convolved)
        return self.output(weighed + convolved * self.of_places(attended))

    def attend(self, qkv: Tensor, turned: bool, mask: Tensor) -> Tensor:
        """One half of the heads, (B, H, W, 3, C / 2) -> (B, H, W, C / 2), H and W full windows."""
        height, width = qkv.shape[1:3]
        window, shift = WINDOWS[turned], SHIFTS[turned]
        if self.shifted:
            qkv = qkv.roll((-shift[0], -shift[1]), dims=(1, 2))
        qkv = to_windows(qkv, window)  #                                      (BK, n, 3, C / 2)
        qkv = qkv.unflatten(-1, (HEADS // 2, -1)).permute(2, 0, 3, 1, 4)  #   (3, BK, heads, n, d)
        depth = qkv.shape[-1]
        if qkv.is_cuda:
            qkv = F.pad(qkv, (0, FUSED_WIDTH - depth))
        x = F.scaled_dot_product_attention(
            *qkv.unbind(0), attn_mask=mask if self.shifted else None, scale=depth**-0.5
        )
        x = x[..., :depth].transpose(1, 2).flatten(2)  #                      (BK, n, C / 2)
        x = from_windows(x, window, height, width)
        return x.roll(shift, dims=(1, 2)) if self.shifted else x


def to_windows(x: Tensor, window: tuple[int, int]) -> Tensor:
    """(B, H, W, ...) -> (B K, n, ...): K windows of n places each."""
    x = x.unflatten(2, (-1, window[1])).unflatten(1, (-1, window[0]))
    return x.transpose(2, 3).flatten(3, 4).flatten(0, 2)


def from_windows(x: Tensor, window: tuple[int, int], height: int, width: int) -> Tensor:
    """The inverse of `to_windows` for (B K, n, C)."""
    x = x.unflatten(1, window).unflatten(0, (-1, height // window[0], width // window[1]))
    return x.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def shift_mask(height: int, width: int, turned: bool, like: Tensor) -> Tensor:
    """What places of shifted windows do not see: those that come from the other side of the image.

    Arguments:
        height, width: of the map, before it is filled up to full windows.
        turned: the windows of the second half of the channels.
        like: a map (B, ...) that decides type and device.

    Returns: (B K, heads, n, n), what to add to the product of two places: 0, or -100.
    """
    window, shift = WINDOWS[turned], SHIFTS[turned]
    parts = []
    for length, side, step in zip((height, width), window, shift, strict=True):
        place = torch.arange(length + -length % SIDE, device=like.device)
        parts.append((place >= len(place) - side).int() + (place >= len(place) - step).int())
    region = to_windows((3 * parts[0][:, None] + parts[1])[None], window)
    mask = (region[:, :, None] != region[:, None]).to(like.dtype) * -100.0
    # For all images at once; the heads share it.
    return mask.repeat(len(like), 1, 1)[:, None].expand(-1, HEADS // 2, -1, -1)


class ChannelAttention(DualAttention):
    """Attention between channels: a head mixes its channels by how alike they are everywhere."""

    def __init__(self):
        super().__init__()
        self.temperature = nn.Parameter(torch.ones(HEADS, 1, 1))

    def forward(self, x: Tensor, masks: list[Tensor]) -> Tensor:
        """x: (B, H, W, C) -> the same shape; the masks are of no use here."""
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
