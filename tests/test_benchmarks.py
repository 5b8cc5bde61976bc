"""Every command of benchmarks/ and figures/ runs, here on something tiny."""

import functools
import json
import re
import runpy
import shutil
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import benchmarks.enhance
import benchmarks.flow_methods
import benchmarks.fuzz
import benchmarks.gpu
import benchmarks.inference
import benchmarks.loader
import benchmarks.operators
import benchmarks.parity
import benchmarks.recipe
import benchmarks.speed
import benchmarks.training
import benchmarks.trust
import figures.make_figures
from benchmarks.timing import Measured, in_turns
from media.images import write_image
from models import MSTT
from models.checkpoint import save_network
from models.mstt import SIZES
from tests.trainings import FEW_CHANNELS, write_data
from training import slim

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def as_it_was():
    """Benchmarks set the number of threads for their whole process."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """stills/ and clips/, a few pixels each, and net.safetensors."""
    folder = tmp_path_factory.mktemp("benchmarks")
    write_data(folder)
    (folder / "stills").mkdir()
    still = np.random.default_rng(0).integers(0, 256, (340, 340, 3), dtype=np.uint8)
    write_image(folder / "stills" / "a.png", still)
    torch.manual_seed(0)
    network = MSTT(**FEW_CHANNELS, global_skip="enhanced", skip_refinement=True)
    save_network(folder / "net.safetensors", network, {"flow_method": "dis"})
    return folder


@pytest.fixture
def run(monkeypatch):
    """Call a module's main with arguments."""

    def call(module, *arguments):
        monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, arguments)])
        return module.main()

    return call


@pytest.fixture
def tiny_sizes(monkeypatch):
    for name in SIZES:
        monkeypatch.setitem(SIZES, name, FEW_CHANNELS)


def in_this_process(make, variants, repeats, default):
    """What `in_turns` gives, from one call of each without processes of their own."""
    for arguments in variants.values():
        make(*arguments)()
    return {name: Measured(1.0, 1.0, 2**20) for name in variants}


def make_sleep(seconds):
    return functools.partial(time.sleep, seconds)


def test_variants_take_turns_in_processes_of_their_own():
    results = in_turns(make_sleep, {"long": (0.02,), "short": (0.0,)}, repeats=3, default=["long"])
    assert list(results) == ["long", "short"]
    assert results["long"].wall >= 0.02 > results["short"].wall
    assert results["long"].processor < 0.02


def test_recipe(run, folder, tiny_sizes, capsys):
    variants = "base,adam,no skip,one given frame,batch 4,flow dis"
    flags = ("--samples", 4, "--variants", variants)
    run(benchmarks.recipe, folder / "stills", folder / "clips", *flags)
    rows = capsys.readouterr().out.splitlines()[-6:]
    assert [row[:18].strip() for row in rows] == variants.split(",")
    figures = [float(word) for row in rows for word in re.findall(r"\d+\.\d\d", row)]
    assert all(3 < figure < 50 for figure in figures)  # without a skip: noise
    weights = ("--weights", folder / "net.safetensors", "--variants", "base")
    run(benchmarks.recipe, folder / "stills", folder / "clips", "--samples", 1, *weights)
    assert re.search(r"(\d+) of \1 tensors are those of", capsys.readouterr().out)
    with pytest.raises(ValueError, match="no variants"):
        run(benchmarks.recipe, "a", "b", "--variants", "bass")


@pytest.mark.parametrize("what", ["compare", "stages", "growth"])
def test_inference(run, tiny_sizes, tmp_path, monkeypatch, what):
    monkeypatch.setattr(benchmarks.speed, "SPEED", tmp_path / "speed.json")
    monkeypatch.setattr(benchmarks.inference, "in_turns", in_this_process)
    monkeypatch.setattr(benchmarks.inference, "matrix_product_peak", lambda dtype: 1e9)
    flags = ("--side", 80, "--repeats", 1, "--sides", "80", "--frames", "2", "--batches", "1")
    flags += ("--threads", 1)
    run(benchmarks.inference, what, *flags)
    ((processor, kept),) = json.loads((tmp_path / "speed.json").read_text()).items()
    assert processor == torch.backends.cpu.get_cpu_capability()
    assert list(kept) == [what]


