"""test.py from end to end: the methods, results.json, and what it says to bad input."""

import hashlib
import importlib.util
import json
import math
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import data.clips
import models.weights
from data import degrade
from data.clips import degraded, find_clips, read_clip
from data.degrade import CONDITIONS
from media.images import read_image, write_image
from models import MSTT, baselines
from models.checkpoint import save_network
from models.ensemble import Ensemble
from models.inference import pick_precision, super_resolve
from models.weights import SHIPPED, trained_flow, trained_window
from utils.metrics import clip_metrics, psnr
from utils.report import COLUMNS, table
from utils.resize import imresize

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT / ".." / "shared" / "data" / "test"
KEYS = {f"{figure}_{colour}" for figure in ("psnr", "ssim") for colour in ("rgb", "y")}
CLIP_KEYS = {key + part for key in KEYS for part in ("", "_given", "_interpolated")} | {
    "psnr_rgb_moving",
    "moving_fraction",
    "flicker",
    "flicker_truth",
}

# By path: `import test` may find the standard library's package of that name.
specification = importlib.util.spec_from_file_location("evaluation", ROOT / "test.py")
evaluation = importlib.util.module_from_spec(specification)
sys.modules["evaluation"] = evaluation
specification.loader.exec_module(evaluation)


def make_clip(folder, frames, seed=0, height=64, width=80, step=4):
    """A textured ground with a vehicle, as a test clip without LR frames."""
    rng = np.random.default_rng(seed)
    ground = imresize(rng.integers(0, 256, (height // 4, width // 4, 3), dtype=np.uint8), 4)
    for t in range(frames):
        frame = ground.copy()
        frame[24:32, step * t : step * t + 12] = 250
        (folder / "truth").mkdir(parents=True, exist_ok=True)
        write_image(folder / "truth" / f"{t:08d}.png", frame)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    network = MSTT(channels=8, groups=2, front_blocks=1, back_blocks=1, global_skip=True)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_network(path, network, {"flow_method": "dis"})
    return path


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Two clips, one over two windows whose tail is covered, one shorter than a window."""
    root = tmp_path_factory.mktemp("clips")
    make_clip(root / "long", frames=9)
    make_clip(root / "short", frames=5, seed=1, step=0)
    return root


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["test.py", *map(str, arguments)])
    evaluation.main()


def test_results_frames_and_figures(tmp_path, monkeypatch, capsys, checkpoint, clips):
    out = tmp_path / "out"
    run(monkeypatch, "--data", clips, "--checkpoint", checkpoint, "--out", out, "--device", "cpu")

    def no_constants(name):
        raise AssertionError(f"{name} is not JSON")

    results = json.loads((out / "results.json").read_text(), parse_constant=no_constants)
    assert results["checkpoint"] == str(checkpoint)
    assert results["checkpoint_sha256"] == hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert results["data"] == str(clips)
    assert results["command"].startswith("python test.py --data")
    assert set(results["versions"]) == {"python", "torch", "numpy", "scikit-image", "opencv"}
    assert results["settings"]["flow_method"] == "dis"
    assert list(results["methods"]) == ["mstt", "mstt+flow", "bicubic+flow", "bicubic+blend"]

    for name, method in results["methods"].items():
        assert set(method) == {"mean", "clips"}
        assert list(method["clips"]) == ["long", "short"]
        assert set(method["mean"]) == CLIP_KEYS
        for clip, metrics in method["clips"].items():
            assert set(metrics) == CLIP_KEYS | {"frames"}
            written = sorted((out / name / clip).iterdir())
            assert [path.name for path in written] == [
                f"{t:08d}.png" for t in range({"long": 9, "short": 5}[clip])
            ]
            assert [set(frame) for frame in metrics["frames"]] == [KEYS] * len(written)
            # What is on disk is what was measured.
            output = np.stack([read_image(path) for path in written])
            truth = [read_image(path) for path in sorted((clips / clip / "truth").iterdir())]
            assert clip_metrics(output, np.stack(truth)) == metrics
        pair = [method["clips"][clip] for clip in ("long", "short")]
        for key in KEYS:
            assert method["mean"][key] == pytest.approx((pair[0][key] + pair[1][key]) / 2)
        # Only one of the clips moves: the mean over those that have the figure.
        assert pair[1]["psnr_rgb_moving"] is None
        assert method["mean"]["psnr_rgb_moving"] == pair[0]["psnr_rgb_moving"] > 0

    assert sorted(path.name for path in (out / "figures").iterdir()) == ["long.png", "short.png"]
    page = (out / "index.html").read_text()
    for clip in ("long", "short"):
        assert f"<caption>{clip}</caption>" in page
        assert f'"name": "{clip}"' in page
    assert "<dt>Given frames</dt><dd>LR frames made</dd>" in page
    assert f">{results['methods']['mstt']['mean']['psnr_y']:.2f}<" in page
    printed = capsys.readouterr().out
    mean = results["methods"]["mstt"]["mean"]
    row = next(line for line in printed.splitlines() if line.startswith("mean of 2  mstt"))
    assert row.split()[4:] == [
        f"{mean['psnr_rgb']:.2f}",
        f"{mean['ssim_rgb']:.4f}",
        f"{mean['psnr_y']:.2f}",
        f"{mean['ssim_y']:.4f}",
        f"{mean['psnr_rgb_given']:.2f}",
        f"{mean['psnr_rgb_interpolated']:.2f}",
        f"{mean['psnr_rgb_moving']:.2f}",
    ]


@pytest.mark.parametrize("methods", [1, 2])
def test_a_table_begins_with_its_headings_and_rules_off_every_clip(methods):
    figures = {key: 1.0 for _, key, _ in COLUMNS} | {"psnr_rgb_moving": None}
    result = {"mean": figures, "clips": {"a": figures, "b": figures}}
    lines = table({f"method {number}": result for number in range(methods)}).splitlines()
    kinds = "".join("-" if set(line) == {"-"} else "x" for line in lines[:-1])
    assert kinds == "x-" + 3 * ("x" * methods + "-")
    assert lines[0].split()[:3] == ["clip", "method", "PSNR"]
    assert lines[2].split()[-2:] == ["1.00", "-"]


def test_baselines_alone_write_only_the_table(tmp_path, monkeypatch, clips):
    out = tmp_path / "out"
    flags = ("--checkpoint", "none", "--no-save-frames", "--no-figures")
    run(monkeypatch, "--data", clips / "short", "--out", out, *flags)
    results = json.loads((out / "results.json").read_text())
    assert results["checkpoint"] is None
    assert results["checkpoint_sha256"] is None
    assert results["settings"]["flow_method"] is results["settings"]["precision"] is None
    assert list(results["methods"]) == ["bicubic+flow", "bicubic+blend"]
    assert [path.name for path in out.iterdir()] == ["results.json"]
    (out / "index.html").touch()  # of an earlier run, whose figures it shows
    run(monkeypatch, "--data", clips / "short", "--out", out, *flags)
    assert [path.name for path in out.iterdir()] == ["results.json"]


def test_every_method_is_given_the_same_degraded_frames(tmp_path, monkeypatch, capsys, clips):
    pytest.importorskip("av")
    seen, made = [], []

    def watched(given, flow_method):
        seen.append(given)
        return baselines.bicubic_blend(given)

    def lr_frames(*arguments):
        made.append(arguments[1])
        return degrade.lr_frames(*arguments)

    monkeypatch.setattr(evaluation, "bicubic_flow", watched)
    monkeypatch.setattr(data.clips, "lr_frames", lr_frames)
    clip_folder = clips / "short"
    flags = ("--data", clip_folder, "--checkpoint", "none", "--no-figures", "--out", tmp_path)
    run(monkeypatch, *flags, "--degrade", "all")
    results = json.loads((tmp_path / "results.json").read_text())
    assert list(results["conditions"]) == list(CONDITIONS)
    assert made == list(CONDITIONS.values())
    for number, name in enumerate(CONDITIONS):
        methods = results["conditions"][name]
        (clip,) = degraded(find_clips(clip_folder), name)
        given, truth = read_clip(clip)
        assert np.array_equal(seen[number], given)
        output = np.stack(list(baselines.bicubic_blend(given)))
        figures = clip_metrics(output, truth)
        assert methods["bicubic+blend"]["clips"][clip.name]["psnr_rgb"] == figures["psnr_rgb"]
        frame = read_image(tmp_path / name / "bicubic+blend" / clip.name / "00000001.png")
        assert np.array_equal(frame, output[1])
        page = (tmp_path / name / "index.html").read_text()
        assert f"<dt>Given frames</dt><dd>{name}</dd>" in page
    printed = capsys.readouterr().out
    assert "given frames: noise+crf23" in printed
    assert re.search(r"method +figure +clean +crf18 +crf23 +crf28 +noise +noise\+crf23", printed)

    run(monkeypatch, *flags, "--degrade", "crf28")
    again = json.loads((tmp_path / "results.json").read_text())
    assert again["seeds"] == results["seeds"] == {"short": 0}
    assert again["methods"] == results["conditions"]["crf28"]


@pytest.mark.parametrize("frames", [9, 13])
def test_windows_cover_every_frame_once(frames):
    """A stand-in network interpolates frames that hold their time: none is missing or doubled."""
    given = np.stack([np.full((16, 16, 3), 10 * i, np.uint8) for i in range((frames + 1) // 2)])

    def copy_times(images, forward_flow, backward_flow):
        middle = (images[:, 1:] + images[:, :-1]) / 2
        output = [images[:, :1]]
        for i in range(middle.shape[1]):
            output += [middle[:, i : i + 1], images[:, i + 1 : i + 2]]
        return torch.cat(output, dim=1).repeat_interleave(4, -1).repeat_interleave(4, -2)

    output = list(super_resolve(copy_times, given, "dis"))
    assert [frame[0, 0, 0] for frame in output] == [5 * t for t in range(frames)]


def test_bicubic_blend_is_the_mean_of_the_enlarged_neighbours():
    given = np.random.default_rng(0).integers(0, 256, (3, 16, 20, 3), dtype=np.uint8)
    output = baselines.bicubic_blend(given)
    enlarged = imresize(given.astype(np.float32), 4)
    expected = [enlarged[0], (enlarged[0] + enlarged[1]) / 2, enlarged[1]]
    expected += [(enlarged[1] + enlarged[2]) / 2, enlarged[2]]
    for frame, exact in zip(output, expected, strict=True):
        np.testing.assert_array_equal(frame, np.rint(exact).clip(0, 255))


def test_bicubic_flow_follows_a_drift_that_blending_smears():
    rng = np.random.default_rng(0)
    ground = imresize(imresize(rng.integers(0, 256, (10, 10, 3), dtype=np.uint8), 4), 4)
    truth = np.stack([ground[:, 4 * t : 4 * t + 128] for t in range(5)])
    given = imresize(truth[::2], 1 / 4)
    flow, blend = baselines.bicubic_flow(given, "dis"), baselines.bicubic_blend(given)
    inner = np.s_[16:-16, 16:-16]
    for t in (1, 3):
        assert psnr(flow[t][inner], truth[t][inner]) > psnr(blend[t][inner], truth[t][inner]) + 5


def test_sample_reads_the_image_where_the_flow_points():
    image = np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    flow = np.stack([np.full((20, 24), 2, np.float32), np.full((20, 24), -3, np.float32)])
    warped = baselines.sample(image, flow)
    np.testing.assert_allclose(warped[3:, :-2], image[:-3, 2:], atol=1e-3)
    np.testing.assert_allclose(warped[0, 0], image[0, 2], atol=1e-3)  # the border is repeated


def test_default_checkpoint_is_shipped_then_newest_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shipped = {name: tmp_path / path.name for name, path in SHIPPED.items()}
    monkeypatch.setattr(models.weights, "SHIPPED", shipped)
    config, cpu, gpu = evaluation.Config(), torch.device("cpu"), torch.device("cuda")
    with pytest.raises(FileNotFoundError, match=r"python main\.py"):
        evaluation.find_checkpoint(config, cpu)
    runs = [f"runs/a/{name}.pt" for name in ("last", "best")]
    for name in (*runs, "mstt_small.safetensors", "mstt_fast.safetensors"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        assert evaluation.find_checkpoint(config, cpu).resolve() == path
    (tmp_path / "mstt_large.safetensors").touch()
    assert evaluation.find_checkpoint(config, gpu) == tmp_path / "mstt_large.safetensors"
    assert evaluation.find_checkpoint(config, cpu) == tmp_path / "mstt_fast.safetensors"
    named = evaluation.Config(checkpoint="runs/a")
    assert evaluation.find_checkpoint(named, cpu) == Path("runs/a/best.pt")
    named = evaluation.Config(checkpoint="large")
    assert evaluation.find_checkpoint(named, cpu) == tmp_path / "mstt_large.safetensors"


def test_trained_window():
    assert trained_window({"origin": "released code"}) == 4
    assert trained_window({"config": {"given_frames": 2}}) == 4
    assert trained_window({"config": {"given_frames": 7}}) == 7
    assert trained_window({"config": {"given_frames": 7}, "window": 12}) == 12
    assert trained_window({"config": {"given_frames": 7, "evaluation_window": 5}}) == 5
    for window in (33, 1, 0, True, 12.0, "four", [[]]):
        with pytest.raises(ValueError, match=r"windows of .*; they have 2 to 32 given frames"):
            trained_window({"window": window})
    with pytest.raises(ValueError, match="window is 1; give 2 to 32 frames, or 0"):
        evaluation.Config(window=1)


def test_trained_flow():
    assert trained_flow({"flow_method": "dis"}) == "dis"
    assert trained_flow({"config": {"flow_method": "dis"}}) == "dis"
    both = {"flow_method": "dis", "evaluation_flow": "enhanced"}
    assert trained_flow({"config": both}) == "enhanced"
    assert trained_flow({"origin": "released code"}) == "pyflow"


def test_the_precision_that_is_found_is_recorded(checkpoint):
    cpu = torch.device("cpu")
    config, methods = evaluation.open_methods(evaluation.Config(precision="auto"), checkpoint, cpu)
    assert f"torch.{config.precision}" == str(pick_precision(cpu, "auto"))
    assert methods["mstt"].keywords["precision"] == config.precision


@pytest.mark.parametrize(
    ("has_library", "precision"), [(False, torch.float32), (True, torch.bfloat16)]
)
def test_bfloat16_takes_a_processor_and_the_library_that_uses_it(
    monkeypatch, has_library, precision
):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"bf16": True})  # ARM
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: has_library)
    assert pick_precision(torch.device("cpu")) == precision


def test_a_figure_shows_the_best_baseline_and_the_network(tmp_path, monkeypatch, clips):
    shown = []
    monkeypatch.setattr(evaluation, "comparison_figure", lambda *drawn: shown.append([*drawn[-1]]))
    names = ("mstt", "mstt+flow", "bicubic+flow", "bicubic+blend")
    methods = dict.fromkeys(names, baselines.bicubic_blend)
    methods["mstt+flow"] = lambda enlarged: enlarged.repeat(2, axis=0)[:-1]
    found = find_clips(clips / "short")
    config = evaluation.Config(page=False)
    _, entries = evaluation.evaluate(found, methods, tmp_path, config)
    assert shown == [["bicubic+flow", "mstt"]]
    assert entries == []  # of the page, which is not asked for


def test_methods_are_those_of_the_flags(checkpoint):
    config = evaluation.Config(baseline_flow_method="dis2x", ensemble=True)
    config, methods = evaluation.open_methods(config, checkpoint, torch.device("cpu"))
    flows = {name: method.keywords["flow_method"] for name, method in list(methods.items())[:3]}
    assert flows == {"mstt": "dis", "mstt+flow": "dis2x", "bicubic+flow": "dis2x"}
    assert isinstance(methods["mstt"].args[0], Ensemble)
    assert config.window == methods["mstt"].keywords["window"] == 4
    config, methods = evaluation.open_methods(
        evaluation.Config(window=9), checkpoint, torch.device("cpu")
    )
    assert config.window == methods["mstt"].keywords["window"] == 9


def test_bad_input_leaves_the_old_results_alone(tmp_path, monkeypatch, checkpoint, clips):
    out = tmp_path / "out"
    out.mkdir()
    (out / "results.json").write_text("old")
    bad = tmp_path / "bad"
    make_clip(bad / "a", frames=3)
    make_clip(bad / "b", frames=3)
    damaged = bad / "b" / "truth" / "00000001.png"
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 0xFF
    damaged.write_bytes(content)
    truncated = tmp_path / "truncated.safetensors"
    truncated.write_bytes(checkpoint.read_bytes()[:1000])
    truncated.with_suffix(".json").write_text(checkpoint.with_suffix(".json").read_text())

    good = {"--data": clips, "--checkpoint": checkpoint, "--out": out, "--device": "cpu"}
    for change, message in (
        ({"--data": bad}, "00000001.png: damaged"),
        ({"--data": tmp_path / "missing"}, "missing: no such folder"),
        ({"--list-file": tmp_path / "no.txt"}, "no.txt: no such list of clips"),
        ({"--checkpoint": truncated}, "truncated.safetensors is not a complete"),
        ({"--checkpoint": tmp_path / "none.pt"}, "no checkpoint at"),
        ({"--out": clips / "results"}, "lies in the test data"),
        ({"--out": checkpoint}, "is a file"),
        ({"--device": "tpu"}, "device is 'tpu'"),
    ):
        arguments = [part for pair in (good | change).items() for part in pair]
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            run(monkeypatch, *arguments)
    with pytest.raises(ValueError, match="nothing to measure"):
        run(monkeypatch, "--data", clips, "--checkpoint", "none", "--no-baselines", "--out", out)
    with pytest.raises(ValueError, match="--ensemble needs a network"):
        run(monkeypatch, "--data", clips, "--checkpoint", "none", "--ensemble", "--out", out)
    assert (out / "results.json").read_text() == "old"
    assert [path.name for path in out.iterdir()] == ["results.json"]


def test_data_among_the_results_are_not_written_over(tmp_path, monkeypatch):
    data = tmp_path / "bicubic+blend"
    make_clip(data / "a", frames=3)
    flags = ("--data", data, "--checkpoint", "none", "--no-page", "--out", tmp_path)
    with pytest.raises(ValueError, match=r"would be written over, as .*blend is written to"):
        run(monkeypatch, *flags)
    data.rename(tmp_path / "noise")
    flags = ("--data", tmp_path / "noise/a", *flags[2:])
    with pytest.raises(ValueError, match=r"would be written over, as .*noise is written to"):
        run(monkeypatch, *flags, "--degrade", "all")
    assert [path.name for path in tmp_path.iterdir()] == ["noise"]
    run(monkeypatch, *flags, "--no-save-frames", "--no-figures")


@pytest.mark.parametrize(
    ("flag", "value", "problem"),
    [
        ("--border", "4", "unrecognized arguments: --border"),
        ("--flow-method", "farneback", "invalid choice: 'farneback'"),
        ("--baseline-flow-method", "auto", "invalid choice: 'auto'"),
        ("--degrade", "rain", "invalid choice: 'rain'"),
    ],
)
def test_a_flag_or_name_that_does_not_exist_ends_with_status_2(
    monkeypatch, capsys, flag, value, problem
):
    with pytest.raises(SystemExit) as stop:
        run(monkeypatch, flag, value)
    assert stop.value.code == 2
    assert problem in capsys.readouterr().err


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the shared test clips")
def test_baselines_of_jilin_001_are_the_published_ones(tmp_path, monkeypatch):
    flags = ("--checkpoint", "none", "--no-save-frames", "--no-figures", "--out", tmp_path)
    run(monkeypatch, "--data", SHARED / "jilin_001", *flags)
    methods = json.loads((tmp_path / "results.json").read_text())["methods"]
    published = {"bicubic+blend": (29.02, 0.877, 30.36, 0.888)}
    published["bicubic+flow"] = (29.03, 0.878, 30.37, 0.889)
    for name, figures in published.items():
        mean = methods[name]["mean"]
        for key, digits, figure in zip(
            ("psnr_rgb", "ssim_rgb", "psnr_y", "ssim_y"), (2, 3, 2, 3), figures, strict=True
        ):
            assert math.isclose(round(mean[key], digits), figure), (name, key, mean[key])
