"""Frames of a video or of other files than TIFF as the pages of one TIFF file."""

import os
from pathlib import Path

import tifffile

from media.folder import ImageSink
from media.tiff import write_tiff


class TiffStackSink(ImageSink):
    """One TIFF file with a page per frame."""

    def __init__(self, folder: Path):
        super().__init__(folder, ".tif")

    def join(self, target: Path) -> None:
        paths = [self.path(index) for index in range(self.finished())]
        partial = target.with_name(f"{target.stem}.partial{target.suffix}")
        write_tiff(partial, (tifffile.imread(path) for path in paths), len(paths))
        os.replace(partial, target)
