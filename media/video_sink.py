"""Video files through PyAV (FFmpeg): encoding of frames, joined with their times and sound.

8 bits become H.264, deeper ones 10-bit H.265, both YUV 4:2:0 in limited range at a
quality that leaves no visible loss: the one form that every player and hardware decoder takes.
Colour at half resolution is no loss in a picture enlarged four times. The input's matrix is kept
and written into the file. Lossless is FFV1 in .mkv and .avi, and H.264 on RGB elsewhere.
docs/video.md says what becomes of times, lengths and sound.

A finished piece is a small Matroska file without B-frames, so pieces join by copying packets.
"""

import contextlib
import heapq
import io
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from media.codec import X264_KERNELS
from media.decoder import import_av
from media.frames import Sink, remove
from media.video import (
    BT709,
    CHROMA_CENTRED,
    FULL,
    LIMITED,
    RGB,
    SWSCALE_MATRIX,
    UNSPECIFIED,
    exact_conversion,
)
from utils.files import replace

CRF = {"libx264": "13", "libx265": "13"}  # constant rate factor: below 16 no loss is visible
LARGEST_SIDE = {"libx264": 16384, "libx265": 16384, "libx264rgb": 16384, "ffv1": 65535}
SLOWEST_RATE = Fraction(1, 1001)  # of a piece, whose frames get their times when it is joined
FINEST = Fraction(1, 10**6)  # seconds, of times that containers can count
LARGEST_DELAY = Fraction(1, 20)  # seconds of sound behind the picture that nobody notices
# Seconds of sound before the first frame, without which a decoder gets the first ones wrong: Opus
# asks for 0.08, AAC and MP3 for two packets.
PREROLL = Fraction(1, 10)
MATROSKA_STEP = Fraction(1, 1000)  # seconds, the one that it counts in
# FFmpeg's names of the containers that are written.
CONTAINERS = {".mp4": "mp4", ".m4v": "ipod", ".mov": "mov", ".mkv": "matroska", ".avi": "avi"}


