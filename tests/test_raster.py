"""GeoTIFF and TIFF stacks: place, bands, type and missing data survive."""

import numpy as np
import pytest
import rasterio
from enhancing import HEIGHT, WIDTH, run
from rasterio.control import GroundControlPoint
from rasterio.enums import ColorInterp
from rasterio.rpc import RPC
from rasterio.shutil import copy as copy_raster
from rasterio.transform import Affine
from rasters import PLACE, sixteen_bits, write_geotiff, write_sequence

import enhance
from media.georeference import Georeference
from media.open import open_source
from media.raster_sink import _with_nodata

RGB = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)


def test_a_sequence_keeps_its_place_bands_and_tags(tmp_path, checkpoint):
    colours = (*RGB, ColorInterp.undefined)
    given = write_sequence(tmp_path / "in", sixteen_bits(3, 4), nodata=0, colours=colours)
    for path in given.iterdir():
        with rasterio.open(path, "r+") as dataset:
            dataset.descriptions = ("red", "green", "blue", "near infrared")
            dataset.update_tags(SENSOR="camera", TIME=path.stem)
            dataset.update_tags(4, WAVELENGTH="850")
            dataset.scales, dataset.offsets = (0.01,) * 4, (1.0,) * 4
    result = run(checkpoint, given, tmp_path / "out")
    assert sorted(path.name for path in result.iterdir()) == [f"{i:08d}.tif" for i in range(5)]
    with rasterio.open(result / "00000004.tif") as dataset:
        assert dataset.crs.to_epsg() == 32633
        assert dataset.transform == PLACE @ Affine.scale(1 / 4)
        assert (dataset.height, dataset.width) == (4 * HEIGHT, 4 * WIDTH)
        assert dataset.bounds == rasterio.open(given / "scene_8.tif").bounds
        assert dataset.dtypes == ("uint16",) * 4
        assert dataset.nodata == 0
        assert dataset.descriptions == ("red", "green", "blue", "near infrared")
        assert dataset.colorinterp == colours
        assert dataset.tags()["SENSOR"] == "camera"
        assert dataset.tags()["TIME"] == "scene_10"  # natural order: 8, 9, 10
        assert dataset.tags(4)["WAVELENGTH"] == "850"
        assert dataset.scales == (0.01,) * 4
        values = dataset.read()
    assert len(np.unique(values)) > 1000  # sixteen bits all the way
    given_mean = open_source(given).read(2).mean(axis=(0, 1))
    np.testing.assert_allclose(values.mean(axis=(1, 2)), given_mean, rtol=0.03)


def test_a_frame_between_lies_between(tmp_path, checkpoint):
    frames = sixteen_bits(2)
    (tmp_path / "in").mkdir()
    for index, bands in enumerate(frames):
        moved = Affine(1, 0, 1000 + 10 * index, 0, -1, 2000)
        write_geotiff(tmp_path / "in" / f"{index}.tif", bands, transform=moved)
    result = run(checkpoint, tmp_path / "in", tmp_path / "out")
    corners = [rasterio.open(path).transform.c for path in sorted(result.iterdir())]
    assert corners == [1000, 1005, 1010]


@pytest.mark.parametrize(("shift", "told"), [(8, False), (9, True)])
def test_frames_far_from_each_other_are_told(tmp_path, checkpoint, capfd, shift, told):
    (tmp_path / "in").mkdir()
    for index, place in enumerate((PLACE, PLACE, PLACE @ Affine.translation(0, -shift))):
        write_geotiff(tmp_path / "in" / f"{index}.tif", sixteen_bits(1)[0], transform=place)
    run(checkpoint, tmp_path / "in", tmp_path / "out")
    line = f"2.tif lies {shift} pixels from the frame before: too far"
    assert (line in capfd.readouterr().err) == told


