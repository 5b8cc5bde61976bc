"""GeoTIFF through rasterio: coordinates, bands and missing data kept.

A GeoTIFF sequence is a folder with one file per frame, a file with one page per frame, or a file
with the bands of all frames one after the other. Results keep the coordinate system, the corner
(pixels become a quarter as wide), band names, tags, scales, ground control points and RPCs, data
type and nodata value. A frame between two given ones takes its place midway between theirs.

The bands that the file calls red, green and blue are enhanced together; every other band is
enhanced on its own, as grey. All bands share one flow.

Pixels without data stay so: for the network they take the value of the nearest pixel with data,
and the result is masked again. A frame between two given ones has no data where either has none.
"""

import copy
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from models.blocks import SCALE
from utils.frames import FrameError, ImageSink, Source, natural_key, remove

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


@dataclass
class Georeference:
    """What a GeoTIFF says besides its pixels, for one frame."""

    crs: Any
    transform: Any
    nodata: float | None
    tags: dict[str, str]
    descriptions: tuple[str | None, ...]
    band_tags: list[dict[str, str]]
    colours: tuple[Any, ...]
    scales: tuple[float, ...]
    offsets: tuple[float, ...]
    units: tuple[str | None, ...]
    points: tuple[list[Any], Any]
    rpcs: Any

    def enlarged(self, other: "Georeference", share: float) -> "Georeference":
        """The same place with pixels a quarter as wide, `share` of the way to another frame's.

        Control points and RPCs stay this frame's: they cannot be averaged.
        """
        own, next_own = self.transform, other.transform
        between = [(1 - share) * a + share * b for a, b in zip(own, next_own, strict=True)][:6]
        transform = type(own)(*between) @ type(own).scale(1 / SCALE)
        points, points_crs = self.points
        points = [
            type(point)(point.row * SCALE, point.col * SCALE, point.x, point.y, point.z)
            for point in points
        ]
        return replace(
            self, transform=transform, points=(points, points_crs), rpcs=_enlarged_rpcs(self.rpcs)
        )


def _enlarged_rpcs(rpcs: Any) -> Any:
    """Rational polynomials for pixels a quarter as wide; they count from pixel centres."""
    if rpcs is None:
        return None
    enlarged = copy.copy(rpcs)
    enlarged.line_off = SCALE * (rpcs.line_off + 0.5) - 0.5
    enlarged.samp_off = SCALE * (rpcs.samp_off + 0.5) - 0.5
    enlarged.line_scale, enlarged.samp_scale = SCALE * rpcs.line_scale, SCALE * rpcs.samp_scale
    return enlarged


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

    def _open(self, dataset: str):
        try:
            # Named, so that a file of another format that names further files is not followed.
            return self.rasterio.open(dataset, driver="GTiff")
        except self.rasterio.errors.RasterioIOError as error:
            raise FrameError(f"{dataset} cannot be read ({error})") from error

    def _adopt_first(self) -> None:
        for index in range(self.count):
            try:
                first, reference = self._load(index), self.georeference(index)
                break
            except FrameError as error:
                failure = error
        else:
            raise failure
        if first.dtype.kind == "c":
            raise ValueError(f"{self.name(0)} holds complex numbers, which are no picture")
        self.adopt(first)
        names = _names(reference.colours)
        rgb = [names.index(name) for name in ("red", "green", "blue") if name in names]
        self.colour = tuple(rgb) if len(rgb) == 3 else None

    def _load(self, index: int) -> np.ndarray:
        name, bands = self.frames[index]
        with self._open(name) as dataset:
            bands = bands or list(dataset.indexes)
            flags = [dataset.mask_flag_enums[band - 1] for band in bands]
            whole = [self.rasterio.enums.MaskFlags.all_valid]
            try:
                pixels = np.moveaxis(dataset.read(bands), 0, -1)
                missing = None
                if any(flag != whole for flag in flags):
                    missing = np.moveaxis(dataset.read_masks(bands), 0, -1) == 0
            except self.rasterio.errors.RasterioIOError as error:
                raise FrameError(f"{self.name(index)} is damaged ({error})") from error
        pixels = np.ascontiguousarray(pixels)
        if pixels.dtype.kind == "f":
            not_a_number = ~np.isfinite(pixels)
            if not_a_number.any():
                missing = not_a_number if missing is None else missing | not_a_number
        return pixels if missing is None else np.ma.array(pixels, mask=missing)

    def read(self, index: int) -> np.ndarray:
        return self.check(self._load(index), index)

    def name(self, index: int) -> str:
        name, bands = self.frames[index]
        return f"{name}: bands {bands[0]} to {bands[-1]}" if bands else name

    def georeference(self, index: int) -> Georeference:
        """All that the file says about frame `index` besides its pixels."""
        name, bands = self.frames[index]
        with self._open(name) as dataset:
            chosen = [band - 1 for band in bands or dataset.indexes]
            return Georeference(
                crs=dataset.crs,
                transform=dataset.transform,
                nodata=dataset.nodata,
                tags=dataset.tags(),
                descriptions=tuple(dataset.descriptions[band] for band in chosen),
                band_tags=[dataset.tags(band + 1) for band in chosen],
                colours=tuple(dataset.colorinterp[band] for band in chosen),
                scales=tuple(dataset.scales[band] for band in chosen),
                offsets=tuple(dataset.offsets[band] for band in chosen),
                units=tuple(dataset.units[band] for band in chosen),
                points=dataset.gcps,
                rpcs=dataset.rpcs,
            )


