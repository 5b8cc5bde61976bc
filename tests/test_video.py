"""Video files: colours, times, depth and rotation survive; damage is named."""

import io
import sys
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image, features

av = pytest.importorskip("av")

from enhancing import make_frames, run  # noqa: E402
from videos import numbered_frames, write_video  # noqa: E402

from media.decoder import Decoder  # noqa: E402
from media.frames import FrameError  # noqa: E402
from media.open import open_source  # noqa: E402
from media.video import BT601, BT709  # noqa: E402
from media.video_sink import VideoSink  # noqa: E402

COLOURS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (128, 128, 128), (255, 255, 255), (0, 0, 0)]
COLOURS += [(200, 100, 50), (30, 180, 220)]
SWSCALE = {BT601: 5, BT709: 1}


@pytest.mark.parametrize("lossless", [False, True])
@pytest.mark.parametrize("matrix", [BT601, BT709])
@pytest.mark.parametrize("depth", [8, 10])
def test_flat_colours_survive(tmp_path, depth, matrix, lossless):
    scale = 1 if depth == 8 else 257
    frames = [
        np.full((64, 80, 3), colour, np.uint8 if depth == 8 else np.uint16) * scale
        for colour in COLOURS
    ]
    times = [Fraction(index, 25) for index in range(len(frames))]
    path = tmp_path / "colours.mkv"
    options = {"depth": depth, "matrix": matrix, "suffix": ".mkv", "lossless": lossless}
    sink = VideoSink(tmp_path / "pieces", 64, 80, times, **options)
    sink.write(0, frames)
    sink.join(path)
    source = open_source(path)
    assert source.dtype == frames[0].dtype
    for index, pixels in enumerate(frames):
        difference = np.abs(source.read(index).astype(int) - pixels)
        # Limited range has 219 steps for 255 levels: no 8-bit YUV can do better than 2.
        assert difference.max() <= (0 if lossless else 2 * scale), COLOURS[index]


@pytest.mark.parametrize("depth", [8, 10])
def test_colours_stay_in_their_place(tmp_path, depth):
    """Where colour at half resolution lies: half a pixel to the left is the default of H.264."""
    columns = np.arange(128)
    wave = 60 * np.sin(2 * np.pi * columns / 16)
    frame = np.full((64, 128, 3), 128, np.uint8)
    frame[..., 0], frame[..., 2] = np.rint(128 + wave), np.rint(128 - wave)
    pixels = frame if depth == 8 else frame.astype(np.uint16) * 257
    sink = VideoSink(tmp_path / "pieces", 64, 128, [Fraction(0), Fraction(1, 25)], depth=depth)
    sink.write(0, [pixels, pixels])
    sink.join(tmp_path / "out.mp4")
    result = open_source(tmp_path / "out.mp4").read(1) / (1 if depth == 8 else 257)
    assert np.abs(result - frame).mean() < 1.5  # 4 where the colours are half a pixel off


def test_the_shape_of_pixels_and_what_the_colours_mean_are_written(tmp_path):
    kind = {"aspect": Fraction(4, 3), "matrix": BT601, "primaries": 5, "transfer": 6}
    sink = VideoSink(tmp_path / "pieces", 48, 64, [Fraction(0), Fraction(1, 25)], **kind)
    sink.write(0, make_frames(2, 48, 64))
    sink.join(tmp_path / "out.mp4")
    source = open_source(tmp_path / "out.mp4")
    assert {name: getattr(source, name) for name in kind} == kind


