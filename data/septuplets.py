"""Septuplets for training: Vimeo-90K's layout, and 189_vime7's with or without a list file.

    python -m data.septuplets cut VIDEO_OR_FOLDER OUT    # make septuplets from one's own video

A septuplet is a folder of seven HR frames, `im1.png` .. `im7.png` or `000.png` .. `006.png`, or
the same as JPEG, BMP or 8-bit TIFF. Layouts: ROOT/sep_trainlist.txt with
ROOT/sequences/00001/0001/im1.png, and ROOT/189_vime7_train.txt with ROOT/train/<clip>/im1.png,
where the list may be missing; docs/data.md says more. The LR
frames are `imresize(frame, 1/4)` of the frames at times 0, 2, 4 and 6, each of its own frame (the
released loader makes all four from the last one).
"""

import itertools
import numbers
import os
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from data import cut
from data.augment import augment_flows, augment_frames, draw_augmentation
from data.degrade import draw_for_sample, lr_frames
from data.flow_cache import FlowCache, flow_of
from data.lists import (
    FRAME_STEMS,
    FRAMES,
    LIST_NAME,
    find_list,
    folders_of_clips,
    holds_septuplet,
    list_of_whole,
    read_list,
    stays_inside,
)
from media.files import check_frames, list_folders, list_images, raise_problems
from media.frames import IMAGE_SUFFIXES
from media.images import decode_image
from utils.config import run_script
from utils.resize import SMALLEST_SIDE, imresize

NEXT_STEMS = (f"im{FRAMES + 1}", f"{FRAMES:03d}")  # of an eighth frame
WANTED = "im1.png .. im7.png or 000.png .. 006.png"
ENDINGS = f"frames end in {', '.join(IMAGE_SUFFIXES)}"

# HR pixels around a patch that its LR pixels still depend on: 6.5 before and behind, in whole
# LR pixels.
LR_MARGIN = 2
CHECKED_AT_ONCE = 64  # clips that a thread takes
LARGEST_PATCH = 80  # LR pixels, the paper's


def _find_names(root, list_file):
    """(folder that the names are relative to, names of the clips)."""
    list_file = list_file or find_list(root)
    bases = folders_of_clips(root)
    if list_file is not None:
        names = read_list(list_file)
        if not names:
            raise ValueError(f"{list_file}: names no clip; give one clip folder per line")
        # The folder that has the first clip; with no such clip any will do to report it.
        first = names[0] if stays_inside(names[0]) else "."
        return next((base for base in bases if os.path.isdir(base / first)), bases[0]), names
    if whole := list_of_whole(root):
        raise ValueError(
            f"{root}: holds test clips, too; give {whole.parent}, whose {whole.name} names those "
            "for training"
        )
    if bases[0].name == "sequences":
        raise ValueError(
            f"{root}: Vimeo-90K's clips without sep_trainlist.txt, which tells them from its test "
            "clips; put it beside the folder sequences"
        )
    folders = list_folders(bases[0])
    names = [folder.name for folder in folders if holds_septuplet(folder)]
    if not names:
        raise ValueError(
            f"{root}: no septuplets; it needs {LIST_NAME} or sep_trainlist.txt, or folders "
            f"train/<clip>/ with {WANTED}{_instead(Path(root), folders)}"
        )
    known = set(names)
    if others := [folder.name for folder in folders if folder.name not in known]:
        warnings.warn(
            f"{bases[0]}: {len(others)} of {len(folders)} folders contain no septuplet and are "
            f"skipped (first: {others[0]})",
            stacklevel=2,
        )
    return bases[0], names


def _instead(root, folders):
    """What is there instead of septuplets, for a message."""
    if holds_septuplet(root) and not {path.stem for path in list_images(root)} & {*NEXT_STEMS}:
        return f". Is it {root.absolute().parent} that is meant?"
    for folder in folders:
        clips = list_folders(folders_of_clips(folder)[0])
        if find_list(folder) or any(map(holds_septuplet, clips)):
            return f". Is it {folder} that is meant?"
    names = [name for folder in folders[:1] for name in sorted(os.listdir(folder))]
    instead = f" {folders[0].name} holds {names[0]} instead." if names else ""
    return f".{instead} Longer sequences: python -m data.septuplets cut VIDEO_OR_FOLDER OUT"


class Clip(NamedTuple):
    """A septuplet as its folder has it."""

    folder: str
    names: tuple[str, ...] = ()  # of its seven frames
    size: tuple[int, int] | None = None  # height and width of an LR frame
    longer: bool = False  # whether more than seven frames are there


