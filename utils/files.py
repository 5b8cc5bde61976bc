"""Files written whole or not at all, and their hash."""

import hashlib
import os
import secrets
from pathlib import Path

PARTIAL = ".partial"  # ending of a file that is being written


def write_atomically(path: Path, write) -> None:
    """Call write(partial) on a temporary name beside path, flush it to disk, rename it to path.

    A process killed meanwhile leaves the partial file, whose name no reader takes for a checkpoint.
    """
    # Not the process's number, which processes in containers may share.
    partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}{PARTIAL}")
    try:
        write(partial)
        with open(partial, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    if hasattr(os, "O_DIRECTORY"):  # the new name itself reaches the disk with its folder
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def file_sha256(path: str | Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
