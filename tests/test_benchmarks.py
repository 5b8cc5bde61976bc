"""Every command of benchmarks/ and figures/ runs, here on something tiny."""

import contextlib
import functools
import gc
import io
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from trainings import (
    FEW_CHANNELS,
    Child,
    Training,
    at_step,
    forkserver,
    pause,
    run_here,
    write_clip,
)

import benchmarks.enhance
import benchmarks.files
import benchmarks.flow_methods
import benchmarks.fuzz
import benchmarks.gpu
import benchmarks.inference
import benchmarks.loader
import benchmarks.mutants
import benchmarks.operators
import benchmarks.parity
import benchmarks.recipe
import benchmarks.sizes
import benchmarks.speed
import benchmarks.training
import benchmarks.trust
import enhance
import figures.make_figures
from benchmarks.timing import Seconds, in_turns, timed
from media.folder import write_image_file
from media.images import write_image
from models import MSTT
from models.checkpoint import save_network
from training import slim

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def folder(data):
    """stills/, clips/ and septuplets/, a few pixels each, and net.safetensors."""
    (data / "stills").mkdir()
    still = np.random.default_rng(0).integers(0, 256, (340, 340, 3), dtype=np.uint8)
    write_image(data / "stills" / "a.png", still)
    torch.manual_seed(0)
    network = MSTT(**FEW_CHANNELS, global_skip="enhanced", skip_refinement=True)
    save_network(data / "net.safetensors", network, {"flow_method": "dis"})
    return data


@pytest.fixture
def run(monkeypatch):
    """Call a module's main with arguments."""

    def call(module, *arguments):
        monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, arguments)])
        return module.main()

    return call


def test_variants_take_turns_in_processes_of_their_own(monkeypatch):
    # Which are forked here from a server that has imported PyTorch.
    forked = SimpleNamespace(get_context=lambda kind: forkserver())
    monkeypatch.setattr(benchmarks.timing, "multiprocessing", forked)
    make_sleep = functools.partial(functools.partial, time.sleep)
    variants = {"long": (0.3,), "short": (0.0,)}
    results = in_turns(make_sleep, variants, repeats=1, default=["long"])
    assert list(results) == ["long", "short"]
    assert results["long"][0].wall >= 0.3 > results["long"][0].processor
    assert results["short"][0].wall < results["long"][0].wall


def test_recipe(run, folder, few_channels, monkeypatch, capsys):
    def run_main(command, **streams):
        with contextlib.redirect_stdout(streams["stdout"]):
            return SimpleNamespace(returncode=run_here(*command[1:]))

    here = SimpleNamespace(run=run_main, DEVNULL=io.StringIO())
    monkeypatch.setattr(benchmarks.recipe, "subprocess", here)
    monkeypatch.setitem(benchmarks.recipe.BASE, "patch", 16)
    variants = "base,no skip,one given frame,batch 4"
    flags = ("--samples", 4, "--variants", variants)
    run(benchmarks.recipe, folder / "stills", folder / "clips", *flags)
    rows = capsys.readouterr().out.splitlines()[-4:]
    assert [row[:18].strip() for row in rows] == variants.split(",")
    figures = [float(word) for row in rows for word in re.findall(r"\d+\.\d\d", row)]
    assert all(3 < figure < 50 for figure in figures)  # without a skip: noise
    weights = ("--weights", folder / "net.safetensors", "--clips", folder / "septuplets")
    weights += ("--variants", "real clips", "--seed", 1)
    run(benchmarks.recipe, folder / "stills", folder / "clips", "--samples", 1, *weights)
    assert re.search(r"(\d+) of \1 tensors are those of", capsys.readouterr().out)
    with pytest.raises(ValueError, match="no variants"):
        run(benchmarks.recipe, "a", "b", "--variants", "bass")
    with pytest.raises(ValueError, match="needs --clips"):
        run(benchmarks.recipe, "a", "b", "--variants", "real clips")


