"""main.py from end to end on tiny clips: it trains, resumes exactly, and refuses bad input."""

import itertools
import json
import math
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from trainings import deliver, run_here, same_training

import main
from models.checkpoint import load_network, load_torch_file
from models.inference import super_resolve
from models.mstt import SIZES
from training import recorder
from training.log import Meter
from training.loop import Clock, charbonnier, share_of_peak
from training.optimiser import Optimiser
from training.run import Progress, choose_run
from training.settings import check_maps, fit_machine
from training.sources import Data
from training.validation import FramesAlone
from utils.team import Team


def read_log(run):
    return [json.loads(line) for line in (Path(run) / "log.jsonl").read_text().splitlines()]


# Six steps are two epochs of the three clips.
SIX = ("--steps", "6", "--validate-every", "3")


@pytest.fixture(scope="module")
def whole(train):
    """The state of a run that was never stopped, and its folder."""
    run = train("whole", *SIX)
    return load_torch_file(run / "last.pt"), run


def test_a_resumed_run_equals_an_uninterrupted_one(run_main, whole):
    flags = SIX
    for stop, workers in [(2, "1"), (5, "2")]:

        def stop_soon(step, *schedule, stop=stop):
            if step == stop - 1:
                deliver(signal.SIGTERM)
            return share_of_peak(step, *schedule)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(main, "share_of_peak", stop_soon)
            assert run_main(*flags, "--run", "runs/cut") == 128 + signal.SIGTERM
        assert load_torch_file("runs/cut/last.pt")["step"] == stop
        flags = ("--resume", "--workers", workers)
    assert run_main(*flags, "--run", "runs/cut") == 0

    assert same_training(whole[0], load_torch_file("runs/cut/last.pt"))
    steps = [line["step"] for line in read_log("runs/cut")]
    assert steps == sorted(steps)
    network, information = load_network("runs/cut/best.pt")
    assert information["config"]["flow_method"] == "dis"
    assert network.global_skip


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
    config = SimpleNamespace(given_frames=2, patch=16, propagation_blocks=0)
    check_maps(config, SIZES["small"], most)
    with pytest.raises(ValueError, match="raise --accumulate"):
        check_maps(config, SIZES["small"], most + 1)


