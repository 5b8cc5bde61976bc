"""What fills a piece of land between streets, composed from the painters of `data.scenes.objects`.

Every block takes the scene and an upright rectangle in local metres.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from data.scenes import nature
from data.scenes import objects as paint
from data.scenes.canvas import Canvas, Material, Rect, box, line, pick, rectangle, short_side
from data.scenes.nature import Ground
from data.scenes.objects import ASPHALT, CONCRETE, PAVING
from data.scenes.traffic import Mover, park


@dataclass
class Scene:
    """A painted place: canvas, light factor (h, w, 3) and movers."""

    canvas: Canvas
    ground: Ground
    movers: list[Mover] = field(default_factory=list)
    light: np.ndarray | None = None


def lots(canvas: Canvas, rect: Rect, size: float, gap: float) -> list[Rect]:
    """Cut a rectangle into lots of about `size` metres, with gaps: those in sight and of use."""
    rng = canvas.rng
    x0, y0, x1, y1 = rect
    columns, rows = max(1, round((x1 - x0) / size)), max(1, round((y1 - y0) / size))
    xs, ys = np.linspace(x0, x1, columns + 1), np.linspace(y0, y1, rows + 1)
    xs[1:-1] += rng.uniform(-0.15, 0.15, columns - 1) * size
    ys[1:-1] += rng.uniform(-0.15, 0.15, rows - 1) * size
    half = gap / 2
    cut = [
        (xs[i] + half, ys[j] + half, xs[i + 1] - half, ys[j + 1] - half)
        for i in range(columns)
        for j in range(rows)
    ]
    return [lot for lot in cut if short_side(lot) > 6 and canvas.sees(*lot)]


def inset(rect: Rect, distance: float) -> Rect:
    """The rectangle made smaller on every side."""
    x0, y0, x1, y1 = rect
    return x0 + distance, y0 + distance, x1 - distance, y1 - distance


def towers(scene: Scene, rect: Rect) -> None:
    """High buildings in courts with trees and a few cars."""
    canvas, rng = scene.canvas, scene.canvas.rng
    canvas.fill(box(*rect), scene.ground.grass if rng.random() < 0.5 else PAVING)
    for lot in lots(canvas, inset(rect, 4), 48, 14):
        x, y = (lot[0] + lot[2]) / 2, (lot[1] + lot[3]) / 2
        length = min(rng.uniform(18, 38), lot[2] - lot[0])
        width = min(rng.uniform(12, 20), lot[3] - lot[1])
        if rng.random() < 0.5:
            length, width = width, length
        if rng.random() < 0.4:
            canvas.fill(box(*inset(lot, -2)), CONCRETE.varied(rng))
        tall = (x - length / 2, y - width / 2, x + length / 2, y + width / 2)
        paint.flat_roof(canvas, tall, rng.uniform(14, 36), 1.5)
    nature.wood(canvas, rect, 7, 0.2)


def perimeter(scene: Scene, rect: Rect) -> None:
    """Buildings wall to wall round courtyards."""
    canvas, rng = scene.canvas, scene.canvas.rng
    canvas.fill(box(*rect), PAVING.varied(rng))
    deep = rng.uniform(12, 17)
    x0, y0, x1, y1 = inset(rect, 2.5)
    sides = [
        (x0, y0, x1, y0 + deep),
        (x0, y1 - deep, x1, y1),
        (x0, y0 + deep, x0 + deep, y1 - deep),
        (x1 - deep, y0 + deep, x1, y1 - deep),
    ]
    for side in sides:
        if short_side(side) < 6:
            continue
        for part in _along(rng, side, 14, 34):
            if rng.random() < 0.06:
                continue
            if rng.random() < 0.3:
                left, top, right, low = part
                corners = np.array([(left, top), (right, top), (right, low), (left, low)])
                if right - left <= low - top:
                    corners = np.roll(corners, 1, axis=0)
                roof = Material(pick(rng, paint.HOUSE_ROOFS), 0.03, 0.03, 0).varied(rng)
                paint.pitched_roof(canvas, corners, rng.uniform(8, 14), 3, roof, False)
            else:
                paint.flat_roof(canvas, part, rng.uniform(8, 20))
    yard = inset((x0, y0, x1, y1), deep + 4)
    if short_side(yard) > 8:
        nature.wood(canvas, yard, 7, -0.2)
        if rng.random() < 0.5:
            paint.flat_roof(canvas, inset(yard, rng.uniform(2, 6)), rng.uniform(3, 8), 0.7)


def _along(rng: np.random.Generator, rect: Rect, low: float, high: float) -> list[Rect]:
    """Cut a long rectangle across its long side into pieces of `low` to `high` metres."""
    x0, y0, x1, y1 = rect
    wide = x1 - x0 >= y1 - y0
    start, end = (x0, x1) if wide else (y0, y1)
    cuts = [start]
    while end - cuts[-1] > high:
        cuts.append(cuts[-1] + rng.uniform(low, high))
    pairs = itertools.pairwise([*cuts, end])
    return [(a, y0, b, y1) if wide else (x0, a, x1, b) for a, b in pairs]


def offices(scene: Scene, rect: Rect) -> None:
    """Large flat-roofed buildings with narrow yards between them."""
    canvas, rng = scene.canvas, scene.canvas.rng
    canvas.fill(box(*rect), PAVING.varied(rng))
    for lot in lots(canvas, inset(rect, 2), rng.uniform(30, 60), rng.uniform(4, 9)):
        choice = rng.random()
        if choice < 0.12 and short_side(lot) > 24:
            paint.car_park(canvas, lot)
        elif choice < 0.2:
            park_block(scene, lot)
        else:
            paint.flat_roof(canvas, lot, rng.uniform(5, 24), 1.4)
    nature.wood(canvas, rect, 8, 0.5)


def park_block(scene: Scene, rect: Rect) -> None:
    """A green with paths, trees and sometimes a pond."""
    canvas, rng = scene.canvas, scene.canvas.rng
    x0, y0, x1, y1 = rect
    nature.meadow(canvas, box(*rect), scene.ground)
    centre = rng.uniform(0.35, 0.65, 2) * (x1 - x0, y1 - y0) + (x0, y0)
    for corner in ((x0, y0), (x1, y0), (x1, y1), (x0, y1)):
        canvas.stroke(line(*corner, *centre), 2.2, (0.6, 0.57, 0.5), 0.9)
    if short_side(rect) > 60 and rng.random() < 0.6:
        nature.water(canvas, blob(rng, *centre, rng.uniform(10, 20)), (0.14, 0.20, 0.19))
    nature.wood(canvas, rect, 7.5, float(rng.uniform(-0.6, 0.4)))


def blob(rng: np.random.Generator, x: float, y: float, radius: float) -> np.ndarray:
    """An uneven round outline."""
    turn = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    size = np.ones(60)
    for wave in range(2, 7):
        size += rng.normal(0, 0.25 / wave) * np.cos(wave * turn + rng.uniform(0, 6))
    return np.stack([x + radius * size * np.cos(turn), y + radius * size * np.sin(turn)], axis=1)


def parking_block(scene: Scene, rect: Rect) -> None:
    """A car park between rows of trees, sometimes with a shop."""
    canvas, rng = scene.canvas, scene.canvas.rng
    nature.meadow(canvas, box(*rect), scene.ground)
    x0, y0, x1, y1 = inset(rect, 4)
    if y1 - y0 > 75 and rng.random() < 0.6:
        split = y0 + rng.uniform(0.3, 0.45) * (y1 - y0)
        paint.flat_roof(canvas, (x0 + 5, y0, x1 - 5, split), rng.uniform(7, 11), 1.6)
        y0 = split + 4
    paint.car_park(canvas, (x0, y0, x1, y1))
    nature.tree_row(canvas, line(x0, y1 + 2, x1, y1 + 2), 9, 2.6)
    nature.tree_row(canvas, line(x0 - 2, y0, x0 - 2, y1), 9, 2.6)


def houses(scene: Scene, rect: Rect) -> None:
    """Two rows of houses back to back with drives, gardens, trees and pools."""
    canvas, rng = scene.canvas, scene.canvas.rng
    x0, y0, x1, y1 = rect
    nature.meadow(canvas, box(*rect), scene.ground)
    width = rng.uniform(18, 24)
    for side, front in ((1, y0), (-1, y1)):
        for x in np.arange(x0 + width / 2, x1 - width / 2 + 0.1, width):
            if not canvas.sees(x - width, min(y0, y1), x + width, max(y0, y1)):
                continue
            x = x + rng.uniform(-1.5, 1.5)
            y = front + side * rng.uniform(13, 17)
            lawn = scene.ground.grass.varied(rng, 0.04)
            middle = (front + side * (y1 - y0) / 4) if y1 - y0 > 50 else front + side * 13
            canvas.fill(rectangle(x, middle, width - 1, abs(2 * (middle - front)) - 1), lawn)
            drive = x + rng.choice([-0.3, 0.3]) * width
            way = box(drive - 2, min(front, y), drive + 2, max(front, y))
            canvas.fill(way, CONCRETE.varied(rng))
            if rng.random() < 0.5:
                park(canvas, drive, front + side * rng.uniform(3, 7), np.pi / 2)
            if rng.random() < 0.12:
                pool = blob(rng, x + rng.uniform(-3, 3), y + side * 13, 3.2)
                canvas.fill(pool, Material((0.42, 0.66, 0.70), 0.01, 0, 0), occupy=True)
            angle = rng.normal(0, 0.05) + (np.pi / 2 if rng.random() < 0.25 else 0)
            paint.house(canvas, x, y, angle)
            if rng.random() < 0.35:
                shed = rectangle(x + rng.uniform(-6, 6), y + side * rng.uniform(10, 13), 3.4, 2.6)
                canvas.fill(shed, Material((0.5, 0.48, 0.45)), height=2.3, occupy=True)
    nature.tree_row(canvas, line(x0, y0 + 3, x1, y0 + 3), 10, 3)
    nature.tree_row(canvas, line(x0, y1 - 3, x1, y1 - 3), 10, 3)
    nature.wood(canvas, rect, 7.5, 0.3)


def works(scene: Scene, rect: Rect) -> None:
    """Halls on a yard with lorries and stored goods."""
    canvas, rng = scene.canvas, scene.canvas.rng
    yard = (CONCRETE, ASPHALT, scene.ground.soil)[rng.integers(3)]
    canvas.fill(box(*rect), yard.varied(rng, 0.05))
    paint.clutter(canvas, rect, 0.6)
    for lot in lots(canvas, inset(rect, 5), rng.uniform(55, 95), rng.uniform(12, 24)):
        choice = rng.random()
        if choice < 0.62:
            paint.warehouse(canvas, lot)
            for x in np.arange(lot[0] + 4, lot[2] - 4, 4.2):
                if rng.random() < 0.3:
                    park(canvas, x, lot[3] + 7, np.pi / 2, lorry=True)
        elif choice < 0.74:
            tank_farm(scene, lot)
        elif choice < 0.86 and short_side(lot) > 24:
            paint.car_park(canvas, lot)
        else:
            paint.containers(canvas, lot)
    nature.wood(canvas, rect, 8, 1.4)


def tank_farm(scene: Scene, rect: Rect) -> None:
    """Round tanks in a bund."""
    canvas, rng = scene.canvas, scene.canvas.rng
    canvas.fill(box(*rect), scene.ground.soil.varied(rng))
    radius = rng.uniform(7, 13)
    for lot in lots(canvas, rect, 2.9 * radius, 3):
        if rng.random() < 0.88:
            size = min(radius, (lot[2] - lot[0]) / 2 - 1, (lot[3] - lot[1]) / 2 - 1)
            if size > 3:
                middle = (lot[0] + lot[2]) / 2, (lot[1] + lot[3]) / 2
                paint.tank(canvas, *middle, size * rng.uniform(0.85, 1))
    canvas.stroke(box(*rect), 1.0, (0.6, 0.58, 0.54), 0.8)


BLOCKS: dict[str, Callable[[Scene, Rect], None]] = {
    "towers": towers,
    "perimeter": perimeter,
    "offices": offices,
    "park": park_block,
    "parking": parking_block,
    "houses": houses,
    "works": works,
}