@dataclass(eq=False)
class VideoSink(Sink):
    """Encodes frames in pieces, one file each, and joins them.

    Raises: ValueError: frames too large for the codec, or times or sound that the container cannot
        hold.
    """

    folder: Path  # see Sink
    height: int  # pixels
    width: int
    times: list[Fraction]  # seconds of all frames
    depth: int = 8  # bits per value, 8 or more
    matrix: int = BT709  # of the colours, as FFmpeg numbers them; so the next two
    primaries: int = UNSPECIFIED
    transfer: int = UNSPECIFIED
    aspect: Fraction | None = None  # width of a pixel by its height; none: square
    metadata: dict[str, str] = field(default_factory=dict)  # what the file is to say in words
    suffix: str = ".mp4"  # of the final file; it decides the container
    lossless: bool = False  # see the module's text
    last: Fraction | None = None  # seconds of the last frame; none: those of the one before
    sound: Path | None = None  # a file whose sound is copied
    begin: Fraction = Fraction(0)  # seconds in that file at which the first frame is shown
    chapters: Sequence[dict[str, Any]] = ()  # of that file, as PyAV gives them

    def __post_init__(self):
        self.av = import_av()
        # AVI wants H.264 packets in another form than Matroska, and that form comes from AVI.
        self.piece_suffix = ".avi" if self.suffix == ".avi" else ".mkv"
        self.matrix = BT709 if self.matrix == RGB else self.matrix
        self.codec, self.pixel_format, self.options = encoder(
            self.depth, self.suffix, self.lossless
        )
        limit = LARGEST_SIDE[self.codec]
        if max(self.height, self.width) > limit:
            raise ValueError(
                f"{self.width}x{self.height} is too large for {self.codec}, which ends at {limit}; "
                "give a folder or a .tif file as OUTPUT"
            )
        self.repeats = 0
        self.last = self.last or self.times[-1] - self.times[-2]
        if self.suffix == ".avi":
            self.times = _even(self.times)
            gap = self.times[1] - self.times[0]
            self.repeats, self.last = max(round(self.last / gap) - 1, 0), gap
        gaps = [after - before for before, after in itertools.pairwise(self.times)]
        if self.suffix == ".mkv" and min(gaps) < MATROSKA_STEP:
            raise ValueError(
                f"frames are {float(1000 * min(gaps)):.3g} ms apart, Matroska counts whole ones; "
                "give an OUTPUT that ends in .mp4 or .mov"
            )
        self.step = _common_step([*gaps, self.last])
        if self.sound:
            check_sound(self.sound, self.suffix, self.begin)

    def _pieces(self) -> list[Path]:
        """The finished pieces in order, up to the first gap. Names: first frame, frame after."""
        pieces, position = [], 0
        found = {int(path.stem.split("-")[0]): path for path in self.folder.glob("*-*.*")}
        while position in found:
            pieces.append(found[position])
            position = int(found[position].stem.split("-")[1])
        return pieces

    def _piece(self, start: int, stop: int) -> Path:
        return self.folder / f"{start:08d}-{stop:08d}{self.piece_suffix}"

    def holds(self, start: int, stop: int) -> bool:
        return self._piece(start, stop).exists()

    def write(self, start: int, frames: Iterable[np.ndarray]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = self.folder / f"{start:08d}.partial{self.piece_suffix}"
        count = 0
        with self._writing(partial) as container:
            stream = self._add_stream(container)
            for count, pixels in enumerate(frames, 1):
                repeats = self.repeats if start + count == len(self.times) else 0
                for number in range(1 + repeats):
                    frame = self._frame(np.ma.filled(pixels, 0))
                    frame.pts, frame.time_base = count - 1 + number, stream.codec_context.time_base
                    container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        replace(partial, self._piece(start, start + count))

    @contextlib.contextmanager
    def _writing(self, path: Path) -> Iterator[Any]:
        """A container to write to; what FFmpeg fails with becomes an OSError that names it."""
        try:
            with self.av.open(path.absolute(), "w") as container:
                yield container
        except self.av.error.FFmpegError as error:
            raise OSError(
                error.errno, f"writing video failed: {error.strerror}", str(path)
            ) from error

    def _add_stream(self, container):
        seconds = (self.times[-1] - self.times[0]) / (len(self.times) - 1)
        rate = max((1 / seconds).limit_denominator(1001), SLOWEST_RATE)
        stream = container.add_stream(self.codec, rate=rate, options=self.options)
        stream.width, stream.height, stream.pix_fmt = self.width, self.height, self.pixel_format
        context = stream.codec_context
        context.time_base = 1 / rate
        context.max_b_frames = 0  # packets in order of time join without reordering
        if self.aspect:
            context.sample_aspect_ratio = self.aspect
        if self._is_rgb():
            context.colorspace, context.color_range = RGB, FULL
        else:
            context.colorspace, context.color_range = self.matrix, LIMITED
        context.color_primaries, context.color_trc = self.primaries, self.transfer
        return stream

    def _is_rgb(self) -> bool:
        return self.pixel_format.startswith(("gbr", "bgr", "rgb"))

    def _frame(self, pixels: np.ndarray):
        """(H, W, 1 or 3) uint8 or uint16 -> a frame in the encoder's format."""
        if pixels.shape[2] == 1:
            pixels = np.repeat(pixels, 3, axis=2)
        source_format = "rgb24" if pixels.dtype == np.uint8 else "rgb48le"
        frame = self.av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), source_format)
        return frame.reformat(
            format=self.pixel_format,
            dst_colorspace=None if self._is_rgb() else SWSCALE_MATRIX[self.matrix],
            src_color_range=FULL,
            dst_color_range=FULL if self._is_rgb() else LIMITED,
            interpolation=exact_conversion(),
        )

    def join(self, target: Path) -> None:
        """Copy the packets of all pieces into one file and give every frame its time."""
        partial = target.with_name(f"{target.stem}.partial{target.suffix}")
        with contextlib.ExitStack() as files:
            container = files.enter_context(self._writing(partial))
            with self.av.open(self._pieces()[0].absolute()) as piece:
                stream = container.add_stream_from_template(piece.streams.video[0])
            stream.time_base = self.step
            container.metadata.update(self.metadata)
            container.set_chapters(self._moved_chapters())
            if self.codec == "libx265" and self.suffix != ".mkv":
                stream.codec_context.codec_tag = "hvc1"  # the one of two that Apple's players know
            packets = self._video_packets(stream)
            if self.sound:
                given = files.enter_context(
                    self.av.open(self.sound.absolute(), metadata_errors="replace")
                )
                copies = {
                    s.index: container.add_stream_from_template(s) for s in given.streams.audio
                }
                for stream in given.streams.audio:
                    copies[stream.index].metadata.update(_words_of_track(stream.metadata))
                packets = heapq.merge(packets, self._sound_packets(given, copies), key=_seconds)
            for packet in packets:
                container.mux(packet)
        replace(partial, target)
        remove(self.folder)

    def _end(self) -> Fraction:
        """Seconds after the first frame at which the last one ends."""
        return self.times[-1] - self.times[0] + self.last * (1 + self.repeats)

    def _moved_chapters(self) -> list[dict[str, Any]]:
        """The chapters while the frames are shown, with their times in the result."""
        moved = []
        for chapter in self.chapters:
            ends = (chapter[name] * chapter["time_base"] - self.begin for name in ("start", "end"))
            start, end = (min(max(time, 0), self._end()) for time in ends)
            if start < end:
                times = {"start": round(start / FINEST), "end": round(end / FINEST)}
                moved.append(chapter | times | {"time_base": FINEST})
        return moved

    def _video_packets(self, stream) -> Iterator[Any]:
        """The packets of all pieces, with their times in the result."""
        times = [time - self.times[0] for time in self.times]
        times += [times[-1] + number * self.last for number in range(1, self.repeats + 2)]
        ticks = [int(time / self.step) for time in times]
        index = 0
        for piece in self._pieces():
            with self.av.open(piece.absolute()) as source:
                for packet in source.demux(source.streams.video[0]):
                    if not packet.size:
                        continue
                    packet.stream, packet.time_base = stream, self.step
                    packet.pts = packet.dts = ticks[index]
                    packet.duration = ticks[index + 1] - ticks[index]
                    index += 1
                    yield packet

    def _sound_packets(self, given, copies: dict[int, Any]) -> Iterator[Any]:
        """The sound while the frames are shown, with its times in the result.

        `copies` are the streams of the result, by the numbers of those of the given file.
        """
        for packet in given.demux(given.streams.audio):
            if not packet.size or packet.dts is None:
                continue
            rate, base = packet.stream.rate, packet.time_base
            packet.pts, packet.dts = (
                round((time * base - self.begin) * rate) for time in (packet.pts, packet.dts)
            )
            packet.duration = round(packet.duration * base * rate)
            packet.time_base = Fraction(1, rate)  # AVI itself counts in whole packets
            if -self._preroll(packet) <= _seconds(packet) < self._end():
                packet.stream = copies[packet.stream.index]
                yield packet

    def _preroll(self, packet) -> Fraction:
        """Seconds of sound before the first frame that the container can hold.

        What lies there is decoded and not played. Matroska has as much of it as the stream says,
        rounded; more would move the frames. AVI has none.
        """
        if self.suffix == ".mkv":
            delay = packet.stream.codec_context.delay
            return Fraction(delay, packet.stream.rate) + MATROSKA_STEP / 2
        if self.suffix == ".avi":
            return Fraction(0)
        return max(PREROLL, 2 * packet.duration * packet.time_base)


