"""Where the frames go: the kinds of output, and what is refused before any work."""

import itertools
import sys
from pathlib import Path
from typing import Any

import numpy as np

from enhancement.job import work_folder
from enhancement.levels import Levels
from enhancement.repair import denser_times
from media.decoder import import_av
from media.files import gap_in_numbers
from media.folder import ImageSink, TiffStackSink
from media.frames import (
    JPEG_SUFFIXES,
    LARGEST_JPEG,
    TIFF_SUFFIXES,
    VIDEO_SUFFIXES,
    Sink,
    Source,
    free_of,
)
from media.raster import TiffSource
from media.raster_sink import TiffSink
from media.video import VideoSource
from media.video_sink import VideoSink
from models.blocks import SCALE

LONGEST = 1001  # seconds between given frames
# Endings of pictures that are not read.
NOT_READ = (".webp", ".jp2", ".j2k", ".gif", ".apng", ".heic", ".avif", ".jxl", ".tga", ".exr")
UNEVEN = 1.5  # times the shortest time between two frames, from which on they are told to differ
FPS = 25.0  # given frames per second, where neither the file nor the user says


def check_outputs(config: Any, output: Path) -> list[Path]:
    """The paths of the comparison, if there is to be one.

    Raises: ValueError: an output would replace the input or, without --overwrite, an existing file.
    """
    ends = (".mp4", ".png", ".html") if config.compare else ()
    extras = [output.with_name(f"{output.stem}_compare{end}") for end in ends]
    given = Path(config.input).resolve()
    for path in (output, work_folder(output), *extras):
        # Names that differ in case are one file on macOS.
        is_given = path.exists() and path.samefile(given)
        if is_given or given in (path.resolve(), *path.resolve().parents):
            raise ValueError(f"{path} is in the input {config.input}; choose another OUTPUT")
        if path.resolve() in given.parents:
            raise ValueError(f"the input {config.input} is in {path}; choose another OUTPUT")
    if output.is_symlink() and output.is_dir():
        raise ValueError(f"{output} is a link to a folder; name the folder itself")
    if not output.resolve().parent.is_dir():
        raise FileNotFoundError(f"{output.parent} is not a folder; create it first")
    for path in (output, *extras):
        free_of(path, config.overwrite)
    if extras:
        import_av()
    return extras


def is_video(config: Any) -> bool:
    """Whether the output is a video."""
    return Path(config.output).suffix.lower() in VIDEO_SUFFIXES


def keeps_times(config: Any) -> bool:
    """Whether the output is a video that shows its frames when the input does."""
    return is_video(config) and not config.slow_motion and not config.fps


def check_sound_wanted(config: Any, given: Source) -> None:
    """Say that sound is left out; a ValueError for sound that is not there or would not fit."""
    has_sound = isinstance(given, VideoSource) and given.decoder.has_sound
    if not config.keep_audio:
        if has_sound:
            keeps = keeps_times(config)
            hint = "--keep-audio copies it" if keeps else "only a video of its times holds it"
            print(f"{config.input}: its sound is left out; {hint}", file=sys.stderr)
        return
    if not has_sound:
        raise ValueError(f"{config.input} has no sound for --keep-audio")
    if not keeps_times(config):
        raise ValueError(
            "--keep-audio is for a video that keeps its times, neither for a folder or .tif nor "
            "with --slow-motion or --fps"
        )


