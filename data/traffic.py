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
    """M vehicles that drive straight on at a constant speed."""

    position: np.ndarray  # (M, 2) at the middle frame
    velocity: np.ndarray  # (M, 2) pixels per frame
    heading: np.ndarray  # (M,) radians
    length: np.ndarray  # (M,) pixels
    width: np.ndarray  # (M,) pixels
    colour: np.ndarray  # (M, 3) levels
    glass: np.ndarray  # (M,) opacity of the windscreen
    shadow: np.ndarray  # (2,) pixels from a vehicle to its shadow
    shade: float  # opacity of the shadow


@dataclass(frozen=True)
class Aircraft:
    """One aircraft; fields as in Vehicles, without the M."""

    position: np.ndarray
    velocity: np.ndarray
    heading: float
    length: float
    colour: np.ndarray
    shadow: np.ndarray
    shade: float


def find_road(scene: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, float]:
    """A straight line that looks like a road: even along itself, different from what is beside it.

    Returns: a point (x, y) on it and its direction in radians, in a scene (H, W, 3) float32: the
        best of 48 random lines, turned and moved to the best of 48 near it.
    """
    size = np.array([scene.shape[1], scene.shape[0]])
    centre = rng.uniform(0.1, 0.9, (48, 2)) * size
    angle = rng.uniform(0, 2 * math.pi, 48)
    best = _most_road_like(scene, centre, angle)
    centre = centre[best] + rng.uniform(-8, 8, (48, 2))
    angle = angle[best] + rng.uniform(-0.15, 0.15, 48)
    best = _most_road_like(scene, centre, angle)
    return centre[best], float(angle[best])


def _most_road_like(scene: np.ndarray, centre: np.ndarray, angle: np.ndarray) -> int:
    """Index of the line whose pixels vary least, for its contrast to the lines at its sides."""
    height, width = scene.shape[:2]
    reach = 0.2 * min(height, width)
    along = np.stack([np.cos(angle), np.sin(angle)], -1)[:, None, None]
    across = along[..., ::-1] * (-1, 1)
    side = np.array([-9.0, 0.0, 9.0])[:, None, None] * across
    points = centre[:, None, None] + side + np.linspace(-reach, reach, 25)[:, None] * along
    x = np.clip(points[..., 0], 0, width - 1).astype(np.intp)
    y = np.clip(points[..., 1], 0, height - 1).astype(np.intp)
    green = scene[y, x, 1]
    level = green.mean(-1)
    contrast = np.abs(level[:, 1] - level[:, 0]) + np.abs(level[:, 1] - level[:, 2])
    return int(np.argmin((green[:, 1].std(-1) + 3) / (contrast + 6)))


def draw_colours(
    rng: np.random.Generator, count: int, scene: np.ndarray, saturation: float
) -> np.ndarray:
    """Colours of vehicles, (count, 3) in levels: bright, dark, grey and coloured ones."""
    low, span = _levels(scene)
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


def _levels(scene: np.ndarray) -> tuple[float, float]:
    """The darkest level of a scene and its range, at least 60, which vehicles have too."""
    low, high = np.percentile(scene[::8, ::8], [2, 98])
    return low, max(high - low, 60.0)