class GeoTiffSink(ImageSink):
    """GeoTIFF frames, in the layout of their source: files, pages, or bands of one file.

    Arguments:
        folder: see Sink.
        source: the given frames.
        times: output frames for one step from a given frame to the next.
        single: make one file of all frames.
    """

    def __init__(self, folder: Path, source: GeoTiffSource, times: int, single: bool):
        super().__init__(folder, ".tif")
        self.rasterio = import_rasterio()
        self.source, self.times, self.single = source, times, single

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
                for window, values, valid in _strips(pixels, reference):
                    dataset.write(values, window=window)
                    if valid is not None:
                        dataset.write_mask(valid, window=window)
            with self.rasterio.open(path) as dataset:
                for window, values, valid in _strips(pixels, reference):
                    self._compare(dataset.read(window=window), values)
                    if valid is not None:
                        self._compare(dataset.read_masks(1, window=window) > 0, valid)

    @contextmanager
    def _writing(self, path: Path) -> Iterator[None]:
        """All that rasterio may raise while it writes to `path` is an OSError of one line."""
        # rasterio.shutil lets GDAL's own errors through, which have no public name.
        failures = (self.rasterio.errors.RasterioError, self.rasterio._err.CPLE_BaseError)
        path.unlink(missing_ok=True)  # GDAL reads what is there, and fails if it is damaged
        try:
            # Older versions of GDAL put masks into a second file, which nobody would rename.
            with self.rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
                yield
        except failures as error:
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
        with self.rasterio.open(files[0]) as first:
            profile, per_frame = first.profile, first.count
            tags, gcps, rpcs = first.tags(), first.gcps, first.rpcs
        count = per_frame * len(files)
        profile |= creation(profile["dtype"], count * profile["height"] * profile["width"])
        profile |= {"count": count, "interleave": "band"}
        with self.rasterio.open(target, "w", **profile) as dataset:
            dataset.update_tags(**tags)
            if gcps[0]:
                dataset.gcps = gcps
            if rpcs is not None:
                dataset.rpcs = rpcs
            for number, file in enumerate(files):
                with self.rasterio.open(file) as frame:
                    bands = [number * per_frame + band for band in frame.indexes]
                    for window in _windows(frame.height, frame.width):
                        dataset.write(frame.read(window=window), bands, window=window)
                    for band, position in enumerate(bands, 1):
                        dataset.update_tags(position, **frame.tags(band))
                        dataset.set_band_description(position, frame.descriptions[band - 1] or "")
        with self.rasterio.open(target) as dataset:
            for number, file in enumerate(files):
                bands = [number * per_frame + band for band in range(1, per_frame + 1)]
                self._compare_file(dataset, bands, file)

    def _compare_file(self, dataset: Any, bands: list[int], file: Path) -> None:
        with self.rasterio.open(file) as frame:
            for window in _windows(frame.height, frame.width):
                self._compare(dataset.read(bands, window=window), frame.read(window=window))


def _names(colours: tuple[Any, ...]) -> list[str]:
    """What bands show: "red", "alpha", "undefined", ..."""
    return [colour.name for colour in colours]


def _windows(height: int, width: int) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """Strips of one row of tiles, so that no second copy of a frame is needed."""
    for top in range(0, height, TILE):
        yield (top, min(top + TILE, height)), (0, width)


def _strips(pixels: np.ndarray, reference: Georeference) -> Iterator[tuple[Any, np.ndarray, Any]]:
    """What a file holds of a frame: window, values (bands, rows, width), mask (rows, width).

    The mask is where there is data; None if nodata or an alpha band says it, or if all is there.
    """
    missing = np.ma.getmask(pixels)
    names = _names(reference.colours)
    has_mask = missing is not np.ma.nomask and reference.nodata is None and "alpha" not in names
    for window in _windows(*pixels.shape[:2]):
        rows = slice(*window[0])
        bands = []
        for band, name in enumerate(names):
            hole = None
            if missing is not np.ma.nomask:
                hole = missing[rows].any(axis=2) if name == "alpha" else missing[rows, :, band]
            values = np.ma.getdata(pixels)[rows, :, band]
            bands.append(_with_nodata(values, hole, reference.nodata))
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
