"""Before and after: a split-screen video (bicubic | enhanced), a sheet of crops, a page to look at.

Both halves of the video show the same ground, the middle of the frame. The page, see utils/page.py,
has a slider between them at the most detailed place. Bicubic stands for what
there is without a network: given frames enlarged, and between them the blend of their neighbours.
"""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from matplotlib.figure import Figure

from enhancement.levels import Levels, fill_missing, view_rgb
from enhancement.repair import denser_times
from media.frames import Source, remove
from media.open import open_source
from media.video_sink import VideoSink
from models.blocks import SCALE
from utils.files import write_atomically
from utils.page import GIVEN, MOST_FRAMES, PageClip, page_entry, write_page
from utils.plots import detailed_place
from utils.resize import imresize

LARGEST_HALF = (270, 240)  # LR rows and columns: both halves make 1920x1080
CROP = 32  # side of a magnified crop, LR pixels
PLACES = 4  # crops on the sheet
VIEWED = 160  # longest side of the part on the page, LR pixels
BORDER = 4  # LR pixels around a crop that the bicubic kernel sees
Place = tuple[slice, slice]  # LR rows and columns


def compare(
    config: Any, given: Source, levels: Levels, output: Path, video: Path, sheet: Path, page: Path
) -> None:
    """Write all comparisons of an input, with its levels, and its finished result, `output`."""
    pair = Pair(given, levels, output, config.times, config.bands_per_frame)
    write_split_screen(pair, video)
    write_sheet(pair, sheet)
    write_viewer(pair, page)


class Pair:
    """An input and its result, as 8-bit pictures of the same places at the same times."""

    def __init__(
        self, given: Source, levels: Levels, output: Path, times: int, bands_per_frame: int
    ):
        self.given, self.levels, self.times = given, levels, times
        self.result = open_source(output, bands_per_frame)
        self.result_levels = levels
        if self.result.full_scale and not given.full_scale:
            self.result_levels = levels.stretched(self.result.dtype)
        self.count = times * (given.count - 1) + 1

    def view(self, index: int) -> np.ndarray:
        """Given frame `index`, (H, W, 3) uint8."""
        return view_rgb(self.given, self.levels, fill_missing(self.given.read(index)))

    def bicubic(self, index: int, places: list[Place]) -> list[np.ndarray]:
        """Places in frame `index` of the result as bicubic enlargement makes them."""
        before, step = divmod(index, self.times)
        views = [self.view(before)] + ([self.view(before + 1)] if step else [])
        pictures = []
        for rows, columns in places:
            top, left = max(rows.start - BORDER, 0), max(columns.start - BORDER, 0)
            around = slice(top, rows.stop + BORDER), slice(left, columns.stop + BORDER)
            blended = views[0][around].astype(np.float32)
            blended += step / self.times * (views[-1][around] - blended)
            inner = slice(rows.start - top, rows.stop - top)
            inner = inner, slice(columns.start - left, columns.stop - left)
            enlarged = imresize(blended, SCALE)[larger(inner)]
            pictures.append(np.clip(np.rint(enlarged), 0, 255).astype(np.uint8))
        return pictures

    def enhanced(self, index: int, places: list[Place]) -> list[np.ndarray]:
        """The same places in the result."""
        pixels = fill_missing(self.result.read(index))
        parts = [pixels[larger(place)] for place in places]
        return [view_rgb(self.result, self.result_levels, part) for part in parts]


def larger(place: Place) -> Place:
    """The same place in frames of SCALE times the size."""
    return tuple(slice(SCALE * side.start, SCALE * side.stop) for side in place)


