"""A trained network with all it needs to enhance frames in memory, for other people's code."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from flow import check_frames
from models.checkpoint import load_network
from models.ensemble import Ensemble
from models.inference import pick_device, pick_precision, super_resolve
from models.weights import check_window, trained_flow, trained_window


def open_network(
    path: str | Path,
    device: torch.device,
    flow_method: str = "auto",
    window: int = 0,
    ensemble: bool = False,
) -> tuple[nn.Module, str, int]:
    """A network of a file and how to run it: the network, its flow method and its window.

    path, device: see `load_network`; flow_method, window: what to use instead of what the file
    asks for ("auto", 0); ensemble: run it as an `Ensemble`.
    """
    network, information = load_network(path, device)
    flow_method = trained_flow(information) if flow_method == "auto" else flow_method
    network = Ensemble(network) if ensemble else network
    return network, flow_method, window or trained_window(information)


class Pretrained(nn.Module):
    """A network from a file, in evaluation mode, with the flow that it was trained with.

    path: weights, see `load_network`; device, precision: see `pick_device`, `pick_precision`.

    Raises:
        FileNotFoundError, ValueError: the weights cannot be loaded; no such device or precision.
    """

    def __init__(
        self, path: str | Path, device: str | torch.device = "auto", precision: str = "auto"
    ):
        super().__init__()
        device = pick_device(device)
        pick_precision(device, precision)  # says at once what is wrong with it
        self.precision = precision
        self.network, self.flow_method, self.window = open_network(path, device)

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
            ValueError: frames of another shape or type, an impossible window, or weights that are
                float32 no more.
        """
        check_frames(frames)
        check_window(window)
        if (kind := next(self.parameters()).dtype) != torch.float32:
            raise ValueError(
                f"the weights were made {kind}; leave them torch.float32 and choose a precision "
                'when they are loaded, such as precision="bfloat16"'
            )
        settings = (self.flow_method, self.device, self.precision, window or self.window)
        return np.stack(list(super_resolve(self.network, frames, *settings)))
