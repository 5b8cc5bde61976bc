"""enhance.py --json: events for schedulers, and nothing else on standard output."""

import json

import pytest
from enhancing import (
    HEIGHT,
    WIDTH,
    interrupt_at,
    make_frames,
    run,
    write_frames,
)


def events(capsys):
    """(event, what else it says) of all that was printed since."""
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    seconds = [line.pop("seconds") for line in lines]
    assert seconds == sorted(seconds)
    return [(line.pop("event"), line) for line in lines]


def test_progress_and_result(tmp_path, checkpoint, capsys):
    given = write_frames(tmp_path / "in", make_frames(5))
    output = run(checkpoint, given, tmp_path / "out", "--json")
    start, *progress, result = events(capsys)
    size = {"frames": 9, "width": 4 * WIDTH, "height": 4 * HEIGHT}
    network = {"model": str(checkpoint), "flow_method": "dis", "device": "cpu"}
    assert start == ("start", network | size)
    steps = [{"step": "enhancing", "finished": number, "total": 9} for number in (7, 9)]
    assert progress == [("progress", step) for step in steps]
    assert result == ("result", {"output": str(output), "comparisons": []} | size)


def test_an_interruption_and_an_error(tmp_path, checkpoint, capsys, monkeypatch):
    given = write_frames(tmp_path / "in", make_frames(5))
    with monkeypatch.context() as patch:
        interrupt_at(patch, {2})
        with pytest.raises(KeyboardInterrupt):
            run(checkpoint, given, tmp_path / "out", "--json")
    assert events(capsys)[-1] == ("interrupted", {"status": 130})
    with pytest.raises(ValueError, match="holds unfinished work"):
        run(checkpoint, given, tmp_path / "out", "--json")
    ((event, content),) = events(capsys)
    assert (event, content["status"]) == ("error", 2)
    assert "--resume goes on" in content["message"]
    run(checkpoint, given, tmp_path / "out", "--resume", "--json")
    assert [event for event, _ in events(capsys)] == ["start", "progress", "result"]