def _words_of_track(metadata: dict[str, str]) -> dict[str, str]:
    """What a stream says of itself; FFmpeg reads an MP4's track title as `name`."""
    words = {"title": metadata.get("name", "")} | metadata
    return {key: words[key] for key in ("title", "language", "handler_name") if words.get(key)}


def _seconds(packet) -> Fraction:
    return packet.dts * packet.time_base


def check_sound(path: Path, suffix: str, begin: Fraction) -> None:
    """Refuse, by a ValueError that says what it is, sound that a container cannot hold.

    Arguments:
        path: of a file with sound.
        suffix: of the container.
        begin: seconds in the file at which the first frame is shown.
    """
    av = import_av()
    with av.open(path.absolute(), metadata_errors="replace") as given:
        for stream in given.streams.audio:
            try:
                with av.open(io.BytesIO(), "w", format=CONTAINERS[suffix]) as container:
                    container.add_stream_from_template(stream)
                    container.start_encoding()
            except (av.error.FFmpegError, ValueError) as error:
                raise ValueError(
                    f"{path}: {suffix} cannot hold its sound ({stream.codec_context.name}); "
                    "give an OUTPUT that ends in .mkv, or leave out --keep-audio"
                ) from error
        if suffix == ".avi":  # which plays sound from the first frame on
            packets = (packet for packet in given.demux(given.streams.audio) if packet.size)
            starts = {}  # of every stream, seconds after the first frame
            for packet in packets:
                if packet.dts is not None and _seconds(packet) >= begin:
                    starts.setdefault(packet.stream.index, _seconds(packet) - begin)
                if len(starts) == len(given.streams.audio):
                    break
            late = max(starts.values(), default=0)
            if late > LARGEST_DELAY:
                raise ValueError(
                    f"{path}: its sound begins {float(late):.3f} s after the frames, which AVI "
                    "cannot say; give an OUTPUT that ends in .mp4 or .mkv"
                )


