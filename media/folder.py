"""Frames in a folder, one PNG or JPEG file each; sinks for these and TIFF."""

import contextlib
import io
import itertools
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path

import cv2
import numpy as np
import tifffile
from PIL import Image

from media.ends import (
    JPEG_MAGIC,
    PNG_MAGIC,
    has_end,
    is_animation,
    jpeg_frame,
    png_chunks,
    png_frame,
)
from media.frames import (
    JPEG_SUFFIXES,
    TIFF_SUFFIXES,
    FrameError,
    Sink,
    Source,
    bgr_to_rgb,
    check_claim,
    describe,
    first_readable,
    turned_upright,
)
from media.raster import read_tiff
from media.tiff import ORIENTATION, write_tiff
from utils.files import replace

# Of the texts of a PNG that may say how it is turned: ImageMagick's and XMP.
EXIF_MARKS = (b"Raw profile type", b"XML:com.adobe.xmp")
PNG_VALUES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # of a pixel, by colour type
# Bytes of a picture that a byte of its file can stand for: deflate 1,032; a run of BMP 383; a block
# of JPEG needs some bits.
PNG_RATIO, BMP_RATIO, JPEG_RATIO = 1040, 384, 4096
JPEG_QUALITY = 97  # no visible loss; 4:4:4, so that colours keep their resolution


class ImageFolder(Source):
    """PNG and JPEG files in natural order of their names; 8 or 16 bits, any bands."""

    def __init__(self, path: Path, files: list[Path]):
        self.path, self.files, self.count = path, files, len(files)
        suffixes = {file.suffix.lower() for file in files}
        are_jpegs = [*map(_is_jpeg, files)]
        self.lossy = any(are_jpegs)
        # What is called JPEG and is none, or is mixed with others, may have lost nothing yet.
        is_one = all(are_jpegs) if suffixes <= set(JPEG_SUFFIXES) else len(suffixes) == 1
        self.suffix = files[0].suffix.lower() if is_one else ".png"
        self._adopt_first()

    def _adopt_first(self) -> None:
        self.adopt(first_readable(read_image_file, self.files))
        self.alpha = 3 if self.bands == 4 else None

    def read(self, index: int) -> np.ndarray:
        return self.check(read_image_file(self.files[index]), index)

    def keep_only(self, part: slice) -> None:
        self.files = self.files[part]
        self._adopt_first()

    def name(self, index: int) -> str:
        return str(self.files[index])


def _is_jpeg(path: Path) -> bool:
    """By its content: endings may be wrong."""
    with path.open("rb") as file:
        return file.read(len(JPEG_MAGIC)) == JPEG_MAGIC