def test_parts_are_smaller_the_more_there_are():
    config = main.Config(data_root="none", stills="none", validation="none", patch=160)
    gpu = torch.device("cuda")
    for size, parts, batch in (("mstt", 2, 16), ("mstt", 4, 16), ("fast", 1, 16), ("mstt", 3, 18)):
        chosen = fit_machine(replace(config, size=size, accumulate=parts), gpu, Team())
        assert chosen.batch == batch
        check_maps(chosen, SIZES[size], batch // parts)
    with pytest.raises(ValueError, match="raise --accumulate"):
        check_maps(replace(config, patch=320), SIZES["mstt"], 16)


def test_propagation_has_given_frames_at_full_width_and_resolution():
    config = main.Config(data_root="none", stills="none", patch=80, size="large")
    check_maps(config, SIZES["large"], 500)
    config = replace(config, propagation_blocks=30)
    numbers = 4 * 64 * 320**2
    check_maps(config, SIZES["large"], 2**31 // numbers)
    with pytest.raises(ValueError, match="at most 81"):
        check_maps(config, SIZES["large"], 2**31 // numbers + 1)


def test_the_colours_of_frames_and_single_samples_count_too():
    config = SimpleNamespace(given_frames=4, patch=80, propagation_blocks=0)
    few = {"channels": 16, "enlargement": "direct"}
    fitting = 2**31 // (7 * 3 * 320**2)
    check_maps(config, few, fitting)
    with pytest.raises(ValueError, match=rf"at most {fitting}$"):
        check_maps(config, few, fitting + 1)
    config.patch = 8000
    with pytest.raises(ValueError, match=r"at most 1$"):
        check_maps(config, SIZES["mstt"], 1)


def test_maps_are_those_of_the_parts_that_are_accumulated(monkeypatch):
    parts = []
    monkeypatch.setattr("sys.argv", ["main.py"])
    network = SimpleNamespace(options=SIZES["small"])

    def check(config, options, part):
        parts.append(part)
        raise InterruptedError

    monkeypatch.setattr(main, "check_maps", check)
    config = main.Config(data_root="none", validation="none", batch=6, accumulate=3, device="cpu")
    data = Data([], [], 16, {})
    with pytest.raises(InterruptedError):
        main.train(config, Path("r"), torch.device("cpu"), None, Team(), data, network)
    assert parts == [2]


def test_a_compiled_network_trains_alike(run_main, monkeypatch):
    compiled = []

    def compile(model):
        compiled.append(model)
        return torch_compile(model, backend="eager")

    torch_compile = torch.compile
    monkeypatch.setattr(torch, "compile", compile)
    # One given frame: a smaller graph. test_fast.py compiles all of the network.
    flags = ("--steps", "2", "--validate-every", "2", "--given-frames", "1", "--run")
    assert run_main(*flags, "plain") == 0
    assert run_main(*flags, "compiled", "--compile") == 0
    assert len(compiled) == 1
    states = [load_torch_file(f"{run}/last.pt")["network"] for run in ("plain", "compiled")]
    for name, weight in states[0].items():
        torch.testing.assert_close(states[1][name], weight, atol=1e-5, rtol=0)


def test_a_stop_while_validating_is_prompt_and_exact(run_main, whole, monkeypatch):
    expected, folder = whole
    clips = []

    def stop_at_the_second_clip(*arguments, **options):
        clips.append(load_torch_file("runs/cut/last.pt")["step"])  # saved before
        if len(clips) == 2:
            deliver(signal.SIGTERM)
        return super_resolve(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(recorder, "super_resolve", stop_at_the_second_clip)
        assert run_main(*SIX, "--run", "runs/cut") == 128 + signal.SIGTERM
    assert clips == [3, 3]  # of three
    assert load_torch_file("runs/cut/last.pt")["unvalidated"]
    clips.clear()
    with monkeypatch.context() as patch:  # and once more in the validation that it owes
        patch.setattr(recorder, "super_resolve", stop_at_the_second_clip)
        assert run_main("--resume", "--run", "runs/cut") == 128 + signal.SIGTERM
    assert load_torch_file("runs/cut/last.pt")["unvalidated"]
    assert run_main("--resume", "--run", "runs/cut") == 0
    assert same_training(expected, load_torch_file("runs/cut/last.pt"))
    runs = (folder, "runs/cut")
    scored = [[line["step"] for line in read_log(run) if "psnr" in line] for run in runs]
    assert scored == [[3, 6]] * 2


@pytest.fixture
def stand_in():
    """What the methods of a Recorder need, and what they have done."""
    done = []
    config = {
        "steps": 9,
        "batch": 6,
        "log_every": 99,
        "save_minutes": 1.0,
        "minutes": 2.0,
        "rate": 1.0,
    }
    return SimpleNamespace(
        done=done,
        config=SimpleNamespace(**config, given_frames=2, precision="bfloat16", weights=None),
        progress=Progress(3),
        clock=SimpleNamespace(since_save=0.0),
        elapsed=0.0,
        meter=Meter(),
        team=Team(),
        stop=SimpleNamespace(received=None),
        bar=SimpleNamespace(update=lambda: None, write=done.append),
        save=done.append,
        validate=lambda: done.append("validation"),
        _look_at_the_clock=lambda: None,
        _validation_is_due=lambda before: False,
    )


def test_minutes_between_two_saves(stand_in):
    for seconds, saved in ((59.0, []), (61.0, ["last.pt"])):
        stand_in.clock.since_save = seconds
        assert not recorder.Recorder.after_step(stand_in, 1.0, 1.0, 1.0)
        assert stand_in.done == saved


def test_a_save_is_noted_by_processes_that_do_not_write(stand_in, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("training.loop.time.monotonic", lambda: now[0])
    stand_in.team, stand_in.clock = Team(rank=1, world=2), Clock(None)
    now[0] = 500.0
    recorder.Recorder.save(stand_in, "last.pt")
    assert stand_in.clock.since_save == 0
    assert stand_in.progress.seconds == 500


def test_the_speed_is_that_of_samples_without_validations(stand_in):
    recorder.Recorder.after_step(stand_in, 1.0, 1.0, 1.0)
    assert stand_in.meter.samples == 6
    stand_in._validation_is_due = lambda before: True
    recorder.Recorder.after_step(stand_in, 1.0, 1.0, 1.0)
    assert stand_in.done == ["validation"]
    assert stand_in.meter.samples == 0


@pytest.mark.parametrize(
    ("steps", "elapsed", "score", "is_over", "validates"),
    [
        (0, 1.2, -math.inf, False, False),  # its time went by before the first step
        (3, 1.2, 30.0, True, True),
        (9, 0.0, 30.0, True, False),
        (9, 0.0, -math.inf, True, True),
        (3, 0.0, 30.0, False, False),
    ],
)
def test_what_is_left_of_a_run(stand_in, steps, elapsed, score, is_over, validates):
    stand_in.progress, stand_in.elapsed = Progress(steps, score), elapsed
    assert recorder.Recorder.catch_up(stand_in) == is_over
    assert ("validation" in stand_in.done) == validates


@pytest.mark.parametrize(("step", "best"), [(0, -math.inf), (0, 31.0), (3, 31.0)])
def test_the_weights_that_a_run_starts_from_are_validated_once(stand_in, step, best):
    stand_in.progress, stand_in.config.weights = Progress(step, best), "fast"
    assert not recorder.Recorder.catch_up(stand_in)
    assert ("validation" in stand_in.done) == (best == -math.inf)


@pytest.mark.parametrize("given", [1, 2])
def test_a_score_is_that_of_the_precision_of_the_run(stand_in, monkeypatch, given):
    """And of the enlargement alone where only that is trained."""
    monkeypatch.setattr(recorder, "mean_psnr", lambda clips, method, *others: method)
    stand_in.config.given_frames, stand_in.config.flow_method = given, "pyflow"
    stand_in.config.evaluation_flow, stand_in.config.evaluation_window = "dis4x", 9
    stand_in.device, stand_in.data = torch.device("cpu"), Data([], [], 16, {})
    method = recorder.Recorder._score(stand_in, torch.nn.Identity())
    options = {"flow_method": "dis4x", "device": stand_in.device, "precision": "bfloat16"}
    assert method.keywords == options | {"window": 9}
    assert isinstance(method.args[0], FramesAlone) == (given == 1)


@pytest.mark.parametrize("other_is_tired", [False, True])
def test_all_processes_validate_at_the_same_steps(other_is_tired):
    """Their clocks differ by the time in which the first one saves."""
    team = SimpleNamespace(largest=lambda value: max(value, other_is_tired))
    one = SimpleNamespace(
        config=SimpleNamespace(validate_every=None),
        clock=SimpleNamespace(rested=True),
        team=team,
        elapsed=0.15,
    )
    assert recorder.Recorder._validation_is_due(one, before=0.05) is not other_is_tired
    assert not recorder.Recorder._validation_is_due(one, before=0.11)


def test_a_finished_run_is_not_trained_again(run_main, begun, capsys):
    before = Path("a/last.pt").read_bytes()
    assert run_main("--resume", "--run", "a") == 0
    said = capsys.readouterr().out
    assert "bicubic + flow" in said
    assert "the run has done 1 steps; give more --steps" in said
    assert Path("a/last.pt").read_bytes() == before
    assert run_main("--resume", "--run", "a", "--steps", "2") == 0
    assert load_torch_file("a/last.pt")["step"] == 2


def test_a_score_that_is_no_number_is_never_best(run_main, monkeypatch):
    scores = iter([30.0, float("nan"), 30.0, float("inf")])
    monkeypatch.setattr(recorder.Recorder, "_score", lambda *arguments: next(scores))
    assert run_main("--steps", "4", "--validate-every", "1", "--run", "a") == 0
    assert load_torch_file("a/best.pt")["step"] == 1
    assert load_torch_file("a/last.pt")["best_score"] == 30.0
    assert read_log("a")[3]["psnr"] is None  # JSON knows no NaN
    monkeypatch.setattr(recorder.Recorder, "_score", lambda *arguments: float("nan"))
    with pytest.raises(FloatingPointError, match="no validation gave a finite PSNR"):
        run_main("--steps", "1", "--run", "b")
    assert not Path("b/best.pt").exists()
    assert load_torch_file("b/last.pt")["step"] == 1


def test_a_training_that_has_diverged_ends_and_names_its_best_weights(run_main, monkeypatch):
    scores = iter([30.0, 26.0, 24.9, 24.9])
    monkeypatch.setattr(recorder.Recorder, "_score", lambda *arguments: next(scores))
    message = r"step 3: 24\.90 dB after 30\.00 .* r/best\.pt"
    for again in ((), ("--resume",)):
        with pytest.raises(FloatingPointError, match=message):
            run_main("--steps", "4", "--validate-every", "1", "--run", "r", *again)
    assert load_torch_file("r/best.pt")["step"] == 1
    assert load_torch_file("r/last.pt")["step"] == 3


def test_accumulated_parts_are_the_same_step(run_main):
    flags = ("--steps", "2", "--validate-every", "2", "--batch", "3", "--rate", "1e-4")
    for parts in (1, 3):
        assert run_main(*flags, "--run", f"r{parts}", "--accumulate", str(parts)) == 0
    one, three = (load_torch_file(f"r{parts}/last.pt")["network"] for parts in (1, 3))
    assert max((three[name] - one[name]).abs().max() for name in one) < 1e-6


def test_a_run_is_not_overwritten(run_main):
    Path("r").mkdir()
    Path("r/notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds other files; choose another --run"):
        run_main("--steps", "1", "--run", "r")


def test_the_newest_run_is_the_one_to_resume(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for age, name in enumerate("bca"):
        Path("runs", name).mkdir(parents=True)
        Path("runs", name, "last.pt").touch()
        os.utime(Path("runs", name, "last.pt"), (1000 - age, 1000 - age))
    assert choose_run("auto", resume=True) == Path("runs/b")


def test_a_folder_in_which_nothing_was_saved_may_be_used_again(tmp_path):
    (tmp_path / "tensorboard").mkdir()
    for name in ("log.jsonl", ".lock", ".last.pt.1.partial"):
        (tmp_path / name).touch()
    assert choose_run(str(tmp_path), resume=False) == tmp_path
    (tmp_path / "best.pt").touch()
    with pytest.raises(ValueError, match="holds other files; choose another --run"):
        choose_run(str(tmp_path), resume=False)


def test_resume_needs_a_run_and_its_constants(run_main, begun):
    with pytest.raises(ValueError, match="nothing to resume"):
        run_main("--resume")
    with pytest.raises(FileNotFoundError, match="nothing to resume"):
        run_main("--resume", "--run", "none")
    Path("runs").mkdir()
    Path("a").rename("runs/a")
    with pytest.raises(ValueError, match=r"rate was 0\.0008, is 0\.1"):
        run_main("--resume", "--steps", "2", "--rate", "0.1")


def test_a_run_goes_on_with_data_that_were_moved(run_main, begun, capsys):
    shutil.copytree("septuplets", "moved")
    assert run_main("--resume", "--run", "a", "--steps", "2", "--data-root", "moved") == 0
    assert load_torch_file("a/last.pt")["config"]["data_root"] == "moved"
    assert (
        "taken from the run, not from the constants: coupling symmetric" in capsys.readouterr().out
    )
    again = ("--data-root", "moved", "--evaluation-window", "0", "--evaluation-flow", "auto")
    assert run_main("--resume", "--run", "a", "--steps", "3", *again) == 0
    shutil.rmtree("moved/train/clip 0")
    with pytest.raises(ValueError, match="the data are not those of the run"):
        run_main("--resume", "--run", "a", "--steps", "4", "--data-root", "moved")


def test_a_flow_that_cannot_be_found_between_validation_clips_is_refused_at_once(run_main):
    with pytest.raises(ValueError, match="too small for PyFlow's pyramid"):
        run_main("--steps", "1", "--run", "r", "--evaluation-flow", "pyflow")
    assert not Path("r/log.jsonl").exists()


def test_a_non_finite_loss_stops_before_the_step(run_main, monkeypatch):
    monkeypatch.setattr(main, "charbonnier", lambda output, *rest: output.sum() * float("nan"))
    with pytest.raises(FloatingPointError, match="step 0: the loss is nan on clip"):
        run_main("--steps", "2", "--run", "r")
    state = load_torch_file("r/last.pt")  # as it was before the step
    assert (state["step"], state["skipped"]) == (0, 0)
    assert all(torch.isfinite(weight).all() for weight in state["network"].values())


def test_a_lower_limit_of_steps_to_leave_out_counts_at_once(run_main, monkeypatch):
    monkeypatch.setattr(main, "charbonnier", lambda output, *rest: output.sum() * float("nan"))
    flags = ("--validate-every", "1", "--run", "r")
    assert run_main("--steps", "2", "--skip-nonfinite", "2", *flags) == 0
    with pytest.raises(FloatingPointError, match="step 2: the loss is nan"):
        run_main("--steps", "4", "--skip-nonfinite", "1", "--resume", *flags)


def test_a_non_finite_loss_of_one_given_frame_is_told_alike(run_main, monkeypatch):
    """Where the alignment, whose largest offset is told, does not run."""
    monkeypatch.setattr(main, "charbonnier", lambda output, *rest: output.sum() * float("nan"))
    with pytest.raises(FloatingPointError, match="step 0: the loss is nan on clip"):
        run_main("--steps", "2", "--run", "r", "--given-frames", "1")


def test_a_run_that_fails_is_saved_and_goes_on(run_main, whole, monkeypatch):
    """Memory runs out in the third step."""
    losses = []

    def fail(*arguments):
        losses.append(charbonnier(*arguments))
        if len(losses) == 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return losses[-1]

    monkeypatch.setattr(main, "charbonnier", fail)
    with pytest.raises(torch.OutOfMemoryError):
        run_main(*SIX, "--run", "r")
    assert load_torch_file("r/last.pt")["step"] == 2
    assert run_main(*SIX, "--run", "r", "--resume") == 0
    assert same_training(whole[0], load_torch_file("r/last.pt"))


def test_what_fails_between_two_steps_is_not_saved(run_main, monkeypatch):
    def fail(optimiser):
        optimiser.parts["adam"].step()
        raise RuntimeError("out of memory")

    monkeypatch.setattr(Optimiser, "step", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        run_main("--steps", "2", "--run", "r")
    assert not Path("r/last.pt").exists()


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
        (("--steps", "9" * 20), "steps is 9+; it must be above 0, and at most 1000000000"),
        (("--minutes", "0"), "minutes is 0.* above 0"),
        (("--minutes", "nan"), "minutes is nan.* above 0"),
        (("--rate", "inf"), "rate is inf"),
        (("--seed", "-1"), "seed is -1; it must be at least 0"),
        (("--seed", "9" * 20), "seed is 9+; it must be"),
        (("--skip-nonfinite", "-1"), "skip_nonfinite is -1"),
        (("--warmup", "-3"), "warmup is -3"),
        (("--final-share", "50"), r"final_share is 50\.0; it must be at most 1"),
        (("--workers", "-1"), "workers is -1"),
        (("--given-frames", "5"), "given_frames is 5"),
        (("--data-weight", "0"), r"data_weight is 0\.0; it must be above 0"),
        (("--stills-weight", "-1"), r"stills_weight is -1\.0; it must be above 0"),
        (("--clips-weight", "nan"), "clips_weight is nan; it must be above 0"),
        (
            ("--clips", "septuplets", "--clips-weight", "5000"),
            "data_weight is 1, clips_weight is 5000; none may be below 1/1024 of their sum",
        ),
        (("--device", "cuda:7"), "here there is cpu"),
        (
            ("--data-root", "none", "--clips", "septuplets", "--list-file", "two.txt"),
            r"list_file is two\.txt; it names septuplets of --data-root, which is none",
        ),
    ],
)
def test_bad_input_is_named(run_main, flags, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        run_main("--steps", "1", "--run", "r", *flags)
    assert not Path("r").exists()


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


@pytest.mark.parametrize("given", [1, 2])
def test_a_report_names_the_best_weights_that_are_there(tmp_path, capsys, given):
    config = SimpleNamespace(given_frames=given, validation="my clips")
    progress, data = Progress(9, 32.5), Data([], [None, None], 16, {})
    ended = SimpleNamespace(config=config, progress=progress, baseline=30.25, data=data)
    for name, label in (("last.pt", "MSTT (best weights gone)"), ("best.pt", "MSTT  ")):
        (tmp_path / name).touch()
        main.report(tmp_path, ended)
        said = capsys.readouterr().out
        assert "no border, 2 validation clips" in said
        assert f"{label:<24}32.50  (+2.25)" in said
        assert f"checkpoint  {tmp_path / name}\n" in said
        assert f"test.py --data 'my clips' --checkpoint {tmp_path / name}\n" in said
        assert ("--given-frames 2" in said) == (given == 1)
