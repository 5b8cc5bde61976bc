"""Enhance one's own satellite video: four times sharper, twice as many frames.

    python enhance.py input.mp4 output.mp4               a video (needs requirements-video.txt)
    python enhance.py frames/ enhanced/                  a folder of PNG, JPEG or TIFF frames
    python enhance.py stack.tif stack_x4.tif             a TIFF with one page per frame
    python enhance.py scenes/ scenes_x4/                 a folder of GeoTIFFs
    python enhance.py stack.tif out.tif --bands-per-frame 1    a TIFF whose bands are frames

    python enhance.py frames/ output.mp4 --fps 10        kinds can be mixed
    python enhance.py input.mp4 slow.mp4 --slow-motion   the rate of the input, twice as long
    python enhance.py input.mp4 output.mp4 --times 4     two passes in time
    python enhance.py input.mp4 try.mp4 --frames 250     ten seconds first; --start 1000: from there
    python enhance.py input.mp4 output.mp4 --keep-audio  copies the sound
    python enhance.py input.mp4 output.mp4 --compare     and output_compare.mp4, .png and .html
    python enhance.py input.mp4 output.mp4 --resume      go on after Ctrl-C
    python enhance.py input.mp4 output.mp4 --json        for schedulers, see docs/scripting.md

Frames are enhanced in windows of four that share their end frame, tile by tile where the memory
does not hold a whole frame; any length and any size work. Work goes on in OUTPUT.partial, where
finished frames can be looked at, and becomes OUTPUT when all of it is complete.

N frames become 2N - 1. With --times 4 (or 8) the frames that a pass puts between the given ones
are reduced to their size again, and the next pass starts from the denser sequence. The scale in
space is 4, the only one the network is trained for. docs/files.md says what is kept of each kind
of file: colours, black and white, depth, coordinates, missing data; docs/video.md what becomes of
cuts between shots, sound, times and lengths.

Weights: --model real is trained for footage that went through noise and lossy compression, the
others for clean frames. By default lossy video and JPEG get the first, everything else the others.

Exit status: 0 done; 2 what was asked for cannot be done (one line says why); 130 Ctrl-C; 1 a fault
of ours. After 2, 130 and any signal, finished frames stay in OUTPUT.partial for --resume.
"""

import contextlib
import json
import mimetypes
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Literal, TextIO

import numpy as np
import torch

from enhancement import tiling
from enhancement.compare import compare
from enhancement.enhancer import Enhancer
from enhancement.job import Job, work_folder
from enhancement.levels import Levels, survey
from enhancement.outputs import (
    FPS,
    LONGEST,
    check_outputs,
    check_sound_wanted,
    levels_of_output,
    open_sink,
)
from enhancement.repair import Bridged, Denser, LowResolutionSink
from enhancement.shots import Cut, Shot, ShotSink, find_cuts, shots
from media.frames import (
    IMAGE_SUFFIXES,
    TIFF_SUFFIXES,
    VIDEO_SUFFIXES,
    Sink,
    Source,
)
from media.open import open_source
from media.raster import PALETTES, TiffSource
from models.blocks import SCALE
from models.checkpoint import SHIPPED, load_network, shipped_weights, trained_flow
from models.ensemble import Ensemble
from models.inference import ENHANCED, FLOWS, given_flow, pick_device, pick_precision
from utils.config import parse_config, run_script
from utils.files import file_sha256

TOLD = 10  # cuts that are named
# Endings of files that mimetypes does not know for pictures or video.
FILE_SUFFIXES = (".flv", ".ts", ".mts", ".m2ts", ".wmv", ".vob", ".ogv", ".y4m", ".apng", ".webp")
FILE_SUFFIXES += (".h264", ".h265", ".hevc", ".vrt", ".jp2", ".img", ".nc", ".h5", ".hdf")
BRIDGE_FLOW = "dis4x"  # where frames are damaged and the network makes the flow of the others
SAMPLE = 64  # pixels; frames of this side are large enough for every method of flow
# Fields of Config that leave the frames as they are; all others have to be the same on --resume.
NO_INFLUENCE = ("input", "output", "model", "device", "compare", "resume", "overwrite", "json")
Say = Callable[..., None]  # say(event, name=value, ...)


