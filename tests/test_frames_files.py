"""Sources and sinks of enhance.py without a network: full disks, damage, layouts of TIFF."""

import random
import resource
from contextlib import contextmanager

import numpy as np
import pytest
import rasterio
import tifffile
from rasters import PLACE, write_geotiff, write_plain

from media import raster, tiff
from media.folder import TiffStackSink, read_image_file, write_image_file
from media.frames import FrameError, bgr_to_rgb
from media.open import open_source
from media.raster_sink import TiffSink
from media.tiff import write_tiff

HEIGHT, WIDTH = 40, 50


@contextmanager
def full_disk(size):
    """No file can grow beyond `size` bytes: what write says is what it says on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def noise(*shape, dtype=np.uint16):
    """Values that do not compress."""
    return np.random.default_rng(3).integers(1, 250, shape).astype(dtype)


def geotiff_source(folder, layout, frames, **options):
    """Three or more GeoTIFF frames (N, bands, H, W) as files, pages or bands."""
    if layout == "bands":
        return open_source(
            write_geotiff(folder / "in.tif", np.concatenate(frames), **options), frames.shape[1]
        )
    if layout == "pages":
        for index, bands in enumerate(frames):
            appended = {"APPEND_SUBDATASET": True} if index else {}
            write_geotiff(folder / "in.tif", bands, **options, **appended)
        return open_source(folder / "in.tif")
    (folder / "in").mkdir()
    for index, bands in enumerate(frames):
        write_geotiff(folder / "in" / f"{index}.tif", bands, **options)
    return open_source(folder / "in")


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("missing", [70_000, 300, 20])
def test_a_full_disk_leaves_no_frame_that_looks_finished(tmp_path, missing, masked):
    source = geotiff_source(tmp_path, "files", noise(2, 1, HEIGHT, WIDTH))
    sink = TiffSink(tmp_path / "work", source, 2, single=False)
    pixels = noise(4 * HEIGHT, 4 * WIDTH, 1)
    if masked:
        pixels = np.ma.array(pixels, mask=np.zeros(pixels.shape, bool))
        pixels[:9] = np.ma.masked
    sink.write(0, [pixels])
    size = sink.path(0).stat().st_size
    with (
        full_disk(max(size - missing, 1000)),
        pytest.raises(OSError, match=r"00000001.*cannot be written, is the disk full"),
    ):
        sink.write(1, [pixels])
    assert len(sink.finished()) == 1
    sink.write(1, [pixels])  # what is left of the failed attempt does no harm
    written = open_source(tmp_path / "work")
    np.testing.assert_array_equal(written.read(1), pixels)
    np.testing.assert_array_equal(np.ma.getmask(written.read(1)), np.ma.getmask(pixels))


@pytest.mark.parametrize("missing", [10**6, 300, 20])
@pytest.mark.parametrize("layout", ["pages", "bands"])
def test_a_full_disk_leaves_no_joined_file(tmp_path, layout, missing):
    source = geotiff_source(tmp_path, layout, noise(2, 1, HEIGHT, WIDTH))
    target = tmp_path / "out.tif"

    def sink():
        sink = TiffSink(tmp_path / "work", source, 2, single=True)
        sink.write(0, noise(3, 4 * HEIGHT, 4 * WIDTH, 1))
        return sink

    sink().join(target)
    size = target.stat().st_size
    target.unlink()
    unfinished = sink()
    with (
        full_disk(max(size - missing, 50_000)),
        pytest.raises(OSError, match=r"out.*cannot be written, is the disk full"),
    ):
        unfinished.join(target)
    assert not target.exists()
    unfinished.join(target)
    joined = open_source(target, source.layout == "bands")
    np.testing.assert_array_equal(joined.read(2), noise(3, 4 * HEIGHT, 4 * WIDTH, 1)[2])


@pytest.mark.parametrize("layout", ["pages", "bands"])
def test_large_results_have_wide_offsets(tmp_path, layout, monkeypatch):
    frames = noise(2, 1, HEIGHT, WIDTH)
    source = geotiff_source(tmp_path, layout, frames)
    monkeypatch.setattr(raster, "CLASSIC_SIZE", 2.5 * frames[0].nbytes)  # three are more
    sink = TiffSink(tmp_path / "work", source, 2, single=True)
    sink.write(0, noise(3, HEIGHT, WIDTH, 1))
    magic = {"classic": b"II\x2a\x00", "big": b"II\x2b\x00"}
    assert sink.path(0).read_bytes()[:4] == magic["classic"]
    sink.join(tmp_path / "out.tif")
    assert (tmp_path / "out.tif").read_bytes()[:4] == magic["big"]


def test_a_plain_stack_appears_when_it_is_complete(tmp_path):
    frames = noise(3, HEIGHT, WIDTH, 3)
    sink, target = TiffStackSink(tmp_path / "work"), tmp_path / "out.tif"
    sink.write(0, frames)
    with full_disk(2 * sink.path(0).stat().st_size), pytest.raises(OSError, match="too large"):
        sink.join(target)
    assert not target.exists()
    sink.join(target)
    np.testing.assert_array_equal(open_source(target).read(2), frames[2])


def test_large_plain_stacks_have_wide_offsets(tmp_path, monkeypatch):
    frames = noise(3, HEIGHT, WIDTH, 3)
    monkeypatch.setattr(tiff, "CLASSIC_SIZE", 2.5 * frames[0].nbytes)
    write_tiff(tmp_path / "two.tif", frames[:2], 2)
    write_tiff(tmp_path / "three.tif", frames, 3)
    assert (tmp_path / "two.tif").read_bytes()[2] == 42
    assert (tmp_path / "three.tif").read_bytes()[2] == 43


def masked_source(tmp_path, layout, dtype=np.uint16, **options):
    """Two frames whose top is missing, by an internal mask, or in floating values by NaN."""
    frames = noise(2, 1, HEIGHT, WIDTH, dtype=dtype)
    if np.dtype(dtype).kind == "f":
        frames[0, :, :5], frames[1, :, :8] = np.nan, np.nan
        return geotiff_source(tmp_path, layout, frames, **options)
    source = geotiff_source(tmp_path, layout, frames, **options)
    valid = np.ones((HEIGHT, WIDTH), bool)
    valid[:5] = False
    for file in source.files:
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(file, "r+") as dataset:
            dataset.write_mask(valid)
    return open_source(source.path, layout == "bands")


def write_all(sink, source):
    """Three frames of noise with the holes that enhance.py would give them."""
    holes = [np.ma.getmaskarray(source.read(index)) for index in (0, 1)]
    holes = [hole.repeat(4, axis=0).repeat(4, axis=1) for hole in holes]
    pixels = noise(3, 4 * HEIGHT, 4 * WIDTH, 1, dtype=source.dtype)
    masks = [holes[0], holes[0] | holes[1], holes[1]]
    frames = [np.ma.array(one, mask=mask) for one, mask in zip(pixels, masks, strict=True)]
    sink.write(0, frames)
    return frames


@pytest.mark.parametrize(
    ("layout", "dtype", "single"),
    [
        ("files", np.uint16, False),
        ("bands", np.uint16, True),
        ("files", np.float32, False),
        ("files", np.float32, True),
        ("pages", np.float32, True),
        ("bands", np.float32, True),
    ],
)
def test_what_is_missing_without_nodata_stays_missing(tmp_path, layout, dtype, single):
    source = masked_source(tmp_path, layout, dtype)
    sink = TiffSink(tmp_path / "work", source, 2, single)
    frames = write_all(sink, source)
    target = tmp_path / ("out.tif" if single else "out")
    sink.join(target)
    result = open_source(target, layout == "bands")
    assert result.count == 3
    for index, expected in enumerate(frames):
        pixels = result.read(index)
        np.testing.assert_array_equal(np.ma.getmaskarray(pixels), expected.mask)
        np.testing.assert_array_equal(pixels.compressed(), expected.compressed())


def test_masks_that_pages_cannot_keep_are_refused(tmp_path):
    from rasterio.shutil import copy

    source = masked_source(tmp_path, "files")
    with pytest.raises(ValueError, match="mask, which pages of one file cannot have; name a f"):
        TiffSink(tmp_path / "work", source, 2, single=True)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
        copy(source.files[0], tmp_path / "pages.tif", driver="GTiff")
        copy(source.files[1], tmp_path / "pages.tif", driver="GTiff", APPEND_SUBDATASET="YES")
    with pytest.raises(ValueError, match=r"pages.tif has masks between its pages"):
        open_source(tmp_path / "pages.tif")


def test_frames_between_are_as_far_on_their_way_as_in_time(tmp_path):
    (tmp_path / "in").mkdir()
    for index in range(2):
        place = rasterio.Affine(1, 0, 1000 + 8 * index, 0, -1, 2000)
        write_geotiff(tmp_path / f"in/{index}.tif", noise(1, HEIGHT, WIDTH), transform=place)
    sink = TiffSink(tmp_path / "work", open_source(tmp_path / "in"), 4, single=False)
    sink.write(0, noise(5, 4 * HEIGHT, 4 * WIDTH, 1))
    corners = []
    for path in sink.finished():
        with rasterio.open(path) as dataset:
            corners.append(dataset.transform.c)
    assert corners == [1000, 1002, 1004, 1006, 1008]


def test_every_strip_of_a_frame_has_its_own_part_of_the_mask(tmp_path):
    source = geotiff_source(tmp_path, "files", noise(2, 1, 90, 20))
    pixels = np.ma.array(noise(360, 80, 1), mask=False)
    pixels[300:, :30] = np.ma.masked
    sink = TiffSink(tmp_path / "work", source, 2, single=False)
    sink.write(0, [pixels, pixels])
    written = open_source(tmp_path / "work").read(1)
    np.testing.assert_array_equal(written.mask, pixels.mask)
    np.testing.assert_array_equal(written.compressed(), pixels.compressed())


def test_joined_bands_keep_what_the_file_says_of_each(tmp_path):
    source = geotiff_source(tmp_path, "bands", noise(2, 2, HEIGHT, WIDTH), nodata=7)
    colours = (rasterio.enums.ColorInterp.red, rasterio.enums.ColorInterp.blue)
    with rasterio.open(source.path, "r+") as dataset:
        dataset.scales, dataset.offsets = (0.1, 0.2, 0.3, 0.4), (1, 2, 3, 4)
        dataset.units, dataset.descriptions = ("m", "s", "m", "s"), ("a", "b", "c", "d")
        dataset.colorinterp = colours * 2
        dataset.update_tags(3, WAVELENGTH="850")
    sink = TiffSink(tmp_path / "work", open_source(source.path, 2), 2, single=True)
    sink.write(0, noise(3, 4 * HEIGHT, 4 * WIDTH, 2))
    sink.join(tmp_path / "out.tif")
    with rasterio.open(tmp_path / "out.tif") as dataset:
        assert dataset.scales == (0.1, 0.2, 0.1, 0.2, 0.3, 0.4)
        assert dataset.offsets == (1, 2, 1, 2, 3, 4)
        assert dataset.units == ("m", "s") * 3
        assert dataset.descriptions == ("a", "b", None, None, "c", "d")
        assert dataset.colorinterp == colours * 3
        assert dataset.tags(5)["WAVELENGTH"] == "850"
        assert dataset.nodata == 7
        assert dataset.crs.to_epsg() == 32633


@pytest.mark.parametrize("content", [b"", b"garbage" * 30, b"II*\0" + bytes(range(200))])
@pytest.mark.parametrize("damaged", [0, 1, 2])
def test_damaged_geotiffs_take_the_place_of_their_neighbours(tmp_path, damaged, content):
    source = geotiff_source(tmp_path, "files", noise(3, 1, HEIGHT, WIDTH), nodata=7)
    source.files[damaged].write_bytes(content)
    source = open_source(tmp_path / "in")
    for index in range(3):
        if index == damaged:
            with pytest.raises(FrameError, match=f"{index}.tif cannot be read"):
                source.read(index)
        else:
            source.read(index)
    sink = TiffSink(tmp_path / "work", source, 2, single=True)
    sink.write(0, noise(5, 4 * HEIGHT, 4 * WIDTH, 1))
    sink.join(tmp_path / "out.tif")
    result = open_source(tmp_path / "out.tif")
    for index in range(5):
        reference = result.georeference(index)
        assert reference.crs.to_epsg() == 32633
        assert reference.nodata == 7
        assert reference.transform.a == PLACE.a / 4


def test_a_frame_of_another_size_is_not_where_the_result_lies(tmp_path, monkeypatch):
    source = geotiff_source(tmp_path, "files", noise(3, 1, HEIGHT, WIDTH))
    write_geotiff(source.files[1], noise(2, HEIGHT, WIDTH - 9))
    source = open_source(tmp_path / "in")
    monkeypatch.setattr(raster, "read_pixels", None)  # it is not read, however large it says it is
    with pytest.raises(FrameError, match=r"1.tif is 41x40, 2 bands"):
        source.read(1)
    assert len(source.georeference(1).colours) == 1


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("bands", [1, 3, 4])
def test_tiffs_give_the_values_of_the_file(tmp_path, bands, dtype, compression):
    pixels = noise(HEIGHT, WIDTH, bands, dtype=dtype)
    path = tmp_path / "a.tif"
    write_tiff(path, [pixels])
    np.testing.assert_array_equal(read_image_file(path), pixels)
    options = {"compression": compression, "byteorder": ">", "photometric": "minisblack"}
    if bands > 1:
        options |= {"photometric": "rgb", "planarconfig": "separate"}
    tifffile.imwrite(path, np.moveaxis(pixels, -1, 0).squeeze(), **options)
    read = read_image_file(path)
    np.testing.assert_array_equal(read, pixels)
    assert read.dtype == dtype  # of the machine's byte order


@pytest.mark.parametrize(("bands", "dtype"), [(3, np.uint8), (3, np.uint16), (4, np.uint8)])
@pytest.mark.parametrize(
    ("interleave", "photometric"), [("pixel", "RGB"), ("band", "RGB"), ("pixel", "MINISBLACK")]
)
def test_tiffs_in_lzw_give_the_values_of_the_file(tmp_path, bands, dtype, interleave, photometric):
    (tmp_path / "in").mkdir()
    pixels = noise(bands, HEIGHT, WIDTH, dtype=dtype)
    for index in range(2):
        options = {"compress": "lzw", "interleave": interleave, "photometric": photometric}
        write_plain(tmp_path / f"in/{index}.tif", pixels, **options)
    read = open_source(tmp_path / "in").read(1)
    np.testing.assert_array_equal(np.ma.getdata(read), np.moveaxis(pixels, 0, -1))


def test_damage_in_compressed_tiffs_is_noticed(tmp_path):
    path, chance = tmp_path / "a.tif", random.Random(4)
    write_tiff(path, [noise(HEIGHT, WIDTH, 3, dtype=np.uint8)])
    content = path.read_bytes()
    for _ in range(20):
        start = chance.randrange(len(content) // 3, len(content) // 2)
        path.write_bytes(content[:start] + chance.randbytes(20) + content[start + 20 :])
        with pytest.raises(FrameError, match=r"a.tif cannot be read"):
            read_image_file(path)


def test_a_stack_names_damaged_pages_and_a_missing_end(tmp_path):
    path, frames = tmp_path / "a.tif", noise(4, HEIGHT, WIDTH, 3)
    write_tiff(path, frames, 4)
    content = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as file:
        start, last = file.pages[0].dataoffsets[0], file.pages[3].offset
    content[start + 50 : start + 90] = bytes(40)
    path.write_bytes(content)
    source = open_source(path)
    with pytest.raises(FrameError, match=r"a.tif: page 0 cannot be read"):
        source.read(0)
    np.testing.assert_array_equal(source.read(3), frames[3])
    path.write_bytes(content[: last - 10])
    with pytest.raises(ValueError, match=r"a.tif is damaged: it ends after 3 pages"):
        open_source(path)


def test_a_damaged_header_is_a_damaged_frame(tmp_path):
    path = tmp_path / "a.tif"
    write_tiff(path, [noise(HEIGHT, WIDTH, 1)])
    content = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as file:
        height = file.pages[0].tags[257].offset
    content[height + 4] = 2  # numbers, instead of one
    path.write_bytes(content)
    with pytest.raises(FrameError, match=r"a.tif cannot be read: damaged or no TIFF file"):
        open_source(path)


def test_pages_that_go_round_in_a_circle_end(tmp_path):
    path = tmp_path / "a.tif"
    write_tiff(path, noise(3, HEIGHT, WIDTH, 1), 3)
    content = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as file:
        first, last = file.pages[1].offset, file.pages[2]
    end = last.offset + 2 + 12 * len(last.tags)
    assert not any(content[end : end + 4])
    content[end : end + 4] = first.to_bytes(4, "little")
    path.write_bytes(content)
    with pytest.raises(FrameError, match=r"a.tif cannot be read: .*page 3 is one before it again"):
        open_source(path)


def test_a_common_nodata_value_is_no_complaint(tmp_path, caplog):
    frames = noise(2, 1, HEIGHT, WIDTH, dtype=np.float32)
    frames[:, :, 0] = -3.4e38
    source = geotiff_source(tmp_path, "files", frames, nodata=-3.4e38)
    assert np.ma.getmaskarray(source.read(0)).sum() == WIDTH
    tifffile.imread(source.files[0])
    assert not caplog.records


def test_what_a_format_cannot_hold_is_one_line(tmp_path):
    with pytest.raises(ValueError, match=r".jpg files cannot hold 66000x8, 3 .* ends in .tif"):
        write_image_file(tmp_path / "a.jpg", np.zeros((8, 66_000, 3), np.uint8))
    assert not (tmp_path / "a.jpg").exists()


@pytest.mark.parametrize("bands", [1, 3, 4])
def test_bands_turn_round_and_back(bands):
    pixels = noise(HEIGHT, WIDTH, bands)
    turned = bgr_to_rgb(pixels if bands > 1 else pixels[..., 0])
    np.testing.assert_array_equal(turned[..., :3], pixels[..., 2::-1] if bands > 1 else pixels)
    np.testing.assert_array_equal(turned[..., 3:], pixels[..., 3:])


def test_only_the_reader_names_damage(tmp_path, capfd):
    path = tmp_path / "a.tif"
    write_geotiff(path, noise(1, HEIGHT, WIDTH, dtype=np.uint8), compress="lzw")
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(FrameError, match=r"a.tif cannot be read \(.*error at scanline"):
        read_image_file(path)
    assert capfd.readouterr().err == ""
