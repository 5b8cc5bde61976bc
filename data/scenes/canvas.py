"""The sheet on which a procedural satellite scene is painted: colour, height and sunlight.

Painters work in local metres (x right, y down, origin in the middle of the scene). The canvas
bends and turns them into its own pixels, of which `DENSITY` make one metre and one pixel of the
finished frames, so that everything painted here has antialiased edges after the sensor's blur.
Painters lay down a colour and, for what stands above the ground, a height in metres; `light`
then derives shading and cast shadows of the whole scene from the heights and one sun.
"""

from dataclasses import dataclass, replace
from math import ceil, floor

import cv2
import numpy as np

DENSITY = 2  # canvas pixels per metre
MARGIN = 20  # metres painted beyond each border of the frame, for drift, rotation and shadows
FINE = 4  # subdivision of a canvas pixel for the coverage of small shapes
FINE_LIMIT = 48  # canvas pixels; larger shapes need no subdivision

Area = tuple[slice, slice]  # of the canvas
Coverage = tuple[Area, np.ndarray]  # a part, and how far each of its pixels is covered, 0 to 1
Rect = tuple[float, float, float, float]  # x0, y0, x1, y1 in local metres


@dataclass(frozen=True)
class Material:
    """A colour (RGB, 0 to 1) and how strongly noise of three sizes modulates it."""

    colour: tuple[float, float, float]
    grain: float = 0.02  # half a metre to four metres
    mottle: float = 0.02  # four to thirty metres
    patch: float = 0.02  # thirty metres and more

    def varied(self, rng: np.random.Generator, amount: float = 0.03) -> "Material":
        """The same material, brighter or darker and, less, warmer or cooler."""
        warm = rng.normal(0, amount / 5) * np.array([1.0, 0.2, -1.0])
        colour = np.multiply(self.colour, 1 + 2 * (rng.normal(0, amount) + warm))
        return replace(self, colour=tuple(np.clip(colour, 0.01, 0.99)))


@dataclass(frozen=True)
class Sun:
    """Where the light comes from: unit vector towards the sun (x, y) and elevation in radians."""

    x: float
    y: float
    elevation: float


