"""Every flag of main.py is given once, and reaches the part that it is about."""

import json
import sys
from dataclasses import asdict, fields, replace
from pathlib import Path

import pytest
import torch
from trainings import FEW_CHANNELS, deliver, run_here, same_training, write_clip

import main
from data.animation import Animation, StillsDataset
from data.clips import degraded, find_clips
from data.degrade import CODEC_RANGES, DRAWS
from data.septuplets import SeptupletDataset
from models import MSTT
from models.checkpoint import load_network, load_torch_file
from models.mstt import SIZES
from models.weights import trained_window
from training import recorder, sources
from training.loop import share_of_peak
from training.run import MOST_STEPS
from training.settings import fit_machine, of_resumed_run
from utils.team import Team

NETWORK = {
    "coupling": "symmetric",
    "midpoint_flow": False,
    "global_skip": "neighbours",
    "offset_limit": 3.0,
    "frame_fusion": True,
    "propagation_blocks": 1,
}
# Nothing of it is a default, nor what TINY has.
FLAGS = {
    **{"data-root": "septuplets", "list-file": "two.txt", "data-weight": 2, "clips": "more"},
    **{"clips-weight": 3, "stills": "stills", "stills-weight": 5, "blur-min": 0.9, "blur-max": 1.4},
    **{"fast-share": 0.25, "flow-cache": "kept", "coupling": "symmetric"},
    **{"evaluation-flow": "dis2x", "evaluation-window": 3},
    **{
        "global-skip": "neighbours",
        "offset-limit": 3,
        "propagation-blocks": 1,
        "steps": 4,
        "batch": 6,
        "accumulate": 2,
    },
    **{"optimiser": "adam", "rate": 1e-3, "muon-rate": 2e-3, "moving-weight": 5, "bend": 0.02},
    **{"alignment-share": 0.2, "final-share": 0.5, "warmup": 1, "clip": 0.3, "ema": 0.7},
    **{"precision": "float32", "seed": 7, "run": "r", "workers": 1, "patience": 50},
    **{"validate-every": 3, "save-minutes": 9, "log-every": 2, "frozen": "transformer"},
}
ELSEWHERE = {"flow_method", "size", "patch", "given_frames", "validation", "device"}  # in TINY
ELSEWHERE |= {
    "weights",
    "minutes",
    "compile",
    "skip_nonfinite",
    "resume",
    "degrade",
}  # tests of their own


@pytest.fixture
def calls(monkeypatch):
    """What main.py and its parts are called with, by the name of the function."""
    seen = {}

    def watch(module, name):
        function = getattr(module, name)

        def watched(*arguments, **options):
            seen.setdefault(name, []).append((arguments, options))
            return function(*arguments, **options)

        monkeypatch.setattr(module, name, watched)

    for name in ("build_network", "Ema", "Optimiser", "charbonnier", "clip_grad_norm_"):
        watch(main, name)
    for name in ("open_loader", "load_steps", "autocast", "move_batch"):
        watch(main, name)
    watch(recorder, "super_resolve")
    return seen


