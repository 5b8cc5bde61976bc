"""Decoding a video file with PyAV (FFmpeg): its sound frames, each with its time.

FFmpeg hides damage where it can, and some files have no times. Both are settled here, so that a
frame is either right and at its time, or missing.
"""

import bisect
import contextlib
import itertools
import math
import re
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

from utils.text import one_line

# Words about what is seen. Others are about the file itself, or, as a timecode, about its frames.
ABOUT_THE_CONTENT = {"title", "comment", "description", "synopsis", "artist", "copyright", "date"}
ABOUT_THE_CONTENT |= {"creation_time", "location"}


def import_av() -> Any:
    """PyAV, or a ValueError that says how to get it."""
    try:
        import av
    except ImportError as error:
        raise ValueError(
            "video files need PyAV; install it with `pip install -r requirements-video.txt`"
        ) from error
    av.sidedata.sidedata.Type._missing_ = classmethod(_unknown_side_data)
    return av


def _unknown_side_data(kinds: Any, value: int) -> Any:
    """A kind of side data that FFmpeg knows and PyAV does not, such as EXIF; or it would raise."""
    kind = object.__new__(kinds)
    kind._name_, kind._value_ = f"UNKNOWN_{value}", value
    return kind


def _holds_picture(content: bytes) -> bool:
    """Whether a packet of a GIF is more than a comment, as the last one may be."""
    position = 0
    if content.startswith(b"GIF8"):  # before the first picture: sizes, and perhaps a palette
        position = 13 + (3 * 2 ** ((content[10] & 7) + 1) if content[10] & 0x80 else 0)
    while content[position : position + 1] == b"!":  # an extension, in blocks of up to 255 bytes
        position += 2
        while size := content[position : position + 1].rstrip(b"\0"):
            position += 1 + size[0]
        position += 1
    return content[position : position + 1] == b","


def _matroska_end(stream: Any) -> int:
    """The time at which a stream ends, in ticks; 0 where its tags do not say."""
    match = re.fullmatch(r"(\d+):(\d+):(\d+)(\.\d+)?", stream.metadata.get("DURATION", ""))
    if not match:
        return 0
    hours, minutes, seconds, part = match.groups(default="0")
    total = 3600 * int(hours) + 60 * int(minutes) + int(seconds) + Fraction(part)
    return round(total / stream.time_base)


def _moving(container: Any) -> Any:
    """The first video stream that is more than the still picture which begins an animated AVIF."""
    streams = container.streams.video
    return next((stream for stream in streams if stream.frames != 1), streams[0])