class Canvas:
    """A scene in the making.

    Arguments:
        size: (H, W) of the finished frames, in pixels of one metre.
        rng: the clip's random generator.
        angle: turn of the local axes, radians.
        bend: amplitude in metres of the smooth bending of the local axes.
        origin: place (x, y) of the local origin relative to the middle, metres.
    """

    def __init__(
        self,
        size: tuple[int, int],
        rng: np.random.Generator,
        angle: float,
        bend: float,
        origin: tuple[float, float] | np.ndarray = (0.0, 0.0),
    ) -> None:
        rows, columns = (DENSITY * (side + 2 * MARGIN) for side in size)
        self.shape = (rows, columns)
        self.rng = rng
        # How far painters go from the middle; even a tiny frame shows part of a whole place.
        self.reach = max(150.0, 0.5 * float(np.hypot(rows, columns)) / DENSITY)
        self.reach += float(np.hypot(*origin))
        self._middle = DENSITY * np.asarray(origin) + (columns / 2, rows / 2)
        self.colour = np.zeros((rows, columns, 3), np.float32)
        self.height = np.zeros((rows, columns), np.float32)
        self.occupied = np.zeros((rows, columns), np.uint8)  # no tree grows here
        self.trees: list[np.ndarray] = []  # rows of (x, y, radius) in canvas pixels
        self.grain = self._noise((1, 2, 4, 8), 0.8)
        self.mottle = self._noise((10, 20, 40), 1.0)
        self.patch = self._noise((60, 120, 240), 1.0)
        azimuth = rng.uniform(0, 2 * np.pi)
        elevation = np.radians(rng.uniform(36, 62))
        self.sun = Sun(float(np.cos(azimuth)), float(np.sin(azimuth)), float(elevation))
        # Metres that a thing of one metre leans in the image: the satellite is not overhead.
        toward, tangent = rng.uniform(0, 2 * np.pi), rng.uniform(0.04, 0.3)
        self.lean = tangent * np.array([np.cos(toward), np.sin(toward)])
        self._turn = turned(np.eye(2), angle)
        self._bend = bend
        self._wave = rng.uniform([150, 150, 0, 0], [300, 300, 2 * np.pi, 2 * np.pi])

    def _noise(self, periods: tuple[int, ...], slope: float) -> np.ndarray:
        """Fractal noise of unit deviation; `slope` is the exponent of amplitude over period."""
        total = np.zeros(self.shape, np.float32)
        for period in periods:
            coarse = [side // period + 4 for side in self.shape]
            octave = self.rng.standard_normal(coarse, np.float32)
            full = cv2.resize(octave, None, fx=period, fy=period, interpolation=cv2.INTER_CUBIC)
            y, x = self.rng.integers(0, 2 * period, 2) if period > 1 else (0, 0)
            total += period**slope * full[y : y + self.shape[0], x : x + self.shape[1]]
        total -= total.mean()
        return total / total.std()

    def pixels(self, points: np.ndarray) -> np.ndarray:
        """Local metres (n, 2) to canvas pixels (n, 2), pixel i covering i to i + 1."""
        points = np.asarray(points, np.float64)
        sway = np.sin(points / self._wave[:2] * 2 + self._wave[2:])[:, ::-1]
        return DENSITY * ((points + self._bend * sway) @ self._turn) + self._middle

    def local(self) -> tuple[np.ndarray, np.ndarray]:
        """Local metres x and y (h, w) of every canvas pixel, on a canvas without bend."""
        rows, columns = np.indices(self.shape) + 0.5
        away = np.stack([columns, rows], axis=-1) - self._middle
        x, y = np.moveaxis(away @ self._turn.T / DENSITY, -1, 0)
        return x, y

    def sees(self, x0: float, y0: float, x1: float, y1: float) -> bool:
        """Whether anything of an upright rectangle, or its shadow, can be on the canvas."""
        corners = self.pixels(np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)]))
        reach = 30 * DENSITY
        low, high = corners.min(0) - reach, corners.max(0) + reach
        return bool((high > 0).all() and (low < self.shape[::-1]).all())

    def coverage(self, outline: np.ndarray) -> Coverage:
        """Antialiased coverage of an outline in local metres, see `polygon_coverage`."""
        return polygon_coverage(self.pixels(outline), self.shape)

    def fill(
        self,
        outline: np.ndarray,
        material: Material,
        height: float | None = None,
        alpha: float = 1.0,
        occupy: bool = False,
    ) -> None:
        """Paint a polygon given in local metres; `height` in metres replaces what stood there."""
        where, mask = self.coverage(outline)
        self.paint(where, mask * np.float32(alpha), material)
        if height is not None:
            self.raise_to(where, mask, height)
        if occupy:
            self.occupied[where] |= mask > 0.2

    def raise_to(self, where: Area, mask: np.ndarray, height: float | np.ndarray) -> None:
        """Let a part of the canvas have a height in metres, as far as a mask covers it."""
        self.height[where] += mask * (height - self.height[where])

    def blend(self, where: Area, mask: np.ndarray, colour: np.ndarray) -> None:
        """Let a part of the canvas have a colour (3,) or (h, w, 3), as far as a mask covers it."""
        self.colour[where] += mask[..., None] * (colour - self.colour[where])

    def paint(self, where: Area, mask: np.ndarray, material: Material) -> None:
        """Blend a material into a part of the canvas with the given opacity (h, w)."""
        # Long slanting things touch few pixels of their bounding box: work on those alone.
        sparse = 3 * np.count_nonzero(mask) < mask.size
        touched = np.nonzero(mask) if sparse else ...
        relief = (
            material.grain * self.grain[where][touched]
            + material.mottle * self.mottle[where][touched]
            + material.patch * self.patch[where][touched]
        )
        below = self.colour[where][touched]
        target = np.array(material.colour, np.float32) * (1 + 2 * relief[..., None])
        self.colour[where][touched] = below + mask[touched][..., None] * (target - below)

    def stroke(
        self,
        path: np.ndarray,
        width: float,
        colour: tuple[float, float, float],
        alpha: float,
        dash: tuple[float, float] | None = None,
    ) -> None:
        """Draw a line of `width` metres along local points, dashed (length, gap) if asked."""
        pieces = [path] if dash is None else cut_dashes(path, *dash)
        lines = [np.round((self.pixels(p) - 0.5) * 256).astype(np.int32) for p in pieces]
        if not lines:
            return
        corners = np.concatenate(lines) // 256
        pad = int(width * DENSITY) + 2
        low = np.clip(corners.min(0) - pad, 0, self.shape[::-1])
        high = np.clip(corners.max(0) + pad + 1, 0, self.shape[::-1])
        if (high <= low).any():
            return
        mask = np.zeros((high[1] - low[1], high[0] - low[0]), np.uint8)
        lines = [line - (low * 256).astype(np.int32) for line in lines]
        cv2.polylines(mask, lines, False, 255, max(1, round(width * DENSITY)), cv2.LINE_AA, 8)
        where = (slice(low[1], high[1]), slice(low[0], high[0]))
        opacity = mask.astype(np.float32) * np.float32(alpha / 255)
        self.paint(where, opacity, Material(colour, 0.02, 0.04, 0.02))

    def plant(self, points: np.ndarray, radii: np.ndarray) -> None:
        """Note trees at local points (n, 2) with crown radii in metres; `grow` paints them."""
        self.trees.append(np.column_stack([self.pixels(points), np.asarray(radii) * DENSITY]))

    def grow(self, leaf: Material) -> None:
        """Paint all planted trees: crowns of uneven outline, one tone each, as tall as wide."""
        if not self.trees:
            return
        trees = np.concatenate(self.trees)
        inside = ((trees[:, :2] >= 0) & (trees[:, :2] < self.shape[::-1])).all(1)
        trees = trees[inside]
        column, row = trees[:, :2].astype(int).T
        trees = trees[self.occupied[row, column] == 0]
        if not len(trees):
            return
        column, row = trees[:, :2].astype(int).T
        free = np.ones(self.shape, np.uint8)
        free[row, column] = 0
        distance, label = cv2.distanceTransformWithLabels(
            free, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
        )
        # OpenCV numbers the seeds in its own order: look up which tree owns which number.
        radius = np.ones(label.max() + 1, np.float32)
        radius[label[row, column]] = trees[:, 2]
        tone = self.rng.normal(0, 1, (len(radius), 3)).astype(np.float32) * (0.03, 0.02, 0.015)
        tone += self.rng.normal(0, 0.17, (len(radius), 1))
        own = radius[label]
        ratio = (distance + 0.17 * own * self.grain + 0.5 * self.mottle) / own
        mask = np.clip((1 - ratio) * own, 0, 1).astype(np.float32)
        dome = np.sqrt(np.clip(1 - ratio * ratio, 0, 1)) * own * (0.9 / DENSITY)
        dome += 0.35 * self.grain * mask
        np.maximum(self.height, (2.0 + dome) * (mask > 0.3), out=self.height)
        relief = 1 + 2 * (leaf.grain * self.grain + leaf.mottle * self.mottle)
        target = np.array(leaf.colour, np.float32) * relief[..., None] * (1 + tone[label])
        self.blend(..., mask, target.astype(np.float32))

    def light(self) -> np.ndarray:
        """Shade the colours by slope and cast shadows; returns the light factor (h, w, 3)."""
        heights = cv2.GaussianBlur(self.height, (0, 0), 0.6)
        slope_x = np.clip(cv2.Sobel(heights, -1, 1, 0, ksize=3) * (DENSITY / 8), -1.2, 1.2)
        slope_y = np.clip(cv2.Sobel(heights, -1, 0, 1, ksize=3) * (DENSITY / 8), -1.2, 1.2)
        across = 1 / np.tan(self.sun.elevation)
        facing = 1 - across * (slope_x * self.sun.x + slope_y * self.sun.y)
        facing /= np.sqrt(1 + slope_x * slope_x + slope_y * slope_y)
        direct = np.clip(facing, 0, 1.7) * (1 - cast_shadow(heights, self.sun))
        ambient = np.array([0.34, 0.37, 0.42], np.float32)
        factor = ambient + (1 - ambient) * direct[..., None]
        self.colour *= factor
        return factor

    def tilt(self, light: np.ndarray) -> None:
        """Show the lit scene from the side: what is high moves along `lean`, walls appear.

        Colours, `light` (h, w, 3) and heights move together. Level by level, one canvas pixel of
        displacement at a time from the ground up, so that the highest surface stays visible.
        """
        slant = DENSITY * float(np.hypot(*self.lean))
        direction = self.lean * DENSITY / slant
        facing = -(direction[0] * self.sun.x + direction[1] * self.sun.y)
        wall = np.float32(0.42 + 0.38 * max(0.0, facing))
        colour, shade, height = self.colour.copy(), light.copy(), self.height.copy()
        for step in range(int(height.max() * slant) + 1):
            here, there = shifted(self.shape, *np.round(step * direction).astype(int).tolist())
            source = height[there]
            high = np.nonzero(source >= step / slant)
            is_wall = source[high] >= (step + 1) / slant
            seen = colour[there][high]
            seen[is_wall] *= wall
            self.colour[here][high] = seen
            light[here][high] = shade[there][high]
            self.height[here][high] = source[high]


