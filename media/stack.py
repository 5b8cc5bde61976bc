"""Frames as the pages of one TIFF file."""

import os
from pathlib import Path

import numpy as np
import tifffile

from media.folder import ImageSink
from media.frames import FrameError, Source
from media.tiff import count_pages, read_page, write_tiff


class TiffStack(Source):
    """A TIFF file with one page per frame."""

    def __init__(self, path: Path):
        self.path, self.suffix = path, ".tif"
        self.count = count_pages(path)
        self.pages = range(self.count)
        for index in range(self.count):
            try:
                self.adopt(read_page(path, index, self.name(index)))
                return
            except FrameError as error:
                failure = error
        raise failure

    def read(self, index: int) -> np.ndarray:
        return self.check(read_page(self.path, self.pages[index], self.name(index)), index)

    def keep_only(self, part: slice) -> None:
        self.pages = self.pages[part]

    def name(self, index: int) -> str:
        return f"{self.path}: page {self.pages[index]}"


class TiffStackSink(ImageSink):
    """One TIFF file with a page per frame."""

    def __init__(self, folder: Path):
        super().__init__(folder, ".tif")

    def join(self, target: Path) -> None:
        paths = [self.path(index) for index in range(self.finished())]
        partial = target.with_name(f"{target.stem}.partial{target.suffix}")
        write_tiff(partial, (tifffile.imread(path) for path in paths), len(paths))
        os.replace(partial, target)
