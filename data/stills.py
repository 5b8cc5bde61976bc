"""Still images of the Earth as 8-bit RGB: finding, reading and keeping them.

Aerial and satellite stills come as 8-bit pictures and as 16-bit or float GeoTIFFs whose useful
values fill a small part of their range, so everything but 8 bits is stretched between two
percentiles.
"""

import sys
from pathlib import Path

import numpy as np

from media.ends import is_animation
from media.folder import read_content
from media.georeference import has_palette, is_inverted, kept_bits, places_of_colours
from media.images import check_regular, claimed_frame
from media.tiff import Page, opened
from utils.text import listed

# Largest still that is decoded, in pixels: 800 MB of RGB. A few kilobytes can claim more.
MAX_PIXELS = 2**28
MAX_DECODED = 3 * MAX_PIXELS  # bytes of the bands in use, before they are stretched to 8 bits
MAX_BYTES = 2 * MAX_DECODED  # of a picture's file: what alpha adds, and what does not compress
MAX_PACKED = 1032  # bytes that deflate packs into one: no picture holds more
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff"})
ROWS = 256  # of a still that are stretched at once
STRETCH = (0.5, 99.5)  # percentiles of the valid pixels that become black and white


def find_stills(root: str | Path) -> list[Path]:
    """Every still under a folder, sub-folders included, hidden ones left out, by path.

    Raises: FileNotFoundError: no folder, or none in it.
    """
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is not a folder; give the folder that holds the stills")
    paths = [
        path
        for path in root.rglob("*")
        if path.suffix.lower() in SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(root).parts)
    ]
    if not paths:
        kinds = ", ".join(sorted(SUFFIXES))
        raise FileNotFoundError(f"no stills ({kinds}) under {root}")
    return sorted(paths, key=lambda path: path.parts)  # paths of Windows ignore case


def check_outside(out: Path, root: str | Path) -> None:
    """Refuse, by a ValueError, to write into a folder of stills what would be taken for some."""
    if out.resolve().is_relative_to(Path(root).resolve()):
        raise ValueError(f"{out} lies in the stills {root}, and would be taken for some; move it")


def stretch_to_8_bits(image: np.ndarray) -> np.ndarray:
    """Stretch an image (H, W) or (H, W, C) of any range between two percentiles to 0..255.

    All bands share one range, which keeps the colours. Zeros and non-finite values are taken for
    missing pixels: they do not count in the percentiles and become black.

    Returns: uint8 of the same shape.
    """
    valid = np.isfinite(image) & (image != 0)
    if not valid.any():
        return np.zeros(image.shape, np.uint8)
    low, high = np.percentile(image[valid], STRETCH)
    stretched = np.empty(image.shape, np.uint8)
    for top in range(0, len(image), ROWS):  # the float64 between takes eight times the memory
        rows = slice(top, top + ROWS)
        scaled = (np.where(valid[rows], image[rows], low) - low) * (255 / max(high - low, 1e-6))
        stretched[rows] = np.clip(np.rint(scaled), 0, 255)
    return stretched


def read_still(path: str | Path) -> np.ndarray:
    """Read a still as 8-bit RGB, (H, W, 3) uint8; a ValueError names one that cannot be read.

    Grey becomes RGB, alpha and bands beyond the third are dropped, anything but 8 bits is
    stretched (stretch_to_8_bits).
    """
    path = Path(path)
    read = _read_tiff if path.suffix.lower() in (".tif", ".tiff") else _read_picture
    image = np.atleast_3d(read(path))
    image = image[..., :3] if image.shape[2] >= 3 else np.repeat(image[..., :1], 3, axis=2)
    if image.dtype != np.uint8:
        image = stretch_to_8_bits(image)
    return np.ascontiguousarray(image)