def shifted(shape: tuple[int, int], dx: int, dy: int) -> tuple[Area, Area]:
    """The part of an image that (dx, dy) pixels reach, and the part it is reached from."""
    rows, columns = shape
    target = slice(max(0, dy), rows + min(0, dy)), slice(max(0, dx), columns + min(0, dx))
    source = slice(max(0, -dy), rows - max(0, dy)), slice(max(0, -dx), columns - max(0, dx))
    return target, source


def cast_shadow(heights: np.ndarray, sun: Sun) -> np.ndarray:
    """Opacity (h, w) of the shadow that a height map in metres casts on itself.

    A point is in shadow when the ground towards the sun, lowered by the sun ray's rise, stands
    above it. The running maximum over all distances is built by doubling the distance.
    """
    drop = np.tan(sun.elevation) / DENSITY
    horizon = heights.copy()
    for power in range(7):
        dx, dy = round(sun.x * 2**power), round(sun.y * 2**power)
        if abs(dy) >= heights.shape[0] or abs(dx) >= heights.shape[1]:
            break
        there, here = shifted(heights.shape, dx, dy)
        lowered = horizon[there] - np.float32(drop * np.hypot(dx, dy))
        moved = horizon.copy()
        np.maximum(horizon[here], lowered, out=moved[here])
        horizon = moved
    opacity = np.clip((horizon - heights - 0.15) / 0.5, 0, 1)
    return cv2.GaussianBlur(opacity, (0, 0), 0.7)


