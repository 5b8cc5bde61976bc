"""The layer that the network is made of: a convolution, what follows it, and the best kernel."""

from torch import Tensor, nn

from models.cpu.convolution import convolve


class Conv(nn.Conv2d):
    """leaky_relu(convolution(x)) + residual, the size kept where the stride is 1.

    Which kernel computes it, models/cpu/convolution.py decides by device and type.

    Arguments:
        channels, outputs: of x and of the result.
        kernel: side of the kernel, odd.
        stride, dilation: pixels.
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
        return convolve(self, x, self.slope, residual)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, slope={self.slope}"
