"""Tiles: they cover the frame, blend without a seam, and fit the memory."""

import itertools
import tracemalloc
from typing import ClassVar

import numpy as np
import pytest
import torch
from enhancing import make_frames, write_frames

import enhance
from enhancement import tiling
from enhancement.enhancer import Enhancer
from enhancement.job import ROWS, Job
from enhancement.levels import full_scale
from flow import estimate_flow
from media.folder import ImageSink
from media.open import open_source
from models import MSTT
from models.blocks import SCALE
from utils.images import to_tensor
from utils.memory import is_out_of_memory
from utils.resize import imresize

SIZES = [(100, 80, 32), (81, 80, 32), (160, 80, 32), (333, 160, 32), (80, 80, 32), (30, 80, 32)]


@pytest.mark.parametrize(("length", "tile", "overlap"), SIZES)
def test_tiles_cover_an_axis_and_overlap(length, tile, overlap):
    starts = tiling.tile_starts(length, tile, overlap)
    covered = np.zeros(length, int)
    for start in starts:
        covered[start : start + tile] += 1
    assert starts[0] == 0
    assert (covered > 0).all()
    assert starts[-1] + tile == length or (len(starts) == 1 and tile >= length)
    assert all(after - before <= tile - overlap for before, after in itertools.pairwise(starts))


@pytest.mark.parametrize(("length", "tile", "overlap"), SIZES)
def test_weights_sum_to_one_and_vanish_at_cuts(length, tile, overlap):
    starts = tiling.tile_starts(length, tile, overlap)
    weights = tiling.feather_weights(length, tile, overlap)
    total = np.zeros(SCALE * length)
    for start, weight in zip(starts, weights, strict=True):
        total[SCALE * start : SCALE * start + len(weight)] += weight
    np.testing.assert_allclose(total, 1, atol=1e-6)
    margin = SCALE * tiling.MARGIN
    for weight in weights[1:]:
        assert not weight[:margin].any()
    for weight in weights[:-1]:
        assert not weight[-margin:].any()


@pytest.mark.parametrize(("height", "width"), [(50, 70), (97, 205), (240, 81), (81, 240)])
def test_blending_gives_back_what_the_tiles_agree_on(height, width):
    rng = np.random.default_rng(0)
    whole = rng.random((2, SCALE * height, SCALE * width, 3), np.float32)
    asked = []

    def predict(rows, columns):
        asked.append((rows, columns))
        rows, columns = (slice(SCALE * part.start, SCALE * part.stop) for part in (rows, columns))
        return whole[:, rows, columns].copy()

    strips = list(tiling.blend_tiles(predict, height, width, 80, 32))
    np.testing.assert_allclose(np.concatenate(strips, axis=1), whole, atol=1e-6)
    assert len(asked) == tiling.tile_count(height, width, 80, 32)


@pytest.mark.parametrize(("length", "tile"), [(512, 480), (2000, 400), (1200, 400), (333, 90)])
def test_tiles_overlap_no_more_than_they_must(length, tile):
    def pixels(side):
        return side * len(tiling.tile_starts(length, side, 32))

    chosen = tiling.tile_length(length, tile, 32)
    assert chosen % tiling.PATCH == 0
    assert chosen <= tile
    assert pixels(chosen) == min(map(pixels, range(80, tile + 1, 80)))


def test_what_fits_one_tile_is_not_cut():
    assert tiling.tile_length(512, 512, 32) == 512
    assert tiling.tile_length(512, 100_000, 32) == 512


def test_disagreeing_tiles_leave_no_step():
    """Tiles that are off by a whole level each still join by less than a level per HR pixel."""
    offsets = iter(range(100))

    def predict(rows, columns):
        shape = (1, SCALE * (rows.stop - rows.start), SCALE * (columns.stop - columns.start), 1)
        return np.full(shape, next(offsets) % 2, np.float32)

    result = np.concatenate(list(tiling.blend_tiles(predict, 200, 200, 80, 32)), axis=1)[0, ..., 0]
    assert result.min() < 0.01
    assert result.max() > 0.99
    steepest = 1 / (SCALE * (32 - 2 * tiling.MARGIN))
    assert np.abs(np.diff(result, axis=0)).max() < 2 * steepest
    assert np.abs(np.diff(result, axis=1)).max() < 2 * steepest


