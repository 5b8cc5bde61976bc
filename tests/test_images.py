"""Reading of frames: what is plain 8-bit RGB comes back as written, all else is named."""

import os
import struct
import zlib

import cv2
import numpy as np
import pytest

from media.ends import has_end
from media.images import MAX_PIXELS, image_size, read_image, write_image


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


def png(width, height, depth=8, colour=2, data=b""):
    """A PNG by its fields, with right checksums."""

    def chunk(kind, body):
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    ends = chunk(b"IDAT", zlib.compress(data)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(ends)


def test_round_trip(tmp_path, image):
    write_image(tmp_path / "a.png", image)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), image)
    assert image_size(tmp_path / "a.png") == (20, 30)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_red_comes_first(tmp_path):
    (tmp_path / "red.png").write_bytes(png(1, 1, data=b"\0\xff\0\0"))
    np.testing.assert_array_equal(read_image(tmp_path / "red.png"), [[[255, 0, 0]]])


def test_jpeg_is_read_and_written(tmp_path, image):
    smooth = cv2.GaussianBlur(image, (0, 0), 3)
    write_image(tmp_path / "a.jpg", smooth)
    assert image_size(tmp_path / "a.jpg") == (20, 30)
    assert np.abs(read_image(tmp_path / "a.jpg").astype(int) - smooth).mean() < 5


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((4, 4), np.uint8), "8-bit grey"),
        (np.zeros((4, 4), np.uint16), "16-bit grey"),
        (np.zeros((4, 4, 3), np.uint16), "16-bit RGB"),
        (np.zeros((4, 4, 4), np.uint8), "8-bit RGB with alpha"),
    ],
)
def test_other_pixels_are_refused_with_a_remedy(tmp_path, array, message):
    cv2.imwrite(str(tmp_path / "a.png"), array)
    for read in (read_image, image_size):
        with pytest.raises(ValueError, match=f"a.png: {message} PNG; convert it to 8-bit RGB"):
            read(tmp_path / "a.png")


def test_grey_jpeg_is_refused(tmp_path):
    cv2.imwrite(str(tmp_path / "a.jpg"), np.zeros((16, 16), np.uint8))
    with pytest.raises(ValueError, match=r"a.jpg: 8-bit JPEG of 1 channel"):
        image_size(tmp_path / "a.jpg")


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
@pytest.mark.parametrize("kept", [0, 10, 40, 0.5, 0.95])
def test_truncated(tmp_path, image, suffix, kept):
    path = tmp_path / f"a{suffix}"
    write_image(path, image)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content)) if isinstance(kept, float) else kept])
    for read in (read_image, image_size):
        with pytest.raises(ValueError, match=f"a{suffix}: .*; (restore|give)"):
            read(path)


def test_bomb_is_refused_before_it_is_decoded(tmp_path):
    side = int(MAX_PIXELS**0.5) + 1
    (tmp_path / "a.png").write_bytes(png(side, side))
    with pytest.raises(ValueError, match=f"a.png: {side}x{side} pixels, over the limit"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty file"),
        (b"hello", "neither PNG, JPEG, BMP nor TIFF"),
        (png(0, 5), "0x5 pixels"),
        (png(8, 8, data=b"\0" * 30), "cannot be decoded"),
        (b"\xff\xd8\xff\xe0\0\0", "no length"),
    ],
)
def test_damaged_content(tmp_path, content, message):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(ValueError, match=f"a.png: .*{message}"):
        read_image(tmp_path / "a.png")


def test_not_a_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"b\.png"):
        read_image(tmp_path / "b.png")
    with pytest.raises(ValueError, match="not a regular file"):
        read_image(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "im1.png")
    with pytest.raises(ValueError, match="not a regular file"):
        image_size(tmp_path / "im1.png")


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("a.png", np.zeros((4, 4), np.uint8)),
        ("a.png", np.zeros((4, 4, 3), np.float32)),
        ("a.tif", np.zeros((4, 4, 3), np.uint8)),
    ],
)
def test_write_refuses_other_arrays_and_suffixes(tmp_path, name, array):
    with pytest.raises(ValueError, match=name):
        write_image(tmp_path / name, array)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_bytes_behind_the_picture(tmp_path, suffix):
    """A phone's motion photo has its film there; half a picture has no end anywhere."""
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    write_image(tmp_path / f"a{suffix}", image)
    content = (tmp_path / f"a{suffix}").read_bytes()
    (tmp_path / f"b{suffix}").write_bytes(content + bytes(5000))
    np.testing.assert_array_equal(
        read_image(tmp_path / f"b{suffix}"), read_image(tmp_path / f"a{suffix}")
    )
    (tmp_path / f"c{suffix}").write_bytes(content[: len(content) // 2] + bytes(5000))
    with pytest.raises(ValueError, match="truncated"):
        read_image(tmp_path / f"c{suffix}")


def test_the_end_of_a_preview_is_not_that_of_the_picture():
    small, large = (cv2.imencode(".jpg", np.zeros((n, n, 3), np.uint8))[1] for n in (8, 64))
    small, large = small.tobytes(), large.tobytes()
    segment = b"\xff\xe1" + (len(small) + 2).to_bytes(2, "big") + small
    content = large[:2] + segment + large[2:]
    assert has_end(content)
    assert not has_end(content[:-2])
    assert not has_end(content[: 2 + len(segment)])
