"""Five kinds of places: how streets, motorways and fields lie, and what fills the rest.

`paint_scene` chooses a climate, lays out one kind of place in local metres and returns the lit
scene with everything that moves on it.
"""

from collections.abc import Callable

import numpy as np

from data.scenes import nature
from data.scenes import objects as paint
from data.scenes.blocks import Scene, houses
from data.scenes.canvas import Canvas, Material, beside, box, curve, line, ribbon
from data.scenes.nature import Ground
from data.scenes.objects import ASPHALT, CONCRETE, WHITE
from data.scenes.streets import parcels, streets
from data.scenes.traffic import add_lane_traffic

GROUNDS = (
    Ground(  # temperate
        Material((0.35, 0.38, 0.27), 0.05, 0.025, 0.03),
        Material((0.47, 0.42, 0.35), 0.04, 0.03, 0.03),
        Material((0.19, 0.23, 0.14), 0.12, 0.05, 0),
    ),
    Ground(  # dry
        Material((0.48, 0.45, 0.36), 0.05, 0.03, 0.03),
        Material((0.62, 0.55, 0.45), 0.04, 0.03, 0.03),
        Material((0.22, 0.25, 0.17), 0.12, 0.05, 0),
    ),
    Ground(  # humid
        Material((0.26, 0.33, 0.20), 0.05, 0.03, 0.03),
        Material((0.46, 0.37, 0.30), 0.04, 0.03, 0.03),
        Material((0.14, 0.20, 0.12), 0.12, 0.05, 0),
    ),
)


def city(scene: Scene) -> None:
    """Dense blocks, high buildings and squares on a street grid."""
    r = scene.canvas.reach
    shares = {"perimeter": 3.0, "offices": 3.0, "towers": 2.0, "park": 0.6, "parking": 0.7}
    pitch = tuple(scene.canvas.rng.uniform(75, 130, 2))
    streets(scene, (-r, -r, r, r), pitch, shares, ((2, 2, 4, 6), (2, 2, 4)))


def suburb(scene: Scene) -> None:
    """Detached houses in gardens along bending streets."""
    r = scene.canvas.reach
    shares = {"houses": 9.0, "park": 0.8, "parking": 0.4}
    streets(scene, (-r, -r, r, r), (190, 66), shares, ((2, 4), (2,)), quiet=True)


def industry(scene: Scene) -> None:
    """Halls, tanks and yards, with a railway along one side."""
    canvas, rng, r = scene.canvas, scene.canvas.rng, scene.canvas.reach
    at = rng.uniform(-0.4, 0.4) * r
    streets(scene, (-r, -r, r, at - 14), (210, 150), {"works": 8, "parking": 1}, ((2,), (2, 4)))
    canvas.fill(box(-r, at - 18, r, at + 18), scene.ground.soil)
    paint.railway(canvas, line(-r, at, r, at), int(rng.integers(2, 6)))
    shares = {"works": 7, "offices": 1.5}
    streets(scene, (-r, at + 14, r, r), (180, 130), shares, ((2,), (2, 4)))
    nature.tree_row(canvas, line(-r, at + 16, r, at + 16), 7, 2.8)


def farmland(scene: Scene) -> None:
    """Fields, a country road with traffic, a stream lined with trees and a farm."""
    canvas, rng, r = scene.canvas, scene.canvas.rng, scene.canvas.reach
    parcels(scene, (-r, -r, r, r), float(rng.uniform(110, 190)))
    if rng.random() < 0.6:
        stream = line(-r, rng.uniform(-0.5, 0.5) * r, r, rng.uniform(-0.5, 0.5) * r)
        for wave in range(2, 9):
            phase = wave * stream[:, 0] / 160 + rng.uniform(0, 6)
            stream[:, 1] += rng.normal(0, 30 / wave) * np.sin(phase)
        half = rng.uniform(1.5, 9)
        canvas.fill(ribbon(stream, half + 5), scene.ground.grass)
        nature.water(canvas, ribbon(stream, half), (0.17, 0.20, 0.16))
        for side in (-half - 3, half + 3):
            nature.tree_row(canvas, beside(stream, side), 5, 3.0)
    x = rng.uniform(-0.5, 0.5) * r
    houses(scene, (x, 12, x + 70, 62))
    way = line(-r, 0, r, 0)
    lanes = int(rng.choice([2, 2, 4]))
    offsets = paint.road(canvas, way, lanes, shoulder=1.2)
    paint.road_marks(canvas, way, lanes)
    speed, spacing = rng.uniform(1.6, 2.4), rng.uniform(35, 70)
    scene.movers += add_lane_traffic(canvas, way, offsets, speed, spacing)
    if rng.random() < 0.7:
        nature.tree_row(canvas, beside(way, 1.75 * lanes + 5), 9, 3)


DECK = 7.0  # metres: clearance and girder of a bridge over a motorway