def enhance_both(frames, tile, skip):
    """A random network on whole frames and in tiles, both (T, SCALE * H, SCALE * W, 3)."""
    torch.manual_seed(2)
    network = MSTT(channels=8, groups=2, front_blocks=1, back_blocks=2, **skip).eval()
    with torch.no_grad():
        # A random direct enlargement differs from pixel to pixel, not only where tiles meet.
        network.reconstruction.conv_last.weight.mul_(40 if "enlargement" in skip else 100)
    flows = [torch.from_numpy(flow) for flow in estimate_flow(frames, method="dis")]

    @torch.inference_mode()
    def predict(rows, columns):
        given = to_tensor(frames[:, rows, columns])[None]
        output = network(given, *(flow[None, ..., rows, columns] for flow in flows))
        return output[0].movedim(1, -1).numpy()

    whole = predict(slice(0, frames.shape[1]), slice(0, frames.shape[2]))
    tiles = tiling.blend_tiles(predict, *frames.shape[1:3], tile, 32)
    enlarged = imresize(frames.astype(np.float32) / 255, SCALE)
    assert np.abs(whole[::2] - enlarged).mean() > 0.5 / 255  # the network does something
    return whole, np.concatenate(list(tiles), axis=1)


def gradient_frames():
    ramp = np.linspace(60, 190, 200)
    frame = np.rint(ramp + np.linspace(0, 30, 96)[:, None])
    return np.repeat(np.repeat(frame[None, ..., None], 3, axis=3), 2, axis=0).astype(np.uint8)


@pytest.mark.parametrize(
    ("frames", "skip"),
    [
        (gradient_frames(), {"global_skip": "bicubic"}),
        (
            make_frames(2, 96, 200),
            {"global_skip": "enhanced", "skip_refinement": True, "enlargement": "direct"},
        ),
    ],
    ids=["gradient", "moving edge"],
)
def test_a_network_in_tiles_shows_no_seam(frames, skip):
    whole, tiled = enhance_both(frames, 80, skip)
    difference = tiled - whole
    assert 10 * np.log10(1 / np.mean(difference**2)) > 45
    assert np.abs(difference).mean() < 0.5 / 255
    # No pixel boundary anywhere, cuts of tiles included, shows the step of even one level.
    for axis in (1, 2):
        assert np.abs(np.diff(difference, axis=axis)).max() < 1 / 255


@pytest.mark.parametrize("channels", [32, 64])
def test_chosen_tiles_fit_and_grow_with_the_memory(channels):
    memory = [gib * 2**30 for gib in (0, 1, 2, 4, 8, 16, 64)]
    tiles = [
        tiling.choose_tile(5000, 12000, {"channels": channels}, 3, 32, free) for free in memory
    ]
    assert tiles == sorted(tiles)
    assert tiles[0] == tiling.PATCH
    assert tiles[-1] == tiling.LARGEST_TILE
    for tile, free in zip(tiles[1:], memory[1:], strict=True):
        assert tile % tiling.PATCH == 0
        needed = tiling.network_bytes(tile, {"channels": channels})
        needed += tiling.blending_bytes(5000, 12000, tile, 32)
        assert needed <= tiling.USABLE * free or tile == tiling.PATCH


def test_longer_windows_take_smaller_tiles():
    options, memory = {"channels": 64}, 8 * 2**30
    chosen = [
        tiling.choose_tile(5000, 12000, options, 3, 32, memory, frames=count) for count in (2, 4, 8)
    ]
    assert chosen == sorted(chosen, reverse=True)
    assert chosen[0] > chosen[1] > chosen[2]
    assert tiling.network_bytes(80, options, 12) == 3 * tiling.network_bytes(80, options)


