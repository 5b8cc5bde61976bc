"""Weights by the kind of footage: what is taken for compressed, and which weights that gets."""

import math
import re

import cv2
import numpy as np
import pytest
import torch
from enhancing import make_frames, save_small_network, write_frames
from rasters import write_plain

import models.weights
from enhancement.footage import noise_level, pick_weights
from media.folder import write_image_file
from media.open import open_source

CPU = torch.device("cpu")


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """A box of weights for the CPU: clean ones, and those for real footage."""
    names = ("fast", "fast_real", "large_real", "small")
    box = {name: tmp_path / f"mstt_{name}.safetensors" for name in names}
    for name in ("fast", "fast_real"):
        save_small_network(box[name])
    monkeypatch.setattr(models.weights, "SHIPPED", box)
    return box


@pytest.mark.parametrize(
    ("codec", "pixels", "suffix", "lossy"),
    [
        ("libx264", "yuv420p", ".mp4", True),
        ("mjpeg", "yuvj420p", ".avi", True),
        ("ffv1", "yuv420p", ".mkv", False),
        ("libx264rgb", "rgb24", ".mp4", False),  # what --lossless writes
        ("png", "rgb24", ".mov", False),
    ],
)
def test_video_is_lossy_as_its_codec_is(tmp_path, codec, pixels, suffix, lossy):
    pytest.importorskip("av")
    from videos import write_video

    path = write_video(tmp_path / f"v{suffix}", make_frames(3, 48, 64), None, codec, pixels)
    assert open_source(path).lossy == lossy


@pytest.mark.parametrize(("suffix", "lossy"), [(".png", False), (".jpg", True), (".tif", False)])
def test_folders_are_lossy_where_a_file_is_jpeg(tmp_path, suffix, lossy):
    assert open_source(write_frames(tmp_path / "in", make_frames(2), suffix)).lossy == lossy


def test_endings_may_be_wrong_and_of_several_kinds(tmp_path):
    given = write_frames(tmp_path / "in", make_frames(2), ".jpg")
    whole = open_source(given).read(0)
    for index in range(2):
        (given / f"{index}.jpg").rename(given / f"{index}.png")
    source = open_source(given)
    assert source.lossy
    np.testing.assert_array_equal(source.read(0), whole)
    write_image_file(given / "2.jpg", whole)
    mixed = open_source(given)
    assert mixed.suffix == ".png"  # some of them may have lost nothing yet
    assert mixed.lossy


def test_pngs_that_are_called_jpeg_stay_lossless(tmp_path):
    given = write_frames(tmp_path / "in", make_frames(2).astype(np.uint16) * 257, ".png")
    for index in range(2):
        (given / f"{index}.png").rename(given / f"{index}.jpg")
    source = open_source(given)
    assert source.suffix == ".png"
    assert not source.lossy


def test_lossy_footage_gets_the_real_weights_and_is_told(tmp_path, shipped, capsys):
    lossy = open_source(write_frames(tmp_path / "jpeg", make_frames(2), ".jpg"))
    clean = open_source(write_frames(tmp_path / "png", make_frames(2)))
    assert pick_weights("auto", lossy, CPU) == shipped["fast_real"]
    assert "lossy compression, using mstt_fast_real" in capsys.readouterr().out
    assert pick_weights("auto", clean, CPU) == shipped["fast"]
    told = capsys.readouterr().out
    assert "lossless, noise of 0.0 levels, using mstt_fast" in told
    assert pick_weights("real", clean, CPU) == shipped["fast_real"]
    assert pick_weights("fast", lossy, CPU) == shipped["fast"]
    save_small_network(shipped["large_real"])
    assert pick_weights("real", lossy, CPU) == shipped["fast_real"]
    assert pick_weights("real", lossy, torch.device("cuda")) == shipped["large_real"]
    shipped["large_real"].unlink()
    assert pick_weights("mstt_fast", lossy, CPU) == shipped["fast"]
    own = shipped["fast"].with_name("best.pt")
    own.touch()
    assert pick_weights(str(own), lossy, CPU) == own
    with pytest.raises(FileNotFoundError, match="name of shipped weights: fast, fast_real"):
        pick_weights("fastt", lossy, CPU)
    shipped["fast_real"].unlink()
    assert pick_weights("auto", lossy, CPU) == shipped["fast"]
    with pytest.raises(FileNotFoundError, match="no weights for real footage"):
        pick_weights("real", lossy, CPU)
    shipped["fast"].unlink()
    with pytest.raises(FileNotFoundError, match="give a checkpoint with --model FILE"):
        pick_weights("auto", clean, CPU)


