"""Video files through PyAV (FFmpeg): decoding to RGB, and the times of frames.

Any codec of FFmpeg. Frames come upright (turned and mirrored as the file says) as RGB, 8
bits as uint8, deeper ones as uint16 at full scale; every frame has the time its file gives it, so
a variable frame rate survives. A damaged frame is named at its time, and so are those that build
on it, up to the next key frame. The matrix (BT.601, BT.709, ...) and the range (limited or full)
are those of the file; a file that does not say is taken as players take it: BT.709 from 720 lines
or 1280 columns on, BT.601 below, limited range. Other matrices (YCgCo, ICtCp, BT.2020 with constant
luminance) are refused. Interlaced frames are taken as they are.
"""

from collections import deque
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from media.decoder import Decoder
from media.frames import FrameError, Source

KEPT = 8  # decoded frames at hand for reading a little backwards

# AVColorSpace of a frame -> the matrix that swscale knows. Identity (RGB) needs none.
UNSPECIFIED, RESERVED, RGB = 2, 3, 0
BT709, BT601 = 1, 6
SWSCALE_MATRIX = {1: 1, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9}
LIMITED, FULL = 1, 2  # AVColorRange
# What a frame may say besides that no output keeps, by PyAV's names.
NOT_KEPT = {
    "MASTERING_DISPLAY_METADATA": "mastering display (HDR10)",
    "CONTENT_LIGHT_LEVEL": "content light level (HDR10)",
    "DYNAMIC_HDR_PLUS": "dynamic metadata (HDR10+)",
    "DOVI_METADATA": "dynamic metadata (Dolby Vision)",
    "A53_CC": "closed captions",
    "S12M_TIMECODE": "timecodes",
}
# For x264 and x265: `exact_conversion` puts a colour of 4:2:0 in the middle of its four pixels.
CHROMA_CENTRED = ":chromaloc=1"


def exact_conversion() -> Any:
    """The flags of swscale that round correctly; its defaults are up to 3 levels off."""
    from av.video.reformatter import Interpolation

    exact = Interpolation.ACCURATE_RND | Interpolation.BITEXACT
    full_chroma = Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP
    return Interpolation.BICUBIC | exact | full_chroma


def display_matrix(frame: Any) -> tuple[int, int, int, int]:
    """a, b, c, d of a frame: its pixel (x, y) is shown at (ax + cy, bx + dy), but for a shift."""
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return 1, 0, 0, 1
    values = np.frombuffer(bytes(data), np.int32)
    return tuple(map(int, values[[0, 1, 3, 4]]))


def is_clear(frame: Any) -> bool:
    """Whether a frame has pixels that are not opaque."""
    if not any(component.is_alpha for component in frame.format.components):
        return False
    return bool((frame.reformat(format="rgba").to_ndarray()[..., 3] < 255).any())


def is_sideways(a: int, b: int, c: int, d: int) -> bool:
    """Whether a display matrix makes rows of columns."""
    return abs(b) > abs(a)


def upright(pixels: np.ndarray, a: int, b: int, c: int, d: int) -> np.ndarray:
    """Turn and mirror (H, W, bands) as a display matrix says, to the nearest right angle."""
    if is_sideways(a, b, c, d):
        pixels, a, d = pixels.swapaxes(0, 1), c, b
    return pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]


