"""What open_source makes of a name: a VRT, part of the frames, files with something behind them."""

import numpy as np
import pytest

rasterio = pytest.importorskip("rasterio")

from rasterio.shutil import copy as copy_raster  # noqa: E402
from rasters import write_geotiff  # noqa: E402

from media.folder import write_image_file  # noqa: E402
from media.open import open_source  # noqa: E402
from media.tiff import write_tiff  # noqa: E402


def numbered_frames(count, bands=3):
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (count, 20, 24, bands), dtype=np.uint8)


def test_a_vrt_is_read_by_gdal(tmp_path):
    bands = numbered_frames(1, 4)[0].transpose(2, 0, 1)
    stored = write_geotiff(tmp_path / "a.tif", bands)
    copy_raster(stored, tmp_path / "a.vrt", driver="VRT")
    source = open_source(tmp_path / "a.vrt", bands_per_frame=1)
    assert source.count == 4
    np.testing.assert_array_equal(source.read(2)[..., 0], bands[2])
    stored.unlink()
    with pytest.raises(ValueError, match=r"a\.vrt"):
        open_source(tmp_path / "a.vrt", bands_per_frame=1)


def write_folder(path, frames, suffix):
    path.mkdir()
    for number, frame in enumerate(frames):
        write_image_file(path / f"{number}{suffix}", frame)
    return path


def write_bands(path, frames):
    return write_geotiff(path, frames[..., 0])


@pytest.mark.parametrize("kind", ["png", "bmp", "tif", "stack", "geotiff"])
def test_a_part_of_the_frames(tmp_path, kind):
    frames = numbered_frames(7)
    if kind == "stack":
        write_tiff(tmp_path / "in.tif", frames)
        source = open_source(tmp_path / "in.tif")
    elif kind == "geotiff":
        source = open_source(write_bands(tmp_path / "in.tif", frames), bands_per_frame=1)
    else:
        source = open_source(write_folder(tmp_path / "in", frames, f".{kind}"))
    names = [source.name(index) for index in range(7)]
    source.select(2, 3)
    assert source.count == 3
    assert [source.name(index) for index in range(3)] == names[2:5]
    for index in range(3):
        pixels = source.read(index)
        np.testing.assert_array_equal(pixels, frames[2 + index][..., : pixels.shape[2]])
    source.select(1, 0)
    assert [source.name(index) for index in range(source.count)] == names[3:5]
    with pytest.raises(ValueError, match="has 2 frames, none from 2 on"):
        source.select(2, 1)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_bytes_behind_a_frame_do_not_matter(tmp_path, suffix):
    folder = write_folder(tmp_path / "in", numbered_frames(2), suffix)
    expected = open_source(folder).read(1)
    path = folder / f"1{suffix}"
    content = path.read_bytes()
    path.write_bytes(content + bytes(4000))
    np.testing.assert_array_equal(open_source(folder).read(1), expected)
    path.write_bytes(content[: len(content) // 2] + bytes(4000))
    with pytest.raises(ValueError, match=r"1.* cannot be decoded"):
        open_source(folder).read(1)