@pytest.mark.parametrize("what", ["compare", "stages", "growth"])
def test_inference(run, few_channels, tmp_path, monkeypatch, what):
    monkeypatch.setattr(benchmarks.speed, "SPEED", tmp_path / "speed.json")
    window, side = benchmarks.inference.random_window, 80 if what == "compare" else 32
    for name, other in {
        "in_turns": lambda make, variants, *_, **__: dict.fromkeys(variants, (Seconds(1, 1), 1)),
        "precisions": lambda: ["float32"],
        "matrix_product_peak": lambda dtype: 1e9,
        "peak_extra_memory": lambda run: 1,
        "random_window": lambda _, **sizes: window(side, **{"count": 2} | sizes),
    }.items():
        monkeypatch.setattr(benchmarks.inference, name, other)
    flags = ("--side", side, "--repeats", 1, "--sides", side, "--frames", "2", "--batches", "1")
    run(benchmarks.inference, what, *flags, "--threads", 1)
    ((processor, kept),) = json.loads((tmp_path / "speed.json").read_text()).items()
    assert processor == torch.backends.cpu.get_cpu_capability()
    assert list(kept) == [what]


def test_training(run, few_channels, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(benchmarks.speed, "SPEED", tmp_path / "speed.json")

    def in_turns(make, variants, repeats, default):
        for arguments in variants.values():
            make(*arguments)()
        return dict.fromkeys(variants, (Seconds(1.0, 1.0), 2**20))

    monkeypatch.setattr(benchmarks.training, "in_turns", in_turns)
    run(benchmarks.training, "--size", "small", "--given-frames", 2, "--repeats", 1)
    assert "ours, float32" in capsys.readouterr().out


def test_speed_draws_and_tabulates_what_is_kept(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(benchmarks.speed, "FIGURES", tmp_path)
    run(benchmarks.speed, "plot")
    assert (tmp_path / "speed.png").stat().st_size > 10_000
    run(benchmarks.speed, "tables")
    assert "| formulation |" in capsys.readouterr().out


def test_the_document_is_what_the_command_writes(run, tmp_path, monkeypatch):
    document = ROOT / "docs" / "speed.md"
    shutil.copy(document, tmp_path)
    monkeypatch.setattr(benchmarks.speed, "DOCUMENT", tmp_path / "speed.md")
    run(benchmarks.speed, "tables", "--write")
    assert (tmp_path / "speed.md").read_text() == document.read_text()


def test_operators(run, monkeypatch, capsys):
    def once(functions, repeats):  # and no warm-up, which would be half of the time
        return {name: timed(function) for name, function in functions.items()}

    monkeypatch.setattr(benchmarks.operators, "interleaved_medians", once)
    monkeypatch.setattr(benchmarks.operators, "seconds_of_use", lambda cache: 0.0)
    monkeypatch.setattr(gc, "collect", lambda: None)  # of all that the tests have imported
    run(benchmarks.operators, "--repeats", 1, "--side", 16, "--tiles", 1)
    cv2.setNumThreads(1)
    out = capsys.readouterr().out
    assert "4x64x16x16" in out.replace(" x ", "x")
    differences = [float(text) for text in re.findall(r"(\S+) px", out)]
    assert len(differences) == 4
    assert max(differences) < 1e-3


def test_parity(run, capsys):
    """Output and intermediate maps equal those of the released network."""
    run(benchmarks.parity)
    rows = capsys.readouterr().out.splitlines()[1:]
    assert len(rows) > 3
    assert all(float(row.split()[-2]) < 1e-6 for row in rows)


def make_test_clip(folder):
    (folder / "clip" / "truth").mkdir(parents=True)
    texture = np.random.default_rng(0).integers(0, 256, (112, 130, 3), dtype=np.uint8)
    for shift in range(3):
        write_image(folder / "clip" / "truth" / f"{shift}.png", texture[:, shift : shift + 112])


def test_sizes(run, tmp_path, folder, capsys):
    file = folder / "net.safetensors"
    with pytest.raises(ValueError, match="weights has 'net'; give NAME=FILE"):
        run(benchmarks.sizes, tmp_path, tmp_path / "a.png", "--weights", "net")
    make_test_clip(tmp_path)
    weights = f"joint={file},apart={file}+flow"
    run(benchmarks.sizes, tmp_path, tmp_path / "a.png", "--weights", weights, "--repeats", 1)
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert {row[0] for row in rows if row} >= {"bicubic", "joint", "apart"}
    assert cv2.imread(tmp_path / "a.png").shape == (374, 924, 3)


def test_flow_methods(run, tmp_path, folder, capsys):
    make_test_clip(tmp_path)
    run(benchmarks.flow_methods, tmp_path)
    assert [row.split()[0] for row in capsys.readouterr().out.splitlines()[-4:]] == [
        *("dis", "dis2x", "dis4x", "pyflow")
    ]
    run(benchmarks.flow_methods, tmp_path, "--checkpoint", folder / "net.safetensors")
    assert capsys.readouterr().out.splitlines()[-1].startswith("enhanced")


def test_loader(run, folder, monkeypatch, capsys):
    for module, name in benchmarks.loader.STAGES.values():
        monkeypatch.setattr(module, name, getattr(module, name))  # put back what main replaces
    run(benchmarks.loader, folder / "stills", "--samples", 2, "--degrade", "real")
    assert "samples per second of wall time" in capsys.readouterr().out


def test_files(run, capsys, tmp_path):
    for name in ("a.png", "b.jpg", "c.bmp", "d.tif"):
        write_image_file(tmp_path / name, np.full((20, 30, 3), 90, np.uint8))
    (tmp_path / "e.png").write_bytes((tmp_path / "a.png").read_bytes()[:50])
    assert not run(benchmarks.files, tmp_path)
    table = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert table[1:5] == [
        [kind, "1", "0", "0", "0", refused, "0", "0"]
        for kind, refused in ((".bmp", "0"), (".jpg", "0"), (".png", "1"), (".tif", "0"))
    ]


def test_fuzz(run, capsys):
    assert not run(benchmarks.fuzz, "--files", 2)
    assert capsys.readouterr().out.count(" 0 bugs, 0 slow, 0 large") == 10
    with pytest.raises(ValueError, match="reader is 'json'; choose one of all, list, image"):
        run(benchmarks.fuzz, "--reader", "json")


def popen(other):
    """The module subprocess with another Popen."""
    return SimpleNamespace(**vars(subprocess) | {"Popen": other})


class Forked:
    """What Popen gives of enhance.py, forked instead of started."""

    def __init__(self, command, **options):
        self.child = Child("enhance", Path(command[3]).parent, *command[2:])

    def communicate(self, timeout=None):
        self.child.process.join(timeout)
        if self.child.running:
            raise subprocess.TimeoutExpired("enhance.py", timeout)
        self.returncode = self.child.process.exitcode
        return "", self.child.err.encode()

    def send_signal(self, number):
        os.kill(self.child.pid, number)


def enhance_here(source, output, model, config, *flags):
    """What `measure` gives, without a process of its own."""
    start = time.perf_counter()
    command = benchmarks.enhance.command_of(source, output, model, config, *flags)
    enhance.main(command[2:])
    return time.perf_counter() - start, 0.1


@pytest.mark.parametrize("what", ["memory", "pipeline", "interrupt"])
def test_enhance(run, folder, tmp_path, monkeypatch, capsys, what):
    flags = ("--model", folder / "net.safetensors", "--sides", "24", "--clip", "5x32x24")
    flags += ("--interruptions", 1)
    write = benchmarks.enhance.write_clip
    small = {"interrupt": (6, 24, 32)}
    monkeypatch.setattr(
        benchmarks.enhance, "write_clip", lambda path, *size: write(path, *small.get(what, size))
    )
    if what == "memory":  # the one that measures a process, of whatever it is
        started = popen(lambda command, **options: subprocess.Popen(["true"], **options))
    else:
        monkeypatch.setattr(benchmarks.enhance, "measure", enhance_here)
        started = popen(Forked)
    monkeypatch.setattr(benchmarks.enhance, "subprocess", started)
    run(benchmarks.enhance, what, *flags)
    lines = capsys.readouterr().out.splitlines()
    assert any("net" in line for line in lines) or "every result equal" in lines[-1]


class InThisProcess:
    """What Popen gives of a script, without a start of Python."""

    def __init__(self, command, stdout, env, **options):
        name, *arguments = command[2:] if command[1] == "-m" else command[1:]
        with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stdout):
            if name == "pytest":  # which is no place for another one
                assert (ROOT / arguments[-1]).is_file()
                assert env["MSTT_TEST_DEVICE"] == "cpu"
                self.status = 0
            else:
                self.status = run_here(name, *arguments)

    def wait(self, timeout):
        return self.status


def in_this_interpreter(arguments, launcher=()):
    """Run a script without a start of Python of its own; torchrun is left out."""
    assert run_here(*arguments) == 0


@pytest.fixture
def scenes(folder, tmp_path, monkeypatch):
    """The built-in scenes are three clips of 80 pixels."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(folder / "septuplets", tmp_path / "scenes")
    shutil.copytree(folder / "clips", tmp_path / "scenes" / "test")
    monkeypatch.setattr(benchmarks.trust, "make_scenes", lambda *_, **sizes: tmp_path / "scenes")


@pytest.mark.parametrize("what", ["repeat", "processes"])
def test_trust(run, scenes, few_channels, monkeypatch, capsys, what):
    monkeypatch.setattr(benchmarks.trust, "run_python", in_this_interpreter)
    assert run(benchmarks.trust, what, "--steps", 1) == 0
    assert "differ" in capsys.readouterr().out


def test_trust_kills(run, scenes, monkeypatch, capsys):
    """The first of two trainings is left alone, the next one waits to be killed."""
    tricks = iter(([], [(at_step, 3, pause)], []))

    def training(*arguments):
        return Training(*arguments, tricks=next(tricks))

    monkeypatch.setattr(benchmarks.trust, "Training", training)
    assert run(benchmarks.trust, "kills", "--steps", 4, "--kills", 1) == 0
    assert "differs by 0 from" in capsys.readouterr().out


def test_figures(run, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(figures.make_figures, "make_scenes", lambda path: Path(path))
    scenes = tmp_path / "scenes"
    write_clip(scenes / "test" / "junction_000" / "truth", 0, [f"{t}.png" for t in range(7)], 80)
    run(
        figures.make_figures,
        *("--checkpoint", folder / "net.safetensors", "--scenes", scenes, "--out", tmp_path),
    )
    drawn = {path.name for path in tmp_path.glob("*.png")}
    assert drawn == {"comparison_junction_000.png", "motion.png", "attention.png"}


def test_gpu_rehearsal(run, folder, tmp_path, few_channels, monkeypatch):
    monkeypatch.setattr(benchmarks.gpu, "subprocess", popen(InThisProcess))
    monkeypatch.chdir(tmp_path)
    flags = ("--rehearse", "--size", "small", "--validation", folder / "clips")
    run(benchmarks.gpu, folder / "stills", folder / "clips", tmp_path / "out", *flags)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    texts = {path.stem: path.read_text()[-2000:] for path in (tmp_path / "out").glob("*.txt")}
    for name, part in report.items():
        assert part["outcome"] == "status 0", texts.get(name)
    assert set(report) == {
        *("versions", "tests", "operators", "inference", "steps"),
        *("training", "export", "evaluation"),
    }
    files = {path.name for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert {"best.safetensors", "best.json", "log.jsonl", "results.json", "part-0"} <= files
    slim.unpack(tmp_path / "out" / "state", tmp_path / "again" / "last.pt")


def test_gpu_refusals(run, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    places = (folder / "stills", folder / "clips", tmp_path / "out")
    with pytest.raises(ValueError, match="no GPU here; --rehearse"):
        run(benchmarks.gpu, *places)
    with pytest.raises(FileNotFoundError, match="nowhere is not a folder"):
        run(benchmarks.gpu, "nowhere", *places[1:], "--rehearse")
    with pytest.raises(ValueError, match="not empty"):
        run(benchmarks.gpu, *places[:2], folder / "stills", "--rehearse")


def test_gpu_parts_that_fail_or_hang_hold_up_nothing(tmp_path, monkeypatch, capsys):
    config = benchmarks.gpu.Config("stills", "clips", str(tmp_path), minutes=5.0, rehearse=True)
    parts = benchmarks.gpu.Run(config, torch.device("cpu"))
    code = {"tests": "exit 3", "steps": "sleep 600"}
    monkeypatch.setattr(parts, "command", lambda name: ["sh", "-c", code.get(name, "echo 1")])
    limits = dict.fromkeys(benchmarks.gpu.LIMITS, (20, 20)) | {"steps": (1, 1)}
    monkeypatch.setattr(benchmarks.gpu, "LIMITS", limits)
    monkeypatch.setattr(benchmarks.gpu, "LEAST_TRAINING", 10.0)
    parts.everything()
    outcomes = {name: part["outcome"] for name, part in parts.report.items()}
    assert outcomes["tests"] == "status 3"
    assert outcomes["steps"] == "stopped after 1 s"
    assert outcomes["training"] == outcomes["export"] == "status 0"
    short = benchmarks.gpu.Run(config, torch.device("cpu"))
    short.end -= 240
    monkeypatch.setattr(short, "command", parts.command)
    short.everything()
    left_out = [name for name, part in short.report.items() if "left out" in part["outcome"]]
    assert left_out == list(benchmarks.gpu.TABLES)[: len(left_out)]
    assert left_out
    assert short.report["training"]["outcome"] == "status 0"


def test_mutants_are_made_one_at_a_time_and_tried(run, tmp_path, monkeypatch, capsys):
    (tmp_path / "tests").mkdir()
    test = "from utils.text import one_line\n\ndef test_line():\n    assert one_line('a') == 'a'\n"
    (tmp_path / "tests" / "test_a.py").write_text(test)
    place = "return escaped(text[:MOST_PRINTED])"
    changes = f"dead\n- {place}\n+ return ''\nalive\n- {place}\n+ a = 1\n+     {place}\n"
    (tmp_path / "mutants.txt").write_text(f"Two\n\n= utils/text.py: test_a.py test_b.py\n{changes}")
    monkeypatch.setattr(benchmarks.mutants, "MUTANTS", tmp_path / "mutants.txt")
    needed = [name for name in benchmarks.mutants.KEPT if name not in ("checkpoints", "figures")]
    monkeypatch.setattr(benchmarks.mutants, "KEPT", needed)  # the others are 50 MB, copied twice
    assert run(benchmarks.mutants, "--tests", tmp_path / "tests") == 1
    lines = capsys.readouterr().out.splitlines()
    assert ["killed by test_line" in lines[0], "SURVIVED" in lines[1]] == [True, True]
    assert lines[2] == "1 of 2 mutants killed"


def test_every_mutant_has_its_place_and_its_tests():
    mutants = benchmarks.mutants.read_mutants(benchmarks.mutants.MUTANTS.read_text())
    assert len(mutants) > 60
    for mutant in mutants:
        assert (ROOT / mutant.path).read_text().count(mutant.before) == 1, mutant.name
        assert all((ROOT / "tests" / test).is_file() for test in mutant.tests), mutant.name
