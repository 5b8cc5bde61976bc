"""Flags from a Config, and a user's mistakes as one line."""

import io
import re
import sys
from dataclasses import dataclass, field, make_dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal

import cv2
import pytest

from utils.config import check_kinds, describe_config, given_fields, parse_config, run_script

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Config:
    source: str  # what to read
    out_folder: str = "out"  # where to write, 100% of it
    steps: int | None = None  # none: as many as there are
    rate: float = 1e-3  # learning rate
    size: Literal["small", "large"] = "small"  # which network
    resume: bool = False  # go on

    def __post_init__(self):
        if self.rate <= 0:
            raise ValueError(f"rate is {self.rate}")


def parse(*argv):
    return parse_config(Config, "A script.", positional=("source",), argv=argv)


def test_defaults_and_flags():
    assert parse("in") == Config("in")
    given = parse("in", "--out-folder", "x", "--steps", "3", "--rate", "2e-4", "--size", "large")
    assert given == Config("in", "x", 3, 2e-4, "large")
    assert parse("in", "--out_folder", "x", "--steps", "none", "--resume") == Config(
        "in", "x", resume=True
    )
    assert parse("in", "--no-resume") == Config("in")


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": [1]},
        {"steps": 1.5},
        {"steps": True},
        {"rate": None},
        {"rate": "fast"},
        {"size": "huge"},
        {"size": ["small"]},
        {"out_folder": 3},
        {"resume": "no\x1b[2J"},
    ],
)
def test_values_from_a_file_have_the_fields_types(wrong):
    (name,) = wrong
    check_kinds(Config, {"steps": 5, "rate": 0.5, "old": 1})
    with pytest.raises(ValueError, match=f"^{name} is recorded as ") as caught:
        check_kinds(Config, wrong)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "argv",
    [
        ["in", "--unknown", "1"],
        [],
        ["in", "--steps", "many"],
        ["in", "--size", "huge"],
        ["in", "--st", "1"],
    ],
)
def test_mistakes_exit_with_2(argv, capsys):
    with pytest.raises(SystemExit) as stop:
        parse(*argv)
    assert stop.value.code == 2
    assert "error:" in capsys.readouterr().err


@pytest.mark.parametrize(
    "argv",
    [
        ["in", "--steps", "1", "--rate=1", "--steps", "1"],
        ["--steps=3", "in", "--steps=4"],
        ["--resume", "in", "--no-resume"],
        ["in", "--out-folder", "a", "--out_folder", "b"],
    ],
)
def test_a_flag_given_twice_is_refused(argv):
    with pytest.raises(ValueError, match=r"^given more than once: --(steps|resume|out-folder)"):
        parse(*argv)
    assert parse("--steps", "1", "--", "--steps").source == "--steps"


@pytest.mark.parametrize(
    ("annotation", "value", "message"),
    [
        (Literal["a", "b"], "A", "field is 'A', which it cannot be: give 'a' or 'b'"),
        (str, Path("x"), "give str"),
        (int | None, 2.0, "field is 2.0, which it cannot be: give int or None"),
        (bool, "no", "give bool"),
        (int, None, "give int"),
    ],
)
def test_constants_that_are_edited_by_hand_are_checked(monkeypatch, annotation, value, message):
    monkeypatch.setattr("utils.config._comments", lambda config_class: {})
    edited = make_dataclass("Edited", [("field", annotation, field(default=value))])
    with pytest.raises(ValueError, match=message):
        parse_config(edited, None, argv=[])


def test_fields_that_the_command_line_gives():
    @dataclass(frozen=True)
    class Flags:
        size: Literal["small", "large"] = "small"  # which network
        resume: bool = False  # go on
        steps: int | None = None  # of the run

    assert given_fields(Flags, []) == set()
    assert given_fields(Flags, ["--size", "small", "--no-resume"]) == {"size", "resume"}


