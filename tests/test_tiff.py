"""TIFF of every kind that GIS opens: right values, and nothing of the file lost without a word."""

import numpy as np
import pytest
import rasterio
import tifffile
from rasterio.enums import ColorInterp
from rasterio.rpc import RPC
from rasters import PLACE, write_geotiff, write_plain

from data.stills import read_still
from media.frames import FrameError
from media.open import open_source
from media.raster import read_tiff
from media.raster_sink import TiffSink

HEIGHT, WIDTH = 20, 24
RAMP = np.arange(HEIGHT * WIDTH).reshape(1, HEIGHT, WIDTH)  # 0 to 479


def folder_of(tmp_path, bands, write=write_plain, **options):
    """A sequence of two equal frames."""
    folder = tmp_path / "in"
    folder.mkdir()
    for index in range(2):
        write(folder / f"{index}.tif", bands, **options)
    return folder


def result_of(tmp_path, source, single=False):
    """The files of three frames four times as large, whose pixels are those given repeated."""
    sink = TiffSink(tmp_path / "work", source, 2, single)
    pixels = source.read(0).repeat(4, axis=0).repeat(4, axis=1)
    sink.write(0, [pixels] * 3)
    sink.join(tmp_path / ("out.tif" if single else "out"))
    return tmp_path / "out.tif" if single else tmp_path / "out" / "00000001.tif"


def pages(path, *frames):
    """Write pages of (array, subfiletype)."""
    with tifffile.TiffWriter(path) as writer:
        for pixels, kind in frames:
            writer.write(pixels, subfiletype=kind, photometric="minisblack", metadata=None)
    return path


KINDS = [
    ("uint8", 3, {"compress": "zstd", "photometric": "RGB"}),
    ("uint16", 1, {"compress": "zstd", "predictor": 2}),
    ("uint8", 3, {"compress": "lzw", "photometric": "MINISBLACK"}),
    ("uint8", 3, {"compress": "packbits"}),
    ("uint8", 3, {"compress": "webp", "webp_lossless": True, "photometric": "RGB"}),
    ("uint8", 1, {"compress": "ccittfax4", "nbits": 1}),
    ("uint16", 4, {"photometric": "CMYK"}),
    ("float32", 1, {"nbits": 16}),
    ("float32", 3, {"compress": "lerc"}),
    ("int8", 1, {}),
    ("uint64", 2, {"compress": "deflate"}),
    *[("uint8", 1, {"nbits": bits}) for bits in range(1, 8)],
    *[("uint16", 1, {"nbits": bits}) for bits in (9, 11, 12, 15)],
    ("uint16", 3, {"nbits": 12, "photometric": "RGB"}),
    ("uint32", 1, {"nbits": 24}),
]


@pytest.mark.parametrize("write", [write_plain, write_geotiff])
@pytest.mark.parametrize(("dtype", "count", "options"), KINDS)
def test_values_are_those_of_the_file_and_of_the_result(tmp_path, dtype, count, options, write):
    bits = options.get("nbits", 7)
    bands = np.concatenate([(RAMP + band) % 2 ** min(bits, 9) for band in range(count)])
    bands = bands.astype(dtype)
    source = open_source(folder_of(tmp_path, bands, write, **options))
    assert (source.count, source.dtype) == (2, np.dtype(dtype))
    np.testing.assert_array_equal(source.read(1), np.moveaxis(bands, 0, -1))
    assert source.bits == (options.get("nbits", 0) if dtype.startswith("uint") else 0)
    with rasterio.open(result_of(tmp_path, source)) as result:
        np.testing.assert_array_equal(result.read()[:, ::4, ::4], bands)
        assert int(result.tags(1, ns="IMAGE_STRUCTURE").get("NBITS", 0)) == source.bits
        assert result.transform == (PLACE @ PLACE.scale(1 / 4) if write is write_geotiff else
                                    rasterio.Affine.identity())  # fmt: skip


@pytest.mark.parametrize("photometric", ["RGB", "YCbCr"])
def test_jpeg_in_tiff_is_rgb(tmp_path, photometric):
    bands = np.stack([np.full((32, 32), value, np.uint8) for value in (200, 100, 50)])
    source = open_source(folder_of(tmp_path, bands, compress="jpeg", photometric=photometric))
    assert source.colour == (0, 1, 2)
    assert np.abs(source.read(0)[5, 5].astype(int) - (200, 100, 50)).max() < 4


