"""What moves in a procedural satellite scene: vehicles.

A mover is a few flat polygons that follow a path. It is drawn afresh into a copy of the canvas
for every frame at its exact place, takes the light and shade of the ground it passes over and
disappears under whatever stands higher: bridges, crowns of trees, roofs.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from data.scenes.canvas import (
    DENSITY,
    Canvas,
    Coverage,
    arc_length,
    beside,
    pick,
    polygon_coverage,
    rectangle,
    turned,
)

# Colours of vehicles seen from above and their share, roughly those of any large city.
PAINTS = (
    ((0.90, 0.90, 0.88), 0.30),
    ((0.66, 0.67, 0.68), 0.20),
    ((0.40, 0.41, 0.42), 0.14),
    ((0.12, 0.12, 0.13), 0.18),
    ((0.50, 0.12, 0.10), 0.06),
    ((0.14, 0.22, 0.42), 0.07),
    ((0.80, 0.62, 0.15), 0.03),
    ((0.55, 0.48, 0.38), 0.02),
)
GLASS = (0.13, 0.15, 0.17)


@dataclass(frozen=True)
class Part:
    """One polygon of a mover: outline (n, 2) in metres, x forward, its colour and opacity."""

    outline: np.ndarray
    colour: tuple[float, float, float]
    alpha: float = 1.0


@dataclass(frozen=True)
class Mover:
    """Something on a path."""

    parts: tuple[Part, ...]  # its polygons, lowest first
    shadow: np.ndarray  # outline (n, 2) in metres that casts its shadow
    path: np.ndarray  # points (n, 2) in canvas pixels
    start: float  # metres along the path at the first frame
    speed: float  # metres per frame
    height: float  # metres above its road, which set how far the shadow lies
    rise: np.ndarray | None = None  # metres of the path's points above the ground

    @cached_property
    def places(self) -> np.ndarray:
        """Distance along the path to each of its points, in canvas pixels."""
        return arc_length(self.path)

    def pose(self, time: float) -> tuple[np.ndarray, float]:
        """Centre in canvas pixels and heading in radians at a time in frames."""
        distance = DENSITY * (self.start + self.speed * time) + np.array([-3.0, 0.0, 3.0])
        x, y = (np.interp(distance, self.places, self.path[:, k]) for k in (0, 1))
        return np.array([x[1], y[1]]), float(np.arctan2(y[2] - y[0], x[2] - x[0]))

    def visible(self, canvas: Canvas, frames: int) -> bool:
        """Whether it is near the canvas and on its path, ends included, for that many frames."""
        last = self.start + self.speed * (frames - 1)
        if self.start <= 3 or last >= self.places[-1] / DENSITY - 3:
            return False
        reach = DENSITY * (12 + max(np.abs(part.outline).max() for part in self.parts))
        centre = self.pose(frames / 2)[0]
        return bool((centre > -reach).all() and (centre < np.add(canvas.shape[::-1], reach)).all())

    def draw(self, canvas: Canvas, light: np.ndarray, frame: np.ndarray, time: float) -> None:
        """Draw into `frame`, a copy of the canvas's colours, at a time in frames."""
        centre, heading = self.pose(time)
        deck = 0.0  # height of its road in metres
        if self.rise is not None:
            distance = DENSITY * (self.start + self.speed * time)
            deck = float(np.interp(distance, self.places, self.rise))
        centre = centre + DENSITY * deck * canvas.lean
        away = -self.height / np.tan(canvas.sun.elevation) * DENSITY
        offset = away * np.array([canvas.sun.x, canvas.sun.y])
        where, mask = visible_part(canvas, self.shadow, centre + offset, heading, deck)
        frame[where] *= 1 - mask[..., None] * np.clip(light[where] - 0.4, 0, 0.6)
        for part in self.parts:
            where, mask = visible_part(canvas, part.outline, centre, heading, deck)
            lit = np.array(part.colour, np.float32) * light[where].clip(0.3, 1.1)
            frame[where] += (part.alpha * mask[..., None]) * (lit - frame[where])


def visible_part(
    canvas: Canvas, outline: np.ndarray, centre: np.ndarray, heading: float, deck: float
) -> Coverage:
    """Coverage of an outline (n, 2) in metres on a road of height `deck`, less what hides it."""
    where, mask = polygon_coverage(centre + DENSITY * turned(outline, heading), canvas.shape)
    return where, mask * (canvas.height[where] < deck + 2.5)


