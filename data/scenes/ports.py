"""Places where land meets runway or water: airport and harbour, painted in local metres."""

from __future__ import annotations

import numpy as np

from data.scenes import nature as nature
from data.scenes import objects as paint
from data.scenes.blocks import Scene, blob, tank_farm, works
from data.scenes.canvas import Canvas, Material, arc_length, beside, box, curve, line, rectangle
from data.scenes.nature import Rect
from data.scenes.objects import ASPHALT, CONCRETE, DARK, WHITE, YELLOW
from data.scenes.streets import parcels, streets
from data.scenes.traffic import Mover, add_lane_traffic, aircraft_parts, ship_parts


def airport(scene: Scene) -> None:
    """Runway, parallel taxiway, apron with aircraft at a terminal, car parks behind."""
    canvas, rng, r = scene.canvas, scene.canvas.rng, scene.canvas.reach
    nature.meadow(canvas, box(-r, -r, r, r), scene.ground)
    shift = rng.uniform(-70, 110)
    runway_y, taxi_y = -70 + shift, 28 + shift
    apron = (rng.uniform(-r, -60), 62 + shift, r if rng.random() < 0.6 else 170, 165 + shift)
    tar = ASPHALT.varied(rng, 0.04)
    hard = CONCRETE.varied(rng, 0.05)
    taxi_surface = hard if rng.random() < 0.4 else ASPHALT.varied(rng, 0.06)
    ways = [line(-r, taxi_y, r, taxi_y)]
    for x in np.arange(-r + rng.uniform(0, 150), r, rng.uniform(150, 260)):
        turn = rng.choice([-70, 0, 70])
        ways.append(curve((x, runway_y), (x + 0.8 * turn, taxi_y - 15), (x + turn, taxi_y)))
        ways.append(line(x + turn, taxi_y, x + turn, apron[1] + 8))
    edge = taxi_surface.varied(rng, 0.06)
    for surface, half in ((edge, 15.0), (taxi_surface, 11.5)):
        canvas.fill(flared(ways[0], half, 0), surface, occupy=True)
        for way in ways[1:]:
            canvas.fill(flared(way, half, 26), surface, occupy=True)
    threshold = rng.choice([-1, 1]) * rng.uniform(60, 400)
    _runway(canvas, runway_y, rng.uniform(45, 60), threshold, tar)
    _slabs(canvas, apron, hard)
    lead = line(apron[0] + 12, apron[1] + 22, apron[2] - 12, apron[1] + 22)
    for way in [*ways, lead]:
        canvas.stroke(way, 0.4, YELLOW, 0.75)
    for way in ways[:1]:
        for side in (-11, 11):
            canvas.stroke(beside(way, side), 0.3, YELLOW, 0.5)
    _stands(scene, apron, lead)
    _landside(scene, apron)
    _far_side(scene, runway_y - 75)
    span = rng.uniform(30, 38)
    for path, speed in ((ways[0], rng.uniform(0.6, 1.4)), (lead, -rng.uniform(0.3, 0.8))):
        parts, shadow = aircraft_parts(rng, span)
        route = canvas.pixels(path if speed > 0 else path[::-1])
        start = arc_length(path)[-1] * rng.uniform(0.3, 0.7)
        scene.movers.append(Mover(parts, (shadow,), route, start, abs(speed), 5.0))