def test_eight_bits_of_cmyk_are_read_as_rgb(tmp_path):
    bands = np.stack([np.full((20, 20), value, np.uint8) for value in (0, 255, 255, 0)])
    source = open_source(folder_of(tmp_path, bands, photometric="CMYK"))
    assert source.bands == 3
    assert source.read(0)[0, 0].tolist() == [255, 0, 0]


def test_white_that_is_zero_stays_so(tmp_path):
    bands = RAMP.astype(np.uint16)
    source = open_source(folder_of(tmp_path, bands, photometric="MINISWHITE"))
    assert source.inverted
    np.testing.assert_array_equal(source.read(0)[..., 0], bands[0])
    with rasterio.open(result_of(tmp_path, source)) as result:
        assert result.tags(ns="IMAGE_STRUCTURE")["MINISWHITE"] == "YES"
        np.testing.assert_array_equal(result.read()[:, ::4, ::4], bands)


@pytest.mark.parametrize(
    ("options", "full_scale"),
    [({}, True), ({"nbits": 4}, False), ({"photometric": "MINISWHITE"}, False)],
)
def test_eight_bits_fill_their_scale_where_all_are_used_and_white_is_the_largest(
    tmp_path, options, full_scale
):
    source = open_source(folder_of(tmp_path, (RAMP % 16).astype(np.uint8), **options))
    assert source.full_scale == full_scale


def write_classes(path, bands, writer, **options):
    table = {1: (255, 0, 0, 255), 3: (0, 255, 0, 255), 7: (0, 0, 255, 255)}
    writer(path, bands, photometric="palette", **options)
    with rasterio.open(path, "r+") as dataset:
        dataset.write_colormap(1, table)


@pytest.mark.parametrize("write", [write_plain, write_geotiff])
@pytest.mark.parametrize("nodata", [None, 1])
def test_a_colour_table_is_no_grey(tmp_path, write, nodata):
    classes = np.array([1, 3, 7], np.uint8)[RAMP % 3]
    folder = folder_of(tmp_path, classes, write_classes, writer=write, nodata=nodata)
    with pytest.raises(ValueError, match=r"0\.tif has a colour table.*--palette rgb"):
        open_source(folder)
    source = open_source(folder, palette="rgb")
    assert (source.bands, source.colour, source.full_scale) == (3, (0, 1, 2), True)
    assert source.read(1)[0, 1:3].data.tolist() == [[0, 255, 0], [0, 0, 255]]
    assert np.ma.getmaskarray(source.read(1))[0, 0].all() == (nodata == 1)
    with rasterio.open(result_of(tmp_path, source)) as result:
        assert [colour.name for colour in result.colorinterp] == ["red", "green", "blue"]
        assert result.nodata is None
        assert (result.dataset_mask()[0, 0] == 0) == (nodata == 1)
        assert result.read()[:, 0, 8].tolist() == [0, 0, 255]


def test_a_colour_table_beside_alpha_is_clear_where_alpha_says(tmp_path):
    alpha = np.where(RAMP[0] > 0, np.uint8(255), np.uint8(0))
    bands = np.stack([np.full_like(alpha, 3), alpha])
    folder = folder_of(tmp_path, bands, write_classes, writer=write_plain)
    for path in folder.iterdir():
        with rasterio.open(path, "r+") as dataset:
            dataset.colorinterp = [ColorInterp.palette, ColorInterp.alpha]
    pixels = open_source(folder, palette="rgb").read(0)
    assert pixels.shape[2] == 3
    assert (np.ma.getmaskarray(pixels) == (alpha == 0)[..., None]).all()
    assert (pixels == [0, 255, 0]).all()


def test_black_and_white_of_one_bit_are_no_classes(tmp_path):
    source = open_source(folder_of(tmp_path, (RAMP % 2).astype(np.uint8), nbits=1))
    assert source.bits == 1
    with rasterio.open(result_of(tmp_path, source)) as result:
        np.testing.assert_array_equal(result.read()[0, ::4, ::4], RAMP[0] % 2)


def test_world_files_and_rpcs_of_plain_tiffs_are_kept(tmp_path):
    one, ones = [1] + [0] * 19, {"height_off": 0, "height_scale": 1, "lat_off": 0, "lat_scale": 1}
    names = ("line_den_coeff", "line_num_coeff", "samp_den_coeff", "samp_num_coeff")
    ones |= dict.fromkeys(names, one) | {"long_off": 0, "long_scale": 1}
    folder = folder_of(tmp_path, RAMP.astype(np.uint8))
    for path in folder.glob("*.tif"):
        with rasterio.open(path, "r+") as dataset:
            dataset.rpcs = RPC(**ones, line_off=10, line_scale=5, samp_off=12, samp_scale=6)
    with rasterio.open(result_of(tmp_path, open_source(folder))) as result:
        assert result.rpcs.line_scale == 20
        assert result.transform.is_identity  # which would count more than the RPCs

    (tmp_path / "world").mkdir()
    folder = folder_of(tmp_path / "world", RAMP.astype(np.uint8))
    for path in folder.glob("*.tif"):
        path.with_suffix(".tfw").write_text("2\n0\n0\n-2\n501\n899\n")
    with rasterio.open(result_of(tmp_path / "world", open_source(folder))) as result:
        assert tuple(result.transform)[:6] == (0.5, 0, 500, 0, -0.5, 900)