@pytest.mark.parametrize(
    ("place", "crs", "told"),
    [
        (PLACE @ Affine.scale(1.5), "EPSG:32633", "lies 20 pixels from the frame before"),
        (PLACE @ Affine.scale(1, -1), "EPSG:32633", "lies 48 pixels from the frame before"),
        (PLACE, "EPSG:32634", "has other coordinates than the frame before"),
        (None, None, "has other coordinates than the frame before"),
    ],
)
def test_frames_that_lie_otherwise_are_told(tmp_path, checkpoint, capfd, place, crs, told):
    frames = sixteen_bits(2)
    given = write_sequence(tmp_path / "in", frames)
    write_geotiff(given / "scene_9.tif", frames[1], transform=place, crs=crs)
    result = run(checkpoint, given, tmp_path / "out")
    assert f"scene_9.tif {told}" in capfd.readouterr().err
    with rasterio.open(result / "00000001.tif") as between:
        assert not between.transform.is_degenerate


@pytest.mark.parametrize("name", ["colours", "scales", "offsets", "units"])
def test_bands_that_show_something_else_are_refused(tmp_path, name):
    given = write_sequence(tmp_path / "in", sixteen_bits(2), colours=RGB)
    other = {"colours": RGB[::-1], "scales": (2.0,) * 3, "offsets": (1.0,) * 3, "units": ("m",) * 3}
    with rasterio.open(given / "scene_9.tif", "r+") as file:
        setattr(file, "colorinterp" if name == "colours" else name, other[name])
    with pytest.raises(ValueError, match=rf"scene_9\.tif: the {name} of its bands are .* alike"):
        enhance.look_through(open_source(given), enhance.Config("in", "out"))


def test_a_frame_between_has_the_time_between(tmp_path, checkpoint):
    given = write_sequence(tmp_path / "in", sixteen_bits(3))
    times = ["2020:02:28 23:59:50", "2020:02:29 00:00:10", "unknown"]
    for page, text in zip(open_source(given).pages, times, strict=True):
        with rasterio.open(page.dataset, "r+") as dataset:
            dataset.update_tags(TIFFTAG_DATETIME=text, SENSOR="camera")
            acquired = text.replace(":", "-", 2).replace(" ", "T")
            dataset.update_tags(ns="IMAGERY", ACQUISITIONDATETIME=acquired, CLOUDCOVER="3")
    result = run(checkpoint, given, tmp_path / "out")
    seen = []
    for path in sorted(result.iterdir()):
        with rasterio.open(path) as dataset:
            assert dataset.tags()["SENSOR"] == "camera"
            imagery = dataset.tags(ns="IMAGERY")
            assert imagery.pop("CLOUDCOVER") == "3"
            seen.append((dataset.tags().get("TIFFTAG_DATETIME"), *imagery.values()))
    assert seen == [
        (times[0], "2020-02-28T23:59:50"),
        ("2020:02:29 00:00:00", "2020-02-29T00:00:00"),
        (times[1], "2020-02-29T00:00:10"),
        (None,),
        (times[2], times[2]),
    ]


def test_a_quarter_of_the_way_to_the_next_frame():
    """Of times in whole seconds, the nearest; of those with a zone, in the words of the file."""

    def frame(east, second):
        tags = {"TIFFTAG_XRESOLUTION": "300", "TIFFTAG_YRESOLUTION": "150.5"}
        return Georeference(
            crs="any",
            transform=Affine(1, 0, east, 0, -1, 2000),
            nodata=None,
            tags=tags | {"TIFFTAG_DATETIME": f"2020:01:01 00:00:0{second}"},
            domains={"IMAGERY": {"ACQUISITIONDATETIME": f"2020-01-01T00:00:0{second}Z"}},
            descriptions=("near infrared", f"second {second}"),
            band_tags=({},),
            colours=("gray",),
            scales=(1.0,),
            offsets=(0.0,),
            units=(None,),
            points=([], None),
            rpcs=None,
        )

    made = frame(1000, 1).enlarged(frame(1008, 4), 1 / 4)
    assert made.transform == Affine(0.25, 0, 1002, 0, -0.25, 2000)
    assert made.tags == {
        "TIFFTAG_XRESOLUTION": "1200",
        "TIFFTAG_YRESOLUTION": "602",
        "TIFFTAG_DATETIME": "2020:01:01 00:00:02",  # 1.75
    }
    assert made.domains == {"IMAGERY": {"ACQUISITIONDATETIME": "2020-01-01T00:00:01.750000Z"}}
    assert made.descriptions == ("near infrared", None)