def _runway(canvas: Canvas, y: float, width: float, threshold: float, tar: Material) -> None:
    """A runway along x with its markings, rubber and shoulders; its threshold at x."""
    r, rng = canvas.reach, canvas.rng
    shoulder = tar.varied(rng, 0.03)
    canvas.fill(box(-r, y - width / 2 - 7, r, y + width / 2 + 7), shoulder, occupy=True)
    canvas.fill(box(-r, y - width / 2, r, y + width / 2), tar)
    sense = 1 if threshold < 0 else -1
    for _ in range(70):
        start = threshold + sense * rng.normal(300, 140)
        wheel = y + rng.choice([-1, 1]) * rng.uniform(1.5, 7)
        reach = rng.uniform(30, 90)
        canvas.stroke(line(start - reach, wheel, start + reach, wheel), 0.9, DARK, 0.13)
    middle = line(-r, y, r, y)
    canvas.stroke(middle, 0.9, WHITE, 0.85, dash=(30, 20))
    for side in (-1, 1):
        canvas.stroke(beside(middle, side * (width / 2 - 1.5)), 0.9, WHITE, 0.8)
    for place in np.linspace(-width / 2 + 4, width / 2 - 4, 14):
        if abs(place) > 1.5:
            bar = rectangle(threshold + sense * 18, y + place, 30, 1.7)
            canvas.fill(bar, Material(WHITE, 0.03, 0.04, 0))
    for distance, pairs in ((150, 3), (300, 1), (450, 2), (600, 2)):
        for side in (-1, 1):
            for k in range(pairs):
                wide = 5.0 if pairs == 1 else 1.8
                spot = (threshold + sense * distance, y + side * (9 + 3.0 * k))
                canvas.fill(rectangle(*spot, 22.5, wide), Material(WHITE, 0.03, 0.04, 0), alpha=0.9)


def flared(path: np.ndarray, half: float, flare: float) -> np.ndarray:
    """Outline of a taxiway that widens by `flare` metres into the fillets at its ends."""
    place = arc_length(path)
    ends = np.minimum(place, place[-1] - place)
    width = half + flare * np.exp(-ends / 16)
    along = np.gradient(path, axis=0)
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    across = width[:, None] * np.stack([-along[:, 1], along[:, 0]], axis=1)
    return np.concatenate([path - across, (path + across)[::-1]])


def _slabs(canvas: Canvas, rect: Rect, hard: Material) -> None:
    """An apron of concrete slabs: joints, renewed slabs and stains."""
    rng = canvas.rng
    x0, y0, x1, y1 = rect
    canvas.fill(box(*rect), hard, occupy=True)
    for _ in range(60):
        x, y = x0 + 7.5 * rng.integers(0, (x1 - x0) / 7.5), y0 + 7.5 * rng.integers(0, 13)
        wide, deep = 7.5 * rng.integers(1, 9), 7.5 * rng.integers(1, 4)
        patch = (x, y, min(x + wide, x1), min(y + deep, y1))
        canvas.fill(box(*patch), hard.varied(rng, 0.035), alpha=0.6)
    for x in np.arange(x0, x1, 7.5):
        canvas.stroke(line(x, y0, x, y1), 0.3, DARK, 0.16)
    for y in np.arange(y0, y1, 7.5):
        canvas.stroke(line(x0, y, x1, y), 0.3, DARK, 0.16)


def _stands(scene: Scene, apron: Rect, lead: np.ndarray) -> None:
    """Aircraft nose-in at a terminal with bridges, and the vehicles that serve them."""
    canvas, rng = scene.canvas, scene.canvas.rng
    x0, _, x1, y1 = apron
    wall = y1 - 4
    paint.flat_roof(canvas, (x0 + 20, wall, x1 - 20, wall + rng.uniform(24, 40)), 14, 2.5)
    x = x0 + 40
    while x < x1 - 40:
        span = float(rng.choice([28, 34, 36, 48, 60], p=[0.2, 0.3, 0.3, 0.12, 0.08]))
        x += span / 2 + 4
        canvas.stroke(line(x, lead[0, 1], x, wall - 6), 0.4, YELLOW, 0.7)
        canvas.stroke(
            line(x - 0.4 * span, wall - 7, x + 0.4 * span, wall - 7), 0.4, (0.6, 0.2, 0.15), 0.5
        )
        oil = Material((0.33, 0.32, 0.30), 0.03, 0.05, 0)
        canvas.fill(blob(rng, x, wall - 0.5 * span, 6), oil, alpha=0.25)
        bridge = np.array(
            [(x + 4, wall - 16), (x + 7, wall - 16), (x + 15, wall + 2), (x + 12, wall + 2)]
        )
        canvas.fill(bridge, Material((0.82, 0.82, 0.80)), height=6)
        if rng.random() < 0.72:
            paint.aircraft(canvas, x, wall - 0.56 * span - 8, np.pi / 2, span)
        for _ in range(int(rng.integers(1, 7))):
            spot = x + rng.uniform(-0.6, 0.6) * span, wall - rng.uniform(4, 0.9 * span)
            (paint.car if rng.random() < 0.8 else paint.lorry)(canvas, *spot, rng.uniform(0, np.pi))
        x += span / 2 + rng.uniform(3, 12)