def polygon_coverage(outline: np.ndarray, shape: tuple[int, int]) -> Coverage:
    """Antialiased coverage of a polygon (n, 2) in the pixels of an image of the given shape.

    Returns: the part of the image that it touches, empty where it lies outside, and the coverage
        there, float32.
    """
    (left, top), (right, bottom) = outline.min(0).tolist(), outline.max(0).tolist()
    fine = FINE if max(right - left, bottom - top) <= FINE_LIMIT else 1
    left, top = max(0, floor(left) - 1), max(0, floor(top) - 1)
    right, bottom = min(shape[1], ceil(right) + 2), min(shape[0], ceil(bottom) + 2)
    width, height = right - left, bottom - top
    if width <= 0 or height <= 0:
        return np.s_[:0, :0], np.zeros((0, 0), np.float32)
    mask = np.zeros((fine * height, fine * width), np.uint8)
    points = np.round(((outline - (left, top)) * fine - 0.5) * 256).astype(np.int32)
    cv2.fillPoly(mask, [points], 255, cv2.LINE_AA, 8)
    if fine > 1:
        mask = cv2.resize(mask, (width, height), interpolation=cv2.INTER_AREA)
    return (slice(top, bottom), slice(left, right)), mask.astype(np.float32) / 255


def rectangle(x: float, y: float, length: float, width: float, angle: float = 0.0) -> np.ndarray:
    """Corners (4, 2) of a rectangle round (x, y); the first edge runs along its length."""
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * (length / 2, width / 2)
    return np.add(turned(corners, angle), (x, y))


