"""GeoTIFF through rasterio: coordinates, bands and missing data kept.

A GeoTIFF sequence is a folder with one file per frame, a file with one page per frame, or a file
with the bands of all frames one after the other. Results keep the coordinate system, the corner
(pixels become a quarter as wide), band names, tags, scales, ground control points and RPCs, data
type and nodata value. A frame between two given ones takes its place midway between theirs.

The bands that the file calls red, green and blue are enhanced together; every other band is
enhanced on its own, as grey. All bands share one flow.

Pixels without data stay so: for the network they take the value of the nearest pixel with data,
and the result is masked again. A frame between two given ones has no data where either has none.
It is nodata or an alpha band that says so, as in the input; where it has neither, NaN in floating
values, and a mask, unless the frames are pages of one file: GDAL reads no masks there.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from media.frames import FrameError, Source
from media.georeference import Georeference, georeference_of
from media.tiff import count_pages, has_mask_page
from utils.text import natural_key

TILE = 256  # pixels, of GDAL; frames are written in strips of that height, one tile after another
CLASSIC_SIZE = 2e9  # bytes before compression that a TIFF with 32-bit offsets surely holds


def import_rasterio() -> Any:
    """rasterio, or a ValueError that says how to get it."""
    try:
        import rasterio.shutil
    except ImportError as error:
        raise ValueError(
            "GeoTIFF needs rasterio; install it with `pip install -r requirements-geotiff.txt`"
        ) from error
    return rasterio


def failures(rasterio: Any) -> tuple[type[Exception], ...]:
    """What rasterio raises; GDAL's own errors, which it lets through, have no public name."""
    errors = rasterio.errors
    return errors.RasterioError, errors.CRSError, errors.RPCError, rasterio._err.CPLE_BaseError


def creation(dtype: np.dtype, values: int) -> dict[str, Any]:
    """How a GeoTIFF of so many values is written; with 64-bit offsets if it may need them."""
    return {
        "driver": "GTiff",
        "compress": "deflate",
        "predictor": 3 if np.dtype(dtype).kind == "f" else 2,
        "tiled": True,
        "blockxsize": TILE,
        "blockysize": TILE,
        "BIGTIFF": "YES" if values * np.dtype(dtype).itemsize > CLASSIC_SIZE else "NO",
    }


