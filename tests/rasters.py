"""GeoTIFF files that tests write."""

from functools import partial

import numpy as np
import rasterio
from enhancing import make_frames
from rasterio.transform import Affine

PLACE = Affine(0.9, 0, 500_000, 0, -0.9, 4_000_000)


def write_geotiff(
    path, bands, nodata=None, crs="EPSG:32633", transform=PLACE, colours=None, **options
):
    """Write (bands, H, W)."""
    count, height, width = bands.shape
    size = {"count": count, "height": height, "width": width, "dtype": bands.dtype}
    place = {"crs": crs, "transform": transform, "nodata": nodata}
    with rasterio.open(path, "w", driver="GTiff", **size, **place, **options) as dataset:
        dataset.write(bands)
        if colours:
            dataset.colorinterp = colours
    return path


write_plain = partial(write_geotiff, crs=None, transform=None)  # a picture without coordinates


def write_sequence(folder, frames, **options):
    """Write (N, bands, H, W), one file each; frame 10 comes after frame 9."""
    folder.mkdir()
    for index, bands in enumerate(frames):
        write_geotiff(folder / f"scene_{index + 8}.tif", bands, **options)
    return folder


def sixteen_bits(count, bands=3):
    """12-bit data in 16 bits, (count, bands, H, W)."""
    frames = np.moveaxis(make_frames(count), -1, 1).astype(np.uint16) * 16
    return np.concatenate([frames, frames], axis=1)[:, :bands]
