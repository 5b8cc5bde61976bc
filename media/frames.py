"""Frames in order of time, whatever they are stored in: one interface to read, one to write.

A source has `count` frames of the same size and reads any of them by its index:

    from media.open import open_source
    source = open_source("frames/")            a folder of PNG, JPEG or TIFF files
    source = open_source("input.mp4")          a video, see media/video.py
    source = open_source("scene.tif")          a multi-page TIFF or GeoTIFF, see media/raster.py
    pixels = source.read(0)                    (H, W, bands), in the type of the file

A sink takes finished frames in order and keeps them, readable, in a folder for unfinished work;
`join` makes the final file or folder of them. Bands are in RGB order. A pixel without data is
masked in a numpy masked array; frames that cannot have such pixels are plain arrays.

Damaged frames are noticed where the format allows it: PNG, compressed TIFF and most videos check
their data; a JPEG that ends too early is noticed, one that is overwritten in the middle is not.
"""

import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np

from utils.files import names_in

VIDEO_SUFFIXES = (".mp4", ".mov", ".m4v", ".mkv", ".avi")  # that are written; all are read
TIFF_SUFFIXES = (".tif", ".tiff")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", *TIFF_SUFFIXES)
REPLACED = (*VIDEO_SUFFIXES, *TIFF_SUFFIXES, ".png", ".html")  # endings of results in one file
SMALL = 2**28  # bytes of a frame, for which there is memory anywhere
JPEG_SUFFIXES = (".jpg", ".jpeg")
LARGEST_JPEG = 65500  # pixels, of a side
T, U = TypeVar("T"), TypeVar("U")

# Damaged files are named by their reader; OpenCV would add lines of its own.
(getattr(cv2, "setLogLevel", None) or cv2.utils.logging.setLogLevel)(0)  # OpenCV 4, or 5


class FrameError(ValueError):
    """One frame cannot be read; those around it may well be."""


def check_claim(name: str | Path, height: int, width: int, claimed: int, most: int) -> None:
    """Refuse a frame before there is memory for it: a header of some bytes can claim terabytes.

    Arguments:
        claimed: bytes of its pixels.
        most: bytes that its file can hold; fewer than SMALL are never too many.

    Raises: FrameError: it claims more.
    """
    if claimed > max(SMALL, most):
        raise FrameError(
            f"{name} cannot be read: it claims {width}x{height} pixels, {claimed / 2**30:,.1f} GiB"
        )


class Source(ABC):
    """Frames of one size and type, read by index."""

    path: Path  # where they come from
    count: int
    height: int  # pixels
    width: int
    bands: int
    dtype: np.dtype  # of the values
    colour: tuple[int, int, int] | None  # indices of the bands that are red, green and blue
    # Whether the largest value of the type is white, as in 8 bits and in video; if not, the values
    # have to be looked at (12 bits are often kept in 16).
    full_scale: bool
    suffix: str  # of the files when the frames are written to a folder
    lossy: bool = False  # whether they went through lossy compression, as far as the file tells
    alpha: int | None = None  # index of the band that says how opaque pixels are
    measured: bool = False  # whether values are measurements of any scale, not those of a picture
    inverted: bool = False  # whether the smallest value is white
    bits: int = 0  # of a value, where the file keeps fewer than the type has
    times: list[Fraction] | None = None  # seconds of every frame from the first one on, if any
    last: Fraction | None = None  # seconds that the last frame is shown, where frames have times

    @abstractmethod
    def read(self, index: int) -> np.ndarray:
        """Frame `index`, (H, W, bands), masked where the file has no data.

        Raises: FrameError: the frame is damaged, or differs from the others in size or type.
        """

    @abstractmethod
    def name(self, index: int) -> str:
        """What to call frame `index` in a message."""

    def keep_only(self, part: slice) -> None:
        """Forget the frames outside of a part; `select` sets the count. For sources of files."""
        raise NotImplementedError

    def select(self, start: int, count: int) -> None:
        """Be only `count` frames from `start` on, where there has to be one; 0: all that follow."""
        if not 0 <= start < self.count:
            raise ValueError(f"{self.path} has {self.count} frames, none from {start} on")
        stop = min(start + count, self.count) if count else self.count
        if stop - start < self.count:
            self.keep_only(slice(start, stop))
            self.count = stop - start

    def adopt(self, first: np.ndarray) -> None:
        """Take size and type of all frames from the first one."""
        self.height, self.width, self.bands = first.shape
        self.dtype = first.dtype
        self.colour = (0, 1, 2) if self.bands >= 3 else None
        self.full_scale = first.dtype == np.uint8

    def adopt_from(self, source: "Source") -> None:
        """Be like another source, whose frames are passed on changed."""
        for name in Source.__annotations__:
            setattr(self, name, getattr(source, name))

    def check(self, pixels: np.ndarray, index: int) -> np.ndarray:
        """The pixels, if they are like those of the first frame."""
        self.check_header(pixels.shape, pixels.dtype, index)
        return pixels

    def check_header(self, shape: tuple[int, int, int], dtype: np.dtype, index: int) -> None:
        """The same before a frame is read: a damaged header may promise any number of pixels."""
        expected = (self.height, self.width, self.bands)
        if shape != expected or dtype != self.dtype:
            raise FrameError(
                f"{self.name(index)} is {describe(shape, dtype)}, the first frame "
                f"{describe(expected, self.dtype)}; all must be alike"
            )


