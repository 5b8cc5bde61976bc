"""Videos that tests write."""

from fractions import Fraction

import av
from enhancing import make_frames

from media.codec import X264_KERNELS


def write_video(path, frames, times=None, codec="libx264", pixel_format="yuv420p", **options):
    """Encode (N, H, W, 3) uint8 frames; times in seconds, by default 25 frames per second."""
    if codec.startswith("libx264"):  # or the same frames could give another file the next time
        given = options.get("x264-params")
        options["x264-params"] = f"{given}:{X264_KERNELS}" if given else X264_KERNELS
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options={"crf": "4"} | options)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pixel_format
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for index, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, "rgb24")
            if times is not None:
                frame.pts, frame.time_base = round(times[index] * 1000), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def numbered_frames(count):
    """Frames that carry their number as the brightness of a corner."""
    frames = make_frames(count, 48, 64)
    for index, frame in enumerate(frames):
        frame[:16, :16] = 9 * index
    return frames