def junction(scene: Scene) -> None:
    """A motorway under a road on embankments, with slip roads and loops."""
    canvas, rng, r = scene.canvas, scene.canvas.rng, scene.canvas.reach
    nature.meadow(canvas, box(-r, -r, r, r), scene.ground)
    lanes = int(rng.choice([4, 6, 8]))
    half = 1.75 * lanes + 5
    shares = {"works": 3, "houses": 3, "offices": 1.5, "parking": 1}
    for x0, x1 in ((-r, -115), (115, r)):
        for y0, y1 in ((-r, -115), (115, r)):
            if rng.random() < 0.35:
                parcels(scene, (x0, y0, x1, y1), 120)
            else:
                streets(scene, (x0, y0, x1, y1), (150, 70), shares, ((2,), (2,)), quiet=True)
    _embankment(scene, half + 8)
    tar = ASPHALT.varied(rng, 0.06)
    for ramp in _ramps(rng, half):
        paint.road(canvas, ramp, 1, tar, lane_width=4, shoulder=1.5)
        for side in (-2.4, 2.4):
            canvas.stroke(beside(ramp, side), 0.3, WHITE, 0.5)
        scene.movers += add_lane_traffic(canvas, ramp, [0.01], 1.2, 45)
    motorway, cross = line(-r, 0, r, 0), line(0, -r, 0, r)
    offsets = paint.road(canvas, motorway, lanes, tar, median=4, shoulder=3)
    paint.road_marks(canvas, motorway, lanes, median=4)
    canvas.stroke(motorway, 2.2, scene.ground.grass.colour, 0.9)
    speed, spacing = rng.uniform(2.1, 2.6), rng.uniform(24, 55)
    scene.movers += add_lane_traffic(canvas, motorway, offsets, speed, spacing, lorries=0.16)
    offsets = paint.road(canvas, cross, 4, tar.varied(rng), shoulder=1)
    bridge = line(0, -half - 8, 0, half + 8)
    paint.road(canvas, bridge, 4, CONCRETE.varied(rng), shoulder=2, deck=DECK)
    paint.road(canvas, bridge, 4, tar, shoulder=0.8, deck=DECK)
    paint.road_marks(canvas, cross, 4)
    rise = _rise(np.abs(cross[:, 1]), half + 8)
    scene.movers += add_lane_traffic(canvas, cross, offsets, 1.5, 70, rise=rise)
    nature.wood(canvas, (-115, -115, 115, 115), 8, 0.7)


def _rise(distance: np.ndarray, abutment: float) -> np.ndarray:
    """Height of the crossing road at a distance in metres from the motorway's middle."""
    return np.interp(distance, [abutment, abutment + 110], [DECK, 0.0])


def _embankment(scene: Scene, abutment: float) -> None:
    """The ramps of earth, along the local y axis, that carry the road up to its bridge."""
    canvas = scene.canvas
    x, y = canvas.local()
    top = np.where(np.abs(y) >= abutment - 4, _rise(np.abs(y), abutment), 0)
    slope = top - np.maximum(np.abs(x) - 9.5, 0) / 1.8
    np.maximum(canvas.height, slope.astype(np.float32), out=canvas.height)


def _ramps(rng: np.random.Generator, half: float) -> list[np.ndarray]:
    """Slip roads in four quadrants, as paths in the direction of travel on the right."""
    ramps = []
    for mirror in ((1, 1), (-1, 1), (-1, -1), (1, -1)):
        sense = -mirror[0] * mirror[1]
        if rng.random() < 0.75:
            radius = rng.uniform(34, 44)
            turn = np.linspace(-np.pi / 2, np.pi, 48)
            loop = radius * np.stack([np.cos(turn), np.sin(turn)], axis=1)
            loop += (radius + 9, radius + half + 1)
            ramps.append((loop * mirror)[::-sense])
        ramps.append((curve((190, half), (70, half + 25), (9, 190)) * mirror)[::sense])
    return ramps


KINDS: dict[str, Callable[[Scene], None]] = {
    "city": city,
    "suburb": suburb,
    "junction": junction,
    "farmland": farmland,
    "industry": industry,
}


def paint_scene(kind: str, size: tuple[int, int], rng: np.random.Generator) -> Scene:
    """Paint a place of one of `KINDS` for frames of `size` (H, W) and light it."""
    bend = rng.uniform(6, 16) if kind in ("suburb", "farmland") else 0.0
    origin = rng.uniform(-60, 60, 2) if kind == "junction" else np.zeros(2)
    canvas = Canvas(size, rng, rng.uniform(0, 2 * np.pi), bend, origin)
    ground = GROUNDS[rng.integers(len(GROUNDS))]
    ground = Ground(*(material.varied(rng, 0.02) for material in vars(ground).values()))
    scene = Scene(canvas, ground)
    canvas.colour[:] = ground.grass.colour
    KINDS[kind](scene)
    canvas.grow(ground.leaf)
    scene.light = canvas.light()
    canvas.tilt(scene.light)
    return scene