def test_every_flag_reaches_its_part(run_main, calls):
    for folder in ("stills", "more/train"):
        Path(folder).mkdir(parents=True)
    write_clip(Path("more/train/other"), 5, [f"im{n}.png" for n in range(1, 8)], side=80)
    write_clip(Path("stills/flat"), 6, ["still.png"], side=90)
    Path("two.txt").write_text("clip 0\nclip 2\n")
    words = [str(word) for name, value in FLAGS.items() for word in (f"--{name}", value)]
    assert run_main(*words, "--no-midpoint-flow", "--frame-fusion") == 0
    state = load_torch_file("r/last.pt")

    given = {name.replace("-", "_") for name in FLAGS} | {
        "midpoint_flow",
        "skip_refinement",
        "frame_fusion",
    }
    assert {field.name for field in fields(main.Config)} == given | ELSEWHERE
    ((_, options),) = calls["build_network"]
    assert options.pop("size") == "small"
    assert options == NETWORK | {"skip_refinement": True}
    assert NETWORK.items() <= state["network_options"].items()

    ((arguments, options),) = calls["open_loader"]
    (septuplets, _), (more, _), (stills, _) = arguments[0]
    assert [weight for _, weight in arguments[0]] == [2, 3, 5]
    assert [type(data) for data, _ in arguments[0]] == [*[SeptupletDataset] * 2, StillsDataset]
    assert septuplets.names == ["clip 0", "clip 2"]
    assert more.names == ["other"]
    look = Animation(blur_min=0.9, blur_max=1.4, fast_share=0.25)
    assert stills.animation == look
    for data in (septuplets, more, stills):
        assert data.seed == 7
    assert (options["seed"], options["batch"], options["workers"]) == (7, 3, 1)
    assert options["samples"] == range(24)
    assert any(Path("kept").rglob("*.flow"))
    (((_, parts, patience, _), _),) = calls["load_steps"]
    assert (parts, patience) == (2, 50)
    names = {name for (part, _), _ in calls["move_batch"] for name in part["name"]}
    assert names == {"clip 0", "clip 2", "other", "flat/still.png:0"}

    (((_, decay), _),) = calls["Ema"]
    (((_, kind, rate, muon_rate, share), _),) = calls["Optimiser"]
    assert (decay, kind, rate, muon_rate, share) == (0.7, "adam", 1e-3, 2e-3, 0.2)
    assert [arguments[2:] for arguments, _ in calls["charbonnier"]] == [(5.0, 0.02)] * 8
    assert [arguments[1] for arguments, _ in calls["clip_grad_norm_"]] == [0.3] * 4
    assert {arguments[1] for arguments, _ in calls["autocast"]} == {"float32"}
    for _, options in calls["super_resolve"]:
        assert (options["flow_method"], options["window"]) == ("dis2x", 3)
    log = [json.loads(line) for line in Path("r/log.jsonl").read_text().splitlines()]
    rates = {line["step"]: line["rate"] for line in log if "rate" in line}
    assert rates == {step: share_of_peak(step - 1, 4, 1, 0.5) * 1e-3 for step in (2, 4)}
    assert [line["step"] for line in log if "psnr" in line] == [3, 4]
    assert state["config"]["save_minutes"] == 9


def test_the_seed_decides_the_weights(run_main):
    states, slow = [], ("--rate", 1e-12, "--muon-rate", 1e-12)
    for seed in (1, 2):
        assert run_main("--steps", 1, "--run", seed, "--seed", seed, *slow) == 0
        states.append(load_torch_file(f"{seed}/last.pt")["network"])
    torch.manual_seed(1)
    expected = MSTT(**load_torch_file("1/last.pt")["network_options"]).state_dict()
    for name, weight in expected.items():
        torch.testing.assert_close(states[0][name], weight, atol=1e-6, rtol=0)
    name = "extraction.conv_first.weight"
    assert not torch.allclose(states[0][name], states[1][name])


ARGUMENTS = {"data_root": "none", "stills": "none", "validation": "none"}


@pytest.mark.parametrize(
    ("device", "config", "chosen"),
    [
        ("cpu", {}, {"size": "fast", "batch": 1, "steps": 300, "validate_every": 30, "workers": 1}),
        ("cpu", {"accumulate": 3}, {"batch": 3}),
        ("cpu", {"steps": 5}, {"steps": 5, "validate_every": 1}),
        ("cpu", {"steps": 10**6}, {"validate_every": 5000}),
        ("cpu", {"minutes": 3.0}, {"steps": MOST_STEPS, "validate_every": None}),
        ("cpu", {"minutes": 3.0, "steps": 50}, {"steps": 50, "validate_every": None}),
        ("cuda", {}, {"size": "mstt", "batch": 16, "steps": 8272, "validate_every": 827}),
        ("cuda", {"batch": 4}, {"steps": 33088, "validate_every": 3308}),
        ("cuda", {"workers": 2}, {"workers": 2}),
        ("cpu", {"size": "small", "precision": "float32"}, {"precision": "float32"}),
    ],
)
def test_the_machine_decides_what_is_left_open(device, config, chosen):
    config = main.Config(**ARGUMENTS | config)
    fitted = asdict(fit_machine(config, torch.device(device), Team()))
    assert {name: fitted[name] for name in chosen} == chosen


@pytest.mark.parametrize(
    ("begun", "flags", "goes_on"),
    [
        ({"minutes": 3.0}, {}, {"minutes": 3.0, "steps": MOST_STEPS}),
        ({"minutes": 3.0}, {"minutes": None}, {"steps": 300, "validate_every": 30}),
        ({"minutes": 3.0, "steps": 50}, {"minutes": None}, {"steps": 50}),
        ({"minutes": 3.0, "steps": 50}, {"minutes": 9.0}, {"minutes": 9.0, "steps": 50}),
        ({}, {"minutes": 3.0}, {"steps": MOST_STEPS, "validate_every": None}),
        ({}, {"steps": 3000}, {"steps": 3000, "validate_every": 300}),
        ({"validate_every": 7}, {"steps": 3000}, {"validate_every": 7}),
        ({"steps": 50}, {"minutes": 3.0, "steps": 60}, {"minutes": 3.0, "steps": 60}),
    ],
)
def test_a_continuation_has_a_schedule_of_its_own(begun, flags, goes_on):
    cpu = torch.device("cpu")
    recorded = asdict(fit_machine(main.Config(**ARGUMENTS | begun), cpu, Team()))
    config = of_resumed_run(main.Config(**flags), set(flags), recorded)
    fitted = asdict(fit_machine(config, cpu, Team()))
    assert {name: fitted[name] for name in goes_on} == goes_on


