"""Painters of land and water: meadows, fields, trees and the sea, in local metres."""

from dataclasses import dataclass

import numpy as np

from data.scenes.canvas import Canvas, Material, Rect, arc_length, points_at


@dataclass(frozen=True)
class Ground:
    """The land's own materials, which differ from clip to clip."""

    grass: Material
    soil: Material
    leaf: Material


def meadow(canvas: Canvas, outline: np.ndarray, ground: Ground) -> None:
    """Grass, thin or worn to the soil in places, with tufts and shrubs."""
    where, mask = canvas.coverage(outline)
    if not mask.size:
        return
    canvas.paint(where, mask, ground.grass.varied(canvas.rng))
    bare = 0.9 * canvas.patch[where] + 0.5 * canvas.mottle[where] + 0.35 * canvas.grain[where]
    worn = np.clip((bare - canvas.rng.uniform(0.6, 1.6)) / 1.2, 0, 0.75)
    canvas.paint(where, mask * worn, ground.soil)
    tufts = np.clip((canvas.grain[where] - 0.6 * canvas.mottle[where] - 1.6) / 0.8, 0, 0.4)
    canvas.paint(where, mask * tufts, ground.leaf)


def field(canvas: Canvas, outline: np.ndarray, ground: Ground) -> None:
    """A parcel: crop or bare soil with rows near the resolution limit, tramlines and patches."""
    rng = canvas.rng
    where, mask = canvas.coverage(outline)
    if not mask.size:
        return
    tones = ((0.23, 0.30, 0.17), (0.32, 0.36, 0.23), (0.54, 0.49, 0.36), (0.44, 0.37, 0.30))
    soil = ground.soil.colour
    base = np.array((*tones, soil, soil)[rng.integers(6)])
    base = np.clip(base * rng.uniform(0.85, 1.15) + rng.normal(0, 0.012, 3), 0.03, 0.9)
    edge = outline[1] - outline[0] if rng.random() < 0.6 else outline[-1] - outline[0]
    direction = canvas.pixels(np.array([[0.0, 0.0], edge]))
    along = (direction[1] - direction[0]) / np.linalg.norm(direction[1] - direction[0])
    rows, columns = np.mgrid[where].astype(np.float32) / 2
    across = columns * -along[1] + rows * along[0]
    across += 0.25 * canvas.mottle[where]
    period = rng.uniform(2.0, 5.0)
    strength = rng.uniform(0.03, 0.14) * (0.6 + 0.4 * np.tanh(canvas.mottle[where]))
    texture = strength * np.sin(2 * np.pi / period * across)
    wide = rng.uniform(18, 30)
    texture -= rng.uniform(0.0, 0.2) * (np.abs((across % wide) - wide / 2) < 0.4)
    texture += 0.04 * np.sin(2 * np.pi / wide * across + canvas.patch[where])
    streaks = np.cumsum(rng.normal(0, 1, 4096)) * 0.15 + rng.normal(0, 1, 4096)
    texture += rng.uniform(0.01, 0.05) * streaks[(across * 1.1).astype(int) % 4096]
    uneven = rng.uniform(0.03, 0.12)
    slow, grain = canvas.patch[where], canvas.grain[where]
    texture += uneven * slow + 0.04 * canvas.mottle[where] + 0.05 * grain
    target = base * (1 + texture[..., None]) + uneven * 0.3 * slow[..., None] * soil
    canvas.blend(where, mask, target.astype(np.float32))
    canvas.occupied[where] |= mask > 0.5


def water(canvas: Canvas, outline: np.ndarray, colour: tuple[float, float, float]) -> None:
    """Open water: slight waves in the wind's direction, paler and greener over shallows."""
    where, mask = canvas.coverage(outline)
    if not mask.size:
        return
    wind = canvas.rng.uniform(0, np.pi)
    rows, columns = np.mgrid[where].astype(np.float32) / 2
    phase = np.cos(wind) * columns + np.sin(wind) * rows
    swell = np.sin(2 * np.pi * phase / 7 + 2.2 * canvas.mottle[where] + 0.8 * canvas.grain[where])
    waves = 0.025 * swell + 0.05 * canvas.grain[where] + 0.05 * canvas.patch[where]
    target = np.array(colour, np.float32) * (1 + waves[..., None])
    canvas.blend(where, mask, target)
    canvas.raise_to(where, mask, 0)
    canvas.occupied[where] |= mask > 0.2


def wood(canvas: Canvas, rect: Rect, spacing: float = 6.5, cover: float = 0.3) -> None:
    """A forest or grove: trees on a jittered grid where the slow noise exceeds `cover`."""
    rng = canvas.rng
    x0, y0, x1, y1 = rect
    grid = np.mgrid[x0:x1:spacing, y0:y1:spacing].reshape(2, -1).T
    points = grid + rng.uniform(-0.45, 0.45, grid.shape) * spacing
    pixels = canvas.pixels(points).astype(int)
    inside = ((pixels >= 0) & (pixels < canvas.shape[::-1])).all(1)
    points, pixels = points[inside], pixels[inside]
    dense = canvas.mottle[pixels[:, 1], pixels[:, 0]] + canvas.patch[pixels[:, 1], pixels[:, 0]]
    points = points[dense + rng.normal(0, 0.3, len(points)) > cover]
    size = np.exp(rng.normal(0, 0.25, len(points)))
    canvas.plant(points, 0.58 * spacing * size)


def tree_row(canvas: Canvas, path: np.ndarray, spacing: float, radius: float) -> None:
    """An avenue: trees along a path with gaps."""
    rng = canvas.rng
    length = arc_length(path)[-1]
    places = np.arange(rng.uniform(0, spacing), length, spacing)
    places = places[rng.random(len(places)) < 0.8]
    points = points_at(path, places + rng.normal(0, 0.6, len(places)))
    canvas.plant(points, radius * rng.uniform(0.7, 1.3, len(points)))
