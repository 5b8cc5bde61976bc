"""The layer that the network is made of: a convolution, what follows it, and the best kernel."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.cpu import winograd


class Conv(nn.Conv2d):
    """leaky_relu(convolution(x)) + residual, the size kept where the stride is 1.

    In float32 on a CPU by the kernel of models/cpu/winograd.py, where it has one.

    channels, outputs: of x and of the result; kernel: its side, odd; stride, dilation: pixels;
    slope: of the leaky ReLU for negative numbers; 1 for none, 0 for a ReLU.
    """

    def __init__(
        self,
        channels: int,
        outputs: int,
        kernel: int = 3,
        stride: int = 1,
        dilation: int = 1,
        slope: float = 1.0,
    ):
        padding = dilation * (kernel // 2)
        super().__init__(channels, outputs, kernel, stride, padding, dilation)
        self.slope = slope

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """x: (B, C, H, W); residual: of the size of the result, (B, O, H', W')."""
        if winograd.suits(self, x):
            return winograd.convolve(self, x, self.slope, residual)
        x = super().forward(x)
        if self.slope != 1:
            x = F.leaky_relu(x, self.slope, inplace=True)
        if residual is None:
            return x
        # The gradient of a leaky ReLU needs its output as it was.
        kept = self.slope != 1 and torch.is_grad_enabled()
        return x + residual.to(x.dtype) if kept else x.add_(residual)
