"""The loader of native kernels: compile once, cache, survive what machines do to it."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch

from utils import native

ROOT = Path(__file__).resolve().parent.parent
SOURCE = 'extern "C" int answer() { return 42; }\n'


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A fresh machine: empty cache and temporary folders, nothing loaded, a source."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.setattr(native, "_results", {})
    (tmp_path / "temporary").mkdir()
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "answer.cpp").write_text(SOURCE)
    try:
        native._find_compiler()
    except native.NativeBuildError as error:
        pytest.skip(str(error))
    return tmp_path


def load(machine: Path):
    """Load the source as a new process would."""
    native._results.clear()
    return native.load_library(machine / "source" / "answer.cpp")


def libraries(folder: Path) -> list[Path]:
    return sorted((folder / native.CACHE_NAME).iterdir())


def compiler_script(machine: Path, monkeypatch, body: str) -> None:
    """Make $CXX a shell script with this body, in which $real is the real compiler."""
    real, _ = native._find_compiler()
    script = machine / "compiler"
    script.write_text(f"#!/bin/sh\nreal={real[0]}\n{body}\n")
    script.chmod(0o755)
    monkeypatch.setenv("CXX", str(script))


def test_compiles_once_and_loads_from_the_cache(machine, monkeypatch):
    calls = machine / "calls"
    compiler_script(machine, monkeypatch, f'echo "$@" >> {calls}\nexec $real "$@"')
    first = load(machine)
    assert first.answer() == 42
    assert native.load_library(machine / "source" / "answer.cpp") is first
    assert load(machine).answer() == 42
    compilations = [line for line in calls.read_text().splitlines() if "-shared" in line]
    assert len(compilations) == 1
    assert len(libraries(machine / "cache")) == 1


@pytest.mark.parametrize("changed", ["answer.cpp", "number.h"])
def test_a_changed_file_is_another_library(machine, changed):
    (machine / "source" / "number.h").write_text("#define NUMBER 1\n")
    (machine / "source" / "answer.cpp").write_text(
        '#include "number.h"\nextern "C" int answer() { return NUMBER; }\n'
    )
    assert load(machine).answer() == 1
    path = machine / "source" / changed
    path.write_text(path.read_text().replace(" 1", " 2").replace("NUMBER;", "NUMBER + 1;"))
    assert load(machine).answer() == 2
    assert len(libraries(machine / "cache")) == 2


def test_two_processes_at_once(machine, monkeypatch):
    compiler_script(machine, monkeypatch, 'sleep 0.3\nexec $real "$@"')
    code = (
        "from pathlib import Path; from utils.native import load_library;"
        f"print(load_library(Path({str(machine / 'source' / 'answer.cpp')!r})).answer())"
    )
    runs = [
        subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    assert [run.communicate(timeout=300)[0].strip() for run in runs] == ["42", "42"]
    assert len(libraries(machine / "cache")) == 1  # and no temporary file left


def test_flags_that_the_compiler_does_not_take_are_left_out(machine, monkeypatch):
    refuse = 'case "$*" in *-march=native*|*-fopenmp*) echo unknown flag >&2; exit 1;; esac\n'
    compiler_script(machine, monkeypatch, refuse + 'exec $real "$@"')
    assert load(machine).answer() == 42


def test_compiler_command_with_arguments(machine, monkeypatch):
    real, _ = native._find_compiler()
    monkeypatch.setenv("CXX", f"{real[0]} -DUNUSED=1")
    assert load(machine).answer() == 42


@pytest.mark.parametrize(
    ("compiler", "message"),
    [
        ("/nonexistent/c++", "not found"),
        ("false", "status 1"),
        ('c++ "-O1', r"\$CXX is 'c\+\+ \"-O1': No closing quotation"),
    ],
)
def test_no_working_compiler(machine, monkeypatch, compiler, message):
    monkeypatch.setenv("CXX", compiler)
    with pytest.raises(native.NativeBuildError, match=message):
        load(machine)


def test_windows_gets_a_library_that_needs_no_other(machine, monkeypatch):
    compiler_script(machine, monkeypatch, f'echo "$@" > {machine / "flags"}')
    monkeypatch.setattr(native.sys, "platform", "win32")
    monkeypatch.setenv("CXX", f'"{machine / "compiler"}" -m64')  # quotes stay in the words there
    command, _ = native._find_compiler()
    assert command == (str(machine / "compiler"), "-m64")
    native._compile(machine / "source" / "answer.cpp", machine / "answer.dll", command, ())
    words = (machine / "flags").read_text().split()
    assert "-static" in words
    assert "-fPIC" not in words


def test_a_compiler_for_msvc_is_not_taken(machine, monkeypatch):
    compiler_script(machine, monkeypatch, "echo Target: x86_64-pc-windows-msvc")
    with pytest.raises(native.NativeBuildError, match="builds for MSVC, not MinGW"):
        load(machine)


def test_compiler_that_answers_but_cannot_compile(machine, monkeypatch):
    compiler_script(
        machine, monkeypatch, '[ "$1" = --version ] && exit 0\necho no headers >&2; exit 3'
    )
    for _ in range(2):  # the second time from memory
        with pytest.raises(native.NativeBuildError, match=r"status 3:\nno headers"):
            native.load_library(machine / "source" / "answer.cpp")
    assert libraries(machine / "cache") == []


def test_errors_of_the_source_are_shown(machine):
    (machine / "source" / "answer.cpp").write_text("int answer() { return nothing; }\n")
    with pytest.raises(native.NativeBuildError, match="nothing"):
        load(machine)


def test_missing_source(machine):
    with pytest.raises(FileNotFoundError, match="absent"):
        native.load_library(machine / "absent.cpp")


def test_cache_folder_that_cannot_be_made(machine):
    (machine / "cache").write_text("a file in the way")
    assert load(machine).answer() == 42
    (private,) = (machine / "temporary").iterdir()
    assert private.stat().st_mode & 0o077 == 0
    assert len(list(private.iterdir())) == 1


def test_a_full_disk_of_the_cache(machine, monkeypatch):
    monkeypatch.setenv("CXX", f"{sys.executable} {machine / 'full.py'}")
    (machine / "full.py").write_text(
        "import subprocess, sys\n"
        f"if any(word.startswith({str(machine / 'cache')!r}) for word in sys.argv):\n"
        "    sys.exit('No space left on device')\n"
        "sys.exit(subprocess.run(['c++', *sys.argv[1:]]).returncode)\n"
    )
    assert load(machine).answer() == 42
    assert list((machine / "temporary").glob("*/answer-*"))


def test_a_folder_that_allows_no_execution_costs_one_compilation(machine, monkeypatch):
    open_library = native.ctypes.CDLL

    def mapped(path):
        if path.startswith(str(machine / "cache")):
            raise OSError("failed to map segment from shared object")
        return open_library(path)

    monkeypatch.setattr(native.ctypes, "CDLL", mapped)
    assert load(machine).answer() == 42
    monkeypatch.setattr(native, "_compile", lambda *_: pytest.fail("compiled again"))
    assert load(machine).answer() == 42


def test_a_full_temporary_folder_keeps_nobody_from_compiling(machine, monkeypatch):
    says = machine / "says"
    compiler_script(machine, monkeypatch, f'echo "$TMPDIR" > {says}\nexec $real "$@"')
    assert load(machine).answer() == 42
    assert Path(says.read_text().strip()) == machine / "cache" / native.CACHE_NAME


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root writes anywhere")
def test_read_only_cache_folder(machine):
    (machine / "cache").mkdir(mode=0o500)
    assert load(machine).answer() == 42
    assert list((machine / "temporary").glob("*/answer-*"))


def test_read_only_cache_folder_with_the_library_in_it(machine, monkeypatch):
    load(machine)
    monkeypatch.setattr(tempfile, "mkstemp", lambda **_: pytest.fail("wrote into the cache"))
    assert load(machine).answer() == 42


def test_temporary_folder_open_to_others_is_not_trusted(machine):
    (machine / "cache").write_text("a file in the way")
    folder = machine / "temporary" / f"{native.CACHE_NAME}-{os.getuid()}"
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(native.NativeBuildError, match="not this user's alone"):
        load(machine)


def test_damaged_library_is_compiled_again(machine, monkeypatch):
    with monkeypatch.context() as context:  # the linker never reads a loaded file again
        context.setattr(native.ctypes, "CDLL", lambda path: None)
        load(machine)
    (library,) = libraries(machine / "cache")
    library.write_bytes(b"\x7fELF truncated")
    assert load(machine).answer() == 42
    assert libraries(machine / "cache") == [library]


def test_a_constant_result_is_marked_as_pytorch_marks_it():
    ours, theirs = (
        native.constant_result(lambda: 1),
        torch.compiler.assume_constant_result(lambda: 1),
    )
    assert vars(ours) == vars(theirs)
