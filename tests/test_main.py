"""main.py from end to end on tiny clips: it trains, and refuses bad input."""

import itertools
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from trainings import ROOT, read_log, run_here

import main
from models.checkpoint import load_network, load_torch_file, trained_flow
from models.inference import super_resolve
from training import recorder
from training.distributed import Team
from training.loop import charbonnier
from training.settings import check_maps, fit_machine


def test_a_run_of_so_many_minutes_ends_in_time_and_properly(run_main, monkeypatch):
    flags = ("--run", "r", "--given-frames", "1", "--minutes")
    now = itertools.count(0, 0.1)  # seconds; every look at the clock takes a tenth of one
    monkeypatch.setattr("training.loop.time.monotonic", lambda: next(now))
    assert run_main(*flags, "0.1") == 0
    state = load_torch_file("r/last.pt")
    assert state["step"] > 3
    assert not state["unvalidated"]
    assert 4 < state["seconds"] < 8
    scores = [line["step"] for line in read_log("r") if "psnr" in line]
    assert scores[-1] == state["step"]
    assert len(scores) <= 10
    rates = [line["rate"] for line in read_log("r") if "rate" in line]
    assert rates[-1] < 0.1 * max(rates)
    # What is used up stays so: a resumed run takes no more steps, and with more time it does.
    assert run_main(*flags, "0.1", "--resume") == 0
    assert load_torch_file("r/last.pt")["step"] == state["step"]
    assert run_main(*flags, "1000", "--steps", str(state["step"] + 1), "--resume") == 0
    assert load_torch_file("r/last.pt")["step"] == state["step"] + 1


def test_too_large_a_map_is_refused(run_main):
    flags = ("--steps", "1", "--run", "r", "--batch", "40000")
    with pytest.raises(ValueError, match=r"so that each part has at most (\d+)") as refusal:
        run_main(*flags)
    assert not list(Path("r").glob("*.pt"))
    most = int(str(refusal.value).split()[-1])
    config = SimpleNamespace(weights=None, size="small", given_frames=2, patch=16)
    check_maps(config, most)
    with pytest.raises(ValueError, match="raise --accumulate"):
        check_maps(config, most + 1)


