"""Standard streams that are closed, full or broken, and progress bars that nobody watches."""

import contextlib
import io
import os
import sys

import pytest

from utils import streams
from utils.config import run_script


@pytest.fixture
def broken():
    """A stream whose reader is gone: `| head -1`."""
    reader, writer = os.pipe()
    os.close(reader)
    with contextlib.suppress(BrokenPipeError), os.fdopen(writer, "w", buffering=1) as stream:
        yield stream


def test_what_waits_at_the_end_and_cannot_be_printed_is_told_once(broken, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdout", broken)
    with pytest.raises(SystemExit) as stop:
        run_script(lambda: print("done"))
    assert (stop.value.code, capsys.readouterr().err) == (2, "error: [Errno 32] Broken pipe\n")
    assert os.path.samestat(os.fstat(broken.fileno()), os.stat(os.devnull))


def test_an_error_keeps_its_status_where_it_cannot_be_told(broken, monkeypatch):
    monkeypatch.setattr(sys, "stderr", broken)

    def main():
        raise ValueError("rate is 0")

    with pytest.raises(SystemExit) as stop:
        run_script(main)
    assert stop.value.code == 2


def test_closed_streams_lead_nowhere_and_no_file_takes_their_numbers(tmp_path):
    if (child := os.fork()) == 0:  # numbers 0 to 2 of this process are pytest's
        status = 1
        try:
            for number, name in enumerate(("stdin", "stdout", "stderr")):
                os.close(number)
                setattr(sys, name, None)
            streams.open_closed_streams()
            print("nothing", file=sys.stderr)
            with open(tmp_path / "file", "w") as file:
                status = 0 if file.fileno() > 2 and sys.stdin.read() == "" else 2
            status += 4 * (not all(map(os.get_inheritable, range(3))))
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize(("watched", "most"), [(False, 5), (True, 200)])
def test_a_bar_fills_no_log(monkeypatch, watched, most):
    told = io.StringIO()
    told.isatty = lambda: watched
    monkeypatch.setattr(sys, "stderr", told)
    bar = streams.progress_bar(total=100)
    for second in range(100):
        bar._time = lambda second=second: bar.start_t + second
        bar.update()
    bar.close()
    lines = told.getvalue().count("\r")
    assert (lines > 50) == watched
    assert lines < most
    assert "100/100" in told.getvalue()
