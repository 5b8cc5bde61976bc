"""Weights that are shipped say what they are."""

import json
import sys

import pytest
import torch

from models import MSTT
from models.checkpoint import FORMAT, load_network, save_torch_file
from training import release
from utils.files import file_sha256

CONFIG = {
    "batch": 2,
    "rate": 1e-4,
    "flow_method": "dis",
    "run": "somewhere",
    "stills": "/home/me/s",
}


def write_run(folder, steps, scores):
    """A finished run: last.pt, and a log in which one step was taken twice."""
    folder.mkdir()
    network = MSTT(8, 2, 1, 1, global_skip=True)
    state = {
        "format": FORMAT,
        "step": steps,
        "network": network.state_dict(),
        "ema": {name: weight + 0.01 for name, weight in network.state_dict().items()},
        "optimiser": {},
        "random": {},
        "network_options": network.options,
        "config": CONFIG,
        "best_score": max(scores.values()),
        "versions": {"torch": "2"},
    }
    save_torch_file(folder / "last.pt", state)
    lines = [{"step": step, "loss": 0.1} for step in scores]
    lines += [{"step": s, "psnr": 1.0, "gain_over_bicubic_flow": 0.0} for s in scores]
    lines += [
        {"step": step, "psnr": score, "gain_over_bicubic_flow": score - 20.0}
        for step, score in scores.items()
    ]
    (folder / "log.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return state["ema"]


@pytest.fixture
def released(tmp_path, monkeypatch):
    write_run(tmp_path / "A", 10, {5: 21.0, 10: 22.0})
    average = write_run(tmp_path / "B", 4, {4: 22.5})
    results = {
        "settings": {
            "flow_method": "dis",
            "precision": "float32",
            "degrade": "none",
            "window": 12,
        },
        "checkpoint_sha256": file_sha256(tmp_path / "B" / "last.pt"),
        "methods": {
            "mstt": {
                "mean": {"psnr_rgb": 30.123456},
                "clips": {"one": {"psnr_rgb": 30.123456, "moving": None, "frames": [1, 2]}},
            }
        },
    }
    (tmp_path / "results.json").write_text(json.dumps(results))

    def run(*flags):
        argv = ["release", str(tmp_path / "B" / "last.pt"), str(tmp_path / "net.safetensors")]
        argv += ["--stages", f"{tmp_path / 'A'},{tmp_path / 'B'}", "--imagery", "drawn"]
        monkeypatch.setattr(sys, "argv", [*argv, "--results", f"{tmp_path}/results.json", *flags])
        release.main()
        return load_network(tmp_path / "net.safetensors")

    return run, average, tmp_path


def test_weights_and_description(released):
    run, average, folder = released
    loaded, information = run()
    for name, tensor in average.items():
        assert torch.equal(loaded.state_dict()[name], tensor)
    assert information["sha256"] == file_sha256(folder / "net.safetensors")
    assert information["flow_method"] == "dis"
    assert information["window"] == 12
    assert information["samples"] == 2 * (10 + 4)
    assert information["metrics"]["clips"] == {"one": {"psnr_rgb": 30.1235, "moving": None}}
    assert [stage["points"] for stage in information["curve"]] == [
        [[10, 21.0], [20, 22.0]],
        [[28, 22.5]],
    ]
    assert information["curve_baseline"] == 20.0
    assert information["recipe"][0]["settings"]["stills"] == "s"
    assert information["versions"] == {"torch": "2"}  # of the training
    assert all("run" not in stage["settings"] for stage in information["recipe"])


def test_what_it_began_with_and_is_compared_with(released):
    run, _, _ = released
    assert run()[1]["curve_others"] == {}
    others = ("--others", "IMDN + flow:31.99,DAT: light:32.19")
    information = run("--started-from", "SPAN, Apache 2.0", *others)[1]
    assert information["started_from"] == "SPAN, Apache 2.0"
    assert information["curve_others"] == {"IMDN + flow": 31.99, "DAT: light": 32.19}
    with pytest.raises(ValueError, match="others has 'IMDN'; give NAME:dB"):
        run("--others", "IMDN")


def test_figures_of_every_condition(released):
    run, _, folder = released
    assert run()[1]["metrics"]["conditions"] == {}
    results = json.loads((folder / "results.json").read_text())
    methods = results.pop("methods")
    worse = {"mstt": {"mean": {"psnr_rgb": 27.0}, "clips": {"one": {"psnr_rgb": 27.0}}}}
    results["conditions"] = {"clean": methods, "crf28": worse}
    (folder / "results.json").write_text(json.dumps(results))
    metrics = run()[1]["metrics"]
    assert metrics["conditions"] == {
        "clean": {"psnr_rgb": 30.1235},
        "crf28": {"psnr_rgb": 27.0},
    }
    assert metrics["mean"] == {"psnr_rgb": 30.1235}


def test_figures_have_to_be_of_these_weights(released):
    run, _, folder = released
    results = json.loads((folder / "results.json").read_text())
    for change, said in (
        ({"settings": results["settings"] | {"degrade": "crf28"}}, "no figures of clean frames"),
        ({"checkpoint_sha256": "0" * 64}, "is of other weights"),
    ):
        (folder / "results.json").write_text(json.dumps(results | change))
        with pytest.raises(ValueError, match=said):
            run()


def test_scores_that_are_no_numbers_are_left_out(released):
    run, _, folder = released
    log = folder / "B" / "log.jsonl"
    lines = log.read_text()
    null = {"step": 5, "psnr": None, "gain_over_bicubic_flow": None}
    log.write_text(f"{lines}\n{json.dumps(null)}")
    information = run()[1]
    assert information["curve"][1]["points"] == [[28, 22.5]]
    assert information["curve_baseline"] == 20.0
    log.write_text(json.dumps(null))
    with pytest.raises(ValueError, match=r"log\.jsonl has no validation"):
        run()


def test_half_precision_halves_the_file(released):
    run, average, folder = released
    run()
    whole = (folder / "net.safetensors").stat().st_size
    loaded, _ = run("--half")
    assert (folder / "net.safetensors").stat().st_size < 0.6 * whole
    name = "reconstruction.conv_hr.weight"
    torch.testing.assert_close(loaded.state_dict()[name], average[name], atol=1e-3, rtol=1e-3)
