"""From the Config of the command line to one with nothing left to decide, which is on record."""

import dataclasses
import math
from functools import partial
from typing import Any, TypeVar

import torch

from data.lists import find_list
from data.sampler import BLOCK, shares_of
from models import SIZES
from models.blocks import SCALE
from models.checkpoint import load_network
from models.inference import ENHANCED, WINDOW, pick_device, pick_precision
from models.weights import trained_flow, trained_window
from training.loop import fitting_warmup
from training.run import MOST_STEPS
from training.sources import find_data_root, find_validation_folder
from utils.config import check_kinds, given_fields
from utils.machine import usable_cores
from utils.team import Team
from utils.text import one_line

C = TypeVar("C")
GPU_BATCH = 16  # samples that a GPU takes at once: one alone waits for the launch of its kernels
LARGEST_MAP = 2**31 - 1  # numbers in a map; beyond it 32-bit indices of CUDA kernels overflow
RATES_FROM_NOTHING = {"muon": {"rate": 8e-4, "muon_rate": 1e-2}, "adam": {"rate": 8e-4}}
PAPER_SAMPLES = 50 * 2647  # the paper's schedule: 50 epochs of 2,647 clips

# Constants that may differ between a run and its continuation. All but `steps` and
# `minutes` leave alone what it learns; these move the end of its schedule.
MAY_CHANGE = {"resume", "run", "device", "workers", "patience", "accumulate", "compile"}
MAY_CHANGE |= {"skip_nonfinite", "validate_every", "log_every", "save_minutes", "steps", "minutes"}
MAY_CHANGE |= {"flow_cache"}
# They may have been moved; names and sizes of what is in them are compared by `open_data`.
MAY_CHANGE |= {"data_root", "list_file", "clips", "stills", "validation"}

DECIDED = {"list_file", "patch", "batch"}  # of the others, those that "none" leaves to the machine

NETWORK = ("size", "coupling", "midpoint_flow", "global_skip", "skip_refinement")
NETWORK += ("offset_limit", "frame_fusion", "propagation_blocks")


def resolve(config: C, state: dict[str, Any] | None, team: Team) -> tuple[C, torch.device]:
    """Decide all that the command line leaves open, but the patch, which is left to the data.

    A resumed run keeps its own constants, weights bring the options of their network, and the rest
    of "auto" and "none" depends on the machine. The first process of the team decides for all.

    Returns: the Config, and the device of this process.
    Raises: ValueError: constants that contradict the run or the weights, or that the machine
        cannot have.
    """
    given = given_fields(type(config))
    if state:
        config = of_resumed_run(config, given, state["config"])
    elif config.weights is not None:
        config = team.from_first(partial(with_network_of_weights, config, given))
    device = team.own_device(pick_device(config.device))
    config = team.from_first(partial(fit_machine, config, device, team))
    for line in without_effect(config, given):
        print(line, flush=True)
    rates = RATES_FROM_NOTHING[config.optimiser]
    is_usual = all(getattr(config, name) == rate for name, rate in rates.items())
    if config.weights is not None and not state and is_usual:
        listed = " and ".join(f"{name} is {rate:g}" for name, rate in rates.items())
        told = "as for a start without weights; trained ones want about a tenth"
        print(f"{listed}, {told}", flush=True)
    check_sampling_weights(config)
    return config, device