def _landside(scene: Scene, apron: Rect) -> None:
    """Road, car parks and offices behind the terminal."""
    canvas, r = scene.canvas, scene.canvas.reach
    top = apron[3] + 52
    if top > r - 20:
        return
    way = line(-r, top, r, top)
    offsets = paint.road(canvas, way, 4)
    paint.road_marks(canvas, way, 4)
    scene.movers += add_lane_traffic(canvas, way, offsets, 1.3, 40)
    shares = {"parking": 5.0, "offices": 2.0, "park": 1.0, "works": 1.0}
    streets(scene, (-r, top + 12, r, r + 40), (170, 120), shares, ((2,), (2,)))


def _far_side(scene: Scene, y: float) -> None:
    """Beyond the runway: a perimeter road, then halls or fields."""
    canvas, rng, r = scene.canvas, scene.canvas.rng, scene.canvas.reach
    if y < -r + 20:
        return
    way = line(-r, y, r, y)
    scene.movers += add_lane_traffic(canvas, way, paint.road(canvas, way, 2), 1.2, 90)
    paint.road_marks(canvas, way, 2)
    if rng.random() < 0.5:
        works(scene, (-r, -r - 30, r, y - 12))
    else:
        parcels(scene, (-r, -r, r, y - 8), 110)


def harbour(scene: Scene) -> None:
    """A quay with ships, containers, halls and tanks, or a natural shore with houses."""
    canvas, rng, r = scene.canvas, scene.canvas.rng, scene.canvas.reach
    sea = (0.13, 0.19, 0.20) if rng.random() < 0.6 else (0.16, 0.26, 0.27)
    shore = rng.uniform(-0.36, 0.12) * r
    quay = rng.random() < 0.65
    if not quay:
        nature.meadow(canvas, box(-r, shore - 80, r, r), scene.ground)
        shares = {"houses": 7.0, "park": 1.5, "towers": 0.8}
        streets(scene, (-r, shore + 62, r, r), (150, 66), shares, ((2,), (2,)), quiet=True)
    if quay:
        nature.water(canvas, box(-r, -r, r, shore), sea)
        _port(scene, shore)
        for x in np.arange(-r + rng.uniform(0, 100), r, rng.uniform(170, 260)):
            wide, long = rng.uniform(18, 40), rng.uniform(50, 110)
            canvas.fill(box(x, shore - long, x + wide, shore + 3), CONCRETE.varied(rng), height=2.5)
            if wide > 28:
                paint.warehouse(canvas, (x + 6, shore - long + 8, x + wide - 6, shore - 6))
            for side in (x - 7, x + wide + 7):
                if rng.random() < 0.7:
                    _moored(canvas, side, shore - long / 2, np.pi / 2, rng.uniform(30, 60))
        canvas.stroke(line(-r, shore + 0.6, r, shore + 0.6), 1.2, (0.66, 0.64, 0.6), 0.9)
    else:
        _beach(scene, shore, sea)
    for _ in range(int(rng.integers(2, 5))):
        y = rng.uniform(shore - 190, shore - (75 if quay else 35))
        path = line(-r, y, r, y + rng.uniform(-60, 10))
        path = path if rng.random() < 0.5 else path[::-1]
        length = rng.uniform(9, 45)
        mover = (ship_parts(rng, length, True), (), canvas.pixels(path))
        start = rng.uniform(0.25, 0.75) * arc_length(path)[-1]
        scene.movers.append(Mover(*mover, start, rng.uniform(0.4, 1.3), 4.0))


