"""What a training learns from and is validated on, as its Config asks for it."""

from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from data.animation import Animation, StillsDataset
from data.clips import Clip, find_clips
from data.scenes import make_scenes
from data.septuplets import SeptupletDataset

SCENES = Path("trainset/scenes")  # where the built-in scenes are kept


def open_sources(config: Any) -> list[tuple[Dataset, float]]:
    """The training data sets and their weights. All problems of a set are reported here."""
    root = config.data_root
    if root == "auto":
        root = None if config.stills else "trainset/189_vime7"
        if root and not Path(root).is_dir():
            print(
                f"NO TRAINING DATA in {root}: training on the built-in scenes, which are drawn, "
                "not filmed.\nThe result shows that everything works; it is no network for real "
                "video. Give --data-root or --stills.",
                flush=True,
            )
            root = make_scenes(SCENES)
    sources: list[tuple[Dataset, float]] = []
    for folder, list_file, weight in (
        (root, config.list_file, config.data_weight),
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
        )
        sources.append((stills, config.stills_weight))
    if not sources:
        raise ValueError("no training data: data_root, clips and stills are all none")
    return sources


def find_validation(config: Any) -> list[Clip]:
    """The clips that the network is validated on; never trained on."""
    folder = config.validation
    if folder == "auto":
        folder = "testset"
        if not Path(folder).is_dir():
            folder = make_scenes(SCENES) / "test"
            print(f"no testset/ here: validating on the built-in scenes in {folder}", flush=True)
    return find_clips(folder)