@pytest.mark.parametrize(
    ("text", "value"),
    [("25", 25.0), ("29.97", 29.97), ("30000/1001", Fraction(30000, 1001)), ("none", None)],
)
def test_a_rate_may_be_a_fraction(text, value, capsys):
    @dataclass(frozen=True)
    class Flags:
        fps: float | Fraction | None = None  # frames per second

    given = parse_config(Flags, "", argv=["--fps", text]).fps
    assert (given, type(given)) == (value, type(value))
    for wrong in ("1/0", "30/", "fast"):
        with pytest.raises(SystemExit):
            parse_config(Flags, "", argv=["--fps", wrong])
        assert f"invalid float or Fraction value: '{wrong}'" in capsys.readouterr().err


def test_comments_become_help(capsys):
    with pytest.raises(SystemExit):
        parse("--help")
    text = capsys.readouterr().out
    assert "where to write, 100% of it (default: out)" in " ".join(text.split())


def test_help_of_an_inherited_field(capsys):
    @dataclass(frozen=True)
    class Larger(Config):
        width: int = 3  # pixels across

    with pytest.raises(SystemExit):
        parse_config(Larger, "", argv=["--help"])
    text = capsys.readouterr().out
    assert "pixels across" in text
    assert "learning rate" in text


def test_describe_names_every_field():
    lines = describe_config(Config("in")).splitlines()
    assert [line.split()[0] for line in lines] == list(Config.__dataclass_fields__)
    assert r"\x1b[2J\n" in describe_config(Config("\x1b[2J\n"))


FULL = "error: out of memory (training: lower --batch or --patch, raise --accumulate; "
FULL += "else smaller frames, or another --device)\n"


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (MemoryError(), 2, FULL),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), 2, FULL),
        (cv2.error("(-4:Insufficient memory) Failed to allocate 9 bytes"), 2, FULL),
        (ValueError("rate is 0"), 2, "error: rate is 0\n"),
        (FileNotFoundError("no folder x"), 2, "error: no folder x\n"),
        (FloatingPointError("loss is nan"), 1, "stopped: loss is nan\n"),
        (BrokenPipeError(32, "Broken pipe"), 2, "error: [Errno 32] Broken pipe\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
)
def test_run_script_turns_errors_into_a_line_and_a_status(error, status, text, capsys):
    def main():
        raise error

    with pytest.raises(SystemExit) as stop:
        run_script(main)
    assert stop.value.code == status
    assert capsys.readouterr().err == text


def test_a_name_that_standard_output_cannot_hold_ends_nothing(monkeypatch):
    redirected = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")  # `> log.txt` on Windows
    monkeypatch.setattr(sys, "stdout", redirected)
    with pytest.raises(SystemExit) as stop:
        run_script(lambda: print("\u5f71/\xe1"))
    redirected.flush()
    assert (stop.value.code, redirected.buffer.getvalue().strip()) == (0, b"\\u5f71/\xe1")


def test_a_traceback_is_shown_where_it_is_asked_for(monkeypatch):
    def main():
        raise ValueError("rate is 0")

    monkeypatch.setenv("MSTT_TRACEBACK", "1")
    with pytest.raises(ValueError, match="rate is 0"):
        run_script(main)
    monkeypatch.setenv("MSTT_TRACEBACK", "0")
    with pytest.raises(SystemExit):
        run_script(main)


def test_run_script_keeps_our_own_faults_visible():
    def main():
        raise AssertionError("ours")

    with pytest.raises(AssertionError):
        run_script(main)


@pytest.mark.parametrize(
    "module",
    [
        *(
            "main",
            "test",
            "enhance",
            "data.animation",
            "data.pack",
            "training.release",
            "training.slim",
        ),
        *("benchmarks.recipe", "benchmarks.gpu", "benchmarks.enhance", "benchmarks.inference"),
    ],
)
def test_every_flag_says_what_it_is(module):
    """In a line of its own: one that goes on from the flag above reads wrongly in --help."""
    path = ROOT / f"{module.replace('.', '/')}.py"
    config = path.read_text().partition("class Config")[2].partition("\n\n\n")[0]
    lines = [line for line in config.splitlines() if re.match(r"    \w+: ", line)]
    assert lines
    for line in lines:
        _, mark, comment = line.partition("  # ")
        assert mark, f"{module}: {line.strip()} says nothing"
        assert not re.match(r"(than|and|but) ", comment), line
