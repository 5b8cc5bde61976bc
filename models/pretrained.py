"""A trained network with all it needs to enhance frames in memory, for other people's code."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from flow import check_frames
from models.checkpoint import load_network
from models.inference import pick_device, pick_precision, super_resolve
from models.weights import check_window, trained_flow, trained_window


class Pretrained(nn.Module):
    """A network from a file, in evaluation mode, with the flow that it was trained with.

    Arguments:
        path: weights, see `load_network`.
        device: see `pick_device`.
        precision: see `pick_precision`.

    Raises:
        FileNotFoundError, ValueError: the weights cannot be loaded; no such device or precision.
    """

    def __init__(self, path: str | Path, device: str = "auto", precision: str = "auto"):
        super().__init__()
        device = pick_device(device)
        pick_precision(device, precision)  # says at once what is wrong with it
        self.precision = precision
        self.network, self.information = load_network(path, device)
        self.flow_method = trained_flow(self.information)
        self.window = trained_window(self.information)

    @property
    def device(self) -> torch.device:
        """Where the network is now."""
        return next(self.parameters()).device

    def forward(self, frames: Tensor, forward_flow: Tensor, backward_flow: Tensor) -> Tensor:
        """As `MSTT.forward`."""
        return self.network(frames, forward_flow, backward_flow)

    def enhance(self, frames: np.ndarray, window: int = 0) -> np.ndarray:
        """Four times sharper, and a new frame between each two.

        Whole frames go through the network, which takes up to 22 KB of memory per pixel of a
        given frame in windows of four, and 66 KB in those of twelve that the large weights ask for;
        enhance.py cuts large frames into tiles.

        Arguments:
            frames: (N, H, W, 3) uint8 RGB in order of time; N >= 2, H and W >= 16.
            window: given frames that the network sees at once; 0: as many as the weights ask for.

        Returns: (2N - 1, 4H, 4W, 3) uint8 RGB.

        Raises:
            ValueError: frames of another shape or type, or an impossible window.
        """
        check_frames(frames)
        check_window(window)
        settings = (self.flow_method, self.device, self.precision, window or self.window)
        return np.stack(list(super_resolve(self.network, frames, *settings)))
