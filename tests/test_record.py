"""What a training has on record, and what it may go on from."""

import shutil
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from trainings import same_state

import main
from data.lists import LIST_NAMES
from data.scenes.make import make_scenes
from media.images import write_image
from models.checkpoint import load_network, load_torch_file, save_torch_file
from models.inference import super_resolve
from models.weights import trained_flow
from training import recorder, settings, slim, sources


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
    truth = Path("testset/clip 0/truth")
    before = {path: path.read_bytes() for path in truth.iterdir()}
    for path in before:
        write_image(path, np.zeros((68, 64, 3), np.uint8))
    with pytest.raises(ValueError, match="not those of the run: sizes of the validation clips was"):
        run_main(*again)
    for path, content in before.items():
        path.write_bytes(content)
    shutil.copytree("testset/clip 0", "testset/clip 9")
    with pytest.raises(ValueError, match=r"not those of the run: validation was 3 .* is 4"):
        run_main(*again)
    shutil.rmtree("testset/clip 9")
    assert run_main(*again) == 0


def test_a_launcher_repeats_its_command(run_main, monkeypatch):
    """What the machine decided is kept, also where it could decide otherwise now."""
    choices = ("--patch", "none", "--batch", "none", "--list-file", "none")
    command = (*choices, "--precision", "auto", "--run", "r")
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    assert run_main(*command, "--steps", "1") == 0
    recorded = load_torch_file("r/last.pt")["config"]
    assert recorded["precision"] == "float32"
    assert recorded["batch"] == 1
    assert recorded["patch"] is not None
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    assert run_main(*command, "--steps", "2", "--resume") == 0
    assert load_torch_file("r/last.pt")["config"]["precision"] == "float32"


