"""main.py from end to end on tiny clips: it trains, resumes exactly, and refuses bad input."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import main
from data.images import write_image
from utils.checkpoint import load_network, load_torch_file

ROOT = Path(__file__).resolve().parent.parent
TINY = ["--patch", "16", "--size", "small", "--given-frames", "2", "--flow-method", "dis"]
TINY += ["--log-every", "1", "--warmup", "2", "--precision", "float32", "--data-root", "septuplets"]
TINY += ["--validation", "clips", "--workers", "0"]


def write_clip(folder, seed, names):
    """Seven frames of a smooth texture that drifts."""
    texture = np.random.default_rng(seed).integers(0, 256, (110, 110, 3), dtype=np.uint8)
    texture = cv2.GaussianBlur(texture, (0, 0), 1.5)
    folder.mkdir(parents=True)
    for shift, name in enumerate(names):
        write_image(folder / name, texture[:80, shift : shift + 80])


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for seed in range(3):
        names = [f"im{number}.png" for number in range(1, 8)]
        write_clip(folder / "septuplets" / "train" / f"clip {seed}", seed, names)
    names = [f"{number:08d}.png" for number in range(7)]
    write_clip(folder / "clips" / "one" / "truth", 9, names)
    return folder


@pytest.fixture
def run_main(data, tmp_path, monkeypatch):
    """Call main.py's main in an empty folder beside the data; returns its exit status."""
    for name in ("septuplets", "clips"):
        (tmp_path / name).symlink_to(data / name)
    monkeypatch.chdir(tmp_path)

    def run(*flags):
        monkeypatch.setattr(sys, "argv", ["main.py", *TINY, *flags])
        return main.main()

    return run


def read_log(run):
    return [json.loads(line) for line in (Path(run) / "log.jsonl").read_text().splitlines()]


def same_state(first, second):
    """Whether two nested states of tensors are equal to the last bit."""
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same_state(first[k], second[k]) for k in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same_state, first, second))
    return first == second


def test_a_resumed_run_equals_an_uninterrupted_one(run_main, capsys):
    # Six steps are two epochs of the three clips; the stop is in the middle of the first.
    assert run_main("--steps", "6", "--validate-every", "3", "--run", "runs/whole") == 0
    assert "bicubic + flow" in capsys.readouterr().out

    class StopAfterTwo(main.StopSignals):
        checks = 0

        @property
        def received(self):
            self.checks += 1
            return signal.SIGTERM if self.checks >= 2 else None

        @received.setter
        def received(self, value):
            pass

    flags = ("--steps", "6", "--validate-every", "3", "--run", "runs/cut")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(main, "StopSignals", StopAfterTwo)
        assert run_main(*flags) == 128 + signal.SIGTERM
    assert load_torch_file("runs/cut/last.pt")["step"] == 2
    assert run_main("--resume", "--run", "runs/cut", "--workers", "1") == 0

    whole, cut = (load_torch_file(f"runs/{name}/last.pt") for name in ("whole", "cut"))
    for part in ("step", "network", "ema", "optimiser", "random", "best_score"):
        assert same_state(whole[part], cut[part]), part
    steps = [line["step"] for line in read_log("runs/cut")]
    assert steps == sorted(steps)
    network, information = load_network("runs/cut/best.pt")
    assert information["config"]["flow_method"] == "dis"
    assert network.global_skip


def test_loss_falls(run_main):
    assert run_main("--steps", "30", "--validate-every", "30", "--run", "r", "--rate", "1e-3") == 0
    losses = [line["loss"] for line in read_log("r") if "loss" in line]
    assert np.mean(losses[-10:]) < np.mean(losses[:10])


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
    with pytest.raises(ValueError, match=r"rate was 0\.0004, is 0\.1"):
        run_main("--resume", "--steps", "2", "--rate", "0.1")


def test_training_goes_on_from_weights(run_main):
    assert run_main("--steps", "1", "--run", "a") == 0
    assert run_main("--steps", "1", "--run", "b", "--weights", "a/best.pt") == 0


def test_a_non_finite_loss_stops_before_the_step(run_main, monkeypatch):
    monkeypatch.setattr(main, "charbonnier", lambda output, truth: output.sum() * float("nan"))
    with pytest.raises(FloatingPointError, match="step 0: the loss is nan on clip"):
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
        (("--given-frames", "5"), "given_frames is 5"),
        (("--device", "cuda:7"), "here there is cpu"),
        (("--flow-method", "guess"), "guess"),
    ],
)
def test_bad_input_is_named(run_main, flags, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        run_main("--steps", "1", *flags)


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_mistakes_at_the_command_line_are_one_line(tmp_path):
    command = [sys.executable, str(ROOT / "main.py"), "--data-root", "nowhere"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert result.returncode == 2
    assert result.stderr.startswith("error: ")
    assert len(result.stderr.splitlines()) == 1