def of_resumed_run(config: C, given: set[str], recorded: dict[str, Any]) -> C:
    """The constants of a run, and those that its continuation may have others of.

    What the command line leaves to the machine stands for what it meant when the run began: a
    launcher that restarts a run repeats its command.

    config, given: of the continuation, the names that its command line gives; recorded: of the run.

    Raises: ValueError: some would make another run of it, or are recorded as what they cannot be.
    """
    check_kinds(type(config), recorded)
    recorded = recorded | found_anew(recorded)
    if config.minutes and not recorded.get("minutes"):  # which now limit the run, not its steps
        recorded["steps"] = None
    now = dataclasses.asdict(config)
    kept = {
        name: recorded[name]
        for name in now.keys() & recorded.keys()
        if name not in given
        or (now[name] == "auto" and name not in ("run", "device"))
        or (now[name] is None and name in DECIDED)
        or (now[name] == 0 and name == "evaluation_window")
    }
    root = (now | kept)["data_root"]
    if root != recorded.get("data_root") and config.list_file is None:
        kept["list_file"] = None  # that of the new place
    ours = [
        f"{name} {one_line(str(kept[name]))}"
        for name in now
        if name in kept.keys() - given - MAY_CHANGE - {"evaluation_window"}
        and now[name] not in ("auto", None, kept[name])
    ]
    if ours:
        print(f"taken from the run, not from the constants: {', '.join(ours)}", flush=True)
    config = dataclasses.replace(config, **kept)
    check_unchanged(config, recorded)
    return config


def found_anew(recorded: dict[str, Any]) -> dict[str, None]:
    """The recorded constants of a schedule that "none" was replaced by, and is again."""
    steps, minutes = recorded.get("steps"), recorded.get("minutes")
    if minutes:
        return {"steps": None} if steps == MOST_STEPS else {}
    is_usual = steps and recorded.get("validate_every") == usual_interval(steps)
    return {"validate_every": None} if is_usual else {}