def test_what_a_continuation_may_change():
    recorded = asdict(main.Config(**ARGUMENTS))
    changes = {"skip_nonfinite": 2, "validate_every": 7, "log_every": 3, "save_minutes": 9.0}
    changes |= {"workers": 3, "patience": 9, "accumulate": 2, "compile": True, "flow_cache": "b"}
    config = of_resumed_run(main.Config(**changes), set(changes), recorded)
    assert asdict(config) == recorded | changes
    for name, value in {"ema": 0.5, "seed": 4, "clip": 1.0, "degrade": "real"}.items():
        with pytest.raises(ValueError, match=f"{name} was .*, is {value}"):
            of_resumed_run(main.Config(**{name: value}), {name}, recorded)


def test_all_that_is_learned_from_and_judged_on_is_degraded(data, monkeypatch):
    asked = []
    monkeypatch.chdir(data)
    monkeypatch.setattr(sources, "check_available", asked.append)
    monkeypatch.setattr("data.clips.check_available", lambda codec: None)
    folders = {"data_root": "septuplets", "clips": "septuplets", "validation": "clips"}
    config = main.Config(**folders, patch=16, degrade="real", evaluation_flow="dis")
    found = sources.open_data(config, None, Team())
    assert [dataset.degrade for dataset, _ in found.sources] == ["real", "real"]
    assert found.validation == degraded(find_clips("clips"), "real")
    assert found.fingerprint["degradation"] == DRAWS["real"]
    assert asked == list(CODEC_RANGES)
    clean = sources.open_data(replace(config, degrade="none"), None, Team())
    assert "degradation" not in clean.fingerprint
    assert clean.validation == find_clips("clips")


def test_frames_that_are_given_later_are_other_data(data):
    clips = find_clips(data / "clips")
    given = [replace(clip, given=clip.truth[::2]) for clip in clips]
    before, after = (sources.fingerprint([], seen) for seen in (clips, given))
    assert before["validation"] == after["validation"]
    assert before["sizes of the validation clips"] != after["sizes of the validation clips"]


def test_all_septuplets_have_room_for_the_patch_that_is_chosen(tmp_path, capsys):
    for name, side in (("large", 128), ("small", 80)):
        frames = [f"im{number}.png" for number in range(1, 8)]
        write_clip(tmp_path / name / "train/a", 0, frames, side)
    folders = {"data_root": str(tmp_path / "large"), "clips": str(tmp_path / "small")}
    config = main.Config(**folders)
    found, patch = sources.open_sources(config)
    assert patch == 16
    assert [dataset.patch for dataset, _ in found] == [16, 16]
    assert capsys.readouterr().out == "patch 16: some septuplets have no room for 80\n"
    assert sources.open_sources(replace(config, patch=16))[1] == 16
    assert capsys.readouterr().out == ""


def test_a_shortened_warm_up_is_said(capsys):
    fit_machine(main.Config(**ARGUMENTS, steps=20), torch.device("cpu"), Team())
    assert capsys.readouterr().out == "warmup is 50 of 20 steps; it takes 10 of them\n"
    fit_machine(main.Config(**ARGUMENTS, steps=51), torch.device("cpu"), Team())
    assert capsys.readouterr().out == ""


def test_flags_without_effect_are_said(run_main, capsys):
    useless = {"data-weight": 2, "stills-weight": 2, "blur-min": 1, "blur-max": 1, "fast-share": 0}
    useless |= {"muon-rate": 1e-3, "moving-weight": 5, "alignment-share": 1}
    words = [str(word) for name, value in useless.items() for word in (f"--{name}", value)]
    flags = ("--data-root", "none", "--clips", "septuplets", "--clips-weight", 2, *words)
    alone = ("--steps", 1, "--optimiser", "adam", "--given-frames", 1)
    assert run_main(*flags, *alone, "--run", "r") == 0
    said = [line for line in capsys.readouterr().out.splitlines() if "has no effect" in line]
    assert [line.split()[0] for line in said] == [f"--{name}" for name in useless]
    assert said[1] == "--stills-weight has no effect without --stills"
    run_main("--steps", 1, "--data-weight", 2, "--moving-weight", 5, "--muon-rate", 1e-2)
    assert "has no effect" not in capsys.readouterr().out


