"""Feed mutated files to everything that reads a stranger's file, and count what happens.

    python -m benchmarks.fuzz 2>/dev/null           10,000 files for each reader
    python -m benchmarks.fuzz --files 300 --seed 5  fewer, others
    python -m benchmarks.fuzz --reader tiff         one reader, by the first word of its line

Readers: the list parser, the image loader (PNG and JPEG), the loader of stills, the readers of
frames, TIFF and video (with PyAV) that enhance.py has, the checkpoint loader for .pt, the restoring
of a training from one, and the loader of .safetensors with its JSON.
Files are mutated in their bytes; half of the checkpoints, headers and descriptions are whole files
of mutated values instead: entries dropped, renamed or of another kind, tensors that are nested,
sparse, of no storage or claim more than they hold. A reader may accept a file or refuse it with
ValueError or OSError, which the scripts print as one line; any other exception is a bug and is
counted as such, and so is a refusal of several lines, or a file that takes more than SLOW seconds
or LARGE bytes of memory. A crash of the interpreter ends the program. The image decoders complain
on stderr by themselves.
Prints one line per reader and ends with status 1 if there was a bug.
"""

import contextlib
import itertools
import json
import random
import shutil
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.mutations import mutate, vary_checkpoint, vary_header, vary_json
from benchmarks.timing import process_memory
from data.lists import read_list
from data.septuplets import SeptupletDataset
from data.stills import read_still
from media.decoder import import_av
from media.folder import write_image_file
from media.images import read_image, write_image
from media.open import open_source
from media.tiff import import_rasterio, write_tiff
from media.video_sink import VideoSink
from models import MSTT
from models.checkpoint import load_network, network_from, save_network, save_torch_file
from models.weights import trained_flow, trained_window
from training.loop import Ema
from training.optimiser import Optimiser
from training.run import Progress, read_state, restore, training_state
from training.settings import check_unchanged
from utils.config import parse_config, run_script
from utils.text import check_choice

SLOW = 5.0  # seconds of the processor that no file of a few kilobytes may take
RATES = (8e-4, 1e-2, 0.1)  # of the optimiser, see training.optimiser
LARGE = 2**30  # bytes of memory that none may take beyond what was taken before


@dataclass(frozen=True)
class Config:
    files: int = 10_000  # mutated files for each reader
    seed: int = 1  # of the mutations
    reader: str = "all"  # one of the readers by its name


@dataclass(frozen=True)
class Reader:
    """What is fuzzed: a name, the good files it starts from, and the function that reads one.

    Where `vary` is given, it makes a whole file of mutated values.
    """

    name: str
    seeds: list[bytes]
    suffix: str
    read: Callable[[Path], object]
    vary: Callable[[random.Random], bytes] | None = None


def make_readers(folder: Path) -> Iterator[Reader]:
    """The readers, with good files made in the folder."""
    yield from make_picture_readers(folder)
    yield from make_footage_readers(folder)
    yield from make_checkpoint_readers(folder)


def make_picture_readers(folder: Path) -> Iterator[Reader]:
    """The readers of lists and pictures."""
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
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
        for frame in itertools.chain.from_iterable(map(dataset.paths, range(len(dataset)))):
            assert frame.resolve().is_relative_to(root), frame
        return dataset

    yield Reader("list", lists, ".txt", read_a_list)
    yield Reader("image", pictures, ".png", read_image)
    yield Reader("still", pictures, ".png", read_still)


def make_footage_readers(folder: Path) -> Iterator[Reader]:
    """The readers of what enhance.py takes: pages of a TIFF, and a video where there is PyAV."""
    image = np.random.default_rng(0).integers(0, 256, (3, 32, 48, 3), dtype=np.uint8)
    write_tiff(folder / "pages.tif", image, 3)
    rasterio = import_rasterio()
    place = {"crs": "EPSG:32650", "transform": rasterio.Affine(0.9, 0, 5e5, 0, -0.9, 4e6)}
    shape = {"height": 32, "width": 48, "count": 3, "dtype": "uint16", "nodata": 0}
    with rasterio.open(folder / "geo.tif", "w", "GTiff", **shape, **place) as dataset:
        dataset.write(image[0].transpose(2, 0, 1).astype(np.uint16))
        dataset.update_tags(ACQUIRED="2020-01-01")
    files = [(folder / name).read_bytes() for name in ("pages.tif", "geo.tif")]

    def read_frames(path: Path) -> object:
        other = path.parent / f"frames{path.suffix}"  # of one kind
        other.mkdir(exist_ok=True)
        for number in range(2):
            shutil.copy(path, other / f"{number}{path.suffix}")
        source = open_source(path if path.suffix == ".mp4" else other)
        return [source.read(index) for index in range(min(source.count, 4))]

    yield Reader("tiff", files, ".tif", read_frames)
    pictures = []
    for suffix in (".png", ".jpg", ".bmp"):
        write_image_file(folder / f"a{suffix}", image[0])
        pictures.append((folder / f"a{suffix}").read_bytes())
    yield Reader("frames", pictures, ".png", read_frames)
    with contextlib.suppress(ValueError):
        import_av()
        videos = []
        for suffix in (".mp4", ".avi", ".mkv"):
            times = [Fraction(number, 25) for number in range(9)]
            sink = VideoSink(folder / "pieces", 32, 48, times, suffix=suffix)
            sink.write(0, image.repeat(3, axis=0))
            sink.join(folder / f"video{suffix}")
            videos.append((folder / f"video{suffix}").read_bytes())
        yield Reader("video", videos, ".mp4", read_frames)


