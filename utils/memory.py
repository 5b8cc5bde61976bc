"""Memory that is freed, and memory that runs out."""

import ctypes
import sys

TRIM_THRESHOLD, MMAP_MAX = -1, -4  # parameters of glibc's mallopt, from malloc.h
LARGEST = 2**31 - 1


def keep_freed_memory() -> bool:
    """Keep freed memory for the next tensors instead of giving it back to the system.

    A network frees and asks for the same maps again and again. By default glibc returns large
    ones, and the system clears every page when it hands it out anew: 5 to 15 % of the time of
    this network on a CPU, and more than half of its obvious formulation's (benchmarks/NOTES.md).
    The price is up to a third more memory at the peak. Scripts call this at their start; other
    C libraries than glibc are left as they are.

    Returns: whether this C library can be told.
    """
    library = _glibc()
    if library is None:
        return False
    return bool(library.mallopt(MMAP_MAX, 0) and library.mallopt(TRIM_THRESHOLD, LARGEST))


def return_freed_memory() -> None:
    """Give back to the system what is free now, before something else needs memory."""
    library = _glibc()
    if library is not None:
        library.malloc_trim(0)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception of Python, PyTorch or OpenCV says that memory ran out, on any device."""
    texts = ("out of memory", "can't allocate memory", "not enough memory", "Insufficient memory")
    return isinstance(error, MemoryError) or (
        not isinstance(error, OSError | ValueError) and any(text in str(error) for text in texts)
    )


def _glibc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "gnu_get_libc_version") else None