def test_only_clips_of_stills_have_more_than_four_given_frames(run_main):
    write_clip(Path("stills"), 6, ["still.png"], side=90)
    flags = ("--steps", 1, "--given-frames", 5, "--stills", "stills", "--run", "r")
    with pytest.raises(ValueError, match="given_frames is 5; a septuplet has 4"):
        run_main(*flags)
    with pytest.raises(ValueError, match="given_frames is 33; give 1 to 32"):
        main.Config(given_frames=33)
    assert run_main(*flags, "--data-root", "none") == 0
    assert trained_window(load_network("r/best.pt")[1]) == 5


def test_one_given_frame_learns_alike_whatever_the_flags_without_effect(run_main):
    states = []
    for run, flags in (("a", ()), ("b", ("--moving-weight", 9)), ("c", ("--alignment-share", 1))):
        assert run_main("--steps", 2, "--given-frames", 1, "--run", run, *flags) == 0
        states.append(load_torch_file(f"{run}/last.pt"))
    assert same_training(states[0], states[1])
    assert same_training(states[0], states[2])


def test_workers_and_batches_of_several_processes(monkeypatch):
    monkeypatch.setattr("training.settings.usable_cores", lambda: 12)
    config, gpu = main.Config(**ARGUMENTS), torch.device("cuda")
    assert fit_machine(config, gpu, Team()).workers == 12
    two = Team(world=2, local_world=2)
    assert fit_machine(config, gpu, two).workers == 6
    assert fit_machine(config, gpu, two).batch == 32
    monkeypatch.setattr("training.settings.usable_cores", lambda: 64)
    assert fit_machine(config, gpu, Team()).workers == 16
    with pytest.raises(ValueError, match="must be a multiple of 4"):
        fit_machine(replace(config, batch=6, accumulate=2), gpu, two)


def test_bare_commands_find_what_is_there(tmp_path, monkeypatch, capsys):
    """main.py and test.py without a flag, beside the folders that they look for."""
    monkeypatch.chdir(tmp_path)
    names = [f"im{number}.png" for number in range(1, 8)]
    write_clip(tmp_path / "trainset/189_vime7/train/a", 0, names, side=320)
    write_clip(tmp_path / "testset/b/truth", 1, [f"{t}.png" for t in range(3)], side=64)
    for size in SIZES:
        monkeypatch.setitem(SIZES, size, FEW_CHANNELS)

    def stop(*schedule):
        deliver(2)
        return share_of_peak(*schedule)

    with monkeypatch.context() as patch:
        patch.setattr(main, "share_of_peak", stop)
        patch.setattr(sys, "argv", ["main.py"])
        assert main.main() == 130
    (run,) = Path("runs").iterdir()
    config = load_torch_file(run / "last.pt")["config"]
    assert (config["data_root"], config["validation"]) == ("trainset/189_vime7", "testset")
    assert config["size"] == ("mstt" if torch.cuda.is_available() else "fast")

    assert run_here("test.py") == 0
    results = json.loads(Path("results/results.json").read_text())
    assert results["data"] == "testset"
    assert results["settings"]["precision"] == "float32"
    assert Path(results["checkpoint"]).parent.name == "checkpoints"
    assert list(results["methods"]) == ["mstt", "mstt+flow", "bicubic+flow", "bicubic+blend"]
    assert "Everything is in results" in capsys.readouterr().out


def test_without_data_the_built_in_scenes_are_drawn(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    drawn = []
    monkeypatch.setattr(sources, "make_scenes", lambda path: drawn.append(path) or Path(path))
    config = main.Config(stills=None)
    root = sources.find_data_root(config)
    assert (root, drawn) == ("trainset/scenes", [])  # not before it is opened
    assert "NO TRAINING DATA" in capsys.readouterr().out
    assert sources.find_data_root(replace(config, stills="s")) is None
    assert sources.find_validation_folder(config) == "trainset/scenes/test"
    config = replace(config, data_root=None, validation="trainset/scenes/test")
    with pytest.raises(ValueError, match="no training data"):
        sources.open_data(config, None, Team())
    assert drawn == []  # a mistake shows first
    with pytest.raises((ValueError, FileNotFoundError)):
        sources.open_data(replace(config, data_root=root), None, Team())
    assert drawn == [Path(root)] * 2  # by the first process, and on disks of others
    monkeypatch.setattr(sources, "open_sources", lambda config: ([], 16))
    with pytest.raises((ValueError, FileNotFoundError)):
        sources.open_data(config, None, Team())
    assert drawn == [Path(root)] * 4