@pytest.mark.parametrize("internal", [True, False])
def test_masks_of_plain_tiffs_are_kept(tmp_path, internal):
    folder, valid = folder_of(tmp_path, RAMP.astype(np.uint8)), RAMP[0] >= WIDTH
    for path in folder.glob("*.tif"):
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=internal), rasterio.open(path, "r+") as dataset:
            dataset.write_mask(valid)
    assert (folder / "0.tif.msk").exists() != internal
    source = open_source(folder)
    np.testing.assert_array_equal(~np.ma.getmask(source.read(0))[..., 0], valid)
    with rasterio.open(result_of(tmp_path, source)) as result:
        np.testing.assert_array_equal(result.dataset_mask()[::4, ::4] > 0, valid)
    if internal:
        assert open_source(folder / "0.tif").count == 1  # the mask is no frame


def test_a_colour_profile_and_the_resolution_are_kept_and_stale_words_dropped(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for index in range(2):
        tifffile.imwrite(
            folder / f"{index}.tif",
            RAMP[0].astype(np.uint8),
            iccprofile=b"a profile",
            resolution=(300, 300),
            resolutionunit=2,
            description='{"shape": [20, 24]}',
            metadata=None,
        )
        with rasterio.open(folder / f"{index}.tif", "r+") as dataset:
            dataset.update_tags(SENSOR="camera")
            dataset.update_tags(1, STATISTICS_MEAN="7", WAVELENGTH="850")
    path = result_of(tmp_path, open_source(folder))
    with tifffile.TiffFile(path) as file:
        tags = file.pages[0].tags
        assert tags[34675].value == b"a profile"
        assert tags["XResolution"].value == (1200, 1)
        assert not file.pages[0].description
    with rasterio.open(path) as result:
        assert result.tags()["SENSOR"] == "camera"
        assert result.tags(1) == {"WAVELENGTH": "850"}


def test_reduced_pages_are_no_frames(tmp_path):
    frames = [np.full((HEIGHT, WIDTH), value, np.uint8) for value in (10, 20, 30)]
    small = frames[0][::2, ::2].copy()
    mixed = [(frames[0], 0), (small, 1), (frames[1], 0), (small, 1), (frames[2], 0)]
    for name, given in (("mixed", mixed), ("first", [(small, 1), *mixed])):
        source = open_source(pages(tmp_path / f"{name}.tif", *given))
        assert [int(source.read(index).mean()) for index in range(source.count)] == [10, 20, 30]
    assert open_source(pages(tmp_path / "a.tif", (frames[0], 0), (small, 1))).count == 1
    assert open_source(pages(tmp_path / "b.tif", (small, 1), (frames[1], 0))).read(0).mean() == 20


def test_all_pages_of_a_folder_of_stacks_are_frames(tmp_path):
    for name, values in (("9.tif", (1, 2)), ("10.tif", (3, 4, 5))):
        pages(tmp_path / name, *((np.full((HEIGHT, WIDTH), v, np.uint8), 0) for v in values))
    source = open_source(tmp_path)
    assert [int(source.read(index).mean()) for index in range(source.count)] == [1, 2, 3, 4, 5]
    assert source.name(4).endswith("10.tif: page 2")


def test_what_is_not_supported_is_not_called_damaged(tmp_path):
    path = write_plain(tmp_path / "a.tif", RAMP.astype(np.uint8), compress="deflate")
    with tifffile.TiffFile(path, mode="r+") as file:
        file.pages[0].tags["Compression"].overwrite(34712)
    with pytest.raises(FrameError, match=r"a\.tif is a TIFF compressed by JPEG 2000, which"):
        open_source(path)
    path = write_plain(tmp_path / "b.tif", RAMP.astype(np.complex64))
    with pytest.raises(ValueError, match=r"b\.tif holds complex numbers"):
        open_source(path)


OTHERS = [(50002, "JPEG XL"), (52546, "JPEG XL"), (7, "12-bit JPEG")]


@pytest.mark.parametrize(("code", "name"), OTHERS)
def test_jpeg_of_other_kinds_is_read_or_called_by_its_name(tmp_path, code, name):
    table = "ffc4 0014 {} 01" + " 00" * 16  # one code of one bit, for zero
    start = "ffd8 ffdb 0043 00" + "01" * 64 + "ffc1 000b 0c 0008 0018 01 01 11 00"
    scan = "ffda 0008 01 01 00 00 3f 00 03 ffd9"
    content = bytes.fromhex(start + table.format("00") + table.format("10") + scan)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.frombuffer(content.ljust(8 * 24, b"\0"), np.uint8).reshape(8, 24))
    with tifffile.TiffFile(path, mode="r+") as file:
        file.pages[0].tags["Compression"].overwrite(code)
        file.pages[0].tags["BitsPerSample"].overwrite(12 if code == 7 else 8)
    message = None
    try:
        pixels = read_tiff(path)
    except FrameError as error:
        message = str(error)
    if message:
        assert (
            f"a.tif is a TIFF compressed by {name}, which is not supported; convert it" in message
        )
    else:
        assert code == 7
        assert (pixels == 2048).all()