def textured(count, step, height=72, width=80):
    """Frames of a rough ground, the camera `step` pixels further right in each."""
    rough = np.random.default_rng(3).normal(0, 1, (height, 4 * width))
    ground = 120 + 30 * np.clip(cv2.GaussianBlur(rough, (0, 0), 1.5) * 5, -2, 2)
    frames = []
    for index in range(count):
        matrix = np.float64([[1, 0, index * step], [0, 1, 0]])
        flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
        frames.append(cv2.warpAffine(ground, matrix, (width, height), flags=flags)[..., None])
    frames = np.repeat(frames, 3, axis=3)
    frames[:, 20:26, 30:36] += np.arange(count)[:, None, None, None] * 20  # a vehicle
    return frames


def noisy(frames, sigma):
    frames = frames + np.random.default_rng(4).normal(0, sigma, frames.shape)
    return np.clip(np.rint(frames), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("step", [0.0, 0.1, 1.7, 6.3])
@pytest.mark.parametrize("sigma", [1, 3, 20])
def test_noise_is_measured_whatever_the_ground_and_the_camera(count, step, sigma):
    frames, missing = textured(count, step), np.zeros((72, 80), bool)
    assert noise_level(noisy(frames, 0), missing) < 1
    expected = pytest.approx(math.hypot(sigma, 0.3), rel=0.12)
    given = noisy(frames, sigma)
    assert noise_level(given, missing) == expected
    missing[:, :50] = True
    given[:, :, :50] = 90
    assert noise_level(given, missing) == expected
    assert noise_level(given, np.ones((72, 80), bool)) is None


def test_noisy_frames_get_the_real_weights(tmp_path, shipped, capsys):
    def picked(name, frames, suffix=".png", white=None):
        folder = write_frames(tmp_path / name, frames, suffix)
        path = pick_weights("auto", open_source(folder), CPU, white=white)
        return path.stem, capsys.readouterr().out

    frames = textured(7, 0.1)
    chosen, told = picked("noisy", noisy(frames, 3))
    assert chosen == "mstt_fast_real"
    assert re.search(r"lossless, noise of (2\.9|3\.[01]) levels", told)
    assert picked("clean", noisy(frames, 0))[0] == "mstt_fast"
    # As the network sees them: 12 bits in 16, whose white is that of the data.
    twelve = (noisy(frames, 3).astype(np.uint16) * 3 + 1000).astype(np.uint16)
    assert picked("uint16", twelve, ".tif")[0] == "mstt_fast_real"
    assert picked("dark", twelve, ".tif", white=65535)[0] == "mstt_fast"
    bands = np.concatenate([noisy(frames, 3), noisy(frames[..., :2], 3)], axis=-1)
    assert picked("bands", bands, ".tif")[0] == "mstt_fast_real"
    # What is too small is refused later, and what has one value has no noise.
    assert "lossless, using mstt_fast" in picked("thin", noisy(frames, 3)[:, :, :1])[1]
    assert "noise of 0.0 levels" in picked("flat", np.full((3, 16, 16, 3), 7, np.uint16))[1]
    # A cut does not pass for noise, and a damaged frame does not hide it.
    cut = noisy(frames, 0)
    cut[5:] = noisy(textured(2, 0.0), 60)[:, ::-1]
    assert picked("cut", cut)[0] == "mstt_fast"
    folder = write_frames(tmp_path / "damaged", noisy(frames, 3))
    (folder / "1.png").write_bytes((folder / "1.png").read_bytes()[:200])
    assert pick_weights("auto", open_source(folder), CPU) == shipped["fast_real"]
    # The middle of large frames is what counts.
    large = np.zeros((2, 40, 700, 3), np.uint8)
    large[:, :, 310:390] = noisy(textured(2, 0.0, height=40), 5)
    assert picked("large", large)[0] == "mstt_fast"
    large[:, :, 150:550] = noisy(textured(2, 0.0, height=40, width=400), 5)
    assert picked("wide", large)[0] == "mstt_fast_real"


@pytest.mark.parametrize(
    ("options", "lossy"),
    [
        ({"compress": "jpeg"}, True),
        ({"compress": "webp"}, True),
        ({"compress": "webp", "webp_lossless": True}, False),
        ({"compress": "deflate"}, False),
    ],
)
@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_a_tiff_is_lossy_as_its_compression_is(tmp_path, options, lossy):
    for index, frame in enumerate(make_frames(2, 32, 48)):
        write_plain(tmp_path / f"{index}.tif", frame.transpose(2, 0, 1), **options)
    assert open_source(tmp_path).lossy == lossy
