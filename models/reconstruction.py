"""Frame reconstruction (paper section 2.4): residual blocks and the enlargement, frame by frame."""

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.blocks import SCALE, channels_last, frame_by_frame, residual_blocks
from models.cpu import winograd
from models.cpu.convolution import leaky_convolution
from models.cpu.winograd import NO_HALO
from models.layers import Conv

TILE = 80  # LR pixels; largest side that is enlarged at once without gradients on a CPU


class Reconstruction(nn.Module):
    """Residual blocks and the enlargement, each frame on its own.

    Arguments:
        channels: C.
        blocks: number of residual blocks.
    """

    def __init__(self, channels: int, blocks: int):
        super().__init__()
        self.blocks = residual_blocks(channels, blocks)
        self.add_enlargement(channels)

    def add_enlargement(self, channels: int) -> None:
        """The layers behind the blocks: two pixel shuffles of 2, two convolutions."""
        self.upconv1 = Conv(channels, 4 * channels, slope=0.1)
        self.upconv2 = Conv(channels, 4 * channels, slope=0.1)
        self.conv_hr = Conv(channels, channels, slope=0.1)
        self.conv_last = Conv(channels, 3)

    def trunk(self, features: Tensor) -> Tensor:
        """The residual blocks, (B, T, C, H, W) -> the same shape."""
        x = frame_by_frame(self.blocks, channels_last(features.flatten(0, 1)))
        return x.unflatten(0, features.shape[:2])

    def forward(self, features: Tensor) -> Tensor:
        """features: (B, T, C, H, W), from `trunk` -> frames (B, T, 3, sH, sW)."""
        frames = frame_by_frame(self.enlarge, channels_last(features.flatten(0, 1)))
        return frames.unflatten(0, features.shape[:2])

    def enlarge(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, 3, sH, sW)."""
        if torch.is_grad_enabled() or x.device.type != "cpu":
            return self.conv_last(self._enlarge(x))
        return self._enlarge_in_tiles(x)

    def _enlarge(self, x: Tensor, halo: tuple[int, int, int, int] = NO_HALO) -> Tensor:
        x = shuffled_convolution(x, self.upconv1, halo)
        x = shuffled_convolution(x, self.upconv2, halo)
        return self.conv_hr(x)

    def _enlarge_in_tiles(self, x: Tensor) -> Tensor:
        """The same numbers. Whole frames at full resolution do not fit the caches, and the system
        clears fresh memory for every one of them, a third of the time."""
        height, width = x.shape[2:]
        output = None  # (B, 3, 2H, 2, 2W, 2)
        for (top, bottom), (left, right) in itertools.product(_cuts(height), _cuts(width)):
            # Where a tile ends inside the frame: 2 pixels more, which become 4, less 2; then
            # 4, less 2. These 2 at full resolution are what the last two convolutions reach.
            halo = (int(top > 0), int(bottom < height), int(left > 0), int(right < width))
            rows = slice(top - 2 * halo[0], bottom + 2 * halo[1])
            columns = slice(left - 2 * halo[2], right + 2 * halo[3])
            tile = self._enlarge(channels_last(x[:, :, rows, columns]), halo)
            tile = paired_convolution(tile, self.conv_last)
            if output is None:
                output = tile.new_empty(len(x), 3, 2 * height, 2, 2 * width, 2)
            target = output[:, :, 2 * top : 2 * bottom, :, 2 * left : 2 * right]
            target.copy_(
                tile[
                    :,
                    :,
                    halo[0] : halo[0] + target.shape[2],
                    :,
                    halo[2] : halo[2] + target.shape[4],
                ]
            )
        return output.flatten(4, 5).flatten(2, 3)


class DirectReconstruction(Reconstruction):
    """The same blocks, enlarged by one convolution and one pixel shuffle of 4.

    All work is done at low resolution, as in efficient networks for single images (ESPCN, Shi et
    al., CVPR 2016; IMDN, Hui et al., ACM MM 2019).
    """

    def add_enlargement(self, channels: int) -> None:
        self.conv_last = Conv(channels, 3 * SCALE**2)

    def enlarge(self, x: Tensor) -> Tensor:
        return F.pixel_shuffle(self.conv_last(x), SCALE)


def shuffled_convolution(
    x: Tensor, conv: nn.Conv2d, halo: tuple[int, int, int, int] = NO_HALO
) -> Tensor:
    """leaky_relu(pixel_shuffle(conv(x), 2)), less a halo.

    The output channels are put into the order in which pixels are shuffled, (2, 2, C) instead of
    (C, 2, 2): then the shuffle of a channels_last map moves runs of 2C numbers, not single ones.

    Arguments:
        x: (B, C, H, W).
        conv: C to 4C channels.
        halo: rows at the top and bottom, columns left and right, of conv(x) to leave out.

    Returns: (B, C, 2H, 2W), channels_last; smaller by twice the halo.
    """
    suits = winograd.suits(conv, x)
    if suits and not torch.is_grad_enabled():
        return winograd.convolve(conv, x, slope=0.1, shuffle=True, halo=halo)
    weight, bias = winograd.shuffled(conv.weight), winograd.shuffled(conv.bias)
    convolution = winograd.leaky_convolution if suits else leaky_convolution
    x = convolution(x, weight, bias, slope=0.1)
    if halo != NO_HALO:  # the gradient of a cut that takes nothing would lose the layout
        top, bottom, left, right = halo
        x = x[:, :, top : x.shape[2] - bottom, left : x.shape[3] - right]
    x = x.permute(0, 2, 3, 1).unflatten(3, (2, -1))  #        (B, H, W, 2, 2C)
    x = x.transpose(2, 3).unflatten(4, (2, -1))  #            (B, H, 2, W, 2, C)
    return x.flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)  # (B, C, 2H, 2W), channels_last


def paired_convolution(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """conv(x) of a 3x3 convolution, two rows and two columns at a time.

    A convolution to 3 channels takes as long as one to 16, the width of a vector. This one gives
    the 3 channels of 2x2 pixels, by kernels of 4x4, a quarter of them zero, at a stride of 2.

    Arguments:
        x: (B, C, H, W), even sides.
        conv: C to O channels.

    Returns: (B, O, H / 2, 2, W / 2, 2), a view; flattened it is conv(x).
    """
    weight = torch.stack(
        [F.pad(conv.weight, (j, 1 - j, i, 1 - i)) for i in range(2) for j in range(2)], dim=1
    )
    weight = channels_last(weight.flatten(0, 1))  # (4O, C, 4, 4)
    x = F.conv2d(x, weight, conv.bias.repeat_interleave(4), stride=2, padding=1)
    return x.unflatten(1, (-1, 2, 2)).permute(0, 1, 4, 2, 5, 3)


def _cuts(length: int) -> list[tuple[int, int]]:
    """(start, stop) of equal parts of at most TILE."""
    parts = -(-length // TILE)
    edges = [length * part // parts for part in range(parts + 1)]
    return list(itertools.pairwise(edges))