def test_the_cause_of_an_error_is_named(tmp_path):
    path = write_plain(tmp_path / "a.tif", RAMP.astype(np.uint8), compress="zstd")
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(FrameError, match=r"a\.tif cannot be read \(.*Read error at scanline"):
        open_source(path)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_come_upright_and_coordinates_where_they_are(tmp_path, orientation):
    stored = RAMP[0].astype(np.uint8)
    upright = {1: stored, 2: stored[:, ::-1], 3: stored[::-1, ::-1], 4: stored[::-1]}
    upright |= {5: stored.T, 6: stored.T[:, ::-1], 7: stored.T[::-1, ::-1], 8: stored.T[::-1]}
    (tmp_path / "in").mkdir()
    for index in range(2):
        tags = [(274, 3, 1, orientation, True)]
        tifffile.imwrite(tmp_path / f"in/{index}.tif", stored, extratags=tags)
    np.testing.assert_array_equal(
        open_source(tmp_path / "in").read(1)[..., 0], upright[orientation]
    )
    for path in (tmp_path / "in").iterdir():
        path.with_suffix(".tfw").write_text("2\n0\n0\n-2\n501\n899\n")
    np.testing.assert_array_equal(open_source(tmp_path / "in").read(1)[..., 0], stored)


def test_frames_that_mean_other_things_are_refused(tmp_path):
    folder = folder_of(tmp_path, (RAMP % 16).astype(np.uint8))
    write_plain(folder / "1.tif", (RAMP % 16).astype(np.uint8), nbits=4)
    with pytest.raises(FrameError, match=r"1\.tif has 4 bits per value.* all must be alike"):
        open_source(folder).read(1)
    write_plain(folder / "1.tif", (RAMP % 16).astype(np.uint8), photometric="MINISWHITE")
    with pytest.raises(FrameError, match=r"1\.tif.*white where it is zero.* all must be alike"):
        open_source(folder).read(1)
    (folder / "2.png").touch()
    with pytest.raises(ValueError, match=r"holds TIFF files and others \(0\.tif, 2\.png"):
        open_source(folder)


def test_an_alpha_band_is_known(tmp_path):
    bands = np.concatenate([RAMP % 200, RAMP % 2 * 255]).astype(np.uint8)
    source = open_source(folder_of(tmp_path, bands, alpha="YES"))
    assert (source.alpha, source.colour) == (1, None)
    assert np.ma.getmaskarray(source.read(0))[0, :2].tolist() == [[True, True], [False, False]]


def test_stills_are_pictures(tmp_path):
    path = tmp_path / "a.tif"
    write_classes(path, np.array([1, 3, 7], np.uint8)[RAMP % 3], writer=write_geotiff)
    with pytest.raises(ValueError, match=r"a\.tif: a colour table; convert it to RGB"):
        read_still(path)
    write_plain(path, np.zeros((4, 8, 8), np.uint16), photometric="CMYK")
    with pytest.raises(ValueError, match=r"a\.tif: 16-bit CMYK, which is not supported"):
        read_still(path)
    write_plain(path, (RAMP % 16).astype(np.uint8), nbits=4)
    assert read_still(path).max() == 255
    write_plain(path, (RAMP % 256).astype(np.uint8), photometric="MINISWHITE")
    np.testing.assert_array_equal(read_still(path)[..., 0], 255 - RAMP[0] % 256)
