"""Break the project in one place at a time: do the tests notice?

    python -m benchmarks.mutants                     every mutant, with the tests of its place
    python -m benchmarks.mutants --only "the average,clipping"   some, by parts of their names
    python -m benchmarks.mutants --tests DIR         with other tests, such as those of a commit

A mutant is a copy of the project with one change, mostly of wiring: a step left out, a flag that
reaches nothing, two panels swapped. mutants.txt lists them with the test files that have to fail;
files that DIR lacks are left out. Ends with status 1 where a mutant survives.
"""

import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

# Once for all mutants, which are forks of this process
import cv2  # noqa: F401
import matplotlib.figure  # noqa: F401
import pytest
import skimage.metrics  # noqa: F401
import torch

from utils.config import parse_config, run_script

ROOT = Path(__file__).resolve().parent.parent
LIMIT = 600  # seconds that the tests of a mutant may take; one that hangs is noticed
KEPT = ("benchmarks", "checkpoints", "docs", "figures", "data", "dcn", "enhancement", "flow")
KEPT += ("media", "models", "training", "utils", "main.py", "test.py", "enhance.py")
KEPT += ("pyproject.toml",)

MUTANTS = Path(__file__).with_suffix(".txt")


@dataclass(frozen=True)
class Mutant:
    """A change of one place of a file, and the test files that have to notice it."""

    name: str
    path: str
    before: str
    after: str
    tests: list[str]


def read_mutants(text: str) -> list[Mutant]:
    """The mutants of a text in the form of MUTANTS."""
    mutants = []
    for block in text.split("\n= ")[1:]:
        head, *lines = block.strip().splitlines()
        path, tests = head.split(": ")
        changes: dict[str, tuple[list[str], list[str]]] = {}
        for line in lines:
            if not line.startswith(("- ", "+ ")):
                before, after = changes[line] = [], []
            else:
                (before if line[0] == "-" else after).append(line[2:])
        mutants += [
            Mutant(name, path, "\n".join(before), "\n".join(after), tests.split())
            for name, (before, after) in changes.items()
        ]
    return mutants


@dataclass(frozen=True)
class Config:
    only: str = ""  # parts of the names of mutants, separated by commas; empty: all
    tests: str = "tests"  # folder of the tests


def mutate(folder: Path, mutant: Mutant) -> None:
    """Make the one change; ValueError: its place is not there, or there are several."""
    text = (folder / mutant.path).read_text()
    if text.count(mutant.before) != 1:
        places = text.count(mutant.before)
        raise ValueError(f"{mutant.name}: {places} such places in {mutant.path}; one is needed")
    (folder / mutant.path).write_text(text.replace(mutant.before, mutant.after))


def copy_project(folder: Path, tests: Path) -> None:
    """The project with these tests; what Python compiled of it saves a second each time."""
    for source in (ROOT / name for name in KEPT):
        copy = shutil.copytree if source.is_dir() else shutil.copy2
        copy(source, folder / source.name)
    shutil.copytree(tests, folder / "tests")


def run_tests(folder: Path, files: list[str]) -> None:
    """In a fork: the tests of a mutant, whose status is that of the process."""
    ours = {path.stem for path in folder.iterdir()}
    for name in [name for name in sys.modules if name.partition(".")[0] in ours]:
        del sys.modules[name]
    os.chdir(folder)
    sys.path[:] = [str(folder), *(path for path in sys.path if path not in ("", str(ROOT)))]
    torch.set_num_threads(1)
    with open(folder / "output.txt", "w") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
        sys.stdout = sys.stderr = output
        status = pytest.main(["-x", "-q", "-p", "no:cacheprovider", *(f"tests/{f}" for f in files)])
        output.flush()
        os._exit(status)


def outcome(folder: Path, files: list[str]) -> str:
    """What the tests of a mutant say."""
    process = multiprocessing.get_context("fork").Process(target=run_tests, args=(folder, files))
    process.start()
    process.join(LIMIT)
    if process.exitcode is None:
        process.kill()
        process.join()
        return "killed, it hangs"
    if process.exitcode == pytest.ExitCode.OK:
        return "SURVIVED"
    output = (folder / "output.txt").read_text()
    failed = [line for line in output.splitlines() if line.startswith(("FAILED", "ERROR"))]
    if process.exitcode != pytest.ExitCode.TESTS_FAILED or not failed:
        raise ValueError(f"pytest ended with {process.exitcode}:\n{output[-2000:]}")
    return "killed by " + failed[0].partition("::")[2].partition(" - ")[0]


def main() -> int:
    config = parse_config(Config, __doc__)
    parts = [part.strip() for part in config.only.split(",")]
    survivors = count = 0
    for mutant in read_mutants(MUTANTS.read_text()):
        if not any(part in mutant.name for part in parts):
            continue
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            copy_project(folder, Path(config.tests))
            mutate(folder, mutant)
            files = [file for file in mutant.tests if (folder / "tests" / file).is_file()]
            start = time.monotonic()
            said = outcome(folder, files) if files else "SURVIVED, no such tests"
        count += 1
        survivors += said.startswith("SURVIVED")
        print(
            f"{mutant.path:<24}{mutant.name:<40}{said} ({time.monotonic() - start:.0f} s)",
            flush=True,
        )
    print(f"{count - survivors} of {count} mutants killed")
    return int(survivors > 0)


if __name__ == "__main__":
    run_script(main)
