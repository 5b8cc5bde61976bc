"""A real enhance.py that is stopped or killed while it writes, joins and finishes."""

import os
import signal
import sys

import numpy as np
import pytest
from enhancing import make_frames, read_all, run, write_frames
from trainings import Child, in_replace, pause, small_files

from media.open import open_source

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="signals of Linux")
FLAGS = ("--flow-method", "dis", "--device", "cpu", "--precision", "float32", "--lossless")


@pytest.mark.parametrize(
    ("output", "piece"), [("out", "00000002.png"), ("out.mkv", "00000000-00000005.mkv")]
)
def test_an_enhancement_goes_on_wherever_it_was_stopped(tmp_path, checkpoint, output, piece):
    if output.endswith(".mkv"):
        pytest.importorskip("av")
    write_frames(tmp_path / "in", make_frames(3, 16, 24))

    def start(name, *flags, **options):
        flags = ("--model", checkpoint, *FLAGS, *flags)
        return Child("enhance", tmp_path, "in", name, *flags, **options)

    expected = run(checkpoint, tmp_path / "in", tmp_path / f"whole_{output}", "--lossless")
    joined = "joined" + output.removeprefix("out")
    for place, number in (
        (piece, signal.SIGKILL),
        (piece, signal.SIGINT),
        (joined, signal.SIGKILL),
        (joined, signal.SIGINT),
        (output, signal.SIGKILL),
        (output, signal.SIGINT),
    ):
        stopped = start(output, "--resume", tricks=[(in_replace, place, 1, pause)])
        stopped.wait_until_held()
        os.kill(stopped.pid, number)
        stopped.go_on()  # what a thread is writing gets finished before Ctrl-C ends it
        assert stopped.wait() == (130 if number == signal.SIGINT else -number), stopped.err
        assert not (tmp_path / output).exists()
        assert (tmp_path / f"{output}.partial" / "job.json").exists()
    last = start(output, "--resume")
    assert last.wait() == 0, last.err
    result = tmp_path / output
    np.testing.assert_array_equal(read_all(result), read_all(expected))
    assert open_source(result).times == open_source(expected).times
    assert not (tmp_path / f"{output}.partial").exists()


def test_a_full_disk_is_one_line(tmp_path, checkpoint):
    """A limit on file sizes stands in for the end of the disk: the same error from write."""
    given = write_frames(tmp_path / "in", make_frames(2, 64, 64))
    flags = ("--model", checkpoint, *FLAGS)
    tricks = [(small_files, 50_000)]
    process = Child("enhance", tmp_path, given, tmp_path / "out", *flags, tricks=tricks)
    assert process.wait() == 2
    assert process.last_line.startswith("error: ")
    assert "File too large" in process.last_line
    assert "Traceback" not in process.err
    assert not (tmp_path / "out").exists()
