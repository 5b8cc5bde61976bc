"""Cut septuplets for training from one's own satellite video.

    python -m data.septuplets cut SOURCE OUT                     # a video, frames, a TIFF
    python -m data.septuplets cut SOURCE OUT --average 2         # noisy footage
    python -m data.septuplets cut SOURCE OUT --spacing 2         # every second frame

SOURCE is anything that enhance.py takes; more than 8 bits are stretched, all frames alike.
Writes OUT/train/<clip>/im1.png .. im7.png and OUT/189_vime7_train.txt, which `main.py` reads.
Several videos, or one at several spacings, can be cut into the same OUT, and into a data set that
is there already; the clips of one without a list come into the new list. Unreadable, empty and
repeated frames are skipped, and so are tiles without data, which are black; no septuplet spans a
scene cut or a gap in the frame numbers or in the times of a video.
"""

import itertools
import math
import re
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Literal

import cv2
import numpy as np

from data.lists import FRAMES, LEAST_SIDE, training_clips, write_list, write_whole
from data.look import MOST_BLACK, black_share
from media.files import frame_numbers
from media.frames import FrameError
from media.open import open_source
from media.rgb import Rgb
from utils.config import parse_config

GAP = 1.5  # times the usual time between two frames, from which on one is missing


@dataclass(frozen=True)
class Config:
    """Settings of one cut."""

    command: Literal["cut"]  # what to do
    source: str  # what enhance.py takes: a video, a folder of frames, a TIFF
    out: str  # folder of the data set
    spacing: int = 1  # raw frames from one frame of a septuplet to the next
    stride: int = 7  # raw frames from the start of a septuplet to the start of the next
    average: int = 0  # frames on either side that each frame is averaged with, where nothing moves
    crop: int = 640  # side of the tiles that larger frames are cut into, HR pixels
    name: str | None = None  # prefix of the clips' names; none: source and spacing
    scene_cut: float = 12.0  # mean change of the grey frame, reduced by 8, that is a cut, levels
    repeat: float = 0.05  # mean change of the grey frame below which a frame is a repeat, levels
    contrast: float = 1.0  # grey standard deviation, reduced by 8, of an empty frame, levels
    black: float = MOST_BLACK  # largest share of exactly black pixels, no data, of a tile
    overwrite: bool = False  # replace clips of the same name in OUT

    def __post_init__(self):
        for field, least in (("spacing", 1), ("stride", 1), ("average", 0), ("crop", LEAST_SIDE)):
            if getattr(self, field) < least:
                raise ValueError(f"--{field} is {getattr(self, field)}; needs at least {least}")
        if not 0 <= self.black <= 1:
            raise ValueError(f"--black is {self.black}; needs a share between 0 and 1")
        if self.crop % 4:
            raise ValueError(f"--crop is {self.crop}; needs a multiple of 4")
        if self.name is not None and not re.fullmatch(r"[\w-][\w .-]*", self.name):
            raise ValueError(f"--name is {self.name!r}; needs letters, digits, space, . _ or -")


def good_frames(config, counts):
    """Yield the frames of a video that can be used, and None wherever its time line breaks.

    Frames are uint8 (H, W, 3) RGB. `counts`, a Counter, receives how many were read, and skipped
    why.
    """
    source = open_source(config.source)
    rgb = Rgb(source)
    if told := rgb.told():
        print(told)
    names = [Path(source.name(i)) for i in range(source.count)] if source.path.is_dir() else []
    numbers, step = frame_numbers(names), None
    if numbers:
        step = Counter(np.diff(numbers).tolist()).most_common(1)[0][0]
    times = source.times
    longest = GAP * np.median(np.diff(times).astype(float)) if times and len(times) > 1 else 0
    last = None
    for index in range(source.count):
        counts["read"] += 1
        try:
            frame = rgb.read(index)
        except FrameError as error:
            print(f"skipped {error}")
            frame = None
        if frame is not None:
            grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(np.float32)
            small = cv2.resize(grey, None, fx=1 / 8, fy=1 / 8, interpolation=cv2.INTER_AREA)
        if frame is None or small.std() < config.contrast:
            counts["unreadable" if frame is None else "empty"] += 1
            last = None
            yield None
            continue
        if last is not None:
            last_index, last_grey, last_small = last
            # A repeated frame comes from a change of frame rate: without it time runs evenly.
            if np.abs(grey - last_grey).mean() < config.repeat:
                counts["repeated"] += 1
                last = index, grey, small
                continue
            if np.abs(small - last_small).mean() > config.scene_cut:
                counts["scene cuts"] += 1
                yield None
            elif step and numbers[index] - numbers[last_index] != step:
                counts["gaps in the numbers"] += 1
                yield None
            elif longest and last_index == index - 1 and times[index] - times[last_index] > longest:
                counts["gaps in time"] += 1
                yield None
        yield frame
        last = index, grey, small


