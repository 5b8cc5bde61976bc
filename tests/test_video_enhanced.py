"""Videos through enhance.py: times, depth and damage of the results."""

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

av = pytest.importorskip("av")

from enhancing import Frames, interrupt_at, make_frames, run, write_frames  # noqa: E402
from videos import numbered_frames, write_video  # noqa: E402

import enhance  # noqa: E402
from enhancement.outputs import open_sink  # noqa: E402
from media.frames import FrameError  # noqa: E402
from media.open import open_source  # noqa: E402
from media.video_sink import VideoSink  # noqa: E402
from utils.config import parse_config  # noqa: E402
from utils.team import ALONE  # noqa: E402


def test_variable_frame_rate(tmp_path, checkpoint):
    seconds = [0, 0.04, 0.2, 0.24, 1]
    given = write_video(tmp_path / "in.mp4", make_frames(5), seconds)
    result = open_source(run(checkpoint, given, tmp_path / "out.mp4"))
    expected = [0, 0.02, 0.04, 0.12, 0.2, 0.22, 0.24, 0.62, 1]
    assert [float(time) for time in result.times] == pytest.approx(expected, abs=1e-4)
    slow = open_source(run(checkpoint, given, tmp_path / "slow.mp4", "--slow-motion"))
    doubled = [2 * time for time in expected]
    assert [float(time) for time in slow.times] == pytest.approx(doubled, abs=1e-4)
    with pytest.raises(ValueError, match="AVI has one fixed frame rate"):
        run(checkpoint, given, tmp_path / "out.avi")


def test_slow_motion_shows_the_last_frame_longer_too(tmp_path):
    source = Frames(make_frames(2), [Fraction(0), Fraction(1, 25)])
    source.last = Fraction(1, 10)
    for slow, factor in ((False, 1), (True, 4)):
        config = enhance.Config("in.mp4", "out.mp4", times=4, slow_motion=slow)
        sink = open_sink(config, source, tmp_path)
        assert sink.times == [Fraction(step, 100) * factor for step in range(5)]
        assert sink.last == source.last * factor


def test_times_that_the_result_does_not_keep_are_said(tmp_path, capsys):
    times = [Fraction(0), Fraction(1, 25), Fraction(1, 5)]
    for output, moments, is_told in (
        ("out", times, True),
        ("out.tif", times, True),
        ("out.mp4", times, False),
        ("out", times[:2], False),
    ):
        source = Frames(make_frames(len(moments)), moments)
        open_sink(enhance.Config("in.mp4", output), source, tmp_path)
        told = "in.mp4: frames 0.04 to 0.16 s apart, which only a video as OUTPUT keeps\n"
        assert capsys.readouterr().err == told * is_told


def test_gaps_in_the_numbers_of_given_frames_are_said(tmp_path, capsys):
    folder = write_frames(tmp_path / "in", make_frames(5))
    *_, gone, last = sorted(folder.iterdir())
    open_sink(enhance.Config(str(folder), "out"), open_source(folder), tmp_path / "work")
    assert capsys.readouterr().err == ""
    gone.unlink()
    open_sink(enhance.Config(str(folder), "out"), open_source(folder), tmp_path / "work")
    told = capsys.readouterr().err
    assert f"{last.name} follows" in told
    assert "enhanced as if evenly timed" in told
    (folder / "more.webp").touch()
    open_sink(enhance.Config(str(folder), "out"), open_source(folder), tmp_path / "work")
    assert "1 pictures of other endings are left out, more.webp" in capsys.readouterr().err


def test_what_a_video_says_of_its_pixels_is_handed_on(tmp_path, capsys):
    source = open_source(write_video(tmp_path / "in.mp4", make_frames(2)))
    source.aspect, source.primaries, source.transfer = Fraction(4, 3), 5, 6
    for name, flags, forgets in (("out.mp4", {}, False), ("out.mkv", {"lossless": True}, True)):
        sink = open_sink(enhance.Config("in.mp4", name, **flags), source, tmp_path / "work")
        assert (sink.aspect, sink.primaries, sink.transfer) == (Fraction(4, 3), 5, 6)
        assert sink.matrix == source.matrix
        assert ("pixels of 4/3 are not square" in capsys.readouterr().err) == forgets
    source.decoder.metadata = {"title": "Harbour"}
    open_sink(enhance.Config("in.mp4", "out"), source, tmp_path / "work")
    told = capsys.readouterr().err
    assert "in.mp4: pixels of 4/3, not square, which only a video as OUTPUT keeps\n" in told
    assert "in.mp4: a file that says its title, which only a video as OUTPUT keeps\n" in told


