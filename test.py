"""Evaluate a checkpoint, its version in two stages and two baselines on test clips.

    python test.py                                         the shipped weights
    python test.py --data DIR --checkpoint FILE --out DIR
    python test.py --checkpoint none                       the baselines alone
    python test.py --no-save-frames --no-figures           only the table and results.json
    python test.py --degrade all                           given frames as real footage has them

A test clip is a folder with truth/ (HR frames) and perhaps input4/ (LR frames); where there is
none, LR is MATLAB's bicubic reduction of the truth. DIR holds such folders, or is one; Vimeo-90K
and Vid4 are read as they are distributed (docs/data.md). Frames of any number: the network runs
over windows of given frames that share their end frame (--window).

    mstt            the network
    mstt+flow       the given frames of mstt; between them as in bicubic+flow
    bicubic+flow    given frames enlarged by bicubic; between them both neighbours, warped half-way
                    along the flow between the enlarged frames, and averaged
    bicubic+blend   the same without flow: the mean of both neighbours

--degrade makes the given frames of the truth's own LR frames, all of a clip as one video:
clean, crf18, crf23, crf28 (H.264), noise (3 levels), noise+crf23; noise20, impulses, sharpened:
faults that a network should survive; real, faults: to each clip a draw of what `main.py --degrade`
of that name sees; all: the first six, one after the other, each in OUT/NAME.

OUT then holds results.json (the figures of every frame, clip and method), METHOD/CLIP/*.png,
figures/CLIP.png and index.html, a page with the table and a slider between any two methods, which
needs no server and may be sent around. Nothing is written before all input has been read and
found good; after that, files of the same name are replaced, others are left alone. results.json
comes last.
The conventions of the figures are stated in utils/metrics.py.
"""

import dataclasses
import shlex
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from data.clips import Clip, check_files, degraded, find_clips, read_clip
from data.degrade import CONDITIONS, DRAWS, FAULTS
from data.lists import write_clip
from data.scenes.make import make_scenes
from flow import FLOW_METHODS
from models.baselines import bicubic_blend, bicubic_flow, interpolate_along_flow
from models.inference import FLOWS, pick_device, pick_precision, super_resolve
from models.pretrained import open_network
from models.weights import CHECKPOINTS, check_window, find_weights, shipped_weights
from utils.config import parse_config, run_script
from utils.files import file_sha256
from utils.metrics import clip_metrics, mean_metrics
from utils.page import MOST_CLIPS, evaluation_entry, evaluation_page
from utils.plots import comparison_figure
from utils.report import conditions_table, table, versions, write_results
from utils.streams import progress_bar

RUNS = Path("runs")  # where main.py keeps its runs,
SCENES = Path("trainset/scenes")  # and the built-in scenes
TESTSET = Path("testset")

TWO_STAGES = "mstt+flow"  # takes the network's given frames instead of those of the clip

Method = Callable[[np.ndarray], Iterable[np.ndarray]]


@dataclass(frozen=True)
class Config:
    data: str = "auto"  # folder of test clips; auto: testset/, or else the built-in scenes
    list_file: str | None = None  # which clips of data; none: sep_testlist.txt in it, or all
    checkpoint: str | None = "auto"  # file or name; auto: shipped, or else newest run; none: none
    out: str = "results"  # folder for results.json, frames and figures
    flow_method: Literal["auto", *FLOWS] = "auto"  # see flow/; auto: as the weights ask
    baseline_flow_method: Literal[*FLOW_METHODS] = "dis"  # of the baselines
    window: int = 0  # given frames that the network sees at once; 0: as many as the weights ask for
    degrade: Literal[*DRAWS, *CONDITIONS, *FAULTS, "all"] = "none"  # what given frames went through
    ensemble: bool = False  # mean over the eight flips and turns of the frames, eight times slower
    baselines: bool = True  # measure mstt+flow, bicubic+flow and bicubic+blend too
    device: str = "auto"  # cpu, cuda, cuda:1; auto: a GPU where there is one
    precision: Literal["auto", "bfloat16", "float32"] = "float32"  # so that machines agree
    save_frames: bool = True  # write the output frames as PNG
    figures: bool = True  # draw one comparison figure per clip
    page: bool = True  # write index.html, to look at the saved frames in a browser

    def __post_init__(self):
        check_window(self.window)