def test_times_of_a_file_beside_are_kept_and_its_sizes_are_not(tmp_path, checkpoint):
    given = write_sequence(tmp_path / "in", sixteen_bits(2))
    for number, path in enumerate(sorted(given.iterdir())):
        line = f"firstLineTime = 2020-01-01T00:00:0{2 * number}.000000Z;"
        image = f'BEGIN_GROUP = IMAGE_1\n\tsatId = "WV02";\n\t{line}\nEND_GROUP = IMAGE_1\n'
        path.with_suffix(".IMD").write_text(f'version = "28.4";\nnumRows = 24;\n{image}END;\n')
    result = run(checkpoint, given, tmp_path / "out")
    assert {path.suffix for path in result.iterdir()} == {".tif"}
    with rasterio.open(result / "00000001.tif") as dataset:
        assert "IMD" not in dataset.tag_namespaces()
        assert dataset.tags(ns="IMAGERY")["ACQUISITIONDATETIME"].startswith("2020-01-01 00:00:01")


def test_places_of_two_systems_are_not_averaged(tmp_path, checkpoint):
    (tmp_path / "in").mkdir()
    for index, (bands, zone) in enumerate(zip(sixteen_bits(2), (33, 34), strict=True)):
        place = {"crs": f"EPSG:326{zone}", "transform": Affine(1, 0, 1000 * zone, 0, -1, 0)}
        write_geotiff(tmp_path / "in" / f"{index}.tif", bands, **place)
    with rasterio.open(run(checkpoint, tmp_path / "in", tmp_path / "out") / "00000001.tif") as made:
        assert (made.crs.to_epsg(), made.transform.c) == (32633, 33000)


def test_control_points_and_rpcs_follow_the_pixels(tmp_path, checkpoint):
    given = write_sequence(tmp_path / "in", sixteen_bits(2), transform=None)
    points = [GroundControlPoint(row, col, col, -row) for row, col in ((0, 0), (8, 4), (20, 30))]
    rpc = RPC(
        height_off=0,
        height_scale=1,
        lat_off=0,
        lat_scale=1,
        line_den_coeff=[1] + [0] * 19,
        line_num_coeff=[1] + [0] * 19,
        line_off=10,
        line_scale=5,
        long_off=0,
        long_scale=1,
        samp_den_coeff=[1] + [0] * 19,
        samp_num_coeff=[1] + [0] * 19,
        samp_off=12,
        samp_scale=6,
    )
    for path in given.iterdir():
        with rasterio.open(path, "r+") as dataset:
            dataset.gcps = (points, rasterio.crs.CRS.from_epsg(32633))
            dataset.rpcs = rpc
    result = run(checkpoint, given, tmp_path / "out")
    with rasterio.open(result / "00000001.tif") as dataset:
        assert [(point.row, point.col) for point in dataset.gcps[0]] == [
            (0, 0),
            (32, 16),
            (80, 120),
        ]
        assert [(point.x, point.y) for point in dataset.gcps[0]] == [(0, 0), (4, -8), (30, -20)]
        assert (dataset.rpcs.line_scale, dataset.rpcs.samp_scale) == (20, 24)
        assert dataset.rpcs.line_off == 4 * 10.5 - 0.5
        assert dataset.rpcs.samp_off == 4 * 12.5 - 0.5


@pytest.mark.parametrize("nodata", [0, 65535])
def test_missing_data_stays_missing_and_does_not_bleed(tmp_path, checkpoint, nodata):
    frames = sixteen_bits(3)
    frames[0, :, :6, :8] = nodata
    frames[1, :, :6, :10] = nodata
    given = write_sequence(tmp_path / "in", frames, nodata=nodata)
    result = run(checkpoint, given, tmp_path / "out", "--white", 4095)
    source = open_source(result)
    masks = [np.ma.getmaskarray(source.read(index))[..., 0] for index in range(5)]
    for mask, columns in zip(masks, (8, 10, 10, 10, 0), strict=True):
        assert mask[:24, : 4 * columns].all()
        assert mask.sum() == 24 * 4 * columns
    # The same pixels with other values under the mask give the same result.
    other = frames.copy()
    missing = np.zeros(frames.shape, bool)
    missing[0, :, :6, :8] = missing[1, :, :6, :10] = True
    other[missing] = 2000
    other_nodata = write_sequence(tmp_path / "other", other, nodata=2000)
    again = open_source(run(checkpoint, other_nodata, tmp_path / "out2", "--white", 4095))
    for index in range(5):
        first, second = source.read(index), again.read(index)
        visible = ~np.ma.getmaskarray(first)
        # 2000 itself is no longer a value that a pixel may have: it moves by one.
        assert np.abs(first.data[visible].astype(int) - second.data[visible]).max() <= 1


