"""Cuts between shots: found, told, and never blended over."""

from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from enhancing import Frames, make_frames, read_all, run, save_small_network, write_frames
from rasters import write_geotiff, write_plain

import enhance
from enhancement import passes
from enhancement.levels import full_scale
from enhancement.repair import Bridged
from enhancement.shots import ShotSink, find_cuts, shots
from media.frames import Sink
from media.open import open_source
from models.inference import super_resolve

LEVELS = full_scale(np.dtype(np.uint8))


def other_scene(count, seed=3):
    """Blobs that move slowly."""
    noise = np.random.default_rng(seed).standard_normal((40, 40 + count, 3))
    ground = np.clip(cv2.GaussianBlur(noise, (0, 0), 3) * 500 + 120, 0, 255).astype(np.uint8)
    return np.stack([ground[:24, time : time + 32] for time in range(count)])


class Kept(Sink):
    """A sink that keeps what it gets, in pieces as a video does."""

    def __init__(self):
        self.frames = []

    def holds(self, start, stop):
        return stop <= len(self.frames)

    def write(self, start, frames):
        assert start == len(self.frames)
        self.frames += list(frames)

    def join(self, target):
        raise AssertionError


def test_cuts_are_found_and_motion_light_and_noise_are_none():
    rng = np.random.default_rng(0)
    moving = other_scene(6)
    lighter = np.clip(moving.astype(int) + 15 * np.arange(6)[:, None, None, None], 0, 255)
    noisy = np.clip(moving + rng.normal(0, 12, moving.shape), 0, 255)
    for frames in (make_frames(6), moving, lighter.astype(np.uint8), noisy.astype(np.uint8)):
        assert find_cuts(Frames(frames), LEVELS, ()) == []
    film = np.concatenate([make_frames(3), other_scene(4), other_scene(2, seed=9)])
    assert find_cuts(Frames(film), LEVELS, ()) == [(2, 3), (6, 7)]
    flat = np.stack([np.full((24, 32, 3), colour, np.uint8) for colour in (40, 40, 160, 160)])
    assert find_cuts(Frames(flat), LEVELS, ()) == [(1, 2)]


def test_damaged_frames_on_a_cut_are_shared_out():
    frames = [*make_frames(3), *other_scene(3)]
    source = Frames(frames)
    source.frames[2] = source.frames[3] = None
    cuts = find_cuts(source, LEVELS, {2, 3})
    assert cuts == [(1, 4)]
    assert shots(6, cuts) == [range(0, 3), range(3, 6)]
    bridged = Bridged(source, LEVELS, {2, 3}, "dis", cuts)
    np.testing.assert_array_equal(bridged.read(2), frames[1])
    np.testing.assert_array_equal(bridged.read(3), frames[4])


@pytest.mark.parametrize("times", [2, 4, 8])
@pytest.mark.parametrize("cuts", [[(2, 3)], [(2, 3), (3, 4)], [(0, 1), (4, 5)]])
def test_frames_on_a_cut_repeat_the_nearer_one(times, cuts):
    count, sink = 6, Kept()
    for frames in shots(count, cuts):
        part = ShotSink(sink, frames, count, times)
        made = times * (max(len(frames), 2) - 1) + 1  # what the network makes, in two pieces
        labels = [frames.start + number / times for number in range(made)]
        assert not part.holds(0, 2)
        for start, stop in ((0, 2), (2, made)):
            if not part.holds(start, stop):
                part.write(start, labels[start:stop])
            assert part.holds(start, stop)
    expected = []
    for number in range(times * (count - 1) + 1):
        before, step = divmod(number, times)
        on_cut = step and (before, before + 1) in cuts
        expected.append(round(number / times - 1e-6) if on_cut else number / times)
    assert sink.frames == expected


def test_shots_are_enhanced_by_themselves(tmp_path, checkpoint, capsys):
    film = np.concatenate([make_frames(3), other_scene(1), other_scene(2, seed=9)])
    given = write_frames(tmp_path / "in", film)
    result = read_all(run(checkpoint, given, tmp_path / "out"))
    told = capsys.readouterr().out
    assert told.count("the nearer frame is repeated") == 2
    assert "3.png" in told
    network = save_small_network(checkpoint)
    first = np.stack(list(super_resolve(network, film[:3], "dis")))
    np.testing.assert_array_equal(result[:5], first)
    np.testing.assert_array_equal(result[5], first[4])
    np.testing.assert_array_equal(result[7], result[6])
    np.testing.assert_array_equal(result[8:], list(super_resolve(network, film[4:], "dis")))
    blended = read_all(run(checkpoint, given, tmp_path / "kept", "--cuts", "keep"))
    assert (blended[5] != blended[4]).mean() > 0.5


def test_every_shot_goes_through_all_passes_by_itself(tmp_path, monkeypatch):
    done = []
    monkeypatch.setattr(passes, "run_pass", lambda enhancer, *given: done.append(given))
    enhancer = SimpleNamespace(levels=LEVELS, job=SimpleNamespace(folder=tmp_path), window=12)
    config = SimpleNamespace(times=4, output="out")
    cut = [range(0, 3), range(3, 5)]
    passes.run_passes(config, enhancer, Frames(make_frames(5)), Kept(), cut)
    (sources, between, *_, title), (denser, sinks, *_, last_title) = done
    assert (title, last_title) == ("pass 1 of 2", "pass 2 of 2")
    assert [source.count for source in sources] == [3, 2]
    assert [source.count for source in denser] == [5, 3]
    assert [sink.folder for sink in between] == [source.sink.folder for source in denser]
    assert between[0].folder != between[1].folder
    assert [(sink.first, sink.count) for sink in sinks] == [(0, 9), (12, 5)]
    assert enhancer.window == 5  # that of the longest shot in the last pass: memory is for it


@pytest.mark.parametrize("placed", [False, True])
@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_only_frames_with_coordinates_are_no_film(tmp_path, placed):
    write = write_geotiff if placed else write_plain
    for index, frame in enumerate([*make_frames(3), *other_scene(3)]):
        write(tmp_path / f"{index}.tif", frame.transpose(2, 0, 1))
    source, config = open_source(tmp_path), enhance.Config(str(tmp_path), str(tmp_path / "out"))
    assert enhance.cuts_of(source, LEVELS, {}, config) == ([] if placed else [(2, 3)])