def find_checkpoint(config: Config, device: torch.device) -> Path | None:
    """The checkpoint that the command line asks for, if there is one; None for none."""
    if config.checkpoint is None:
        return None
    if config.checkpoint != "auto":
        return find_weights(config.checkpoint)
    if path := shipped_weights(device):
        return path
    for name in ("best.pt", "last.pt"):
        if runs := list(RUNS.glob(f"*/{name}")):
            return max(runs, key=lambda path: path.stat().st_mtime)
    raise FileNotFoundError(
        f"no checkpoint in {CHECKPOINTS} or {RUNS}; train one with `python main.py`, give "
        "one with --checkpoint FILE, or measure the baselines alone with --checkpoint none"
    )


def find_data(config: Config) -> Path:
    """The folder of test clips that the command line asks for; makes the built-in scenes."""
    if config.data != "auto":
        return Path(config.data)
    if TESTSET.is_dir():
        return TESTSET
    print(
        f"NO TEST DATA in {TESTSET}/: evaluating on the built-in scenes, which are drawn, not "
        "filmed.\nTheir figures say little about real satellite video. Give clips with --data DIR.",
        flush=True,
    )
    return make_scenes(SCENES) / "test"


def open_methods(
    config: Config, checkpoint: Path | None, device: torch.device
) -> tuple[Config, dict[str, Method]]:
    """The methods to measure by name, and the Config with what "auto" and 0 mean here."""
    methods: dict[str, Method] = {}
    if checkpoint is None and config.ensemble:
        raise ValueError("--ensemble needs a network; leave it out with --checkpoint none")
    if checkpoint is not None:
        asked = config.flow_method, config.window, config.ensemble
        network, flow_method, window = open_network(checkpoint, device, *asked)
        precision = str(pick_precision(device, config.precision)).removeprefix("torch.")
        found = {"flow_method": flow_method, "precision": precision, "window": window}
        config = dataclasses.replace(config, **found)
        methods["mstt"] = partial(super_resolve, network, device=device, **found)
    if config.baselines:
        flow_method = config.baseline_flow_method
        if checkpoint is not None:
            methods[TWO_STAGES] = partial(interpolate_along_flow, flow_method=flow_method)
        methods["bicubic+flow"] = partial(bicubic_flow, flow_method=flow_method)
        methods["bicubic+blend"] = bicubic_blend
    if not methods:
        raise ValueError("--checkpoint none with --no-baselines leaves nothing to measure")
    return config, methods


def check_out(out: Path, data: Path, written: Iterable[str]) -> None:
    """Refuse an OUT that is a file or lies among the test clips, or whose folders hold them.

    written: the names of the folders in OUT that frames and figures come into.
    """
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; give a folder with --out")
    if out.resolve().is_relative_to(data.resolve()):
        raise ValueError(f"{out} lies in the test data {data}; give another folder with --out")
    for folder in (out / name for name in written):
        if data.resolve().is_relative_to(folder.resolve()):
            raise ValueError(
                f"the test data {data} would be written over, as {folder} is written to; give "
                "another folder with --out"
            )


