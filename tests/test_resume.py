"""main.py stops, fails and goes on: what is saved, and what a resumed run keeps."""

import shutil
import signal
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from trainings import deliver, read_log, same_state, same_training

import main
from data.lists import LIST_NAMES
from data.scenes.make import make_scenes
from models.checkpoint import load_network, load_torch_file, save_torch_file
from models.inference import super_resolve
from training import recorder, slim, sources
from training.distributed import Team
from training.loop import charbonnier, learning_rate
from training.optimiser import Optimiser


@pytest.mark.parametrize(
    ("stops", "optimiser"), [([(2, "1"), (5, "2")], "muon"), ([(3, "0")], "adam")]
)
def test_a_resumed_run_equals_an_uninterrupted_one(run_main, capsys, stops, optimiser):
    # Six steps are two epochs of the three clips: a stop inside of each, and one between them.
    flags = ("--steps", "6", "--validate-every", "3", "--optimiser", optimiser)
    assert run_main(*flags, "--run", "runs/whole") == 0
    assert "bicubic + flow" in capsys.readouterr().out
    for stop, workers in stops:

        def stop_soon(step, *schedule, stop=stop):
            if step == stop - 1:
                deliver(signal.SIGTERM)
            return learning_rate(step, *schedule)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(main, "learning_rate", stop_soon)
            assert run_main(*flags, "--run", "runs/cut") == 128 + signal.SIGTERM
        assert load_torch_file("runs/cut/last.pt")["step"] == stop
        flags = ("--resume", "--workers", workers)
    assert run_main(*flags, "--run", "runs/cut") == 0

    assert same_training(*(load_torch_file(f"runs/{name}/last.pt") for name in ("whole", "cut")))
    steps = [line["step"] for line in read_log("runs/cut")]
    assert steps == sorted(steps)
    network, information = load_network("runs/cut/best.pt")
    assert information["config"]["flow_method"] == "dis"
    assert network.global_skip


