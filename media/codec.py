"""Frames through a lossy codec and back, in memory: what a compressed file makes of them."""

from collections.abc import Callable
from fractions import Fraction
from functools import partial
from typing import Any

import cv2
import numpy as np

from media.decoder import import_av
from media.video import CHROMA_CENTRED, exact_conversion

AVX_512 = 13  # CPU_AVX_512F in OpenCV's headers
# x264's code for AVX-512 does not give the same result every time, and another than all the rest.
X264_KERNELS = f"asm={'AVX2' if cv2.checkHardwareSupport(AVX_512) else 'auto'}"
# The encoders' names in FFmpeg. One thread each: loader processes share the cores.
ENCODERS = {
    "h264": ("libx264", "x264-params", f"log-level=none:{X264_KERNELS}"),
    "hevc": ("libx265", "x265-params", "log-level=none:pools=none:frame-threads=1"),
}
# Sides are even in 4:2:0. x265 writes beyond its memory in frames of less than 50 pixels, and its
# result is not the same every time in frames of one block of 64.
LEAST_SIDES = {"h264": 64, "hevc": 66}
# Of satellite video, per second. Encoders spend more on a frame that is shown for longer.
FRAME_RATE = Fraction(10)


def through_video(frames: np.ndarray, crf: int, codec: str, exact: bool = False) -> np.ndarray:
    """Encode frames as one video, YUV 4:2:0, the first one the key frame, and decode it.

    Arguments:
        frames: (T, H, W, 3) uint8 RGB; so is the result.
        crf: constant rate factor, 0 to 51; FFmpeg's default is 23 for H.264, 28 for H.265.
        codec: "h264" or "hevc", with the preset that FFmpeg has by default.
        exact: the colours, which have half the resolution, are interpolated where they lie, as
            `media.video` reads a file; else they are repeated, as PyAV does by default.
    """
    av = import_av()
    name, option, parameters = ENCODERS[codec]
    if exact:
        parameters += CHROMA_CENTRED
    conversion = {"interpolation": exact_conversion()} if exact else {}
    height, width = frames.shape[1:3]
    missing = [max(LEAST_SIDES[codec] - side, side % 2) for side in (height, width)]
    frames = np.pad(frames, ((0, 0), (0, missing[0]), (0, missing[1]), (0, 0)), mode="symmetric")
    encoder = av.CodecContext.create(name, "w")
    encoder.height, encoder.width = frames.shape[1:3]
    encoder.pix_fmt, encoder.thread_count = "yuv420p", 1
    encoder.time_base, encoder.framerate = 1 / FRAME_RATE, FRAME_RATE
    encoder.options = {option: parameters, "crf": str(crf)}
    packets: list[Any] = []
    for time, pixels in enumerate(frames):
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
        frame = frame.reformat(format="yuv420p", **conversion)
        frame.pts = time
        packets += encoder.encode(frame)
    packets += encoder.encode(None)

    decoder = av.CodecContext.create(codec, "r")
    decoder.thread_count = 1
    decoded = [frame for packet in packets for frame in decoder.decode(packet)]
    decoded += decoder.decode(None)
    assert len(decoded) == len(frames)
    decoded.sort(key=lambda frame: frame.pts)
    decoded = [frame.reformat(format="rgb24", **conversion).to_ndarray() for frame in decoded]
    return np.stack(decoded)[:, :height, :width]


def through_jpeg(frames: np.ndarray, quality: int) -> np.ndarray:
    """Each frame as a JPEG with colour at half resolution (4:2:0), as MJPEG video has it too.

    Arguments:
        frames: (T, H, W, 3) uint8 RGB; so is the result.
        quality: of libjpeg, 1 to 100.
    """
    settings = (cv2.IMWRITE_JPEG_QUALITY, quality)
    settings += (cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420)
    decoded = []
    for frame in frames:
        _, code = cv2.imencode(".jpg", frame[..., ::-1], settings)
        decoded.append(cv2.imdecode(code, cv2.IMREAD_COLOR)[..., ::-1])
    return np.stack(decoded)


# Frames (T, H, W, 3) uint8, a strength (CRF or quality) and `exact` to what is decoded again.
CODECS: dict[str, Callable[[np.ndarray, int, bool], np.ndarray]] = {
    "h264": partial(through_video, codec="h264"),
    "hevc": partial(through_video, codec="hevc"),
    "jpeg": lambda frames, quality, exact: through_jpeg(frames, quality),  # libjpeg's is exact
}


def check_available(name: str) -> None:
    """Refuse, by a ValueError, a codec of CODECS that this machine cannot encode."""
    if name not in ENCODERS:
        return
    known = import_av().codecs_available
    there = [codec for codec, (encoder, *_) in ENCODERS.items() if encoder in known]
    if name not in there:
        raise ValueError(
            f"this PyAV cannot encode {name}, it has no {ENCODERS[name][0]}; of the codecs here it "
            f"has {', '.join(there) or 'none'}"
        )
