"""Still images of the Earth as 8-bit RGB: finding, reading and keeping them.

Aerial and satellite stills come as 8-bit pictures and as 16-bit or float GeoTIFFs whose useful
values fill a small part of their range, so everything but 8 bits is stretched between two
percentiles.
"""

import warnings
from pathlib import Path

import cv2
import numpy as np

from data.images import claimed_size

# Largest still that is decoded, in pixels: 800 MB of RGB. A few kilobytes can claim more.
MAX_PIXELS = 2**28
# No picture holds more: deflate packs 1,032 bytes into one, and a byte at most 8 pixels.
MAX_PIXELS_PER_BYTE = 8 * 1032
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff"})
STRETCH = (0.5, 99.5)  # percentiles of the valid pixels that become black and white


def find_stills(root: str | Path) -> list[Path]:
    """Every still under a folder, sub-folders included, sorted by path.

    Raises:
        FileNotFoundError: if the folder does not exist or holds no still.
    """
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is not a folder; give the folder that holds the stills")
    paths = sorted(path for path in root.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not paths:
        kinds = ", ".join(sorted(SUFFIXES))
        raise FileNotFoundError(f"no stills ({kinds}) under {root}")
    return paths


def stretch_to_8_bits(image: np.ndarray) -> np.ndarray:
    """Stretch an image of any range between two percentiles to 0..255.

    All bands share one range, which keeps the colours. Zeros and non-finite values are taken for
    missing pixels: they do not count in the percentiles and become black.

    Arguments:
        image: (H, W) or (H, W, C), integer or float.

    Returns: uint8 of the same shape.
    """
    valid = np.isfinite(image) & (image != 0)
    if not valid.any():
        return np.zeros(image.shape, np.uint8)
    low, high = np.percentile(image[valid], STRETCH)
    scaled = (np.where(valid, image, low) - low) * (255 / max(high - low, 1e-6))
    return np.clip(np.rint(scaled), 0, 255).astype(np.uint8)


def read_still(path: str | Path) -> np.ndarray:
    """Read a still as 8-bit RGB.

    Grey becomes RGB, alpha and bands beyond the third are dropped, anything but 8 bits is
    stretched (stretch_to_8_bits).

    Returns: (H, W, 3) uint8.

    Raises:
        ValueError: if the file cannot be read, with its name.
    """
    path = Path(path)
    image = _read_tiff(path) if path.suffix.lower() in (".tif", ".tiff") else _read_picture(path)
    if image.ndim == 2:
        image = image[..., None]
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

    Raises:
        FileNotFoundError: no stills under root.
        ValueError: stills that cannot be read or are too small, all of them named.
    """

    def __init__(self, root: str | Path, least: tuple[int, int], cache_bytes: int):
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
            except (ValueError, OSError) as error:
                problems.append(str(error))
                continue
            self.shapes.append(still.shape[:2])
            if (np.sort(still.shape[:2]) < np.sort(least)).any():
                problems.append(f"{path}: {still.shape[0]}x{still.shape[1]} pixels, too small")
            self._keep(number, still)
        if problems:
            raise ValueError(
                f"{len(problems)} of {len(self.paths)} stills cannot be used; remove them (at "
                f"least {least[0]}x{least[1]} pixels are needed):\n  " + "\n  ".join(problems)
            )

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> np.ndarray:
        if number in self._cache:
            return self._cache[number]
        still = read_still(self.paths[number])
        self._keep(number, still)
        return still

    def _keep(self, number: int, still: np.ndarray) -> None:
        if still.nbytes <= self._room:
            self._room -= still.nbytes
            self._cache[number] = still

    def __getstate__(self) -> dict:
        kept = sum(still.nbytes for still in self._cache.values())
        return self.__dict__ | {"_cache": {}, "_room": self._room + kept}


def _check_size(path: Path, height: int, width: int) -> None:
    if height * width > MAX_PIXELS:
        raise ValueError(
            f"{path}: {width}x{height} pixels, over the limit of {MAX_PIXELS}; cut it smaller"
        )


def _read_picture(path: Path) -> np.ndarray:
    content = path.read_bytes()
    # The decoder fills up a truncated file with grey, so its end marker is looked for.
    end = b"\xff\xd9" if content.startswith(b"\xff\xd8") else b"IEND"
    if content.startswith((b"\xff\xd8", b"\x89PNG")) and end not in content[-1024:]:
        raise ValueError(f"{path}: truncated image")
    height, width = claimed_size(path, content)
    _check_size(path, height, width)
    if height * width > MAX_PIXELS_PER_BYTE * len(content):
        raise ValueError(f"{path}: {width}x{height} pixels in {len(content)} bytes, truncated")
    try:
        image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:  # an empty file, or a size beyond OpenCV's own limit
        image = None
    if image is None:
        raise ValueError(f"{path}: not a readable image")
    if image.ndim == 3 and image.shape[2] >= 3:
        image = image[..., 2::-1]
    return image


def _read_tiff(path: Path) -> np.ndarray:
    """The first three bands in file order, by rasterio where it is installed, else by OpenCV."""
    try:
        import rasterio
        from rasterio.errors import NotGeoreferencedWarning, RasterioIOError
    except ImportError:
        try:
            return _read_picture(path)
        except ValueError as error:
            raise ValueError(
                f"{error}; GeoTIFFs need rasterio: pip install -r requirements-geotiff.txt"
            ) from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            # By name, because GDAL would follow a text file of another format to other files.
            with rasterio.open(path, driver="GTiff") as file:
                _check_size(path, file.height, file.width)
                bands = file.read(list(range(1, min(file.count, 3) + 1)), masked=True)
    except RasterioIOError as error:
        raise ValueError(f"{path}: not a readable TIFF ({error})") from None
    return np.moveaxis(bands.filled(0), 0, 2)
