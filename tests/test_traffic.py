"""What vehicles and aircraft look like, against drawings of sixteen times the resolution."""

import cv2
import numpy as np
import pytest

from data import traffic
from tests.test_animation import one_vehicle, still_camera

SIDE, FINE, SIGMA = 56, 16, 0.7


def painted(shapes, ground=90.0):
    """Boxes (centre, heading, length, width, colour or factor) in order, then the optics."""
    image = np.full((SIDE * FINE, SIDE * FINE, 3), ground, np.float32)
    y, x = (np.mgrid[: SIDE * FINE, : SIDE * FINE] + 0.5) / FINE - 0.5
    for boxes, paint in shapes:
        inside = np.zeros(x.shape, bool)
        for (cx, cy), heading, length, width in boxes:
            dx, dy = x - cx, y - cy
            along = dx * np.cos(heading) + dy * np.sin(heading)
            across = dy * np.cos(heading) - dx * np.sin(heading)
            inside |= (np.abs(along) < length / 2) & (np.abs(across) < width / 2)
        image[inside] = paint(image[inside])
    image = cv2.GaussianBlur(image, (0, 0), SIGMA * FINE)
    return cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA)


def frames():
    return [np.full((SIDE, SIDE, 3), 90, np.float32) for _ in range(7)]


def test_a_windscreen_lies_in_front_of_the_middle_and_darkens():
    velocity = np.array([1.2, 0.5])
    drawn = {}
    for glass in (0.0, 0.6):
        vehicle = one_vehicle((27.3, 28.1), velocity)
        vehicle = type(vehicle)(**vars(vehicle) | {"glass": np.array([glass])})
        vehicle.length[:], vehicle.width[:] = 16, 8  # large enough to see where it is
        drawn[glass] = frames()
        traffic.draw_vehicles(drawn[glass], vehicle, still_camera(), SIGMA)
    darker = (drawn[0.0][3] - drawn[0.6][3]).sum(axis=2)
    assert darker.min() > -1e-3
    y, x = np.mgrid[:SIDE, :SIDE]
    centre = np.array([(darker * x).sum(), (darker * y).sum()]) / darker.sum()
    forward = velocity / np.linalg.norm(velocity)
    assert centre == pytest.approx((27.3, 28.1) + 0.18 * 16 * forward, abs=0.05)
    # 0.8 of the colour's light, on a quarter of the length and most of the width
    assert darker.sum() == pytest.approx(0.6 * 0.8 * 350 * (0.25 * 16) * (0.8 * 8), rel=0.05)


def boxes_of(aircraft, shift=(0, 0)):
    """Fuselage, swept wings and tail, as an aircraft of this heading has them."""
    cos, sin = np.cos(aircraft.heading), np.sin(aircraft.heading)
    place, size = aircraft.position + shift, aircraft.length
    parts = [(0, 0, 1, 0.11, 0)]
    for side in (1, -1):
        parts += [(-0.03, 0.24 * side, 0.52, 0.10, 115 * side)]
        parts += [(-0.45, 0.09 * side, 0.2, 0.07, 115 * side)]
    return [
        (
            place + size * np.array([u * cos - v * sin, u * sin + v * cos]),
            aircraft.heading + np.radians(turn),
            length * size,
            width * size,
        )
        for u, v, length, width, turn in parts
    ]


def test_an_aircraft_is_its_fuselage_wings_and_tail_over_their_shadow():
    velocity = np.array([1.0, 0.4])
    aircraft = traffic.Aircraft(
        position=np.array([30.4, 26.7]),
        velocity=velocity,
        heading=float(np.arctan2(velocity[1], velocity[0])),
        length=30.0,
        colour=np.array([240, 230, 220], np.float32),
        shadow=np.array([-7.0, 12.0]),
        shade=0.5,
    )
    drawn = frames()
    traffic.draw_aircraft(drawn, aircraft, still_camera(), SIGMA)
    expected = painted(
        [
            (boxes_of(aircraft, aircraft.shadow), lambda ground: 0.5 * ground),
            (boxes_of(aircraft), lambda ground: aircraft.colour),
        ]
    )
    # Where boxes meet, blurring each by itself is not quite blurring all.
    assert np.abs(drawn[3] - expected).mean() < 0.6
    assert np.abs(drawn[3] - expected).max() < 40
    assert np.abs(expected - 90).mean() > 5
    moved = np.float32([[1, 0, 3 * velocity[0]], [0, 1, 3 * velocity[1]]])
    there = cv2.warpAffine(drawn[3], moved, (SIDE, SIDE), borderValue=(90, 90, 90))
    assert np.abs(drawn[6] - there).mean() < 1


def test_vehicles_drive_forwards_on_the_right_and_no_faster_than_asked(monkeypatch):
    angle, place = 0.7, np.array([30.0, 20.0])
    monkeypatch.setattr(traffic, "find_road", lambda scene, rng: (place, angle))
    scene = np.random.default_rng(0).uniform(0, 255, (64, 64, 3)).astype(np.float32)
    ways = set()
    for seed in range(12):
        rng = np.random.default_rng(seed)
        vehicles = traffic.plan_vehicles(rng, scene, 1, (1.0, 1.05), saturation=1.0)
        speed = np.linalg.norm(vehicles.velocity, axis=1)
        assert speed.min() >= 0.9
        assert speed.max() <= 1.05
        forward = np.stack([np.cos(vehicles.heading), np.sin(vehicles.heading)], axis=1)
        np.testing.assert_allclose(vehicles.velocity, speed[:, None] * forward)
        right = np.stack([-forward[:, 1], forward[:, 0]], axis=1)  # y points down
        lanes = ((vehicles.position - place) * right).sum(axis=1)
        assert lanes.min() >= 1.5
        assert lanes.max() <= 2.5
        ways |= {bool(ahead) for ahead in forward @ (np.cos(angle), np.sin(angle)) > 0}
    assert ways == {True, False}


def test_a_road_is_even_and_differs_from_what_is_beside_it():
    """In a scene that is wider than high; the line across the road and those beside it are none."""
    scene = np.random.default_rng(0).normal(100, 30, (64, 200, 3)).astype(np.float32)
    scene[:, 150:158] = 180
    centre = np.array([[153.0, 32], [153, 32], [40, 32], [100, 32]])
    angle = np.array([np.pi / 2, 0, np.pi / 2, 1])
    for turn in range(4):
        order = np.roll(np.arange(4), turn)
        assert order[traffic._most_road_like(scene, centre[order], angle[order])] == 0


def test_colours_stand_out_have_the_saturation_of_the_clip_and_are_levels():
    flat, bright = (np.full((64, 64, 3), level, np.float32) for level in (100, 230))
    grey = traffic.draw_colours(np.random.default_rng(0), 60, flat, saturation=0)
    assert np.ptp(grey, axis=1).max() == 0
    assert np.ptp(grey) > 50
    coloured = traffic.draw_colours(np.random.default_rng(0), 60, flat, saturation=1)
    assert np.ptp(coloured, axis=1).max() > 20
    light = traffic.draw_colours(np.random.default_rng(0), 60, bright, saturation=1)
    assert light.max() == 255
