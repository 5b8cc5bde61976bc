"""Carry a training to another machine in small parts, and train on there.

    python -m training.slim pack runs/NAME/last.pt FOLDER     FOLDER/part-0 and so on
    python -m training.slim unpack FOLDER runs/NAME/last.pt   then main.py --resume --run runs/NAME

The parts hold the weights in float32, and in bfloat16 the moments of the optimiser and how far the
averaged weights are from the weights: two thirds of a checkpoint. Going on from them is training
on, not the exact run. A part that is missing or damaged is noticed.
"""

import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any, Literal

import torch
from torch import Tensor

from models.checkpoint import load_torch_file, save_torch_file
from training.run import read_state
from utils.config import parse_config, run_script
from utils.files import check_empty, write_atomically

DIGEST = 32  # bytes at the start of the joined parts


@dataclass(frozen=True)
class Config:
    what: Literal["pack", "unpack"]  # what to do
    source: str  # a training checkpoint, or the folder of its parts
    target: str  # the folder for the parts, or the checkpoint to make of them
    mebibytes: float = 15.0  # largest size of a part


def convert(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Nested dictionaries with all their tensors changed."""
    if isinstance(value, dict):
        return {name: convert(inner, change) for name, inner in value.items()}
    return change(value) if isinstance(value, Tensor) else value


def pack(checkpoint: Path, folder: Path, part_bytes: int) -> list[Path]:
    """Write a training checkpoint as parts of at most so many bytes; returns their paths.

    Raises: ValueError: no training checkpoint, or the folder is in use.
    """
    state = read_state(checkpoint)
    check_empty(folder)
    folder.mkdir(parents=True, exist_ok=True)
    state["optimiser"] = convert(state["optimiser"], lambda x: x.bfloat16() if x.ndim else x)
    weights = state["network"]
    state["ema"] = {name: (x - weights[name]).bfloat16() for name, x in state["ema"].items()}
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = hashlib.sha256(buffer.getbuffer()).digest() + buffer.getvalue()
    paths = []
    for number, start in enumerate(range(0, len(content), part_bytes)):
        paths.append(folder / f"part-{number}")
        part = content[start : start + part_bytes]
        write_atomically(paths[-1], lambda partial, part=part: partial.write_bytes(part))
    return paths


def unpack(folder: Path, checkpoint: Path) -> None:
    """Make a training checkpoint of its parts; a ValueError if one is missing or damaged."""
    paths = sorted(folder.glob("part-*"), key=lambda path: int(path.name.removeprefix("part-")))
    if not paths:
        raise FileNotFoundError(f"no parts in {folder}")
    if checkpoint.exists():
        raise ValueError(f"{checkpoint} is there already; choose another name")
    content = b"".join(path.read_bytes() for path in paths)
    if hashlib.sha256(content[DIGEST:]).digest() != content[:DIGEST]:
        raise ValueError(f"the {len(paths)} parts in {folder} are not all there, or damaged")
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    joined = checkpoint.with_name(f".{checkpoint.name}.joined")
    try:
        joined.write_bytes(content[DIGEST:])
        state = load_torch_file(joined)
    finally:
        joined.unlink(missing_ok=True)
    state["optimiser"] = convert(state["optimiser"], Tensor.float)
    weights = state["network"]
    state["ema"] = {name: weights[name] + x.float() for name, x in state["ema"].items()}
    save_torch_file(checkpoint, state)


def main() -> None:
    config = parse_config(Config, __doc__, positional=("what", "source", "target"))
    source, target = Path(config.source), Path(config.target)
    if config.mebibytes * 2**20 < 1:
        raise ValueError(f"mebibytes is {config.mebibytes}; a part takes at least one byte")
    if config.what == "pack":
        paths = pack(source, target, int(config.mebibytes * 2**20))
        total = sum(path.stat().st_size for path in paths)
        print(f"{len(paths)} part(s) in {target}, together {total / 2**20:.1f} MiB")
    else:
        unpack(source, target)
        print(f"{target}: go on with python main.py --resume --run {quote(str(target.parent))}")


if __name__ == "__main__":
    run_script(main)