@pytest.mark.parametrize("full_range", [False, True])
@pytest.mark.parametrize("matrix", [BT601, BT709])
def test_the_files_own_matrix_and_range_are_used(tmp_path, matrix, full_range):
    colour = np.array((200, 100, 50), np.uint8)
    with av.open(str(tmp_path / "v.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "1"})
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        context = stream.codec_context
        context.colorspace, context.color_range = matrix, 2 if full_range else 1
        pixels = np.broadcast_to(colour, (32, 48, 3)).copy()
        for _ in range(2):
            frame = av.VideoFrame.from_ndarray(pixels, "rgb24").reformat(
                format="yuv420p",
                dst_colorspace=SWSCALE[matrix],
                src_color_range=2,
                dst_color_range=2 if full_range else 1,
            )
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    source = open_source(tmp_path / "v.mp4")
    assert source.matrix == matrix
    assert source.full_range == full_range
    assert np.abs(source.read(1).astype(int) - colour).max() <= 3


@pytest.mark.parametrize("pixel_format", ["gray", "gray16be"])
def test_grey_png_in_quicktime_is_read(tmp_path, pixel_format):
    frames = [np.repeat(frame[..., :1], 3, axis=2) for frame in make_frames(2)]
    path = write_video(tmp_path / "v.mov", frames, None, "png", pixel_format)
    source = open_source(path)
    scale = 1 if pixel_format == "gray" else 257
    assert np.abs(source.read(1) / scale - frames[1][..., :1]).max() <= 1


def test_a_matrix_that_is_not_read_is_refused(tmp_path):
    options = {"x264-params": "colormatrix=YCgCo"}
    path = write_video(tmp_path / "v.mkv", make_frames(2, 64, 64), **options)
    with pytest.raises(ValueError, match=r"has the colour matrix 8 .* convert it to RGB or BT.709"):
        open_source(path)


def test_interlaced_frames_are_told(tmp_path, checkpoint, capsys):
    options = {"x264-params": "tff=1"}
    path = write_video(tmp_path / "v.mkv", make_frames(3, 64, 64), **options)
    run(checkpoint, path, tmp_path / "out")
    assert "its frames are interlaced, and taken as they are" in capsys.readouterr().err


@pytest.mark.parametrize(("codec", "suffix", "pixel_format"), [
    ("mjpeg", ".avi", "yuvj420p"),
    ("prores_ks", ".mov", "yuv422p10le"),
    ("rawvideo", ".avi", "yuv420p"),
    ("libx265", ".mkv", "yuv420p"),
])  # fmt: skip
def test_codecs_of_cameras_are_read(tmp_path, codec, suffix, pixel_format):
    frames = make_frames(3, 64, 64)
    options = {"x265-params": "log-level=none"} if codec == "libx265" else {}
    path = write_video(tmp_path / f"v{suffix}", frames, None, codec, pixel_format, **options)
    source = open_source(path)
    assert source.count == 3
    levels = np.iinfo(source.dtype).max
    assert np.abs(source.read(2) / levels - frames[2] / 255).mean() < 0.05


@pytest.mark.parametrize(("matrix", "shown"), [
    ((0, 1, -1, 0), lambda pixels: np.rot90(pixels, -1)),  # of a phone held upright
    ((0, -1, 1, 0), lambda pixels: np.rot90(pixels)),
    ((-1, 0, 0, -1), lambda pixels: pixels[::-1, ::-1]),
    ((-1, 0, 0, 1), lambda pixels: pixels[:, ::-1]),  # of a front camera
    ((1, 0, 0, -1), lambda pixels: pixels[::-1]),
    ((0, 1, 1, 0), lambda pixels: pixels.swapaxes(0, 1)),
])  # fmt: skip
def test_frames_are_turned_and_mirrored_as_the_file_says(tmp_path, matrix, shown):
    path = write_video(tmp_path / "v.mp4", make_frames(3, 32, 64))
    stored = open_source(path).read(1)
    content = bytearray(path.read_bytes())
    start = content.index(b"tkhd") + 4 + 40
    a, b, c, d = (65536 * value for value in matrix)
    values = [a, b, 0, c, d, 0, 0, 0, 2**30]
    content[start : start + 36] = np.array(values, ">i4").tobytes()
    path.write_bytes(content)
    source = open_source(path)
    expected = shown(stored)
    assert (source.height, source.width) == expected.shape[:2]
    np.testing.assert_array_equal(source.read(1), expected)


def test_reading_backwards(tmp_path):
    source = open_source(write_video(tmp_path / "v.mp4", make_frames(14)))
    first, last = source.read(0), source.read(13)
    np.testing.assert_array_equal(source.read(0), first)
    np.testing.assert_array_equal(source.read(13), last)
    assert (first != last).any()


def numbers_of(path):
    """The numbers that are read from such frames, with None for a damaged one."""
    source, numbers = open_source(path), []
    for index in range(source.count):
        try:
            numbers.append(round(source.read(index)[2:12, 2:12].mean() / 9))
        except FrameError:
            numbers.append(None)
    return numbers


def spoil_packet(path, index):
    """Replace all but the first bytes of a packet by noise."""
    with av.open(str(path)) as container:
        packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    content = path.read_bytes()
    body = packets[index][20:]
    assert content.count(body) == 1
    noise = np.random.default_rng(0).integers(1, 256, len(body), np.uint8).tobytes()
    path.write_bytes(content.replace(body, noise))


def test_mp4_that_knows_only_when_to_decode(tmp_path):
    frames = numbered_frames(12)
    ordered = write_video(tmp_path / "ordered.mkv", frames, bf="3", b_strategy="0")
    path = tmp_path / "v.mp4"
    with av.open(str(ordered)) as given, av.open(str(path), "w") as container:
        stream = container.add_stream_from_template(given.streams.video[0])
        packets = [packet for packet in given.demux(given.streams.video[0]) if packet.size]
        times = sorted(packet.pts for packet in packets)
        assert times != [packet.pts for packet in packets]
        for packet, time in zip(packets, times, strict=True):
            packet.stream, packet.pts, packet.dts = stream, time, time
            container.mux(packet)
    assert numbers_of(path) == list(range(12))


def test_avi_with_frames_out_of_order(tmp_path):
    """H.264 as x264 makes it by default: AVI holds the packets, but not the times of the frames."""
    frames = numbered_frames(26)
    ordered = open_source(write_video(tmp_path / "v.mp4", frames))
    path = write_video(tmp_path / "v.avi", frames)
    assert numbers_of(path) == list(range(26))
    source = open_source(path)
    assert [25 * time for time in source.times] == list(range(26))
    for index in (0, 13, 25):
        np.testing.assert_array_equal(source.read(index), ordered.read(index))


@pytest.mark.parametrize(("suffix", "between", "lost"), [
    (".mp4", 0, range(7, 12)),
    (".avi", 0, range(7, 12)),
    (".mp4", 2, (5, 7, 9, 10, 11)),  # packet 7 is frame 5, which 7 needs, but not 6 and 8
    (".avi", 2, range(5, 12)),  # the order of the others is not known without times
])  # fmt: skip
def test_damage_reaches_to_the_next_key_frame(tmp_path, suffix, between, lost):
    options = {"g": "12"} | ({} if between else {"bf": "0"})
    path = write_video(tmp_path / f"v{suffix}", numbered_frames(26), **options)
    spoil_packet(path, 7)
    assert numbers_of(path) == [None if index in lost else index for index in range(26)]


@pytest.mark.parametrize(("suffix", "kind"), [(".gif", "GIF"), (".apng", "PNG"), (".avif", "AVIF")])
def test_all_frames_of_an_animation_are_read(tmp_path, suffix, kind):
    """An animated AVIF begins with a still picture, a video stream of its own."""
    if kind == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow writes no AVIF")
    path = tmp_path / f"v{suffix}"
    frames = [Image.fromarray(pixels) for pixels in make_frames(4)]
    frames[0].save(path, kind, save_all=True, append_images=frames[1:], duration=40)
    source = open_source(path)
    assert [float(time) for time in source.times] == pytest.approx([0, 0.04, 0.08, 0.12])
    assert np.abs(source.read(3) - make_frames(4)[3].astype(float)).mean() < 12
    assert not source.not_kept


def gif_comment(text):
    return b"\x21\xfe" + bytes([len(text)]) + text + b"\0"


@pytest.mark.parametrize("place", ["start", "end"])
@pytest.mark.parametrize("text", [b"made by me", "Gr\xf6\xdfe".encode("latin-1")])
def test_comments_of_a_gif_do_not_matter(tmp_path, place, text):
    frames = [Image.fromarray(pixels) for pixels in make_frames(4)]
    path = tmp_path / "v.gif"
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=40)
    content, expected = path.read_bytes(), open_source(path).read(3)
    table = 3 * 2 ** ((content[10] & 7) + 1) if content[10] & 0x80 else 0
    where = 13 + table if place == "start" else len(content) - 1
    path.write_bytes(content[:where] + gif_comment(text) + content[where:])
    source = open_source(path)
    assert source.count == 4
    np.testing.assert_array_equal(source.read(3), expected)


@pytest.mark.parametrize(("orientation", "shown"), [
    (1, lambda pixels: pixels),
    (2, lambda pixels: pixels[:, ::-1]),
    (6, lambda pixels: np.rot90(pixels, -1)),
])  # fmt: skip
def test_exif_data_of_motion_jpeg(tmp_path, orientation, shown):
    exif, content = Image.Exif(), b""
    exif[274] = orientation
    frames = make_frames(3, 32, 64)
    for pixels in frames:
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=95, exif=exif)
        content += file.getvalue()
    (tmp_path / "v.mjpeg").write_bytes(content)
    source = open_source(tmp_path / "v.mjpeg")
    assert source.count == 3
    assert np.abs(source.read(1).astype(int) - shown(frames[1])).mean() < 4


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
@pytest.mark.parametrize("options", [{}, {"bf": "2", "b_strategy": "0"}])
@pytest.mark.parametrize("count", [2, 3, 9])
def test_times_of_ones_own_are_kept(tmp_path, suffix, options, count):
    """Noise too, of which x264 makes no B-frames, though it says that there may be some."""
    times = [0.02 * index * (index + 1) / 2 for index in range(count)]
    frames = np.random.default_rng(1).integers(0, 256, (count, 48, 64, 3), np.uint8)
    source = open_source(write_video(tmp_path / f"v{suffix}", frames, times, **options))
    assert [float(time) for time in source.times] == pytest.approx(times, abs=2e-3)
    assert np.abs(source.read(count - 1)[..., 1] - frames[-1, ..., 1].astype(float)).mean() < 30


