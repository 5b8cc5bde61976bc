"""Frames of any source as 8-bit RGB, those of a sequence all alike."""

import numpy as np

from media.frames import Source

STRETCH = (0.5, 99.5)  # percentiles of the values that become black and white
LOOKED_AT = 16  # frames, spread over the sequence, of which they are taken
SAMPLES = 100_000  # values of a frame that are looked at


class Rgb:
    """A source whose frames are read as (H, W, 3) uint8.

    8 bits stay as they are, and video of more keeps its full scale. All other values are stretched
    between two percentiles of the whole sequence. One band becomes grey; of more than three that
    the file does not name, the first three count. Pixels without data become black, and so do the
    largest values where zero is white.

    Arguments:
        source: of the frames; a ValueError if none of them can be read.
        like: another sequence of the same scene, whose range is taken where its type is the same.
    Attributes:
        range: the values that become 0 and 255, or None where nothing is stretched.
        has_holes: whether a frame that was read had pixels without data.
    """

    def __init__(self, source: Source, like: "Rgb | None" = None):
        self.source, self.has_holes = source, False
        self.bands = list(source.colour or (range(3) if source.bands >= 3 else (0, 0, 0)))
        if source.dtype == np.uint8 and not source.bits:
            self.range = None
        elif source.full_scale:
            self.range = 0.0, float(np.iinfo(source.dtype).max)
        elif like is not None and like.source.dtype == source.dtype:
            self.range = like.range
        else:
            self.range = self._find_range()

    def _find_range(self) -> tuple[float, float]:
        ranges, failure = [], ValueError(f"{self.source.path} has no pixel with data")
        count = min(self.source.count, LOOKED_AT)
        for index in np.linspace(0, self.source.count - 1, count, dtype=int):
            try:
                values = np.ma.compressed(self.source.read(int(index))[..., self.bands])
            except ValueError as error:
                failure = error
                continue
            if values.size:
                some = values[:: max(values.size // SAMPLES, 1)]
                ranges.append(np.percentile(some, STRETCH))
        if not ranges:
            raise failure
        low, high = np.transpose(ranges)
        return float(low.min()), float(high.max())

    def read(self, index: int) -> np.ndarray:
        """Frame `index`, (H, W, 3) uint8."""
        frame = self.source.read(index)[..., self.bands]
        pixels = np.ascontiguousarray(np.ma.getdata(frame))
        if self.range is not None:
            low, high = self.range
            scaled = (pixels.astype(float) - low) * (255 / max(high - low, 1e-12))
            pixels = np.clip(np.rint(np.nan_to_num(scaled)), 0, 255).astype(np.uint8)
        pixels = 255 - pixels if self.source.inverted else pixels
        if np.ma.is_masked(frame):
            pixels[np.ma.getmask(frame)] = 0
            self.has_holes = True
        return pixels

    def told(self) -> str | None:
        """What is done to the values, for a message, or None where nothing is."""
        told = []
        if self.source.colour is None and self.source.bands > 1:
            taken = (
                "1, 2, 3 are taken for red, green, blue" if self.source.bands > 2 else "1 counts"
            )
            told.append(f"{self.source.bands} bands without names of colours, of which {taken}")
        if self.range is not None:
            low, high = self.range
            kind = np.dtype(self.source.dtype).name
            told.append(f"{kind} {low:g} to {high:g} becomes 8 bits, 0 to 255")
        return f"{self.source.path}: {'; '.join(told)}" if told else None
