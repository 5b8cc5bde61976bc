"""Read every picture below a folder as enhance.py does, and compare it with GDAL and Pillow.

    python -m benchmarks.files DIR        for example the test files of other projects

TIFF files are compared with what GDAL reads, PNG, JPEG and BMP with what Pillow reads; each is read
as the frames of a folder. Prints how many files of each kind are

    same        equal values, upright as their orientation says, colours of a palette
    close       within 3 levels of 8 bits: another decoder of JPEG, 16 bits that Pillow rounds
    differ      other values or sizes: to be looked at
    alone       read by this program alone
    refused     one line says why, and the other reader refuses it too
    ours        refused by this program alone, with the reasons below the table
    failed      any other exception, or SECONDS have passed: a bug

Ends with status 1 if something failed.
"""

import contextlib
import shutil
import signal
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from media.frames import IMAGE_SUFFIXES, TIFF_SUFFIXES
from media.open import open_source
from media.tiff import import_rasterio
from utils.config import parse_config, run_script

SECONDS = 30
CLOSE = 3  # levels
LARGEST = 2**28  # pixels that Pillow decodes here
KINDS = ("same", "close", "differ", "alone", "refused", "ours", "failed")
MODES = {"P": "RGB", "PA": "RGBA", "LA": "RGBA", "1": "L", "CMYK": "RGB", "YCbCr": "RGB"}


@dataclass(frozen=True)
class Config:
    folder: str  # is searched with all folders below


def read_by_others(path: Path) -> np.ndarray:
    """(H, W, bands), by GDAL or Pillow."""
    if path.suffix.lower() in TIFF_SUFFIXES:
        with import_rasterio().open(path) as dataset:
            return np.moveaxis(dataset.read(), 0, -1)
    with Image.open(path) as image:
        if image.width * image.height > LARGEST:
            raise ValueError("too large")
        mode = "RGBA" if "transparency" in image.info else MODES.get(image.mode, image.mode)
        image = ImageOps.exif_transpose(image)
        return np.atleast_3d(image if mode == image.mode else image.convert(mode))


@contextlib.contextmanager
def limited(seconds: int) -> Iterator[None]:
    """Raises RuntimeError in the context after so many seconds."""

    def stop(*_) -> None:
        raise RuntimeError(f"takes more than {seconds} s")

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)


def examine(path: Path, folder: Path) -> tuple[str, str]:
    """One of KINDS for a file, and what there is to say; `folder` is for copies of it."""
    for number in range(2):
        shutil.copy(path, folder / f"{number}{path.suffix}")
    other = None
    with contextlib.suppress(Exception), limited(SECONDS):
        other = read_by_others(path)
    try:
        with limited(SECONDS):
            own = open_source(folder, palette="rgb").read(0)
    except (ValueError, OSError) as error:
        return ("refused", "") if other is None else ("ours", str(error).replace(str(folder), ""))
    except Exception as error:
        return "failed", f"{type(error).__name__}: {error}"
    if other is None:
        return "alone", ""
    bands = {own.shape[2], other.shape[2]}
    if own.shape[:2] != other.shape[:2] or (len(bands) > 1 and bands != {3, 4}):
        return "differ", f"{own.shape}, others {other.shape}"
    clear = np.ma.getmaskarray(own)[..., : min(bands)]
    deep = own.dtype == np.uint16 and other.dtype == np.uint8  # Pillow has no 16-bit RGB
    own, other = (np.where(clear, 0, np.ma.getdata(x)[..., : min(bands)]) for x in (own, other))
    if np.array_equal(own, other, equal_nan=own.dtype.kind == "f"):
        return "same", ""
    largest = np.abs(own.astype(float) / (257 if deep else 1) - other).max()
    return ("close" if largest <= CLOSE else "differ"), f"differs by up to {largest:.0f}"


def main() -> int:
    config = parse_config(Config, __doc__, ("folder",))
    warnings.simplefilter("ignore")
    counts, remarks = Counter(), []
    for path in sorted(Path(config.folder).rglob("*")):
        suffix = path.suffix.lower().replace(".jpeg", ".jpg").replace(".tiff", ".tif")
        if suffix in IMAGE_SUFFIXES and path.is_file():
            with tempfile.TemporaryDirectory() as folder:
                kind, remark = examine(path, Path(folder))
            counts[suffix, kind] += 1
            if kind in ("differ", "ours", "failed"):
                remarks.append(f"{kind:<8}{path.name}: {remark}")
    print("".join(f"{name:>9}" for name in ("", *KINDS)))
    for suffix in sorted({suffix for suffix, _ in counts}):
        print(f"{suffix:>9}" + "".join(f"{counts[suffix, kind]:9}" for kind in KINDS))
    print("", *remarks, sep="\n")
    return int(any(kind == "failed" for _, kind in counts))


if __name__ == "__main__":
    run_script(main)
