"""What "auto" and "none" in a training's Config mean here, so that its run is on record."""

import dataclasses
import math
from typing import Any, TypeVar

import torch

from models import SIZES
from models.blocks import SCALE
from models.checkpoint import load_network
from models.inference import pick_precision
from training.distributed import Team
from training.run import MOST_STEPS
from training.sources import find_data_root, find_list, find_validation_folder

C = TypeVar("C")

GPU_BATCH = 16  # samples that a GPU takes at once: one alone waits for the launch of its kernels
LARGEST_MAP = 2**31 - 1  # numbers in a map; beyond it 32-bit indices of CUDA kernels overflow
PAPER_SAMPLES = 50 * 2647  # the paper's schedule: 50 epochs of 2,647 clips


NETWORK = ("size", "coupling", "midpoint_flow", "global_skip", "skip_refinement", "offset_limit")


def settle_network(config: C, given: set[str]) -> C:
    """Put the options of the network in a Config's weights on record in place of its own.

    Arguments:
        config: with weights.
        given: names of the constants that the command line itself gives.

    Raises:
        ValueError: names those of them that the weights do not have.
    """
    network, _ = load_network(config.weights)
    options = network.options
    sizes = [name for name, size in SIZES.items() if size.items() <= options.items()]
    # Weights of no named size keep "auto".
    found = options | {"size": sizes[0] if sizes else "auto"}
    wrong = [
        f"{name} is {getattr(config, name)}, in the weights {found[name]}"
        for name in NETWORK
        if name in given and getattr(config, name) not in ("auto", found[name])
    ]
    if wrong:
        raise ValueError(f"{config.weights} is of another network: {'; '.join(wrong)}")
    return dataclasses.replace(config, **{name: found[name] for name in NETWORK})


def check_maps(config: Any, part: int) -> None:
    """Refuse parts of a batch whose largest map has too many numbers.

    Arguments:
        config: of the training.
        part: samples that a process takes at once.

    Raises:
        ValueError: says how many samples a part may have.
    """
    if config.size in SIZES:
        options = SIZES[config.size]
    else:  # weights of a size without a name
        options = load_network(config.weights)[0].options
    direct = options.get("enlargement") == "direct"
    # At full resolution there are all channels, or just the colours of the frames.
    width = max(3, options["channels"] / SCALE**2) if direct else options["channels"]
    sample = int((2 * config.given_frames - 1) * width * (SCALE * config.patch) ** 2)
    if part * sample > LARGEST_MAP:
        most = max(LARGEST_MAP // sample, 1)
        raise ValueError(
            f"{part} samples at once make maps of {part * sample} numbers, and kernels count to "
            f"{LARGEST_MAP}; lower --batch or raise --accumulate, so that each part has at most "
            f"{most}"
        )


def settle(config: C, device: torch.device, team: Team) -> C:
    """Replace "auto" and "none" by what they mean on this machine, so that a run is on record."""
    gpu = device.type == "cuda"
    batch = config.batch or max(GPU_BATCH if gpu else 1, config.accumulate) * team.world
    if batch % (team.world * config.accumulate):
        raise ValueError(
            f"batch is {batch}; it must be a multiple of {team.world * config.accumulate}, for "
            f"{team.world} process(es) that take {config.accumulate} part(s) each"
        )
    steps = config.steps or (math.ceil(PAPER_SAMPLES / batch) if gpu else 300)
    if config.minutes and not config.steps:
        steps = MOST_STEPS
    every = config.validate_every
    if not config.minutes:
        every = every or min(max(steps // 10, 1), 5000)
    size = config.size
    if size == "auto" and config.weights is None:
        size = "mstt" if gpu else "fast"
    part = batch // (team.world * config.accumulate)
    check_maps(dataclasses.replace(config, size=size), part)
    workers = config.workers
    if workers is None:
        cores = torch.multiprocessing.cpu_count() // team.local_world
        workers = min(max(cores, 1), 16) if gpu else 1
    root = find_data_root(config)
    native = pick_precision(device, config.precision) == torch.bfloat16
    return dataclasses.replace(
        config,
        data_root=root,
        list_file=config.list_file or find_list(root),
        validation=find_validation_folder(config),
        batch=batch,
        steps=steps,
        validate_every=every,
        size=size,
        workers=workers,
        precision="bfloat16" if native else "float32",
    )
