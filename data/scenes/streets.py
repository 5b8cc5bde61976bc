"""Areas cut into blocks: a street grid with its traffic, or fields with their hedges."""

import itertools
from dataclasses import dataclass

import numpy as np

from data.scenes import nature
from data.scenes import objects as paint
from data.scenes.blocks import BLOCKS, Scene, houses, inset, park_block
from data.scenes.canvas import Canvas, Material, Rect, box, line, short_side
from data.scenes.objects import ASPHALT
from data.scenes.traffic import add_lane_traffic, park


@dataclass(frozen=True)
class Street:
    """A straight street of a grid; places in metres."""

    flat: bool  # whether it runs along x
    at: float  # its place on the other axis
    lanes: int
    start: float  # on its own axis, like the end
    end: float
    crossings: tuple[tuple[float, float], ...]  # streets across: place and half width

    def piece(self, start: float, end: float) -> np.ndarray:
        """The middle of the street (n, 2) from one place on its axis to another."""
        return line(*self.point(start), *self.point(end))

    def point(self, place: float, aside: float = 0.0) -> tuple[float, float]:
        """(x, y) of a place on its axis, or so many metres beside it."""
        return (place, self.at + aside) if self.flat else (self.at + aside, place)


def half_width(lanes: int) -> float:
    """From the middle of a street to its kerb, in metres."""
    return 1.75 * lanes + 1.0


def streets(
    scene: Scene,
    area: Rect,
    pitch: tuple[float, float],
    blocks: dict[str, float],
    lanes: tuple[tuple[int, ...], tuple[int, ...]],
    quiet: bool = False,
) -> None:
    """A street grid over an area with traffic, and blocks of the given shares between.

    Arguments:
        area: the land it covers.
        pitch: mean distance of the streets along x and y in metres.
        blocks: names in `BLOCKS` and their shares.
        lanes: numbers of lanes to choose from, for streets across x and across y.
        quiet: little traffic, and no markings on streets of two lanes.
    """
    canvas, rng = scene.canvas, scene.canvas.rng
    x0, y0, x1, y1 = area
    canvas.fill(box(*area), paint.PAVING)
    across = _cuts(rng, x0, x1, pitch[0], lanes[0])
    along = _cuts(rng, y0, y1, pitch[1], lanes[1])
    _fill_blocks(scene, area, across, along, blocks)
    crossed_by = [tuple((at, half_width(n)) for at, n in cuts) for cuts in (across, along)]
    grid = [Street(True, at, n, x0, x1, crossed_by[0]) for at, n in along]
    grid += [Street(False, at, n, y0, y1, crossed_by[1]) for at, n in across]
    surface = ASPHALT.varied(rng, 0.05)
    if quiet:
        surface = Material((0.45, 0.45, 0.43), 0.02, 0.03, 0.04).varied(rng, 0.04)
    for street in grid:
        paint.road(canvas, street.piece(street.start, street.end), street.lanes, surface)
    for street in grid:
        if street.lanes > 2 or not quiet:
            _mark(canvas, street)
        _drive(scene, street, quiet)
        if street.lanes <= 2 and rng.random() < 0.6:
            _park_along(canvas, street)


def _cuts(
    rng: np.random.Generator, low: float, high: float, step: float, lanes: tuple[int, ...]
) -> list[tuple[float, int]]:
    """Places of parallel streets between two borders and their numbers of lanes."""
    places, at = [], low + rng.uniform(0.1, 0.9) * step
    while at < high - 20:
        places.append((at, int(rng.choice(lanes))))
        at += step * rng.uniform(0.75, 1.3)
    return places


def _fill_blocks(
    scene: Scene,
    area: Rect,
    across: list[tuple[float, int]],
    along: list[tuple[float, int]],
    blocks: dict[str, float],
) -> None:
    """Build on the land between the streets, behind pavements of 2.5 m."""
    rng = scene.canvas.rng
    names, shares = list(blocks), np.array(list(blocks.values()))
    x0, y0, x1, y1 = area
    xs = [(x0, -2.0), *((at, half_width(n) + 2.5) for at, n in across), (x1, -2.0)]
    ys = [(y0, -2.0), *((at, half_width(n) + 2.5) for at, n in along), (y1, -2.0)]
    for (left, a), (right, b) in itertools.pairwise(xs):
        for (top, c), (bottom, d) in itertools.pairwise(ys):
            rect = (left + a, top + c, right - b, bottom - d)
            if short_side(rect) > 14 and scene.canvas.sees(*rect):
                BLOCKS[names[rng.choice(len(names), p=shares / shares.sum())]](scene, rect)


