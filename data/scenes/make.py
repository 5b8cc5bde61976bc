"""Make the built-in data set: procedural satellite scenes of about 1 m per pixel.

    python -m data.scenes OUT [--clips 48] [--test-clips 4] [--seed 1] [--overwrite]

OUT/train/CLIP/im1.png..im7.png with OUT/189_vime7_train.txt is a training set in the layout of
189_vime7; OUT/test/CLIP/truth/00000000.png..00000006.png are test clips of other scenes. Low
resolution frames are made by the loaders. The same settings give the same pixels, with any
number of workers. A complete folder is used again; it is filled under another name and renamed,
so that a folder under its own name is always complete.
"""

import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np

from data.lists import FRAMES, LEAST_SIDE, write_clip, write_list
from data.scenes.canvas import DENSITY
from data.scenes.layouts import KINDS, paint_scene
from utils.config import parse_config
from utils.files import beside, replace
from utils.machine import usable_cores
from utils.streams import progress_bar

VERSION = 2  # raise when the same settings give other pixels
SETTINGS_FILE = "scenes.json"  # written last: marks a complete folder
MOST_WORKERS = 4  # threads: beyond, painting in Python keeps them waiting for each other
MAX_DRIFT = 2.0  # pixels per frame: the platform's drift never exceeds it


@dataclass(frozen=True)
class Config:
    out: str  # folder to make
    clips: int = 48  # training clips
    test_clips: int = 4  # test clips, of other scenes
    height: int = 384  # pixels of a training frame; a multiple of 4
    width: int = 384  # pixels of a training frame; a multiple of 4
    seed: int = 1  # every clip has its own generator, seeded with this and its number
    workers: int = 0  # threads; 0 means one per core, at most 4. Does not change the result
    overwrite: bool = False  # replace a folder made with other settings


