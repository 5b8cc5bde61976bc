"""What a file of torch.save asks for, found before PyTorch does any of it.

`torch.load(weights_only=True)` runs no code, but it fills all the memory that a file of a hundred
bytes asks for, and a key of tuples in tuples ends the interpreter, which hashes them without limit.
"""

import pickletools
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

ZIP_MAGIC = b"PK\x03\x04"
OLD_FORMAT_PICKLES = 5  # before zip: magic number, version, system, content, names of storages
MAX_DEPTH = 100  # of tuples in tuples; a checkpoint of ours has 3
BUILTINS = ("builtins ", "__builtin__ ")  # of those PyTorch allows, bytearray(10**12) is one
PUTS = ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE")
GETS = ("GET", "BINGET", "LONG_BINGET")


def check_torch_file(path: str | Path) -> None:
    """Refuse what torch.save never writes and what would harm its reader.

    Raises:
        ValueError: parts that are compressed or larger than the file, calls of Python's own
            functions, or tuples of great depth; also a damaged file.
    """
    with open(path, "rb") as file:
        if file.read(len(ZIP_MAGIC)) == ZIP_MAGIC:
            with zipfile.ZipFile(file) as archive:
                _check_archive(archive, Path(path).stat().st_size)
            return
        file.seek(0)
        for _ in range(OLD_FORMAT_PICKLES):
            _check_pickle(file)


def _check_archive(archive: zipfile.ZipFile, size: int) -> None:
    """torch.save stores every part once, uncompressed; a file that claims more is a bomb."""
    parts = archive.infolist()
    if any(part.compress_type != zipfile.ZIP_STORED for part in parts):
        raise ValueError("its parts are compressed, which PyTorch never does")
    if sum(part.file_size for part in parts) > size:
        raise ValueError("its parts are larger than the file")
    for part in parts:
        if part.filename.endswith(".pkl"):
            with archive.open(part) as file:
                _check_pickle(file)


def _check_pickle(file: BinaryIO) -> None:
    """Follow one pickle with the depth of the tuples in its values in the place of the values."""
    stack: list[int] = []
    marks: list[int] = []
    memo: dict[Any, int] = {}
    for code, argument, _ in pickletools.genops(file):
        if code.name == "GLOBAL" and argument.startswith(BUILTINS):
            raise ValueError(f"it calls Python's {argument.partition(' ')[2]}")
        if code.name == "MARK":
            marks.append(len(stack))
        elif code.name in PUTS:
            memo[len(memo) if code.name == "MEMOIZE" else argument] = stack[-1]
        elif code.name in GETS:
            stack.append(memo[argument])
        else:
            before = code.stack_before
            if pickletools.markobject in before:
                start = marks.pop() - before.index(pickletools.markobject)
            else:
                start = len(stack) - len(before)
            if start < 0:
                raise ValueError("it takes values that are not there")
            depth = max(stack[start:], default=0) + ("TUPLE" in code.name)
            if depth > MAX_DEPTH:
                raise ValueError("it holds tuples of great depth")
            stack[start:] = [depth] * len(code.stack_after)