def _mark(canvas: Canvas, street: Street) -> None:
    """Lane lines between the crossings and zebra crossings before them."""
    stops = [street.start]
    for place, half in street.crossings:
        stops += [place - half - 5, place + half + 5]
        for spot in (place - half - 3, place + half + 3):
            angle = np.pi / 2 if street.flat else 0.0
            paint.zebra(canvas, *street.point(spot), angle, 3.5 * street.lanes)
    stops.append(street.end)
    for start, end in zip(stops[::2], stops[1::2], strict=True):
        if end - start > 12:
            paint.road_marks(canvas, street.piece(start, end), street.lanes, edges=False)


def _drive(scene: Scene, street: Street, quiet: bool) -> None:
    """Traffic in all lanes; streets along y keep the crossings free for those along x."""
    rng = scene.canvas.rng
    length = street.end - street.start
    gaps = []
    if not street.flat:
        for place, half in street.crossings:
            near, far = place - half - 5 - street.start, place + half + 5 - street.start
            gaps += [(near, far), (length - far, length - near)]
    offsets = [sign * (k + 0.5) * 3.5 for sign in (-1, 1) for k in range(street.lanes // 2)]
    calm = quiet and street.lanes == 2
    spacing = rng.uniform(80, 200) if calm else rng.uniform(25, 70)
    path, speed = street.piece(street.start, street.end), rng.uniform(0.5, 1.6)
    options = {"gaps": gaps, "lorries": 0.04 if quiet else 0.1}
    scene.movers += add_lane_traffic(scene.canvas, path, offsets, speed, spacing, **options)


def _park_along(canvas: Canvas, street: Street) -> None:
    """Cars parked along both kerbs of a street."""
    rng = canvas.rng
    side = half_width(street.lanes) - 0.9
    for sign in (-1, 1):
        for place in np.arange(street.start + 8, street.end - 8, 5.8):
            if rng.random() > 0.45:
                continue
            if any(abs(place - crossing) < half + 11 for crossing, half in street.crossings):
                continue
            angle = 0.0 if street.flat else np.pi / 2
            park(canvas, *street.point(place, sign * side), angle)


def parcels(scene: Scene, area: Rect, size: float) -> None:
    """Fields of about `size` metres with tracks, hedges and woods between."""
    canvas, rng = scene.canvas, scene.canvas.rng
    nature.meadow(canvas, box(*area), scene.ground)
    stack = [area]
    while stack:
        x0, y0, x1, y1 = stack.pop()
        if not canvas.sees(x0, y0, x1, y1):
            continue
        wide, tall = x1 - x0, y1 - y0
        if max(wide, tall) > size * rng.uniform(0.9, 1.9):
            cut = rng.uniform(0.3, 0.7)
            if wide > tall:
                stack += [(x0, y0, x0 + cut * wide, y1), (x0 + cut * wide, y0, x1, y1)]
            else:
                stack += [(x0, y0, x1, y0 + cut * tall), (x0, y0 + cut * tall, x1, y1)]
            continue
        rect = inset((x0, y0, x1, y1), rng.uniform(0.7, 2.5))
        choice = rng.random()
        if choice < 0.08:
            nature.wood(canvas, rect, 6, -1.5)
        elif choice < 0.12:
            houses(scene, inset(rect, 6)) if min(wide, tall) > 70 else park_block(scene, rect)
        else:
            nature.field(canvas, box(*rect), scene.ground)
        if rng.random() < 0.25:
            nature.tree_row(canvas, line(x0, y0, x1, y0), 5.5, 2.6)
        if rng.random() < 0.2:
            canvas.stroke(line(x0, y0, x0, y1), 3.0, (0.62, 0.56, 0.47), 0.8)