@dataclass(frozen=True)
class Config:
    input: str  # a video, a folder of frames, or a TIFF
    output: str  # a video, a .tif, or any other name: a folder of frames of the input's kind
    model: str = "auto"  # auto, real, mstt, fast, small, or a checkpoint
    times: int = 2  # frames per given frame: 2, or 4 and 8 in two and three passes
    scale: int = 4  # enlargement in space; the network has no other
    slow_motion: bool = False  # keep the input's frame rate, so that the video gets longer
    fps: float | None = None  # given frames per second; none: the input's times, or else 25
    start: int = 0  # the first given frame that is taken, counted from 0
    frames: int = 0  # given frames that are taken; 0: all that follow
    cuts: Literal["repeat", "keep"] = "repeat"  # between shots: the nearer frame, or a blend
    keep_audio: bool = False  # copy the sound of a video into the result
    lossless: bool = False  # FFV1 (.mkv, .avi), H.264 on RGB, and PNG for JPEG
    bands_per_frame: int = 0  # of a TIFF whose bands are frames; 0: all bands are one frame
    palette: str = PALETTES[0]  # of a TIFF with a colour table; rgb: enhance its colours
    black: float | None = None  # the value that is black; none: as white, or 0 below a given white
    white: float | None = None  # the value that is white; none: of 8 bits, video, or the values
    ensemble: bool = False  # mean over the eight flips and turns of the frames, eight times slower
    tile: int = 0  # longest side of a tile, LR pixels; 0: as large as the free memory allows
    overlap: int = 32  # of neighbouring tiles, LR pixels
    flow_method: str = "auto"  # of flow/, or enhanced: its own; auto: what the weights ask for
    device: str = "auto"  # auto, cpu, cuda, cuda:1, ...
    precision: str = "auto"  # float32, bfloat16, or auto: bfloat16 where the device is built for it
    compare: bool = False  # also write bicubic | enhanced: a video, a sheet of crops, a page
    skip_bad: bool = False  # make damaged frames from their neighbours instead of stopping
    resume: bool = False  # go on with the unfinished work of an interrupted run
    overwrite: bool = False  # replace an existing output or unfinished work
    json: bool = False  # events as JSON lines on standard output, all other text on standard error

    def __post_init__(self):
        if self.scale != SCALE:
            raise ValueError(f"scale is {self.scale}; the network enlarges by {SCALE} only")
        if self.times not in (2, 4, 8):
            raise ValueError(f"times is {self.times}; it can be 2, 4 or 8")
        if self.start < 0 or self.frames < 0 or self.frames == 1:
            raise ValueError(
                f"start is {self.start}, frames {self.frames}; give the first frame from 0 on, and "
                "two frames or more, or 0 for all"
            )
        if self.fps is not None and not 1 / LONGEST <= self.fps < 10_000:
            raise ValueError(
                f"fps is {self.fps}; give the frames per second of the input, 1/{LONGEST} or more"
            )
        if self.bands_per_frame < 0:
            raise ValueError(f"bands per frame is {self.bands_per_frame}; it is a number of bands")
        if self.palette not in PALETTES:
            raise ValueError(f"palette is {self.palette!r}; choose one of {', '.join(PALETTES)}")
        methods = ("auto", *FLOWS)
        if self.flow_method not in methods:
            choice = ", ".join(methods)
            raise ValueError(f"flow method is {self.flow_method!r}; choose one of {choice}")
        tiling.check_tile(self.tile or tiling.PATCH, self.overlap)
        suffix = Path(self.output).suffix.lower()
        if suffix in IMAGE_SUFFIXES and suffix not in TIFF_SUFFIXES:
            raise ValueError(f"{self.output} is one image; name a folder, a video or a .tif")
        kind = mimetypes.guess_type(f"a{suffix}")[0] or ""
        is_file = kind.startswith(("video/", "image/", "audio/")) or suffix in FILE_SUFFIXES
        if is_file and suffix not in (*VIDEO_SUFFIXES, *TIFF_SUFFIXES):
            raise ValueError(
                f"{self.output}: {suffix} is not written; give a video ({', '.join(VIDEO_SUFFIXES)}"
                "), a .tif, or a folder for the frames"
            )


