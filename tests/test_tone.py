"""Tone, saturation and brightness of animated stills, against their definition."""

import numpy as np
import pytest

from data import look
from data.animation import Animation, animate


class Draws:
    """A generator that draws what the test says, in order."""

    def __init__(self, uniform=(), random=(), normal=()):
        self.next = {"uniform": iter(uniform), "random": iter(random), "normal": iter(normal)}

    def uniform(self, low, high):
        value = next(self.next["uniform"])
        assert low <= value <= high
        return value

    def random(self):
        return next(self.next["random"])

    def normal(self, mean, deviation, size=None):
        return np.asarray(next(self.next["normal"])) * deviation + mean


IMAGE = np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8)


def mixed(levels, saturation, cast):
    luma = levels @ (0.299, 0.587, 0.114)
    return (saturation * levels + (1 - saturation) * luma[..., None]) * (1 + 0.02 * cast)


@pytest.mark.parametrize("hazy", [False, True])
def test_tone_is_gamma_contrast_brightness_haze_saturation_and_cast(hazy):
    cast = np.array([1.0, -0.5, 0.25])
    uniform = [0.2, 0.8, 12.0] + [0.25] * hazy
    draws = Draws(uniform, [0.1 if hazy else 0.9, 0.9], [cast])
    toned = look.tone(IMAGE, draws, saturation=0.3, stretch_share=0.5)
    levels = 255 * (IMAGE / 255) ** np.exp(0.2)
    levels = 110 + 0.8 * (levels - 110) + 12
    if hazy:
        levels = 0.75 * levels + 0.25 * 200
    np.testing.assert_allclose(toned, mixed(levels, 0.3, cast), atol=1e-3)


def test_a_stretched_still_has_nearly_the_full_range():
    image = np.random.default_rng(0).integers(90, 200, (160, 160, 3), dtype=np.uint8)
    draws = Draws([0.0, 1.0, 0.0, 20.0, 240.0], [0.9, 0.1], [np.zeros(3)])
    toned = look.tone(image, draws, saturation=1.0, stretch_share=0.5)
    assert np.percentile(toned[..., 1], [1, 99]) == pytest.approx([20, 240], abs=3)
    draws = Draws([0.0, 1.0, 0.0, 20.0, 240.0], [0.9, 0.1], [np.zeros(3)])
    flat = look.tone(np.full_like(image, 100) + image // 100, draws, 1.0, 0.5)
    assert np.ptp(flat) <= 2 * 2 + 1e-3  # at most twice the contrast


def test_brightness_drifts_in_a_line_and_flickers_a_little():
    flicker = np.array([1.0, -1, 0, 2, 0, 0, 1])
    gain, offset = look.brightness_drift(Draws(normal=[1.5, flicker, -2.0]), 7)
    time = np.arange(-3, 4)
    np.testing.assert_allclose(gain, 1 + 0.003 * time + 0.001 * flicker)
    np.testing.assert_allclose(offset, -0.4 * time)


def test_every_frame_of_a_clip_has_its_brightness(monkeypatch):
    gain, offset = np.linspace(0.7, 1.3, 7), np.linspace(6, -6, 7)
    monkeypatch.setattr(look, "tone", lambda image, *_: image.astype(np.float32))
    monkeypatch.setattr(look, "brightness_drift", lambda *_: (gain, offset))
    quiet = Animation(traffic_share=0, aircraft_share=0, stretch_share=0)
    still = np.full((90, 90, 3), 100, np.uint8)
    clip = animate(still, (64, 64), np.random.default_rng(0), quiet)
    expected = 100 * gain + offset
    np.testing.assert_allclose(clip.mean(axis=(1, 2, 3)), expected, atol=1)


def test_saturation_is_low_for_the_grey_share():
    draws = [look.draw_saturation(np.random.default_rng(seed), 0.25) for seed in range(400)]
    grey = np.array(draws) < 0.4
    assert grey.mean() == pytest.approx(0.25, abs=0.06)
    assert min(draws) < 0.15
    assert 1.0 < max(draws) < 1.1


def test_blur_has_its_sigma():
    point = np.zeros((41, 41, 3), np.float32)
    point[20, 20] = 1
    seen = look.blur(point, 1.7)[..., 0]
    place = np.arange(41) - 20
    assert (seen.sum(0) * place**2).sum() == pytest.approx(1.7**2, rel=0.03)
