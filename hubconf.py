"""The trained networks for other people's code, by the convention of torch.hub.

    import numpy as np
    import torch
    network = torch.hub.load("path/to/this/folder", "mstt_fast", source="local")
    frames = np.load("frames.npy")  # (N, H, W, 3) uint8 RGB in order of time
    sharper = network.enhance(frames)  # (2N - 1, 4H, 4W, 3) uint8

Straight from GitHub it is torch.hub.load("OWNER/REPOSITORY", "mstt_fast"), and torch.hub.list
names the entries: every checkpoints/NAME.safetensors is one. An entry takes `device` ("auto",
"cpu", "cuda:1") and `precision` ("auto", "float32", "bfloat16"), and returns a network with
`enhance`, see models/pretrained.py.
"""

from functools import partial as _partial

from models import pretrained as _pretrained
from models import weights as _weights

dependencies = ["torch", "numpy", "cv2", "safetensors"]

for _path in _weights.CHECKPOINTS.glob("*.safetensors"):
    globals()[_path.stem] = _entry = _partial(_pretrained.Pretrained, _path)
    _entry.__doc__ = f"{_path.name} as a network that enhances frames."
