"""What a TIFF says besides its pixels, and what of it changes when the pixels become smaller."""

import copy
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import numpy as np

from utils.resize import SCALE

RGB = ("red", "green", "blue")
BLACK_WHITE = [(0, 0, 0, 255), (255, 255, 255, 255)]
# Descriptions that programs make of the sizes of a file, which are not those of the result.
LAYOUTS = ("ImageJ=", '{"shape"', "<?xml", "<OME")
# Domains of GDAL with other contents than words about what is seen, or that are read elsewhere.
OTHER_DOMAINS = ("IMAGE_STRUCTURE", "DERIVED_SUBDATASETS", "SUBDATASETS", "RPC", "COLOR_PROFILE")
OTHER_DOMAINS += ("GEOLOCATION", "IMD")  # of the given pixels
TIFF_TIME = "%Y:%m:%d %H:%M:%S"
RESOLUTIONS = ("TIFFTAG_XRESOLUTION", "TIFFTAG_YRESOLUTION")  # pixels per inch or centimetre


@dataclass
class Georeference:
    """What a TIFF says besides its pixels, for one frame."""

    crs: Any
    transform: Any  # None where the file has none
    nodata: float | None
    tags: dict[str, str]
    descriptions: tuple[str | None, ...]
    band_tags: tuple[dict[str, str], ...]
    colours: tuple[str, ...]  # what the bands show: "red", "alpha", "undefined", ...
    scales: tuple[float, ...]
    offsets: tuple[float, ...]
    units: tuple[str | None, ...]
    points: tuple[list[Any], Any]
    rpcs: Any
    # Of GDAL for a new file: how many bits a value has, and which colours it stands for.
    options: dict[str, Any] = field(default_factory=dict)
    profile: dict[str, str] = field(default_factory=dict)  # of its colours
    domains: dict[str, dict[str, str]] = field(default_factory=dict)  # tags of GDAL's other domains

    def of_colours(self) -> "Georeference":
        """The same place with red, green and blue in the place of a band with a colour table."""
        none = (None,) * 3
        names = {"descriptions": none, "units": none, "band_tags": ({},) * 3, "colours": RGB}
        numbers = {"scales": (1.0,) * 3, "offsets": (0.0,) * 3, "nodata": None, "options": {}}
        return replace(self, **names, **numbers)

    def with_bands_of(self, others: list["Georeference"]) -> "Georeference":
        """The same place with the bands of several frames one after the other."""
        names = ("descriptions", "band_tags", "colours", "scales", "offsets", "units")
        parts = {name: [getattr(other, name) for other in others] for name in names}
        bands = {name: tuple(itertools.chain(*part)) for name, part in parts.items()}
        return replace(self, **bands)

    def enlarged(self, other: "Georeference", share: float) -> "Georeference":
        """The same place with pixels a quarter as wide, `share` of the way to another frame's.

        Times are on the way, too; those that cannot be read are left out where they would be
        wrong, as are names of bands, often dates, that the other frame does not have. Control
        points and RPCs stay this frame's, as all coordinates do if the other's are of another
        system: they cannot be averaged.
        """
        own, transform = self.transform, None
        if own is not None:
            next_own = other.transform if other.transform and other.crs == self.crs else own
            between = [(1 - share) * a + share * b for a, b in zip(own, next_own, strict=True)][:6]
            between = type(own)(*between)
            between = own if between.is_degenerate else between  # one of them lies upside down
            transform = between @ type(own).scale(1 / SCALE)
        points, points_crs = self.points
        points = [
            type(point)(point.row * SCALE, point.col * SCALE, point.x, point.y, point.z)
            for point in points
        ]
        tags = {
            name: f"{SCALE * float(value):g}" if name in RESOLUTIONS else value
            for name, value in self.tags.items()
        }
        domains, descriptions = self.domains, self.descriptions
        if share:
            pairs = zip(self.descriptions, other.descriptions, strict=True)
            descriptions = tuple(own if own == following else None for own, following in pairs)
            tags = _at_time(tags, other.tags, "TIFFTAG_DATETIME", share, _tiff_time)
            domains = {
                name: _at_time(own, other.domains.get(name, {}), "ACQUISITIONDATETIME", share)
                for name, own in domains.items()
            }
        return replace(
            self,
            transform=transform,
            tags=tags,
            domains=domains,
            descriptions=descriptions,
            points=(points, points_crs),
            rpcs=_enlarged_rpcs(self.rpcs),
        )


def _tiff_time(text: str) -> datetime:
    return datetime.strptime(text, TIFF_TIME)