def test_floating_values_and_nan(tmp_path, checkpoint):
    frames = sixteen_bits(2).astype(np.float32) / 4095
    frames[:, :, 10:14, 10:14] = np.nan
    given = write_sequence(tmp_path / "in", frames, nodata=np.nan)
    result = open_source(run(checkpoint, given, tmp_path / "out")).read(1)
    assert result.dtype == np.float32
    assert np.ma.getmaskarray(result).sum() == 3 * 16 * 16
    assert np.isfinite(result.compressed()).all()


def test_values_step_aside_from_nodata():
    values = np.array([[0, 1, 7]], np.uint8)
    missing = np.array([[False, True, False]])
    assert _with_nodata(values, missing, 0).tolist() == [[1, 0, 7]]
    assert _with_nodata(np.array([[255]], np.uint8), None, 255).tolist() == [[254]]
    moved = _with_nodata(np.array([[-1.0]], np.float32), None, -1.0)
    assert -1 < moved[0, 0] < -0.999


def test_an_internal_mask_and_an_alpha_band_are_kept(tmp_path, checkpoint):
    frames = sixteen_bits(2)
    given = write_sequence(tmp_path / "in", frames)
    keep = np.ones((HEIGHT, WIDTH), bool)
    keep[:5] = False
    for path in given.iterdir():
        with rasterio.open(path, "r+") as dataset:
            dataset.write_mask(keep)
    with rasterio.open(run(checkpoint, given, tmp_path / "out") / "00000001.tif") as dataset:
        assert (dataset.dataset_mask() == 0).sum() == 20 * 4 * WIDTH

    alpha = np.full((2, 1, HEIGHT, WIDTH), 65535, np.uint16)
    alpha[:, :, :5] = 0
    colours = (*RGB, ColorInterp.alpha)
    bands = np.concatenate([frames, alpha], axis=1)
    given = write_sequence(tmp_path / "alpha", bands, colours=colours)
    with rasterio.open(run(checkpoint, given, tmp_path / "out2") / "00000001.tif") as dataset:
        assert dataset.colorinterp == colours
        assert (dataset.read(4)[:20] == 0).all()
        assert dataset.read(4)[40:].min() > 60000


def test_pages_and_bands_as_frames(tmp_path, checkpoint):
    frames = sixteen_bits(5, 1)
    pages = tmp_path / "pages.tif"
    for index, bands in enumerate(frames):
        write_geotiff(pages, bands, nodata=0, **({"APPEND_SUBDATASET": True} if index else {}))
    bands = write_geotiff(tmp_path / "bands.tif", frames[:, 0], nodata=0)
    folder = write_sequence(tmp_path / "folder", frames, nodata=0)
    by_file = open_source(run(checkpoint, folder, tmp_path / "x4"))
    by_page = open_source(run(checkpoint, pages, tmp_path / "pages_x4.tif"))
    flag = ("--bands-per-frame", 1)
    by_band = open_source(run(checkpoint, bands, tmp_path / "bands_x4.tif", *flag), 1)
    assert by_file.count == by_page.count == by_band.count == 9
    for index in range(9):
        np.testing.assert_array_equal(by_page.read(index), by_file.read(index))
        np.testing.assert_array_equal(by_band.read(index), by_file.read(index))
    for source in (by_page, by_band):
        reference = source.georeference(8)
        assert reference.transform == PLACE @ Affine.scale(1 / 4)
        assert reference.crs.to_epsg() == 32633
        assert reference.nodata == 0
    with pytest.raises(ValueError, match=r"one frame of 5 bands.*--bands-per-frame"):
        open_source(bands)
    with pytest.raises(ValueError, match="5 bands, not a multiple"):
        open_source(bands, 2)


