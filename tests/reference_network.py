"""The released network with the weights of the reference, and its maps for the stored inputs."""

import tempfile
import zlib
from pathlib import Path

import numpy as np
import torch

from models import MSTT
from models.checkpoint import load_network

DATA = Path(__file__).parent / "data"


def reference_weights() -> dict[str, torch.Tensor]:
    """The released names with the weights that the reference was computed with."""
    weights = {}
    for line in (DATA / "mstt_state_dict.txt").read_text().splitlines():
        name, _, text = line.partition(" ")
        shape = tuple(int(size) for size in text.strip("()").split(",") if size)
        rng = np.random.default_rng(zlib.crc32(f"mstt-reference:{name}".encode()))
        values = rng.standard_normal(shape)
        scale = 0.05 if name.endswith("bias") else 0.7 / np.sqrt(np.prod(shape[1:]))
        weights[name] = torch.from_numpy((values * scale).astype(np.float32))
    return weights


def released_network() -> MSTT:
    """The network, loaded from a checkpoint as the released code writes it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "4x_released.pth"
        torch.save(reference_weights(), path)
        network, information = load_network(path)
    assert information["origin"] == "released code"
    return network


def reference_maps(network: MSTT, reference) -> dict[str, np.ndarray]:
    """Output and intermediate maps for the reference's inputs, thinned out as it stores them."""
    frames = torch.from_numpy(reference["frames"]).permute(0, 3, 1, 2)[None] / 255
    flows = (
        torch.from_numpy(reference[name]).permute(0, 3, 1, 2)[None]
        for name in ("forward_flow", "backward_flow")
    )
    modules = {
        "features": network.extraction,
        "aligned": network.interpolation.alignment,
        "interpolated": network.interpolation,
        "attended": network.transformer,
    }
    maps = {}
    hooks = [
        module.register_forward_hook(lambda m, i, output, name=name: maps.update({name: output}))
        for name, module in modules.items()
    ]
    with torch.inference_mode():
        output = network(frames, *flows)
    for hook in hooks:
        hook.remove()
    thinned = {
        "feature_extraction": maps["features"][0, :, ::8, ::4, ::4],
        "aligned_0_to_1": maps["aligned"][0, ::8, ::4, ::4],
        "interpolated_0": maps["interpolated"][0, 1, ::8, ::4, ::4],
        "transformer": (maps["interpolated"] + maps["attended"])[0, :, ::8, ::4, ::4],
        "output": output[0, :, :, ::4, ::4],
    }
    return {name: value.numpy() for name, value in thinned.items()}
