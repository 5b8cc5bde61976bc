"""Where the frames of TIFF files lie, and what their bands show: alike, or told, or refused."""

import itertools
import math
import sys
from typing import Any

from media.georeference import Georeference
from media.raster import TiffSource

FAR = 8  # LR pixels between the places of two frames; of 6 they are as good, of 14 ruined


def look_at_places(given: TiffSource) -> str:
    """What frames say about their places, for the content of a job.

    Raises: ValueError: a frame whose bands show something else.
    """
    if given.layout == "bands" and not given.placed:
        return ""
    references = list(map(given.georeference, range(given.count)))
    if given.layout != "bands":
        check_bands(given, references)
    if not given.placed:
        return ""
    places = [(reference.crs, reference.transform) for reference in references]
    tell_shifts(given, places)
    others = []
    for reference in references:
        points = [(p.row, p.col, p.x, p.y, p.z) for p in reference.points[0]]
        others.append((points, reference.points[1], reference.rpcs))
    return repr((places, others))


def check_bands(given: TiffSource, references: list[Georeference]) -> None:
    """Refuse, by a ValueError that names it, a frame whose bands show something else."""
    for index, reference in enumerate(references):
        for name in ("colours", "scales", "offsets", "units"):
            first, own = getattr(references[0], name), getattr(reference, name)
            if own != first:
                told = f"{given.name(index)}: the {name} of its bands are {own}, of the first frame"
                raise ValueError(f"{told} {first}; all must be alike")


def tell_shifts(given: TiffSource, places: list[tuple[Any, Any]]) -> None:
    """Say which frames lie too far from the one before for what is between them to be found.

    places: coordinate system and transform of every frame.
    """
    corners = list(itertools.product((0, given.width), (0, given.height)))
    for index, ((system, before), (own_system, own)) in enumerate(itertools.pairwise(places), 1):
        if system != own_system or (before is None) != (own is None):
            told = f"{given.name(index)} has other coordinates than the frame before, which those "
            print(told + "between keep", file=sys.stderr)
            continue
        if before is None or before.is_degenerate:
            continue
        shift = max(math.dist(~before @ (own @ corner), corner) for corner in corners)
        if shift > FAR:
            told = f"{given.name(index)} lies {shift:.0f} pixels from the frame before: too far to "
            told += "find what is between them; cut the frames to one extent first"
            print(told, file=sys.stderr)
