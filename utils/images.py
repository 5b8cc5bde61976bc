"""Pictures as numpy arrays of 8 bits and as tensors in [0, 1]."""

import numpy as np
import torch
from torch import Tensor


def to_tensor(frames: np.ndarray) -> Tensor:
    """Frames (..., H, W, 3) uint8 -> (..., 3, H, W) float32 in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(frames, -1, -3))).float() / 255


def to_uint8(images: Tensor) -> np.ndarray:
    """Images (..., 3, H, W) in [0, 1] -> (..., H, W, 3) uint8, clipped and rounded."""
    levels = images.float().mul(255).round_().clamp_(0, 255).to(torch.uint8)
    return np.ascontiguousarray(levels.movedim(-3, -1).cpu().numpy())