def test_parts_are_smaller_the_more_there_are():
    config = main.Config(data_root="none", stills="none", validation="none", patch=160)
    gpu = torch.device("cuda")
    for size, parts in (("mstt", 2), ("mstt", 4), ("fast", 1)):
        chosen = fit_machine(replace(config, size=size, accumulate=parts), gpu, Team())
        assert chosen.batch == 16
        check_maps(chosen, 16 // parts)
    with pytest.raises(ValueError, match="raise --accumulate"):
        check_maps(replace(config, size="mstt", patch=320), 16)


def test_a_compiled_network_trains_alike(run_main, monkeypatch):
    compiled = []

    def compile(model):
        compiled.append(model)
        return torch_compile(model, backend="eager")

    torch_compile = torch.compile
    monkeypatch.setattr(torch, "compile", compile)
    assert run_main("--steps", "2", "--run", "plain") == 0
    assert run_main("--steps", "2", "--run", "compiled", "--compile") == 0
    assert len(compiled) == 1
    states = [load_torch_file(f"{run}/last.pt")["network"] for run in ("plain", "compiled")]
    for name, weight in states[0].items():
        torch.testing.assert_close(states[1][name], weight, atol=1e-5, rtol=0)


@pytest.mark.parametrize("minutes", ["0", "-1", "nan"])
def test_no_time_is_refused(run_main, minutes):
    with pytest.raises(ValueError, match=r"minutes is .* above 0"):
        run_main("--minutes", minutes, "--run", "r")
    assert not Path("r").exists()


def test_a_score_that_is_no_number_is_never_best(run_main, monkeypatch):
    scores = iter([30.0, float("nan"), 30.0, float("inf")])
    monkeypatch.setattr(recorder, "validation_score", lambda *arguments: next(scores))
    assert run_main("--steps", "4", "--validate-every", "1", "--run", "a") == 0
    assert load_torch_file("a/best.pt")["step"] == 1
    assert load_torch_file("a/last.pt")["best_score"] == 30.0
    assert read_log("a")[3]["psnr"] is None  # JSON knows no NaN
    monkeypatch.setattr(recorder, "validation_score", lambda *arguments: float("nan"))
    with pytest.raises(FloatingPointError, match="no validation gave a finite PSNR"):
        run_main("--steps", "1", "--run", "b")
    assert not Path("b/best.pt").exists()
    assert load_torch_file("b/last.pt")["step"] == 1


def test_a_training_that_has_diverged_ends_and_names_its_best_weights(run_main, monkeypatch):
    scores = iter([30.0, 26.0, 24.9])
    monkeypatch.setattr(recorder, "validation_score", lambda *arguments: next(scores))
    with pytest.raises(FloatingPointError, match=r"step 3: 24\.90 dB after 30\.00 .* r/best\.pt"):
        run_main("--steps", "4", "--validate-every", "1", "--run", "r")
    assert load_torch_file("r/best.pt")["step"] == 1
    assert load_torch_file("r/last.pt")["step"] == 3


def test_accumulated_parts_are_the_same_step(run_main):
    flags = ("--steps", "2", "--batch", "4", "--rate", "1e-4")
    for parts in (1, 2, 4):
        assert run_main(*flags, "--run", f"r{parts}", "--accumulate", str(parts)) == 0
    states = [load_torch_file(f"r{parts}/last.pt")["network"] for parts in (1, 2, 4)]
    for state in states[1:]:
        assert max((state[name] - states[0][name]).abs().max() for name in state) < 1e-6


def test_loss_falls(run_main):
    assert run_main("--steps", "30", "--validate-every", "30", "--run", "r", "--rate", "1e-3") == 0
    losses = [line["loss"] for line in read_log("r") if "loss" in line]
    assert np.mean(losses[-10:]) < np.mean(losses[:10])


def test_training_goes_on_from_weights(run_main):
    assert run_main("--steps", "1", "--run", "a") == 0
    assert run_main("--steps", "1", "--run", "b", "--weights", "a/best.pt") == 0
    assert run_main("--resume", "--run", "b", "--steps", "2") == 0
    with pytest.raises(ValueError, match=r"weights was a/best\.pt, is b/best\.pt"):
        run_main("--resume", "--run", "b", "--weights", "b/best.pt")


def test_the_network_of_the_weights_is_on_record(run_main, monkeypatch):
    assert run_main("--steps", "1", "--run", "a", "--coupling", "symmetric") == 0
    start = ("--steps", "1", "--weights", "a/best.pt")
    assert run_main(*start, "--run", "b") == 0
    recorded = load_torch_file("b/last.pt")
    assert recorded["config"]["coupling"] == recorded["network_options"]["coupling"] == "symmetric"
    with pytest.raises(ValueError, match="coupling is released, in the weights symmetric"):
        run_main(*start, "--run", "c", "--coupling", "released")
    with pytest.raises(ValueError, match="size is mstt, in the weights small"):
        run_main(*start, "--run", "c", "--size", "mstt")


def test_the_loss_is_bent_where_it_is_asked_for(run_main, monkeypatch):
    seen = []
    monkeypatch.setattr(
        main, "charbonnier", lambda *given: seen.append(given) or charbonnier(*given)
    )
    assert run_main("--steps", "1", "--run", "a", "--bend", "0.03", "--moving-weight", "4") == 0
    assert [given[2:] for given in seen] == [(4.0, 0.03)]


def test_fusion_and_degraded_frames_are_added_to_weights(run_main):
    pytest.importorskip("av")
    assert run_main("--steps", "1", "--run", "a") == 0
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


def test_a_non_finite_loss_stops_before_the_step(run_main, monkeypatch):
    monkeypatch.setattr(main, "charbonnier", lambda output, *rest: output.sum() * float("nan"))
    with pytest.raises(FloatingPointError, match="step 0: the loss is nan on clip"):
        run_main("--steps", "2", "--run", "r")
    state = load_torch_file("r/last.pt")  # as it was before the step
    assert (state["step"], state["skipped"]) == (0, 0)
    assert all(torch.isfinite(weight).all() for weight in state["network"].values())


def test_a_non_finite_loss_of_one_given_frame_is_told_alike(run_main, monkeypatch):
    """Where the alignment, whose largest offset is told, does not run."""
    monkeypatch.setattr(main, "charbonnier", lambda output, *rest: output.sum() * float("nan"))
    with pytest.raises(FloatingPointError, match="step 0: the loss is nan on clip"):
        run_main("--steps", "2", "--run", "r", "--given-frames", "1")


def test_the_best_weights_alone_are_there_in_half_precision(run_main):
    assert run_main("--steps", "2", "--run", "r") == 0
    network, information = load_network("r/best.safetensors")
    whole, _ = load_network("r/best.pt")
    assert trained_flow(information) == "dis"
    assert information["step"] == load_torch_file("r/best.pt")["step"]
    assert Path("r/best.safetensors").stat().st_size < Path("r/best.pt").stat().st_size / 4
    frames = np.random.default_rng(0).integers(0, 256, (2, 16, 20, 3), dtype=np.uint8)
    outputs = [np.stack(list(super_resolve(net, frames, "dis"))) for net in (network, whole)]
    assert np.abs(outputs[0].astype(int) - outputs[1]).max() <= 1  # level of 255


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--data-root", "nowhere"), "nowhere"),
        (("--validation", "nowhere"), "nowhere"),
        (("--weights", "absent.safetensors"), "absent.safetensors"),
        (("--stills", "nowhere"), "nowhere"),
        (("--patch", "64"), "clip 0"),
        (("--batch", "0"), "batch is 0"),
        (("--batch", "3", "--accumulate", "2"), "must be a multiple of 2"),
        (("--patience", "0"), "patience is 0"),
        (("--batch", "9" * 20), "batch is 9+; it must be .* at most 1000000000"),
        (("--rate", "inf"), "rate is inf"),
        (("--seed", "-1"), "seed is -1; it must be at least 0"),
        (("--seed", "9" * 20), "seed is 9+; it must be"),
        (("--skip-nonfinite", "-1"), "skip_nonfinite is -1"),
        (("--warmup", "-3"), "warmup is -3"),
        (("--workers", "-1"), "workers is -1"),
        (("--given-frames", "5"), "given_frames is 5"),
        (("--device", "cuda:7"), "here there is cpu"),
    ],
)
def test_bad_input_is_named(run_main, flags, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        run_main("--steps", "1", *flags)


def test_too_many_steps_are_refused(run_main):
    with pytest.raises(
        ValueError, match=r"steps is 9+; it must be above 0, and at most 1000000000"
    ):
        run_main("--steps", "9" * 20)


@pytest.mark.parametrize("script", ["main.py", "test.py", "enhance.py"])
def test_mistakes_at_the_command_line_are_one_line(tmp_path, monkeypatch, capsys, script):
    monkeypatch.chdir(tmp_path)
    flags = {
        "main.py": ["--data-root", "nowhere"],
        "test.py": ["--data", "nowhere", "--checkpoint", "none"],
        "enhance.py": ["nowhere", "out"],
    }
    assert run_here(script, *flags[script]) == 2
    problem = capsys.readouterr().err
    assert problem.startswith("error: ")
    assert "nowhere" in problem
    assert len(problem.splitlines()) == 1


def test_python_starts_main_from_any_folder(tmp_path):
    """A start of its own, which has no help of this process."""
    command = [sys.executable, str(ROOT / "main.py"), "--data-root", "nowhere"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert result.returncode == 2
    assert result.stderr.startswith("error: ")
