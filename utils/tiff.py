"""Plain TIFF: one page per frame, or one file per frame.

Read through OpenCV, which knows all compressions; written through tifffile, page by page, so that
a stack of any length needs the memory of one frame.
"""

import os
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
import tifffile

from utils.frames import FrameError, ImageSink, Source, bgr_to_rgb

CLASSIC_SIZE = 2**32 - 2**25  # bytes that a TIFF with 32-bit offsets holds, and some for its tags
# TIFF tags of georeferenced files: pixel scale, tie points, transformation, keys; GDAL's own.
GEO_TAGS = (33550, 33922, 34264, 34735, 42112, 42113)


def needs_rasterio(path: Path) -> bool:
    """Whether a TIFF file is georeferenced, or has bands that plain TIFF readers refuse."""
    try:
        with tifffile.TiffFile(path) as file:
            page = file.pages[0]
            return any(tag in page.tags for tag in GEO_TAGS) or page.samplesperpixel not in (
                1,
                3,
                4,
            )
    except (tifffile.TiffFileError, IndexError, ValueError):
        return False  # damaged: the reader will name it


def has_mask_page(path: Path) -> bool:
    """Whether a page of a TIFF file is the mask of another."""
    with tifffile.TiffFile(path) as file:
        return any(page.subfiletype & tifffile.FILETYPE.MASK for page in file.pages)


class TiffStack(Source):
    """A TIFF file with one page per frame."""

    def __init__(self, path: Path):
        self.path, self.suffix = path, ".tif"
        self.count = cv2.imcount(str(path), cv2.IMREAD_UNCHANGED)
        if self.count < 1:
            raise ValueError(f"{path} is damaged or no TIFF file")
        self.adopt(self._page(0))

    def _page(self, index: int) -> np.ndarray:
        try:
            _, pages = cv2.imreadmulti(str(self.path), index, 1, flags=cv2.IMREAD_UNCHANGED)
        except cv2.error:
            pages = ()
        if not pages:
            raise FrameError(f"{self.name(index)} cannot be decoded")
        return bgr_to_rgb(pages[0])

    def read(self, index: int) -> np.ndarray:
        return self.check(self._page(index), index)

    def name(self, index: int) -> str:
        return f"{self.path}: page {index}"


class TiffStackSink(ImageSink):
    """One TIFF file with a page per frame."""

    def __init__(self, folder: Path):
        super().__init__(folder, ".tif")

    def join(self, target: Path) -> None:
        paths = [self.path(index) for index in range(self.finished())]
        partial = target.with_name(f"{target.stem}.partial{target.suffix}")
        write_tiff(partial, (tifffile.imread(path) for path in paths), len(paths))
        os.replace(partial, target)


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
