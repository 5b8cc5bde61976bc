"""Seven kinds of places: how streets, runways, quays and fields lie, and what fills the rest.

`paint_scene` chooses a climate, lays out one kind of place in local metres and returns the lit
scene with everything that moves on it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from data import scene_nature as nature
from data import scene_objects as paint
from data.scene_blocks import Scene, houses
from data.scene_canvas import Canvas, Material, beside, box, curve, line
from data.scene_nature import Ground
from data.scene_objects import ASPHALT, CONCRETE, WHITE
from data.scene_ports import airport, harbour
from data.scene_streets import parcels, streets
from data.scene_traffic import add_lane_traffic

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
    """Detached houses in gardens along bending streets, a school with its stadium."""
    r = scene.canvas.reach
    shares = {"houses": 9.0, "park": 0.8, "parking": 0.4, "stadium": 0.5}
    streets(scene, (-r, -r, r, r), (190, 66), shares, ((2, 4), (2,)), quiet=True)


def industry(scene: Scene) -> None:
    """Halls, tanks and yards, with a railway along one side."""
    canvas, rng, r = scene.canvas, scene.canvas.rng, scene.canvas.reach
    at = rng.uniform(-0.4, 0.4) * r
    streets(scene, (-r, -r, r, at - 14), (210, 150), {"works": 8, "parking": 1}, ((2,), (2, 4)))
    canvas.fill(box(-r, at - 18, r, at + 18), scene.ground.soil)
    paint.railway(canvas, line(-r, at, r, at), int(rng.integers(2, 6)))
    streets(scene, (-r, at + 14, r, r), (180, 130), {"works": 7, "offices": 1.5}, ((2,), (2, 4)))
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
        bank = np.concatenate([beside(stream, -half - 5), beside(stream, half + 5)[::-1]])
        canvas.fill(bank, scene.ground.grass, occupy=False)
        bed = np.concatenate([beside(stream, -half), beside(stream, half)[::-1]])
        nature.water(canvas, bed, (0.17, 0.20, 0.16))
        for side in (-half - 3, half + 3):
            nature.tree_row(canvas, beside(stream, side), 5, 3.0)
    x = rng.uniform(-0.5, 0.5) * r
    houses(scene, (x, 12, x + 70, 62))
    way = line(-r, 0, r, 0)
    lanes = int(rng.choice([2, 2, 4]))
    offsets = paint.road(canvas, way, lanes, shoulder=1.2)
    paint.road_marks(canvas, way, lanes)
    scene.movers += add_lane_traffic(
        canvas, way, offsets, rng.uniform(1.6, 2.4), rng.uniform(35, 70)
    )
    if rng.random() < 0.7:
        nature.tree_row(canvas, beside(way, 1.75 * lanes + 5), 9, 3)


def junction(scene: Scene) -> None:
    """A motorway under a road bridge, with slip roads and loops."""
    canvas, rng, r = scene.canvas, scene.canvas.rng, scene.canvas.reach
    nature.meadow(canvas, box(-r, -r, r, r), scene.ground)
    lanes = int(rng.choice([4, 6, 8]))
    half = 1.75 * lanes + 8
    for sx in (-1, 1):
        for sy in (-1, 1):
            outer = sorted((sx * 130.0, sx * r)), sorted((sy * 130.0, sy * r))
            area = (outer[0][0], outer[1][0], outer[0][1], outer[1][1])
            shares = {"works": 3, "houses": 3, "offices": 1.5, "parking": 1}
            if rng.random() < 0.35:
                parcels(scene, area, 120)
            else:
                streets(scene, area, (150, 70), shares, ((2,), (2,)), quiet=True)
    motorway, cross = line(-r, 0, r, 0), line(0, -r, 0, r)
    tar = ASPHALT.varied(rng, 0.06)
    ramps = []
    for sx in (-1, 1):
        for sy in (-1, 1):
            if rng.random() < 0.75:
                turn = np.linspace(0, 1.5 * np.pi, 40)
                radius = rng.uniform(32, 42)
                middle = np.array([sx, sy]) * (half - 6 + radius, 8 + radius)
                start = np.array([sx, sy]) * (-1.0, 0)
                angle = np.arctan2(start[1], start[0]) - sx * sy * turn[::-1]
                loop = middle + radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)
                ramps.append(loop)
                nature.wood(canvas, (*(middle - 18), *(middle + 18)), 7, 0.0)
            side = np.array([sx, sy])
            ramps.append(curve(side * (190, half - 8), side * (70, 40), side * (8, 180)))
    for ramp in ramps:
        paint.road(canvas, ramp, 1, tar, lane_width=4, shoulder=1.5)
        canvas.stroke(beside(ramp, 2.4), 0.3, WHITE, 0.5)
        canvas.stroke(beside(ramp, -2.4), 0.3, WHITE, 0.5)
        scene.movers += add_lane_traffic(canvas, ramp, [0.01], 1.2, 45)
    offsets = paint.road(canvas, motorway, lanes, tar, median=4, shoulder=3)
    paint.road_marks(canvas, motorway, lanes, median=4)
    canvas.stroke(motorway, 2.2, scene.ground.grass.colour, 0.9)
    speed = rng.uniform(2.1, 2.6)
    scene.movers += add_lane_traffic(
        canvas, motorway, offsets, speed, rng.uniform(24, 55), lorries=0.16
    )
    offsets = paint.road(canvas, cross, 4, tar.varied(rng), shoulder=1)
    bridge = line(0, -half - 12, 0, half + 12)
    paint.road(canvas, bridge, 4, CONCRETE.varied(rng), shoulder=2, deck=7.0)
    paint.road(canvas, bridge, 4, tar, shoulder=0.8, deck=7.0)
    paint.road_marks(canvas, cross, 4)
    scene.movers += add_lane_traffic(canvas, cross, offsets, 1.5, 70, deck=7.0)
    nature.wood(canvas, (-130, -130, 130, 130), 8, 0.7)


KINDS: dict[str, Callable[[Scene], None]] = {
    "city": city,
    "airport": airport,
    "suburb": suburb,
    "harbour": harbour,
    "junction": junction,
    "farmland": farmland,
    "industry": industry,
}


def paint_scene(kind: str, size: tuple[int, int], rng: np.random.Generator) -> Scene:
    """Paint a place of one of `KINDS` for frames of `size` (H, W) and light it."""
    bend = rng.uniform(6, 16) if kind in ("suburb", "farmland") else rng.uniform(0, 2)
    canvas = Canvas(size, rng, rng.uniform(0, 2 * np.pi), bend)
    ground = GROUNDS[rng.integers(len(GROUNDS))]
    ground = Ground(*(material.varied(rng, 0.02) for material in vars(ground).values()))
    scene = Scene(canvas, ground)
    nature.meadow(canvas, box(*2 * (-canvas.reach,), *2 * (canvas.reach,)), scene.ground)
    KINDS[kind](scene)
    canvas.grow(ground.leaf)
    scene.light = canvas.light()
    canvas.tilt(scene.light)
    return scene
