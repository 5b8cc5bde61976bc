"""How training and test sets lie on disk: the lists that name their clips, and their frames."""

import os
import re
import shutil
from pathlib import Path

from media.files import list_folders
from media.images import write_image
from utils.files import beside, replace, write_atomically
from utils.resize import SCALE, SMALLEST_SIDE

FRAMES = 7  # of a septuplet
FRAME_STEMS = (
    tuple(f"im{number}" for number in range(1, FRAMES + 1)),
    tuple(f"{number:03d}" for number in range(FRAMES)),
)
LEAST_SIDE = SCALE * SMALLEST_SIDE  # pixels, of its frames
LIST_NAME = "189_vime7_train.txt"
LIST_NAMES = ("sep_trainlist.txt", LIST_NAME)
TEST_LIST_NAMES = ("sep_testlist.txt",)
CLIP_FOLDERS = ("sequences", "train")  # in the root, with the clips in them
# What BasicSR's meta_info files say of a clip behind its name: frames, (height,width,channels).
META_INFO = re.compile(r"\s+\d+\s+\(\s*\d+\s*,\s*\d+\s*,\s*\d+\s*\)$")
# A list of Vimeo-90K's 64,612 clips has 0.7 MB; more than this is not a list.
MAX_LIST_BYTES = 2**25
MAX_NAMES = 2**19  # in a list: a folder is looked for in 0.1 ms


def find_list(root, names=LIST_NAMES):
    """The list of clips that comes with a data set, if any: in its folder, or one level up.

    Arguments:
        root: folder of the data set, or the one of CLIP_FOLDERS in it.
        names: of the lists that are looked for, in this order.

    Raises: ValueError: the list is a link that leads out of the data set.
    """
    root = Path(root)
    above = root.absolute().parent
    for folder in (root, above) if root.absolute().name in CLIP_FOLDERS else (root,):
        for path in (folder / name for name in names):
            if path.is_file():
                if not path.resolve().is_relative_to(folder.resolve()):
                    raise ValueError(f"{path}: leads out of {folder}; copy the file there")
                return path
    return None


def list_of_whole(root, names=LIST_NAMES):
    """The list of the Vimeo-90K set in whose `sequences/` a folder lies, or None.

    names: as in `find_list`.
    """
    above = (folder for folder in Path(root).absolute().parents[:2] if folder.name == "sequences")
    return next((listed for folder in above if (listed := find_list(folder, names))), None)


def folders_of_clips(root):
    """The folders that a list's names may be relative to, the likeliest first."""
    return [base for base in (*(Path(root) / name for name in CLIP_FOLDERS), root) if base.is_dir()]


def stays_inside(name):
    """Whether a name from a list, which may be anybody's, stays in the folder it is meant for."""
    return not (Path(name).is_absolute() or ".." in Path(name).parts or "\0" in name)


def read_list(path):
    """Names of clips in a list file: one per line, spaces around them and blank lines left out.

    Lines of BasicSR's meta_info files, "00001/0001 7 (256,448,3)", name a clip too.

    Arguments:
        path: text file in UTF-8, with or without byte order mark, with any line ends.

    Returns: list of names, in order.
    Raises: ValueError: no text, too large, or more than MAX_NAMES; FileNotFoundError.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such list of clips")
    if not path.is_file():
        raise ValueError(f"{path}: not a regular file; give a list of clip names")
    with path.open("rb") as file:
        content = file.read(MAX_LIST_BYTES + 1)
    if len(content) > MAX_LIST_BYTES:
        raise ValueError(f"{path}: larger than {MAX_LIST_BYTES} bytes; give a list of clip names")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text ({error.reason}); save it as UTF-8") from error
    lines = text.replace("\r", "\n").split("\n")
    names = [META_INFO.sub("", line.strip()) for line in lines]
    names = [name for name in names if name]
    if len(names) > MAX_NAMES:
        raise ValueError(f"{path}: {len(names)} names, over the limit of {MAX_NAMES}; split it")
    return names


def holds_septuplet(folder):
    """Whether a folder has frames, though perhaps of endings that cannot be read."""
    stems = {stem for stem, suffix in map(os.path.splitext, os.listdir(folder)) if suffix}
    return any(stem in stems for stems_ in FRAME_STEMS for stem in (stems_[0], stems_[-1]))


def training_clips(root):
    """Names of the clips that a training set has so far: of its list, or else all of `train/`.

    Raises: ValueError: the set has a list of another name, or clips elsewhere than in `train/`,
        so that clips added to `train/` would not be found.
    """
    listed = find_list(root)
    if listed and listed != root / LIST_NAME:
        raise ValueError(f"{root}: clips are not added to {listed.name}; give another OUT")
    if listed:
        names = read_list(listed)
        if names and not (root / "train" / names[0]).is_dir():
            raise ValueError(f"{root}: its clip {names[0]} is not in train/; move its clips there")
        return names
    base = root / "train" if (root / "train").is_dir() else root
    folders = list_folders(base) if base.is_dir() else []
    names = [folder.name for folder in folders if holds_septuplet(folder)]
    if names and base == root:
        raise ValueError(f"{root}: its clips, {names[0]} the first, are not in train/; move them")
    return names


def write_list(root, names):
    """Write the list of a training set's clips."""
    text = "".join(f"{name}\n" for name in names)
    write_atomically(root / LIST_NAME, lambda partial: partial.write_text(text, encoding="utf-8"))


def write_clip(folder, frames, test=False):
    """Write frames (H, W, 3) uint8: im1.png, .. of a septuplet, 00000000.png, .. of a test clip."""
    folder.mkdir(parents=True, exist_ok=True)
    for time, frame in enumerate(frames):
        write_image(folder / (f"{time:08d}.png" if test else f"im{time + 1}.png"), frame)


def write_whole(folder, frames, test=False):
    """`write_clip` in the place of a folder that is there; the new one appears whole or never."""
    partial = beside(folder)
    try:
        write_clip(partial, frames, test)
        if folder.exists():
            shutil.rmtree(folder)
        replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
