"""A long run that can be interrupted: its folder for unfinished work, and what it was told.

    OUTPUT.partial/.lock        which process works there
    OUTPUT.partial/job.json     the settings of the run; --resume checks them
    OUTPUT.partial/frames/      finished frames, or finished pieces of the video; all readable
    OUTPUT.partial/pass1/       LR frames between the given ones, for --times 4 and more
    OUTPUT.partial/window.../   the window in work, and the one that is being written

What is in frames/ and pass1/ appears under its name only when it is complete, so what is there
counts. Of a window that is cut into tiles, finished rows of tiles count.
"""

import contextlib
import json
import os
import time
import zipfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from enhancement.levels import Levels
from enhancement.tiling import Carried
from media.frames import free_of, remove
from models.inference import WINDOW
from utils.files import LOCK, lock_folder, remove_unused, replace, write_atomically
from utils.memory import is_out_of_memory
from utils.text import one_line

ROWS = 64  # of a frame that are converted at once
# Settings that are younger than the unfinished work may be, and what they were then.
UNRECORDED = {"window": WINDOW}
CARRIED = "carried.npz"  # of a window in tiles, what it takes to go on
KEEP_SECONDS = 30.0  # of work, at least, that such a file saves a resumed run


def work_folder(output: Path) -> Path:
    """Where the unfinished work for an output is: beside it, so that renaming moves no data."""
    return output.with_name(output.name + ".partial")


@contextlib.contextmanager
def memory_told(output: Path) -> Iterator[None]:
    """A block in which the end of the memory is a ValueError that says where the frames are."""
    try:
        yield
    except Exception as error:  # NumPy, PyTorch, OpenCV and FFmpeg have each their own
        if not is_out_of_memory(error):
            raise
        folder = work_folder(output)
        finished = f"; finished frames are in {folder}, go on with --resume"
        raise ValueError(f"out of memory{finished if folder.exists() else ''}") from error