def test_the_plan_for_a_whole_scene():
    """12000x5000 pixels and 16 GB: 9.6 GB are planned with.

    Tiles of 240 lie in 24 rows; 7 frames of 960 rows of 48000 pixels are 3.87 GB in float32. The
    last row but one carries 56 LR rows on, another 0.9 GB.
    """

    def choose(host, gpu=None):
        return tiling.choose_tile(5000, 12000, {"channels": 32}, 3, 32, host, gpu)

    strip = 7 * 960 * 48000 * 3 * 4
    needed = tiling.blending_bytes(5000, 12000, 240, 32)
    assert strip < needed < 1.35 * strip
    assert tiling.network_bytes(240, {"channels": 32}) < 10**9
    assert choose(16 * 10**9) == 240
    # The next tile: its row alone is 5.2 GB, and the last row but one carries most of it on.
    assert tiling.blending_bytes(5000, 12000, 320, 32) > 9.4e9
    # A GPU takes the network off the host, but not the rows: each memory has its own limit.
    assert choose(16 * 10**9, 80 * 10**9) == 320
    assert choose(16 * 10**9, 10**9) == 160
    assert choose(4 * 10**9, 80 * 10**9) == tiling.PATCH


def test_blending_takes_the_memory_that_is_planned(tmp_path):
    class Grey:
        options: ClassVar = {"channels": 8}

        def extract(self, frames):
            return None

        def __call__(self, frames, *flows_and_features):
            _, count, _, height, width = frames.shape
            return torch.full((1, 2 * count - 1, 3, SCALE * height, SCALE * width), 0.5)

    source = open_source(write_frames(tmp_path / "in", make_frames(4, 120, 600)))
    (tmp_path / "out.partial").mkdir()
    levels, job = full_scale(np.dtype(np.uint8)), Job(tmp_path / "out", {}, False, False)
    settings = torch.device("cpu"), torch.float32, "dis", 4, 80, 32, levels, job
    enhancer = Enhancer(Grey(), *settings, say=lambda *_, **__: None)
    tracemalloc.start()
    enhancer.run(source, ImageSink(tmp_path / "frames", ".png"), levels, source.dtype, "")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    given = 4 * 600 * 120 * 3 * (1 + 1) + 6 * 600 * 120 * 2 * 4  # frames, views, flows
    converted = 4 * ROWS * SCALE * 600 * 3 * 4
    assert peak < tiling.blending_bytes(120, 600, 80, 32) + given + converted


def test_a_small_frame_is_not_cut():
    tile = tiling.choose_tile(512, 600, {"channels": 64}, 3, 32, 2**36)
    assert tiling.tile_count(512, 600, tile, 32) == 1


def test_smaller_tiles_come_to_an_end():
    tile, tried = 640, []
    while tile:
        tried.append(tile)
        tile = tiling.smaller_tile(tile, 5000, 12000, 32)
    assert tried == sorted(set(tried), reverse=True)
    assert tried[-1] == tiling.PATCH
    # A tile larger than the frame shrinks from the frame's size on.
    assert tiling.smaller_tile(100_000, 150, 150, 32) < 150


def test_the_end_of_memory_is_recognised():
    assert tiling.available_memory(torch.device("cpu")) >= 0
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert not is_out_of_memory(RuntimeError("shapes do not fit"))
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60)
    assert is_out_of_memory(caught.value)


@pytest.mark.parametrize(("overlap", "least"), [(32, 80), (40, 80), (41, 160), (100, 240)])
def test_the_least_tile_has_room_for_the_overlap(overlap, least):
    tile = tiling.choose_tile(5000, 12000, {"channels": 64}, 3, overlap, 0)
    assert tile == least
    tiling.check_tile(tile, overlap)
    enhance.Config("in", "out", overlap=overlap)


@pytest.mark.parametrize(("tile", "overlap"), [(80, 16), (80, 41), (0, 0)])
def test_tiles_that_cannot_blend_are_refused(tile, overlap):
    with pytest.raises(ValueError, match="overlap"):
        tiling.check_tile(tile, overlap)
