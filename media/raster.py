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
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from media.folder import ImageSink
from media.frames import FrameError, Source, remove
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
            if count_pages(path) > 1 and len(datasets) > 1 and has_mask_page(path):
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
            with self.rasterio.open(name, driver="GTiff") as dataset:
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
            raise ValueError(f"{self.name(index)} holds complex numbers, which are no picture")
        names = _names(reference.colours)
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
                if _has_mask(dataset) and dataset.nodata is None:
                    return True
        return False


class GeoTiffSink(ImageSink):
    """GeoTIFF frames, in the layout of their source: files, pages, or bands of one file.

    Arguments:
        folder: see Sink.
        source: the given frames.
        times: output frames for one step from a given frame to the next.
        single: make one file of all frames.

    Raises:
        ValueError: a single file cannot keep the masks of the source.
    """

    def __init__(self, folder: Path, source: GeoTiffSource, times: int, single: bool):
        super().__init__(folder, ".tif")
        self.rasterio = import_rasterio()
        self.source, self.times, self.single = source, times, single
        # A mask belongs to a whole file; pages have none that GDAL would read.
        self.masks = not single or source.layout == "bands"
        if not self.masks and source.dtype.kind != "f" and source.is_only_masked():
            raise ValueError(
                f"{source.path} marks missing data by a mask, which pages of one file cannot "
                "have; name a folder as OUTPUT, or give the input a nodata value"
            )

    def write_frame(self, path: Path, index: int, pixels: np.ndarray) -> None:
        before, step = divmod(index, self.times)
        after = min(before + 1, self.source.count - 1)
        reference = self.source.georeference(before)
        reference = reference.enlarged(self.source.georeference(after), step / self.times)
        height, width, bands = pixels.shape
        profile = creation(pixels.dtype, pixels.size) | {
            "height": height,
            "width": width,
            "count": bands,
            "dtype": pixels.dtype,
            "crs": reference.crs,
            "transform": reference.transform,
            "nodata": reference.nodata,
        }
        with self._writing(path):
            with self.rasterio.open(path, "w", **profile) as dataset:
                self._describe(dataset, reference)
                for window, values, valid in _strips(pixels, reference, self.masks):
                    dataset.write(values, window=window)
                    if valid is not None:
                        dataset.write_mask(valid, window=window)
            with self.rasterio.open(path) as dataset:
                for window, values, valid in _strips(pixels, reference, self.masks):
                    self._compare(dataset.read(window=window), values)
                    if valid is not None:
                        self._compare(dataset.read_masks(1, window=window) > 0, valid)

    @contextlib.contextmanager
    def _writing(self, path: Path) -> Iterator[None]:
        """All that rasterio may raise while it writes to `path` is an OSError of one line."""
        path.unlink(missing_ok=True)  # GDAL reads what is there, and fails if it is damaged
        try:
            # Older versions of GDAL put masks into a second file, which nobody would rename.
            with self.rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
                yield
        except failures(self.rasterio) as error:
            reason = error.__cause__ or error
            raise OSError(f"{path} cannot be written, is the disk full? ({reason})") from error

    def _compare(self, read: np.ndarray, written: np.ndarray) -> None:
        """Make sure that a file holds what was written: GDAL is silent about a full disk.

        It writes the last tiles and the directory when it closes a file, and does not raise then;
        tiles that are not there read as zeros.
        """
        if read.tobytes() != written.tobytes():
            raise self.rasterio.errors.RasterioIOError("it reads back with other values")

    def _describe(self, dataset: Any, reference: Georeference) -> None:
        dataset.update_tags(**reference.tags)
        dataset.descriptions = reference.descriptions
        for band, tags in enumerate(reference.band_tags, 1):
            dataset.update_tags(band, **tags)
        dataset.colorinterp = reference.colours
        dataset.scales, dataset.offsets = reference.scales, reference.offsets
        dataset.units = reference.units
        if reference.points[0]:
            dataset.gcps = reference.points
        if reference.rpcs is not None:
            dataset.rpcs = reference.rpcs

    def join(self, target: Path) -> None:
        if not self.single:
            super().join(target)
            return
        partial = target.with_name(f"{target.stem}.partial{target.suffix}")
        files = [self.path(index) for index in range(self.finished())]
        with self._writing(partial):
            if self.source.layout == "bands":
                self._join_bands(partial, files)
            else:
                self._join_pages(partial, files)
        os.replace(partial, target)
        remove(self.folder)

    def _join_pages(self, target: Path, files: list[Path]) -> None:
        with self.rasterio.open(files[0]) as first:
            values = len(files) * first.count * first.height * first.width
            options = creation(first.dtypes[0], values)
        for number, file in enumerate(files):
            appended = {"APPEND_SUBDATASET": "YES"} if number else {}
            self.rasterio.shutil.copy(file, target, **options, **appended)
        for number, file in enumerate(files, 1):
            with self.rasterio.open(f"GTIFF_DIR:{number}:{target}") as page:
                self._compare_file(page, page.indexes, file)

    def _join_bands(self, target: Path, files: list[Path]) -> None:
        references, has_masks = [], False
        for file in files:
            with self.rasterio.open(file) as frame:
                profile, per_frame = frame.profile, frame.count
                references.append(georeference_of(frame))
                has_masks |= _has_mask(frame)
        count = per_frame * len(files)
        profile |= creation(profile["dtype"], count * profile["height"] * profile["width"])
        profile |= {"count": count, "interleave": "band"}
        profile |= {"crs": references[0].crs, "transform": references[0].transform}
        with self.rasterio.open(target, "w", **profile) as dataset:
            self._describe(dataset, references[0].with_bands_of(references))
            for number, file in enumerate(files):
                with self.rasterio.open(file) as frame:
                    bands = [number * per_frame + band for band in frame.indexes]
                    for window in _windows(frame.height, frame.width):
                        dataset.write(frame.read(window=window), bands, window=window)
            if has_masks:
                for window in _windows(dataset.height, dataset.width):
                    dataset.write_mask(self._valid_anywhere(files, window), window=window)
        with self.rasterio.open(target) as dataset:
            for number, file in enumerate(files):
                bands = [number * per_frame + band for band in range(1, per_frame + 1)]
                self._compare_file(dataset, bands, file)
            if has_masks:
                for window in _windows(dataset.height, dataset.width):
                    valid = self._valid_anywhere(files, window)
                    self._compare(dataset.read_masks(1, window=window) > 0, valid)

    def _valid_anywhere(self, files: list[Path], window: Any) -> np.ndarray:
        """Where any frame has data; floating values say by NaN where only some have none."""
        valid = False
        for file in files:
            with self.rasterio.open(file) as frame:
                valid = valid | (frame.read_masks(1, window=window) > 0)
        return valid

    def _compare_file(self, dataset: Any, bands: list[int], file: Path) -> None:
        with self.rasterio.open(file) as frame:
            for window in _windows(frame.height, frame.width):
                self._compare(dataset.read(bands, window=window), frame.read(window=window))


