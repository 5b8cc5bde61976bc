"""Painters of built things: roads, buildings, car parks, tanks, railways, in local metres.

The order of painting is the order of height: ground, roads, markings, buildings, then trees,
which `Canvas.grow` adds last.
"""

import itertools

import numpy as np

from data.scenes.canvas import (
    Canvas,
    Material,
    Rect,
    beside,
    box,
    line,
    pick,
    points_at,
    rectangle,
    ribbon,
    short_side,
    turned,
)
from data.scenes.traffic import park

LANE = 3.5  # metres
WHITE = (0.86, 0.86, 0.84)
YELLOW = (0.72, 0.58, 0.22)
DARK = (0.13, 0.13, 0.13)
CONCRETE = Material((0.56, 0.55, 0.51), 0.02, 0.03, 0.03)
PAVING = Material((0.50, 0.49, 0.46), 0.04, 0.05, 0.03)
ASPHALT = Material((0.34, 0.34, 0.34), 0.02, 0.03, 0.04)

# Roof colours from very bright sheet to bitumen, with their share.
ROOFS = (
    ((0.88, 0.88, 0.86), 0.17),
    ((0.72, 0.70, 0.66), 0.20),
    ((0.56, 0.55, 0.53), 0.18),
    ((0.38, 0.38, 0.38), 0.12),
    ((0.66, 0.60, 0.50), 0.14),
    ((0.48, 0.40, 0.34), 0.07),
    ((0.44, 0.50, 0.55), 0.05),
    ((0.42, 0.47, 0.43), 0.02),
)
HOUSE_ROOFS = (
    ((0.50, 0.37, 0.30), 0.16),
    ((0.42, 0.35, 0.30), 0.22),
    ((0.43, 0.42, 0.41), 0.26),
    ((0.54, 0.52, 0.48), 0.18),
    ((0.32, 0.32, 0.33), 0.10),
    ((0.78, 0.77, 0.75), 0.08),
)


CONTAINERS = (
    *((0.46, 0.27, 0.22), (0.26, 0.34, 0.46), (0.60, 0.60, 0.58), (0.34, 0.41, 0.37)),
    *((0.78, 0.78, 0.76), (0.56, 0.43, 0.29), (0.33, 0.33, 0.36)),
)


