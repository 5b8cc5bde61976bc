"""Files written whole or not at all, folders for one process alone, and hashes."""

import contextlib
import hashlib
import os
import platform
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

PARTIAL = ".partial"  # ending of a file that is being written
LITTER = {".DS_Store", "Thumbs.db", "desktop.ini"}  # what file managers leave in a folder
LOCK = ".lock"  # in a folder that one process at a time works in
# Windows replaces no file that is open, which a scanner for viruses or a reader soon closes.
RETRIES = (0.1, 0.5, 2, 5) if os.name == "nt" else ()  # seconds to wait before each


def beside(path: Path) -> Path:
    """A hidden name in the same folder, for what is renamed to `path` when it is whole."""
    # Not the process's number, which processes in containers may share.
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}{PARTIAL}")


def write_atomically(path: Path, write) -> None:
    """Call write(partial) on a temporary name beside path, flush it to disk, rename it to path.

    A process killed meanwhile leaves the partial file, whose name no reader takes for a checkpoint.
    """
    partial = beside(path)
    try:
        write(partial)
        with open(partial, "rb+") as file:
            os.fsync(file.fileno())
        replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    if hasattr(os, "O_DIRECTORY"):  # the new name itself reaches the disk with its folder
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            with contextlib.suppress(OSError):  # file systems of networks may not know that
                os.fsync(folder)
        finally:
            os.close(folder)


def replace(partial: Path, path: Path) -> None:
    """`os.replace`, again after a while where Windows refuses it."""
    for seconds in RETRIES:
        try:
            os.replace(partial, path)
            return
        except PermissionError:
            time.sleep(seconds)
    os.replace(partial, path)


def names_in(folder: Path) -> set[str]:
    """What a folder holds, but for LITTER."""
    return {file.name for file in folder.iterdir()} - LITTER


def check_empty(folder: Path) -> None:
    """Refuse a folder to write to that holds something already, with a ValueError."""
    if folder.exists() and names_in(folder):
        raise ValueError(f"{folder} holds something already; give an empty folder")


@contextlib.contextmanager
def lock_folder(folder: Path, otherwise: str) -> Iterator[Callable[[], bool]]:
    """Keep other processes that lock it out of a folder for the time of the block.

    The lock is the operating system's: it ends with the process however that ends, so that none
    is ever left behind. The file .lock only says who holds it.

    Arguments:
        folder: which has to be there.
        otherwise: what to do where it is in use.

    Yields: a function that says whether the file that is locked is still the one in the folder.
    Raises: ValueError: another process holds it.
    """
    path = folder / LOCK
    with open(path, "a+", encoding="utf-8") as file:

        def is_there() -> bool:
            return path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat())

        try:
            _lock(file)
        except (BlockingIOError, PermissionError):
            file.seek(0)
            owner = file.read().strip() or "another process"
            raise ValueError(f"{folder} is in use by {owner}; {otherwise}") from None
        except OSError as error:  # a file system without locks
            print(f"{folder} cannot be locked ({error}): start nothing else there", flush=True)
        if not is_there():  # it was being removed when it was opened
            raise ValueError(f"{folder} was in use just now; try again")
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()} since {time.asctime()}")
        file.flush()
        yield is_there


def remove_unused(folder: Path) -> None:
    """Remove a folder that holds nothing but its lock; Windows keeps one that is held."""
    with contextlib.suppress(OSError):
        if [path.name for path in folder.iterdir()] == [LOCK]:
            (folder / LOCK).unlink()
            folder.rmdir()


def _lock(file: TextIO) -> None:
    if os.name == "nt":
        import msvcrt

        file.seek(2**20)  # a locked byte cannot be read, so one far behind the owner's name
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        # Not flock: loader workers would inherit that lock and could outlive this process.
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def file_sha256(path: str | Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
