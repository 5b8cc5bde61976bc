"""What a training learns from and is validated on, as its Config asks for it."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from data.animation import Animation, StillsDataset
from data.clips import Clip, degraded, find_clips
from data.degrade import CODEC_RANGES
from data.scenes.make import make_scenes
from data.septuplets import LARGEST_PATCH, SeptupletDataset, fitting_patch, smallest_side
from media.codec import check_available
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
    print(
        f"NO TRAINING DATA in {SEPTUPLETS}: training on the built-in scenes, which are drawn, not "
        "filmed.\nThe result shows that everything works; it is of no use for real video. Give "
        "--data-root or --stills.",
        flush=True,
    )
    return str(_scenes())


def _scenes() -> Path:
    """The folder of the built-in scenes; they are drawn when they are opened, see `_draw`.

    Raises:
        ValueError: something else is there.
    """
    if SCENES.exists():
        make_scenes(SCENES)
    return SCENES


def find_patch(config: Any) -> int:
    """The side of a training crop that a Config means: what the smallest septuplets have room for.

    Arguments:
        config: its `data_root` and `list_file` decided already.
    """
    if config.patch is not None:
        return config.patch
    folders = [(config.data_root, config.list_file), (config.clips, None)]
    found = [smallest_side(*folder) for folder in folders if folder[0] and Path(folder[0]).is_dir()]
    side, (width, height) = min(filter(None, found), default=(LARGEST_PATCH, (0, 0)))
    patch = fitting_patch(side) or LARGEST_PATCH
    if patch < LARGEST_PATCH:
        print(
            f"patch {patch}: frames of {width}x{height} have no room for {LARGEST_PATCH}",
            flush=True,
        )
    return patch


def find_validation_folder(config: Any) -> str:
    """The folder of test clips that a Config means."""
    if config.validation != "auto":
        return config.validation
    if TESTSET.is_dir():
        return str(TESTSET)
    folder = _scenes() / "test"
    print(f"no {TESTSET}/ here: validating on the built-in scenes in {folder}", flush=True)
    return str(folder)


def open_sources(config: Any) -> list[tuple[Dataset, float]]:
    """The training data sets and their weights. All problems of a set are reported here."""
    _draw(config.data_root)
    degrade = config.degrade == "real"
    if degrade:
        for codec in CODEC_RANGES:
            check_available(codec)
    sources: list[tuple[Dataset, float]] = []
    for folder, list_file, weight in (
        (config.data_root, config.list_file, config.data_weight),
        (config.clips, None, config.clips_weight),
    ):
        if folder is not None:
            septuplets = SeptupletDataset(
                folder,
                list_file=list_file,
                patch=config.patch,
                flow_method=config.flow_method,
                flow_cache=Path(config.flow_cache),
                seed=config.seed,
                given_frames=config.given_frames,
                degrade=degrade,
            )
            sources.append((septuplets, weight))
    if config.stills is not None:
        look = Animation(
            blur_min=config.blur_min, blur_max=config.blur_max, fast_share=config.fast_share
        )
        stills = StillsDataset(
            config.stills,
            patch=config.patch,
            flow_method=config.flow_method,
            seed=config.seed,
            animation=look,
            given_frames=config.given_frames,
            degrade=degrade,
        )
        sources.append((stills, config.stills_weight))
    if not sources:
        raise ValueError("no training data: data_root, clips and stills are all none")
    return sources


def find_validation(config: Any) -> list[Clip]:
    """The clips that the network is validated on; never trained on."""
    _draw(config.validation)
    return degraded(find_clips(config.validation), config.degrade)


def _draw(folder: str | None) -> None:
    """Make the built-in scenes where a folder is theirs and they are not there."""
    if folder in (str(SCENES), str(SCENES / "test")) and not SCENES.exists():
        make_scenes(SCENES)


def fingerprint(sources: list[tuple[Dataset, float]], validation: list[Clip]) -> dict[str, str]:
    """What a run sees, in one line for each of its data sets: names and sizes, not pixels."""
    found = {}
    for number, (dataset, _) in enumerate(sources, start=1):
        if isinstance(dataset, StillsDataset):
            names = [path.relative_to(dataset.root).as_posix() for path in dataset.stills.paths]
            sizes = dataset.stills.shapes
        else:
            names, sizes = dataset.names, dataset.sizes
        found[f"source {number}"] = _describe(zip(names, sizes, strict=True))
    found["validation"] = _describe((clip.name, len(clip.truth)) for clip in validation)
    return found


def _describe(entries: Iterable[tuple[str, Any]]) -> str:
    lines = [repr(entry) for entry in entries]
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    return f"{len(lines)} with names {digest[:12]}"


def check_same_data(everyone: list[dict[str, str]], state: dict[str, Any] | None) -> None:
    """Refuse data that processes of a team, or a run and its continuation, see differently.

    Arguments:
        everyone: the fingerprint of every process's data.
        state: the state of a run that is resumed, which holds its own.

    Raises:
        ValueError: names what differs.
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
    if recorded is None:
        print("the run does not say which data it began with; they are not compared", flush=True)
    elif not isinstance(recorded, dict):
        raise ValueError(f"the checkpoint's data is a {type(recorded).__name__}")
    elif recorded != first:
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