class VideoSource(Source):
    """The frames of the first video stream of a file, decoded as they are asked for.

    Reading forwards is cheap; reading further back than KEPT frames decodes from the first one on.

    Raises: ValueError: no video, a codec that FFmpeg cannot read, or no readable frame.
    """

    def __init__(self, path: Path):
        self.path, self.suffix = path, ".png"
        self.clear = False  # whether a frame read so far has pixels that are not opaque
        self.interlaced = False  # whether one has two fields, of two times
        self.decoder = Decoder(path)
        self.ticks, self.aspect = self.decoder.ticks, self.decoder.aspect
        self.count = len(self.ticks)
        if not self.count:
            raise ValueError(f"{path} has a video stream without frames")
        self.first = 0  # frames that are left out before the first one
        self.shared = set()  # frames whose time the file gives to another one too
        self._set_times(self.ticks[-1] + self.decoder.last)
        self._rewind()
        self._adopt_first()

    def _set_times(self, end: int) -> None:
        """The times of the frames from their ticks; the last one is shown until `end`."""
        base = self.decoder.time_base
        self.times = [(tick - self.ticks[0]) * base for tick in self.ticks]
        self.last = (end - self.ticks[-1]) * base

    def keep_only(self, part: slice) -> None:
        following = self.ticks[part.stop :] or [self.ticks[-1] + self.decoder.last]
        self.ticks, self.first = self.ticks[part], self.first + part.start
        self._set_times(following[0])
        self._rewind()

    @property
    def metadata(self) -> dict[str, str]:
        """What the file says in words of these frames: the time it gives is that of its first."""
        own = self.decoder.metadata
        return own if not self.first else {k: v for k, v in own.items() if k != "creation_time"}

    @property
    def begin(self) -> Fraction:
        """Seconds in the file at which the first frame is shown."""
        return self.ticks[0] * self.decoder.time_base

    def _adopt_first(self) -> None:
        _, frame = self._next()
        if frame is None:
            raise ValueError(
                f"{self.path} has no frame that can be decoded ({self.decoder.codec}): it is "
                "damaged, or of a kind that FFmpeg does not read, such as animated WebP; convert "
                "it with another program, or give its frames as a folder of PNG files"
            )
        self.depth = max(8, *(component.bits for component in frame.format.components))
        self.grey = frame.format.name.startswith("gray")
        matrix = frame.colorspace
        if frame.format.is_rgb:
            matrix = RGB
        elif matrix in (UNSPECIFIED, RESERVED, RGB):  # RGB: grey PNG says so
            matrix = BT709 if frame.height >= 720 or frame.width >= 1280 else BT601
        elif matrix not in SWSCALE_MATRIX:
            raise ValueError(
                f"{self.path} has the colour matrix {matrix} (FFmpeg's number), which is not read; "
                "convert it to RGB or BT.709"
            )
        self.matrix = matrix
        self.full_range = frame.color_range == FULL or frame.format.name.startswith("yuvj")
        self.primaries, self.transfer = frame.color_primaries, frame.color_trc
        beside = [told for kind, told in NOT_KEPT.items() if frame.side_data.get(kind)]
        self.not_kept = [*self.decoder.others, *beside]  # what no output keeps, in words
        if self.aspect and is_sideways(*display_matrix(frame)):
            self.aspect = 1 / self.aspect
        self.adopt(self._pixels(frame))
        self.full_scale = True
        # H.264 on RGB is written where nothing may be lost, by this program too.
        self.lossy = self.decoder.lossy and not frame.format.is_rgb
        self._rewind()

    def _rewind(self) -> None:
        self._frames = self.decoder.frames(self.ticks[0])
        self._position = 0  # index of the next frame to come
        self._pending = None  # a decoded frame of a later time, and its tick
        self._recent: deque[tuple[int, np.ndarray | None]] = deque(maxlen=KEPT)

    def _next(self) -> tuple[int | None, Any]:
        return next(self._frames, (None, None))

    def read(self, index: int) -> np.ndarray:
        if self._recent and index < self._recent[0][0]:
            self._rewind()
        while self._position <= index:
            self._recent.append((self._position, self._advance()))
            self._position += 1
        pixels = dict(self._recent)[index]
        if pixels is None:
            raise FrameError(f"{self.name(index)} is damaged")
        return self.check(pixels, index)

    def _advance(self) -> np.ndarray | None:
        """The next frame in order of time, or None where the file holds it but damaged."""
        wanted = self.ticks[self._position]
        tick, frame = self._pending or self._next()
        while tick is not None and tick < wanted:  # hidden frames of some codecs
            if self._position and tick == self.ticks[self._position - 1]:
                self.shared.add(self._position - 1)
            tick, frame = self._next()
        if frame is None or (tick is not None and tick > wanted):
            self._pending = (tick, frame) if frame is not None else None
            return None
        self._pending = None
        if self._position == self.count - 1 and self._next()[0] == wanted:
            self.shared.add(self._position)
        return self._pixels(frame)

    def _pixels(self, frame) -> np.ndarray:
        """A decoded frame as (H, W, bands)."""
        try:
            rgb = frame.reformat(
                format="rgb48le" if self.depth > 8 else "rgb24",
                src_colorspace=SWSCALE_MATRIX.get(self.matrix),
                src_color_range=FULL if self.full_range or self.matrix == RGB else LIMITED,
                dst_color_range=FULL,
                interpolation=exact_conversion(),
            ).to_ndarray()
        except (self.decoder.av.error.FFmpegError, ValueError) as error:
            raise FrameError(
                f"{self.path}: a frame cannot be converted to RGB ({error})"
            ) from error
        self.clear = self.clear or is_clear(frame)
        self.interlaced = self.interlaced or frame.interlaced_frame
        rgb = rgb[..., :1] if self.grey else rgb
        return np.ascontiguousarray(upright(rgb, *display_matrix(frame)))

    def name(self, index: int) -> str:
        seconds = (self.ticks[index] - self.decoder.ticks[0]) * self.decoder.time_base
        return f"{self.path}: frame {self.first + index} (at {float(seconds):.3f} s)"