def test_training(run, tiny_sizes, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(benchmarks.speed, "SPEED", tmp_path / "speed.json")
    monkeypatch.setattr(benchmarks.training, "in_turns", in_this_process)
    run(benchmarks.training, "--size", "small", "--given-frames", 2, "--repeats", 1)
    assert "ours, float32" in capsys.readouterr().out


def test_speed_draws_and_tabulates_what_is_kept(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(benchmarks.speed, "FIGURES", tmp_path)
    run(benchmarks.speed, "plot")
    assert (tmp_path / "speed.png").stat().st_size > 10_000
    run(benchmarks.speed, "tables")
    assert "| formulation |" in capsys.readouterr().out
    with pytest.raises(ValueError, match="choose plot or tables"):
        run(benchmarks.speed, "readme")


def test_the_document_is_what_the_command_writes(run, tmp_path, monkeypatch):
    document = ROOT / "docs" / "speed.md"
    shutil.copy(document, tmp_path)
    monkeypatch.setattr(benchmarks.speed, "DOCUMENT", tmp_path / "speed.md")
    run(benchmarks.speed, "tables", "--write")
    assert (tmp_path / "speed.md").read_text() == document.read_text()


def test_operators(run, monkeypatch, capsys):
    monkeypatch.setattr(benchmarks.operators, "seconds_of_use", lambda cache: 0.0)
    run(benchmarks.operators, "--repeats", 1, "--side", 16, "--tiles", 1)
    cv2.setNumThreads(1)
    assert "4x64x16x16" in capsys.readouterr().out.replace(" x ", "x")


def test_parity(run, capsys):
    run(benchmarks.parity)
    rows = capsys.readouterr().out.splitlines()[1:]
    assert len(rows) > 3
    assert all(float(row.split()[-2]) < 1e-6 for row in rows)


def test_flow_methods(run, tmp_path, folder, capsys):
    (tmp_path / "clip" / "truth").mkdir(parents=True)
    texture = np.random.default_rng(0).integers(0, 256, (112, 130, 3), dtype=np.uint8)
    for shift in range(3):
        write_image(tmp_path / "clip" / "truth" / f"{shift}.png", texture[:, shift : shift + 112])
    run(benchmarks.flow_methods, tmp_path)
    assert [row.split()[0] for row in capsys.readouterr().out.splitlines()[-4:]] == [
        *("dis", "dis2x", "dis4x", "pyflow")
    ]
    run(benchmarks.flow_methods, tmp_path, "--checkpoint", folder / "net.safetensors")
    assert capsys.readouterr().out.splitlines()[-1].startswith("enhanced")


def test_loader(run, folder, monkeypatch, capsys):
    for module, name in benchmarks.loader.STAGES.values():
        monkeypatch.setattr(module, name, getattr(module, name))  # put back what `watch` replaces
    run(benchmarks.loader, folder / "stills", "--samples", 2, "--degrade", "real")
    assert "samples per second of wall time" in capsys.readouterr().out


def test_fuzz(run, capsys):
    assert not run(benchmarks.fuzz, "--files", 2)
    assert capsys.readouterr().out.count(" 0 bugs, 0 slow, 0 large") == 7


@pytest.mark.parametrize("what", ["memory", "speed", "pipeline", "length", "tiles", "interrupt"])
def test_enhance(run, folder, capsys, what):
    flags = ("--model", folder / "net.safetensors", "--sides", "24", "--size", "32x24")
    flags += (
        "--clip",
        "5x32x24",
        "--lengths",
        "5",
        "--tiles",
        "80",
        "--overlaps",
        "24",
        "--interruptions",
        1,
    )
    frames = folder / "frames"
    frames.mkdir(exist_ok=True)
    for number in range(4):
        noise = np.random.default_rng(number).integers(0, 256, (96, 96, 3), dtype=np.uint8)
        write_image(frames / f"{number}.png", noise)
    run(benchmarks.enhance, what, *flags, "--frames", frames)
    assert len(capsys.readouterr().out.splitlines()) >= 1


def in_this_interpreter(arguments, launcher=()):
    """Run a script without a start of Python of its own; torchrun is left out."""
    sys.argv = list(arguments)
    with pytest.raises(SystemExit) as end:
        runpy.run_path(arguments[0], run_name="__main__")
    assert end.value.code == 0


@pytest.mark.parametrize("what", ["repeat", "processes"])
def test_trust(run, monkeypatch, capsys, what):
    monkeypatch.setattr(benchmarks.trust, "run_python", in_this_interpreter)
    assert run(benchmarks.trust, what, "--steps", 1) == 0
    assert "differ" in capsys.readouterr().out


def test_trust_kills(run):
    assert run(benchmarks.trust, "kills", "--steps", 40, "--kills", 1) == 0


def test_figures(run, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(figures.make_figures, "make_scenes", lambda path: Path(path))
    scenes = tmp_path / "scenes"
    shutil.copytree(folder / "clips" / "clip 0", scenes / "test" / "junction_000")
    run(
        figures.make_figures,
        *("--checkpoint", folder / "net.safetensors", "--scenes", scenes, "--out", tmp_path),
    )
    drawn = {path.name for path in tmp_path.glob("*.png")}
    assert drawn == {"comparison_junction_000.png", "motion.png", "attention.png"}


def test_gpu_rehearsal(run, folder, tmp_path, capsys):
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
    config = benchmarks.gpu.Config("stills", "clips", str(tmp_path), minutes=2.0, rehearse=True)
    parts = benchmarks.gpu.Run(config, torch.device("cpu"))
    code = {"tests": "raise SystemExit(3)", "steps": "import time; time.sleep(60)"}
    monkeypatch.setattr(
        parts, "command", lambda name: [sys.executable, "-c", code.get(name, "print(1)")]
    )
    monkeypatch.setattr(benchmarks.gpu, "LIMITS", dict.fromkeys(benchmarks.gpu.LIMITS, (1, 1)))
    monkeypatch.setattr(benchmarks.gpu, "LEAST_TRAINING", 10.0)
    parts.everything()
    outcomes = {name: part["outcome"] for name, part in parts.report.items()}
    assert outcomes["tests"] == "status 3"
    assert outcomes["steps"] == "stopped after 1 s"
    assert outcomes["training"] == outcomes["export"] == "status 0"
    short = benchmarks.gpu.Run(config, torch.device("cpu"))
    short.end -= 105
    monkeypatch.setattr(short, "command", parts.command)
    short.everything()
    left_out = [name for name, part in short.report.items() if "left out" in part["outcome"]]
    assert left_out == list(benchmarks.gpu.TABLES)[: len(left_out)]
    assert left_out
    assert short.report["training"]["outcome"] == "status 0"