def _at_time(
    own: dict[str, str],
    other: dict[str, str],
    name: str,
    share: float,
    read: Callable[[str], datetime] = datetime.fromisoformat,
) -> dict[str, str]:
    """Tags with the time `share` of the way from one's own to another's."""
    if name not in own or own[name] == other.get(name):
        return own
    try:
        time, following = read(own[name]), read(other[name])
        between = time + share * (following - time)
    except (KeyError, ValueError, TypeError):  # no such tag, unreadable, only one has a zone
        return {key: value for key, value in own.items() if key != name}
    if read is _tiff_time:
        return own | {name: (between + timedelta(seconds=0.5)).strftime(TIFF_TIME)}
    text = between.isoformat(sep="T" if "T" in own[name] else " ")
    return own | {name: text.replace("+00:00", "Z") if own[name].endswith("Z") else text}


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

    colours = tuple(colour.name for colour in chosen(dataset.colorinterp))
    options = {}
    if kept_bits(dataset):
        options["nbits"] = kept_bits(dataset)
    if is_inverted(dataset):
        options["photometric"] = "MINISWHITE"
    elif colours == ("cyan", "magenta", "yellow", "black"):
        options["photometric"] = "CMYK"
    is_converted = "SOURCE_COLOR_SPACE" in dataset.tags(ns="IMAGE_STRUCTURE")
    return Georeference(
        crs=dataset.crs,
        transform=None if dataset.transform.is_identity else dataset.transform,
        nodata=dataset.nodata,
        tags=_lasting(dataset.tags()),
        descriptions=chosen(dataset.descriptions),
        band_tags=tuple(_lasting(dataset.tags(band)) for band in bands),
        # GDAL makes a colour table for a single bit.
        colours=tuple("gray" if colour == "palette" else colour for colour in colours),
        options=options,
        # That of another colour space than RGB is of no use to what became RGB.
        profile={} if is_converted else dataset.tags(ns="COLOR_PROFILE"),
        domains={
            name: dataset.tags(ns=name)
            # IMAGERY comes from a sidecar, too. In order, so that all processes write the same.
            for name in dict.fromkeys((*dataset.tag_namespaces(), "IMAGERY"))
            if name not in OTHER_DOMAINS and not name.startswith("xml:")
        },
        scales=chosen(dataset.scales),
        offsets=chosen(dataset.offsets),
        units=chosen(dataset.units),
        points=dataset.gcps,
        rpcs=dataset.rpcs,
    )


def _lasting(tags: dict[str, str]) -> dict[str, str]:
    """The tags that are true of the result as well: neither statistics nor sizes in words."""
    return {
        name: value
        for name, value in tags.items()
        if not name.startswith("STATISTICS_")
        and not (name == "TIFFTAG_IMAGEDESCRIPTION" and value.startswith(LAYOUTS))
    }


def is_placed(dataset: Any) -> bool:
    """Whether an open dataset says where on Earth its pixels lie."""
    return bool(not dataset.transform.is_identity or dataset.gcps[0] or dataset.rpcs)


def kept_bits(dataset: Any) -> int:
    """Bits of an integer where a file keeps fewer than its type has, else 0."""
    is_integer = np.issubdtype(np.dtype(dataset.dtypes[0].split("_")[-1]), np.integer)
    return int(dataset.tags(1, ns="IMAGE_STRUCTURE").get("NBITS", 0)) if is_integer else 0


def is_inverted(dataset: Any) -> bool:
    """Whether the smallest value is white."""
    return dataset.tags(ns="IMAGE_STRUCTURE").get("MINISWHITE") == "YES"


def places_of_colours(
    names: Sequence[str], descriptions: Sequence[str | None]
) -> tuple[int, ...] | None:
    """Where red, green and blue are among the bands of a file; None: not all of them are named.

    Arguments:
        names: what GDAL takes the bands for.
        descriptions: of the bands, which count where that says nothing.
    """
    words = [(text or "").strip().lower() for text in descriptions]
    for found in (list(names), words):
        if set(RGB) <= set(found):
            return tuple(map(found.index, RGB))
    return None


def has_palette(dataset: Any) -> bool:
    """Whether values stand for the colours of a table; black and white of one bit do not."""
    if dataset.colorinterp[0].name != "palette":
        return False
    if kept_bits(dataset) != 1:
        return True
    table = dataset.colormap(1)
    return [table[0], table[1]] not in (BLACK_WHITE, BLACK_WHITE[::-1])