def vehicle_parts(rng: np.random.Generator, length: float) -> tuple[Part, ...]:
    """A car, or a lorry from 7 metres on: body, windows or cab."""
    paint = np.array(pick(rng, PAINTS))
    paint = tuple(np.clip(paint + rng.normal(0, 0.03), 0.03, 0.97))
    if length < 7:
        body = Part(rectangle(0, 0, length, 1.9), paint)
        front = Part(rectangle(0.13 * length, 0, 0.17 * length, 1.6), GLASS, 0.9)
        rear = Part(rectangle(-0.32 * length, 0, 0.13 * length, 1.5), GLASS, 0.9)
        return body, front, rear
    load = tuple(np.clip(rng.choice([0.85, 0.7, 0.5]) + rng.normal(0, 0.05, 3), 0.1, 0.95))
    cab = Part(rectangle(length / 2 - 1.1, 0, 2.2, 2.4), paint)
    return Part(rectangle(-1.4, 0, length - 2.8, 2.55), load), cab


def add_traffic(
    canvas: Canvas,
    path: np.ndarray,
    speed: float,
    spacing: float,
    rise: np.ndarray | None = None,
    lorries: float = 0.1,
    gaps: list[tuple[float, float]] | None = None,
) -> list[Mover]:
    """Vehicles one behind the other in a lane.

    Arguments:
        path: middle of the lane, local metres, in the direction of travel.
        speed: metres per frame, at most 3.
        spacing: mean distance between vehicles in metres.
        rise: height of the path's points in metres, none for a road on the ground.
        lorries: share of lorries and buses.
        gaps: stretches (from, to) in metres along the lane that stay empty, such as a crossing
            that is used by the other road.
    """
    rng = canvas.rng
    pixels = canvas.pixels(path)
    end = arc_length(path)[-1]
    movers = []
    place = rng.uniform(3, spacing)
    while place < end:
        length = rng.uniform(8, 14) if rng.random() < lorries else rng.uniform(4.0, 4.9)
        pace = speed * rng.uniform(0.93, 1.05)
        covered = (place - length, place + length + 6 * pace)
        if not any(covered[0] < b and covered[1] > a for a, b in gaps or ()):
            parts = vehicle_parts(rng, length)
            height = 3.2 if length > 7 else 1.5
            shadow = rectangle(0, 0, length, 2.4 if length > 7 else 1.9)
            movers.append(Mover(parts, shadow, pixels, place, pace, height, rise))
        place += length + max(4.0, rng.exponential(max(spacing - length - 4, 1)) + 4)
    return movers


def add_lane_traffic(
    canvas: Canvas,
    path: np.ndarray,
    offsets: list[float],
    speed: float,
    spacing: float,
    rise: np.ndarray | None = None,
    **more,
) -> list[Mover]:
    """Traffic in several lanes of a road: to the right of its middle forward, left backward."""
    movers = []
    for offset in offsets:
        lane = beside(path, offset)
        height = rise
        if offset < 0:
            lane, height = lane[::-1], None if rise is None else rise[::-1]
        pace = speed * canvas.rng.uniform(0.85, 1.1)
        movers += add_traffic(canvas, lane, pace, spacing, height, **more)
    return movers


def park(canvas: Canvas, x: float, y: float, angle: float, lorry: bool = False) -> None:
    """Paint a car, or a lorry or bus, that stands at (x, y); its height casts the shadow."""
    rng = canvas.rng
    length = rng.uniform(9, 15) if lorry else rng.uniform(4.0, 4.8)
    width, height = (2.5, 3.4) if lorry else (1.8, 1.4)
    where, mask = canvas.coverage(rectangle(x, y, length, width, angle))
    if mask.size:
        base = float(np.median(canvas.height[where]))  # of whatever it stands on
        np.maximum(canvas.height[where], base + height * mask, out=canvas.height[where])
    for part in vehicle_parts(rng, length):
        where, mask = canvas.coverage(np.add(turned(part.outline, angle), (x, y)))
        canvas.blend(where, part.alpha * mask, part.colour)
