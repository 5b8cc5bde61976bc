"""Stills recompressed, to be sent to another machine: as JPEG, in the quality that fits a size.

    python -m data.pack STILLS OUT --mebibytes 36

Every still under STILLS becomes a JPEG of the same path and name under OUT; all have one quality,
the highest with which they stay under the size together.
"""

import bisect
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from data.stills import check_outside, find_stills, read_still
from media.frames import LARGEST_JPEG
from utils.config import parse_config, run_script
from utils.files import check_empty
from utils.streams import progress_bar

QUALITIES = range(30, 96)  # of JPEG; below it blocks are all that is learnt


@dataclass(frozen=True)
class Config:
    stills: str  # folder of stills, searched with its sub-folders
    out: str  # folder to write to, empty or new
    mebibytes: float = 36.0  # what all of them may take together

    def __post_init__(self):
        if not self.mebibytes > 0:
            raise ValueError(f"mebibytes is {self.mebibytes}; it must be above 0")


def encode(still: np.ndarray, quality: int) -> bytes:
    """A still (H, W, 3) uint8 RGB as JPEG."""
    flags = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_OPTIMIZE, 1]
    if max(still.shape) > LARGEST_JPEG:
        height, width = still.shape[:2]
        raise ValueError(f"JPEG cannot hold a still of {width}x{height} pixels; cut it smaller")
    return cv2.imencode(".jpg", still[..., ::-1], flags)[1].tobytes()


def fitting_quality(stills: list[Path], limit: float) -> int:
    """The highest quality with which all stills stay within so many bytes, or a ValueError."""

    def total(quality: int) -> int:
        shown = progress_bar(stills, desc=f"quality {quality}")
        return sum(len(encode(read_still(path), quality)) for path in shown)

    fitting = bisect.bisect_right(QUALITIES, limit, key=total)
    if not fitting:
        raise ValueError(
            f"{len(stills)} stills do not fit {limit / 2**20:g} MiB even in quality "
            f"{QUALITIES.start}; give more --mebibytes or fewer stills"
        )
    return QUALITIES[fitting - 1]


def pack(config: Config) -> int:
    """Write the stills; returns their quality. ValueError: they do not fit, or OUT is in use."""
    root, out = Path(config.stills), Path(config.out)
    check_empty(out)
    check_outside(out, root)
    stills = find_stills(root)
    quality = fitting_quality(stills, config.mebibytes * 2**20)
    for path in stills:
        target = (out / path.relative_to(root)).with_suffix(".jpg")
        if target.exists():
            raise ValueError(f"two stills become {target}; rename one of them")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(encode(read_still(path), quality))
    return quality


def main() -> None:
    config = parse_config(Config, __doc__, positional=("stills", "out"))
    quality = pack(config)
    sizes = [path.stat().st_size for path in Path(config.out).rglob("*.jpg")]
    print(f"{len(sizes)} stills in {config.out}: quality {quality}, {sum(sizes) / 2**20:.1f} MiB")


if __name__ == "__main__":
    run_script(main)