class ImageSink(Sink):
    """One image file per frame, in the format of `suffix`: 00000000.png, 00000001.png, ..."""

    def __init__(self, folder: Path, suffix: str):
        super().__init__(folder)
        self.suffix = suffix

    def path(self, index: int) -> Path:
        """The file of frame `index`."""
        return self.folder / f"{index:08d}{self.suffix}"

    def holds(self, start: int, stop: int) -> bool:
        return all(self.path(index).exists() for index in range(start, stop))

    def finished(self) -> list[Path]:
        """The files of the frames that are complete on disk, up to the first gap."""
        return list(itertools.takewhile(Path.exists, map(self.path, itertools.count())))

    def write(self, start: int, frames: Iterable[np.ndarray]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        for index, pixels in enumerate(frames, start):
            partial = self.path(index).with_suffix(f".partial{self.suffix}")
            self.write_frame(partial, index, pixels)
            replace(partial, self.path(index))

    def write_frame(self, path: Path, index: int, pixels: np.ndarray) -> None:
        """Write one frame as one file; pixels without data become zero."""
        write_image_file(path, np.ma.filled(pixels, 0))

    def join(self, target: Path) -> None:
        for leftover in self.folder.glob(f"*.partial{self.suffix}"):
            leftover.unlink()
        replace(self.folder, target)


class TiffStackSink(ImageSink):
    """One TIFF file with a page per frame, for frames of a video or of other files than TIFF."""

    def __init__(self, folder: Path):
        super().__init__(folder, ".tif")

    def join(self, target: Path) -> None:
        paths = self.finished()
        partial = target.with_name(f"{target.stem}.partial{target.suffix}")
        write_tiff(partial, (tifffile.imread(path) for path in paths), len(paths))
        replace(partial, target)


def read_image_file(path: Path) -> np.ndarray:
    """Pixels of an image file, (H, W, bands) in RGB order, in the type of the file.

    They come upright, as EXIF data say, and masked where an alpha channel says that they are clear.

    Raises: FrameError: the file is damaged or no image.
    """
    return read_tiff(path) if path.suffix.lower() in TIFF_SUFFIXES else read_content(path)


def read_content(path: Path, content: bytes | None = None) -> np.ndarray:
    """As `read_image_file`, of a PNG, JPEG or BMP; content: its bytes, if they are read already."""
    content = path.read_bytes() if content is None else content
    is_png, is_bmp = content.startswith(PNG_MAGIC), content.startswith(b"BM")
    is_jpeg = content.startswith(JPEG_MAGIC)
    _check_header(path, content)
    if is_animation(content):
        raise FrameError(f"{path} is an animation; give it alone as INPUT, with the ending .apng")
    pixels = _read_bmp(path, content) if is_bmp else decode(content, is_jpeg)
    if pixels is None:
        raise FrameError(f"{path} cannot be decoded: damaged, truncated or no image")
    if is_jpeg:
        return pixels
    if is_png:
        pixels = _with_clear_colour(pixels, content)
        pixels = np.ascontiguousarray(turned_upright(pixels, _png_orientation(content)))
    clear = pixels[..., 3:] == 0
    return np.ma.array(pixels, mask=clear.repeat(4, axis=2)) if clear.any() else pixels


def _check_header(path: Path, content: bytes) -> None:
    """Refuse what a PNG or JPEG cannot hold or OpenCV cannot read; damage is for the decoder."""
    is_jpeg = content.startswith(JPEG_MAGIC)
    try:
        if is_jpeg:
            bits, height, width, values = jpeg_frame(io.BytesIO(content))
            ratio = JPEG_RATIO
        elif content.startswith(PNG_MAGIC):
            bits, height, width, colour = png_frame(content)
            values, ratio = PNG_VALUES.get(colour, 4), PNG_RATIO
        else:
            return
    except ValueError:
        return
    check_claim(path, height, width, height * width * values * bits // 8, ratio * len(content))
    if is_jpeg and bits != 8:
        raise FrameError(f"{path} is a JPEG of {bits} bits, which is not supported; make it a TIFF")


def decode(content: bytes, upright: bool = False) -> np.ndarray | None:
    """The picture in a file's bytes, (H, W, bands) in RGB order; None: OpenCV reads none, or half.

    Arguments:
        upright: turn it as EXIF data say, and leave out alpha: OpenCV does both or neither.
    """
    flags = cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH if upright else cv2.IMREAD_UNCHANGED
    try:  # half a JPEG decodes too
        pixels = cv2.imdecode(np.frombuffer(content, np.uint8), flags) if has_end(content) else None
    except cv2.error:
        return None
    return None if pixels is None else bgr_to_rgb(pixels)


@contextlib.contextmanager
def _by_pillow(content: bytes, kind: str) -> Iterator[Image.Image]:
    """A picture, of any size: `check_claim` is stricter than Pillow, and does not warn."""
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        with Image.open(io.BytesIO(content), formats=[kind]) as image:
            yield image
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _read_bmp(path: Path, content: bytes) -> np.ndarray:
    """By Pillow: OpenCV takes the wrong colours from palettes of older kinds."""
    try:
        with _by_pillow(content, "BMP") as image:
            width, height = image.size
            check_claim(path, height, width, 3 * height * width, BMP_RATIO * len(content))
            colours = np.reshape(image.getpalette() or (0, 1, 2), (-1, 3))
            is_grey = image.mode in ("1", "L") or (colours == colours[:, :1]).all()
            pixels = np.atleast_3d(image.convert("RGBA" if image.mode == "RGBA" else "RGB"))
            return pixels[..., :1] if is_grey else pixels
    except FrameError:
        raise
    except (OSError, ValueError, struct.error) as error:
        raise FrameError(f"{path} cannot be decoded: damaged or not supported ({error})") from error


def _png_orientation(content: bytes) -> int:
    """Of the EXIF data of a PNG, or of what programs put in their place; 1 where there are none."""
    exif = Image.Exif()
    own = [bytes(body) for kind, body, _ in png_chunks(content) if kind == b"eXIf"]
    with contextlib.suppress(OSError, ValueError, SyntaxError, struct.error):
        if own:
            exif.load(own[0])
        elif any(mark in content for mark in EXIF_MARKS):
            with _by_pillow(content, "PNG") as image:
                image.load()  # they may follow the picture
                exif = image.getexif()
    return exif.get(ORIENTATION, 1)


def _with_clear_colour(pixels: np.ndarray, content: bytes) -> np.ndarray:
    """A grey PNG as RGB and alpha, if it has a level that is clear; OpenCV does so with RGB."""
    if pixels.shape[2] != 1:
        return pixels
    levels = [bytes(body) for kind, body, _ in png_chunks(content) if kind == b"tRNS"]
    if not levels:
        return pixels
    largest = np.iinfo(pixels.dtype).max
    bits = min(png_frame(content)[0], 8 * pixels.itemsize)
    level = (int.from_bytes(levels[0], "big") & (2**bits - 1)) * largest // (2**bits - 1)
    alpha = np.where(pixels == level, 0, largest).astype(pixels.dtype)
    return np.concatenate((pixels, pixels, pixels, alpha), axis=2)


def write_image_file(path: Path, pixels: np.ndarray) -> None:
    """Write (H, W, bands) pixels as PNG, JPEG, BMP or TIFF, by the ending of the path.

    Raises: ValueError: the format cannot hold such pixels.
    """
    suffix = path.suffix.lower()
    if suffix in TIFF_SUFFIXES:
        write_tiff(path, [pixels])
        return
    allowed = (np.uint8,) if suffix in (*JPEG_SUFFIXES, ".bmp") else (np.uint8, np.uint16)
    is_encoded, options = False, []
    if suffix in JPEG_SUFFIXES:
        sampling = cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444
        options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
        options += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, sampling]
    # Written by Python, not by OpenCV, whose imwrite does not say why it fails.
    if pixels.dtype in allowed and pixels.shape[2] in (1, 3, 4):
        with contextlib.suppress(cv2.error):
            is_encoded, content = cv2.imencode(suffix, bgr_to_rgb(pixels), options)
    if not is_encoded:  # a JPEG has at most 65500 pixels a side, OpenCV limits of its own for PNG
        raise ValueError(
            f"{suffix} files cannot hold {describe(pixels.shape, pixels.dtype)}; "
            "give an OUTPUT that ends in .tif"
        )
    path.write_bytes(content)