def encoder(depth: int, suffix: str, lossless: bool) -> tuple[str, str, dict[str, str]]:
    """Codec, pixel format and options for frames of a depth in a container.

    Raises: ValueError: no codec of this container keeps such frames.
    """
    if not lossless and depth == 8:
        parameters = X264_KERNELS + CHROMA_CENTRED
        options = {"crf": CRF["libx264"], "preset": "medium", "x264-params": parameters}
        return "libx264", "yuv420p", options
    if not lossless:
        if suffix in (".avi", ".m4v"):
            raise ValueError(
                f"{suffix} cannot hold 10-bit H.265; give an OUTPUT that ends in .mp4, .mov or .mkv"
            )
        parameters = "log-level=none:bframes=0" + CHROMA_CENTRED
        options = {"crf": CRF["libx265"], "preset": "medium", "x265-params": parameters}
        return "libx265", "yuv420p10le", options
    if suffix in (".mkv", ".avi"):
        return "ffv1", "bgr0" if depth == 8 else "gbrp16le", {"level": "3"}
    if depth > 8:
        raise ValueError(f"lossless {depth}-bit video needs an OUTPUT that ends in .mkv (FFV1)")
    return "libx264rgb", "rgb24", {"qp": "0", "preset": "medium", "x264-params": X264_KERNELS}


def _even(times: list[Fraction]) -> list[Fraction]:
    """Times at a fixed rate, if they are that but for a container's rounding; else a ValueError."""
    mean = (len(times) - 1) / (times[-1] - times[0])
    usual = Fraction(round(mean)), Fraction(1000 * round(mean * 1001 / 1000), 1001)
    candidates = [
        [times[0] + i / rate for i in range(len(times))] for rate in (mean, *usual) if rate
    ]

    def error(even: list[Fraction]) -> Fraction:
        return max(abs(a - b) for a, b in zip(even, times, strict=True))

    even = min(candidates, key=error)
    # --slow-motion stretches the rounding with the times.
    if error(even) > max(MATROSKA_STEP, Fraction(1, 10) / mean):
        raise ValueError(
            "AVI has one fixed frame rate, this video has not; write .mp4 or .mkv, or give --fps"
        )
    return even


def _common_step(gaps: list[Fraction]) -> Fraction:
    """The longest time of which all gaps are multiples: the time base that keeps them exact.

    FINEST, where that is one that FFmpeg cannot count in.
    """
    denominator = math.lcm(*(gap.denominator for gap in gaps))
    step = Fraction(math.gcd(*(int(gap * denominator) for gap in gaps)), denominator)
    return step if max(step.as_integer_ratio()) < 2**31 else FINEST
