"""Test clips: folders with `truth/` (HR frames) and, where LR frames are given, `input4/`.

The names that other projects give these folders are known too; docs/data.md lists the layouts.
"""

import os
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data.degrade import CLEAN, CONDITIONS, DRAWS, FAULTS, Degradation, draw_degradation, lr_frames
from data.lists import (
    LEAST_SIDE,
    TEST_LIST_NAMES,
    find_list,
    folders_of_clips,
    list_of_whole,
    read_list,
    stays_inside,
)
from media.codec import check_available
from media.files import (
    check_frames,
    frame_numbers,
    gap_in_numbers,
    list_folders,
    list_images,
    raise_problems,
)
from media.frames import IMAGE_SUFFIXES, TIFF_SUFFIXES
from media.images import image_size, read_image
from media.open import open_source
from media.rgb import Rgb

SEED = 0  # of what clips go through under the drawn conditions, the same for all trainings
# The names that folders of HR and of LR frames go by; the first one that is there counts.
TRUTH_FOLDERS = ("truth", "GT", "HR")
GIVEN_FOLDERS = ("input4", "BIx4", "LR", "LRx4", "LR_bicubic", "sharp_bicubic", "BDx4", "blur4")


@dataclass(frozen=True)
class Clip:
    """A test clip of T = 2N-1 truth frames."""

    name: str  # of its folder
    truth: tuple[Path, ...]  # T HR frames
    given: tuple[Path, ...] | None  # N LR frames at the even times; none: made from the truth
    size: tuple[int, int]  # (H, W) of the truth
    degradation: Degradation = CLEAN  # of LR frames that are made from the truth
    seed: int = 0  # of its noise


class _Folders(NamedTuple):
    """Where the frames of a clip are."""

    name: str
    truth: Path
    given: Path | None = None


def _child(folder, names):
    """The first subfolder that has one of these names, in small or capital letters, or None."""
    if not folder.is_dir():
        return None
    found = {child.name.lower(): child for child in reversed(list_folders(folder))}
    return next((found[name.lower()] for name in names if name.lower() in found), None)


def _find_folders(root, list_file):
    """The folders of all clips, in the order of the list or in natural order."""
    truth, given = _child(root, TRUTH_FOLDERS), _child(root, GIVEN_FOLDERS)
    paired = truth and not list_images(truth) and list_folders(truth)  # GT/<clip>/, BIx4/<clip>/
    if list_file is not None:
        return _listed_folders(root, list_file, truth if paired else None, given)
    folders = list_folders(root)
    clips = dict.fromkeys(f for f in folders if _child(f, TRUTH_FOLDERS) or list_images(f))
    left_out = [f for f in folders if f not in clips] if clips else []
    if truth:
        apart = {name.lower() for name in TRUTH_FOLDERS + GIVEN_FOLDERS}
        # Frames alone, beside one clip without LR frames, are told of by `_tell_of_frames_beside`.
        others = (f for f in clips if f.name.lower() not in apart)
        left_out = [f for f in others if paired or given or not list_images(f)]
    if left_out:
        why = f"clip folders beside {truth.name}" if truth else "folders without truth frames"
        warnings.warn(
            f"{root}: {why} are left out: {len(left_out)}, {left_out[0].name} the first",
            stacklevel=3,
        )
    if paired:
        return [_Folders(f.name, f, given and given / f.name) for f in paired]
    if clips and not truth:
        return [_folders_of_clip(f) for f in clips]
    return [_folders_of_clip(root)] if truth or list_images(root) else []


def _listed_folders(root, list_file, truth, given):
    """The folders of the clips in a list; where they lie apart, `truth` and `given` hold them."""
    bases, names = folders_of_clips(root), read_list(list_file)
    bases = [truth, *(base for base in bases if base != root)] if truth else bases
    if not names:
        raise ValueError(f"{list_file}: names no clip; give one clip folder per line")
    if wrong := [name for name in names if not stays_inside(name)]:
        raise ValueError(f"{list_file}: {wrong[0]} leads out of {root}")
    found = {}  # by folder, so that a clip of several spellings counts once
    for name in names:
        parts = Path(name).parts
        if truth and parts[:1] and parts[0].lower() == truth.name.lower():
            parts = parts[1:]
        name = Path(*parts).as_posix()
        folder = next((base / name for base in bases if os.path.isdir(base / name)), None)
        if folder is None:
            raise FileNotFoundError(f"{bases[0] / name}: no such clip, but {list_file} has it")
        if truth and folder == truth / name:
            clip = _Folders(name, folder, given and given / name)
        else:
            clip = _folders_of_clip(folder)._replace(name=name)
        found.setdefault(folder, clip)
    return list(found.values())


def _folders_of_clip(folder):
    truth = _child(folder, TRUTH_FOLDERS)
    given = truth and _child(folder, GIVEN_FOLDERS)
    # Not resolved: links to folders of the same name have names of their own.
    return _Folders(Path(os.path.abspath(folder)).name, truth or folder, given)