def still_mean(frames):
    """Mean of an odd number of frames wherever nothing moves; the middle frame elsewhere.

    A plain mean would smear the vehicles, which move a pixel or more per frame, into the very
    motion blur that the network must not learn as truth. So a neighbour counts, pixel by pixel,
    only where it equals the middle frame up to noise: its grey difference, smoothed (Gaussian of
    1 pixel) and taken at its largest in 3x3, is weighed 1 below 3 and 0 above 5 standard
    deviations of the noise, which its median over the frame tells.

    Arguments:
        frames: list of 2k + 1 uint8 (H, W, 3) frames, in order of time.

    Returns: a frame, uint8 (H, W, 3).
    """
    middle = frames[len(frames) // 2]
    grey = cv2.cvtColor(middle, cv2.COLOR_RGB2GRAY).astype(np.float32)
    total = middle.astype(np.float32)
    weights = np.ones(grey.shape, np.float32)
    for frame in [*frames[: len(frames) // 2], *frames[len(frames) // 2 + 1 :]]:
        change = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(np.float32) - grey
        change = np.abs(cv2.GaussianBlur(change, (0, 0), 1.0))
        # The median absolute value of Gaussian noise is 0.6745 standard deviations; 0.2 levels
        # are what rounding to bytes leaves of it.
        noise = max(float(np.median(change)) / 0.6745, 0.2)
        change = cv2.dilate(change, np.ones((3, 3), np.uint8))
        weight = np.clip((5 - change / noise) / 2, 0, 1)
        total += weight[..., None] * frame
        weights += weight
    return np.floor(total / weights[..., None] + 0.5).astype(np.uint8)


def septuplets(config, counts):
    """Yield (number of its first raw frame from 0, list of 7 frames) of every septuplet."""
    side = config.average
    length = (FRAMES - 1) * config.spacing + 1 + 2 * side
    run, skip = [], 0
    for frame in good_frames(config, counts):
        if frame is None:
            run, skip = [], 0
            continue
        if skip:
            skip -= 1
            continue
        run.append((counts["read"] - 1, frame))
        if len(run) == length:
            middles = range(side, length - side, config.spacing)
            frames = [frame for _, frame in run]
            yield run[0][0], [still_mean(frames[m - side : m + side + 1]) for m in middles]
            skip = max(config.stride - length, 0)
            run = run[config.stride :]


def tile_corners(size, crop):
    """Starts of tiles along an axis, spread from end to end, overlapping: an eighth may be left."""
    count = max(math.ceil(size / crop - 1 / 8), 1)
    return [int(start) for start in np.linspace(0, max(size - crop, 0), count)]


def cut(config):
    """Cut one video into septuplets and enter them in the list file.

    Returns: (names of the clips written, Counter of frames read and skipped).
    Raises: ValueError: clips of the same name in OUT, an unreadable video, or nothing to cut.
    """
    source, train = Path(config.source), Path(config.out) / "train"
    if not source.exists():
        raise FileNotFoundError(f"{source}: no such video or folder of frames")
    stem = re.sub(r"[^\w.-]", "_", source.resolve().stem)
    prefix = config.name or f"{stem}_s{config.spacing}"
    own = re.compile(re.escape(prefix) + r"_[0-9]{6}(_[0-9]+_[0-9]+)?")
    old = [p for p in train.iterdir() if own.fullmatch(p.name)] if train.is_dir() else []
    if old and not config.overwrite:
        raise ValueError(
            f"{old[0]}: exists already; give another --name or OUT, or --overwrite to replace it"
        )

    training_clips(Path(config.out))  # refuses what could not be added to
    names, counts = [], Counter()
    for start, frames in septuplets(config, counts):
        height, width = (side // 4 * 4 for side in frames[0].shape[:2])
        if min(height, width) < LEAST_SIDE:
            raise ValueError(
                f"{source}: frames of {width}x{height}; training needs {LEAST_SIDE} pixels a side"
            )
        tiled = max(height, width) > config.crop
        corners = (tile_corners(side, config.crop) for side in (height, width))
        for top, left in itertools.product(*corners):
            bottom, right = min(top + config.crop, height), min(left + config.crop, width)
            name = f"{prefix}_{start:06d}" + (f"_{top}_{left}" if tiled else "")
            tiles = [frame[top:bottom, left:right] for frame in frames]
            if max(map(black_share, tiles)) > config.black:
                counts["black tiles"] += 1
                continue
            write_whole(train / name, tiles)
            names.append(name)
    if not names and counts["black tiles"]:
        raise ValueError(f"{source}: all tiles are more than {config.black:g} black; raise --black")
    if not names:
        raise ValueError(
            f"{source}: no 7 good frames in a row at spacing {config.spacing} "
            f"({', '.join(f'{count} {what}' for what, count in counts.items()) or 'no frames'})"
        )
    # Read last: another cut may have written it meanwhile.
    others = [n for n in training_clips(Path(config.out)) if not own.fullmatch(n)]
    write_list(Path(config.out), others + names)
    for folder in old:
        if folder.name not in names:
            shutil.rmtree(folder)
    return names, counts


def main(argv=None):
    """Command line of `python -m data.septuplets cut`."""
    config = parse_config(Config, __doc__, positional=("command", "source", "out"), argv=argv)
    names, counts = cut(config)
    skipped = ", ".join(f"{count} {what}" for what, count in counts.items() if what != "read")
    print(f"{counts['read']} frames read ({skipped or 'none skipped'})")
    out = quote(config.out)
    print(f"{len(names)} septuplets written to {config.out}; train with --data-root {out}")
