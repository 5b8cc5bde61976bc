"""Text for messages, and names in the order in which people sort them."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

MOST_PRINTED = 400  # characters of a file's content in a message
# Problems printed of one data set; a wrong path to 2,647 clips would otherwise fill the terminal.
MAX_PRINTED = 20


def check_choice(name: str, value: str, choices: Iterable[str]) -> None:
    """Refuse, by a ValueError, an option that is none of its choices."""
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; choose one of {', '.join(choices)}")


def one_line(text: str) -> str:
    """Text from a file as a message may hold it: line ends and control characters escaped."""
    return escaped(text[:MOST_PRINTED])


def escaped(text: str) -> str:
    """Text of a file, or its name, for a message: line ends and control characters escaped."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def natural_key(path: Path | str) -> tuple[list[str | int], str]:
    """Sort key that orders numbers by value: im2.png before im10.png.

    Arguments:
        path: a path, whose last part counts first, or any other name.
    """
    name = path.name if isinstance(path, Path) else path
    # At even places text, at odd ones numbers, so that any two keys compare.
    parts = re.split(r"([0-9]+)", name)
    return [int(part) if i % 2 else part.casefold() for i, part in enumerate(parts)], str(path)


def listed(problems: list[str]) -> str:
    """Problems of a data set for a message, a line each, the first MAX_PRINTED in full."""
    # A name may hold a newline or a terminal's control characters.
    shown = [escaped(problem) for problem in problems[:MAX_PRINTED]]
    if len(problems) > MAX_PRINTED:
        shown.append(f"and {len(problems) - MAX_PRINTED} more")
    return "".join(f"\n  {line}" for line in shown)


def plain(value: Any) -> str:
    """A value from a file in a message: text, a number, or of what kind it is; it may be deep."""
    return one_line(str(value)) if isinstance(value, str | int | float) else type(value).__name__