def main(argv: list[str] | None = None) -> None:
    config = parse_config(Config, __doc__, positional=("input", "output"), argv=argv)
    say = partial(json_line, sys.stdout, time.monotonic()) if config.json else say_nothing
    with contextlib.redirect_stdout(sys.stderr if config.json else sys.stdout):
        try:
            work_within_memory(config, say)
        except KeyboardInterrupt:
            say("interrupted", status=130)
            raise
        except Exception as error:
            status = 2 if isinstance(error, ValueError | OSError) else 1
            say("error", status=status, message=str(error))
            raise


def json_line(file: TextIO, start: float, event: str, **values) -> None:
    """Write an event with the seconds since the start, a line of JSON."""
    seconds = round(time.monotonic() - start, 3)
    print(json.dumps({"event": event, "seconds": seconds} | values), file=file, flush=True)


def say_nothing(event: str, **values) -> None:
    """In place of `json_line` where nobody listens."""


def work_within_memory(config: Config, say: Say) -> None:
    """`work`; when the memory ends, that is the user's to correct."""
    folder = work_folder(Path(config.output))
    try:
        work(config, Path(config.output), say)
    except Exception as error:  # NumPy, PyTorch, OpenCV and FFmpeg have each their own
        if not tiling.is_out_of_memory(error):
            raise
        finished = f"; finished frames are in {folder}, go on with --resume"
        raise ValueError(f"out of memory{finished if folder.exists() else ''}") from error


def pick_weights(model: str, given: Source, device: torch.device) -> Path:
    """The checkpoint that a name stands for; "auto" looks at the footage and says what it takes.

    Raises:
        FileNotFoundError: real, and there are none in the box.
    """
    if model not in ("auto", "real"):
        return SHIPPED.get(model, Path(model))
    real = shipped_weights(device, real=True)
    if model == "real":
        if real is None:
            raise FileNotFoundError("no weights for real footage in checkpoints/; give a file")
        return real
    clean = shipped_weights(device)
    if given.lossy and real:
        print(f"{given.path} is compressed with loss: weights {real.stem} (--model real)")
        return real
    if clean is None:
        raise FileNotFoundError("no weights in checkpoints/; give a checkpoint with --model FILE")
    print(f"{given.path} is no lossy format: weights {clean.stem} (--model real: against noise)")
    return clean


def work(config: Config, output: Path, say: Say) -> None:
    """Do what the config says: check it as far as possible, enhance, compare."""
    given = open_source(config.input, config.bands_per_frame, config.palette)
    if config.bands_per_frame and getattr(given, "layout", None) != "bands":
        raise ValueError(
            f"--bands-per-frame is for one TIFF whose bands are frames, not for {config.input}"
        )
    given.select(config.start, config.frames)
    choose_times(config, given)
    extras = check_outputs(config, output)
    check_sound_wanted(config, given)
    device = pick_device(config.device)
    precision = say_precision(device, config.precision)
    checkpoint = pick_weights(config.model, given, device)
    network, information = load_network(checkpoint, device)
    network = Ensemble(network) if config.ensemble else network
    if config.flow_method == "auto":
        config = replace(config, flow_method=trained_flow(information))
    # A frame too small, or a method that is not installed, is found out before any work.
    sample = np.zeros((2, min(given.height, SAMPLE), min(given.width, SAMPLE), 3), np.uint8)
    given_flow(sample, config.flow_method)
    levels, damaged = survey(given, config.black, config.white)
    if levels.told:
        print(levels.told, file=sys.stderr)
    check_damaged(damaged, config)
    for index in sorted(getattr(given, "shared", ())):
        print(f"{given.name(index)}: another frame of this time is left out", file=sys.stderr)
    cuts = cuts_of(given, levels, damaged, config)
    source = given
    if damaged:
        # Nothing is enhanced yet.
        method = BRIDGE_FLOW if config.flow_method == ENHANCED else config.flow_method
        source = Bridged(given, levels, set(damaged), method, cuts)

    settings = {name: value for name, value in asdict(config).items() if name not in NO_INFLUENCE}
    settings |= {
        "input": str(Path(config.input).resolve()),
        "frames": given.count,
        "model": file_sha256(checkpoint),
        "device": device.type,
    }
    sink = open_sink(config, given, work_folder(output) / "frames")
    job = Job(output, settings, config.resume, config.overwrite)
    tiles = (config.tile, config.overlap)
    enhancer = Enhancer(network, device, precision, config.flow_method, *tiles, levels, job, say)
    frames = config.times * (given.count - 1) + 1
    size = {"frames": frames, "width": SCALE * given.width, "height": SCALE * given.height}
    say("start", model=str(checkpoint), flow_method=config.flow_method, device=str(device), **size)
    joined = job.folder / f"joined{output.suffix}"
    results = {}
    try:
        if not joined.exists():
            parts = shots(given.count, cuts)
            for shot in parts:
                whole = len(parts) == 1
                part = source if whole else Shot(source, shot)
                to = sink if whole else ShotSink(sink, shot, given.count, config.times)
                run_passes(config, enhancer, part, to, levels, given.dtype, shot.start)
            sink.join(joined)
        if extras:
            # Read from the folder for unfinished work and written to it: --resume comes here too.
            results = {target: job.folder / f"compare{target.suffix}" for target in extras}
            kinds = (config.times, config.bands_per_frame, config.fps or FPS)
            compare(source, levels, joined, *kinds, *results.values())
    except KeyboardInterrupt:
        print(f"\nfinished frames are in {job.folder}; go on with --resume", file=sys.stderr)
        raise
    except OSError as error:
        raise OSError(
            f"{error}; finished frames are in {job.folder}, go on with --resume"
        ) from error
    job.finish(results | {output: joined})
    say("result", output=str(output), comparisons=list(map(str, results)), **size)
    print(f"{output}: {frames} frames of {size['width']}x{size['height']}")