def turned(points: np.ndarray, angle: float) -> np.ndarray:
    """Points (n, 2) turned about the origin by an angle in radians."""
    cosine, sine = np.cos(angle), np.sin(angle)
    return np.asarray(points) @ np.array([[cosine, sine], [-sine, cosine]])


def line(x0: float, y0: float, x1: float, y1: float, step: float = 6.0) -> np.ndarray:
    """Points (n, 2) along a straight line, at most `step` metres apart, so that it can bend."""
    count = max(2, int(np.hypot(x1 - x0, y1 - y0) / step) + 2)
    return np.linspace((x0, y0), (x1, y1), count)


def curve(start: tuple, control: tuple, end: tuple) -> np.ndarray:
    """A quadratic Bezier curve as points (n, 2)."""
    t = np.linspace(0, 1, 30)[:, None]
    start, control, end = (np.array(point, np.float64) for point in (start, control, end))
    return (1 - t) ** 2 * start + 2 * t * (1 - t) * control + t**2 * end


def ribbon(path: np.ndarray, half: float) -> np.ndarray:
    """Outline of a band of a path, so many metres to both of its sides."""
    return np.concatenate([beside(path, -half), beside(path, half)[::-1]])


def short_side(rect: Rect) -> float:
    """The shorter side of a rectangle, in metres."""
    return min(rect[2] - rect[0], rect[3] - rect[1])


def pick(rng: np.random.Generator, table: tuple) -> tuple[float, float, float]:
    """One colour of a table of (colour, share)."""
    colours, shares = zip(*table, strict=True)
    return colours[rng.choice(len(colours), p=np.array(shares) / sum(shares))]


def box(x0: float, y0: float, x1: float, y1: float) -> np.ndarray:
    """Outline of an upright rectangle with enough points to bend with the scene."""
    sides = [(x0, y0, x1, y0), (x1, y0, x1, y1), (x1, y1, x0, y1), (x0, y1, x0, y0)]
    return np.concatenate([line(*side)[:-1] for side in sides])


def beside(path: np.ndarray, distance: float) -> np.ndarray:
    """The path moved sideways by a distance in metres (to the right when y points down)."""
    along = np.gradient(path, axis=0)
    along /= np.maximum(np.linalg.norm(along, axis=1, keepdims=True), 1e-9)
    return path + distance * np.stack([-along[:, 1], along[:, 0]], axis=1)


def arc_length(path: np.ndarray) -> np.ndarray:
    """Distance from the start of the path to each of its points."""
    return np.concatenate([[0.0], np.linalg.norm(np.diff(path, axis=0), axis=1).cumsum()])


def points_at(path: np.ndarray, distances: np.ndarray) -> np.ndarray:
    """Points (n, 2) at the given distances along a path."""
    length = arc_length(path)
    return np.stack([np.interp(distances, length, path[:, k]) for k in (0, 1)], axis=1)


def cut_dashes(path: np.ndarray, length: float, gap: float) -> list[np.ndarray]:
    """Pieces of a path of the given length in metres, with gaps between."""
    starts = np.arange(0, arc_length(path)[-1] - length, length + gap)
    ends = points_at(path, np.stack([starts, starts + length], axis=1).ravel())
    return list(ends.reshape(-1, 2, 2))
