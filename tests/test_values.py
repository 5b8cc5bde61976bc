"""enhance.py and the values of files: alpha, orientation, levels told, values far away."""

import cv2
import numpy as np
import pytest
from enhancing import HEIGHT, WIDTH, Frames, make_frames, read_all, run, write_frames
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from data.stills import read_still
from enhancement.levels import survey
from media.folder import read_image_file
from media.frames import FrameError
from media.images import read_image
from media.open import open_source


def test_an_alpha_channel_stays(tmp_path, checkpoint):
    alpha = np.full((2, HEIGHT, WIDTH, 1), 200, np.uint8)
    rgba = np.concatenate([make_frames(2), alpha], axis=3)
    result = read_all(run(checkpoint, write_frames(tmp_path / "in", rgba), tmp_path / "out"))
    assert (result[..., 3] == 200).all()
    colours = read_all(
        run(checkpoint, write_frames(tmp_path / "rgb", rgba[..., :3]), tmp_path / "out2")
    )
    np.testing.assert_array_equal(result[..., :3], colours)


def test_clear_pixels_stay_clear_and_do_not_bleed(tmp_path, checkpoint):
    alpha = np.full((2, HEIGHT, WIDTH, 1), 255, np.uint8)
    alpha[:, :6] = 0
    results = []
    for colour in (0, 255):
        frames = np.where(alpha == 0, np.uint8(colour), make_frames(2))
        given = write_frames(tmp_path / f"in{colour}", np.concatenate([frames, alpha], axis=3))
        path = run(checkpoint, given, tmp_path / f"out{colour}") / "00000001.png"
        results.append(cv2.imread(str(path), cv2.IMREAD_UNCHANGED))
    np.testing.assert_array_equal(*results)
    assert (results[0][:24, :, 3] == 0).all()
    assert (results[0][24:, :, 3] == 255).all()
    assert results[0][24:28, :, :3].mean() > 90  # as the ground, neither black nor white


def test_png_comes_upright_as_jpeg_does(tmp_path):
    picture = Image.fromarray(cv2.resize(make_frames(1)[0], (64, 48)))
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[274] = orientation
        for suffix in ("png", "jpg"):
            picture.save(tmp_path / f"{orientation}.{suffix}", exif=exif, quality=100)
        png = read_image_file(tmp_path / f"{orientation}.png").astype(int)
        jpeg = read_image_file(tmp_path / f"{orientation}.jpg")
        assert png.shape == jpeg.shape == ((48, 64, 3) if orientation < 5 else (64, 48, 3))
        assert np.abs(png - jpeg).mean() < 3
    assert np.abs(png - png[::-1]).mean() > 3


@pytest.mark.parametrize("name", ["XML:com.adobe.xmp", "Raw profile type exif"])
def test_png_comes_upright_as_other_programs_say_it(tmp_path, name):
    exif = Image.Exif()
    exif[274] = 6
    content = exif.tobytes()
    text = '<x:xmpmeta xmlns:x="adobe:ns:meta/"><a tiff:Orientation="6"/></x:xmpmeta>'
    if name.startswith("Raw"):
        text = f"\nexif\n{len(content)}\n{content.hex()}\n"
    notes = PngInfo()
    notes.add_itxt(name, text) if name.startswith("XML") else notes.add_text(name, text, zip=True)
    pixels = make_frames(1)[0]
    Image.fromarray(pixels).save(tmp_path / "a.png", pnginfo=notes)
    np.testing.assert_array_equal(read_image_file(tmp_path / "a.png"), np.rot90(pixels, -1))


@pytest.mark.parametrize(("mode", "level"), [("L", 77), ("I;16", 3000), ("1", 255)])
def test_a_clear_level_of_a_grey_png_is_clear(tmp_path, mode, level):
    kind = np.uint16 if mode == "I;16" else np.uint8
    pixels = np.full((20, 30), level, kind)
    pixels[:5] = 0
    picture = Image.fromarray(pixels)
    (picture if kind == np.uint16 else picture.convert(mode)).save(
        tmp_path / "a.png", transparency=level
    )
    read = read_image_file(tmp_path / "a.png")
    assert read.shape == (20, 30, 4)
    np.testing.assert_array_equal(np.ma.getmaskarray(read)[..., 0], pixels == level)
    assert (np.ma.getdata(read)[:5] == [0, 0, 0, np.iinfo(kind).max]).all()


def test_an_animated_png_is_a_video_not_a_frame(tmp_path):
    frames = [Image.fromarray(frame) for frame in make_frames(3)]
    frames[0].save(tmp_path / "a.png", save_all=True, append_images=frames[1:])
    with pytest.raises(FrameError, match=r"a.png is an animation; give it alone"):
        read_image_file(tmp_path / "a.png")
    for reader in (read_image, read_still):
        with pytest.raises(ValueError, match=r"a.png: an animated PNG"):
            reader(tmp_path / "a.png")
    pytest.importorskip("av")
    with pytest.raises(ValueError, match=r"a\.png is an animated PNG; rename it to a\.apng"):
        open_source(tmp_path / "a.png")
    source = open_source((tmp_path / "a.png").rename(tmp_path / "a.apng"))
    assert source.count == 3
    np.testing.assert_array_equal(source.read(2), make_frames(3)[2])


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_a_hot_pixel_changes_its_surroundings_only(tmp_path, checkpoint, dtype):
    frames = make_frames(2, 64, 64)[..., :1].astype(dtype)
    expected = read_all(
        run(checkpoint, write_frames(tmp_path / "a", frames, ".tif"), tmp_path / "x")
    )
    frames[:, 50, 50] = 60_000
    result = read_all(run(checkpoint, write_frames(tmp_path / "b", frames, ".tif"), tmp_path / "y"))
    difference = np.abs(result.astype(float) - expected)
    difference[:, 4 * 44 : 4 * 58, 4 * 44 : 4 * 58] = 0
    assert difference.max() < 12
    assert result[:, 4 * 50 + 1 : 4 * 51 - 1, 4 * 50 + 1 : 4 * 51 - 1].min() > 30_000


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32, np.float64])
def test_lone_pixels_do_not_decide_black_and_white(monkeypatch, dtype):
    monkeypatch.setattr("enhancement.levels.ROWS", 6)
    frames = np.ma.array(5000 + 10 * make_frames(2)[..., :1].astype(dtype))
    low, high = frames.min(), frames.max()

    def ends():
        levels, _ = survey(Frames(frames))
        return levels.black[0], levels.white[0]

    assert ends() == (low, high)
    frames[0, 0, 0], frames[1, 20, 20] = 65_535, 0
    frames[1, 0:9, 0:9] = np.ma.masked  # one pixel with data, none of its neighbours with any
    frames[1, 4, 4] = 60_000
    assert ends() == pytest.approx((low - (high - low), high + (high - low)), abs=500)
    frames[:, 17:19, 3] = 9000  # of a bright thing
    assert ends()[1] >= 9000


def test_levels_are_told_in_a_line_unless_the_type_says_them(tmp_path, checkpoint, capsys):
    frames = 40_000 + make_frames(2).astype(np.uint16)
    run(checkpoint, write_frames(tmp_path / "in", frames, ".tif"), tmp_path / "out")
    lines = [line for line in capsys.readouterr().err.splitlines() if "levels" in line]
    black, white = frames.min(), frames.max()
    assert lines == [f"levels: black {black} and white {white}; --black and --white set others"]
    run(checkpoint, write_frames(tmp_path / "8", make_frames(2)), tmp_path / "out8")
    assert "levels" not in capsys.readouterr().err