GROUPS = "keyint=6:min-keyint=6:scenecut=0:b-adapt=0:bframes=3:log-level=none"
PARTS = [
    ("v.mp4", "libx264", GROUPS, 19),
    ("v.ts", "libx264", f"{GROUPS}:open-gop=1", 21),
    ("v.mkv", "libx264", "keyint=8:min-keyint=8:open-gop=1:log-level=none", 40),
    ("v.mkv", "libx265", f"{GROUPS}:open-gop=1", 21),
    ("v.mp4", "libx264", "keyint=6:intra-refresh=1:bframes=0", 40),  # no frame stands alone
    ("v.avi", "libx264", GROUPS, 30),  # no times
    ("v.h264", "libx264", GROUPS, 30),  # neither times nor an index
]


@pytest.mark.parametrize(("name", "codec", "parameters", "decoded"), PARTS)
def test_a_part_begins_at_the_key_frame_before(
    tmp_path, monkeypatch, name, codec, parameters, decoded
):
    options = {codec.removeprefix("lib") + "-params": parameters}
    path = write_video(tmp_path / name, numbered_frames(24), codec=codec, **options)
    whole = open_source(path)
    expected = [whole.read(index) for index in range(24)]
    packets, decode = [], Decoder._decode

    def counted(*arguments):
        for packet in decode(*arguments):
            packets.append(packet)
            yield packet

    monkeypatch.setattr(Decoder, "_decode", counted)
    for start in range(0, 22, 3):
        part = open_source(path)
        part.select(start, 3)
        packets.clear()
        for index in range(part.count):
            assert np.array_equal(part.read(index), expected[start + index]), (start, index)
        if start == 15:
            assert len(packets) < decoded