def _tell_of_training_clips(root, clips):
    """Warn of clips that the test list of the Vimeo-90K set around them does not name."""
    whole = list_of_whole(root, TEST_LIST_NAMES)
    if whole and {f"{root.absolute().name}/{clip.name}" for clip in clips} - {*read_list(whole)}:
        warnings.warn(
            f"{root}: holds clips for training, too; give {whole.parent} for the test clips",
            stacklevel=3,
        )


def _tell_of_frames_beside(root, clips):
    """Warn of LR frames beside the truth in a folder whose name is not among GIVEN_FOLDERS."""
    beside = [_frames_beside(root, clip.truth) for clip in clips if clip.given is None]
    if found := [folders[0] for folders in beside if folders]:
        warnings.warn(
            f"{root}: LR frames are made from the truth of {len(found)} clip(s), and {found[0]}, "
            f"of a quarter of its size, is left out; name it {GIVEN_FOLDERS[0]} to use it",
            stacklevel=3,
        )


def _frames_beside(root, truth):
    """The folders of LR frames beside `truth/`, or for a clip in `GT/` in folders beside it."""
    parts, names = truth.relative_to(root).parts, [name.lower() for name in TRUTH_FOLDERS]
    at = next((at for at, part in enumerate(parts) if part.lower() in names), None)
    if at is None:
        return []
    others = (f for f in list_folders(root.joinpath(*parts[:at])) if f.name.lower() not in names)
    folders = (folder.joinpath(*parts[at + 1 :]) for folder in others)
    return [folder for folder in folders if folder.is_dir() and _is_quarter(folder, truth)]


