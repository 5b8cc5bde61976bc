"""Plain TIFF: one page per frame, or one file per frame.

Read through tifffile, which gives the values of the file and notices damaged compressed data; what
it cannot decode without further libraries (LZW, JPEG, palettes, odd bits) is left to OpenCV. OpenCV
would darken colours under an alpha channel, does not invert 16 bits of which zero is white, and
takes planes of 16 bits for pixels; such files go through rasterio if tifffile cannot decode them.

Written page by page, so that a stack of any length needs the memory of one frame.
"""

import logging
import os
import struct
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
import tifffile

from media.frames import FrameError, bgr_to_rgb

# It complains of nodata values that float32 rounds, which are common and harmless.
logging.getLogger("tifffile").addFilter(lambda record: "GDAL_NODATA" not in record.getMessage())


CLASSIC_SIZE = 2**32 - 2**25  # bytes that a TIFF with 32-bit offsets holds, and some for its tags
# TIFF tags of georeferenced files: pixel scale, tie points, transformation, keys; GDAL's own.
GEO_TAGS = (33550, 33922, 34264, 34735, 42112, 42113)
ORIENTATION = 274
Photometric = tifffile.PHOTOMETRIC


def needs_rasterio(path: Path) -> bool:
    """Whether a TIFF file is georeferenced, or has bands that plain TIFF readers refuse."""
    try:
        with tifffile.TiffFile(path) as file:
            page = file.pages[0]
            return (
                any(tag in page.tags for tag in GEO_TAGS)
                or page.samplesperpixel not in (1, 3, 4)
                or (_opencv_misreads(page) and not _tifffile_decodes(page))
            )
    except OSError:
        raise
    except Exception:  # a damaged header may raise anything
        return False  # the reader will name it


def _tifffile_decodes(page: tifffile.TiffPage) -> bool:
    """Whether tifffile turns a page into the values that it shows, with what is installed."""
    return (
        page.compression in tifffile.TIFF.DECOMPRESSORS
        and page.predictor in tifffile.TIFF.UNPREDICTORS
        and page.photometric in (Photometric.MINISWHITE, Photometric.MINISBLACK, Photometric.RGB)
        and page.dtype is not None
        and page.dtype.kind in "uif"
        and page.bitspersample == 8 * page.dtype.itemsize
        and page.tags.valueof(ORIENTATION, default=1) == 1
    )


def _opencv_misreads(page: tifffile.TiffPage) -> bool:
    """Whether OpenCV would change the colours, see the top."""
    planes = page.samplesperpixel > 1 and page.planarconfig == tifffile.PLANARCONFIG.SEPARATE
    return page.samplesperpixel == 4 if page.bitspersample == 8 else planes


def read_page(path: Path, index: int, name: str) -> np.ndarray:
    """Pixels of a page, (H, W, bands) in RGB order, in the type of the file; white is large.

    Raises:
        FrameError: the page, called `name` in the message, is damaged.
    """
    try:
        with tifffile.TiffFile(path) as file:
            page = file.pages[index]
            if _tifffile_decodes(page):
                # Samples in planes come first, those of pixels last; the other axis is one.
                pixels = page.asarray().reshape(page.shaped)[:, 0]
                pixels = np.moveaxis(pixels, 0, -1).reshape(page.imagelength, page.imagewidth, -1)
                # Of big-endian files, too, in the order of the machine.
                pixels = np.ascontiguousarray(pixels, pixels.dtype.newbyteorder("="))
            elif _opencv_misreads(page):
                raise ValueError("to decode it needs the package imagecodecs")
            else:
                pixels = _read_with_opencv(path, index)
            # OpenCV has inverted 8 bits.
            is_inverted = page.photometric == Photometric.MINISWHITE and pixels.dtype.kind == "u"
            if is_inverted and (_tifffile_decodes(page) or pixels.dtype != np.uint8):
                pixels = np.iinfo(pixels.dtype).max - pixels
            return pixels
    except OSError:
        raise
    except Exception as error:  # a damaged header may raise anything
        raise FrameError(f"{name} cannot be decoded: damaged or no TIFF ({error})") from error


def _read_with_opencv(path: Path, index: int) -> np.ndarray:
    _, pages = cv2.imreadmulti(str(path), index, 1, flags=cv2.IMREAD_UNCHANGED)
    if not pages:
        raise ValueError("not even by OpenCV")
    return bgr_to_rgb(pages[0])


def count_pages(path: Path) -> int:
    """Number of pages of a TIFF file.

    Raises:
        ValueError: it is not a TIFF file, or it ends before its last page.
    """
    try:
        with tifffile.TiffFile(path) as file:
            count, layout = len(file.pages), file.tiff
            file.filehandle.seek(file.pages[-1].offset)
            (tags,) = struct.unpack(layout.tagnoformat, file.filehandle.read(layout.tagnosize))
            file.filehandle.seek(tags * layout.tagsize, os.SEEK_CUR)
            following = file.filehandle.read(layout.offsetsize)
    except OSError:
        raise
    except Exception as error:  # a damaged header may raise anything
        raise ValueError(f"{path} is damaged or no TIFF file ({error})") from error
    if any(following):
        raise ValueError(f"{path} is damaged: it ends after {count} pages, but more should follow")
    return count


def has_mask_page(path: Path) -> bool:
    """Whether a page of a TIFF file is the mask of another."""
    with tifffile.TiffFile(path) as file:
        return any(page.subfiletype & tifffile.FILETYPE.MASK for page in file.pages)


def write_tiff(path: Path, frames: Iterable[np.ndarray], count: int = 1) -> None:
    """Write frames (H, W, bands) or (H, W) as the pages of one TIFF file, compressed.

    Arguments:
        count: number of frames, to know beforehand whether the file passes 4 GB.
    """
    writer = None
    try:
        for pixels in frames:
            bigtiff = count * pixels.nbytes > CLASSIC_SIZE
            writer = writer or tifffile.TiffWriter(path, bigtiff=bigtiff)
            pixels = pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels
            writer.write(
                np.ascontiguousarray(pixels),
                photometric="minisblack" if pixels.ndim == 2 else "rgb",
                compression="zlib",
                contiguous=False,
                metadata=None,
            )
    finally:
        if writer:
            writer.close()