def open_sink(config: Any, given: Source, folder: Path) -> Sink:
    """Where the frames go, by the ending of the output and the kind of the input.

    `folder` is for unfinished work. Raises: ValueError: the output cannot hold such frames.
    """
    suffix = Path(config.output).suffix.lower()
    for told in missing_of_folder(given) if given.path.is_dir() else ():
        print(f"{config.input}: {told}", file=sys.stderr)
    if isinstance(given, VideoSource) and (lost := left_out(config, given)):
        print(f"{config.input}: left out: {', '.join(lost)}", file=sys.stderr)
    if is_video(config):
        if given.bands != 1 and (given.colour is None or given.bands > 3):
            what = "of which none is named red" if given.bands == 3 else "a video has one or three"
            raise ValueError(
                f"{config.input} has {given.bands} bands, {what}; "
                "give a folder or a .tif file as OUTPUT"
            )
        times, last = denser_times(given.times, config.times), given.last
        if config.slow_motion:
            times = [time * config.times for time in times]
            last *= config.times
        kind = {"suffix": suffix, "lossless": config.lossless, "last": last}
        kind["depth"] = 8 if given.dtype == np.uint8 else 10
        if isinstance(given, VideoSource):
            kept = ("depth", "matrix", "primaries", "transfer", "aspect", "metadata")
            kind |= {name: getattr(given, name) for name in kept}
            if keeps_times(config):
                kind |= {"begin": given.begin, "chapters": given.decoder.chapters}
            if config.lossless and suffix in (".mkv", ".avi") and given.aspect not in (None, 0, 1):
                problem = (
                    f"pixels of {given.aspect} are not square, and lossless {suffix} forgets it"
                )
                print(f"{config.input}: {problem}", file=sys.stderr)
        if config.keep_audio:
            kind["sound"] = given.path
        return VideoSink(folder, SCALE * given.height, SCALE * given.width, times, **kind)
    for told in what_a_video_keeps(given):
        print(f"{config.input}: {told}, which only a video as OUTPUT keeps", file=sys.stderr)
    single = suffix in TIFF_SUFFIXES
    if isinstance(given, TiffSource):
        return TiffSink(folder, given, config.times, single)
    if single:
        return TiffStackSink(folder)
    as_png = config.lossless and given.suffix in JPEG_SUFFIXES
    suffix = ".png" if as_png else given.suffix
    sides = SCALE * given.width, SCALE * given.height
    if suffix in JPEG_SUFFIXES and max(sides) > LARGEST_JPEG:
        raise ValueError(
            f"JPEG cannot hold {sides[0]}x{sides[1]} pixels; add --lossless, or give an OUTPUT "
            "that ends in .tif"
        )
    return ImageSink(folder, suffix)


def missing_of_folder(given: Source) -> list[str]:
    """What a folder of frames lacks or holds besides, in words."""
    missing = []
    if gap := gap_in_numbers([Path(given.name(index)) for index in range(given.count)]):
        missing.append(f"{gap}; enhanced as if evenly timed")
    if left := sorted(path for path in given.path.iterdir() if path.suffix.lower() in NOT_READ):
        told = f"{len(left)} pictures of other endings are left out, {left[0].name} the first"
        missing.append(told)
    return missing


def left_out(config: Any, given: VideoSource) -> list[str]:
    """What of a video the output lacks, in words, besides sound."""
    holds_chapters = keeps_times(config) and Path(config.output).suffix.lower() != ".avi"
    chapters = ["chapters"] if given.decoder.chapters and not holds_chapters else []
    return list(dict.fromkeys([*chapters, *given.not_kept]))


def what_a_video_keeps(given: Source) -> list[str]:
    """What of the input is lost, in words, in a folder of frames or a TIFF."""
    lost = []
    gaps = [after - before for before, after in itertools.pairwise(given.times or ())]
    if gaps and max(gaps) > UNEVEN * min(gaps):
        lost.append(f"frames {float(min(gaps)):.3g} to {float(max(gaps)):.3g} s apart")
    if isinstance(given, VideoSource):
        if given.aspect not in (None, 0, 1):
            lost.append(f"pixels of {given.aspect}, not square")
        if given.metadata:
            lost.append(f"a file that says its {', '.join(sorted(given.metadata))}")
    return lost


def levels_of_output(config: Any, given: Source, levels: Levels) -> tuple[Levels, np.dtype]:
    """Levels and type of the result: those of the input, but full scale in a video."""
    if is_video(config) and not given.full_scale:
        dtype = np.dtype(np.uint16)
        return levels.stretched(dtype), dtype
    return levels, given.dtype