def write_split_screen(pair: Pair, path: Path) -> None:
    """The middle of all frames, bicubic on the left and enhanced on the right."""
    lengths = pair.given.height, pair.given.width
    sides = [min(both) for both in zip(lengths, LARGEST_HALF, strict=True)]
    starts = [(length - side) // 2 for length, side in zip(lengths, sides, strict=True)]
    place = tuple(slice(start, start + side) for start, side in zip(starts, sides, strict=True))
    folder = path.with_name(path.name + ".partial")
    remove(folder)
    times = denser_times(pair.given.times, pair.times)
    sink = VideoSink(folder, SCALE * sides[0], 2 * SCALE * sides[1], times)
    sink.write(0, (_split(pair, index, place) for index in range(pair.count)))
    sink.join(path)


def _split(pair: Pair, index: int, place: Place) -> np.ndarray:
    halves = []
    for method in (pair.bicubic, pair.enhanced):
        half = np.ascontiguousarray(method(index, [place])[0])
        for colour, thickness in ((0, 3), (255, 1)):
            style = cv2.FONT_HERSHEY_SIMPLEX, 0.5, (colour,) * 3, thickness, cv2.LINE_AA
            cv2.putText(half, method.__name__, (8, 20), *style)
        halves.append(half)
    halves[1][:, :2] = 255
    return np.concatenate(halves, axis=1)


def write_sheet(pair: Pair, path: Path) -> None:
    """The most detailed places of a given frame and of the one after it, side by side."""
    middle = (pair.given.count - 1) // 2
    given, between = middle * pair.times, middle * pair.times + pair.times // 2
    view = pair.view(middle)
    places = detailed_places(view)
    titles = ("given", "bicubic", "enhanced", "between: bicubic", "between: enhanced")
    figure = Figure(figsize=(2.6 * len(titles), 2.6 * len(places) + 0.3), layout="constrained")
    axes = figure.subplots(len(places), len(titles), squeeze=False)
    pictures = [[view[place] for place in places]]
    for index in (given, between):
        pictures += pair.bicubic(index, places), pair.enhanced(index, places)
    for column, title, column_pictures in zip(axes.T, titles, pictures, strict=True):
        column[0].set_title(title, fontsize=10)
        for axis, picture in zip(column, column_pictures, strict=True):
            axis.imshow(picture, interpolation="nearest")
            axis.set_axis_off()
    write_atomically(path, lambda partial: figure.savefig(partial, dpi=150, format="png"))


def detailed_places(view: np.ndarray) -> list[Place]:
    """Up to PLACES parts of a frame that do not touch, those with the strongest edges first."""
    side = min(CROP, *view.shape[:2])
    edges = np.abs(cv2.Laplacian(cv2.cvtColor(view, cv2.COLOR_RGB2GRAY), cv2.CV_32F))
    blocks = [
        (float(edges[top : top + side, left : left + side].mean()), top, left)
        for top in range(0, view.shape[0] - side + 1, side)
        for left in range(0, view.shape[1] - side + 1, side)
    ]
    blocks.sort(reverse=True)
    return [(slice(top, top + side), slice(left, left + side)) for _, top, left in blocks[:PLACES]]


def write_viewer(pair: Pair, path: Path) -> None:
    """A page with a part of the frames in the middle of the sequence."""
    middle = (pair.given.count - 1) // 2
    first = max(middle - MOST_FRAMES // (2 * pair.times), 0)
    last = min(first + (MOST_FRAMES - 1) // pair.times, pair.given.count - 1)
    height, width = pair.given.height, pair.given.width
    size = min(height, VIEWED), min(width, VIEWED)
    top, left = detailed_place(pair.view(middle), size)
    place = (slice(top, top + size[0]), slice(left, left + size[1]))
    times = range(first * pair.times, last * pair.times + 1)
    clip = PageClip(
        name=pair.given.path.name,
        sources={
            GIVEN: np.stack([pair.view(index)[place] for index in range(first, last + 1)]),
            "bicubic": np.stack([pair.bicubic(index, [place])[0] for index in times]),
            "enhanced": np.stack([pair.enhanced(index, [place])[0] for index in times]),
        },
        step=pair.times,
        shown=("bicubic", "enhanced"),
        origin=(SCALE * top, SCALE * left),
        whole=(SCALE * height, SCALE * width),
        first=times[0],
    )
    facts = {
        "Given": f"{pair.given.path}: {pair.given.count} frames of {width}x{height}",
        "Enhanced": f"{pair.count} frames of {SCALE * width}x{SCALE * height}",
    }
    write_page(path, "Before and after", facts, [page_entry(clip, 1)], 1)