def test_a_stop_while_validating_is_prompt_and_exact(run_main, monkeypatch):
    flags = ("--steps", "6", "--validate-every", "3", "--run")
    assert run_main(*flags, "runs/whole") == 0
    clips = []

    def stop_at_the_second_clip(*arguments, **options):
        clips.append(load_torch_file("runs/cut/last.pt")["step"])  # saved before
        if len(clips) == 2:
            deliver(signal.SIGTERM)
        return super_resolve(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(recorder, "super_resolve", stop_at_the_second_clip)
        assert run_main(*flags, "runs/cut") == 128 + signal.SIGTERM
    assert clips == [3, 3]  # of three
    assert load_torch_file("runs/cut/last.pt")["unvalidated"]
    clips.clear()
    with monkeypatch.context() as patch:  # and once more in the validation that it owes
        patch.setattr(recorder, "super_resolve", stop_at_the_second_clip)
        assert run_main("--resume", "--run", "runs/cut") == 128 + signal.SIGTERM
    assert load_torch_file("runs/cut/last.pt")["unvalidated"]
    assert run_main("--resume", "--run", "runs/cut") == 0
    assert same_training(*(load_torch_file(f"runs/{name}/last.pt") for name in ("whole", "cut")))
    scored = [
        [line["step"] for line in read_log(f"runs/{n}") if "psnr" in line] for n in ("whole", "cut")
    ]
    assert scored == [[3, 6]] * 2


def test_a_finished_run_is_not_trained_again(run_main, capsys):
    assert run_main("--steps", "2", "--run", "r") == 0
    before = Path("r/last.pt").read_bytes()
    assert run_main("--resume", "--run", "r") == 0
    assert Path("r/last.pt").read_bytes() == before
    assert run_main("--resume", "--run", "r", "--steps", "3") == 0
    assert load_torch_file("r/last.pt")["step"] == 3


def test_a_run_is_not_overwritten(run_main):
    Path("r").mkdir()
    Path("r/notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds a run already"):
        run_main("--steps", "1", "--run", "r")


def test_resume_needs_a_run_and_its_constants(run_main):
    with pytest.raises(ValueError, match="nothing to resume"):
        run_main("--resume")
    with pytest.raises(FileNotFoundError, match="nothing to resume"):
        run_main("--resume", "--run", "none")
    assert run_main("--steps", "1", "--run", "runs/a") == 0
    with pytest.raises(ValueError, match=r"rate was 0\.0008, is 0\.1"):
        run_main("--resume", "--steps", "2", "--rate", "0.1")


def test_automatic_folders_are_recorded_and_their_change_is_refused(run_main):
    """A testset/, a list or a clip that appears later is not silently another run."""
    auto = ("--data-root", "auto", "--validation", "auto", "--steps", "1", "--run", "r")
    Path("trainset").mkdir()
    shutil.copytree("septuplets", "trainset/189_vime7")
    shutil.copytree("clips", "testset")
    (Path("trainset/189_vime7") / LIST_NAMES[0]).write_text("clip 0\nclip 1\n")
    assert run_main(*auto) == 0
    recorded = load_torch_file("r/last.pt")["config"]
    folders = [recorded[name] for name in ("data_root", "list_file", "validation")]
    folder = "trainset/189_vime7"
    assert folders == [folder, f"{folder}/{LIST_NAMES[0]}", "testset"]

    again = (*auto, "--steps", "2", "--resume")  # "auto" now means what is recorded
    (Path(folder) / LIST_NAMES[0]).write_text("clip 0\nclip 2\n")
    with pytest.raises(
        ValueError, match=r"not those of the run: source 1 was 2 with names \w+, is"
    ):
        run_main(*again)
    (Path(folder) / LIST_NAMES[0]).write_text("clip 0\nclip 1\n")
    shutil.copytree("testset/clip 0", "testset/clip 9")
    with pytest.raises(ValueError, match=r"not those of the run: validation was 3 .* is 4"):
        run_main(*again)
    shutil.rmtree("testset/clip 9")
    assert run_main(*again) == 0


def test_the_built_in_scenes_are_recorded_by_their_folder(run_main, monkeypatch):
    few = partial(make_scenes, clips=2, test_clips=1, size=(96, 96), test_size=(96, 96))
    monkeypatch.setattr(sources, "make_scenes", few)
    flags = ("--data-root", "auto", "--validation", "auto", "--run", "r")
    assert run_main(*flags, "--steps", "1") == 0
    recorded = load_torch_file("r/last.pt")["config"]
    assert recorded["data_root"] == "trainset/scenes"
    assert recorded["validation"] == "trainset/scenes/test"
    shutil.rmtree("trainset")  # such as on another machine
    assert run_main(*flags, "--resume", "--steps", "2") == 0


def test_the_recorded_device_counts_on_resume(run_main, monkeypatch):
    assert run_main("--steps", "1", "--run", "r") == 0
    asked, device = [], Team.device
    monkeypatch.setattr(Team, "device", lambda team, name: asked.append(name) or device(team, name))
    monkeypatch.setattr(sys, "argv", ["main.py", "--resume", "--run", "r"])
    assert main.main() == 0
    assert asked == ["cpu"]


def test_a_run_that_fails_is_saved_and_goes_on(run_main, monkeypatch):
    """Memory runs out in the third step."""
    losses = []

    def fail(*arguments):
        losses.append(charbonnier(*arguments))
        if len(losses) == 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return losses[-1]

    assert run_main("--steps", "4", "--validate-every", "4", "--run", "whole") == 0
    monkeypatch.setattr(main, "charbonnier", fail)
    flags = ("--steps", "4", "--validate-every", "4", "--run", "r")
    with pytest.raises(torch.OutOfMemoryError):
        run_main(*flags)
    assert load_torch_file("r/last.pt")["step"] == 2
    assert run_main(*flags, "--resume") == 0
    assert same_training(*(load_torch_file(f"{name}/last.pt") for name in ("whole", "r")))


def test_what_fails_between_two_steps_is_not_saved(run_main, monkeypatch):
    def fail(optimiser):
        optimiser.parts["adam"].step()
        raise RuntimeError("out of memory")

    monkeypatch.setattr(Optimiser, "step", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        run_main("--steps", "2", "--run", "r")
    assert not Path("r/last.pt").exists()


def test_a_run_is_saved_from_time_to_time(run_main, monkeypatch):
    saved = []

    def save(path, content):
        saved.append((path.name, content["step"]))
        save_torch_file(path, content)

    monkeypatch.setattr(recorder, "save_torch_file", save)
    flags = ("--steps", "3", "--validate-every", "3", "--run")
    assert run_main(*flags, "seldom") == 0
    seldom, saved[:] = list(saved), []
    assert run_main(*flags, "often", "--save-minutes", "1e-9") == 0
    end = [("last.pt", 3), ("best.pt", 3), ("last.pt", 3)]
    assert seldom == end
    assert saved == [("last.pt", 1), ("last.pt", 2), *end]


def test_a_hostile_record_is_refused_in_one_line(run_main):
    assert run_main("--steps", "1", "--run", "r") == 0
    state = load_torch_file("r/last.pt")
    for part, wrong, message in (
        ("config", state["config"] | {"batch": [1]}, "batch is recorded as"),
        ("config", state["config"] | {"ema": None}, "ema is recorded as None"),
        ("config", state["config"] | {"data_root": "\x1b[2J"}, "data_root was"),
        ("data", {"validation": "\x1b[2J"}, "the data are not those of the run"),
        ("data", 3, "the checkpoint's data is a int"),
        ("step", -5, "is of step -5"),
        ("step", 10**30, "is of step 10+, not"),
        ("skipped", "no", "has left out no of 1 steps"),
        ("best_score", float("nan"), "best score of nan"),
        ("seconds", -1.0, "has used -1.0 seconds"),
        ("random", {"cpu": torch.zeros(3)}, "random state cannot be restored"),
    ):
        save_torch_file("r/last.pt", state | {part: wrong})
        with pytest.raises(ValueError, match=message) as caught:
            run_main("--resume", "--run", "r", "--steps", "2")
        assert str(caught.value).isprintable()


def test_a_training_travels_in_small_parts(run_main, monkeypatch):
    def slim_main(*arguments):
        monkeypatch.setattr(sys, "argv", ["slim", *map(str, arguments)])
        slim.main()

    assert run_main("--steps", "2", "--validate-every", "1", "--run", "a") == 0
    slim_main("pack", "a/last.pt", "parts", "--mebibytes", "0.02")
    parts = sorted(Path("parts").iterdir())
    assert len(parts) > 2
    assert max(path.stat().st_size for path in parts) <= 0.02 * 2**20
    slim_main("unpack", "parts", "b/last.pt")
    whole, carried = (load_torch_file(f"{run}/last.pt") for run in "ab")
    assert same_state(whole["network"], carried["network"])
    for name, average in whole["ema"].items():
        error = (carried["ema"][name] - average).abs()
        assert (error <= 2**-8 * (average - whole["network"][name]).abs() + 1e-7).all(), name
    moment, rounded = (state["optimiser"]["muon"][0]["momentum"] for state in (whole, carried))
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, moment, rtol=2**-8, atol=0)
    assert run_main("--steps", "3", "--validate-every", "1", "--run", "b", "--resume") == 0

    with pytest.raises(ValueError, match="'squeeze' is neither pack nor unpack"):
        slim_main("squeeze", "a/last.pt", "c")
    with pytest.raises(ValueError, match="holds something already"):
        slim_main("pack", "a/last.pt", "parts")
    with pytest.raises(ValueError, match="is there already"):
        slim_main("unpack", "parts", "b/last.pt")
    parts[1].unlink()
    with pytest.raises(ValueError, match="are not all there, or damaged"):
        slim_main("unpack", "parts", "c/last.pt")
    with pytest.raises(FileNotFoundError, match="no parts in a"):
        slim_main("unpack", "a", "c/last.pt")
    assert not Path("c/last.pt").exists()
