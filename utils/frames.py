"""Frames in order of time, whatever they are stored in: one interface to read, one to write.

A source has `count` frames of the same size and reads any of them by its index:

    source = open_source("frames/")            a folder of PNG, JPEG or TIFF files
    source = open_source("input.mp4")          a video, see utils/video.py
    source = open_source("scene.tif")          a multi-page TIFF or a GeoTIFF, see utils/raster.py
    pixels = source.read(0)                    (H, W, bands), in the type of the file

A sink takes finished frames in order and keeps them, readable, in a folder for unfinished work;
`join` makes the final file or folder of them. Bands are in RGB order. A pixel without data is
masked in a numpy masked array; frames that cannot have such pixels are plain arrays.

Damaged frames are noticed where the format allows it: PNG, compressed TIFF and most videos check
their data; a JPEG that ends too early is noticed, one that is overwritten in the middle is not.
"""

import os
import re
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np

VIDEO_SUFFIXES = (".mp4", ".mov", ".m4v", ".mkv", ".avi")  # that are written; all are read
TIFF_SUFFIXES = (".tif", ".tiff")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", *TIFF_SUFFIXES)
JPEG_SUFFIXES = (".jpg", ".jpeg")
JPEG_QUALITY = 97  # no visible loss; 4:4:4, so that colours keep their resolution


# Damaged files are named by their reader; OpenCV would add lines of its own.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


class FrameError(ValueError):
    """One frame cannot be read; those around it may well be."""


class Source(ABC):
    """Frames of one size and type, read by index.

    Attributes:
        path: where they come from.
        count: number of frames.
        height, width: pixels of a frame.
        bands: channels of a frame.
        dtype: NumPy type of the values.
        colour: the indices of the bands that are red, green and blue, or None if none are.
        full_scale: whether the largest value of the type is white, as in 8 bits and in video; if
            not, the values have to be looked at (12 bits are often kept in 16).
        suffix: of the files when the frames are written to a folder.
        times: seconds of every frame from the first one on, or None where frames carry no time.
    """

    path: Path
    count: int
    height: int
    width: int
    bands: int
    dtype: np.dtype
    colour: tuple[int, int, int] | None
    full_scale: bool
    suffix: str
    times: list[Fraction] | None = None

    @abstractmethod
    def read(self, index: int) -> np.ndarray:
        """Frame `index`, (H, W, bands), masked where the file has no data.

        Raises:
            FrameError: the frame is damaged, or differs from the others in size or type.
        """

    @abstractmethod
    def name(self, index: int) -> str:
        """What to call frame `index` in a message."""

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


def describe(shape: tuple[int, int, int], dtype: np.dtype) -> str:
    """Size and type of a frame in words: "640x480, 3 bands, uint16"."""
    height, width, bands = shape
    return f"{width}x{height}, {bands} band{'s' if bands > 1 else ''}, {np.dtype(dtype).name}"


class Sink(ABC):
    """Takes finished frames in order of time.

    Arguments:
        folder: for unfinished work; what is in it of an earlier run is gone on from.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    @abstractmethod
    def finished(self) -> int:
        """How many frames, from the first one on, are complete on disk."""

    @abstractmethod
    def write(self, start: int, frames: Iterable[np.ndarray]) -> None:
        """Write the frames start, start + 1, ..., each (H, W, bands); later ones are replaced."""

    @abstractmethod
    def join(self, target: Path) -> None:
        """Make the result of all frames; `target` does not exist and appears when complete."""


class ImageFolder(Source):
    """PNG, JPEG and TIFF files in natural order of their names; 8 or 16 bits, any bands."""

    def __init__(self, path: Path, files: list[Path]):
        self.path, self.files, self.count = path, files, len(files)
        suffix = files[0].suffix.lower()
        self.suffix = ".tif" if suffix in TIFF_SUFFIXES else suffix
        self.adopt(_first_readable(read_image_file, files))

    def read(self, index: int) -> np.ndarray:
        return self.check(read_image_file(self.files[index]), index)

    def name(self, index: int) -> str:
        return str(self.files[index])


class ImageSink(Sink):
    """One image file per frame, named by its number: 00000000.png, 00000001.png, ...

    Arguments:
        folder: see Sink.
        suffix: of the files; it decides their format.
    """

    def __init__(self, folder: Path, suffix: str):
        super().__init__(folder)
        self.suffix = suffix

    def path(self, index: int) -> Path:
        """The file of frame `index`."""
        return self.folder / f"{index:08d}{self.suffix}"

    def finished(self) -> int:
        index = 0
        while self.path(index).exists():
            index += 1
        return index

    def write(self, start: int, frames: Iterable[np.ndarray]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        for index, pixels in enumerate(frames, start):
            partial = self.path(index).with_suffix(f".partial{self.suffix}")
            self.write_frame(partial, index, pixels)
            os.replace(partial, self.path(index))

    def write_frame(self, path: Path, index: int, pixels: np.ndarray) -> None:
        """Write one frame as one file; pixels without data become zero."""
        write_image_file(path, np.ma.filled(pixels, 0))

    def join(self, target: Path) -> None:
        for leftover in self.folder.glob(f"*.partial{self.suffix}"):
            leftover.unlink()
        os.replace(self.folder, target)


def open_source(path: str | Path, bands_per_frame: int = 0) -> Source:
    """Open a video, a folder of images, a multi-page TIFF or GeoTIFFs.

    Arguments:
        path: what the user named; its ending and content decide what it is.
        bands_per_frame: of a single-page GeoTIFF, how many of its bands make up one frame; 0 means
            that all of them are one frame.

    Raises:
        FileNotFoundError: there is nothing at this path.
        ValueError: nothing that can be read, or a library for it is missing.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    if path.is_dir():
        return _open_folder(path)
    if path.suffix.lower() in TIFF_SUFFIXES:
        from utils.tiff import TiffStack, needs_rasterio

        if needs_rasterio(path):
            from utils.raster import GeoTiffSource

            return GeoTiffSource(path, [path], bands_per_frame)
        return TiffStack(path)
    if path.suffix.lower() in IMAGE_SUFFIXES:
        raise ValueError(f"{path} is a single image; give a folder with at least two frames")
    from utils.video import VideoSource

    return VideoSource(path)


