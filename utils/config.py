"""From a script's Config dataclass to command-line flags, and from a user's mistake to one line.

A script keeps its constants in a frozen dataclass, one per line, with a comment that says what
the constant is. Every field becomes a flag of the same name, and its comment becomes the help:

    @dataclass(frozen=True)
    class Config:
        steps: int = 1000  # optimiser steps
        resume: bool = False  # go on from the last checkpoint

    config = parse_config(Config, __doc__)  # --steps 2000 --resume
"""

import argparse
import contextlib
import dataclasses
import inspect
import itertools
import os
import re
import sys
import types
import typing
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeVar

from utils.machine import limit_threads
from utils.memory import is_out_of_memory, keep_freed_memory
from utils.streams import drop_unwritten, open_closed_streams, tell
from utils.text import escaped

C = TypeVar("C")

# A field's line: name, type, default, and behind "#" the comment that becomes its help.
FIELD_LINE = re.compile(r"^\s+(?P<name>\w+)\s*:[^#]*#\s*(?P<help>.+)$")


def parse_config(
    config_class: type[C],
    description: str | None,
    positional: Sequence[str] = (),
    argv: Sequence[str] | None = None,
) -> C:
    """Make the command line of a script from its Config and read it.

    Arguments:
        config_class: a dataclass with fields of type int, float, str, bool, Literal[...], or one
            of these or None (written "none" on the command line); of several, as float | Fraction,
            the first that takes the text counts.
        description: the script's docstring, printed by --help.
        positional: names of the fields that are given by position instead of by flag.
        argv: the arguments, by default those of the process.

    Returns: an instance of config_class.

    Raises:
        SystemExit: status 2 for an unknown flag or a value of the wrong type, with the usage.
        ValueError: a flag given twice, a default of the wrong type, or from the Config's own checks
            in __post_init__.
    """
    argv = sys.argv[1:] if argv is None else argv
    parser = _make_parser(config_class, description, positional, {})
    values = vars(parser.parse_args(argv))
    _refuse_twice(argv)
    check_kinds(config_class, values, "is")  # constants are edited by hand, too
    return config_class(**values)


def _refuse_twice(argv: Sequence[str]) -> None:
    """Refuse, by a ValueError, a flag given twice; argparse would silently take the last value."""
    words = itertools.takewhile(lambda word: word != "--", argv)
    flags = [word.partition("=")[0] for word in words if word.startswith("--")]
    counts = Counter(flag[2:].replace("_", "-").removeprefix("no-") for flag in flags)
    if twice := [f"--{name}" for name, count in counts.items() if count > 1]:
        raise ValueError(f"given more than once: {', '.join(twice)}; give each flag once")


def given_fields(config_class: type, argv: Sequence[str] | None = None) -> set[str]:
    """The names of the fields that a command line of flags itself gives a value."""
    nothing = {field.name: argparse.SUPPRESS for field in dataclasses.fields(config_class)}
    return set(vars(_make_parser(config_class, None, (), nothing).parse_args(argv)))


def _make_parser(
    config_class: type, description: str | None, positional: Sequence[str], defaults: Mapping
) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    comments = _comments(config_class)
    hints = typing.get_type_hints(config_class)
    for field in dataclasses.fields(config_class):
        default = defaults.get(field.name, field.default)
        required = default is dataclasses.MISSING
        options = {"help": comments.get(field.name, "").replace("%", "%%")}
        if not required:
            options["default"] = default
            options["help"] += f" (default: {default})"
        if hints[field.name] is bool:
            options["action"] = argparse.BooleanOptionalAction
        else:
            options |= _value_options(hints[field.name])
        if field.name in positional:
            parser.add_argument(field.name, **options, **({} if required else {"nargs": "?"}))
        else:
            flags = dict.fromkeys([f"--{field.name.replace('_', '-')}", f"--{field.name}"])
            parser.add_argument(*flags, dest=field.name, required=required, **options)
    return parser


def check_kinds(
    config_class: type, values: Mapping[str, Any], verb: str = "is recorded as"
) -> None:
    """Refuse values of a Config, which may come from any file, of another type than their field's.

    Raises:
        ValueError: names the first of them, and what it can be.
    """
    for name, hint in typing.get_type_hints(config_class).items():
        if name in values and not _is_kind(values[name], hint):
            given = repr(values[name])[:100]
            raise ValueError(f"{name} {verb} {given}, which it cannot be: give {_kinds(hint)}")