def usual_interval(steps: int) -> int:
    """How many steps apart the validations of a run are, where nothing else is asked for."""
    return min(max(steps // 10, 1), 5000)


def check_unchanged(config: Any, recorded: dict[str, Any]) -> None:
    """Refuse, by a ValueError that names them, constants that would make another run of it."""
    changed = [
        f"{name} was {one_line(str(recorded[name]))}, is {now}"
        for name, now in dataclasses.asdict(config).items()
        if name in recorded and name not in MAY_CHANGE and now != recorded[name]
    ]
    if changed:
        raise ValueError(
            f"a resumed run keeps its settings, but {'; '.join(changed)}. To train on with "
            "others, start a new run with --weights"
        )


def with_network_of_weights(config: C, given: set[str]) -> C:
    """The Config with the network options of its weights, and what they are evaluated with.

    given: names of the constants that the command line itself gives; a ValueError names those of
    them that the weights have otherwise. Of the others a line tells.
    """
    network, information = load_network(config.weights)
    options = network.options
    sizes = [name for name, size in SIZES.items() if size.items() <= options.items()]
    # Weights of no named size keep "auto".
    found = options | {"size": sizes[0] if sizes else "auto"}
    # It can be added to any weights, since it starts at doing nothing.
    found["frame_fusion"] |= config.frame_fusion
    others = [name for name in NETWORK if getattr(config, name) not in ("auto", found[name])]
    wrong = [
        f"{name} is {getattr(config, name)}, in the weights {found[name]}"
        for name in others
        if name in given
    ]
    if wrong:
        raise ValueError(f"{config.weights} has another network: {'; '.join(wrong)}")
    if others:
        theirs = ", ".join(f"{name} {found[name]}" for name in others)
        print(f"taken from the weights, not from the constants: {theirs}", flush=True)
    flow = config.evaluation_flow
    if flow == "auto" and trained_flow(information) == ENHANCED:  # no flow to be trained with
        flow = ENHANCED
    window = config.evaluation_window
    if not window and network.propagation is not None:
        window = max(trained_window(information), config.given_frames)
    found = {name: found[name] for name in NETWORK}
    return dataclasses.replace(config, evaluation_flow=flow, evaluation_window=window, **found)


def without_effect(config: Any, given: set[str]) -> list[str]:
    """A line for each given flag that changes nothing, since another is missing."""
    needs = (
        (config.data_root, "--data-root", ("data_weight",)),
        (config.clips, "--clips", ("clips_weight",)),
        (config.stills, "--stills", ("stills_weight", "blur_min", "blur_max", "fast_share")),
        (config.optimiser == "muon", "--optimiser muon", ("muon_rate",)),
        (config.given_frames > 1, "--given-frames 2 or more", ("moving_weight", "alignment_share")),
    )
    return [
        f"--{name.replace('_', '-')} has no effect without {missing}"
        for is_there, missing, names in needs
        for name in names
        if name in given and not is_there
    ]


def check_sampling_weights(config: Any) -> None:
    """Refuse, by a ValueError that names them, weights that leave a source without samples."""
    folders = {"data": config.data_root, "clips": config.clips, "stills": config.stills}
    names = [f"{source}_weight" for source, folder in folders.items() if folder is not None]
    weights = {name: getattr(config, name) for name in names}
    if weights and shares_of(list(weights.values())).min() < 1:
        told = ", ".join(f"{name} is {weight:g}" for name, weight in weights.items())
        raise ValueError(f"{told}; none may be below 1/{BLOCK} of their sum")


def check_maps(config: Any, options: dict[str, Any], part: int) -> None:
    """Refuse, by a ValueError, samples at once, `part`, whose largest map has too many numbers.

    options: of the network.
    """
    direct = options.get("enlargement") == "direct"
    # At full resolution there are all channels, or just the colours of the frames.
    width = max(3, options["channels"] / SCALE**2) if direct else options["channels"]
    numbers = (2 * config.given_frames - 1) * width
    if config.propagation_blocks:  # of which given frames have all channels
        numbers = max(numbers, config.given_frames * options["channels"])
    sample = int(numbers * (SCALE * config.patch) ** 2)
    if part * sample > LARGEST_MAP:
        most = max(LARGEST_MAP // sample, 1)
        raise ValueError(
            f"{part} samples at once make maps of {part * sample} numbers, and kernels count to "
            f"{LARGEST_MAP}; lower --batch or raise --accumulate, so that each part has at most "
            f"{most}"
        )


def fit_machine(config: C, device: torch.device, team: Team) -> C:
    """Replace "auto" and "none" by what they mean on this machine, so that a run is on record.

    Raises: ValueError: a batch that the processes cannot share, a list of septuplets that are not
        used, or a precision that the device lacks.
    """
    gpu = device.type == "cuda"
    parts = math.ceil((GPU_BATCH if gpu else 1) / config.accumulate)
    batch = config.batch or parts * config.accumulate * team.world
    if batch % (team.world * config.accumulate):
        raise ValueError(
            f"batch is {batch}; it must be a multiple of {team.world * config.accumulate}, for "
            f"{team.world} process(es) that take {config.accumulate} part(s) each"
        )
    steps = config.steps or (math.ceil(PAPER_SAMPLES / batch) if gpu else 300)
    if config.minutes and not config.steps:
        steps = MOST_STEPS
    every = config.validate_every or (None if config.minutes else usual_interval(steps))
    size = config.size
    if size == "auto" and config.weights is None:
        size = "mstt" if gpu else "fast"
    root = find_data_root(config)
    if config.list_file and not root:
        raise ValueError(
            f"list_file is {config.list_file}; it names septuplets of --data-root, which is none"
        )
    list_file = config.list_file or (root and find_list(root))
    workers = config.workers
    if workers is None:
        cores = usable_cores() // team.local_world
        workers = min(max(cores, 1), 16) if gpu else 1
    if (warmup := fitting_warmup(config.warmup, steps)) != config.warmup:
        print(f"warmup is {config.warmup} of {steps} steps; it takes {warmup} of them", flush=True)
    native = pick_precision(device) == torch.bfloat16
    if config.precision == "bfloat16" and not native:
        raise ValueError(
            f"precision is bfloat16, which this {device.type} is not built for; a new run can "
            "begin in float32, also with --weights"
        )
    auto_flow = config.evaluation_flow == "auto"
    precision = config.precision
    if precision == "auto":
        precision = "bfloat16" if native else "float32"
    return dataclasses.replace(
        config,
        size=size,
        data_root=root,
        list_file=list_file and str(list_file),
        validation=find_validation_folder(config),
        evaluation_flow=config.flow_method if auto_flow else config.evaluation_flow,
        evaluation_window=config.evaluation_window or max(config.given_frames, WINDOW),
        batch=batch,
        steps=steps,
        validate_every=every,
        workers=workers,
        precision=precision,
    )
