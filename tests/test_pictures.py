"""Single pictures: what their headers claim, palettes, kinds that are not supported."""

import struct
import zlib

import numpy as np
import pytest
import rasterio
from PIL import Image

from media import frames as media_frames
from media.folder import read_image_file, write_image_file
from media.frames import FrameError

HEIGHT, WIDTH = 40, 50


def noise(*shape):
    return np.random.default_rng(3).integers(1, 250, shape, np.uint8)


def test_palettes_of_bmp_files_of_all_ages_give_their_colours(tmp_path):
    colours = np.random.default_rng(5).integers(0, 256, (256, 3), np.uint8)
    index = np.random.default_rng(6).integers(0, 256, (8, 12), np.uint8)
    rows, table = index[::-1].tobytes(), colours[:, ::-1]
    padded = np.pad(table, ((0, 0), (0, 1))).tobytes()
    new = struct.pack("<IiiHHIIiiII", 40, 12, 8, 1, 8, 0, len(rows), 0, 0, 256, 0) + padded
    old = struct.pack("<IHHHH", 12, 12, 8, 1, 8) + table.tobytes()
    for header in (new, new + b"in between", old):
        start = 14 + len(header)
        content = struct.pack("<2sIHHI", b"BM", start + len(rows), 0, 0, start) + header + rows
        (tmp_path / "a.bmp").write_bytes(content)
        np.testing.assert_array_equal(read_image_file(tmp_path / "a.bmp"), colours[index])
    grey = content.replace(table.tobytes(), table[:, :1].repeat(3, axis=1).tobytes())
    (tmp_path / "a.bmp").write_bytes(grey)
    np.testing.assert_array_equal(read_image_file(tmp_path / "a.bmp"), table[index, :1])
    (tmp_path / "a.bmp").write_bytes(content[:-13])
    with pytest.raises(FrameError, match=r"a.bmp cannot be decoded"):
        read_image_file(tmp_path / "a.bmp")


def test_a_jpeg_of_12_bits_is_named_as_such(tmp_path):
    path = tmp_path / "a.jpg"
    write_image_file(path, noise(HEIGHT, WIDTH, 3))
    content = bytearray(path.read_bytes())
    content[content.index(b"\xff\xc0") + 4] = 12
    path.write_bytes(content)
    with pytest.raises(FrameError, match=r"a.jpg is a JPEG of 12 bits, which is not supported"):
        read_image_file(path)


def test_a_header_that_claims_terabytes_is_refused_at_once(tmp_path):
    path = tmp_path / "a.tif"
    size = {"width": 300_000, "height": 300_000, "blockxsize": 8192, "blockysize": 8192}
    options = size | {"count": 1, "dtype": "uint8", "tiled": True, "sparse_ok": True}
    rasterio.open(path, "w", driver="GTiff", **options).close()
    with pytest.raises(FrameError, match=r"a.tif cannot be read: it claims"):
        read_image_file(path)
    picture = tmp_path / "a.png"
    write_image_file(picture, noise(HEIGHT, WIDTH, 3))
    content = bytearray(picture.read_bytes())
    content[16:24] = struct.pack(">II", 20_000, 20_000)
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    picture.write_bytes(content)
    with pytest.raises(FrameError, match=r"a.png cannot be read: it claims 20000x20000"):
        read_image_file(picture)


@pytest.mark.parametrize("compression", ["none", "deflate", "lzw", "zstd", "lerc", "webp"])
def test_blank_frames_are_small_files_all_the_same(tmp_path, monkeypatch, compression):
    monkeypatch.setattr(media_frames, "SMALL", 0)
    path = tmp_path / "a.tif"
    size = {"width": 800, "height": 600, "count": 3, "dtype": "uint8", "tiled": True}
    options = size | {"compress": compression, "webp_lossless": True}
    with rasterio.open(path, "w", driver="GTiff", **options) as dataset:
        dataset.write(np.zeros((3, 600, 800), np.uint8))
    assert not read_image_file(path).any()
    for mode in ("1", "L", "P", "RGB", "RGBA"):
        # Pillow before 13 cannot read its own BMP of an empty palette.
        for suffix in (".png",) if mode == "P" else (".png", ".bmp"):
            Image.new(mode, (800, 600)).save(tmp_path / f"a{suffix}")
            assert read_image_file(tmp_path / f"a{suffix}").shape[:2] == (600, 800)
    write_image_file(tmp_path / "a.jpg", np.zeros((600, 800, 3), np.uint8))
    assert read_image_file(tmp_path / "a.jpg").max() < 3


def test_the_content_says_what_a_picture_is(tmp_path):
    path = tmp_path / "a.png"
    write_image_file(path, noise(HEIGHT, WIDTH, 1))
    pixels = read_image_file(path)
    np.testing.assert_array_equal(read_image_file(path.rename(tmp_path / "a.jpg")), pixels)