def _open_folder(path: Path) -> Source:
    files = [
        file
        for file in path.iterdir()
        if file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith(".")
    ]
    if not files:
        raise ValueError(f"{path} holds no frames; they end in {', '.join(IMAGE_SUFFIXES)}")
    files.sort(key=natural_key)
    if files[0].suffix.lower() in TIFF_SUFFIXES:
        from utils.tiff import needs_rasterio

        # Any of them: the first may be damaged, and its place would be lost without a word.
        if any(needs_rasterio(file) for file in files if file.suffix.lower() in TIFF_SUFFIXES):
            from utils.raster import GeoTiffSource

            return GeoTiffSource(path, files)
    return ImageFolder(path, files)


def natural_key(path: Path | str) -> list[tuple[int, int, str]]:
    """Sorts names as people do: frame2 before frame10."""
    parts = re.findall(r"\d+|\D+", path.name if isinstance(path, Path) else path)
    return [(0, int(part), part) if part.isdecimal() else (1, 0, part.lower()) for part in parts]


def _first_readable(read, files: list[Path]) -> np.ndarray:
    """The first file that can be read; a damaged one before it is named when its turn comes."""
    for file in files:
        try:
            return read(file)
        except FrameError as error:
            failure = error
    raise failure


def read_image_file(path: Path) -> np.ndarray:
    """Pixels of an image file, (H, W, bands) in RGB order, in the type of the file.

    Raises:
        FrameError: the file is damaged or no image.
    """
    if path.suffix.lower() in TIFF_SUFFIXES:
        from utils.tiff import read_page

        return read_page(path, 0, str(path))
    content = np.fromfile(path, np.uint8)
    is_jpeg = path.suffix.lower() in JPEG_SUFFIXES
    # Only without IMREAD_UNCHANGED does OpenCV turn a JPEG upright, as its EXIF data says.
    flags = cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH if is_jpeg else cv2.IMREAD_UNCHANGED
    complete = not is_jpeg or b"\xff\xd9" in content[-1024:].tobytes()  # half a JPEG decodes too
    try:
        pixels = cv2.imdecode(content, flags) if complete and content.size else None
    except cv2.error:
        pixels = None
    if pixels is None:
        raise FrameError(f"{path} cannot be decoded: damaged, truncated or no image")
    return bgr_to_rgb(pixels)


def bgr_to_rgb(pixels: np.ndarray) -> np.ndarray:
    """OpenCV's (H, W) or (H, W, BGR or BGRA) <-> (H, W, bands) in RGB order."""
    if pixels.ndim == 2:
        return pixels[..., None]
    swapped = pixels.copy()  # one copy, which indexing with a list would make twice
    swapped[..., :3] = pixels[..., 2::-1]
    return swapped


def write_image_file(path: Path, pixels: np.ndarray) -> None:
    """Write (H, W, bands) pixels as PNG, JPEG or TIFF, by the ending of the path.

    Raises:
        ValueError: the format cannot hold such pixels.
        OSError: the disk is full or the folder not writable.
    """
    suffix = path.suffix.lower()
    if suffix in TIFF_SUFFIXES:
        from utils.tiff import write_tiff

        write_tiff(path, [pixels])
        return
    allowed = (np.uint8,) if suffix in JPEG_SUFFIXES else (np.uint8, np.uint16)
    if pixels.dtype not in allowed or pixels.shape[2] not in (1, 3, 4):
        raise ValueError(
            f"{suffix} files cannot hold {describe(pixels.shape, pixels.dtype)}; "
            "give an OUTPUT that ends in .tif"
        )
    options = []
    if suffix in JPEG_SUFFIXES:
        sampling = cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444
        options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
        options += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, sampling]
    # Written by Python, not by OpenCV, whose imwrite does not say why it fails.
    try:
        is_encoded, content = cv2.imencode(suffix, bgr_to_rgb(pixels), options)
    except cv2.error:
        is_encoded = False
    if not is_encoded:  # a JPEG has at most 65500 pixels a side, OpenCV limits of its own for PNG
        raise ValueError(
            f"{suffix} files cannot hold {describe(pixels.shape, pixels.dtype)}; "
            "give an OUTPUT that ends in .tif"
        )
    path.write_bytes(content)


def free_of(path: Path, overwrite: bool) -> None:
    """Make sure that a result may be put at `path`.

    Raises:
        ValueError: something is there and may not be replaced.
    """
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    if not overwrite:
        raise ValueError(f"{path} exists; choose another OUTPUT or add --overwrite")
    if path.is_dir():
        strange = [file.name for file in path.iterdir() if not re.match(r"\d{8}\.\w+$", file.name)]
        if strange:
            raise ValueError(
                f"{path} holds files that are no frames of an earlier result ({strange[0]}, ...); "
                "it is not overwritten, choose another OUTPUT"
            )


def remove(path: Path) -> None:
    """Delete a file or folder, if there is one."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
