"""What a GeoTIFF says besides its pixels, and what of it changes when the pixels become smaller."""

import copy
import itertools
from dataclasses import dataclass, replace
from typing import Any

from utils.resize import SCALE


@dataclass
class Georeference:
    """What a GeoTIFF says besides its pixels, for one frame."""

    crs: Any
    transform: Any
    nodata: float | None
    tags: dict[str, str]
    descriptions: tuple[str | None, ...]
    band_tags: tuple[dict[str, str], ...]
    colours: tuple[Any, ...]
    scales: tuple[float, ...]
    offsets: tuple[float, ...]
    units: tuple[str | None, ...]
    points: tuple[list[Any], Any]
    rpcs: Any

    def with_bands_of(self, others: list["Georeference"]) -> "Georeference":
        """The same place with the bands of several frames one after the other."""
        names = ("descriptions", "band_tags", "colours", "scales", "offsets", "units")
        parts = {name: [getattr(other, name) for other in others] for name in names}
        bands = {name: tuple(itertools.chain(*part)) for name, part in parts.items()}
        return replace(self, **bands)

    def enlarged(self, other: "Georeference", share: float) -> "Georeference":
        """The same place with pixels a quarter as wide, `share` of the way to another frame's.

        Control points and RPCs stay this frame's: they cannot be averaged.
        """
        own, next_own = self.transform, other.transform
        between = [(1 - share) * a + share * b for a, b in zip(own, next_own, strict=True)][:6]
        transform = type(own)(*between) @ type(own).scale(1 / SCALE)
        points, points_crs = self.points
        points = [
            type(point)(point.row * SCALE, point.col * SCALE, point.x, point.y, point.z)
            for point in points
        ]
        return replace(
            self, transform=transform, points=(points, points_crs), rpcs=_enlarged_rpcs(self.rpcs)
        )


def _enlarged_rpcs(rpcs: Any) -> Any:
    """Rational polynomials for pixels a quarter as wide; they count from pixel centres."""
    if rpcs is None:
        return None
    enlarged = copy.copy(rpcs)
    enlarged.line_off = SCALE * (rpcs.line_off + 0.5) - 0.5
    enlarged.samp_off = SCALE * (rpcs.samp_off + 0.5) - 0.5
    enlarged.line_scale, enlarged.samp_scale = SCALE * rpcs.line_scale, SCALE * rpcs.samp_scale
    return enlarged


def georeference_of(dataset: Any, bands: list[int] | None = None) -> Georeference:
    """What an open dataset says about some of its bands, or about all."""
    bands = bands or dataset.indexes

    def chosen(of_all: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(of_all[band - 1] for band in bands)

    return Georeference(
        crs=dataset.crs,
        transform=dataset.transform,
        nodata=dataset.nodata,
        tags=dataset.tags(),
        descriptions=chosen(dataset.descriptions),
        band_tags=tuple(dataset.tags(band) for band in bands),
        colours=chosen(dataset.colorinterp),
        scales=chosen(dataset.scales),
        offsets=chosen(dataset.offsets),
        units=chosen(dataset.units),
        points=dataset.gcps,
        rpcs=dataset.rpcs,
    )
