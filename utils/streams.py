"""What a script prints on: standard streams that may be closed, full or a file, and its bars."""

import contextlib
import os
import sys

from tqdm import tqdm

LOG_SECONDS = 60.0  # between two lines of a progress bar that nobody watches


def open_closed_streams() -> None:
    """Let standard streams that are closed (`2>&-`) lead nowhere.

    The next file that is opened would else get the number of one, and the warnings that C
    libraries print would go into it.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            nowhere = os.open(os.devnull, os.O_RDWR)
            if nowhere != number:
                os.dup2(nowhere, number)
                os.close(nowhere)
            os.set_inheritable(number, True)  # for compilers and other children
        if getattr(sys, name) is None:
            mode = "w" if number else "r"
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", errors="replace"))


def tell(line: str) -> None:
    """Print a line on standard error, which may be what failed: a pipe without a reader."""
    with contextlib.suppress(OSError):
        print(line, file=sys.stderr, flush=True)


def drop_unwritten() -> None:
    """Print what waits for it, or nowhere, or else Python reports a broken pipe at its very end."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)


def progress_bar(*arguments, **options) -> tqdm:
    """A bar of tqdm on standard error; in the log of a job, a line in LOG_SECONDS."""
    if not sys.stderr.isatty():
        options |= {"mininterval": LOG_SECONDS, "maxinterval": LOG_SECONDS}
    return tqdm(*arguments, **options)