def no_gradient_step(network: MSTT, optimiser: Optimiser) -> None:
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimiser.step()


def make_checkpoint_readers(folder: Path) -> Iterator[Reader]:
    """The readers of checkpoints and of weights with their description."""
    network = MSTT(8, 2, 1, 1)
    optimiser = Optimiser(network, "muon", *RATES)
    no_gradient_step(network, optimiser)
    config = Config()
    state = training_state(config, network, Ema(network, 0.9), optimiser, Progress(3, 30.0))
    state["config"] |= {"flow_method": "dis"}
    save_torch_file(folder / "last.pt", state)
    released = {
        "conv_first.weight": torch.zeros(8, 3, 3, 3),
        "MSD_align.dcnpack.conv_offset_mask.weight": torch.zeros(54, 8, 3, 3),
    }
    torch.save(released | {"a": 1}, folder / "released.pth")
    old = state | {"network": {}, "ema": {}}
    torch.save(old, folder / "old.pt", _use_new_zipfile_serialization=False)
    checkpoints = [(folder / name).read_bytes() for name in ("last.pt", "released.pth", "old.pt")]

    def read_checkpoint(path: Path) -> object:
        with contextlib.suppress(ValueError, OSError):
            read_state(path)
        network, information = load_network(path)
        return network, trained_flow(information), trained_window(information)

    def read_training(path: Path) -> object:
        """What main.py does to resume, and a step."""
        state = read_state(path)
        check_unchanged(config, state["config"])
        network = network_from(path, state["network_options"], state["network"])
        optimiser = Optimiser(network, "muon", *RATES)
        ema = Ema(network, 0.9)
        step = restore(state, ema, optimiser).step
        no_gradient_step(network, optimiser)
        ema.update(network, step + 1)
        return training_state(config, network, ema, optimiser, Progress(step + 1, 30.0))

    vary = partial(vary_checkpoint, [state, state, released])
    yield Reader("checkpoint", checkpoints, ".pt", read_checkpoint, vary)
    vary = partial(vary_checkpoint, [state])
    yield Reader("restore", checkpoints[:1], ".pt", read_training, vary)

    save_network(folder / "net.safetensors", network, {"recipe": "none", "flow_method": "dis"})
    weights = (folder / "net.safetensors").read_bytes()
    # Without the hash of the weights, by which every other file would be refused at once.
    described = json.loads((folder / "net.json").read_text())
    del described["sha256"]
    text = json.dumps(described).encode()

    def read_weights(path: Path) -> object:
        path.with_suffix(".json").write_bytes(text)
        return load_network(path)

    def read_description(path: Path) -> object:
        path.with_suffix(".safetensors").write_bytes(weights)
        network, information = load_network(path.with_suffix(".safetensors"))
        return network, trained_flow(information), trained_window(information)

    vary = partial(vary_header, weights)
    yield Reader("safetensors", [weights], ".safetensors", read_weights, vary)
    described |= {"config": {"flow_method": "dis"}}
    yield Reader("description", [text], ".json", read_description, partial(vary_json, described))


def fuzz(reader: Reader, files: int, seed: int, folder: Path) -> Counter:
    """Read mutated files; returns how many were accepted, refused, slow, large, or met a bug."""
    rng, counts = random.Random(f"{reader.name} {seed}"), Counter()
    path = folder / f"mutated{reader.suffix}"

    def report(number: int, kind: str, text: str) -> None:
        counts[kind] += 1
        if kind != "bugs" or counts[kind] <= 3:
            print(f"{reader.name}, file {number}: {text}", flush=True)

    for number in range(files):
        if reader.vary and rng.random() < 0.5:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of PyTorch, about kinds of tensors to come or go
                content = reader.vary(rng)
        else:
            content = mutate(rng.choice(reader.seeds), rng)
        path.write_bytes(content)
        start, peak = time.process_time(), process_memory("VmHWM")
        try:
            reader.read(path)
        except (ValueError, OSError) as error:
            counts["refused"] += 1
            if "\n" in str(error) and reader.name != "list":
                report(number, "more than one line", str(error))
        except Exception:
            report(number, "bugs", "\n" + traceback.format_exc()[:3000])
        else:
            counts["accepted"] += 1
        seconds = time.process_time() - start
        if seconds > SLOW:
            report(number, "slow", f"{seconds:.0f} s")
        if (now := process_memory("VmHWM")) - peak > LARGE:
            report(number, "large", f"memory grew to {now}")
    return counts


def main() -> int:
    config = parse_config(Config, __doc__)
    failed, known = False, ["all"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        for reader in make_readers(folder):
            known.append(reader.name)
            if config.reader not in ("all", reader.name):
                continue
            start = time.perf_counter()
            counts = fuzz(reader, config.files, config.seed, folder)
            faults = ("bugs", "slow", "large", "more than one line")
            failed |= any(counts[fault] for fault in faults)
            said = [f"{counts[kind]} {kind}" for kind in ("accepted", "refused", *faults)]
            said = ", ".join([*said, f"{time.perf_counter() - start:.0f} s"])
            print(f"{reader.name:<12}{config.files} files: {said}", flush=True)
    check_choice("reader", config.reader, known)
    return int(failed)


if __name__ == "__main__":
    run_script(main)