class Job:
    """The unfinished work for one output.

    Arguments:
        output: the final file or folder.
        settings: all that decides the result; JSON values.
        resume: go on from earlier unfinished work, if there is any.
        overwrite: replace the output and earlier unfinished work.

    Raises: ValueError: the output exists; there is unfinished work and neither resume nor overwrite
        says what to do with it; it was made with other settings, or its record is damaged.
    """

    def __init__(self, output: Path, settings: dict[str, Any], resume: bool, overwrite: bool):
        self.output = output
        self.folder = work_folder(output)
        self.record = self.folder / "job.json"
        # What the run found out itself and a resumed one has to keep to, such as the tile.
        self.notes: dict[str, Any] = {}
        self.saves = True  # not in other processes, which have a copy
        self.settings, self.overwrite = settings, overwrite
        free_of(output, overwrite)
        if self.record.exists():
            if resume:
                self._resume()
                return
            if not overwrite:
                raise ValueError(
                    f"{self.folder} holds unfinished work; "
                    "--resume goes on, --overwrite starts again"
                )
        self._clear()
        self._save()

    def _clear(self) -> None:
        """Remove all but the lock, the record last: without it, the rest is none of ours."""
        for path in sorted(self.folder.iterdir(), key=lambda path: path == self.record):
            if path.name != LOCK:
                remove(path)

    def _resume(self) -> None:
        try:
            content = json.loads(self.record.read_text())
            earlier, notes = dict(content["settings"]), dict(content["notes"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{self.record} is damaged ({one_line(str(error))}); start again with --overwrite"
            ) from error
        for name, value in self.settings.items():
            before = earlier.get(name, UNRECORDED.get(name))
            if before != value:
                raise ValueError(
                    f"{self.folder} was made with {name} {before!r}, now it is {value!r}; "
                    "resume with the same settings, or start again with --overwrite"
                )
        self.notes = notes

    def clear_windows(self, title: str, missing: Collection[tuple[int, int]]) -> None:
        """Remove what interrupted runs have left of windows that no run can go on with.

        Arguments:
            title: of a pass.
            missing: shot and start of the windows that it has to make.
        """
        worth = tuple(window_name(title, *window) for window in missing)
        for leftover in self.folder.glob("window*"):
            of_pass = leftover.name.startswith(window_name(title))
            is_made = of_pass and not leftover.name.startswith(worth)
            if is_made or not (leftover / CARRIED).exists():
                remove(leftover)

    def note(self, name: str, value: Any) -> None:
        """Remember something for a resumed run."""
        self.notes[name] = value
        if self.saves:
            self._save()

    def _save(self) -> None:
        text = json.dumps({"settings": self.settings, "notes": self.notes}, indent=2)
        write_atomically(self.record, lambda partial: partial.write_text(text + "\n"))

    def finish(self, results: dict[Path, Path]) -> None:
        """Put the results in their places and remove the unfinished work.

        Arguments:
            results: by the path where each belongs, where it is now; the output last.

        Raises: ValueError: something has appeared in such a place since the start.
        """
        for target in results:
            try:
                free_of(target, self.overwrite)
            except ValueError as error:
                raise ValueError(
                    f"{error}; the finished result waits in {self.folder}, "
                    "--resume puts it in its place"
                ) from error
        for target, result in results.items():
            remove(target)
            replace(result, target)
        self._clear()


@contextlib.contextmanager
def locked(output: Path) -> Iterator[None]:
    """A block in which no other process works on an output; a ValueError where one does already.

    Raises: ValueError: what has the name of our folder was not made by us.
    """
    folder = work_folder(output)
    if not (folder / LOCK).exists():  # or another process may be at work on what is in it
        _check_ours(folder)
    folder.mkdir(exist_ok=True)
    with lock_folder(folder, "wait for it, or choose another OUTPUT") as is_there:
        try:
            _check_ours(folder)
            yield
        finally:
            if is_there():
                remove_unused(folder)
    if os.name == "nt":
        remove_unused(folder)  # unless another process has opened the lock


def _check_ours(folder: Path) -> None:
    """Raise a ValueError for what is there and was not made by us."""
    if folder.is_dir():
        names = {path.name for path in folder.iterdir()}
        begun = {name for name in names if name == LOCK or name.startswith(".job.json.")}
        is_foreign = "job.json" not in names and names != begun
    else:
        is_foreign = folder.exists() or folder.is_symlink()
    if is_foreign:
        raise ValueError(
            f"{folder} is not unfinished work (it has no job.json) and is left alone; "
            "move it away, or choose another OUTPUT"
        )


def window_name(*place: str | int) -> str:
    """What the folders of windows begin with: the pass, or the pass, the shot and the start."""
    return f"window {', '.join(map(str, place))}, "


class WindowBuffer:
    """The output frames of one window, filled strip by strip and kept on disk.

    The frames of a window of 48000x20000 pixels do not fit in memory; one does.

    Arguments:
        folder: for one file per frame; what is in it was made of the same window.
        frames: number of frames, whose rows have `width`, `bands` and `dtype`.
    """

    def __init__(self, folder: Path, frames: int, width: int, bands: int, dtype: np.dtype):
        folder.mkdir(exist_ok=True)
        self.folder, self.paths = folder, [folder / f"{index}.raw" for index in range(frames)]
        self.row, self.dtype = (-1, width, bands), dtype
        self.kept = time.monotonic()
        self.carried, size = self._left_over()
        for path in self.paths:
            with path.open("ab") as file:
                file.truncate(size)

    def _left_over(self) -> tuple[Carried, int]:
        """How far an interrupted run came, and the size of its files then."""
        try:
            with np.load(self.folder / CARRIED) as state:
                carried, size = Carried(int(state["finished"]), state["rows"]), int(state["size"])
            if all(path.stat().st_size >= size for path in self.paths):
                return carried, size
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            pass  # there is none, or the machine stopped before it was on the disk
        return Carried(), 0

    def keep(self) -> None:
        """Note that the rows before `carried` are there, if that is worth it and there is space."""
        is_last = self.carried.rows is None or self.carried.rows.shape[1] == 0
        if is_last or time.monotonic() - self.kept < KEEP_SECONDS:
            return
        size = self.paths[0].stat().st_size

        def write(partial: Path) -> None:
            with partial.open("wb") as file:
                np.savez(file, finished=self.carried.finished, rows=self.carried.rows, size=size)

        with contextlib.suppress(OSError):
            write_atomically(self.folder / CARRIED, write)
        self.kept = time.monotonic()

    def append(self, strip: np.ndarray, levels: Levels) -> None:
        """Add rows, (frames, rows, width, bands) float32, black 0 and white 1, to every frame."""
        for path, rows in zip(self.paths, strip, strict=True):
            with path.open("ab") as file:
                # Converted in small parts: the strip may fill most of the memory.
                for top in range(0, len(rows), ROWS):
                    values = levels.from_unit(rows[top : top + ROWS], self.dtype)
                    # Unlike ndarray.tofile, this says what is wrong when the disk is full.
                    file.write(np.ascontiguousarray(values).data)

    def __iter__(self) -> Iterator[np.ndarray]:
        """The frames, each (height, width, bands), read from the disk as they are used."""
        for path in self.paths:
            yield np.memmap(path, self.dtype, "r").reshape(self.row)
