"""Frame reconstruction (paper section 2.4): residual blocks, the trunk, and then the enlargement.

`MSTT` calls the two by their names, since the frames between need what comes out of the trunk.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.blocks import SCALE, channels_last, in_every_clip, residual_blocks
from models.cpu.enlargement import in_tiles
from models.layers import Conv


class Reconstruction(nn.Module):
    """Residual blocks and the enlargement, each frame on its own."""

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
        return in_every_clip(self.blocks, features)

    def enlarge(self, features: Tensor) -> Tensor:
        """The rest: features from `trunk` (B, T, C, H, W) -> frames (B, T, 3, sH, sW)."""
        return in_every_clip(self.enlarge_frame, features)

    def enlarge_frame(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, 3, sH, sW)."""
        return in_tiles(self.enlarge_tile, x)

    def enlarge_tile(self, x: Tensor) -> Tensor:
        """`enlarge_frame` in one piece."""
        x = channels_last(F.pixel_shuffle(self.upconv1(x), 2))  #          (B, C, 2H, 2W)
        x = channels_last(F.pixel_shuffle(self.upconv2(x), 2))  #          (B, C, sH, sW)
        return self.conv_last(self.conv_hr(x))


class DirectReconstruction(Reconstruction):
    """The same blocks, enlarged by one convolution and one pixel shuffle of 4.

    All work is done at low resolution, as in efficient networks for single images (ESPCN, Shi et
    al., CVPR 2016; IMDN, Hui et al., ACM MM 2019).
    """

    def add_enlargement(self, channels: int) -> None:
        self.conv_last = Conv(channels, 3 * SCALE**2)

    def enlarge_frame(self, x: Tensor) -> Tensor:
        # Not in bfloat16, whose steps near white are whole grey levels.
        with torch.autocast(x.device.type, enabled=False):
            frames = self.conv_last(x.to(self.conv_last.weight.dtype))
        return F.pixel_shuffle(frames, SCALE)