def plan_vehicles(
    rng: np.random.Generator,
    scene: np.ndarray,
    roads: int,
    speed: tuple[float, float],
    saturation: float,
) -> Vehicles:
    """Put vehicles on the roads of a scene: columns, one way or both, and single ones.

    Arguments:
        scene: (H, W, 3) float32 levels, the middle frame.
        roads: how many roads to fill.
        speed: range in pixels per frame that every lane draws its own from.
        saturation: of the clip's colours.
    """
    position, velocity = [], []
    for _ in range(roads):
        point, angle = find_road(scene, rng)
        along = np.array([math.cos(angle), math.sin(angle)])
        across = along[::-1] * (-1, 1)
        lane = rng.uniform(1.5, 2.5)
        for way in (1, -1)[: rng.integers(1, 3)]:
            count = rng.choice([1, 2, 3, 5, 8, 12])
            gaps = 8 + rng.exponential(10, count)
            place = np.cumsum(gaps) - rng.uniform(0, gaps.sum())
            pace = np.minimum(rng.uniform(*speed) * rng.uniform(0.9, 1.1, count), speed[1])
            position.append(point + way * (place[:, None] * along + lane * across))
            velocity.append(way * pace[:, None] * along)
    position, velocity = np.concatenate(position), np.concatenate(velocity)
    count = len(position)
    length = rng.choice([3.0, 4.2, 5.5], count, p=[0.2, 0.6, 0.2]) + rng.uniform(-0.8, 0.5, count)
    return Vehicles(
        position=position,
        velocity=velocity,
        heading=np.arctan2(velocity[:, 1], velocity[:, 0]),
        length=length,
        width=0.36 * length + rng.uniform(0.2, 0.6, count),
        colour=draw_colours(rng, count, scene, saturation),
        glass=rng.uniform(0.0, 0.6, count),
        shadow=_polar(rng.uniform(0.5, 1.8), rng.uniform(0, 2 * math.pi)),
        shade=rng.uniform(0.2, 0.6),
    )


def plan_aircraft(rng: np.random.Generator, scene: np.ndarray, speed_max: float) -> Aircraft:
    """One aircraft, on the ground or low above it, along something that looks like a runway."""
    position, heading = find_road(scene, rng)
    low, span = _levels(scene)
    flying = rng.random() < 0.3
    speed = rng.uniform(0.3, 1.0) * speed_max if flying else rng.uniform(0.1, 0.4) * speed_max
    return Aircraft(
        position=position,
        velocity=_polar(speed, heading),
        heading=heading,
        length=rng.uniform(16, 45),
        colour=np.full(3, min(low + rng.uniform(0.85, 1.2) * span, 255), np.float32),
        shadow=_polar(rng.uniform(10, 40) if flying else rng.uniform(1, 4), rng.uniform(0, 6.28)),
        shade=rng.uniform(0.3, 0.6),
    )


def _polar(radius: float, angle: float) -> np.ndarray:
    return radius * np.array([math.cos(angle), math.sin(angle)])


def draw_vehicles(
    frames: list[np.ndarray], vehicles: Vehicles, motion: np.ndarray, sigma: float
) -> None:
    """Draw vehicles into the frames of a clip, in place.

    Arguments:
        frames: arrays (H, W, 3) float32 levels, blurred by the optics already: the first ones of
            a clip of T.
        motion: (T, 2, 3) affine maps from the middle frame's coordinates to each frame's.
        sigma: of the optics in pixels.
    """
    spread = math.sqrt(sigma**2 + PIXEL_VARIANCE)
    reach = 0.6 * vehicles.length.max() + np.abs(vehicles.shadow).max() + 3 * spread
    corner, dx, dy = _patches(vehicles.position, vehicles.velocity, motion, reach, len(frames))

    def per_vehicle(values: np.ndarray) -> np.ndarray:
        return values.astype(np.float32)[None, :, None, None]

    cos, sin = per_vehicle(np.cos(vehicles.heading)), per_vehicle(np.sin(vehicles.heading))
    length, width = per_vehicle(vehicles.length), per_vehicle(vehicles.width)
    u, v = dx * cos + dy * sin, dy * cos - dx * sin
    body = coverage(u, length, spread) * coverage(v, width, spread)
    glass = coverage(u - 0.18 * length, 0.25 * length, spread)
    glass *= coverage(v, 0.8 * width, spread) * per_vehicle(vehicles.glass)
    x, y = dx - float(vehicles.shadow[0]), dy - float(vehicles.shadow[1])
    shadow = coverage(x * cos + y * sin, length, spread)
    shadow *= coverage(y * cos - x * sin, width, spread)
    keep = (1 - vehicles.shade * shadow) * (1 - body)
    add = (body * (1 - 0.8 * glass))[..., None] * vehicles.colour[None, :, None, None]
    _blend_all(frames, corner, keep, add)


