"""Compile a C++ source with a C interface on first use, cache the library and load it.

There is nothing to build by hand: the first process that needs a kernel compiles it with
whatever C++ compiler the machine has, the following ones find the library in the user's
cache folder. The name of the library holds a key of all it depends on, so that a changed
source, another compiler, or a home folder shared between machines never meet a stale one.
"""

import contextlib
import ctypes
import hashlib
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

CACHE_NAME = "mstt-stvsr"
COMPILERS = ("c++", "g++", "clang++")  # tried in this order unless $CXX names one
COMPILE_SECONDS = 300  # a compiler that takes longer hangs
VERSION_SECONDS = 60  # the same for its --version
COMMON_FLAGS = ("-std=c++17", "-O3", "-shared")
# Not every compiler knows -march=native and not every machine has OpenMP: the best set of
# flags that compiles is taken.
OPTIONAL_FLAGS = (("-march=native", "-fopenmp"), ("-fopenmp",), ("-march=native",), ())
SUFFIX = {"win32": ".dll", "darwin": ".dylib"}.get(sys.platform, ".so")

F = TypeVar("F", bound=Callable)

_lock = threading.Lock()
_results: dict[tuple[Path, tuple[str, ...]], "ctypes.CDLL | NativeBuildError"] = {}


class NativeBuildError(RuntimeError):
    """No C++ compiler, one that fails, or no folder that a library can be loaded from."""


def constant_result(function: F) -> F:
    """Mark a function whose result a compiled network may keep, such as the choice of a kernel.

    As `torch.compiler.assume_constant_result` does, which imports all of PyTorch's compiler: that
    takes as long as the rest of a script's start.
    """
    function._dynamo_marked_constant = True
    return function


def load_library(source: Path, flags: tuple[str, ...] = ()) -> ctypes.CDLL:
    """Load the library of a C++ source, compiling it if this was not done before.

    Arguments:
        source: one C++17 file that exports `extern "C"` functions. It may include system
            headers and, in quotes, headers of ours. It must compile without OpenMP too.
        flags: compiler flags added to the usual ones.

    Returns: The library, the same object for the same arguments. Its functions release Python's
        lock while they run; argument and result types are for the caller to declare.

    Raises:
        FileNotFoundError: there is no such source.
        NativeBuildError: it cannot be compiled or loaded here; the message says why.
    """
    key = (Path(source).resolve(), tuple(flags))
    with _lock:
        if key not in _results:
            try:
                _results[key] = _load(*key)
            except NativeBuildError as error:
                _results[key] = error
        result = _results[key]
    if isinstance(result, NativeBuildError):
        raise result
    return result


def _load(source: Path, flags: tuple[str, ...]) -> ctypes.CDLL:
    code = b"\0".join(_with_headers(source))
    compiler, version = _find_compiler()
    options = repr((compiler, COMMON_FLAGS, OPTIONAL_FLAGS, flags))
    parts = (code, version.encode(), options.encode(), _cpu().encode())
    digest = hashlib.sha256(b"\0".join(hashlib.sha256(part).digest() for part in parts))
    name = f"{source.stem}-{digest.hexdigest()[:20]}{SUFFIX}"
    folders = (_user_cache, _temporary_cache)
    # Where the first folder allows no execution, what it holds fails to load at every start: the
    # next one is asked before anything is compiled again.
    for folder in folders:
        with contextlib.suppress(OSError, RuntimeError):
            if not (library := folder() / name).exists():
                break
            return ctypes.CDLL(str(library))
    problems: list[Exception] = []
    for folder in folders:
        try:
            return _load_from(folder() / name, source, compiler, flags)
        # RuntimeError: there is no home folder, or the compiler fails, perhaps on a full disk.
        except (OSError, RuntimeError) as error:
            problems.append(error)
    if isinstance(problems[-1], NativeBuildError):
        raise problems[-1]
    raise NativeBuildError(f"no usable folder for {name}: {'; '.join(map(str, problems))}")


def _with_headers(source: Path) -> list[bytes]:
    """The text of a source and of what it includes in quotes, directly or not."""
    paths = [source]
    for path in paths:  # which grows as headers are found
        for name in re.findall(r'^\s*#\s*include\s+"([^"]+)"', path.read_text(), re.MULTILINE):
            header = (path.parent / name).resolve()
            if header not in paths:
                paths.append(header)
    return [path.read_bytes() for path in paths]


