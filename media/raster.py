"""TIFF and GeoTIFF through GDAL (rasterio): values, bands, coordinates and missing data kept.

A TIFF sequence is a folder of files, a file with one page per frame, or a file with the bands of
all frames one after the other; pages of the files of a folder are frames, too. docs/files.md says
what results keep. A frame between two given ones takes its place midway between theirs.

The bands that the file calls red, green and blue are enhanced together; every other band is
enhanced on its own, as grey, and an alpha band enlarged. All bands share one flow. Pictures in
CIELAB, YCbCr and 8-bit CMYK are read as RGB; 16-bit CMYK as four bands.

Pixels without data stay so: for the network they take the value of the nearest pixel with data,
and the result is masked again. A frame between two given ones has no data where either has none.
It is nodata or an alpha band that says so, as in the input; where it has neither, NaN in floating
values, and a mask, unless the frames are pages of one file: GDAL reads no masks there.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from media.frames import FrameError, Source, check_claim, first_readable, turned_upright
from media.georeference import (
    Georeference,
    georeference_of,
    has_palette,
    is_inverted,
    is_placed,
    kept_bits,
    places_of_colours,
)
from media.tiff import Page, frame_pages, opened

TILE = 256  # pixels, of GDAL; frames are written in strips of that height, one tile after another
CLASSIC_SIZE = 2e9  # bytes before compression that a TIFF with 32-bit offsets surely holds
# Bytes of a picture that a byte of its file can stand for: blank blocks, compressed by zstd or left
# out, take some bytes each.
RATIO = 2**16
PALETTES = ("refuse", "rgb")  # what is done with colour tables


def creation(dtype: np.dtype, values: int, options: dict[str, Any]) -> dict[str, Any]:
    """How a TIFF of so many values is written, with the `options` of a `Georeference` kept.

    It has 64-bit offsets if it may need them.
    """
    predictor = 3 if np.dtype(dtype).kind == "f" else 2
    return {
        "driver": "GTiff",
        "compress": "deflate",
        "predictor": 1 if "nbits" in options else predictor,
        "tiled": True,
        "blockxsize": TILE,
        "blockysize": TILE,
        "BIGTIFF": "YES" if values * np.dtype(dtype).itemsize > CLASSIC_SIZE else "NO",
        **options,
    }


class TiffSource(Source):
    """TIFF frames: several files in order, or the pages or groups of bands of one file.

    Arguments: see `media.open.open_source`.
    Attributes: placed: whether the frames have a place on Earth.
    Raises: ValueError: bands that do not divide into frames, or values that are no pixels: complex
        numbers, or classes with a colour table.
    """

    measured = True

    def __init__(
        self, path: Path, files: list[Path], bands_per_frame: int = 0, palette: str = PALETTES[0]
    ):
        self.path, self.files, self.palette, self.suffix = path, files, palette, ".tif"
        self.layout = "files" if path.is_dir() else "pages"
        if path.is_dir():
            self.pages = [page for file in files for page in _pages_or_damaged(file)]
        else:
            self.pages = frame_pages(path)
            if len(self.pages) == 1:
                self._divide_bands(bands_per_frame)
        self.count = len(self.pages)
        first_readable(self._adopt, range(self.count))

    def _divide_bands(self, per_frame: int) -> None:
        """Make frames of the bands of a single page."""
        with opened(self.pages[0]) as dataset:
            total = dataset.count
        if per_frame:
            if total % per_frame:
                raise ValueError(
                    f"{self.path} has {total} bands, not a multiple of --bands-per-frame "
                    f"{per_frame}"
                )
            self.layout = "bands"
            for first in range(1, total + 1, per_frame):
                name = f"{self.path}: bands {first} to {first + per_frame - 1}"
                bands = tuple(range(first, first + per_frame))
                self.pages.append(replace(self.pages[0], name=name, bands=bands))
            del self.pages[0]
        elif total > 1:
            raise ValueError(
                f"{self.path} holds one frame of {total} bands; if its bands are frames, say how "
                "many make up one with --bands-per-frame"
            )

    def _adopt(self, index: int) -> None:
        """Be like one frame."""
        page = self.pages[index]
        with opened(page) as dataset:
            self.adopt(read_pixels(dataset, page, self.palette))
            self.bits, self.inverted = self._kind(dataset)
            self.lossy, self.placed = is_lossy(dataset), is_placed(dataset)
        reference = self._georeference(index)
        names = reference.colours
        self.colour = places_of_colours(names, reference.descriptions)
        self.alpha = names.index("alpha") if "alpha" in names else None
        self.full_scale &= not (self.bits or self.inverted)

    def _kind(self, dataset: Any) -> tuple[int, bool]:
        """Bits of a value if they are fewer than those of its type, and whether zero is white."""
        return (0, False) if has_palette(dataset) else (kept_bits(dataset), is_inverted(dataset))

    def read(self, index: int) -> np.ndarray:
        with opened(self.pages[index]) as dataset:
            self._check_dataset(dataset, index)
            return self.check(read_pixels(dataset, self.pages[index], self.palette), index)

    def _check_dataset(self, dataset: Any, index: int) -> None:
        page = self.pages[index]
        height, width = dataset.shape
        if _orientation(dataset, page) > 4:
            height, width = width, height
        # As which it is read; GDAL 3.11 and later know half floats, as which few programs write.
        dtype = dataset.dtypes[0].replace("complex_int16", "complex64")
        dtype = dtype.replace("float16", "float32")
        bands = len(_bands(dataset, page))
        if has_palette(dataset) and self.palette == "rgb":
            dtype, bands = "uint8", 3
        self.check_header((height, width, bands), np.dtype(dtype), index)
        kind = self._kind(dataset)
        if kind != (self.bits, self.inverted):
            raise FrameError(
                f"{self.name(index)} has {kind[0] or 'all'} bits per value and is "
                f"{'white' if kind[1] else 'black'} where it is zero, unlike the first frame; "
                "all must be alike"
            )

    def keep_only(self, part: slice) -> None:
        self.pages = self.pages[part]
        first_readable(self._adopt, range(len(self.pages)))

    def name(self, index: int) -> str:
        return self.pages[index].name

    def georeference(self, index: int) -> Georeference:
        """What the file says about frame `index`; of a damaged one, the nearest readable one."""

        def nearest() -> Iterator[int]:
            yield index  # to sort takes long where there are very many
            yield from sorted(range(self.count), key=lambda other: abs(other - index))

        return first_readable(self._georeference, nearest())

    def _georeference(self, index: int) -> Georeference:
        with opened(self.pages[index]) as dataset:
            self._check_dataset(dataset, index)
            reference = georeference_of(dataset, _bands(dataset, self.pages[index]))
            return reference.of_colours() if has_palette(dataset) else reference

    def is_only_masked(self) -> bool:
        """Whether a mask alone, neither nodata nor an alpha band, says where data is missing."""
        for page in self.pages[:1] if self.layout == "bands" else self.pages:
            with contextlib.suppress(FrameError), opened(page) as dataset:
                # Colours of a table have no nodata value, whatever the classes have.
                if has_mask(dataset) if dataset.nodata is None else has_palette(dataset):
                    return True
        return False


def _pages_or_damaged(file: Path) -> list[Page]:
    """The frames of a file of a folder; a damaged one is named when its turn comes."""
    try:
        return frame_pages(file)
    except FrameError:
        return [Page(str(file), str(file))]


def read_tiff(path: Path) -> np.ndarray:
    """The first frame of a TIFF file, as `read_pixels` gives it."""
    page = frame_pages(path)[0]
    with opened(page) as dataset:
        return read_pixels(dataset, page)


def read_pixels(dataset: Any, page: Page, palette: str = PALETTES[0]) -> np.ndarray:
    """Pixels of an open page, (H, W, bands), in the type of the file, masked where data is missing.

    Pictures that lie nowhere on Earth come upright, as TIFF's orientation tag says.

    Raises: ValueError: complex numbers, or a colour table, if `palette` is not "rgb".
    """
    if "complex" in dataset.dtypes[0]:
        raise ValueError(f"{page.name} holds complex numbers, which are not pixels")
    table = colour_table(dataset, page, palette)
    bands = _bands(dataset, page)
    if dataset.driver == "GTiff":
        claimed = dataset.height * dataset.width * len(bands) * np.dtype(dataset.dtypes[0]).itemsize
        held = sum(Path(file).stat().st_size for file in dataset.files)
        check_claim(page.name, *dataset.shape, claimed, RATIO * held)
    pixels = np.moveaxis(dataset.read(bands), 0, -1)
    if pixels.dtype == np.float16:
        pixels = pixels.astype(np.float32)
    missing = None
    # Both are lists of all bands, made anew each time: a file may claim 65,535 of them.
    all_flags, meanings = dataset.mask_flag_enums, dataset.colorinterp
    flags = [all_flags[band - 1] for band in bands]
    if any([kind.name for kind in flag] != ["all_valid"] for flag in flags) and not _is_converted(
        dataset
    ):
        missing = np.moveaxis(dataset.read_masks(bands), 0, -1) == 0
        for index, band in enumerate(bands):
            if meanings[band - 1].name == "alpha":  # for GDAL it is valid anywhere
                missing[..., index] = missing.any(axis=2)
    if pixels.dtype.kind == "f":
        not_a_number = ~np.isfinite(pixels)
        if not_a_number.any():
            missing = not_a_number if missing is None else missing | not_a_number
    if table is not None:
        pixels = table[pixels[..., 0]]
        missing = None if missing is None else missing.any(axis=2, keepdims=True).repeat(3, axis=2)
    turn = _orientation(dataset, page)
    pixels = np.ascontiguousarray(turned_upright(pixels, turn))
    return pixels if missing is None else np.ma.array(pixels, mask=turned_upright(missing, turn))


def _bands(dataset: Any, page: Page) -> list[int]:
    """The bands of a frame; without the alpha that GDAL adds to a picture it makes RGB of."""
    bands = list(page.bands or dataset.indexes)
    return bands[:3] if _is_converted(dataset) else bands


def _is_converted(dataset: Any) -> bool:
    """Whether GDAL makes RGB of other colours, to which it adds an alpha band."""
    return dataset.tags(ns="IMAGE_STRUCTURE").get("SOURCE_COLOR_SPACE") in ("CMYK", "CIELAB")


def _orientation(dataset: Any, page: Page) -> int:
    """How a picture is turned; coordinates are those of the rows and columns in the file."""
    return 1 if is_placed(dataset) else page.orientation


def colour_table(dataset: Any, page: Page, palette: str) -> np.ndarray | None:
    """The colours (values, 3) uint8 of an open page's table, or None; refused but for "rgb"."""
    if not has_palette(dataset):
        return None
    if palette != "rgb":
        raise ValueError(
            f"{page.name} has a colour table: its values are names of classes or colours, between "
            "which nothing lies; --palette rgb enhances the colours, as a picture"
        )
    table = np.zeros((np.iinfo(dataset.dtypes[0]).max + 1, 3), np.uint8)
    for value, colour in dataset.colormap(1).items():
        table[value] = colour[:3]
    return table


def is_lossy(dataset: Any) -> bool:
    """Whether a file is compressed as JPEG or, with loss, as WebP."""
    tags = dataset.tags(ns="IMAGE_STRUCTURE")
    return "JPEG" in tags.get("COMPRESSION", "") or tags.get("COMPRESSION_REVERSIBILITY") == "LOSSY"


def has_mask(dataset: Any) -> bool:
    """Whether a file has a mask of its own, neither nodata nor an alpha band."""
    return {flag.name for flag in dataset.mask_flag_enums[0]} == {"per_dataset"}
