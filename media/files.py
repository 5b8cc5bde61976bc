"""The files of a data set: their order, their staying inside the root, their problems together."""

import itertools
import os
import re
from pathlib import Path

from media.frames import IMAGE_SUFFIXES
from media.images import image_size
from utils.text import listed, natural_key

DATE = r"(19|20)[0-9]{2}(0[1-9]|1[0-2])[0-3][0-9]"  # year, month, day


def list_images(folder):
    """Image files of a folder in natural order, hidden ones left out."""
    images = (path for path in Path(folder).iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    seen = (path for path in images if not path.name.startswith(".") and not path.is_dir())
    return sorted(seen, key=natural_key)


def list_folders(folder):
    """Subfolders in natural order, hidden ones left out."""
    children = (path for path in Path(folder).iterdir() if not path.name.startswith("."))
    return sorted((path for path in children if path.is_dir()), key=natural_key)


def frame_numbers(paths: list[Path]) -> list[int]:
    """The number in each name, the only one that differs between them; none where there is none.

    None of dates and times of day, either, which do not go on evenly.
    """
    digits = [re.findall(r"[0-9]+", path.stem) for path in paths]
    if len({len(numbers) for numbers in digits}) > 1:
        return []
    columns = list(zip(*digits, strict=True))
    differing = [index for index, column in enumerate(columns) if len(set(column)) > 1]
    if len(differing) != 1:
        return []
    numbers, before = columns[differing[0]], columns[max(differing[0] - 1, 0)][0]
    is_time = re.match(DATE, before) and all(len(number) >= 6 for number in numbers)
    if is_time or all(re.match(DATE, number) for number in numbers):
        return []
    return [int(number) for number in numbers]


def gap_in_numbers(paths: list[Path]) -> str | None:
    """The largest gap in the numbers of frames, in words; None where they go on evenly."""
    steps = [after - before for before, after in itertools.pairwise(frame_numbers(paths))]
    if len(set(steps)) < 2 or min(steps) <= 0 or any(step % min(steps) for step in steps):
        return None
    at = steps.index(max(steps))
    return f"{paths[at + 1].name} follows {paths[at].name}, a gap in the numbers"


def check_frames(paths, root):
    """Check a clip's frames by their headers.

    Arguments:
        paths: the frames.
        root: folder that they must lie in, links followed.

    Returns: their common (height, width), or None, and the problems, a line each.
    """
    root, folders = os.path.realpath(root), {}
    sizes, problems = {}, []
    for path in map(os.fspath, paths):  # a Path takes longer than its file: there may be 450,000
        try:
            folder = os.path.dirname(path)
            if folder not in folders:
                links = {entry.path for entry in os.scandir(folder) if entry.is_symlink()}
                folders[folder] = _is_inside(folder, root), links
            is_inside, links = folders[folder]
            if not (_is_inside(path, root) if path in links else is_inside):
                problems.append(f"{path}: leads out of {root}; copy the file there")
                continue
            sizes[path] = image_size(path)
        except FileNotFoundError:
            problems.append(f"{path}: no such file")
        except ValueError as error:
            problems.append(str(error))
        except OSError as error:
            problems.append(f"{path}: cannot be read ({error})")
    for path, size in sizes.items():
        first_path, first = next(iter(sizes.items()))
        if size != first:
            problems.append(
                f"{path}: {size[1]}x{size[0]} pixels, "
                f"but {first[1]}x{first[0]} in {os.path.basename(first_path)}"
            )
    return (None if problems else next(iter(sizes.values()), None)), problems


def _is_inside(path, root):
    """Whether a path leads into a folder that is resolved already; links are followed."""
    return os.path.join(os.path.realpath(path), "").startswith(os.path.join(root, ""))


def raise_problems(root, problems):
    """Raise a ValueError that lists the problems of a data set, if any, MAX_PRINTED in full."""
    if problems:
        count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
        raise ValueError(f"{count} in {root}:{listed(problems)}")