def _names(colours: tuple[Any, ...]) -> list[str]:
    """What bands show: "red", "alpha", "undefined", ..."""
    return [colour.name for colour in colours]


def _has_mask(dataset: Any) -> bool:
    """Whether a file has a mask of its own, neither nodata nor an alpha band."""
    flags = {flag.name for flag in dataset.mask_flag_enums[0]}
    return flags == {"per_dataset"}


def _windows(height: int, width: int) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """Strips of one row of tiles, so that no second copy of a frame is needed."""
    for top in range(0, height, TILE):
        yield (top, min(top + TILE, height)), (0, width)


def _strips(
    pixels: np.ndarray, reference: Georeference, masks: bool
) -> Iterator[tuple[Any, np.ndarray, np.ndarray | None]]:
    """What a file holds of a frame: window, values (bands, rows, width), mask (rows, width).

    The mask is where there is data; None if nodata or an alpha band says it, or if all is there.
    """
    missing = np.ma.getmask(pixels)
    names = _names(reference.colours)
    nodata = reference.nodata
    is_marked = nodata is not None or "alpha" in names
    has_mask = masks and missing is not np.ma.nomask and not is_marked
    if pixels.dtype.kind == "f" and not is_marked:
        nodata = np.nan  # as in the input, if it has no mask: the mask alone is one for all bands
    for window in _windows(*pixels.shape[:2]):
        rows = slice(*window[0])
        bands = []
        for band, name in enumerate(names):
            hole = None
            if missing is not np.ma.nomask:
                hole = missing[rows].any(axis=2) if name == "alpha" else missing[rows, :, band]
            values = np.ma.getdata(pixels)[rows, :, band]
            bands.append(_with_nodata(values, hole, nodata))
        yield window, np.stack(bands), ~missing[rows].all(axis=2) if has_mask else None


def _with_nodata(values: np.ndarray, missing: np.ndarray | None, nodata: float | None):
    """Put the nodata value where data is missing, and only there.

    A value that happens to be the nodata value moves to the nearest other one, as in GDAL.
    """
    if nodata is None:
        return values if missing is None else np.where(missing, values.dtype.type(0), values)
    if np.isnan(nodata):
        return values if missing is None else np.where(missing, values.dtype.type(nodata), values)
    marker = values.dtype.type(nodata)
    if values.dtype.kind == "f":
        neighbour = np.nextafter(marker, values.dtype.type(np.inf))
    else:
        neighbour = marker + 1 if marker < np.iinfo(values.dtype).max else marker - 1
    values = np.where(values == marker, values.dtype.type(neighbour), values)
    return values if missing is None else np.where(missing, marker, values)