def test_a_precision_that_a_machine_lacks_is_refused(run_main, monkeypatch):
    """At the start, and where a run goes on: it would no longer be the same."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    with pytest.raises(ValueError, match="bfloat16, which this cpu is not built for"):
        run_main("--precision", "bfloat16", "--steps", "1", "--run", "r")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    assert run_main("--precision", "bfloat16", "--steps", "1", "--run", "r") == 0
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    with pytest.raises(ValueError, match="bfloat16, which this cpu is not built for"):
        run_main("--precision", "auto", "--steps", "2", "--run", "r", "--resume")


def test_clips_alone_are_all_that_is_trained_on(run_main):
    flags = ("--data-root", "auto", "--clips", "septuplets", "--steps", "1", "--run", "r")
    assert run_main(*flags) == 0
    assert load_torch_file("r/last.pt")["config"]["data_root"] is None


def test_the_built_in_scenes_are_recorded_by_their_folder(run_main, monkeypatch):
    few = partial(make_scenes, clips=2, test_clips=1, size=(64, 64), test_size=(64, 64))
    monkeypatch.setattr(sources, "make_scenes", few)
    flags = ("--data-root", "auto", "--validation", "auto", "--run", "r")
    assert run_main(*flags, "--steps", "1") == 0
    recorded = load_torch_file("r/last.pt")["config"]
    assert recorded["data_root"] == "trainset/scenes"
    assert recorded["validation"] == "trainset/scenes/test"
    shutil.rmtree("trainset")  # such as on another machine
    assert run_main(*flags, "--resume", "--steps", "2") == 0


def test_the_recorded_device_counts_on_resume(begun, monkeypatch):
    asked, pick = [], settings.pick_device
    monkeypatch.setattr(settings, "pick_device", lambda name: asked.append(name) or pick(name))
    monkeypatch.setattr(sys, "argv", ["main.py", "--resume", "--run", "a"])
    assert main.main() == 0
    assert asked == ["cpu"]


def test_training_goes_on_from_weights(run_main, begun):
    assert run_main("--steps", "1", "--run", "b", "--weights", "a/best.pt") == 0
    assert run_main("--resume", "--run", "b", "--steps", "2") == 0
    with pytest.raises(ValueError, match=r"weights was a/best\.pt, is b/best\.pt"):
        run_main("--resume", "--run", "b", "--weights", "b/best.pt")


def test_the_flow_of_a_continuation_may_be_kept_elsewhere(run_main, begun):
    assert run_main("--resume", "--run", "a", "--steps", "2", "--flow-cache", "other") == 0
    assert any(Path("other").rglob("*.flow"))


def test_resume_does_without_the_weights_it_began_with(run_main, begun):
    """Of a network that no size has; the command line of a test would name the size."""
    assert run_main("--steps", "1", "--run", "b", "--weights", "a/best.pt") == 0
    state = load_torch_file("b/last.pt")
    state["config"]["size"] = "auto"
    save_torch_file("b/last.pt", state)
    shutil.rmtree("a")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["main.py", "--resume", "--run", "b", "--steps", "2"])
        assert main.main() == 0


def test_the_network_of_the_weights_is_on_record(run_main, begun, capsys):
    start = ("--steps", "1", "--weights", "a/best.pt")
    assert run_main(*start, "--run", "b") == 0
    told = "taken from the weights, not from the constants: coupling symmetric"
    assert told in capsys.readouterr().out.splitlines()
    recorded = load_torch_file("b/last.pt")
    assert recorded["config"]["coupling"] == recorded["network_options"]["coupling"] == "symmetric"
    with pytest.raises(ValueError, match="coupling is released, in the weights symmetric"):
        run_main(*start, "--run", "c", "--coupling", "released")
    with pytest.raises(ValueError, match="size is mstt, in the weights small"):
        run_main(*start, "--run", "c", "--size", "mstt")


def test_fusion_and_degraded_frames_are_added_to_weights(run_main, begun):
    pytest.importorskip("av")
    start = ("--steps", "1", "--weights", "a/best.pt", "--frame-fusion", "--degrade", "real")
    assert run_main(*start, "--run", "b") == 0
    state = load_torch_file("b/last.pt")
    assert state["network_options"]["frame_fusion"]
    assert state["config"]["degrade"] == "real"
    assert state["network"]["frame_fusion.conv_last.weight"].abs().max() > 0  # it was trained
    first, _ = load_network("a/best.pt")
    for name, weight in first.state_dict().items():  # the rest began where the weights were
        torch.testing.assert_close(state["network"][name], weight, rtol=0, atol=0.05)
    assert run_main("--resume", "--run", "b", "--steps", "2") == 0
    # Weights that have it keep it without being asked.
    assert run_main("--steps", "1", "--weights", "b/best.pt", "--run", "c") == 0
    assert load_torch_file("c/last.pt")["network_options"]["frame_fusion"]


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


def test_the_best_weights_alone_are_there_in_half_precision(one_step):
    best = one_step / "best.pt"
    network, information = load_network(best.with_suffix(".safetensors"))
    whole, _ = load_network(best)
    assert trained_flow(information) == "dis"
    assert information["step"] == load_torch_file(best)["step"]
    assert best.with_suffix(".safetensors").stat().st_size < best.stat().st_size / 4
    frames = np.random.default_rng(0).integers(0, 256, (2, 16, 20, 3), dtype=np.uint8)
    outputs = [np.stack(list(super_resolve(net, frames, "dis"))) for net in (network, whole)]
    assert np.abs(outputs[0].astype(int) - outputs[1]).max() <= 1  # level of 255


def test_a_hostile_record_is_refused_in_one_line(run_main, begun):
    state = load_torch_file("a/last.pt")
    for part, wrong, message in (
        ("config", state["config"] | {"batch": [1]}, "batch is recorded as"),
        ("config", state["config"] | {"ema": None}, "ema is recorded as None"),
        ("config", state["config"] | {"size": "\x1b[2J"}, "size is recorded as"),
        ("data", {"validation": "\x1b[2J"}, "the data are not those of the run"),
        ("data", 3, "the checkpoint's data is a int"),
        ("step", -5, "is of step -5"),
        ("step", 10**30, "is of step 10+, not"),
        ("skipped", "no", "has left out no of 1 steps"),
        ("skipped", 2, "has left out 2 of 1 steps"),
        ("best_score", float("nan"), "best score of nan"),
        ("seconds", -1.0, "has used -1.0 seconds"),
        ("random", {"cpu": torch.zeros(3)}, "random state cannot be restored"),
    ):
        save_torch_file("a/last.pt", state | {part: wrong})
        with pytest.raises(ValueError, match=message) as caught:
            run_main("--resume", "--run", "a", "--steps", "2")
        assert str(caught.value).isprintable()


def test_a_training_travels_in_small_parts(run_main, begun, monkeypatch):
    def slim_main(*arguments):
        monkeypatch.setattr(sys, "argv", ["slim", *map(str, arguments)])
        slim.main()

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
    assert run_main("--steps", "2", "--validate-every", "1", "--run", "b", "--resume") == 0

    with pytest.raises(SystemExit, match="2"):
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
