"""TIFF files: which of their pages are frames, how GDAL opens one, and how plain ones are written.

tifffile says which pages there are, GDAL (rasterio) reads them with all that lies beside: masks in
the file and in a .msk, world files (.tfw), RPCs, control points.

Plain stacks of frames that come from other formats are written page by page, so that one of any
length needs the memory of one frame.
"""

import contextlib
import logging
import os
import re
import struct
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from media.frames import FrameError

# It complains of nodata values that float32 rounds, which are common and harmless.
logging.getLogger("tifffile").addFilter(lambda record: "GDAL_NODATA" not in record.getMessage())

CLASSIC_SIZE = 2**32 - 2**25  # bytes that a TIFF with 32-bit offsets holds, and some for its tags
ORIENTATION = 274
# What GDAL calls the compressions of which a build may lack the decoder, where it is no name.
CODECS = {"JXL": "JPEG XL", "JP2000": "JPEG 2000", "JPEG data precision 12": "12-bit JPEG"}
VRT_SUFFIX = ".vrt"  # of GDAL's virtual datasets, which name the files of their bands


def import_rasterio() -> Any:
    """GDAL's Python interface, or a ValueError that says how to get it.

    It takes half a second, which training on PNG and JPEG never needs: only what reads or writes
    a TIFF calls this.
    """
    try:
        import rasterio
        import rasterio.shutil
    except ImportError as error:
        raise ValueError(
            "TIFF files need rasterio; install it with `pip install -r requirements.txt`"
        ) from error
    return rasterio


def failures() -> tuple[type[Exception], ...]:
    """What rasterio raises; GDAL's own errors, which it lets through, have no public name."""
    rasterio = import_rasterio()
    errors = rasterio.errors
    own = (errors.RasterioError, errors.CRSError, errors.RPCError)
    return (*own, rasterio._err.CPLE_BaseError)


@dataclass(frozen=True)
class Page:
    """A page of a TIFF file, or some of its bands, that is a frame."""

    dataset: str  # what GDAL calls it
    name: str  # what a message calls it
    orientation: int = 1  # of the TIFF tag: where its first row and column are shown
    bands: tuple[int, ...] | None = None  # that make up the frame, counted from 1; none: all


def frame_pages(path: Path) -> list[Page]:
    """The pages of a TIFF file that are frames, which masks and reduced copies are not.

    GDAL makes a single page of the files that a VRT names.

    Raises:
        FrameError: it is no TIFF file, or its header is damaged.
        ValueError: the file ends before its last page, or it has masks between its pages.
    """
    if path.suffix.lower() == VRT_SUFFIX:
        return [Page(str(path), str(path))]
    try:
        with tifffile.TiffFile(path) as file:
            kinds, orientations, places = [], [], set()
            for page in file.pages:
                if page.offset in places:
                    raise tifffile.TiffFileError(f"page {len(kinds)} is one before it again")
                places.add(page.offset)
                kinds.append(page.subfiletype)
                orientations.append(page.tags.valueof(ORIENTATION, default=1))
            layout = file.tiff
            file.filehandle.seek(file.pages[-1].offset)
            (tags,) = struct.unpack(layout.tagnoformat, file.filehandle.read(layout.tagnosize))
            file.filehandle.seek(tags * layout.tagsize, os.SEEK_CUR)
            following = file.filehandle.read(layout.offsetsize)
    except OSError:
        raise
    except Exception as error:  # a damaged header may raise anything
        raise FrameError(f"{path} cannot be read: damaged or no TIFF file ({error})") from error
    if any(following):
        raise ValueError(
            f"{path} is damaged: it ends after {len(kinds)} pages, but more should follow"
        )
    besides = tifffile.FILETYPE.REDUCEDIMAGE | tifffile.FILETYPE.MASK
    frames = [index for index, kind in enumerate(kinds) if not kind & besides]
    frames = frames or list(range(len(kinds)))  # a picture that calls itself reduced is one
    if frames == [0]:  # GDAL finds its mask
        return [Page(str(path), str(path), orientations[0])]
    if any(kind & tifffile.FILETYPE.MASK for kind in kinds):
        raise ValueError(
            f"{path} has masks between its pages, which cannot be read; give a folder "
            "with one file per frame"
        )
    return [
        Page(f"GTIFF_DIR:{index + 1}:{path}", f"{path}: page {index}", orientations[index])
        for index in frames
    ]


@contextlib.contextmanager
def opened(page: Page) -> Iterator[Any]:
    """A page as a dataset of rasterio; a FrameError says why GDAL cannot read it, then or later."""
    rasterio = import_rasterio()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
            # Named, so that a file of another format that names further files is not followed.
            is_vrt = page.dataset.lower().endswith(VRT_SUFFIX)
            dataset = rasterio.open(page.dataset, driver="VRT" if is_vrt else "GTiff")
        with dataset:
            yield dataset
    except failures() as error:
        reason = cause(error)
        codec = re.search(r"(?:missing codec (?:of code )?|Unsupported (?=JPEG))(.*?)\.?$", reason)
        if codec:
            kind = CODECS.get(codec[1], codec[1])
            raise FrameError(
                f"{page.name} is a TIFF compressed by {kind}, which is not supported; "
                "convert it, for example with gdal_translate -co COMPRESS=DEFLATE"
            ) from error
        raise FrameError(f"{page.name} cannot be read ({reason})") from error


def cause(error: BaseException) -> str:
    """What GDAL said first: rasterio names only the last of its errors."""
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split())


def write_tiff(path: Path, frames: Iterable[np.ndarray], count: int = 1) -> None:
    """Write `count` frames (H, W, bands) or (H, W) as the pages of one TIFF file, compressed."""
    writer = None
    with contextlib.ExitStack() as stack:
        for pixels in frames:
            bigtiff = count * pixels.nbytes > CLASSIC_SIZE
            writer = writer or stack.enter_context(tifffile.TiffWriter(path, bigtiff=bigtiff))
            pixels = pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels
            writer.write(
                np.ascontiguousarray(pixels),
                photometric="minisblack" if pixels.ndim == 2 else "rgb",
                compression="zlib",
                contiguous=False,
                metadata=None,
            )
