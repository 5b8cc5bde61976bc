"""Areas cut into blocks: a street grid with its traffic, or fields with their hedges."""

from __future__ import annotations

import itertools

import numpy as np

from data import scene_nature as nature
from data import scene_objects as paint
from data.scene_blocks import BLOCKS, Scene, houses, inset, park_block
from data.scene_canvas import Canvas, Material, arc_length, beside, box, line
from data.scene_objects import ASPHALT, Rect
from data.scene_traffic import add_lane_traffic


def streets(
    scene: Scene,
    area: Rect,
    pitch: tuple[float, float],
    blocks: dict[str, float],
    lanes: tuple[tuple[int, ...], tuple[int, ...]],
    quiet: bool = False,
) -> None:
    """A street grid over an area with traffic, and blocks of the given shares between.

    Args:
        scene: the place.
        area: the land it covers.
        pitch: mean distance of the streets along x and y in metres.
        blocks: names in `BLOCKS` and their shares.
        lanes: numbers of lanes to choose from, for streets across x and across y.
        quiet: little traffic, and no markings on streets of two lanes.
    """
    canvas, rng = scene.canvas, scene.canvas.rng
    x0, y0, x1, y1 = area
    canvas.fill(box(*area), paint.PAVING)
    cuts = []
    for low, high, step, choice in ((x0, x1, pitch[0], lanes[0]), (y0, y1, pitch[1], lanes[1])):
        places, at = [], low + rng.uniform(0.1, 0.9) * step
        while at < high - 20:
            places.append((at, int(rng.choice(choice))))
            at += step * rng.uniform(0.75, 1.3)
        cuts.append(places)

    def half(count: int) -> float:
        return 1.75 * count + 1.0

    runs = [(True, at, n) for at, n in cuts[1]] + [(False, at, n) for at, n in cuts[0]]
    names, shares = list(blocks), np.array(list(blocks.values()))
    xs = [(x0, -2.0), *((at, half(n) + 2.5) for at, n in cuts[0]), (x1, -2.0)]
    ys = [(y0, -2.0), *((at, half(n) + 2.5) for at, n in cuts[1]), (y1, -2.0)]
    for (left, a), (right, b) in itertools.pairwise(xs):
        for (top, c), (bottom, d) in itertools.pairwise(ys):
            rect = (left + a, top + c, right - b, bottom - d)
            if min(rect[2] - rect[0], rect[3] - rect[1]) > 14 and canvas.sees(*rect):
                BLOCKS[names[rng.choice(len(names), p=shares / shares.sum())]](scene, rect)
    surface = ASPHALT.varied(rng, 0.05)
    if quiet:
        surface = Material((0.45, 0.45, 0.43), 0.02, 0.03, 0.04).varied(rng, 0.04)
    paths = []
    for flat, at, count in runs:
        path = line(x0, at, x1, at) if flat else line(at, y0, at, y1)
        paths.append((flat, at, count, path))
        paint.road(canvas, path, count, surface)
    for flat, at, count, path in paths:
        crossings = [(c, half(n) + 5) for c, n in cuts[0 if flat else 1]]
        start, end = (x0, x1) if flat else (y0, y1)
        stops = [start, *(s for c, w in crossings for s in (c - w, c + w)), end]
        for a, b in zip(stops[::2], stops[1::2], strict=True):
            if b - a > 12 and (count > 2 or not quiet):
                piece = line(a, at, b, at) if flat else line(at, a, at, b)
                paint.road_marks(canvas, piece, count, edges=False)
        if count > 2 or not quiet:
            for c, w in crossings:
                for side in (-1, 1):
                    spot = (c + side * (w - 2), at) if flat else (at, c + side * (w - 2))
                    paint.zebra(canvas, *spot, np.pi / 2 if flat else 0, 3.5 * count)
        blocked = [] if flat else [(c - w - y0, c + w - y0) for c, w in crossings]
        offsets = [s * (k + 0.5) * 3.5 for s in (-1, 1) for k in range(count // 2)]
        pace = rng.uniform(0.5, 1.6)
        length = arc_length(path)[-1]
        spacing = rng.uniform(80, 200) if quiet and count == 2 else rng.uniform(25, 70)
        gaps = blocked + [(length - b, length - a) for a, b in blocked]
        scene.movers += add_lane_traffic(
            canvas, path, offsets, pace, spacing, gaps=gaps, lorries=0.04 if quiet else 0.1
        )
        if count <= 2 and rng.random() < 0.6:
            _kerb_cars(canvas, path, half(count) - 0.9, crossings, start)


def _kerb_cars(
    canvas: Canvas, path: np.ndarray, side: float, crossings: list, start: float
) -> None:
    """Cars parked along both kerbs of a street."""
    rng = canvas.rng
    places = np.arange(8, arc_length(path)[-1] - 8, 5.8)
    for sign in (-1, 1):
        lane = beside(path, sign * side)
        for place in places[rng.random(len(places)) < 0.45]:
            if any(abs(place + start - c) < w + 6 for c, w in crossings):
                continue
            k = min(int(place / arc_length(path)[-1] * (len(lane) - 1)), len(lane) - 2)
            share = place / arc_length(path)[-1] * (len(lane) - 1) - k
            x, y = lane[k] + share * (lane[k + 1] - lane[k])
            paint.car(canvas, x, y, float(np.arctan2(*(lane[k + 1] - lane[k])[::-1])))


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