@pytest.fixture(scope="module")
def enhanced(tmp_path_factory, checkpoint):
    """A video of eight frames, and the folder that is made of it."""
    place = tmp_path_factory.mktemp("video")
    given = write_video(place / "in.mp4", make_frames(8))
    return given, open_source(run(checkpoint, given, place / "folder"))


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".avi"])
def test_frame_rate_doubles_and_pieces_join_exactly(tmp_path, checkpoint, enhanced, suffix):
    given, folder = enhanced
    lossless = () if suffix == ".avi" else ("--lossless",)
    path = run(checkpoint, given, tmp_path / f"out{suffix}", *lossless)
    with av.open(str(path)) as container:
        assert container.streams.video[0].guessed_rate == 50
    result, given = open_source(path), open_source(given)
    count = 16 if suffix == ".avi" else 15  # AVI repeats the last frame, which the others hold
    assert (result.count, result.height, result.width) == (count, 4 * 24, 4 * 32)
    assert result.times[-1] + result.last == given.times[-1] + given.last == Fraction(8, 25)
    for index in range(folder.count):
        difference = result.read(index).astype(int) - folder.read(index)
        # Lossy video keeps colour at half resolution, so only the brightness is compared.
        assert not difference.any() if lossless else np.abs(difference.mean(axis=2)).mean() < 3


def test_ten_bits_stay_ten_bits(tmp_path, checkpoint):
    frames = make_frames(4, 64, 64)
    options = {"codec": "libx265", "pixel_format": "yuv420p10le", "x265-params": "log-level=none"}
    given = write_video(tmp_path / "in.mp4", frames, **options)
    source = open_source(given)
    assert source.dtype == np.uint16
    assert source.depth == 10
    assert np.abs(source.read(0) / 257 - frames[0]).mean() < 4
    path = run(checkpoint, given, tmp_path / "out.mp4")
    with av.open(str(path)) as container:
        assert container.streams.video[0].codec_context.pix_fmt == "yuv420p10le"
        assert container.streams.video[0].codec_context.codec_tag == "hvc1"
    assert run(checkpoint, given, tmp_path / "folder").joinpath("00000006.png").exists()
    assert open_source(tmp_path / "folder").dtype == np.uint16


def test_grey_video(tmp_path, checkpoint):
    given = write_video(tmp_path / "in.mkv", make_frames(2), codec="ffv1", pixel_format="gray")
    assert open_source(given).bands == 1
    result = open_source(run(checkpoint, given, tmp_path / "out.mp4")).read(0)
    assert np.abs(result - result.mean(axis=2, keepdims=True)).max() <= 1


def damaged_video(tmp_path, index):
    """A video of six JPEG frames, of which one has lost its inside."""
    path = write_video(tmp_path / "damaged.avi", make_frames(6), None, "mjpeg", "yuvj420p")
    content = bytearray(path.read_bytes())
    start = -1
    for _ in range(index + 1):
        start = content.index(b"\xff\xd8\xff", start + 1)
    content[start + 2 : start + 300] = bytes(298)
    path.write_bytes(content)
    return path


def test_a_damaged_frame_is_named_and_bridged(tmp_path, checkpoint):
    path = damaged_video(tmp_path, 2)
    source = open_source(path)
    assert source.count == 6
    with pytest.raises(FrameError, match=r"frame 2 \(at 0.080 s\) is damaged"):
        source.read(2)
    source.read(3)
    with pytest.raises(ValueError, match=r"frame 2 .*--skip-bad"):
        run(checkpoint, path, tmp_path / "out.mp4")
    result = open_source(run(checkpoint, path, tmp_path / "out.mp4", "--skip-bad"))
    assert result.count == 11
    neighbours = (result.read(2).astype(int) + result.read(6)) / 2
    assert np.abs(result.read(4) - neighbours).mean() < 6