def evaluate(
    clips: list[Clip], methods: dict[str, Method], out: Path, config: Config
) -> tuple[dict[str, dict], list[dict]]:
    """Run every method on every clip, measure, and write frames and figures.

    Returns: {method: {"mean": {...}, "clips": {clip: {...}}}}, see utils.metrics.clip_metrics;
        and what the page shows of the first clips.
    """
    entries: list[dict] = []
    results = {name: {"mean": {}, "clips": {}} for name in methods}
    for clip in progress_bar(clips, desc="clips", unit="clip"):
        given, truth = read_clip(clip)
        outputs = {}
        for name, method in methods.items():
            frames = outputs["mstt"][::2] if name == TWO_STAGES else given
            outputs[name] = np.stack(list(method(frames)))
            results[name]["clips"][clip.name] = clip_metrics(outputs[name], truth)
            if config.save_frames:
                write_clip(out / name / clip.name, outputs[name], test=True)
        if config.figures:
            figure = out / "figures" / f"{clip.name}.png"
            figure.parent.mkdir(parents=True, exist_ok=True)
            # The best baseline, then ours.
            names = [name for name in reversed(outputs) if name != TWO_STAGES][-2:]
            shown = {name: outputs[name] for name in names}
            comparison_figure(figure, clip.name, given, truth, shown)
        if config.page and config.save_frames and len(entries) < MOST_CLIPS:
            figures = {name: result["clips"][clip.name] for name, result in results.items()}
            entries.append(evaluation_entry(clip.name, given, truth, outputs, figures, len(clips)))
    for result in results.values():
        result["mean"] = mean_metrics(list(result["clips"].values()))
    return results, entries


def main() -> None:
    config = parse_config(Config, __doc__)
    device = pick_device(config.device)
    checkpoint = find_checkpoint(config, device)
    config, methods = open_methods(config, checkpoint, device)

    data, out = find_data(config), Path(config.out)
    clips = find_clips(data, config.list_file)
    names = list(CONDITIONS) if config.degrade == "all" else [config.degrade]
    conditions = {name: degraded(clips, name) for name in names}
    clips = next(iter(conditions.values()))
    folders = [*methods] * config.save_frames + ["figures"] * config.figures
    check_out(out, data, folders if len(names) == 1 else names)
    check_files(clips)  # a damaged frame must show before the first file is written

    out.mkdir(parents=True, exist_ok=True)
    if (out / "results.json").exists():  # of other clips, perhaps, as the pages beside it
        for folder in (out, *(out / name for name in names)):
            (folder / "index.html").unlink(missing_ok=True)
    what = "no network" if checkpoint is None else f"{checkpoint}, {config.flow_method} flow"
    own = [clip.given[0].parent for clip in clips if clip.given]
    given = f"LR frames given with {len(own)} clips, {own[0]} first" if own else "LR frames made"
    print(f"{len(clips)} clips of {data}, {given}; {what}")
    results = {
        "checkpoint": None if checkpoint is None else str(checkpoint),
        "checkpoint_sha256": None if checkpoint is None else file_sha256(checkpoint),
        "data": str(data),
        "command": f"python {shlex.join(sys.argv)}",
        "versions": versions(),
        "settings": dataclasses.asdict(config) | {"device": str(device)},
    }
    if checkpoint is None:  # and nothing that these would be of
        results["settings"] |= {"flow_method": None, "precision": None, "window": None}
    if config.degrade != "none":
        results["seeds"] = {clip.name: clip.seed for clip in clips}
    measured = {}
    for name, clips in conditions.items():
        folder = out / name if len(conditions) > 1 else out
        measured[name], entries = evaluate(clips, methods, folder, config)
        title = "" if name == "none" else f"\ngiven frames: {name}\n"
        print(f"{title}{table(measured[name])}", flush=True)
        if entries:
            page = folder / "index.html"
            shown = results | {"methods": measured[name]}
            evaluation_page(page, shown, entries, given if name == "none" else name)
    if len(conditions) > 1:
        results["conditions"] = measured
        print(f"\nMean of {len(clips)} clips:\n{conditions_table(measured)}")
    else:
        results["methods"] = measured[config.degrade]
    write_results(out / "results.json", results)
    print(f"Everything is in {out}")


if __name__ == "__main__":
    run_script(main)
