"""What a training learns from and is validated on, as its Config asks for it."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from torch.utils.data import Dataset

from data.animation import Animation, StillsDataset
from data.clips import Clip, degraded, find_clips
from data.degrade import CODEC_RANGES, DRAWS
from data.lists import FRAMES
from data.scenes.make import make_scenes
from data.septuplets import LARGEST_PATCH, SeptupletDataset
from media.codec import check_available
from models.inference import check_flow
from utils.resize import SCALE
from utils.team import Team
from utils.text import one_line

SEPTUPLETS = Path("trainset/189_vime7")  # looked for first
TESTSET = Path("testset")
SCENES = Path("trainset/scenes")  # where the built-in scenes are kept


def find_data_root(config: Any) -> str | None:
    """The folder of septuplets that a Config means."""
    if config.data_root != "auto":
        return config.data_root
    if config.stills:
        return None
    if SEPTUPLETS.is_dir():
        return str(SEPTUPLETS)
    if config.clips:
        return None
    print(
        f"NO TRAINING DATA in {SEPTUPLETS}: training on the built-in scenes, which are drawn, not "
        "filmed.\nThe result shows that everything works; it is of no use for real video. Give "
        "--data-root, --clips or --stills.",
        flush=True,
    )
    return str(_scenes())


def _scenes() -> Path:
    """The folder of the built-in scenes, drawn when they are opened, see `_draw`."""
    if SCENES.exists():
        make_scenes(SCENES)
    return SCENES


def find_validation_folder(config: Any) -> str:
    """The folder of test clips that a Config means."""
    if config.validation != "auto":
        return config.validation
    if TESTSET.is_dir():
        print(
            f"validating on {TESTSET}/: the best weights are chosen on these clips, so test.py on "
            "them will look too good; use --validation for other clips",
            flush=True,
        )
        return str(TESTSET)
    folder = _scenes() / "test"
    print(f"no {TESTSET}/ here: validating on the built-in scenes in {folder}", flush=True)
    return str(folder)


class Data(NamedTuple):
    """What a training learns from and is validated on, opened and checked."""

    sources: list[tuple[Dataset, float]]  # data sets and their weights
    validation: list[Clip]  # never trained on
    patch: int  # LR pixels, side of a training crop
    fingerprint: dict[str, str]  # see the function


def open_data(config: Any, state: dict[str, Any] | None, team: Team) -> Data:
    """Open what a Config asks for, in every process of a team.

    Raises: ValueError: no data, damaged data, or others than those of the run that is resumed.
    """
    _draw(config.data_root, team)
    sources, patch = open_sources(config)
    _draw(config.validation, team)
    validation = degraded(find_clips(config.validation), config.degrade)
    for height, width in {clip.size for clip in validation}:
        check_flow(height // SCALE, width // SCALE, config.evaluation_flow)
    found = fingerprint(sources, validation)
    if config.degrade != "none":
        found["degradation"] = DRAWS[config.degrade]
    check_same_data(team.gather(found), state)
    return Data(sources, validation, patch, found)


def open_sources(config: Any) -> tuple[list[tuple[Dataset, float]], int]:
    """The training data sets with their weights, and the patch that all of them have room for."""
    most = FRAMES // 2 + 1
    if config.given_frames > most and (config.data_root or config.clips):
        raise ValueError(
            f"given_frames is {config.given_frames}; a septuplet has {most} (--data-root none "
            "--stills FOLDER makes longer clips)"
        )
    if config.degrade == "real":
        for codec in CODEC_RANGES:
            check_available(codec)
    names = ("flow_method", "seed", "given_frames", "degrade")
    common = {name: getattr(config, name) for name in names}
    cache = Path(config.flow_cache)
    sources: list[tuple[Dataset, float]] = [
        (SeptupletDataset(folder, list_file, config.patch, flow_cache=cache, **common), weight)
        for folder, list_file, weight in (
            (config.data_root, config.list_file, config.data_weight),
            (config.clips, None, config.clips_weight),
        )
        if folder is not None
    ]
    patches = [septuplets.patch for septuplets, _ in sources]
    patch = config.patch or min(patches, default=LARGEST_PATCH)
    for septuplets, _ in sources:
        septuplets.patch = patch
    if patch < LARGEST_PATCH and config.patch is None:
        print(f"patch {patch}: some septuplets have no room for {LARGEST_PATCH}", flush=True)
    if config.stills is not None:
        look = Animation(
            blur_min=config.blur_min, blur_max=config.blur_max, fast_share=config.fast_share
        )
        stills = StillsDataset(config.stills, patch, animation=look, **common)
        sources.append((stills, config.stills_weight))
    if not sources:
        raise ValueError("no training data: data_root, clips and stills are all none")
    return sources, patch


def _draw(folder: str | None, team: Team) -> None:
    """Make the built-in scenes where a folder is theirs and they are not there.

    The first process does, then the others on machines with disks of their own.
    """

    def draw() -> None:
        if folder in (str(SCENES), str(SCENES / "test")) and not SCENES.exists():
            make_scenes(SCENES)

    team.from_first(draw)
    draw()


def fingerprint(sources: list[tuple[Dataset, float]], validation: list[Clip]) -> dict[str, str]:
    """What a run sees, in one line for each of its data sets: names and sizes, not pixels."""
    found = {
        f"source {number}": _describe(zip(dataset.names, dataset.sizes, strict=True))
        for number, (dataset, _) in enumerate(sources, start=1)
    }
    found["validation"] = _describe((clip.name, len(clip.truth)) for clip in validation)
    sizes = ((clip.name, (*clip.size, clip.given is not None)) for clip in validation)
    return found | {"sizes of the validation clips": _describe(sizes)}


def _describe(entries: Iterable[tuple[str, Any]]) -> str:
    lines = [repr(entry) for entry in entries]
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    return f"{len(lines)} with names {digest[:12]}"


def check_same_data(everyone: list[dict[str, str]], state: dict[str, Any] | None) -> None:
    """Refuse, by a ValueError, data that processes, or a run and its continuation, see differently.

    everyone: the fingerprint of every process's data; state: of a run that is resumed.
    """
    first = everyone[0]
    for rank, other in enumerate(everyone):
        if other != first:
            raise ValueError(
                f"the processes see different data: {_differences(first, other)} in process "
                f"{rank}. Give all of them the same files"
            )
    if state is None:
        return
    recorded = state.get("data")
    if not isinstance(recorded, dict):
        raise ValueError(f"the checkpoint's data is a {type(recorded).__name__}")
    if recorded != first:
        raise ValueError(
            f"the data are not those of the run: {_differences(recorded, first)}. Restore them, "
            "or start a new run with --weights"
        )


def _differences(first: dict[Any, Any], second: dict[Any, Any]) -> str:
    """What differs between two fingerprints, the first of which may come from any file."""
    names = [name for name in first | second if first.get(name) != second.get(name)]
    return one_line(
        "; ".join(f"{name} was {first.get(name)}, is {second.get(name)}" for name in names)
    )
