"""Networks on disk: our released weights, training checkpoints, and those of the released code.

    NAME.safetensors + NAME.json   weights, and beside them what they are: options of the network,
                                   recipe, data and its licence, metrics, SHA-256 of the weights
    *.pt                           a training checkpoint of main.py; its EMA weights are loaded
    4x_*.pth                       a state dict of the released MSTT code, known by its names

Only tensors and plain values are ever unpickled (`weights_only=True`): a file cannot run code.
"""

import hashlib
import json
import os
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from models import MSTT

FORMAT = "mstt-stvsr training checkpoint, version 1"

# The released code's module names, and ours.
RELEASED_NAMES = (
    (r"^conv_first\.", "extraction.conv_first."),
    (r"^feature_extraction\.", "extraction.blocks."),
    (r"^MSD_align\.", "interpolation.alignment."),
    (r"^(fusion|blending)\.", r"interpolation.\1."),
    (r"^MSST_former\.transformer\.0\.attention\.output_linear\.0\.", "ATTENTION.output_linear."),
    (r"^MSST_former\.transformer\.0\.", "transformer.block."),
    (r"^ATTENTION\.", "transformer.block.attention."),
    (r"^MSST_former\.encoder\.", "transformer.encoder."),
    (r"^MSST_former\.decoder\.0\.conv\.", "transformer.decoder.1."),
    (r"^MSST_former\.decoder\.2\.", "transformer.decoder.3."),
    (r"^MSST_former\.decoder\.4\.", "transformer.decoder.5."),
    (r"^recon_trunk\.", "reconstruction.blocks."),
    (r"^(upconv1|upconv2)\.", r"reconstruction.\1."),
    (r"^HRconv\.", "reconstruction.conv_hr."),
    (r"^conv_last\.", "reconstruction.conv_last."),
)


def save_network(path: str | Path, network: MSTT, information: dict[str, Any]) -> None:
    """Write weights as PATH (.safetensors) and what they are as the JSON file beside it.

    Arguments:
        path: ends in .safetensors.
        network: its parameters are written in the type they have.
        information: anything JSON can hold; "network" (the options) and "sha256" are added.

    Raises:
        ValueError: another ending.
        OSError: the disk is full or the folder not writable; nothing half-written is left.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"weights are saved as .safetensors, not as {path.name}")
    weights = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    write_atomically(path, lambda partial: save_file(weights, partial))
    information = information | {"network": network.options, "sha256": file_sha256(path)}
    text = json.dumps(information, indent=2) + "\n"
    write_atomically(path.with_suffix(".json"), lambda partial: partial.write_text(text))


def load_network(
    path: str | Path, device: str | torch.device = "cpu"
) -> tuple[MSTT, dict[str, Any]]:
    """Load a network from any of the three kinds of file.

    Arguments:
        path: a .safetensors file with its JSON, a training checkpoint, or a released state dict.
        device: where the network goes.

    Returns: the network in evaluation mode, float32, and what the file says about it.

    Raises:
        FileNotFoundError: there is no such file, or no JSON beside the weights.
        ValueError: the file is damaged, of another kind, or its weights do not fit the network.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}; train one with `python main.py`")
    if path.suffix == ".safetensors":
        weights, information = _read_safetensors(path)
    else:
        weights, information = _read_torch(path)
    network = _build(path, information["network"])
    _load_strictly(path, network, weights)
    return network.to(device).eval(), information


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        weights = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is no complete safetensors file ({error})") from error
    description = path.with_suffix(".json")
    if not description.is_file():
        raise FileNotFoundError(f"{path} needs {description.name} beside it, which is missing")
    try:
        information = json.loads(description.read_text())
        information["network"].items()
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(f"{description} does not describe a network ({error!r})") from error
    return weights, information


def _read_torch(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    content = load_torch_file(path)
    if content.get("format") == FORMAT:
        return content["ema"], {
            "network": content["network_options"],
            "config": content["config"],
            "step": content["step"],
            "score": content["best_score"],
            "versions": content["versions"],
        }
    if "conv_first.weight" in content:
        weights = {_our_name(name): tensor for name, tensor in content.items()}
        return weights, {"network": _released_options(path, content), "origin": "released code"}
    some = ", ".join(map(str, list(content)[:4]))
    raise ValueError(
        f"{path} is neither a training checkpoint of this project nor a state dict of the "
        f"released MSTT code; it holds {some or 'nothing'}"
    )


def load_torch_file(path: str | Path) -> dict[str, Any]:
    """Read a dictionary that torch.save wrote, without running any code in it.

    Raises:
        ValueError: the file is truncated, is no such file, or holds more than plain values.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (
        pickle.UnpicklingError,
        RuntimeError,
        EOFError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        IndexError,
        UnicodeError,
        zipfile.BadZipFile,
    ) as error:
        reason = str(error).strip().splitlines()
        raise ValueError(
            f"{path} cannot be loaded safely: it is damaged, no PyTorch file, or holds more than "
            f"weights ({reason[0] if reason else type(error).__name__})"
        ) from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, not a dictionary of weights")
    return content


def _our_name(released_name: str) -> str:
    for pattern, replacement in RELEASED_NAMES:
        released_name = re.sub(pattern, replacement, released_name)
    return released_name


def _released_options(path: Path, weights: dict[str, Tensor]) -> dict[str, Any]:
    """The options of a released network, read off the names and shapes of its weights."""

    def blocks(prefix: str) -> int:
        return len({name.split(".")[1] for name in weights if name.startswith(prefix)})

    try:
        channels = weights["conv_first.weight"].shape[0]
        offset_channels = weights["MSD_align.dcnpack.conv_offset_mask.weight"].shape[0]
    except (KeyError, AttributeError, IndexError) as error:
        raise ValueError(f"{path} lacks weights of the released MSTT code ({error})") from error
    return {
        "channels": channels,
        "groups": offset_channels // 27,  # 3x3 taps, each with dy, dx and a mask
        "front_blocks": blocks("feature_extraction."),
        "back_blocks": blocks("recon_trunk."),
    }


def _build(path: Path, options: dict[str, Any]) -> MSTT:
    try:
        return MSTT(**options)
    except (TypeError, ValueError, RuntimeError, ZeroDivisionError) as error:
        raise ValueError(f"{path} asks for a network that cannot be built: {error}") from error


def _load_strictly(path: Path, network: MSTT, weights: dict[str, Tensor]) -> None:
    expected = network.state_dict()
    problems = [f"{name} is missing" for name in expected if name not in weights]
    problems += [f"{name} is unknown" for name in weights if name not in expected]
    problems += [
        f"{name} is {tuple(weights[name].shape)} instead of {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in weights and weights[name].shape != tensor.shape
    ]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise ValueError(
            f"the weights of {path} do not fit the network: {'; '.join(problems[:3])}{more}"
        )
    network.load_state_dict({name: tensor.float() for name, tensor in weights.items()})


def save_torch_file(path: str | Path, content: dict[str, Any]) -> None:
    """torch.save that leaves either the old file or the complete new one.

    Raises:
        OSError: the disk is full or the folder not writable; the old file is untouched.
    """

    def write(partial: Path) -> None:
        try:
            torch.save(content, partial)
        except RuntimeError as error:  # torch's zip writer hides the OSError of a full disk
            raise OSError(f"could not write {path}: {error}") from error

    write_atomically(Path(path), write)


def write_atomically(path: Path, write) -> None:
    """Call write(partial) on a temporary name beside path, flush it to disk, rename it to path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        write(partial)
        with open(partial, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def file_sha256(path: str | Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