def _load_from(
    library: Path, source: Path, compiler: tuple[str, ...], flags: tuple[str, ...]
) -> ctypes.CDLL:
    """Load the library, compiled where it is missing or damaged. OSError: bad folder."""
    if library.exists():
        try:
            return ctypes.CDLL(str(library))
        except OSError:
            library.unlink(missing_ok=True)
    handle, name = tempfile.mkstemp(suffix=SUFFIX, prefix=f"{library.stem}-", dir=library.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        _compile(source, temporary, compiler, flags)
        # Two processes may be here at once. Each has a file of its own, and the rename
        # replaces a whole library by an equal one.
        try:
            os.replace(temporary, library)
        except PermissionError:  # Windows: another process has already loaded it
            if not library.exists():
                raise
    finally:
        temporary.unlink(missing_ok=True)
    return ctypes.CDLL(str(library))


def _compile(source: Path, target: Path, compiler: tuple[str, ...], flags: tuple[str, ...]) -> None:
    # Python looks nowhere on Windows for the libraries of a compiler: they have to be inside.
    linked = "-static" if sys.platform == "win32" else "-fPIC"
    for optional in OPTIONAL_FLAGS:
        command = (*compiler, *COMMON_FLAGS, linked, *optional, *flags)
        command = (*command, str(source), "-o", str(target))
        run = _run(command, COMPILE_SECONDS, target.parent)
        if run.returncode == 0:
            return
    raise NativeBuildError(
        f"{shlex.join(command)} failed with status {run.returncode}:\n{run.stderr.strip()[-2000:]}"
    )


def _run(
    command: tuple[str, ...], seconds: float, folder: Path | None = None
) -> subprocess.CompletedProcess:
    """Run a compiler, whose own temporary files go into a folder: the usual one may be full."""
    names = ("TMPDIR", "TMP", "TEMP") if folder else ()
    try:
        return subprocess.run(
            command,
            env=os.environ | dict.fromkeys(names, str(folder)),
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NativeBuildError(f"{shlex.join(command)}: {error}") from error


def _find_compiler() -> tuple[tuple[str, ...], str]:
    """The command of the first compiler that runs, and what it says its version is."""
    chosen = os.environ.get("CXX", "").strip()
    problems = []
    for candidate in (chosen,) if chosen else COMPILERS:
        try:
            command = tuple(shlex.split(candidate, posix=sys.platform != "win32"))
        except ValueError as error:
            raise NativeBuildError(f"$CXX is {candidate!r}: {error}") from error
        if sys.platform == "win32":  # where shlex keeps quotes, to keep backslashes
            command = tuple(word.strip('"') for word in command)
        if shutil.which(command[0]) is None:
            problems.append(f"{command[0]} not found")
            continue
        try:
            run = _run((*command, "--version"), VERSION_SECONDS)
        except NativeBuildError as error:
            problems.append(str(error))
            continue
        if "windows-msvc" in run.stdout:  # whose libraries would hide our functions
            problems.append(f"{candidate} builds for MSVC, not MinGW")
        elif run.returncode == 0:
            return command, run.stdout
        else:
            problems.append(f"{candidate} --version: status {run.returncode}")
    source = "$CXX names no" if chosen else "no"
    raise NativeBuildError(f"{source} working C++ compiler ({'; '.join(problems)})")


def _cpu() -> str:
    """What -march=native depends on: the architecture and the CPU's instruction sets."""
    features = platform.processor()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        names = ("model name", "flags", "Features", "CPU part")
        features = "\n".join(sorted({line for line in lines if line.startswith(names)}))
    except OSError:
        pass  # not Linux
    return f"{sys.platform} {platform.machine()} {features}"


def _user_cache() -> Path:
    base = os.environ.get("LOCALAPPDATA" if sys.platform == "win32" else "XDG_CACHE_HOME")
    folder = (Path(base) if base else Path.home() / ".cache") / CACHE_NAME
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _temporary_cache() -> Path:
    """A folder under the system's temporary one that belongs to this user alone."""
    if not hasattr(os, "getuid"):  # Windows: the temporary folder is the user's own
        folder = Path(tempfile.gettempdir()) / CACHE_NAME
        folder.mkdir(exist_ok=True)
        return folder
    folder = Path(tempfile.gettempdir()) / f"{CACHE_NAME}-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    # Others can create a folder of this name first, and what lies in it will be executed.
    status = folder.lstat()
    if folder.is_symlink() or status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise PermissionError(f"{folder} is not this user's alone")
    return folder