def _frames_of(folder):
    """(names of the seven frames, whether there are more, problems) of one clip folder."""
    found = sorted(os.listdir(folder))
    readable = {}
    for name in found:
        stem, suffix = os.path.splitext(name)
        if suffix.lower() in IMAGE_SUFFIXES and readable.get(stem, "").lower()[-4:] != ".png":
            readable[stem] = name
    stems = max(FRAME_STEMS, key=lambda stems: sum(stem in readable for stem in stems))
    if not any(stem in readable for stem in stems):
        instead = f" and holds {found[0]}; {ENDINGS}" if found else ""
        return (), False, [f"{folder}: no frames; it needs {WANTED}{instead}"]
    # Interned: a data set has the same few names over and over.
    names = tuple(sys.intern(readable.get(stem, f"{stem}.png")) for stem in stems)
    return names, any(stem in readable for stem in NEXT_STEMS), []


def _check_clip(root, base, name, least):
    """(Clip, problems) of one clip, by its headers."""
    folder = os.path.join(base, name)
    if not stays_inside(name):
        return Clip(name), [f"{name}: leads out of {root}; give a folder below it"]
    if not os.path.isdir(folder):
        return Clip(name), [f"{folder}: no such clip folder; correct the list or restore it"]
    names, longer, problems = _frames_of(folder)
    if problems:
        return Clip(name), problems
    size, problems = check_frames([os.path.join(folder, frame) for frame in names], root)
    if size and min(size) < 4 * least:
        fits = fitting_patch(min(size) // 4)
        remedy = f"train with --patch {fits}, or remove the clip" if fits else "remove the clip"
        problems.append(
            f"{folder}: frames of {size[1]}x{size[0]}, smaller than {4 * least} pixels a side; "
            f"{remedy}"
        )
    return Clip(folder, names, size and (size[0] // 4, size[1] // 4), longer), problems


def _check_clips(root, base, names, least):
    """The Clip of every name, each folder looked at once however often a list names it."""
    folders = [str(Path(name)) for name in names]
    different = list(dict.fromkeys(folders))
    # Threads, because slow disks and network drives answer many questions at a time.
    starts = range(0, len(different), CHECKED_AT_ONCE)
    parts = (different[start : start + CHECKED_AT_ONCE] for start in starts)
    # Not multiprocessing's, whose locks need a /dev/shm.
    with ThreadPoolExecutor(8) as pool:
        checked = pool.map(lambda part: [_check_clip(root, base, n, least) for n in part], parts)
        checks = list(itertools.chain.from_iterable(checked))
    raise_problems(root, [problem for _, problems in checks for problem in problems])
    longer = [clip.folder for clip, _ in checks if clip.longer]
    if longer:
        warnings.warn(
            f"{len(longer)} clip(s) in {root} have more than {FRAMES} frames, {longer[0]} the "
            f"first; their first {FRAMES} are used. `python -m data.septuplets cut` makes more of "
            "them",
            stacklevel=3,
        )
    clips = {name: clip for name, (clip, _) in zip(different, checks, strict=True)}
    return [clips[folder] for folder in folders]


def fitting_patch(side):
    """The largest patch for frames of an LR side: a multiple of 16 up to 80, or 0."""
    return min(side // SMALLEST_SIDE * SMALLEST_SIDE, LARGEST_PATCH)


def reduce_patch(frames, augmentation):
    """LR patches, equal to the patches of the whole frames' `imresize(frames, 1/4)`.

    Arguments:
        frames: whole HR frames (N, H, W, 3) uint8.
        augmentation: whose patch is cut, (N, height, width, 3) uint8, and nothing turned.
    """
    a = augmentation
    top, left = max(a.top - LR_MARGIN, 0), max(a.left - LR_MARGIN, 0)
    rows = slice(4 * top, 4 * (a.top + a.height + LR_MARGIN))
    columns = slice(4 * left, 4 * (a.left + a.width + LR_MARGIN))
    small = imresize(np.stack([frame[rows, columns] for frame in frames]), 1 / 4)
    y, x = a.top - top, a.left - left
    return small[:, y : y + a.height, x : x + a.width]


class SeptupletDataset(torch.utils.data.Dataset):
    """Septuplets with LR frames, flow and augmentation.

    `dataset[(epoch, index)]`, or `dataset[index]` for epoch 0, is a dict of
        frames (N, 3, h, w), truth (2N - 1, 3, 4h, 4w): uint8 RGB;
        forward_flow, backward_flow (N - 1, 2, h, w): float32 (dx, dy) in LR pixels, computed on
            the whole LR frames and cut afterwards;
        name: the clip's name in the list.
    Patch and augmentation are a pure function of (seed, epoch, index), whatever the worker.

    Arguments:
        root: folder of the data set; the layouts are in the module's docstring.
        list_file: list of clips, if not one of the known names in root.
        patch: side of the LR patch, pixels; None gives the largest multiple of 16 up to 80 that all
            clips have room for. Either is the attribute of this name, which may be lowered.
        flow_method: method of `flow.estimate_flow`.
        flow_cache: folder to keep flows in; None computes them for every sample.
        seed: of the augmentation.
        given_frames: N, 1 to 4; fewer are the first ones of the same sample. One has no flow.
        degrade: what the patches have gone through, one of data.degrade.DRAWS; other than "none",
            their flow is computed on them, for each sample anew.

    Raises:
        FileNotFoundError: no such root or list.
        ValueError: the problems of all clips together, by file.
    """

    def __init__(
        self,
        root,
        list_file=None,
        patch=None,
        flow_method="dis",
        flow_cache=None,
        seed=123,
        given_frames=4,
        degrade="none",
    ):
        root = Path(root)
        if not root.is_dir():
            raise FileNotFoundError(f"{root}: no such folder; give the folder of a data set")
        if patch is not None and patch < SMALLEST_SIDE:
            raise ValueError(f"patch is {patch}; the network needs at least {SMALLEST_SIDE} pixels")
        base, self.names = _find_names(root, list_file)
        self.clips = _check_clips(root, base, self.names, patch or SMALLEST_SIDE)
        self.sizes = [clip.size for clip in self.clips]
        self.patch = patch or fitting_patch(min(map(min, self.sizes)))
        self.seed, self.given_frames, self.degrade = seed, given_frames, degrade
        self.flow_cache = FlowCache(flow_cache, flow_method)

    def __len__(self):
        return len(self.names)

    def paths(self, index):
        """The seven frames of a clip."""
        clip = self.clips[index]
        return tuple(Path(clip.folder, name) for name in clip.names)

    def augmentation(self, epoch, index):
        """The Augmentation of a sample, a pure function of (seed, epoch, index)."""
        rng = np.random.default_rng([self.seed, epoch, index])
        return draw_augmentation(rng, *self.sizes[index], self.patch)

    def __getitem__(self, key):
        epoch, index = (0, key) if isinstance(key, numbers.Integral) else key
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} of {len(self)} clips")
        paths = self.paths(index)
        contents = [path.read_bytes() for path in paths]
        truth = [decode_image(path, content) for path, content in zip(paths, contents, strict=True)]
        a = self.augmentation(epoch, index)
        degradation, noise = draw_for_sample(self.degrade, self.seed, epoch, index)
        frames = lr_frames(truth, degradation, noise, partial(reduce_patch, augmentation=a))
        if self.degrade != "none" or self.given_frames == 1:  # nothing that could be kept
            alone = self.given_frames == 1
            forward, backward = flow_of(frames[:1] if alone else frames, self.flow_cache.method)
        else:
            forward, backward = self.flow_cache.flows(
                contents[::2], lambda: imresize(np.stack(truth[::2]), 1 / 4)
            )
            rows, columns = slice(a.top, a.top + a.height), slice(a.left, a.left + a.width)
            forward, backward = forward[..., rows, columns], backward[..., rows, columns]
        forward, backward = augment_flows(forward, backward, a)
        rows = slice(4 * a.top, 4 * (a.top + a.height))
        columns = slice(4 * a.left, 4 * (a.left + a.width))
        truth = np.stack([frame[rows, columns] for frame in truth])
        count = self.given_frames  # cut last: the augmentation may turn the time round
        frames = augment_frames(frames.transpose(0, 3, 1, 2), a)[:count]
        truth = augment_frames(truth.transpose(0, 3, 1, 2), a)[: 2 * count - 1]
        return {
            "frames": torch.from_numpy(np.ascontiguousarray(frames)),
            "truth": torch.from_numpy(np.ascontiguousarray(truth)),
            # a copy: ascontiguousarray leaves the negative stride of a single reversed flow
            "forward_flow": torch.from_numpy(forward[: count - 1].copy()),
            "backward_flow": torch.from_numpy(backward[: count - 1].copy()),
            "name": self.names[index],
        }


if __name__ == "__main__":
    run_script(cut.main)