@pytest.mark.parametrize("name", ["zip:x.tif", "GTIFF_DIR:1:x"])
def test_a_name_that_means_something_to_gdal_is_a_name(tmp_path, checkpoint, monkeypatch, name):
    given = write_sequence(tmp_path / "in", sixteen_bits(2, 1))
    monkeypatch.chdir(tmp_path)
    run(checkpoint, given, name)
    assert open_source(tmp_path / name).count == 3


def test_interrupted_stacks_join_the_same(tmp_path, checkpoint, monkeypatch):
    import enhance

    given = write_sequence(tmp_path / "in", sixteen_bits(5, 1), nodata=0)
    whole = open_source(run(checkpoint, given, tmp_path / "whole.tif"))
    enhance_window, calls = enhance.Enhancer.enhance_window, []

    def interrupted(self, *arguments):
        calls.append(0)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return enhance_window(self, *arguments)

    monkeypatch.setattr(enhance.Enhancer, "enhance_window", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(checkpoint, given, tmp_path / "out.tif")
    finished = open_source(tmp_path / "out.tif.partial" / "frames")
    np.testing.assert_array_equal(finished.read(3), whole.read(3))
    with rasterio.open(given / "scene_9.tif", "r+") as dataset:
        dataset.transform = PLACE @ Affine.translation(1, 0)
    with pytest.raises(ValueError, match="start again with --overwrite"):
        run(checkpoint, given, tmp_path / "out.tif", "--resume")
    with rasterio.open(given / "scene_9.tif", "r+") as dataset:
        dataset.transform = PLACE
    again = open_source(run(checkpoint, given, tmp_path / "out.tif", "--resume"))
    assert again.count == whole.count == 9
    for index in range(9):
        np.testing.assert_array_equal(again.read(index), whole.read(index))


def test_a_damaged_file_is_named(tmp_path, checkpoint):
    given = write_sequence(tmp_path / "in", sixteen_bits(3), compress="deflate")
    damaged = given / "scene_9.tif"
    content = damaged.read_bytes()
    damaged.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"scene_9.tif.*--skip-bad"):
        run(checkpoint, given, tmp_path / "out")
    assert open_source(run(checkpoint, given, tmp_path / "out", "--skip-bad")).count == 5


@pytest.mark.parametrize("folder", [False, True])
def test_a_virtual_dataset_named_tif_is_not_followed(tmp_path, folder):
    secret = write_geotiff(tmp_path / "secret.tif", sixteen_bits(1)[0])
    with rasterio.open(secret) as dataset:
        copy_raster(dataset, tmp_path / "scene.vrt", driver="VRT")
    (tmp_path / "in").mkdir()
    path = (tmp_path / "scene.vrt").rename(tmp_path / "in" / "scene.tif")
    with rasterio.open(path) as dataset:
        assert dataset.driver == "VRT"  # what would be followed
    with pytest.raises(ValueError, match=r"scene\.tif"):
        open_source(path.parent if folder else path)


@pytest.mark.parametrize("kind", ["transform", "gcps", "rpcs"])
def test_where_frames_lie_is_part_of_the_content(tmp_path, kind):
    contents, numbers, polynomials = [], (1, 2, 3, 4), ([1.0] * 20,) * 2
    for number, moved in enumerate((0, 0, 5000)):
        place = {
            "transform": Affine(2, 0, moved, 0, -2, 0),
            "gcps": [GroundControlPoint(row, 9 * row, moved + row, row) for row in (0, 3, 9)],
            "rpcs": RPC(moved, *numbers[:3], *polynomials, *numbers, *polynomials, 8, 9),
        }
        options = {"transform": None, "crs": None if kind == "rpcs" else "EPSG:32633"}
        given = tmp_path / str(number)
        write_sequence(given, sixteen_bits(2), **options | {kind: place[kind]})
        contents.append(enhance.look_through(open_source(given), enhance.Config("in", "out"))[3])
    assert contents[0] == contents[1] != contents[2]