class Decoder:
    """The first moving stream of a file; a ValueError where there is none that FFmpeg reads.

    Attributes:
        ticks: presentation times of all frames in ascending order, in units of `time_base`.
        time_base: seconds.
        aspect: width of a pixel by its height, or None if the file does not say.
        codec: FFmpeg's name of its decoder.
        lossy: whether the codec is one that loses something; H.264 and others need not.
        last: ticks that the last frame is shown.
        has_sound: whether the file has an audio stream.
        metadata: what the file says in words: a title, when and where it was taken.
        chapters: of the file, as PyAV gives them.
        others: its other streams, but sound, as "data (klv)".
        timed: whether the ticks are the file's own.
        keys: decoding times of the key frames, by their ticks.
    """

    def __init__(self, path: Path):
        self.path, self.av = path, import_av()
        with self._open() as container:
            stream = _moving(container)
            self.ticks = self._scan(container, stream)
            self.time_base = stream.time_base or Fraction(1, 25)
            self.aspect = stream.sample_aspect_ratio
            self.codec = stream.codec_context.name
            self.lossy = stream.codec_context.codec.lossy
            self.has_sound = bool(container.streams.audio)
            self.metadata = {
                name: text
                for name, text in container.metadata.items()
                if name.lower() in ABOUT_THE_CONTENT
            }
            self.chapters = container.chapters()
            up_to_it = container.streams.video[: container.streams.video.index(stream) + 1]
            taken = (*up_to_it, *container.streams.audio)
            self.others = [
                f"{other.type} ({one_line(str(getattr(other, 'name', None) or 'unknown'))})"
                for other in container.streams
                if other not in taken
                and other.discard < self.av.stream.Discard.all  # as the chapters of an MP4
            ]

    def frames(self, start: int) -> Iterator[tuple[int | None, Any]]:
        """Decode the sound frames in order of time, with their ticks, from `start` on or earlier.

        A tick is None for a frame that the decoder gives no time.

        Arguments:
            start: a tick; decoding begins near it, at a key frame, where the file has times.
        """
        if not self.timed:
            return self._in_order()
        # One key frame earlier than need be: frames of an open group may use those before it.
        keys = sorted(key for key in self.keys if key <= start)[:-1]
        if len(keys) > 1:
            frames = self._by_time(keys[-1])
            tick, frame = next(frames, (None, None))
            if tick == keys[-1] and frame.key_frame:  # containers call others so, too
                return itertools.chain([(tick, frame)], frames)
        return self._by_time()

    def _open(self):
        try:
            # In a relative path FFmpeg takes a colon for a protocol's end. Comments may be in any
            # encoding.
            container = self.av.open(self.path.absolute(), metadata_errors="replace")
        except self.av.error.FFmpegError as error:
            raise self._unreadable(error) from error
        has_stream = bool(container.streams.video)
        if has_stream and _moving(container).codec_context is not None:
            return container
        container.close()
        kind = "a video stream of an unknown codec" if has_stream else "no video stream"
        raise ValueError(f"{self.path} has {kind}")

    def _unreadable(self, error: Exception) -> ValueError:
        return ValueError(f"{self.path} cannot be read as video ({error.strerror})")

    def _packets(self, container, stream) -> Iterator[Any]:
        """The packets with pictures, and at the end the empty one that flushes the decoder."""
        codec = stream.codec_context.name
        try:
            for packet in container.demux(stream):
                if not packet.size or codec != "gif" or _holds_picture(bytes(packet)):
                    yield packet
        except self.av.error.FFmpegError as error:
            raise self._unreadable(error) from error

    def _scan(self, container, stream) -> list[int]:
        """The times of all frames, without decoding."""
        times, order, lengths, self.keys = [], [], [], {}
        for packet in self._packets(container, stream):
            if packet.size and packet.is_keyframe and packet.pts is not None:
                self.keys[packet.pts] = packet.pts if packet.dts is None else packet.dts
            if packet.size and not packet.is_discard:
                times.append(packet.pts)
                order.append(packet.dts)
                lengths.append(packet.duration or 0)
        self.timed = None not in times
        if not self.timed:  # raw streams carry no times: frames follow at the nominal rate
            rate = stream.guessed_rate or stream.average_rate or Fraction(25)
            step = self.last = max(round(1 / (rate * stream.time_base)), 1)
            return [index * step for index in range(len(times))]
        # AVI knows only when to decode, and some MP4 files hold no more than they do. Where the
        # packets themselves do not tell FFmpeg when to show a frame, it makes that up, in the
        # order of the packets instead of the frames.
        has_no_own = times == order and stream.codec_context.has_b_frames
        if container.format.name == "avi" or has_no_own:
            self.timed = times != sorted(times)
        # Two fields of a frame may come as packets of one time.
        ticks = sorted(set(times if self.timed else order))
        gap = ticks[-1] - ticks[-2] if len(ticks) > 1 else 0
        self.last = lengths[times.index(max(times))] if ticks else 0
        if ticks and "matroska" in container.format.name:  # whose frames have no lengths
            self.last = max(self.last, _matroska_end(stream) - ticks[-1])
        self.last = self.last or gap or max(round(Fraction(1, 25) / stream.time_base), 1)
        return ticks

    def _decode(self, key: int | None = None) -> Iterator[tuple[int, Any, list[Any] | None]]:
        """The packets by their number, with the frames they bring; None: an error.

        Arguments:
            key: tick of the first one; None: the first of the file.
        """
        with self._open() as container:
            stream = _moving(container)
            # With frame threads an error would come with another packet than the damaged one.
            stream.thread_type = "SLICE"
            stream.codec_context.options = {"err_detect": "explode"}
            packets = self._packets(container, stream)
            if key is not None:
                with contextlib.suppress(self.av.error.FFmpegError):  # it passes over all of them
                    container.seek(min(key, self.keys[key]), stream=stream)
                packets = itertools.dropwhile(lambda packet: packet.pts != key, packets)
            for number, packet in enumerate(packets):
                if packet.size and not self.timed:
                    packet.pts = number  # the decoder hands it on to the frame
                try:
                    frames = packet.decode()
                except self.av.error.FFmpegError:
                    frames = None
                yield number, packet, frames

    def _by_time(self, key: int | None = None) -> Iterator[tuple[int | None, Any]]:
        """The frames of a stream with times of its own, from the key frame of a tick on.

        What follows a key frame in the file but is shown before it may need what precedes it.
        After an error the decoder goes on with what it has, and what builds on that comes out
        wrong without a word: all packets up to the next key frame, and frames shown before that.
        """
        numbers, keys, key_ticks, errors = {}, [], [], []
        begin = -math.inf if key is None else key

        def is_spoiled(number: int, tick: int | None) -> bool:
            for error in errors:
                after = bisect.bisect_right(keys, error)
                sound = key_ticks[after] if after < len(keys) else math.inf
                if number >= error and (tick is None or tick < sound):
                    return True
            return False

        for number, packet, frames in self._decode(key):
            numbers[packet.pts] = number
            if packet.is_keyframe:
                keys.append(number)
                key_ticks.append(packet.pts)
            if frames is None and (packet.pts is None or packet.pts >= begin):
                errors.append(number)
            for frame in frames or ():
                if frame.pts is not None and frame.pts < begin:
                    continue
                own = numbers.get(frame.pts, number)
                if frame.is_corrupt:
                    errors.append(own)
                if not is_spoiled(own, frame.pts):
                    yield frame.pts, frame

    def _in_order(self) -> Iterator[tuple[int, Any]]:
        """The frames of a stream without times, which follow from their order.

        After an error their order says nothing until the next key frame: as many frames precede
        it as packets, and those that come after it in the file but are shown before it.
        """
        position, error, lost, keys = 0, None, [], set()
        for number, packet, frames in self._decode():
            if packet.is_keyframe:
                keys.add(number)
            if frames is None:
                error = number
            for frame in frames or ():
                own = number if frame.pts is None else frame.pts
                if frame.is_corrupt:
                    error = max(error or 0, own)
                if error is not None:
                    if own not in keys or own <= error:
                        lost.append(own)
                        continue
                    position = own + sum(other > own for other in lost)
                    error, lost = None, []
                if position < len(self.ticks):
                    yield self.ticks[position], frame
                position += 1
