"""TIFF and GeoTIFF files made of enhanced frames: place, bands, type and missing data survive."""

import contextlib
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from media.folder import ImageSink
from media.frames import remove
from media.georeference import Georeference, georeference_of
from media.raster import TILE, TiffSource, creation, has_mask
from media.tiff import cause, failures, import_rasterio
from utils.files import replace


class TiffSink(ImageSink):
    """TIFF frames, in the layout of their source: files, pages, or bands of one file.

    Arguments:
        folder: see Sink.
        source: the given frames.
        times: output frames for one step from a given frame to the next.
        single: make one file of all frames; a ValueError if it cannot keep the masks of the source.
    """

    def __init__(self, folder: Path, source: TiffSource, times: int, single: bool):
        super().__init__(folder.absolute(), ".tif")  # GDAL looks for zip:x in an archive
        self.source, self.times, self.single = source, times, single
        self.rasterio = import_rasterio()
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
        profile = creation(pixels.dtype, pixels.size, reference.options) | {
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
                    if valid is not None:  # on a full disk GDAL 3.12 crashes where pixels are first
                        dataset.write_mask(valid, window=window)
                    dataset.write(values, window=window)
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
            with warnings.catch_warnings(), self.rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
                warnings.simplefilter("ignore", self.rasterio.errors.NotGeoreferencedWarning)
                yield
        except failures() as error:
            raise OSError(
                f"{path} cannot be written, is the disk full? ({cause(error)})"
            ) from error

    def _compare(self, read: np.ndarray, written: np.ndarray) -> None:
        """Make sure that a file holds what was written.

        GDAL is silent about a full disk: it writes the last tiles and the directory when it closes
        a file, and tiles that are not there read as zeros.
        """
        if read.tobytes() != written.tobytes():
            raise self.rasterio.errors.RasterioIOError("it reads back with other values")

    def _describe(self, dataset: Any, reference: Georeference) -> None:
        dataset.update_tags(**reference.tags)
        for domain, tags in (*reference.domains.items(), ("COLOR_PROFILE", reference.profile)):
            if tags:
                dataset.update_tags(ns=domain, **tags)
        dataset.descriptions = reference.descriptions
        for band, tags in enumerate(reference.band_tags, 1):
            dataset.update_tags(band, **tags)
        kinds = self.rasterio.enums.ColorInterp
        dataset.colorinterp = [kinds[name] for name in reference.colours]
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
        target = target.absolute()
        partial = target.with_name(f"{target.stem}.partial{target.suffix}")
        join = self._join_bands if self.source.layout == "bands" else self._join_pages
        with self._writing(partial):
            join(partial, self.finished())
        replace(partial, target)
        remove(self.folder)

    def _join_pages(self, target: Path, files: list[Path]) -> None:
        with self.rasterio.open(files[0]) as first:
            values = len(files) * first.count * first.height * first.width
            options = creation(first.dtypes[0], values, georeference_of(first).options)
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
                has_masks |= has_mask(frame)
        count = per_frame * len(files)
        values = count * profile["height"] * profile["width"]
        profile |= creation(profile["dtype"], values, references[0].options)
        profile |= {"count": count, "interleave": "band"}
        profile |= {"crs": references[0].crs, "transform": references[0].transform}
        with self.rasterio.open(target, "w", **profile) as dataset:
            self._describe(dataset, references[0].with_bands_of(references))
            if has_masks:  # first, as above
                for window in _windows(dataset.height, dataset.width):
                    dataset.write_mask(self._valid_anywhere(files, window), window=window)
            for number, file in enumerate(files):
                with self.rasterio.open(file) as frame:
                    bands = [number * per_frame + band for band in frame.indexes]
                    for window in _windows(frame.height, frame.width):
                        dataset.write(frame.read(window=window), bands, window=window)
        with self.rasterio.open(target) as dataset:
            for number, file in enumerate(files):
                first = number * per_frame + 1
                self._compare_file(dataset, range(first, first + per_frame), file)
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

    def _compare_file(self, dataset: Any, bands: Iterable[int], file: Path) -> None:
        with self.rasterio.open(file) as frame:
            for window in _windows(frame.height, frame.width):
                self._compare(dataset.read([*bands], window=window), frame.read(window=window))


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
    names = reference.colours
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
    marker = values.dtype.type(nodata or 0)
    if nodata is None or np.isnan(nodata):
        return values if missing is None else np.where(missing, marker, values)
    if values.dtype.kind == "f":
        neighbour = np.nextafter(marker, values.dtype.type(np.inf))
    else:
        neighbour = marker + 1 if marker < np.iinfo(values.dtype).max else marker - 1
    values = np.where(values == marker, values.dtype.type(neighbour), values)
    return values if missing is None else np.where(missing, marker, values)
