"""Networks on disk: our released weights, training checkpoints, and those of the released code.

    NAME.safetensors + NAME.json   weights, and beside them what they are: options of the network,
                                   recipe, data and its licence, metrics, SHA-256 of the weights
    *.pt                           a training checkpoint of main.py; its EMA weights are loaded
    4x_*.pth                       a state dict of the released MSTT code, known by its names

Only tensors and plain values are ever unpickled (`weights_only=True`): a file cannot run code.
"""

import json
import re
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from models.mstt import MSTT
from models.weights import find_weights
from utils.files import file_sha256, write_atomically
from utils.pickles import check_torch_file
from utils.text import one_line, plain

FORMAT = "mstt-stvsr training checkpoint, version 1"

# The parts of a training checkpoint and what they are.
STATE = {
    "step": int,
    "network": dict,
    "ema": dict,
    "network_options": dict,
    "optimiser": dict,
    "random": dict,
    "best_score": float,
    "config": dict,
    "versions": dict,
}

BLOCKS = ("front_blocks", "back_blocks", "propagation_blocks")  # options that count parts
MOST_DESCRIBED = 2**24  # bytes of a JSON description; ours have some thousands
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
# Where PyTorch's reason ends and its advice begins, to allow or to run whatever a file holds.
LOADED_UNSAFELY = re.compile(r" Please use `|In PyTorch 2\.6|This file can still|\n")

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
    """Write weights, in the type they have, and what they are as the JSON file beside them.

    Arguments:
        path: ends in .safetensors.
        network: whose weights are written.
        information: anything JSON can hold; "network" (the options) and "sha256" are added. Without
            "flow_method" and "window" the weights run with those of the released code.

    Raises:
        ValueError: another ending, no MSTT, one whose weights have been renamed, or information
            that JSON cannot hold; nothing is written.
        OSError: the disk is full or the folder not writable; nothing half-written is left.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"weights are saved as .safetensors, not as {path.name}")
    _check_loadable(path, network, information)
    weights = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}

    def write(partial: Path) -> None:
        partial.touch()
        mode = partial.stat().st_mode
        try:
            save_file(weights, partial)  # makes it its owner's alone
            partial.chmod(mode)
        except SafetensorError as error:  # which hides the OSError of a full disk
            raise OSError(f"could not write {path}: {one_line(str(error))}") from error

    write_atomically(path, write)
    information = information | {"network": network.options, "sha256": file_sha256(path)}
    text = json.dumps(information, indent=2) + "\n"
    write_atomically(path.with_suffix(".json"), lambda partial: partial.write_text(text))


def _check_loadable(path: Path, network: MSTT, information: dict[str, Any]) -> None:
    """Refuse, by a ValueError, what `load_network` would not read again."""
    if not isinstance(network, MSTT):
        kind = type(network).__name__
        raise ValueError(
            f"an MSTT is saved, not {kind}; give the one inside, such as network.module of "
            "DistributedDataParallel, network._orig_mod of torch.compile, network.network of ours"
        )
    if not isinstance(information, dict):
        raise ValueError(f"information is {type(information).__name__}; give a dictionary")
    with torch.device("meta"):
        check_fit(path, MSTT(**network.options).state_dict(), network.state_dict())
    try:
        json.dumps(information)
    except (TypeError, ValueError) as error:
        raise ValueError(f"information must be what JSON can hold: {error}") from error


def load_network(
    path: str | Path, device: str | torch.device = "cpu"
) -> tuple[MSTT, dict[str, Any]]:
    """Load a network from any of the three kinds of file.

    Arguments:
        path: such a file, a run's folder, or the name of shipped weights, see `find_weights`.
        device: where the network goes.

    Returns: the network in evaluation mode, float32, and what the file says about it.

    Raises:
        FileNotFoundError: there is no such file, or no JSON beside the weights.
        ValueError: the file is damaged, of another kind, or its weights do not fit the network.
    """
    path = find_weights(path)
    if path.suffix == ".safetensors":
        weights, information = _read_safetensors(path)
    else:
        weights, information = _read_torch(path)
    network = network_from(path, information["network"], weights)
    network.guarded = True
    return network.to(device).eval(), information


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        weights = load_file(path)
    except (SafetensorError, OSError) as error:
        reason = one_line(str(error))
        raise ValueError(f"{path} is not a complete safetensors file ({reason})") from error
    description = path.with_suffix(".json")
    if not description.is_file():
        raise FileNotFoundError(f"{path} needs {description.name} beside it, which is missing")
    try:
        if description.stat().st_size > MOST_DESCRIBED:
            raise ValueError(f"larger than {MOST_DESCRIBED} bytes")
        information = json.loads(description.read_text())
        information["network"].items()
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        reason = one_line(repr(error))
        raise ValueError(f"{description} does not describe a network ({reason})") from error
    recorded = information.get("sha256")
    if recorded is not None and recorded != file_sha256(path):
        raise ValueError(
            f"{path} is not the file that {description.name} describes (its SHA-256 differs): one "
            "of the two was replaced or damaged"
        )
    return weights, information


def _read_torch(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    content = load_torch_file(path)
    if content.get("format") == FORMAT:
        check_state(path, content)
        information = {name: content[name] for name in ("config", "step", "versions")}
        information |= {"network": content["network_options"], "score": content["best_score"]}
        return content["ema"], information
    if "conv_first.weight" in content:
        check_weights(path, content)
        weights = renamed(content, RELEASED_NAMES)
        return weights, {"network": _released_options(path, content), "origin": "released code"}
    if "extraction.conv_first.weight" in content:
        raise ValueError(f"{path} holds weights alone; models.save_network writes what they need")
    some = one_line(", ".join(map(plain, list(content)[:4])))
    raise ValueError(
        f"{path} is neither a training checkpoint of this project nor a state dict of the "
        f"released MSTT code; it holds {some or 'nothing'}"
    )


def check_state(path: str | Path, state: dict[str, Any]) -> None:
    """Refuse, by a ValueError, a training checkpoint whose parts are missing or of other kinds."""
    wrong = [
        f"{name} is {'missing' if name not in state else type(state[name]).__name__}"
        for name, kind in STATE.items()
        if not isinstance(state.get(name), kind)
    ]
    if wrong:
        raise ValueError(f"{path} is not a complete training checkpoint: {', '.join(wrong)}")


def load_torch_file(path: str | Path) -> dict[str, Any]:
    """Read a dictionary that torch.save wrote, without running any code in it.

    Raises: ValueError: the file is truncated, is not such a file, or holds more than plain values.
    """
    try:
        check_torch_file(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of an odd pickle, beside its refusal
            content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # a damaged pickle can raise anything at all
        text = str(error).partition("WeightsUnpickler error:")[2] or str(error)
        reason = one_line(LOADED_UNSAFELY.split(text.strip())[0].strip()) or type(error).__name__
        raise ValueError(
            f"{path} cannot be loaded safely: it is damaged, no PyTorch file, or holds more than "
            f"weights ({reason})"
        ) from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, not a dictionary of weights")
    return content


def renamed(weights: dict[str, Tensor], names: Iterable[tuple]) -> dict[str, Tensor]:
    """Weights by other names, of which `names` has patterns and replacements."""
    for pattern, replacement in names:
        weights = {re.sub(pattern, replacement, name): weights[name] for name in weights}
    return weights


def _released_options(path: Path, weights: dict[str, Tensor]) -> dict[str, Any]:
    """The options of a released network, read off the names and shapes of its weights."""

    def blocks(prefix: str) -> int:
        return len({name.split(".")[1] for name in weights if name.startswith(prefix)})

    try:
        channels = weights["conv_first.weight"].shape[0]
        offset_channels = weights["MSD_align.dcnpack.conv_offset_mask.weight"].shape[0]
    except (KeyError, IndexError) as error:
        raise ValueError(f"{path} lacks weights of the released MSTT code ({error})") from error
    return {
        "channels": channels,
        "groups": offset_channels // 27,  # 3x3 taps, each with dy, dx and a mask
        "front_blocks": blocks("feature_extraction."),
        "back_blocks": blocks("recon_trunk."),
    }


def network_from(path: str | Path, options: dict[str, Any], weights: dict[str, Tensor]) -> MSTT:
    """A network, float32, with these options and weights of any floating type.

    path: the file they came from, for messages.

    Raises: ValueError: options of no network, or weights that do not fit it, with the names.
    """
    check_weights(path, weights)
    # A file may ask for anything, so nothing is built before it is known to match the weights:
    # first the number of its blocks, then, without memory, its shapes.
    try:
        blocks = [int(options.get(name, 0)) for name in BLOCKS]
        if not all(0 <= count <= len(weights) for count in blocks):
            raise ValueError(f"{blocks} blocks for {len(weights)} weights")
        with torch.device("meta"):
            expected = MSTT(**options).state_dict()
    except (TypeError, ValueError, RuntimeError, ArithmeticError, AttributeError) as error:
        reason = one_line(str(error).partition("\n")[0])  # PyTorch adds a stack of calls
        raise ValueError(f"{path} asks for a network that cannot be built: {reason}") from error
    check_fit(path, expected, weights)
    network = MSTT(**options).float()  # PyTorch's default may be another type
    network.load_state_dict(weights)  # into float32, whatever the file has
    return network


def check_weights(path: str | Path, weights: Any) -> None:
    """Refuse, by a ValueError, what is not plain tensors by name that hold all they claim.

    A tensor of a few bytes can claim any size by strides of zero.

    path: the file they came from, for messages.
    """
    if not isinstance(weights, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in weights.items()
    ):
        raise ValueError(f"{path} holds no weights by name")
    problems, claimed, stored = [], 0, {}
    for name, tensor in weights.items():
        if not is_plain(tensor):
            kind = "nested" if tensor.is_nested else f"{tensor.layout} {tensor.dtype}"
            problems.append(f"{name} is {kind} on {tensor.device.type}, no plain floating type")
            continue
        storage, size = tensor.untyped_storage(), tensor.numel() * tensor.element_size()
        claimed += size
        stored[storage.data_ptr()] = storage.nbytes()  # tensors may share one
        if size > storage.nbytes():
            problems.append(f"{name} claims {size} bytes and holds {storage.nbytes()}")
    if not problems and claimed > sum(stored.values()):
        problems.append(f"they claim {claimed} bytes and hold {sum(stored.values())}")
    _refuse_weights(f"the weights of {path} are unusable", problems)


def is_plain(tensor: Tensor) -> bool:
    """Whether a tensor from a file has a shape and floating numbers, as a network needs them."""
    is_dense = tensor.layout == torch.strided and not tensor.is_nested
    return is_dense and tensor.device.type == "cpu" and tensor.dtype in FLOATS


def check_fit(path: str | Path, expected: dict[str, Tensor], weights: dict[str, Tensor]) -> None:
    """Refuse, by a ValueError, plain weights of other names or shapes than the expected ones."""
    problems = [f"{name} is missing" for name in expected if name not in weights]
    problems += [f"{name} is unknown" for name in weights if name not in expected]
    for name in (name for name in expected if name in weights):
        shape, given = tuple(expected[name].shape), tuple(weights[name].shape)
        if given != shape:
            problems.append(f"{name} is {given} instead of {shape}")
    _refuse_weights(f"the weights of {path} do not fit the network", problems)


def _refuse_weights(what: str, problems: list[str]) -> None:
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise ValueError(f"{what}: {one_line('; '.join(problems[:3]))}{more}")


def save_torch_file(path: str | Path, content: dict[str, Any]) -> None:
    """torch.save that leaves either the old file or the complete new one.

    Raises: OSError: the disk is full or the folder not writable; the old file is untouched.
    """

    def write(partial: Path) -> None:
        try:
            torch.save(content, partial)
        except RuntimeError as error:  # torch's zip writer hides the OSError of a full disk
            raise OSError(f"could not write {path}: {error}") from error

    write_atomically(Path(path), write)
