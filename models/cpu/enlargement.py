"""The enlargement of the released network, as a CPU has it fastest: the same numbers.

Whole frames at full resolution do not fit the caches, and the system clears fresh memory for every
one of them, a third of the time: without gradients they are made in tiles.
"""

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.cpu import winograd
from models.cpu.convolution import convolve, leaky_convolution
from models.cpu.winograd import NO_HALO
from utils.resize import equal_parts

TILE = 80  # LR pixels; largest side that is enlarged at once without gradients on a CPU
Layers = tuple[nn.Conv2d, nn.Conv2d, nn.Conv2d, nn.Conv2d]


def enlarge(x: Tensor, layers: Layers) -> Tensor:
    """Two convolutions, each with a leaky ReLU and a pixel shuffle of 2, and two more.

    Arguments:
        x: (B, C, H, W).
        layers: upconv1, upconv2, conv_hr and conv_last; all but the last with a slope of 0.1.

    Returns: (B, 3, 4H, 4W).
    """
    if torch.is_grad_enabled() or x.device.type != "cpu":
        return convolve(layers[3], _enlarge(x, layers))
    return _enlarge_in_tiles(x, layers)


def _enlarge(x: Tensor, layers: Layers, halo: tuple[int, int, int, int] = NO_HALO) -> Tensor:
    """All but the last convolution."""
    x = shuffled_convolution(x, layers[0], halo)
    x = shuffled_convolution(x, layers[1], halo)
    return convolve(layers[2], x, slope=0.1)


def _enlarge_in_tiles(x: Tensor, layers: Layers) -> Tensor:
    height, width = x.shape[2:]
    output = None  # (B, 3, 2H, 2, 2W, 2)
    parts = itertools.product(equal_parts(height, TILE), equal_parts(width, TILE))
    for (top, bottom), (left, right) in parts:
        # Where a tile ends inside the frame: 2 pixels more, which become 4, less 2; then
        # 4, less 2. These 2 at full resolution are what the last two convolutions reach.
        halo = (int(top > 0), int(bottom < height), int(left > 0), int(right < width))
        rows = slice(top - 2 * halo[0], bottom + 2 * halo[1])
        columns = slice(left - 2 * halo[2], right + 2 * halo[3])
        tile = x[:, :, rows, columns].contiguous(memory_format=torch.channels_last)
        tile = paired_convolution(_enlarge(tile, layers, halo), layers[3])
        if output is None:
            output = tile.new_empty(len(x), 3, 2 * height, 2, 2 * width, 2)
        target = output[:, :, 2 * top : 2 * bottom, :, 2 * left : 2 * right]
        rows = slice(halo[0], halo[0] + target.shape[2])
        columns = slice(halo[2], halo[2] + target.shape[4])
        target.copy_(tile[:, :, rows, :, columns])
    return output.flatten(4, 5).flatten(2, 3)


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
    weight = weight.flatten(0, 1).contiguous(memory_format=torch.channels_last)  # (4O, C, 4, 4)
    x = F.conv2d(x, weight, conv.bias.repeat_interleave(4), stride=2, padding=1)
    return x.unflatten(1, (-1, 2, 2)).permute(0, 1, 4, 2, 5, 3)
