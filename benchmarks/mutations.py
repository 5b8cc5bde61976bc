"""Mutations for `benchmarks.fuzz`: what happens to files on their way.

Bytes are changed anywhere; JSON, headers and checkpoints are also changed in their values, which
leaves a whole file.
"""

import io
import json
import math
import random
import struct
from typing import Any

import torch
from torch import Tensor

from models import MSTT

DEEP = "[" * 100_000  # in JSON, in the place of this name
WORDS = (b"\0", b"\xff" * 4, b"../", b"/etc/passwd\n", b"\r", b"%s", b"'; rm -rf", b"9" * 40)


def mutate(content: bytes, rng: random.Random) -> bytes:
    """A copy with one to four random changes: bytes, bits, cuts, repeats, inserted words."""
    data = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        # Half of the changes hit the first bytes, where headers are.
        place = (
            rng.randrange(min(len(data), 200) if rng.random() < 0.5 else len(data)) if data else 0
        )
        length = rng.choice((1, 2, 4, 16, 200))
        kind = rng.randrange(6)
        if kind == 0 and data:
            data[place] = rng.randrange(256)
        elif kind == 1 and data:
            data[place] ^= 1 << rng.randrange(8)
        elif kind == 2:
            del data[place : place + length]
        elif kind == 3:
            data[place:place] = data[place : place + length] * rng.randint(1, 3)
        elif kind == 4:
            data[place:place] = rng.choice(WORDS)
        elif rng.random() < 0.3:
            del data[place:]
        else:
            data[place : place + length] = rng.randbytes(length)
    return bytes(data)


def odd_value(rng: random.Random) -> Any:
    """A value that nobody expects, of a kind that both JSON and checkpoints can hold."""
    values = [None, True, 0, -1, 3, 2**70, 10**400, 0.5, math.nan, math.inf, "", "a\nb", "../x"]
    values += ["DEEP", "x" * 10_000, [], {}, [1, [2, "3"]], {"a": {"b": []}}]
    deep: Any = []
    for _ in range(150):
        deep = [deep]
    return rng.choice([*values, deep])


def odd_tensor(tensor: Tensor, rng: random.Random) -> Any:
    """A tensor of another shape or kind, or one that claims more than it holds."""
    if (
        tensor.is_nested
        or tensor.layout != torch.strided
        or tensor.is_meta
        or tensor.is_quantized
        or tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes()
    ):
        return odd_value(rng)  # odd already
    flat = tensor.detach().float().reshape(-1)
    makers = [
        lambda: flat[0].expand(tensor.shape) if len(flat) else flat,
        lambda: torch.zeros(1, 1).expand(2**20, 2**20),
        lambda: flat.to("meta").reshape(tensor.shape),
        lambda: tensor.to(rng.choice([torch.int8, torch.bool, torch.float16, torch.float64])),
        lambda: tensor.to(rng.choice([torch.complex64, torch.float8_e4m3fn, torch.int64])),
        lambda: rng.choice([flat, flat[:0], flat[:3], torch.zeros(()), torch.zeros(1, 2, 3)]),
        lambda: torch.zeros([1] * 70),
        lambda: flat.reshape(tensor.shape).to_sparse(),
        lambda: torch.quantize_per_tensor(flat.reshape(tensor.shape), 0.1, 0, torch.qint8),
        lambda: torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)]),
        lambda: torch.nn.Parameter(flat.reshape(tensor.shape)),
        lambda: torch.full_like(flat, rng.choice([math.nan, math.inf])).reshape(tensor.shape),
        lambda: odd_value(rng),
    ]
    return rng.choice(makers)()


def change(value: Any, rng: random.Random, keys: list[Any]) -> Any:
    """A copy of a nested value with one random change; `keys` are new names for entries."""
    if isinstance(value, Tensor):
        return odd_tensor(value, rng)
    if not isinstance(value, dict | list) or not value or rng.random() < 0.05:
        return rng.choice([odd_value(rng), [value], {"a": value}])
    copy: Any = value.copy()
    key = rng.choice(list(copy)) if isinstance(copy, dict) else rng.randrange(len(copy))
    kind = rng.random()
    if kind < 0.15:
        del copy[key]
    elif kind < 0.25 and isinstance(copy, dict):
        copy[rng.choice(keys)] = copy.pop(key)
    elif kind < 0.35:
        copy[key] = odd_value(rng)
    else:
        copy[key] = change(copy[key], rng, keys)
    return copy


def vary_json(value: Any, rng: random.Random) -> bytes:
    """JSON of a value with one to three changes."""
    for _ in range(rng.randint(1, 3)):
        value = change(value, rng, ["", "a\nb", "network", "config", "dtype", "x" * 1000])
    return json.dumps(value).replace('"DEEP"', DEEP).encode()


def vary_header(content: bytes, rng: random.Random) -> bytes:
    """A safetensors file whose header of JSON has changes."""
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length]) | {"__metadata__": {"format": "pt"}}
    text = vary_json(header, rng)
    return struct.pack("<Q", len(text)) + text + content[8 + length :]


def inflate(state: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint of a network of 15 TB, all of whose weights share one number."""
    options = state["network_options"] | {"channels": 65536, "groups": 8}
    with torch.device("meta"):
        expected = MSTT(**options).state_dict()
    weights = {name: torch.zeros(1).expand(value.shape) for name, value in expected.items()}
    return state | {"network_options": options, "network": weights, "ema": weights}


def vary_checkpoint(states: list[dict[str, Any]], rng: random.Random) -> bytes:
    """A file of torch.save of one of the states with one to three changes."""
    state = rng.choice(states)
    if "network_options" in state and rng.random() < 0.02:
        state = inflate(state)
    for _ in range(rng.randint(1, 3)):
        state = change(state, rng, [5, None, ("a", "b"), "", "a\nb", "ema", 0.5, b"bytes"])
    buffer = io.BytesIO()
    torch.save(state, buffer, _use_new_zipfile_serialization=rng.random() < 0.8)
    return buffer.getvalue()