def _is_quarter(folder, truth):
    """Whether the first frame of one folder has a quarter of the sides of another's."""
    firsts = [list_images(each)[:1] for each in (folder, truth)]
    if not all(firsts):
        return False
    try:
        small, large = (image_size(first) for (first,) in firsts)
    except (OSError, ValueError):
        return False  # the truth's own check tells
    return tuple(small) == tuple(side // 4 for side in large)


def _meant(root):
    """A hint for a message: the subfolder that holds the test clips."""
    folders = sorted(list_folders(root), key=lambda folder: folder.name != "test")
    for holds in (lambda clip: _child(clip, TRUTH_FOLDERS), list_images):  # the surer sign first
        for folder in folders:
            if find_list(folder, TEST_LIST_NAMES) or any(map(holds, list_folders(folder))):
                return f". Is it {folder} that is meant?"
    return ""


def _check_sequence(folder, paths, root, like=None):
    """((height, width) or None, problems, Rgb or None) of the frames of one folder."""
    if not any(path.suffix.lower() in TIFF_SUFFIXES for path in paths):
        return *check_frames(paths, root), None
    resolved = Path(root).resolve()
    outside = [path for path in paths if not path.resolve().is_relative_to(resolved)]
    if outside:
        return None, [f"{outside[0]}: leads out of {root}; copy the file there"], None
    try:
        frames = Rgb(open_source(folder), like)
    except (OSError, ValueError) as error:
        return None, [str(error)], None
    if frames.source.count != len(paths):
        several = f"{frames.source.count} pages in {len(paths)} files"
        return None, [f"{folder}: {several}; one frame a file is needed"], None
    if told := frames.told():
        warnings.warn(told, stacklevel=5)
    return (frames.source.height, frames.source.width), [], frames


def _check_clip(folders, root):
    """(Clip or None, problems) of one clip."""
    truth = list_images(folders.truth)
    if len(truth) < 3:
        endings = "" if truth else f", which end in {', '.join(IMAGE_SUFFIXES)}"
        return None, [f"{folders.truth}: {len(truth)} frame(s); a clip needs at least 3{endings}"]
    size, problems, frames = _check_sequence(folders.truth, truth, root)
    if size and min(size) < LEAST_SIDE:
        problems.append(
            f"{folders.truth}: frames of {size[1]}x{size[0]}; needs {LEAST_SIDE} pixels a side"
        )

    odd = len(truth) - (len(truth) + 1) % 2
    given = None
    if folders.given is not None:
        given = list_images(folders.given) if folders.given.is_dir() else []
        given_size, given_problems, _ = _check_sequence(folders.given, given, root, frames)
        if len(given) == len(truth):
            given = given[:odd:2]
        elif len(given) != (odd + 1) // 2:
            problems.append(
                f"{folders.given}: {len(given)} LR frames for {len(truth)} in {folders.truth}; "
                f"give {len(truth)}, or {(odd + 1) // 2} for the even times, or none"
            )
        elif (numbers := frame_numbers(given)) and numbers == frame_numbers(truth)[1::2]:
            problems.append(f"{folders.given}: LR frames of the odd times; those of the even ones")
            problems[-1] += f" are given, {truth[0].name} the first"
        problems += given_problems
        if size and given_size and size != (4 * given_size[0], 4 * given_size[1]):
            problems.append(
                f"{folders.given}: frames of {given_size[1]}x{given_size[0]}, a quarter of "
                f"{size[1]}x{size[0]} is needed"
            )
    if problems:
        return None, problems
    if odd < len(truth):
        warnings.warn(
            f"{folders.truth}: {len(truth)} frames, an even number; the last is left out",
            stacklevel=3,
        )
    if gap := gap_in_numbers(truth[:odd]):
        warnings.warn(f"{folders.truth}: {gap}; measured as if evenly timed", stacklevel=3)
    if given is None and any(side % 4 for side in size):
        warnings.warn(
            f"{folders.truth}: {size[1]}x{size[0]} is not a multiple of 4; cut to "
            f"{size[1] // 4 * 4}x{size[0] // 4 * 4} from the top left",
            stacklevel=3,
        )
    return Clip(folders.name, tuple(truth[:odd]), given and tuple(given), size), []


def find_clips(root, list_file=None):
    """Find and check test clips; headers are read, pixels are not.

    Arguments:
        root: a folder of clip folders, or one clip folder. A clip folder holds `truth/`, `GT/` or
            `HR/` with the frames in natural order, and perhaps one of GIVEN_FOLDERS: as many LR as
            HR frames, of which the even ones are the input, or (T+1)/2, all given. Or the root
            holds these folders, and they the clips: `GT/<clip>/` and `BIx4/<clip>/`. A folder that
            holds frames itself is a clip without LR frames.
        list_file: names the clips below the root; None: sep_testlist.txt, if the root holds it.

    Returns: list of Clip, in natural order, or in that of the list. Warnings tell of folders that
        are left out, also such that may hold LR frames, of clips for training among them, of gaps
        in the numbers of frames, and of an even number of truth frames, which loses its last.
    Raises: ValueError: no clip in it, or the problems of all clips, by file.
    """
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder; give a folder of test clips")
    list_file = list_file or find_list(root, TEST_LIST_NAMES)
    folders = _find_folders(root, list_file)
    if not folders:
        raise ValueError(
            f"{root}: no test clips; a clip is a folder with truth/*.png, and frames end in "
            f"{', '.join(IMAGE_SUFFIXES)}{_meant(root)}"
        )
    if len(folders) > 1 and list_file is None:
        _tell_of_training_clips(root, folders)
    _tell_of_frames_beside(root, folders)
    clips, problems = [], []
    for clip_folders in folders:
        clip, found = _check_clip(clip_folders, root)
        clips.append(clip)
        problems += found
    raise_problems(root, problems)
    return clips


def read_clip(clip):
    """The frames of a clip of `find_clips`, of its files or made of the truth.

    Returns: (given, truth): uint8 RGB (N, h, w, 3) at times 0, 2, .. and (2N-1, 4h, 4w, 3). Without
        given frames the truth is cut to a multiple of 4, and `imresize(truth, 1/4)` is given,
        degraded as the clip says.
    """
    truth, frames = _read_sequence(clip.truth)
    if clip.given is not None:
        return _read_sequence(clip.given, frames)[0], truth
    height, width = (side // 4 * 4 for side in truth.shape[1:3])
    truth = truth[:, :height, :width]
    return lr_frames(truth, clip.degradation, np.random.default_rng(clip.seed)), truth


def check_files(clips):
    """Read all files of clips of `find_clips` once; a warning tells of truth without data.

    Raises: ValueError: one is damaged; FileNotFoundError: one is gone.
    """
    with_holes = []
    for clip in clips:
        _, frames = _read_sequence(clip.truth)
        if clip.given is not None:
            _read_sequence(clip.given, frames)
        if frames is not None and frames.has_holes:
            with_holes.append(clip.name)
    if with_holes:
        warnings.warn(
            f"{len(with_holes)} of {len(clips)} clips have pixels without data, {with_holes[0]} "
            "the first; they become black and count like others: cut them away first",
            stacklevel=2,
        )


def _read_sequence(paths, like=None):
    """((T, H, W, 3) uint8, Rgb or None) of frames of one folder."""
    if not any(path.suffix.lower() in TIFF_SUFFIXES for path in paths):
        return np.stack([read_image(path) for path in paths]), None
    frames = Rgb(open_source(paths[0].parent), like)
    numbers = {path: number for number, path in enumerate(list_images(paths[0].parent))}
    return np.stack([frames.read(numbers[path]) for path in paths]), frames


def degraded(clips, name):
    """The same clips, their given frames made from the truth and degraded.

    Arguments:
        clips: list of Clip.
        name: one of CONDITIONS or FAULTS, the same for all of them; "real" or "faults": to each its
            own draw of what a training sees; "none" leaves them alone.

    Raises: ValueError: a codec that is not there.
    """
    if name == "none":
        return clips
    found = []
    for number, clip in enumerate(clips):
        rng = np.random.default_rng((SEED, number))
        degradation = draw_degradation(rng, name) if name in DRAWS else (CONDITIONS | FAULTS)[name]
        if degradation.codec:
            check_available(degradation.codec)
        found.append(replace(clip, given=None, degradation=degradation, seed=number))
    return found
