"""Still images of the Earth as 8-bit RGB: finding, reading and keeping them.

Aerial and satellite stills come as 8-bit pictures and as 16-bit or float GeoTIFFs whose useful
values fill a small part of their range, so everything but 8 bits is stretched between two
percentiles.
"""

from pathlib import Path

import cv2
import numpy as np

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


def _read_picture(path: Path) -> np.ndarray:
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if image is None:
        raise ValueError(f"{path}: not a readable image")
    if image.ndim == 3 and image.shape[2] >= 3:
        image = image[..., 2::-1]
    return image


def _read_tiff(path: Path) -> np.ndarray:
    """Bands in file order by rasterio where it is installed, else what OpenCV can read."""
    try:
        import rasterio
        from rasterio.errors import RasterioIOError
    except ImportError:
        try:
            return _read_picture(path)
        except ValueError as error:
            raise ValueError(
                f"{error}; GeoTIFFs need rasterio: pip install -r requirements-geotiff.txt"
            ) from None
    try:
        with rasterio.open(path) as file:
            return np.moveaxis(file.read(list(range(1, min(file.count, 3) + 1))), 0, 2)
    except RasterioIOError as error:
        raise ValueError(f"{path}: not a readable TIFF ({error})") from None