def make_scenes(
    out: str | Path,
    clips: int = 48,
    test_clips: int = 4,
    size: tuple[int, int] = (384, 384),
    test_size: tuple[int, int] = (320, 320),
    seed: int = 1,
    workers: int = 0,
    overwrite: bool = False,
) -> Path:
    """Write the built-in training and test clips, or find them already made.

    Arguments: as the flags of the command, see `Config`; sizes are (H, W) of the frames.

    Returns: the folder.
    Raises: ValueError: a setting is out of range, or the folder was made with other settings or
        holds something else.
    """
    out = Path(out).absolute()
    settings = {"version": VERSION, "clips": clips, "test_clips": test_clips}
    settings |= {"size": list(size), "test_size": list(test_size), "seed": seed}
    _check(settings, workers)
    if _reusable(out, settings, overwrite):
        return out
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = beside(out)
    try:
        _write_clips(partial, settings, workers or min(MOST_WORKERS, usable_cores()))
        (partial / SETTINGS_FILE).write_text(json.dumps(settings, indent=2) + "\n")
        if _reusable(out, settings, overwrite):
            return out  # another process made the same meanwhile
        if out.exists():
            shutil.rmtree(out)
        replace(partial, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return out


def _check(settings: dict, workers: int) -> None:
    """Raise ValueError for the first setting that is out of range."""
    for name in ("clips", "test_clips"):
        if settings[name] < 0:
            raise ValueError(f"{name} must be 0 or more, not {settings[name]}")
    for name in ("size", "test_size"):
        if any(side < LEAST_SIDE or side % 4 for side in settings[name]):
            raise ValueError(
                f"{name} must be multiples of 4 of at least {LEAST_SIDE}, not {settings[name]}"
            )
    if settings["seed"] < 0 or workers < 0:
        raise ValueError(f"seed and workers must be 0 or more: {settings['seed']}, {workers}")


def _reusable(out: Path, settings: dict, overwrite: bool) -> bool:
    """Whether `out` already holds these scenes; raises if it holds something to keep."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    mark = out / SETTINGS_FILE
    if not mark.is_file():
        raise ValueError(f"{out} exists and was not made by data.scenes: choose another folder")
    try:
        found = json.loads(mark.read_text())
    except json.JSONDecodeError:
        found = None
    if found == settings:
        return True
    if not overwrite:
        raise ValueError(
            f"{out} was made with other settings ({found}): choose another folder, or replace "
            f"it: python -m data.scenes {out} --overwrite, with the flags that you want"
        )
    return False


def _write_clips(folder: Path, settings: dict, workers: int) -> None:
    """Render all clips into `folder`, several at a time."""

    def render(number: int, testing: bool) -> str:
        """Make one clip; returns its name."""
        kind = list(KINDS)[number % len(KINDS)]
        target = folder / ("test" if testing else "train") / f"{kind}_{number:03d}"
        size = tuple(settings["test_size" if testing else "size"])
        rng = np.random.default_rng([settings["seed"], int(testing), number])
        clip = render_clip(kind, size, rng)
        write_clip(target / "truth" if testing else target, clip, testing)
        return target.name

    folder.mkdir(parents=True)
    with ThreadPoolExecutor(workers) as pool:
        train = [pool.submit(render, number, False) for number in range(settings["clips"])]
        test = [pool.submit(render, number, True) for number in range(settings["test_clips"])]
        try:
            for job in progress_bar([*train, *test], desc="built-in scenes", unit="clip"):
                job.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    write_list(folder, [job.result() for job in train])


def render_clip(kind: str, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """One clip of a kind of place.

    Arguments:
        kind: one of `data.scenes.layouts.KINDS`.
        size: (H, W) of the frames.
        rng: the clip's generator; everything in the clip is drawn from it.

    Returns: Frames (7, H, W, 3) uint8 RGB.
    """
    scene = paint_scene(kind, size, rng)
    movers = [mover for mover in scene.movers if mover.visible(scene.canvas, FRAMES)]
    grade = _grade(rng)
    sigma = rng.uniform(0.5, 0.8)  # the sensor's blur, pixels
    noise = rng.uniform(0.6, 1.4) / 255
    frames = []
    for time, (x, y, turn) in enumerate(platform_motion(rng)):
        world = scene.canvas.colour.copy()
        for mover in movers:
            mover.draw(scene.canvas, scene.light, world, time)
        world = cv2.GaussianBlur(world, (0, 0), sigma * DENSITY)
        frame = grade(sample_world(world, size, x, y, turn))
        frame += noise * rng.standard_normal(frame.shape, np.float32)
        frames.append(np.clip(frame * 255 + 0.5, 0, 255).astype(np.uint8))
    return np.stack(frames)


def platform_motion(rng: np.random.Generator) -> np.ndarray:
    """Position of the platform in every frame of a clip.

    A stabilised sequence drifts by 0.02 to 0.1 pixel per frame; one clip in eight drifts more,
    up to `MAX_DRIFT`. A little jitter and rotation come on top.

    Returns: (7, 3): x and y in pixels, rotation in radians, all 0 in the middle frame.
    """
    # The jitter below adds at most 0.03 to the speed: the bound holds.
    speed = rng.uniform(0.02, 0.1) if rng.random() < 0.875 else rng.uniform(0.1, MAX_DRIFT - 0.1)
    heading = rng.uniform(0, 2 * np.pi)
    steps = speed * np.array([[np.cos(heading), np.sin(heading)]]).repeat(FRAMES, 0)
    steps += rng.uniform(-0.02, 0.02, (FRAMES, 2))
    turns = rng.normal(0, 2e-5, (FRAMES, 1))
    motion = np.concatenate([steps, turns], axis=1).cumsum(0)
    return motion - motion[FRAMES // 2]


def sample_world(
    world: np.ndarray, size: tuple[int, int], x: float, y: float, turn: float
) -> np.ndarray:
    """The frame (H, W, 3) that the platform sees at (x, y), turned about its middle."""
    height, width = size
    cosine, sine = DENSITY * np.cos(turn), DENSITY * np.sin(turn)
    matrix = np.array([[cosine, -sine, 0.0], [sine, cosine, 0.0]])
    middle = np.array([width / 2 - 0.5, height / 2 - 0.5])
    target = np.array(world.shape[1::-1]) / 2 - 0.5 + DENSITY * np.array([x, y])
    matrix[:, 2] = target - matrix[:, :2] @ middle
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(world, matrix, size[::-1], flags=flags, borderMode=cv2.BORDER_REFLECT)


def _grade(rng: np.random.Generator) -> Callable[[np.ndarray], np.ndarray]:
    """The sensor's and the air's colours: exposure, contrast, haze and saturation of a clip."""
    haze = rng.uniform(0.02, 0.14)
    air = np.array([0.62, 0.65, 0.66], np.float32)
    warm = rng.normal(0.015, 0.025) * np.array([1, 0.2, -1])
    gain = (rng.uniform(0.95, 1.2) * (1 + warm)).astype(np.float32)
    saturation = np.float32(rng.uniform(0.6, 0.9))
    gamma = np.float32(rng.uniform(0.9, 1.1))

    def apply(frame: np.ndarray) -> np.ndarray:
        """Grade a frame (H, W, 3) of radiances."""
        frame = np.clip(frame, 0, None) ** gamma * gain
        grey = frame.mean(-1, keepdims=True)
        frame = grey + saturation * (frame - grey)
        # A soft shoulder, as bright roofs saturate a real sensor gradually.
        frame = np.where(frame > 0.8, 0.8 + 0.2 * np.tanh((frame - 0.8) / 0.2), frame)
        return (1 - haze) * frame + haze * air

    return apply


def main() -> None:
    """The command."""
    config = asdict(parse_config(Config, __doc__, positional=("out",)))
    size = (config.pop("height"), config.pop("width"))
    make_scenes(size=size, **config)