def road(
    canvas: Canvas,
    path: np.ndarray,
    lanes: int,
    surface: Material = ASPHALT,
    lane_width: float = LANE,
    median: float = 0.0,
    shoulder: float = 0.5,
    deck: float | None = None,
) -> list[float]:
    """The surface of a road with `lanes` in all, worn along its lanes.

    Returns: Distances of the lanes' middles from the path, negative to its left.
    """
    side = lanes / 2 * lane_width + median / 2 + shoulder
    canvas.fill(ribbon(path, side), surface, height=deck, occupy=True)
    if lanes < 2:
        return [0.0]
    right = [median / 2 + (k + 0.5) * lane_width for k in range(lanes // 2)]
    offsets = [sign * offset for sign in (-1, 1) for offset in right]
    worn = tuple(0.82 * np.array(surface.colour))
    for offset in offsets:
        canvas.stroke(beside(path, offset), 1.6, worn, 0.30)
    return offsets


def road_marks(
    canvas: Canvas, path: np.ndarray, lanes: int, median: float = 0.0, edges: bool = True
) -> None:
    """Lane lines, edge lines and the middle of a road painted by `road`."""
    half = lanes // 2
    for sign in (-1, 1):
        for k in range(1, half):
            lane = beside(path, sign * (median / 2 + k * LANE))
            canvas.stroke(lane, 0.3, WHITE, 0.75, dash=(4.0, 8.0))
        if edges:
            border = beside(path, sign * (median / 2 + half * LANE))
            canvas.stroke(border, 0.3, WHITE, 0.5)
            if median:
                canvas.stroke(beside(path, sign * median / 2), 0.3, WHITE, 0.5)
    if not median and lanes > 2:
        canvas.stroke(path, 0.5, YELLOW, 0.7)
    elif not median and lanes == 2:
        canvas.stroke(path, 0.3, WHITE, 0.6, dash=(3.0, 6.0))


def zebra(canvas: Canvas, x: float, y: float, along: float, width: float) -> None:
    """A zebra crossing at (x, y) over a road of `width`, walked in direction `along`."""
    for place in np.arange(-width / 2 + 0.6, width / 2 - 0.3, 1.1):
        dx, dy = place * np.cos(along), place * np.sin(along)
        bar = rectangle(x + dx, y + dy, 0.5, 3.2, along)
        canvas.fill(bar, Material(WHITE, 0.02, 0.06, 0), alpha=0.8)


def roof_clutter(canvas: Canvas, rect: Rect, height: float, count: int) -> None:
    """Stair heads, machines and vents on a flat roof."""
    rng = canvas.rng
    x0, y0, x1, y1 = rect
    if short_side(rect) < 6:
        return
    for _ in range(count):
        length = rng.uniform(1.2, min(6.0, (x1 - x0) / 3))
        width = rng.uniform(1.2, min(5.0, (y1 - y0) / 3))
        x, y = rng.uniform(x0 + length, x1 - length), rng.uniform(y0 + width, y1 - width)
        tone = float(rng.choice([0.85, 0.7, 0.5, 0.35]))
        metal = Material((tone, tone, 0.98 * tone), 0.02, 0, 0)
        canvas.fill(rectangle(x, y, length, width), metal, height=height + rng.uniform(0.8, 3.0))


def roof_panels(canvas: Canvas, rect: Rect, base: Material) -> None:
    """Parts of a roof that were laid, mended or soiled at other times."""
    rng = canvas.rng
    x0, y0, x1, y1 = rect
    for _ in range(int(rng.integers(0, 2 + (x1 - x0) * (y1 - y0) / 350))):
        left, right = np.sort(rng.uniform(x0, x1, 2))
        top, low = np.sort(rng.uniform(y0, y1, 2))
        if rng.random() < 0.4:
            top, low = y0, y1
        canvas.fill(box(left, top, right, low), base.varied(rng, 0.07), alpha=0.7)


def clutter(canvas: Canvas, rect: Rect, density: float) -> None:
    """What lies about in yards: crates, heaps, sheds; `density` per 100 square metres."""
    rng = canvas.rng
    x0, y0, x1, y1 = rect
    count = int(max(x1 - x0, 0) * max(y1 - y0, 0) * density / 100)
    for x, y in rng.uniform((x0, y0), (x1, y1), (count, 2)):
        tone = rng.uniform(0.25, 0.8) * np.array([1, 1, 0.96]) + rng.normal(0, 0.03, 3)
        size = rng.uniform(0.8, 3.5, 2)
        thing = rectangle(x, y, *size, rng.choice([0.0, 0.0, rng.uniform(0, np.pi)]))
        canvas.fill(thing, Material(tuple(np.clip(tone, 0.1, 0.9))), height=rng.uniform(0.5, 2.8))


def flat_roof(canvas: Canvas, rect: Rect, height: float, clutter: float = 1.0) -> None:
    """A block with a flat roof, a parapet and what stands on it."""
    rng = canvas.rng
    x0, y0, x1, y1 = rect
    base = Material(pick(rng, ROOFS), 0.02, 0.05, 0.01).varied(rng)
    rim = Material(tuple(np.clip(np.array(base.colour) * rng.uniform(0.8, 1.3), 0, 0.95)))
    canvas.fill(box(*rect), rim, height=height + 0.9, occupy=True)
    inner = (x0 + 0.7, y0 + 0.7, x1 - 0.7, y1 - 0.7)
    canvas.fill(box(*inner), base, height=height)
    roof_panels(canvas, inner, base)
    area = (x1 - x0) * (y1 - y0)
    if area > 500 and rng.random() < 0.5:
        seams = tuple(0.85 * np.array(base.colour))
        for x in np.arange(x0 + 4, x1 - 3, rng.uniform(4, 9)):
            canvas.stroke(line(x, y0 + 1, x, y1 - 1), 0.4, seams, 0.6)
    if area > 250 and rng.random() < 0.3:
        part = rng.uniform(0.3, 0.6)
        upper = (x0 + 2, y0 + 2, x0 + 2 + part * (x1 - x0 - 4), y1 - 2)
        tone = base.varied(rng, 0.08)
        canvas.fill(box(*upper), tone, height=height + rng.uniform(3, 5))
    if short_side(rect) > 8:
        roof_clutter(canvas, (x0 + 1, y0 + 1, x1 - 1, y1 - 1), height, int(clutter * area**0.5 / 4))


def pitched_roof(
    canvas: Canvas, corners: np.ndarray, eaves: float, rise: float, material: Material, hip: bool
) -> None:
    """A gabled or hipped roof on a rectangle; its ridge runs along the first edge."""
    pixels = canvas.pixels(corners)
    where, mask = canvas.coverage(corners)
    rows, columns = np.mgrid[where].astype(np.float32) + 0.5
    along, across = pixels[1] - pixels[0], pixels[3] - pixels[0]
    length, width = np.linalg.norm(along), np.linalg.norm(across)
    dx, dy = columns - pixels[0, 0], rows - pixels[0, 1]
    u = (dx * along[0] + dy * along[1]) / length
    v = (dx * across[0] + dy * across[1]) / width
    profile = np.minimum(v, width - v)
    if hip:
        profile = np.minimum(profile, np.minimum(u, length - u))
    profile = np.clip(profile / (width / 2), 0, 1)
    canvas.paint(where, mask, material)
    canvas.raise_to(where, mask, eaves + rise * profile)
    canvas.occupied[where] |= mask > 0.2


def house(canvas: Canvas, x: float, y: float, angle: float) -> None:
    """A detached house of 8 to 20 metres, sometimes with a wing and a chimney."""
    rng = canvas.rng
    length, width = rng.uniform(12, 17), rng.uniform(8.5, 12)
    material = Material(pick(rng, HOUSE_ROOFS), 0.04, 0.03, 0).varied(rng)
    eaves, rise = rng.uniform(3, 5.5), rng.uniform(1.5, 3)
    hip = bool(rng.random() < 0.5)
    for _ in range(int(rng.integers(0, 3))):
        side = rng.choice([-1, 1]) * rng.uniform(0.2, 0.3) * length
        front = rng.choice([-0.45, 0.45]) * width
        wing = turned(rectangle(side, front, 0.95 * width, 0.6 * width, np.pi / 2), angle)
        pitched_roof(canvas, np.add(wing, (x, y)), eaves - 0.3, 0.8 * rise, material, hip)
    pitched_roof(canvas, rectangle(x, y, length, width, angle), eaves, rise, material, hip)
    if rng.random() < 0.6:
        spot = turned(np.array([[0.25 * length, 0.12 * width]]), angle)[0]
        stack = Material((0.4, 0.36, 0.33))
        canvas.fill(rectangle(x + spot[0], y + spot[1], 0.9, 0.9, angle), stack, eaves + rise + 0.8)


def warehouse(canvas: Canvas, rect: Rect) -> None:
    """A hall with one or more low ridges, seams, rooflights and vents."""
    rng = canvas.rng
    x0, y0, x1, y1 = rect
    height = rng.uniform(6, 12)
    base = Material(pick(rng, ROOFS), 0.015, 0.03, 0.01).varied(rng)
    bays = max(1, round((y1 - y0) / rng.uniform(18, 32)))
    edges = np.linspace(y0, y1, bays + 1)
    for low, high in itertools.pairwise(edges):
        corners = np.array([(x0, low), (x1, low), (x1, high), (x0, high)])
        pitched_roof(canvas, corners, height, rng.uniform(1.5, 2.5), base.varied(rng, 0.02), False)
    roof_panels(canvas, rect, base)
    light = rng.random() < 0.5
    tone = (0.82, 0.85, 0.86) if light else tuple(0.86 * np.array(base.colour))
    step = rng.uniform(5, 10)
    for x in np.arange(x0 + 3, x1 - 2, step):
        for low, high in itertools.pairwise(edges):
            third = (high - low) / 3
            if light:
                canvas.stroke(line(x, low + 0.5 * third, x, low + 1.2 * third), 0.9, tone, 0.8)
                canvas.stroke(line(x, low + 1.8 * third, x, low + 2.5 * third), 0.9, tone, 0.8)
            else:
                canvas.stroke(line(x, low, x, high), 0.4, tone, 0.5)
    if rng.random() < 0.6:
        roof_clutter(canvas, (x0 + 2, y0 + 2, x1 - 2, y1 - 2), height + 1, int(rng.integers(2, 9)))


def tank(canvas: Canvas, x: float, y: float, radius: float) -> None:
    """A round storage tank with its bright shell and stair."""
    rng = canvas.rng
    turn = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    circle = np.stack([np.cos(turn), np.sin(turn)], axis=1)
    height = rng.uniform(8, 14)
    tone = float(rng.choice([0.9, 0.86, 0.6])) + rng.normal(0, 0.02)
    shell = Material((tone, tone, 0.98 * tone), 0.01, 0.02, 0)
    canvas.fill(radius * circle + (x, y), shell, height=height, occupy=True)
    floating = rng.random() < 0.35
    top = Material(tuple(0.85 * np.array(shell.colour)), 0.01, 0.03, 0)
    level = height - 4 if floating else height + 0.5
    canvas.fill((radius - 0.8) * circle + (x, y), top if floating else shell, height=level)
    stair = line(x, y, x + radius * np.cos(turn[3]), y + radius * np.sin(turn[3]))
    canvas.stroke(stair, 0.5, DARK, 0.4)


def car_park(canvas: Canvas, rect: Rect) -> None:
    """Rows of bays back to back, aisles between them, islands with trees."""
    rng = canvas.rng
    x0, y0, x1, y1 = rect
    full = rng.uniform(0.35, 0.95)
    canvas.fill(box(*rect), ASPHALT.varied(rng, 0.05), occupy=True)
    clusters = rng.uniform(0, 2 * np.pi, 2)
    for middle in np.arange(y0 + 5.4, y1 - 4.5, 16.4):
        canvas.stroke(line(x0 + 3, middle, x1 - 3, middle), 0.3, WHITE, 0.55)
        bays = np.arange(x0 + 4.5, x1 - 4, 2.6)
        for side in (-1, 1):
            row = middle + 2.6 * side
            for place in bays:
                canvas.stroke(line(place, row - 2.4, place, row + 2.4, 9), 0.2, WHITE, 0.3)
            busy = full + 0.35 * np.sin(bays / 23 + clusters[0]) * np.cos(row / 31 + clusters[1])
            for place in bays[:-1][rng.random(len(bays) - 1) < busy[:-1]]:
                lean = np.pi / 2 * rng.choice([-1, 1]) + rng.normal(0, 0.03)
                park(canvas, place + 1.3 + rng.normal(0, 0.12), row + rng.normal(0, 0.25), lean)


def containers(canvas: Canvas, rect: Rect) -> None:
    """Stacks of containers in rows with lanes for the carriers."""
    rng = canvas.rng
    x0, y0, x1, y1 = rect
    for y in np.arange(y0 + 2, y1 - 2, 2.6):
        if int((y - y0) / 2.6) % 6 == 5:
            continue
        hue, tiers = CONTAINERS[0], 2
        for x in np.arange(x0 + 7, x1 - 6, 12.8):
            # Neighbours often belong to one line and one stack.
            if rng.random() < 0.6:
                hue, tiers = CONTAINERS[rng.integers(len(CONTAINERS))], rng.integers(0, 5)
            if tiers:
                steel = Material(hue).varied(rng)
                canvas.fill(rectangle(x, y, 12.2, 2.3), steel, height=2.6 * tiers, occupy=True)


def railway(canvas: Canvas, path: np.ndarray, tracks: int) -> None:
    """Parallel tracks on ballast, some with standing wagons."""
    rng = canvas.rng
    ballast = Material((0.42, 0.38, 0.35), 0.05, 0.03, 0.03)
    half = 2.4 * tracks + 1
    canvas.fill(ribbon(path, half), ballast, occupy=True)
    for track in range(tracks):
        middle = beside(path, (track - (tracks - 1) / 2) * 4.8)
        canvas.stroke(middle, 2.4, (0.33, 0.30, 0.28), 0.5)
        for rail in (-0.75, 0.75):
            canvas.stroke(beside(middle, rail), 0.25, (0.62, 0.60, 0.57), 0.6)
        if rng.random() < 0.3:
            place, end = rng.uniform(0, 80), rng.uniform(200, 700)
            hue = Material(pick(rng, ROOFS), 0.01, 0.02, 0)
            while place < end:
                wagon = points_at(middle, np.array([place, place + 16.0]))
                angle = float(np.arctan2(*(wagon[1] - wagon[0])[::-1]))
                x, y = wagon.mean(0)
                canvas.fill(rectangle(x, y, 15.2, 2.6, angle), hue.varied(rng), height=4)
                place += 16.6