def say_precision(device: torch.device, name: str) -> torch.dtype:
    """`pick_precision`, whose warning becomes one plain line."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        precision = pick_precision(device, name)
    for warning in caught:
        print(warning.message, file=sys.stderr)
    return precision


def run_passes(
    config: Config,
    enhancer: Enhancer,
    source: Source,
    sink: Sink,
    levels: Levels,
    dtype: np.dtype,
    first: int,
) -> None:
    """Enhance a source as often as --times asks for; the last pass goes to the sink.

    Arguments:
        config: of the run.
        enhancer: does the work.
        source: given frames, of `levels` and `dtype`.
        sink: takes the result.
        first: number of the source's first frame among all given ones.
    """
    passes = config.times.bit_length() - 1
    for number in range(1, passes):
        folder = enhancer.job.folder / f"pass{number}" / f"{first:08d}"
        title = f"pass {number} of {passes}"
        enhancer.run(source, LowResolutionSink(folder), levels, dtype, title)
        source = Denser(source, folder)
    title = f"pass {passes} of {passes}" if passes > 1 else "enhancing"
    enhancer.run(source, sink, *levels_of_output(config, source, levels), title)


def choose_times(config: Config, given: Source) -> None:
    """Let the user's frame rate replace the times of the file."""
    if config.fps is None or given.times is None:
        return
    rate = Fraction(config.fps).limit_denominator(LONGEST)
    given.times, given.last = [index / rate for index in range(given.count)], 1 / rate
    print(f"{config.input}: {config.fps:g} frames per second instead of its own times")


def check_damaged(damaged: dict[int, str], config: Config) -> None:
    """Name the damaged frames that are made from their neighbours, if the user allows that.

    Raises:
        ValueError: frames are damaged and it is not allowed.
    """
    if damaged and not config.skip_bad:
        others = f" (and {len(damaged) - 1} more frames)" if len(damaged) > 1 else ""
        raise ValueError(f"{next(iter(damaged.values()))}{others}; --skip-bad bridges over it")
    for problem in damaged.values():
        print(f"bridged: {problem}", file=sys.stderr)


def cuts_of(given: Source, levels: Levels, damaged: dict[int, str], config: Config) -> list[Cut]:
    """The cuts between shots, told; none where frames have a place on Earth, and so are no film."""
    if config.cuts == "keep" or (isinstance(given, TiffSource) and given.placed):
        return []
    cuts = find_cuts(given, levels, damaged)
    for _, after in cuts[:TOLD]:
        print(f"cut before {given.name(after)}: the nearer frame is repeated; --cuts keep blends")
    if len(cuts) > TOLD:
        print(f"and {len(cuts) - TOLD} more cuts")
    return cuts


if __name__ == "__main__":
    run_script(main)
