"""Any video that a user may name: which kind of file it is, and its source."""

from pathlib import Path

from media.ends import is_animation
from media.files import list_images
from media.folder import ImageFolder
from media.frames import IMAGE_SUFFIXES, TIFF_SUFFIXES, Source
from media.raster import PALETTES, TiffSource
from media.tiff import VRT_SUFFIX
from media.video import VideoSource

BEGINNING = 2**16  # bytes of a picture, before whose end an animation says that it is one


def open_source(path: str | Path, bands_per_frame: int = 0, palette: str = PALETTES[0]) -> Source:
    """Open a video, a folder of images, a multi-page TIFF, GeoTIFFs or a GDAL VRT.

    Arguments:
        path: what the user named; its ending and content decide what it is.
        bands_per_frame: bands of a single-page TIFF that make up one frame; 0: all of them.
        palette: one of PALETTES: what to do with a TIFF whose values stand for colours of a table.

    Raises:
        FileNotFoundError: there is nothing at this path.
        ValueError: nothing that can be read, or a library for it is missing.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    if path.is_dir():
        return _open_folder(path, palette)
    if path.suffix.lower() in (*TIFF_SUFFIXES, VRT_SUFFIX):
        return TiffSource(path, [path], bands_per_frame, palette)
    if path.suffix.lower() in IMAGE_SUFFIXES:
        with path.open("rb") as file:
            if is_animation(file.read(BEGINNING)):
                raise ValueError(f"{path} is an animated PNG; rename it to {path.stem}.apng")
        raise ValueError(f"{path} is a single image; give a folder with at least two frames")
    return VideoSource(path)


def _open_folder(path: Path, palette: str) -> Source:
    files = list_images(path)
    if not files:
        raise ValueError(f"{path} holds no frames; they end in {', '.join(IMAGE_SUFFIXES)}")
    tiffs = [file for file in files if file.suffix.lower() in TIFF_SUFFIXES]
    if not tiffs:
        return ImageFolder(path, files)
    others = [file.name for file in files if file not in tiffs]
    if others:
        raise ValueError(
            f"{path} holds TIFF files and others ({tiffs[0].name}, {others[0]}, ...); "
            "give a folder with one kind"
        )
    return TiffSource(path, tiffs, palette=palette)
