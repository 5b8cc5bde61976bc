"""Test clips: folders with `truth/` (HR frames) and, where LR frames are given, `input4/`."""

import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from data.degrade import CLEAN, CONDITIONS, Degradation, draw_degradation, reduced
from media.codec import check_available
from media.files import check_frames, list_folders, list_images, raise_problems
from media.images import read_image

# The network takes LR frames from 16x16 on.
MIN_LR_SIZE = 16
DRAWS = 0  # seed of what clips go through under the condition "real", the same for all trainings


@dataclass(frozen=True)
class Clip:
    """A test clip of T = 2N-1 truth frames.

    Attributes:
        name: the clip's folder name.
        truth: T paths of HR frames, T odd.
        given: N paths of LR frames at the even times, or None: LR is made from the truth.
        degradation: what LR frames that are made from the truth go through.
        seed: of its noise.
    """

    name: str
    truth: tuple[Path, ...]
    given: tuple[Path, ...] | None
    degradation: Degradation = CLEAN
    seed: int = 0


def _is_clip(folder):
    return (folder / "truth").is_dir() or (folder.is_dir() and bool(list_images(folder)))


def _check_clip(folder, root):
    """(Clip or None, problems) of one clip folder."""
    truth_folder = folder / "truth" if (folder / "truth").is_dir() else folder
    truth = list_images(truth_folder)
    if len(truth) < 3:
        return None, [f"{truth_folder}: {len(truth)} frame(s); a clip needs at least 3"]
    size, problems = check_frames(truth, root)
    if size and min(size) < 4 * MIN_LR_SIZE:
        problems.append(
            f"{truth_folder}: frames of {size[1]}x{size[0]}; needs {4 * MIN_LR_SIZE} pixels a side"
        )

    odd = len(truth) - (len(truth) + 1) % 2
    given = None
    if (folder / "input4").is_dir():
        given = list_images(folder / "input4")
        if len(given) == len(truth):
            given = given[:odd:2]
        elif len(given) != (odd + 1) // 2:
            problems.append(
                f"{folder / 'input4'}: {len(given)} LR frames for {len(truth)} in {truth_folder}; "
                f"give {len(truth)}, or {(odd + 1) // 2} for the even times, or none"
            )
        given_size, given_problems = check_frames(given, root)
        problems += given_problems
        if size and given_size and size != (4 * given_size[0], 4 * given_size[1]):
            problems.append(
                f"{folder / 'input4'}: frames of {given_size[1]}x{given_size[0]}, a quarter of "
                f"{size[1]}x{size[0]} is needed"
            )
    if problems:
        return None, problems
    if odd < len(truth):
        warnings.warn(
            f"{truth_folder}: {len(truth)} frames, an even number; the last is left out",
            stacklevel=3,
        )
    if given is None and any(side % 4 for side in size):
        warnings.warn(
            f"{truth_folder}: {size[1]}x{size[0]} is not a multiple of 4; cut to "
            f"{size[1] // 4 * 4}x{size[0] // 4 * 4} from the top left",
            stacklevel=3,
        )
    return Clip(folder.resolve().name, tuple(truth[:odd]), given and tuple(given)), []


def find_clips(root):
    """Find and check test clips; headers are read, pixels are not.

    Arguments:
        root: a folder of clip folders, or one clip folder. A clip folder holds `truth/` (PNG or
            JPEG, in natural order) and perhaps `input4/`: as many LR as HR frames, of which the
            even ones are the input, or (T+1)/2, all given. A folder that holds frames itself and
            no `truth/` is a clip without LR frames.

    Returns:
        list of Clip, in natural order. An even number of truth frames loses its last, with a
        warning.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: no clip in it, or the problems of all clips, by file.
    """
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder; give a folder of test clips")
    folders = [] if (root / "truth").is_dir() else [f for f in list_folders(root) if _is_clip(f)]
    if not folders and _is_clip(root):
        folders = [root]
    if not folders:
        raise ValueError(f"{root}: no test clips; a clip is a folder with truth/*.png")
    clips, problems = [], []
    for folder in folders:
        clip, found = _check_clip(folder, root)
        clips.append(clip)
        problems += found
    raise_problems(root, problems)
    return clips


def read_clip(clip):
    """Read a clip's frames.

    Arguments:
        clip: Clip of `find_clips`.

    Returns:
        (given, truth): uint8 RGB (N, h, w, 3) at times 0, 2, .. and (2N-1, 4h, 4w, 3). Without
        given frames the truth is cut to a multiple of 4, and `imresize(truth, 1/4)` is given,
        degraded as the clip says.

    Raises:
        ValueError: a damaged file.
        FileNotFoundError: a file that vanished.
    """
    truth = np.stack([read_image(path) for path in clip.truth])
    if clip.given is not None:
        return np.stack([read_image(path) for path in clip.given]), truth
    height, width = (side // 4 * 4 for side in truth.shape[1:3])
    truth = truth[:, :height, :width]
    return reduced(truth, clip.degradation, np.random.default_rng(clip.seed)), truth


def degraded(clips, name):
    """The same clips, their given frames made from the truth and degraded.

    Arguments:
        clips: list of Clip.
        name: one of CONDITIONS, the same for all of them, or "real": to each its own draw of what
            a training sees.

    Raises:
        ValueError: an unknown name, or a codec that is not there.
    """
    if name != "real" and name not in CONDITIONS:
        raise ValueError(f"unknown condition {name!r}; choose one of {', '.join(CONDITIONS)}, real")
    found = []
    for number, clip in enumerate(clips):
        rng = np.random.default_rng((DRAWS, number))
        degradation = draw_degradation(rng) if name == "real" else CONDITIONS[name]
        if degradation.codec:
            check_available(degradation.codec)
        found.append(replace(clip, given=None, degradation=degradation, seed=number))
    return found