def test_what_is_no_video_is_refused(tmp_path, checkpoint):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video at all" * 100)
    with pytest.raises(ValueError, match=r"broken.mp4 cannot be read as video"):
        open_source(broken)
    first, second = map(Image.fromarray, make_frames(2))
    first.save(tmp_path / "moving.webp", save_all=True, append_images=[second])
    with pytest.raises(ValueError, match=r"\(webp\).* animated WebP; .* as a folder of PNG files"):
        open_source(tmp_path / "moving.webp")
    single = write_video(tmp_path / "single.mp4", make_frames(1))
    with pytest.raises(ValueError, match=r"1 frame to enhance .* at least two"):
        run(checkpoint, single, tmp_path / "out.mp4")
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        silence.rate = 44100
        container.mux(stream.encode(silence))
        container.mux(stream.encode(None))
    with pytest.raises(ValueError, match="has no video stream"):
        open_source(tmp_path / "sound.mp4")


def test_frames_too_large_for_a_codec_are_refused(tmp_path):
    times = [Fraction(0), Fraction(1, 25)]
    with pytest.raises(ValueError, match="48000x20000 is too large for libx264"):
        VideoSink(tmp_path, 20000, 48000, times)
    with pytest.raises(ValueError, match=r"needs an OUTPUT that ends in .mkv"):
        VideoSink(tmp_path, 64, 64, times, depth=10, lossless=True)
    for suffix in (".avi", ".m4v"):
        with pytest.raises(ValueError, match=f"{suffix} cannot hold 10-bit H.265"):
            VideoSink(tmp_path, 64, 64, times, depth=10, suffix=suffix)


def test_a_missing_library_is_named(tmp_path, monkeypatch):
    path = write_video(tmp_path / "v.mp4", make_frames(2))
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ValueError, match=r"requirements-video.txt"):
        open_source(path)
