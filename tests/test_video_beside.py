"""What a video holds beside its frames, through enhance.py: sound, chapters, data."""

from fractions import Fraction

import numpy as np
import pytest

av = pytest.importorskip("av")

from enhancing import make_frames, run  # noqa: E402
from videos import write_video  # noqa: E402

import enhance  # noqa: E402
from enhancement.outputs import check_sound_wanted, open_sink  # noqa: E402
from media.open import open_source  # noqa: E402
from media.video_sink import VideoSink, check_sound  # noqa: E402


def video_with_sound(path, codec="aac", delay=0.0, rate=48000):
    """Eight frames of 0.04 s, and a tone of the same length, some seconds later."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=25)
        video.width, video.height, video.pix_fmt = 32, 24, "yuv420p"
        audio = container.add_stream(codec, rate=rate)
        audio.bit_rate = 64_000
        for pixels in make_frames(8):
            container.mux(video.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
        container.mux(video.encode(None))
        resampler = av.AudioResampler(audio.format, audio.layout, audio.rate)
        tone = np.sin(np.arange(rate * 8 // 25) / 20).astype(np.float32)[None]
        frame = av.AudioFrame.from_ndarray(tone, "fltp", "mono")
        frame.rate, frame.time_base = rate, Fraction(1, rate)
        frame.pts = round(rate * delay)
        for part in resampler.resample(frame):
            container.mux(audio.encode(part))
        container.mux(audio.encode(None))
    return path


def sound_times(path):
    with av.open(str(path)) as container:
        return [float(p.pts * p.time_base) for p in container.demux(audio=0) if p.size]


def decoded_sound(path):
    """All samples of a video from its first frame on, -1 to 1."""
    with av.open(str(path)) as container:
        resampler = av.AudioResampler("flt", "mono", container.streams.audio[0].rate)
        parts = [part for frame in container.decode(audio=0) for part in resampler.resample(frame)]
        return np.concatenate([part.to_ndarray()[0] for part in parts])


def test_sound_is_copied_or_told(tmp_path, checkpoint, capsys):
    given = video_with_sound(tmp_path / "in.mp4")
    run(checkpoint, given, tmp_path / "without.mp4")
    assert "its sound is left out; --keep-audio copies it" in capsys.readouterr().err
    with av.open(str(tmp_path / "without.mp4")) as container:
        assert not container.streams.audio
    expected = sound_times(given)
    assert len(expected) > 10
    # Its first packet fills the decoder before the first frame, which Matroska cannot say of it.
    for suffix, first in ((".mp4", 0), (".mkv", 1)):
        result = run(checkpoint, given, tmp_path / f"with{suffix}", "--keep-audio")
        assert sound_times(result) == pytest.approx(expected[first:], abs=1e-3)
    assert open_source(result).count == 15
    # From frame 5 on, 0.2 s later.
    part = run(checkpoint, given, tmp_path / "part.mp4", "--keep-audio", "--start", 5)
    later = [time - 0.2 for time in expected if time >= 0.1]
    assert sound_times(part) == pytest.approx(later, abs=1e-3)


@pytest.mark.parametrize(
    ("codec", "suffix", "begin", "rate"),
    [
        ("aac", ".mp4", Fraction(0), 48000),
        ("aac", ".mp4", Fraction(1, 5), 8000),  # packets of 0.13 s
        ("ac3", ".mkv", Fraction(0), 48000),
        ("aac", ".m4v", Fraction(1, 5), 48000),
        ("pcm_s16le", ".mov", Fraction(1, 5), 48000),
        ("aac", ".avi", Fraction(1, 5), 48000),
    ],
)
def test_sound_stays_with_the_frames_to_the_sample(tmp_path, codec, suffix, begin, rate):
    given = video_with_sound(tmp_path / f"in{suffix}", codec, rate=rate)
    suffix = ".mp4" if suffix == ".avi" else suffix
    times = [Fraction(index, 25) for index in range(3)]
    options = {"suffix": suffix, "sound": given, "begin": begin}
    sink = VideoSink(tmp_path / "pieces", 48, 64, times, **options)
    sink.write(0, make_frames(3, 48, 64))
    sink.join(tmp_path / f"out{suffix}")
    assert open_source(tmp_path / f"out{suffix}").begin == 0
    count = rate * 3 // 25  # samples in three frames
    expected = decoded_sound(given)[round(rate * begin) :][:count]
    # A decoder of AAC makes noise up by itself; a sample of delay would be a difference of 0.05.
    assert decoded_sound(tmp_path / f"out{suffix}")[:count] == pytest.approx(expected, abs=0.03)


def test_keeping_the_sound_is_proposed_where_it_can_be_kept(tmp_path, capsys):
    source = open_source(video_with_sound(tmp_path / "in.mp4"))
    kept, lost = "--keep-audio copies it", "only a video of its times holds it"
    cases = [("out.mp4", {}, kept), ("out", {}, lost), ("out.mp4", {"slow_motion": True}, lost)]
    for output, flags, hint in [*cases, ("out.mp4", {"fps": 5.0}, lost)]:
        check_sound_wanted(enhance.Config("in.mp4", output, **flags), source)
        assert capsys.readouterr().err == f"in.mp4: its sound is left out; {hint}\n"


def test_sound_that_cannot_be_copied_is_refused(tmp_path, checkpoint):
    given = video_with_sound(tmp_path / "in.avi", "wmav2")
    with pytest.raises(ValueError, match=r"\.mp4 cannot hold its sound \(wmav2\)"):
        run(checkpoint, given, tmp_path / "out.mp4", "--keep-audio")
    with pytest.raises(ValueError, match=r"\.m4v cannot hold its sound \(pcm_s16le\)"):
        check_sound(video_with_sound(tmp_path / "in.mov", "pcm_s16le"), ".m4v", Fraction(0))
    check_sound(video_with_sound(tmp_path / "in.mp4"), ".m4v", Fraction(0))
    for flags in (["out.mp4", "--slow-motion"], ["out.mp4", "--fps", 10], ["folder"]):
        with pytest.raises(ValueError, match="a video that keeps its times"):
            run(checkpoint, given, tmp_path / flags[0], "--keep-audio", *flags[1:])
    late = video_with_sound(tmp_path / "late.mkv", delay=0.5)
    with pytest.raises(ValueError, match=r"sound begins 0\.[45]\d* s after the frames"):
        run(checkpoint, late, tmp_path / "out.avi", "--keep-audio")
    silent = write_video(tmp_path / "silent.mp4", make_frames(2))
    with pytest.raises(ValueError, match="has no sound"):
        run(checkpoint, silent, tmp_path / "out.mp4", "--keep-audio")


def test_chapters_and_names_of_sound_tracks_are_kept(tmp_path, capsys):
    given = tmp_path / "in.mp4"
    second = {"time_base": Fraction(1, 25), "metadata": {"title": "harbour"}}
    with av.open(str(given), "w") as container:
        container.set_chapters(
            [{"id": 1, "start": 0, "end": 3} | second, {"id": 2, "start": 3, "end": 8} | second]
        )
        video = container.add_stream("mpeg4", rate=25)
        video.width, video.height, video.pix_fmt = 32, 24, "yuv420p"
        sound = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        sound.metadata.update(title="crew", language="fra")
        for pixels in make_frames(8):
            container.mux(video.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
        container.mux(video.encode(None))
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 2560), np.int16), "s16", "mono")
        silence.rate = 8000
        container.mux([*sound.encode(silence), *sound.encode(None)])
    source = open_source(given)
    source.select(2, 2)
    for suffix, name in ((".mp4", "name"), (".mkv", "title")):
        config = enhance.Config(str(given), str(tmp_path / f"out{suffix}"), keep_audio=True)
        sink = open_sink(config, source, tmp_path / "work")
        sink.write(0, make_frames(3, 96, 128))
        sink.join(tmp_path / f"out{suffix}")
        with av.open(config.output) as container:
            ends = [
                chapter[end] * chapter["time_base"]
                for chapter in container.chapters()
                for end in ("start", "end")
            ]
            assert ends == [0, Fraction(1, 25), Fraction(1, 25), Fraction(2, 25)]
            assert container.chapters()[0]["metadata"]["title"] == "harbour"
            told = container.streams.audio[0].metadata
            assert (told[name], told["language"]) == ("crew", "fra")
    assert capsys.readouterr().err == ""
    for output, flags in (("out", {}), ("out.avi", {}), ("out.mp4", {"slow_motion": True})):
        open_sink(enhance.Config("in.mp4", output, **flags), source, tmp_path / "work")
        assert capsys.readouterr().err == "in.mp4: left out: chapters\n"


def test_what_no_output_keeps_of_a_video_is_said(tmp_path, capsys):
    given = tmp_path / "in.ts"
    light = "log-level=none:hdr10=1:max-cll=1000,400:master-display="
    light += "G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,1)"
    with av.open(str(given), "w") as container:
        video = container.add_stream("libx265", rate=25, options={"x265-params": light})
        video.width, video.height, video.pix_fmt = 64, 64, "yuv420p10le"
        packet = av.Packet(bytes.fromhex("060e2b34020b0101") + bytes(16))
        packet.stream, packet.pts, packet.dts = container.add_data_stream("klv"), 0, 0
        packet.time_base = Fraction(1, 25)
        container.mux(packet)
        for pixels in make_frames(2, 64, 64):
            container.mux(video.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
        container.mux(video.encode(None))
    for output in ("out", "out.mp4"):
        open_sink(enhance.Config("in.ts", output), open_source(given), tmp_path / "work")
        assert capsys.readouterr().err == (
            "in.ts: left out: data (klv), mastering display (HDR10), content light level (HDR10)\n"
        )