def test_two_frames_of_one_time_are_told(tmp_path, checkpoint, capsys):
    path = tmp_path / "v.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 32, 24, "yuvj420p"
        for index, pixels in enumerate(make_frames(6)):
            for packet in stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")):
                packet.pts = packet.dts = index - (index in (3, 5))
                container.mux(packet)
    assert open_source(run(checkpoint, path, tmp_path / "out.mp4")).count == 7
    told = capsys.readouterr().err
    assert told.count("another frame of this time is left out") == 2
    assert "at 0.080 s" in told


def test_clear_pixels_of_a_video_are_told(tmp_path, checkpoint, capsys):
    frames = [np.dstack([pixels, pixels[..., 0] // 2 + 60]) for pixels in make_frames(2)]
    for name, alpha in (("clear", True), ("opaque", False)):
        for pixels in frames if not alpha else ():
            pixels[..., 3] = 255
        first, *others = map(Image.fromarray, frames)
        path = tmp_path / f"{name}.apng"
        first.save(path, format="PNG", save_all=True, append_images=others, duration=40)
        run(checkpoint, path, tmp_path / name)
        told = "clear pixels of this video become opaque" in capsys.readouterr().err
        assert told == alpha


def test_a_colon_is_part_of_a_name(tmp_path, checkpoint, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = write_video(Path("at 12:00.mp4"), make_frames(2))
    assert open_source(run(checkpoint, given, "then:4x.mp4")).count == 3


@pytest.mark.parametrize("times", [[0, 1e4], [0, Fraction(1, 25) + Fraction(1, 10**9 + 7)]])
def test_very_slow_and_very_fine_times(tmp_path, times):
    sink = VideoSink(tmp_path / "pieces", 48, 64, [Fraction(time) for time in times])
    sink.write(0, make_frames(2, 48, 64))
    sink.join(tmp_path / "out.mkv")
    assert open_source(tmp_path / "out.mkv").count == 2


@pytest.mark.parametrize("lossless", [False, True])
def test_matroska_tells_how_long_an_uneven_video_lasts(tmp_path, lossless):
    times = [Fraction(time, 100) for time in (0, 4, 30, 60, 90)]
    options = {"suffix": ".mkv", "last": Fraction(1, 10), "lossless": lossless}
    sink = VideoSink(tmp_path / "pieces", 48, 64, times, **options)
    sink.write(0, make_frames(5, 48, 64))
    sink.join(tmp_path / "out.mkv")
    source = open_source(tmp_path / "out.mkv")
    assert float(source.times[-1] + source.last) == pytest.approx(1.0, abs=2e-3)


def test_a_frame_rate_of_ones_own(tmp_path, checkpoint, capsys):
    given = write_video(tmp_path / "in.mp4", make_frames(3), [0, 0.04, 0.2])
    result = open_source(run(checkpoint, given, tmp_path / "out.mp4", "--fps", 10))
    assert [float(time) for time in result.times] == pytest.approx([0, 0.05, 0.1, 0.15, 0.2])
    assert float(result.times[-1] + result.last) == pytest.approx(0.3)
    assert "10 frames per second instead of its own times" in capsys.readouterr().out


@pytest.mark.parametrize(("name", "flags", "is_told"), [
    ("out", (), False),
    ("out.mp4", (), True),
    ("out.mp4", ("--fps", "10"), False),
    ("out", ("--compare",), True),
])  # fmt: skip
def test_a_frame_rate_that_nobody_gave_is_told(tmp_path, capsys, monkeypatch, name, flags, is_told):
    monkeypatch.setattr(enhance, "open_network", lambda *_: (None, "dis", 4))
    given = write_frames(tmp_path / "in", make_frames(2))
    fixed = ("--device", "cpu", "--precision", "float32")
    words = [str(given), str(tmp_path / name), *fixed, *flags]
    config = parse_config(enhance.Config, None, ("input", "output"), words)
    prepared = enhance.prepare(config, tmp_path / name, ALONE)
    assert prepared[1].last == (Fraction(1, 10) if "--fps" in flags else Fraction(1, 25))
    told = capsys.readouterr().out
    assert ("taken as 25 frames per second (any dates in its names" in told) == is_told


def test_a_frame_rate_that_is_a_fraction_is_kept_and_recorded(tmp_path, checkpoint, monkeypatch):
    given = write_frames(tmp_path / "in", make_frames(4))
    flags = given, tmp_path / "out.mp4", "--fps", "30000/1001"
    interrupt_at(monkeypatch, [1])
    with pytest.raises(KeyboardInterrupt):
        run(checkpoint, *flags)
    record = json.loads((tmp_path / "out.mp4.partial" / "job.json").read_text())
    assert record["settings"]["fps"] == "30000/1001"
    result = open_source(run(checkpoint, *flags, "--resume"))
    assert result.times == [index * Fraction(1001, 60000) for index in range(7)]


@pytest.mark.parametrize("rate", [Fraction(30), Fraction(30000, 1001), Fraction(7, 3)])
def test_avi_of_a_rate_that_another_container_has_rounded(tmp_path, rate):
    times = [Fraction(round(1000 * index / rate), 1000) for index in range(61)]
    sink = VideoSink(tmp_path / "pieces", 48, 64, times, suffix=".avi")
    assert sink.times[60] == pytest.approx(60 / rate, abs=0.001)
    assert rate.denominator == 3 or sink.times == [index / rate for index in range(61)]
    with pytest.raises(ValueError, match="AVI has one fixed frame rate"):
        VideoSink(tmp_path / "pieces", 48, 64, [*times[:60], times[60] + 1], suffix=".avi")


def test_matroska_does_not_take_frames_of_one_millisecond(tmp_path):
    times = [Fraction(index, 2000) for index in range(3)]
    with pytest.raises(ValueError, match=r"frames are 0\.5 ms apart, Matroska counts"):
        VideoSink(tmp_path / "pieces", 48, 64, times, suffix=".mkv")
    sink = VideoSink(tmp_path / "pieces", 48, 64, times, suffix=".mp4")
    sink.write(0, make_frames(3, 48, 64))
    sink.join(tmp_path / "out.mp4")
    assert open_source(tmp_path / "out.mp4").times == times


def test_what_a_file_says_in_words_is_kept(tmp_path, checkpoint):
    given = tmp_path / "in.mp4"
    with av.open(str(given), "w") as container:
        container.metadata.update(title="harbour", creation_time="2020-01-02T03:04:05.000000Z")
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height = 32, 24
        for pixels in make_frames(4):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
        container.mux(stream.encode(None))
    for flags, kept in (((), True), (("--start", 1), False)):
        name = f"out{len(flags)}.mp4"
        with av.open(str(run(checkpoint, given, tmp_path / name, *flags))) as container:
            assert container.metadata["title"] == "harbour"
            assert container.metadata.get("creation_time", "").startswith("2020-01-02") == kept


def test_words_about_the_file_itself_are_not_kept(tmp_path):
    with av.open(str(tmp_path / "in.mp4"), "w") as container:
        container.metadata.update(title="harbour")
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height = 32, 24
        for pixels in make_frames(2):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
        container.mux(stream.encode(None))
    with av.open(str(tmp_path / "in.mp4")) as container:
        assert len(container.metadata) > 1  # such as the encoder
    assert open_source(tmp_path / "in.mp4").metadata == {"title": "harbour"}


def test_part_of_a_video(tmp_path, checkpoint):
    given = write_video(tmp_path / "in.mp4", numbered_frames(9))
    result = run(checkpoint, given, tmp_path / "out", "--start", 4, "--frames", 3)
    whole, part = open_source(given), open_source(given)
    part.select(4, 3)
    assert [part.read(index)[4, 4, 0] for index in range(3)] == [
        whole.read(index)[4, 4, 0] for index in range(4, 7)
    ]
    assert (part.times[0], float(part.last)) == (0, pytest.approx(0.04))
    assert "frame 4 (at 0.160 s)" in part.name(0)
    assert len(list(result.iterdir())) == 5
    with pytest.raises(ValueError, match="has 9 frames, none from 9 on"):
        run(checkpoint, given, tmp_path / "no", "--start", 9)


@pytest.mark.parametrize("suffix", [".webm", ".gif", ".wmv", ".ts", ".webp", ".jp2", ".mp3"])
def test_outputs_that_are_not_written_are_refused(tmp_path, suffix):
    with pytest.raises(ValueError, match=rf"out\{suffix}: \{suffix} is not written; give a video"):
        run("none", tmp_path / "in.mp4", tmp_path / f"out{suffix}")
