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
    torchrun --nproc-per-node 4 -- enhance.py input.mp4 output.mp4    on four GPUs, or on several
                                                         machines, see docs/distributed.md

Frames are enhanced in windows that share their end frame, tile by tile where the memory does not
hold a whole frame; any length and any size work. Work goes on in OUTPUT.partial, where
finished frames can be looked at, and becomes OUTPUT when all of it is complete.

N frames become 2N - 1. With --times 4 (or 8) the frames that a pass puts between the given ones
are reduced to their size again, and the next pass starts from the denser sequence. The scale in
space is 4, the only one the network is trained for. docs/files.md says what is kept of each kind
of file: colours, black and white, depth, coordinates, missing data; docs/video.md what becomes of
cuts between shots, sound, times and lengths.

Weights: --model real is trained for footage that went through noise and lossy compression, the
others for clean frames. By default lossy video, JPEG and noisy frames get the first, everything
else the others.

Exit status: 0 done; 2 what was asked for cannot be done (one line says why); 130 Ctrl-C; 1 a fault
of ours. After 2, 130 and any signal, finished frames stay in OUTPUT.partial for --resume.
"""

import contextlib
import hashlib
import json
import mimetypes
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any, Literal, TextIO

import numpy as np
import torch

from enhancement import tiling
from enhancement.compare import compare
from enhancement.enhancer import Enhancer
from enhancement.footage import pick_weights
from enhancement.job import Job, locked, memory_told, work_folder
from enhancement.levels import Levels, survey
from enhancement.outputs import (
    FPS,
    LONGEST,
    check_outputs,
    check_sound_wanted,
    is_video,
    open_sink,
)
from enhancement.passes import run_passes
from enhancement.places import look_at_places
from enhancement.repair import Bridged
from enhancement.shares import check_alike, wait_to_see
from enhancement.shots import Cut, find_cuts, shots
from media.frames import IMAGE_SUFFIXES, TIFF_SUFFIXES, VIDEO_SUFFIXES, Source
from media.open import open_source
from media.raster import PALETTES, TiffSource
from models.blocks import SCALE
from models.inference import ENHANCED, FLOWS, check_flow, pick_device, pick_precision
from models.pretrained import open_network
from models.weights import check_window
from utils.config import parse_config, run_script
from utils.files import file_sha256
from utils.team import Team, join

TOLD = 10  # cuts that are named
# Endings of files that mimetypes does not know for pictures or video.
FILE_SUFFIXES = (".flv", ".ts", ".mts", ".m2ts", ".wmv", ".vob", ".ogv", ".y4m", ".apng", ".webp")
FILE_SUFFIXES += (".h264", ".h265", ".hevc", ".vrt", ".jp2", ".img", ".nc", ".h5", ".hdf")
BRIDGE_FLOW = "dis4x"  # where frames are damaged and the network makes the flow of the others
LONGEST_JOB = timedelta(hours=1000)  # processes wait for each other; a dead one is noticed at once
# Fields of Config that leave the frames as they are; all others have to be the same on --resume.
NO_INFLUENCE = ("input", "output", "model", "device", "compare", "resume", "overwrite", "json")
STOPS = (signal.SIGINT, signal.SIGTERM)
Say = Callable[..., None]  # say(event, name=value, ...)


@dataclass(frozen=True)
class Config:
    input: str  # a video, a folder of frames, or a TIFF
    output: str  # a video, a .tif, or any other name: a folder of frames of the input's kind
    model: str = "auto"  # auto, real, shipped weights such as large or fast_real, or a file
    times: int = 2  # frames per given frame: 2, or 4 and 8 in two and three passes
    scale: int = 4  # enlargement in space; the network has no other
    slow_motion: bool = False  # keep the input's frame rate, so that the video gets longer
    fps: float | Fraction | None = None  # given per second, also 30000/1001; none: as timed, or 25
    start: int = 0  # the first given frame that is taken, counted from 0
    frames: int = 0  # given frames that are taken; 0: all that follow
    cuts: Literal["repeat", "keep"] = "repeat"  # between shots: the nearer frame, or a blend
    keep_audio: bool = False  # copy the sound of a video into the result
    lossless: bool = False  # FFV1 (.mkv, .avi), H.264 on RGB, and PNG for JPEG
    bands_per_frame: int = 0  # of a TIFF whose bands are frames; 0: all bands are one frame
    palette: Literal[*PALETTES] = "refuse"  # of a colour table in a TIFF; rgb: enhance its colours
    black: float | None = None  # the value that is black; none: as white, or 0 below a given white
    white: float | None = None  # the value that is white; none: of 8 bits, video, or the values
    ensemble: bool = False  # mean over the eight flips and turns of the frames, eight times slower
    window: int = 0  # given frames that the network sees at once; 0: as many as the weights ask for
    tile: int = 0  # longest side of a tile, LR pixels; 0: as large as the free memory allows
    overlap: int = 32  # of neighbouring tiles, LR pixels, at least 17
    flow_method: Literal["auto", *FLOWS] = "auto"  # see flow/; auto: what the weights ask for
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
        if self.start < 0:
            raise ValueError(f"start is {self.start}; frames are counted from 0")
        if self.frames < 0 or self.frames == 1:
            raise ValueError(f"frames is {self.frames}; give 2 or more, or 0 for all")
        if self.fps is not None and not 1 / LONGEST <= self.fps < 10_000:
            raise ValueError(
                f"fps is {self.fps}; give the frames per second of the input, from 1/{LONGEST} to "
                "below 10000"
            )
        if self.bands_per_frame < 0:
            raise ValueError(f"bands per frame is {self.bands_per_frame}; it is a number of bands")
        check_window(self.window)
        tiling.check_tile(self.tile or 2 * self.overlap, self.overlap)
        suffix = Path(self.output).suffix.lower()
        if Path(self.output).name in ("", ".."):
            raise ValueError(f"{self.output} has no name of its own; name a file or a folder")
        if suffix in IMAGE_SUFFIXES and suffix not in TIFF_SUFFIXES:
            raise ValueError(f"{self.output} is one image; name a folder, a video or a .tif")
        kind = mimetypes.guess_type(f"a{suffix}")[0] or ""
        is_file = kind.startswith(("video/", "image/", "audio/")) or suffix in FILE_SUFFIXES
        if is_file and suffix not in (*VIDEO_SUFFIXES, *TIFF_SUFFIXES):
            raise ValueError(
                f"{self.output}: {suffix} is not written; give a video ({', '.join(VIDEO_SUFFIXES)}"
                "), a .tif, or a folder for the frames"
            )
        if suffix not in VIDEO_SUFFIXES:
            if self.slow_motion:
                raise ValueError("--slow-motion is for an OUTPUT that is a video")
            if self.fps is not None and not self.compare:
                raise ValueError("--fps is for an OUTPUT that is a video, or for --compare")


def main(argv: list[str] | None = None) -> None:
    with join() as team, contextlib.ExitStack() as stack:
        if team.world > 1:
            for number in STOPS:
                signal.signal(number, interrupt_once)
        if not team.first:  # what ends this process is still told
            stack.enter_context(contextlib.redirect_stderr(sys.stdout))
        positional = ("input", "output")
        config = team.together(lambda: parse_config(Config, __doc__, positional, argv))
        is_heard = config.json and team.first
        say = (
            partial(json_line, sys.stdout, time.monotonic()) if is_heard else lambda *_, **__: None
        )
        with contextlib.redirect_stdout(sys.stderr if config.json else sys.stdout):
            try:
                with team.contact(), memory_told(Path(config.output)):
                    work(config, Path(config.output), say, team, stack)
            except KeyboardInterrupt:
                say("interrupted", status=130)
                if not team.first:
                    raise SystemExit(130) from None
                raise
            except Exception as error:
                status = 2 if isinstance(error, ValueError | OSError) else 1
                say("error", status=status, message=str(error))
                raise


def interrupt_once(number: int, frame: Any) -> None:
    """Ctrl-C, or what a launcher sends to all processes when one of them ends, perhaps twice."""
    for other in STOPS:
        signal.signal(other, signal.SIG_IGN)
    raise KeyboardInterrupt


def json_line(file: TextIO, start: float, event: str, **values) -> None:
    """Write an event with the seconds since the start, a line of JSON."""
    seconds = round(time.monotonic() - start, 3)
    print(json.dumps({"event": event, "seconds": seconds} | values), file=file, flush=True)


def work(config: Config, output: Path, say: Say, team: Team, stack: contextlib.ExitStack) -> None:
    """Do what the config says: check it as far as possible, enhance, compare.

    The first process has the output for itself until the stack is closed.
    """
    config, given, extras, device, precision, checkpoint, network = team.together(
        lambda: prepare(config, output, team)
    )
    frames = config.times * (given.count - 1) + 1
    size = {"frames": frames, "width": SCALE * given.width, "height": SCALE * given.height}
    team = team.with_patience(LONGEST_JOB)
    levels, damaged, cuts, content = team.together(
        lambda: look_through(given, config), first_alone=True
    )
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
        "precision": str(precision).removeprefix("torch."),
        "content": content,
        # Of equal frames, too, another version may find other levels.
        "levels": levels.told or None,
    }
    if isinstance(config.fps, Fraction):
        settings["fps"] = str(config.fps)
    team.together(lambda: check_alike(team, settings))
    sink = team.together(lambda: open_sink(config, given, work_folder(output) / "frames"))

    def open_job() -> Job:
        stack.enter_context(locked(output))
        return Job(output, settings, config.resume, config.overwrite)

    job = team.together(open_job, first_alone=True)
    job.saves = team.first
    team.together(lambda: wait_to_see(job.record.exists, job.folder, team))
    kind = (precision, config.flow_method, config.window, config.tile, config.overlap)
    enhancer = Enhancer(network, device, *kind, levels, job, say, team)
    told = {"flow_method": config.flow_method, "device": str(device)}
    say("start", model=str(checkpoint), **told, **size)
    joined = job.folder / f"joined{output.suffix}"

    def finish() -> dict[Path, Path]:
        if not joined.exists():
            sink.join(joined)
        # Read from the folder for unfinished work and written to it: --resume comes here too.
        results = {target: job.folder / f"compare{target.suffix}" for target in extras}
        if results:
            compare(config, source, levels, joined, *results.values())
        return results

    try:
        if not team.together(joined.exists, first_alone=True):
            parts = shots(given.count, cuts)
            run_passes(config, enhancer, source, sink, parts)
        results = team.together(finish, first_alone=True)
    except KeyboardInterrupt:
        print(f"\nfinished frames are in {job.folder}; go on with --resume", file=sys.stderr)
        raise
    except OSError as error:
        raise OSError(
            f"{error}; finished frames are in {job.folder}, go on with --resume"
        ) from error
    team.together(lambda: job.finish(results | {output: joined}), first_alone=True)
    say("result", output=str(output), comparisons=list(map(str, results)), **size)
    print(f"{output}: {frames} frames of {size['width']}x{size['height']}")


def prepare(
    config: Config, output: Path, team: Team
) -> tuple[Config, Source, list[Path], torch.device, torch.dtype, Path, Any]:
    """Open what the config names, and check what can be checked before the frames are read.

    Returns: the Config with the flow method and the window that the weights ask for, the given
        frames, the paths of the comparisons, device, precision, checkpoint, and network.
    """
    given = open_source(config.input, config.bands_per_frame, config.palette)
    if config.bands_per_frame and getattr(given, "layout", None) != "bands":
        raise ValueError(
            f"--bands-per-frame is for one TIFF whose bands are frames, not for {config.input}"
        )
    if config.palette != PALETTES[0] and not isinstance(given, TiffSource):
        raise ValueError(f"--palette is for TIFF files, not for {config.input}")
    given.select(config.start, config.frames)
    if config.fps is not None and given.times is not None:
        print(f"{config.input}: {float(config.fps):g} frames per second instead of its own times")
    if config.fps is None and given.times is None and (is_video(config) or config.compare):
        told = "any dates in its names or tags are not used; --fps sets another rate"
        print(f"{config.input}: taken as {FPS:g} frames per second ({told})")
    if config.fps is not None or given.times is None:
        rate = Fraction(config.fps or FPS).limit_denominator(LONGEST)
        given.times, given.last = [index / rate for index in range(given.count)], 1 / rate
    extras = check_outputs(config, output)
    check_sound_wanted(config, given)
    device = team.own_device(pick_device(config.device))
    precision = pick_precision(device, config.precision)
    checkpoint = pick_weights(config.model, given, device, config.black, config.white)
    asked = config.flow_method, config.window, config.ensemble
    network, flow_method, window = open_network(checkpoint, device, *asked)
    config = replace(config, flow_method=flow_method, window=window)
    check_flow(given.height, given.width, config.flow_method)
    return config, given, extras, device, precision, checkpoint, network


def look_through(given: Source, config: Config) -> tuple[Levels, dict[int, str], list[Cut], str]:
    """Read all frames; say what is found: levels, damaged frames, cuts; and their hash."""
    content = hashlib.blake2b(digest_size=16)

    def add(pixels: np.ndarray) -> None:
        content.update(np.ascontiguousarray(np.ma.getdata(pixels)).data)
        content.update(np.ascontiguousarray(np.ma.getmask(pixels)).data)

    levels, damaged = survey(given, config.black, config.white, add)
    content.update(repr(sorted(damaged)).encode())
    if isinstance(given, TiffSource):
        content.update(look_at_places(given).encode())
    if levels.told:
        print(levels.told, file=sys.stderr)
    check_damaged(damaged, config)
    for index in sorted(getattr(given, "shared", ())):
        print(f"{given.name(index)}: another frame of this time is left out", file=sys.stderr)
    if getattr(given, "clear", False):
        print(f"{config.input}: clear pixels of this video become opaque", file=sys.stderr)
    if getattr(given, "interlaced", False):
        problem = "its frames are interlaced, and taken as they are; deinterlace them first"
        print(f"{config.input}: {problem}", file=sys.stderr)
    return levels, damaged, cuts_of(given, levels, damaged, config), content.hexdigest()


def check_damaged(damaged: dict[int, str], config: Config) -> None:
    """Name the damaged frames, which --skip-bad bridges; a ValueError without it."""
    if damaged and not config.skip_bad:
        others = f" (and {len(damaged) - 1} more frames)" if len(damaged) > 1 else ""
        first = next(iter(damaged.values()))
        raise ValueError(f"{first}{others}; --skip-bad replaces it by interpolation")
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