class Stills:
    """The stills of a folder: `stills[number]` is (H, W, 3) uint8.

    All are read once at the start, which finds those that cannot be used. Decoded stills stay in
    memory up to a limit; forked workers share that memory, others read on their own.

    Arguments:
        root: folder, searched with its sub-folders.
        least: (H, W) that every still must have, either way round.
        cache_bytes: limit of the decoded stills in memory; those beyond it are read every time.
        lower: the flag that makes smaller stills do, for the message.

    Raises: ValueError: stills that cannot be read or are too small, named, the first of very many.
    """

    def __init__(self, root: str | Path, least: tuple[int, int], cache_bytes: int, lower: str = ""):
        self.paths = find_stills(root)
        self.shapes: list[tuple[int, int]] = []
        self._cache: dict[int, np.ndarray] = {}
        self._room = cache_bytes
        problems = []
        folder = Path(root).resolve()
        for number, path in enumerate(self.paths):
            try:
                if not path.resolve().is_relative_to(folder):
                    raise ValueError(f"{path}: leads out of {root}; copy the file there")
                still = read_still(path)
            except (ValueError, OSError, RuntimeError) as error:  # RuntimeError: links in a circle
                problems.append(str(error))
                continue
            self.shapes.append(still.shape[:2])
            if (np.sort(still.shape[:2]) < np.sort(least)).any():
                problems.append(f"{path}: {still.shape[1]}x{still.shape[0]} pixels, too small")
            self._keep(number, still)
        if problems:
            fewer = f", fewer with {lower}" if lower else ""
            raise ValueError(
                f"{len(problems)} of {len(self.paths)} stills cannot be used; remove them (at "
                f"least {least[1]}x{least[0]} pixels are needed{fewer}):{listed(problems)}"
            )

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> np.ndarray:
        if number in self._cache:
            return self._cache[number]
        return self._keep(number, read_still(self.paths[number]))

    def _keep(self, number: int, still: np.ndarray) -> np.ndarray:
        """The still, kept if there is room."""
        if still.nbytes <= self._room:
            self._room -= still.nbytes
            self._cache[number] = still
        return still

    def __getstate__(self) -> dict:
        kept = sum(still.nbytes for still in self._cache.values())
        return self.__dict__ | {"_cache": {}, "_room": self._room + kept}


def _check_size(path: Path, height: int, width: int, bits: int, stored: int) -> None:
    """Refuse a size of three bands of so many bits each that is too large, or not in the file."""
    if height * width > MAX_PIXELS:
        raise ValueError(
            f"{path}: {width}x{height} pixels, over the limit of {MAX_PIXELS}; cut it smaller"
        )
    if 3 * height * width * -(-bits // 8) > MAX_DECODED:
        raise ValueError(
            f"{path}: {width}x{height} pixels of {bits} bits, over the limit of "
            f"{MAX_DECODED} bytes; cut it smaller"
        )
    if height * width * bits > 8 * MAX_PACKED * stored:
        raise ValueError(f"{path}: {width}x{height} pixels in {stored} bytes, truncated")


def _read_picture(path: Path) -> np.ndarray:
    check_regular(path, MAX_BYTES)
    content = path.read_bytes()
    if is_animation(content):
        raise ValueError(f"{path}: an animated PNG; make each of its frames a file")
    bits, height, width = claimed_frame(path, content)
    if height == 0 or width == 0:  # OpenCV knows more formats, of sizes unknown here
        raise ValueError(f"{path}: neither PNG nor JPEG")
    _check_size(path, height, width, bits, len(content))
    return np.ma.getdata(read_content(path, content))  # what is clear has colours, too


def _read_tiff(path: Path) -> np.ndarray:
    """Red, green and blue, or else the first three bands; missing data is 0, and white is large."""
    check_regular(path, sys.maxsize)  # only parts of it are read
    page = Page(str(path), str(path))
    with opened(page) as file:
        if any("complex" in kind for kind in file.dtypes):
            raise ValueError(f"{path}: complex numbers, no picture")
        if has_palette(file):
            raise ValueError(
                f"{path}: a colour table; convert it to RGB if it is no map of classes"
            )
        itemsize = max(np.dtype(kind).itemsize for kind in file.dtypes)
        bits = kept_bits(file) or 8 * itemsize
        _check_size(path, file.height, file.width, bits, path.stat().st_size)
        # GDAL decodes whole blocks, which may be larger than the image.
        together = file.count if file.interleaving.name == "pixel" else 1
        block = max(height * width for height, width in file.block_shapes)
        if block * together * itemsize > MAX_DECODED:
            raise ValueError(f"{path}: blocks of {block} pixels; save it in smaller tiles")
        if file.colorinterp[0].name == "cyan":
            raise ValueError(f"{path}: 16-bit CMYK, which is not supported; convert it to RGB")
        names = [colour.name for colour in file.colorinterp]
        named = places_of_colours(names, file.descriptions)
        places = named or range(min(file.count, 3))
        bands = file.read([place + 1 for place in places], masked=True)
        if is_inverted(file) and bands.dtype.kind == "u":
            bands = bands.dtype.type(2**bits - 1) - bands  # which keeps the type
        if kept_bits(file) and bands.dtype == np.uint8:
            bands = bands.astype(np.uint16)  # stretched as all that is not 8 bits
    return np.moveaxis(bands.filled(0), 0, 2)
