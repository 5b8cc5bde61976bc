"""Turn a finished run into weights to ship: safetensors, and JSON that says what they are.

    python test.py --data testset --checkpoint runs/B/best.pt --out results/B
    python -m training.release runs/B/best.pt checkpoints/mstt_small.safetensors \\
        --stages runs/A,runs/B --results results/B/results.json \\
        --imagery "what it was trained on, and under which licence"

A run that went on from another run's weights is a later stage of the same recipe: name all of them
in order. The JSON then holds the settings and the number of samples of every stage, the training
curve, the figures of every test clip (and of every condition of --degrade all), and the flow method
and the window of that evaluation, which the weights ask for from then on.
"""

import dataclasses
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models import MSTT
from models.checkpoint import load_network, load_torch_file, save_network
from models.weights import trained_window
from training.run import VERSIONS
from utils.config import parse_config, run_script
from utils.files import file_sha256

# Settings of a run that say nothing about the weights; which weights it started from, the order of
# the stages says.
NOT_RECIPE = (
    *("run", "resume", "weights", "device", "workers", "patience"),
    *("validate_every", "log_every", "save_minutes", "flow_cache", "compile"),
)
FOLDERS = ("data_root", "list_file", "clips", "stills", "validation")  # of the machine: names only


@dataclass(frozen=True)
class Config:
    checkpoint: str  # the training checkpoint whose averaged weights are shipped
    out: str  # NAME.safetensors; NAME.json goes beside it
    stages: str  # folders of the runs that led to it, in order, separated by commas
    results: str  # results.json of test.py for that checkpoint
    imagery: str  # what it was trained on, and under which licence
    started_from: str | None = None  # weights of others it began with, and under which licence
    others: str | None = None  # other methods on its validation clips, NAME:dB,NAME:dB
    half: bool = False  # write float16; check with test.py that the figures stay


def save_half(path: Path, network: MSTT, config: Any, step: int, score: float) -> None:
    """Write a training's averaged weights in half precision, as load_network wants them.

    A sixth of a training checkpoint. path: ends in .safetensors; network: becomes half precision;
    score: in dB.
    """
    information = {
        "flow_method": config.evaluation_flow,
        "step": step,
        "score": score,
        "config": dataclasses.asdict(config),
        "versions": VERSIONS,
    }
    save_network(path, network.half(), information)


def read_stage(run: Path, samples_before: int) -> dict[str, Any]:
    """Recipe, samples and curve of one run."""
    state = load_torch_file(run / "last.pt")
    config = {name: value for name, value in state["config"].items() if name not in NOT_RECIPE}
    config |= {"steps": state["step"]}  # a run of so many minutes has no number of its own
    config |= {name: Path(config[name]).name for name in FOLDERS if config.get(name)}
    samples = state["step"] * config["batch"]
    lines = map(json.loads, (run / "log.jsonl").read_text().splitlines())
    scores = {line["step"]: line for line in lines if "psnr" in line}  # the later line counts
    # null is NaN or Inf
    scored = [line for _, line in sorted(scores.items()) if line["psnr"] is not None]
    if not scored:
        raise ValueError(f"{run / 'log.jsonl'} has no validation; name runs that had one")
    last = scored[-1]
    return {
        "name": run.name,
        "samples": samples,
        "settings": config,
        "curve": [
            [samples_before + line["step"] * config["batch"], round(line["psnr"], 3)]
            for line in scored
        ],
        "baseline": round(last["psnr"] - last["gain_over_bicubic_flow"], 3),
    }


def summary(figures: dict[str, Any]) -> dict[str, Any]:
    """The figures of a clip without those of its single frames, rounded."""
    return {
        name: round(value, 4) if isinstance(value, float) else value
        for name, value in figures.items()
        if name != "frames"
    }


def read_others(text: str | None) -> dict[str, float]:
    """NAME:dB,NAME:dB as a dict; a ValueError for something else."""
    others = {}
    for part in text.split(",") if text else ():
        match = re.fullmatch(r"(.+):(\d+(?:\.\d+)?)", part)
        if not match:
            raise ValueError(f"others has {part!r}; give NAME:dB,NAME:dB")
        others[match[1]] = float(match[2])
    return others


def main() -> None:
    config = parse_config(Config, __doc__, positional=("checkpoint", "out"))
    network, information = load_network(config.checkpoint)
    stages: list[dict[str, Any]] = []
    for run in config.stages.split(","):
        stages.append(read_stage(Path(run), sum(stage["samples"] for stage in stages)))
    results = json.loads(Path(config.results).read_text())
    if results["checkpoint_sha256"] != file_sha256(Path(config.checkpoint)):
        raise ValueError(f"{config.results} is of other weights than {config.checkpoint}")
    if results["settings"]["degrade"] not in ("none", "clean", "all"):
        raise ValueError(f"{config.results} has no figures of clean frames; see test.py --degrade")
    conditions = results.get("conditions", {})  # of test.py --degrade all, which begins with clean
    figures = next(iter(conditions.values()), results.get("methods"))["mstt"]
    description = {
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "flow_method": results["settings"]["flow_method"],
        "window": results["settings"].get("window") or trained_window(information),
        "started_from": config.started_from,
        "samples": sum(stage["samples"] for stage in stages),
        "recipe": [
            {name: stage[name] for name in ("name", "samples", "settings")} for stage in stages
        ],
        "imagery": config.imagery,
        "metrics": {
            "conventions": "PSNR in dB, 8 bits, whole frames, no border cut; see utils/metrics.py",
            "flow_method": results["settings"]["flow_method"],
            "precision": results["settings"]["precision"],
            "mean": summary(figures["mean"]),
            "clips": {name: summary(clip) for name, clip in figures["clips"].items()},
            "conditions": {
                name: summary(methods["mstt"]["mean"]) for name, methods in conditions.items()
            },
        },
        "curve": [{"name": stage["name"], "points": stage["curve"]} for stage in stages],
        "curve_baseline": stages[-1]["baseline"],
        "curve_others": read_others(config.others),
        "versions": information["versions"],
    }
    Path(config.out).parent.mkdir(parents=True, exist_ok=True)
    save_network(config.out, network.half() if config.half else network, description)
    print(f"{config.out} and {Path(config.out).with_suffix('.json').name} written")


if __name__ == "__main__":
    run_script(main)
