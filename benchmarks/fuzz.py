"""Feed mutated files to everything that reads a stranger's file, and count what happens.

    python -m benchmarks.fuzz 2>/dev/null           10,000 files for each reader
    python -m benchmarks.fuzz --files 300 --seed 5  fewer, others

Readers: the list parser, the image loader (PNG and JPEG), the loader of stills, the checkpoint
loader for .pt and for .safetensors with its JSON. A reader may accept a file or refuse it with
ValueError or OSError, which the scripts print as one line; any other exception is a bug and is
counted as such, and so is a file that takes more than SLOW seconds. A crash of the interpreter
ends the program. The image decoders complain on stderr by themselves. Prints one line per reader
and ends with status 1 if there was a bug.
"""

import contextlib
import random
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from data.images import read_image, write_image
from data.septuplets import SeptupletDataset, read_list
from data.stills import read_still
from models import MSTT
from utils.checkpoint import load_network, save_network, save_torch_file
from utils.config import parse_config, run_script
from utils.runs import read_state, training_state
from utils.training import Ema

SLOW = 5.0  # seconds of the processor that no file of a few kilobytes may take
WORDS = (b"\0", b"\xff" * 4, b"../", b"/etc/passwd\n", b"\r", b"%s", b"'; rm -rf", b"9" * 40)


@dataclass(frozen=True)
class Config:
    files: int = 10_000  # mutated files for each reader
    seed: int = 1  # of the mutations
    reader: str = "all"  # one of the readers by its name


@dataclass(frozen=True)
class Reader:
    """What is fuzzed: a name, the good files it starts from, and the function that reads one."""

    name: str
    seeds: list[bytes]
    suffix: str
    read: Callable[[Path], object]


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


def make_readers(folder: Path) -> Iterator[Reader]:
    """The readers, with good files made in the folder."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    pictures = []
    for name in ("a.png", "a.jpg"):
        write_image(folder / name, image)
        pictures.append((folder / name).read_bytes())

    root = folder / "septuplets"
    for clip in ("one", "two words"):
        (root / "train" / clip).mkdir(parents=True)
        for number in range(1, 8):
            write_image(root / "train" / clip / f"im{number}.png", image)
    lists = [b"one\ntwo words\n", b"\xef\xbb\xbfone\r\n\r\n two words \r\n"]

    def read_a_list(path: Path) -> object:
        read_list(path)
        dataset = SeptupletDataset(root, path, patch=16)
        outside = [
            p for clip in dataset.paths for p in clip if not p.resolve().is_relative_to(root)
        ]
        assert not outside, outside
        return dataset

    yield Reader("list", lists, ".txt", read_a_list)
    yield Reader("image", pictures, ".png", read_image)
    yield Reader("still", pictures, ".png", read_still)

    network = MSTT(8, 2, 1, 1)
    optimiser = torch.optim.Adam(network.parameters())
    config = Config()
    state = training_state(config, network, Ema(network, 0.9), optimiser, 3, 30.0)
    save_torch_file(folder / "last.pt", state)
    torch.save({"conv_first.weight": torch.zeros(8, 3, 3, 3), "a": 1}, folder / "released.pth")
    torch.save(
        state | {"network": {}, "ema": {}}, folder / "old.pt", _use_new_zipfile_serialization=False
    )
    checkpoints = [(folder / name).read_bytes() for name in ("last.pt", "released.pth", "old.pt")]

    def read_checkpoint(path: Path) -> object:
        with contextlib.suppress(ValueError, OSError):
            read_state(path)
        return load_network(path)

    yield Reader("checkpoint", checkpoints, ".pt", read_checkpoint)

    save_network(folder / "net.safetensors", network, {"recipe": "none"})
    weights, text = ((folder / f"net.{end}").read_bytes() for end in ("safetensors", "json"))

    def read_weights(path: Path) -> object:
        path.with_suffix(".json").write_bytes(text)
        return load_network(path)

    def read_description(path: Path) -> object:
        path.with_suffix(".safetensors").write_bytes(weights)
        return load_network(path.with_suffix(".safetensors"))

    yield Reader("safetensors", [weights], ".safetensors", read_weights)
    yield Reader("description", [text], ".json", read_description)


def fuzz(reader: Reader, files: int, seed: int, folder: Path) -> Counter:
    """Read mutated files; returns how many were accepted, refused, slow, or met a bug."""
    rng, counts = random.Random(f"{reader.name} {seed}"), Counter()
    path = folder / f"mutated{reader.suffix}"
    for number in range(files):
        path.write_bytes(mutate(rng.choice(reader.seeds), rng))
        start = time.process_time()
        try:
            reader.read(path)
        except (ValueError, OSError) as error:
            counts["refused"] += 1
            counts["more than one line"] += "\n" in str(error) and reader.name != "list"
        except Exception:
            counts["bugs"] += 1
            if counts["bugs"] <= 3:
                print(f"{reader.name}, file {number}:\n{traceback.format_exc()}", flush=True)
        else:
            counts["accepted"] += 1
        seconds = time.process_time() - start
        if seconds > SLOW:
            counts["slow"] += 1
            print(f"{reader.name}, file {number}: {seconds:.0f} s", flush=True)
    return counts


def main() -> int:
    config = parse_config(Config, __doc__)
    failed = False
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        for reader in make_readers(folder):
            if config.reader not in ("all", reader.name):
                continue
            start = time.perf_counter()
            counts = fuzz(reader, config.files, config.seed, folder)
            failed |= bool(counts["bugs"] or counts["slow"] or counts["more than one line"])
            print(
                f"{reader.name:<12}{config.files} files: {counts['accepted']} accepted, "
                f"{counts['refused']} refused, {counts['bugs']} bugs, {counts['slow']} slow, "
                f"{counts['more than one line']} of several lines, "
                f"{time.perf_counter() - start:.0f} s",
                flush=True,
            )
    return int(failed)


if __name__ == "__main__":
    run_script(main)