# Boxes of an aircraft in units of its length: forward and sideways of the middle, length, width,
# and turn in degrees of the box's length against the fuselage. Fuselage, wings, tail.
AIRFRAME = (
    (0.0, 0.0, 1.0, 0.11, 0),
    (-0.03, 0.24, 0.52, 0.10, 115),
    (-0.03, -0.24, 0.52, 0.10, -115),
    (-0.45, 0.09, 0.2, 0.07, 115),
    (-0.45, -0.09, 0.2, 0.07, -115),
)


def draw_aircraft(
    frames: list[np.ndarray], aircraft: Aircraft, motion: np.ndarray, sigma: float
) -> None:
    """Draw an aircraft into the frames of a clip, in place; arguments as for draw_vehicles."""
    spread = math.sqrt(sigma**2 + PIXEL_VARIANCE)
    reach = 0.6 * aircraft.length + np.abs(aircraft.shadow).max() + 3 * spread
    position, velocity = aircraft.position[None], aircraft.velocity[None]
    corner, dx, dy = _patches(position, velocity, motion, reach, len(frames))
    shadow = _airframe(
        dx - float(aircraft.shadow[0]), dy - float(aircraft.shadow[1]), aircraft, spread
    )
    body = _airframe(dx, dy, aircraft, spread)
    keep = (1 - aircraft.shade * shadow) * (1 - body)
    _blend_all(frames, corner, keep, body[..., None] * aircraft.colour)


def _airframe(dx: np.ndarray, dy: np.ndarray, aircraft: Aircraft, spread: float) -> np.ndarray:
    """Coverage by the union of the aircraft's boxes at distances from its middle."""
    free = 1.0
    cos, sin = math.cos(aircraft.heading), math.sin(aircraft.heading)
    forward, sideways = dx * cos + dy * sin, dy * cos - dx * sin
    for u, v, length, width, turn in (np.array(AIRFRAME) * (*[aircraft.length] * 4, 1)).tolist():
        cos, sin = math.cos(math.radians(turn)), math.sin(math.radians(turn))
        along = (forward - u) * cos + (sideways - v) * sin
        across = (sideways - v) * cos - (forward - u) * sin
        free = free * (1 - coverage(along, length, spread) * coverage(across, width, spread))
    return 1 - free


def _patches(
    position: np.ndarray, velocity: np.ndarray, motion: np.ndarray, reach: float, count: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Square patches around M moving things in the first `count` of T frames.

    Returns: corner (count, M, 2), the whole (x, y) of each patch's first pixel, and the distances
    of its pixels from the thing, dx (count, M, 1, size) and dy (count, M, size, 1).
    """
    size = 2 * math.ceil(reach) + 1
    time = np.arange(count) - (len(motion) - 1) / 2
    motion = motion[:count]
    ground = position + time[:, None, None] * velocity
    centre = np.einsum("tij,tmj->tmi", motion[:, :, :2], ground) + motion[:, None, :, 2]
    corner = np.rint(centre).astype(np.intp) - size // 2
    distance = (corner[..., None] + np.arange(size) - centre[..., None]).astype(np.float32)
    return corner, distance[:, :, 0, None, :], distance[:, :, 1, :, None]


def coverage(distance: np.ndarray, length: np.ndarray | float, spread: float) -> np.ndarray:
    """Share of a strip seen by a Gaussian of width spread at a distance from the strip's middle."""
    scale = math.sqrt(0.5) / spread
    high = torch.from_numpy((distance + length / 2) * scale).erf_()
    low = torch.from_numpy((distance - length / 2) * scale).erf_()
    return (high - low).mul_(0.5).numpy()


def _blend_all(
    frames: list[np.ndarray], corner: np.ndarray, keep: np.ndarray, add: np.ndarray
) -> None:
    """frame = frame * keep + add for every patch, where it lies inside its frame."""
    for t, frame in enumerate(frames):
        for m in range(keep.shape[1]):
            x, y = corner[t, m].tolist()
            size = keep.shape[2]
            left, top = max(-x, 0), max(-y, 0)
            window = frame[y + top : max(y + size, 0), x + left : max(x + size, 0)]
            if window.size:
                part = slice(top, top + window.shape[0]), slice(left, left + window.shape[1])
                window *= keep[t, m][part][..., None]
                window += add[t, m][part]
