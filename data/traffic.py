"""Vehicles and aircraft that drive through a clip on their own.

At one metre a pixel a vehicle is a box of 2 to 6 pixels with a windscreen and a shadow. Boxes are
drawn by their exact coverage under a Gaussian point spread: along each axis of the box a
difference of two error functions. That is antialiased, right at sub-pixel positions, and has the
same optics as the still around it, which was blurred before.

Coordinates are (x, y) in pixels of the middle frame, whole numbers at pixel centres.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch

PIXEL_VARIANCE = 1 / 12  # of the box that one pixel integrates over, in pixels squared


@dataclass(frozen=True)
class Vehicles:
    """M vehicles that drive straight on at a constant speed; arrays with M rows.

    position (M, 2) at the middle frame; velocity (M, 2) in pixels per frame; heading (M,) in
    radians; length and width (M,) in pixels; colour (M, 3) in levels; glass (M,) opacity of the
    windscreen; shadow (2,) from the vehicle to its shadow in pixels; shade, opacity of the shadow.
    """

    position: np.ndarray
    velocity: np.ndarray
    heading: np.ndarray
    length: np.ndarray
    width: np.ndarray
    colour: np.ndarray
    glass: np.ndarray
    shadow: np.ndarray
    shade: float


def find_road(scene: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, float]:
    """A straight line that looks like a road: even along itself, different from what is beside it.

    Arguments:
        scene: (H, W, 3) float32.

    Returns: a point (x, y) on it and its direction in radians, the best of 48 random lines.
    """
    height, width = scene.shape[:2]
    count, reach = 48, 0.2 * min(height, width)
    centre = rng.uniform(0.1, 0.9, (count, 2)) * (width, height)
    angle = rng.uniform(0, 2 * math.pi, count)
    along = np.stack([np.cos(angle), np.sin(angle)], -1)[:, None, None]
    across = along[..., ::-1] * (-1, 1)
    side = np.array([-9.0, 0.0, 9.0])[:, None, None] * across
    points = centre[:, None, None] + side + np.linspace(-reach, reach, 25)[:, None] * along
    x = np.clip(points[..., 0], 0, width - 1).astype(np.intp)
    y = np.clip(points[..., 1], 0, height - 1).astype(np.intp)
    grey = scene[y, x, 1]
    level = grey.mean(-1)
    contrast = np.abs(level[:, 1] - level[:, 0]) + np.abs(level[:, 1] - level[:, 2])
    best = int(np.argmin((grey[:, 1].std(-1) + 3) / (contrast + 6)))
    return centre[best], float(angle[best])


def draw_colours(
    rng: np.random.Generator, count: int, scene: np.ndarray, saturation: float
) -> np.ndarray:
    """Colours of vehicles, (count, 3) in levels: bright, dark, grey and coloured ones."""
    low, high = np.percentile(scene[::8, ::8], [2, 98])
    span = max(high - low, 60.0)
    kind = rng.choice(4, count, p=[0.45, 0.25, 0.15, 0.15])
    value = np.choose(
        kind,
        [
            rng.uniform(0.85, 1.15, count),
            rng.uniform(-0.05, 0.1, count),
            rng.uniform(0.3, 0.7, count),
            rng.uniform(0.3, 0.8, count),
        ],
    )
    tint = rng.uniform(-0.5, 0.5, (count, 3)) * saturation * (kind == 3)[:, None]
    return (np.clip(low + (value[:, None] + tint) * span, 0, 255)).astype(np.float32)


def plan_traffic(
    rng: np.random.Generator,
    scene: np.ndarray,
    speed: tuple[float, float],
    saturation: float,
) -> Vehicles:
    """Put vehicles on one to three roads of a scene: columns, both ways, and single ones.

    Arguments:
        scene: (H, W, 3) float32 levels, the middle frame.
        speed: range in pixels per frame that every road draws its own from.
        saturation: of the clip's colours.
    """
    position, velocity = [], []
    for _ in range(rng.integers(1, 4)):
        point, angle = find_road(scene, rng)
        along = np.array([math.cos(angle), math.sin(angle)])
        across = along[::-1] * (-1, 1)
        lane = rng.uniform(1.5, 2.5)
        for way in (1, -1)[: rng.integers(1, 3)]:
            count = rng.choice([1, 2, 3, 5, 8, 12])
            gaps = 8 + rng.exponential(10, count)
            place = np.cumsum(gaps) - rng.uniform(0, gaps.sum())
            pace = rng.uniform(*speed) * rng.uniform(0.9, 1.1, count)
            position.append(point + way * (place[:, None] * along + lane * across))
            velocity.append(way * pace[:, None] * along)
    position, velocity = np.concatenate(position), np.concatenate(velocity)
    count = len(position)
    sun = rng.uniform(0, 2 * math.pi)
    length = rng.choice([3.0, 4.2, 5.6], count, p=[0.2, 0.6, 0.2]) + rng.uniform(-0.6, 0.4, count)
    return Vehicles(
        position=position,
        velocity=velocity,
        heading=np.arctan2(velocity[:, 1], velocity[:, 0]),
        length=length,
        width=0.36 * length + rng.uniform(0.2, 0.6, count),
        colour=draw_colours(rng, count, scene, saturation),
        glass=rng.uniform(0.0, 0.6, count),
        shadow=rng.uniform(0.5, 1.8) * np.array([math.cos(sun), math.sin(sun)]),
        shade=rng.uniform(0.2, 0.6),
    )


def draw_vehicles(
    frames: list[np.ndarray], vehicles: Vehicles, motion: np.ndarray, sigma: float
) -> None:
    """Draw vehicles into the frames of a clip, in place.

    Arguments:
        frames: T arrays (H, W, 3) float32 levels, blurred by the optics already.
        motion: (T, 2, 3) affine maps from the middle frame's coordinates to each frame's.
        sigma: of the optics in pixels.
    """
    spread = math.sqrt(sigma**2 + PIXEL_VARIANCE)
    reach = 0.6 * vehicles.length.max() + np.abs(vehicles.shadow).max() + 3 * spread
    size = 2 * math.ceil(reach) + 1
    time = np.arange(len(frames)) - (len(frames) - 1) / 2
    ground = vehicles.position + time[:, None, None] * vehicles.velocity
    centre = np.einsum("tij,tmj->tmi", motion[:, :, :2], ground) + motion[:, None, :, 2]
    corner = np.rint(centre).astype(np.intp) - size // 2
    pixel = corner[..., None] + np.arange(size) - centre[..., None]
    dx, dy = pixel[:, :, 0, None, :], pixel[:, :, 1, :, None]

    def per_vehicle(values: np.ndarray) -> np.ndarray:
        return values[None, :, None, None]

    cos, sin = per_vehicle(np.cos(vehicles.heading)), per_vehicle(np.sin(vehicles.heading))
    length, width = per_vehicle(vehicles.length), per_vehicle(vehicles.width)
    u, v = dx * cos + dy * sin, dy * cos - dx * sin
    body = coverage(u, length, spread) * coverage(v, width, spread)
    glass = coverage(u - 0.18 * length, 0.25 * length, spread)
    glass *= coverage(v, 0.8 * width, spread) * per_vehicle(vehicles.glass)
    x, y = dx - vehicles.shadow[0], dy - vehicles.shadow[1]
    shadow = coverage(x * cos + y * sin, length, spread)
    shadow *= coverage(y * cos - x * sin, width, spread)
    keep = (1 - vehicles.shade * shadow) * (1 - body)
    add = (body * (1 - 0.8 * glass))[..., None] * vehicles.colour[None, :, None, None]
    for t, frame in enumerate(frames):
        for m in range(len(vehicles.position)):
            _blend(frame, corner[t, m], keep[t, m], add[t, m])


def coverage(distance: np.ndarray, length: np.ndarray, spread: float) -> np.ndarray:
    """Share of a strip seen by a Gaussian of width spread at a distance from the strip's middle."""
    scale = 1 / (math.sqrt(2) * spread)
    high = torch.from_numpy(((distance + length / 2) * scale).astype(np.float32))
    low = torch.from_numpy(((distance - length / 2) * scale).astype(np.float32))
    return (high.erf_() - low.erf_()).mul_(0.5).numpy()


def _blend(frame: np.ndarray, corner: np.ndarray, keep: np.ndarray, add: np.ndarray) -> None:
    """frame = frame * keep + add where the patch at corner (x, y) lies inside the frame."""
    x, y = int(corner[0]), int(corner[1])
    left, top = max(-x, 0), max(-y, 0)
    window = frame[y + top : max(y + len(keep), 0), x + left : max(x + len(keep), 0)]
    if window.size == 0:
        return
    height, width = window.shape[:2]
    window *= keep[top : top + height, left : left + width, None]
    window += add[top : top + height, left : left + width]