def _port(scene: Scene, shore: float) -> None:
    """Quay with cranes, containers, halls and tanks, a railway and works behind."""
    canvas, rng, r = scene.canvas, scene.canvas.rng, scene.canvas.reach
    yard = CONCRETE.varied(rng, 0.05) if rng.random() < 0.6 else ASPHALT.varied(rng, 0.05)
    canvas.fill(box(-r, shore, r, r), yard, height=2.5, occupy=True)
    for x in np.arange(-r, r, 130):
        if rng.random() < 0.6:
            paint.containers(canvas, (x + 6, shore + 24, x + 122, shore + 24 + rng.uniform(40, 75)))
        elif rng.random() < 0.5:
            tank_farm(scene, (x + 6, shore + 22, x + 120, shore + 95))
        else:
            paint.warehouse(canvas, (x + 8, shore + 24, x + 118, shore + 80))
        for crane in x + np.array([rng.uniform(15, 50), rng.uniform(75, 115)]):
            # A gantry crane: legs on two rails, girders between them, the boom over the water.
            steel = Material((0.60, 0.62, 0.64), 0.01, 0, 0)
            for leg in (-8, 8):
                canvas.fill(rectangle(crane + leg, shore + 12, 1.4, 20), steel, height=14)
            for girder in (shore + 3, shore + 21):
                canvas.fill(rectangle(crane, girder, 17, 1.3), steel, height=20)
            for side in (-1.6, 1.6):
                canvas.fill(rectangle(crane + side, shore - 2, 1.0, 56), steel, height=24)
            canvas.fill(rectangle(crane, shore + 16, 5, 7), steel, height=25)
    _moored(canvas, rng.uniform(-0.4, 0.4) * r, shore - 12, 0, rng.uniform(90, 150))
    paint.railway(canvas, line(-r, shore + 108, r, shore + 108), int(rng.integers(1, 4)))
    streets(scene, (-r, shore + 124, r, r), (190, 130), {"works": 6, "parking": 1}, ((2,), (2, 4)))


def _moored(canvas: Canvas, x: float, y: float, angle: float, length: float) -> None:
    """A ship at its berth."""
    parts = ship_parts(canvas.rng, length, False)
    paint.raise_outline(canvas, parts[0].outline, x, y, angle, 5)
    paint.park(canvas, parts, x, y, angle)


def _beach(scene: Scene, shore: float, sea: tuple) -> None:
    """A natural shore: sea over an uneven line, a strip of wet and dry sand, a road behind."""
    canvas, rng, r = scene.canvas, scene.canvas.rng, scene.canvas.reach
    path = line(-r, shore, r, shore, 4)
    for wave in range(1, 40):
        path[:, 1] += rng.normal(0, 9 / wave) * np.sin(wave * path[:, 0] / 90 + rng.uniform(0, 6))
    nature.water(canvas, np.concatenate([_down(path, 4), [(r, -r), (-r, -r)]]), sea)
    for away, tone in ((-7, (0.30, 0.36, 0.34)), (0, (0.46, 0.42, 0.35)), (5, (0.68, 0.62, 0.50))):
        strip = np.concatenate([_down(path, away), _down(path, 26)[::-1]])
        canvas.fill(strip, Material(tone, 0.03, 0.05, 0.04), alpha=0.55 if away < 0 else 1)
    canvas.stroke(_down(path, -2), 1.4, (0.8, 0.83, 0.82), 0.6)
    canvas.stroke(_down(path, -7), 0.8, (0.7, 0.75, 0.74), 0.3)
    back = np.concatenate([_down(path, 20), _down(path, 34)[::-1]])
    canvas.fill(back, scene.ground.grass)
    way = line(-r, shore + 52, r, shore + 52)
    scene.movers += add_lane_traffic(canvas, way, paint.road(canvas, way, 2), 1.2, 45)
    paint.road_marks(canvas, way, 2)
    nature.wood(canvas, (-r, shore + 30, r, shore + 48), 7, 0.2)


def _down(path: np.ndarray, distance: float) -> np.ndarray:
    """The path moved away from the sea."""
    return np.add(path, (0, distance))
