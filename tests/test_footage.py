"""Weights by the kind of footage: what is taken for compressed, and which weights that gets."""

import numpy as np
import pytest
import torch
from enhancing import make_frames, save_small_network, write_frames
from rasters import write_plain

import enhance
import models.weights
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
    assert enhance.pick_weights("auto", lossy, CPU) == shipped["fast_real"]
    assert "lossy compression, using mstt_fast_real" in capsys.readouterr().out
    assert enhance.pick_weights("auto", clean, CPU) == shipped["fast"]
    told = capsys.readouterr().out
    assert "no lossy compression, using mstt_fast (--model real for noisy frames)" in told
    assert enhance.pick_weights("real", clean, CPU) == shipped["fast_real"]
    assert enhance.pick_weights("fast", lossy, CPU) == shipped["fast"]
    save_small_network(shipped["large_real"])
    assert enhance.pick_weights("real", lossy, CPU) == shipped["fast_real"]
    assert enhance.pick_weights("real", lossy, torch.device("cuda")) == shipped["large_real"]
    shipped["large_real"].unlink()
    assert enhance.pick_weights("mstt_fast", lossy, CPU) == shipped["fast"]
    own = shipped["fast"].with_name("best.pt")
    own.touch()
    assert enhance.pick_weights(str(own), lossy, CPU) == own
    with pytest.raises(FileNotFoundError, match="name of shipped weights: fast, fast_real"):
        enhance.pick_weights("fastt", lossy, CPU)
    shipped["fast_real"].unlink()
    assert enhance.pick_weights("auto", lossy, CPU) == shipped["fast"]
    with pytest.raises(FileNotFoundError, match="no weights for real footage"):
        enhance.pick_weights("real", lossy, CPU)
    shipped["fast"].unlink()
    with pytest.raises(FileNotFoundError, match="give a checkpoint with --model FILE"):
        enhance.pick_weights("auto", clean, CPU)


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
