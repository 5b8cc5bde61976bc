"""The files of a data set: their order, their staying inside the root, their problems together."""

import re
from pathlib import Path

from data.images import IMAGE_SUFFIXES, image_size

# Problems printed of one data set; a wrong path to 2,647 clips would otherwise fill the terminal.
MAX_PRINTED = 20


def escaped(text: str) -> str:
    """Text of a file, or its name, for a message: line ends and control characters escaped."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def natural_key(path):
    """Sort key that orders numbers in names by value: im2.png before im10.png."""
    # At even places text, at odd ones numbers, so that any two keys compare.
    parts = re.split(r"([0-9]+)", Path(path).name)
    return [int(part) if i % 2 else part.casefold() for i, part in enumerate(parts)], str(path)


def list_images(folder):
    """PNG and JPEG files of a folder in natural order, hidden ones left out."""
    return sorted(
        (
            path
            for path in Path(folder).iterdir()
            if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")
        ),
        key=natural_key,
    )


def list_folders(folder):
    """Subfolders in natural order, hidden ones left out."""
    children = (path for path in Path(folder).iterdir() if not path.name.startswith("."))
    return sorted((path for path in children if path.is_dir()), key=natural_key)


def check_frames(paths, root):
    """Check a clip's frames by their headers.

    Arguments:
        paths: the frames.
        root: folder that they must lie in, links followed.

    Returns:
        ((height, width) or None, problems): the frames' common size where all are good, and one
        line per problem.
    """
    root = Path(root).resolve()
    sizes, problems = {}, []
    for path in paths:
        try:
            if not path.resolve().is_relative_to(root):
                problems.append(f"{path}: leads out of {root}; copy the file there")
                continue
            sizes[path] = image_size(path)
        except FileNotFoundError:
            problems.append(f"{path}: no such file")
        except ValueError as error:
            problems.append(str(error))
        except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle
            problems.append(f"{path}: cannot be read ({error})")
    for path, size in sizes.items():
        first_path, first = next(iter(sizes.items()))
        if size != first:
            problems.append(
                f"{path}: {size[1]}x{size[0]} pixels, "
                f"but {first[1]}x{first[0]} in {first_path.name}"
            )
    return (None if problems else next(iter(sizes.values()), None)), problems


def raise_problems(root, problems):
    """Raise one ValueError that lists a data set's problems, the first MAX_PRINTED in full.

    Arguments:
        root: the data set.
        problems: one line each; nothing happens when there are none.
    """
    if problems:
        count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
        raise ValueError(f"{count} in {root}:{listed(problems)}")


def listed(problems):
    """Problems of a data set for a message, a line each, the first MAX_PRINTED in full."""
    # A name may hold a newline or a terminal's control characters.
    shown = [escaped(problem) for problem in problems[:MAX_PRINTED]]
    if len(problems) > MAX_PRINTED:
        shown.append(f"and {len(problems) - MAX_PRINTED} more")
    return "".join(f"\n  {line}" for line in shown)