def _is_kind(value: Any, hint: Any) -> bool:
    if typing.get_origin(hint) is Literal:
        return isinstance(value, str) and value in typing.get_args(hint)
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return any(_is_kind(value, kind) for kind in typing.get_args(hint))
    kinds = (int, float) if hint is float else (hint,)
    return type(value) in kinds  # not isinstance: True does not count as a number


def _kinds(hint: Any) -> str:
    """What a field can be, in words."""
    if typing.get_origin(hint) is Literal:
        return " or ".join(map(repr, typing.get_args(hint)))
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return " or ".join(map(_kinds, typing.get_args(hint)))
    return "None" if hint is type(None) else hint.__name__


def _comments(config_class: type) -> dict[str, str]:
    """The trailing comment of every field, read from the source of the class and its bases."""
    bases = [base for base in reversed(config_class.__mro__) if dataclasses.is_dataclass(base)]
    lines = [line for base in bases for line in inspect.getsource(base).splitlines()]
    matches = (FIELD_LINE.match(line) for line in lines)
    return {match["name"]: match["help"].strip() for match in matches if match}


def _value_options(hint: Any) -> dict[str, Any]:
    """The argparse options `type` and `choices` for a field that takes a value."""
    if typing.get_origin(hint) is Literal:
        return {"choices": typing.get_args(hint)}
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        kinds = [kind for kind in typing.get_args(hint) if kind is not type(None)]

        def value_or_none(text: str) -> Any:
            if text.lower() == "none":
                return None
            for kind in kinds:
                with contextlib.suppress(ValueError, ZeroDivisionError):  # Fraction("1/0")
                    return kind(text)
            raise ValueError(text)

        # argparse names the type in its message
        value_or_none.__name__ = " or ".join(kind.__name__ for kind in kinds)
        return {"type": value_or_none}
    return {"type": hint}


def describe_config(config: Any) -> str:
    """The settings of a run, one aligned line per field, for the start of a log."""
    values = {
        # Text may come from a checkpoint, with control characters for the terminal.
        name: escaped(str(value))
        for name, value in dataclasses.asdict(config).items()
    }
    width = max(map(len, values))
    return "\n".join(f"  {name:<{width}}  {value}" for name, value in values.items())


def run_script(main: Callable[[], int | None]) -> None:
    """Run a script's main function and leave the process with its exit status.

    A ValueError or OSError (a missing file, a full disk), or the end of memory, is the user's to
    correct: it prints as one line and ends with status 2. A computation that went astray
    (FloatingPointError) ends with status 1, Ctrl-C with 130. Set MSTT_TRACEBACK=1 to see where an
    error came from. Warnings are plain lines, and freed memory is kept for reuse, see
    `keep_freed_memory`.
    """
    open_closed_streams()
    keep_freed_memory()
    limit_threads()
    if hasattr(sys.stdout, "reconfigure"):  # a file or pipe of Windows cannot hold every name
        sys.stdout.reconfigure(errors="backslashreplace")  # as standard error does by itself
    usual = warnings.formatwarning
    warnings.formatwarning = lambda message, *where, **line: f"{message}\n"
    try:
        status = main() or 0
        sys.stdout.flush()  # where the disk is full, this is not yet too late to say so
        sys.exit(status)
    except (ValueError, OSError) as error:
        if os.environ.get("MSTT_TRACEBACK") == "1":
            raise
        tell(f"error: {error}")
        sys.exit(2)
    except FloatingPointError as error:
        tell(f"stopped: {error}")
        sys.exit(1)
    except KeyboardInterrupt:
        tell("interrupted")
        sys.exit(130)
    except Exception as error:  # PyTorch's and OpenCV's are of different kinds
        if os.environ.get("MSTT_TRACEBACK") == "1" or not is_out_of_memory(error):
            raise
        remedy = "training: lower --batch or --patch, raise --accumulate; else smaller frames"
        tell(f"error: out of memory ({remedy}, or another --device)")
        sys.exit(2)
    finally:
        warnings.formatwarning = usual
        drop_unwritten()