def first_readable(read: Callable[[T], U], frames: Iterable[T]) -> U:
    """The first frame that can be read; damaged ones before it are named when their turn comes."""
    for frame in frames:
        try:
            return read(frame)
        except FrameError as error:
            failure = error
    raise failure


def describe(shape: tuple[int, int, int], dtype: np.dtype) -> str:
    """Size and type of a frame in words: "640x480, 3 bands, uint16"."""
    height, width, bands = shape
    return f"{width}x{height}, {bands} band{'s' if bands > 1 else ''}, {np.dtype(dtype).name}"


class Sink(ABC):
    """Takes finished frames in order of time; goes on with what an earlier run left in `folder`."""

    def __init__(self, folder: Path):
        self.folder = folder

    @abstractmethod
    def holds(self, start: int, stop: int) -> bool:
        """Whether the frames start, ..., stop - 1, made by one `write`, are complete on disk."""

    @abstractmethod
    def write(self, start: int, frames: Iterable[np.ndarray]) -> None:
        """Write the frames start, start + 1, ..., each (H, W, bands); later ones are replaced."""

    @abstractmethod
    def join(self, target: Path) -> None:
        """Make the result of all frames; `target` does not exist and appears when complete."""


def bgr_to_rgb(pixels: np.ndarray) -> np.ndarray:
    """OpenCV's (H, W) or (H, W, BGR or BGRA) <-> (H, W, bands) in RGB order."""
    if pixels.ndim == 2:
        return pixels[..., None]
    codes = {3: cv2.COLOR_BGR2RGB, 4: cv2.COLOR_BGRA2RGBA}  # ten times as fast as by NumPy
    return pixels if pixels.shape[2] == 1 else cv2.cvtColor(pixels, codes[pixels.shape[2]])


def turned_upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """(H, W, bands) as an orientation of TIFF and EXIF, 1 to 8, says; others mean 1, upright."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    rows = -1 if orientation in (3, 4, 7, 8) else 1
    columns = -1 if orientation in (2, 3, 6, 7) else 1
    return pixels[::rows, ::columns]


def free_of(path: Path, overwrite: bool) -> None:
    """Make sure that a result may be put at `path`: a ValueError for what may not be replaced."""
    names = names_in(path) if path.is_dir() else set()
    if not path.exists() or (path.is_dir() and not names):
        return
    if not overwrite:
        raise ValueError(f"{path} exists; choose another OUTPUT or add --overwrite")
    if not path.is_dir() and not (path.is_file() and path.suffix.lower() in REPLACED):
        raise ValueError(f"{path} is no earlier result, so it stays; choose another OUTPUT")
    if path.is_dir():
        suffix = Path(min(names)).suffix
        strange = sorted(names - {f"{index:08d}{suffix}" for index in range(len(names))})
        if strange:
            raise ValueError(
                f"{path} holds files that are not frames of an earlier result ({strange[0]}, ...); "
                "it is not overwritten, choose another OUTPUT"
            )


def remove(path: Path) -> None:
    """Delete a file or folder, if there is one."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