class GeoTiffSource(Source):
    """GeoTIFF frames: several files, or the pages or groups of bands of one file.

    Arguments:
        path: what the user named.
        files: in order.
        bands_per_frame: of a single page, how many bands make up one frame; 0: all.

    Raises:
        ValueError: rasterio is missing, or the bands do not divide into frames.
    """

    def __init__(self, path: Path, files: list[Path], bands_per_frame: int = 0):
        self.rasterio = import_rasterio()
        self.path, self.files, self.suffix = path, files, ".tif"
        self.layout = "files" if path.is_dir() else "pages"
        datasets = [str(file) for file in files]
        if not path.is_dir():
            with self._open(datasets[0]) as dataset:
                # rasterio lists page 10 before page 2.
                datasets = sorted(dataset.subdatasets, key=natural_key) or datasets
                total = dataset.count
            if len(datasets) > 1 and count_pages(path) > 1 and has_mask_page(path):
                raise ValueError(
                    f"{path} has masks between its pages, which cannot be read; give a folder "
                    "with one file per frame"
                )
        if len(datasets) == 1 and bands_per_frame:
            if total % bands_per_frame:
                raise ValueError(
                    f"{path} has {total} bands, not a multiple of --bands-per-frame "
                    f"{bands_per_frame}"
                )
            self.layout = "bands"
            groups = range(1, total + 1, bands_per_frame)
            self.frames = [
                (datasets[0], list(range(first, first + bands_per_frame))) for first in groups
            ]
        elif len(datasets) == 1 and not path.is_dir() and total > 1:
            raise ValueError(
                f"{path} holds one frame of {total} bands; if its bands are frames, say how many "
                "make up one with --bands-per-frame"
            )
        else:
            self.frames = [(dataset, None) for dataset in datasets]
        self.count = len(self.frames)
        self._adopt_first()

    @contextlib.contextmanager
    def _open(self, name: str) -> Iterator[Any]:
        try:
            # Named, so that a file of another format that names further files is not followed.
            driver = "VRT" if self.path.suffix.lower() == ".vrt" else "GTiff"
            with self.rasterio.open(name, driver=driver) as dataset:
                yield dataset
        except failures(self.rasterio) as error:
            raise FrameError(f"{name} cannot be read ({error})") from error

    def _adopt_first(self) -> None:
        for index in range(self.count):
            try:
                self.adopt(self._load(index))
                reference = self._georeference(index)
                break
            except FrameError as error:
                failure = error
        else:
            raise failure
        if self.dtype.kind == "c":
            raise ValueError(f"{self.name(index)} holds complex numbers, which are not pixels")
        names = band_names(reference.colours)
        rgb = [names.index(name) for name in ("red", "green", "blue") if name in names]
        self.colour = tuple(rgb) if len(rgb) == 3 else None

    def _load(self, index: int) -> np.ndarray:
        name, bands = self.frames[index]
        with self._open(name) as dataset:
            bands = bands or list(dataset.indexes)
            flags = dataset.mask_flag_enums
            flags = [flags[band - 1] for band in bands]
            whole = [self.rasterio.enums.MaskFlags.all_valid]
            try:
                pixels = np.moveaxis(dataset.read(bands), 0, -1)
                missing = None
                if any(flag != whole for flag in flags):
                    missing = np.moveaxis(dataset.read_masks(bands), 0, -1) == 0
            except failures(self.rasterio) as error:
                raise FrameError(f"{self.name(index)} is damaged ({error})") from error
        pixels = np.ascontiguousarray(pixels)
        if pixels.dtype.kind == "f":
            not_a_number = ~np.isfinite(pixels)
            if not_a_number.any():
                missing = not_a_number if missing is None else missing | not_a_number
        return pixels if missing is None else np.ma.array(pixels, mask=missing)

    def read(self, index: int) -> np.ndarray:
        name, bands = self.frames[index]
        with self._open(name) as dataset:
            self._check_dataset(dataset, bands, index)
        return self.check(self._load(index), index)

    def _check_dataset(self, dataset: Any, bands: list[int] | None, index: int) -> None:
        shape = (dataset.height, dataset.width, len(bands or dataset.indexes))
        dtype = dataset.dtypes[0].replace("complex_int16", "complex64")  # as which it is read
        self.check_header(shape, np.dtype(dtype), index)

    def keep_only(self, part: slice) -> None:
        self.frames = self.frames[part]

    def name(self, index: int) -> str:
        name, bands = self.frames[index]
        return f"{name}: bands {bands[0]} to {bands[-1]}" if bands else name

    def georeference(self, index: int) -> Georeference:
        """All that the file says about frame `index` besides its pixels.

        Of a damaged file, what the nearest one says that can be opened.
        """
        for other in sorted(range(self.count), key=lambda other: abs(other - index)):
            try:
                return self._georeference(other)
            except FrameError as error:
                failure = error
        raise failure

    def _georeference(self, index: int) -> Georeference:
        name, bands = self.frames[index]
        with self._open(name) as dataset:
            self._check_dataset(dataset, bands, index)
            return georeference_of(dataset, bands)

    def is_only_masked(self) -> bool:
        """Whether a mask alone, neither nodata nor an alpha band, says where data is missing."""
        for name in {name for name, _ in self.frames}:
            with contextlib.suppress(FrameError), self._open(name) as dataset:
                if has_mask(dataset) and dataset.nodata is None:
                    return True
        return False


def band_names(colours: tuple[Any, ...]) -> list[str]:
    """What bands show: "red", "alpha", "undefined", ..."""
    return [colour.name for colour in colours]


def has_mask(dataset: Any) -> bool:
    """Whether a file has a mask of its own, neither nodata nor an alpha band."""
    flags = {flag.name for flag in dataset.mask_flag_enums[0]}
    return flags == {"per_dataset"}
