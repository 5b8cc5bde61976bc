"""Train MSTT: low-resolution satellite video in, 4x sharper and 2x more frames out.

    python main.py                                  built-in scenes, or trainset/189_vime7 if there
    python main.py --data-root /data/189_vime7      septuplets like 189_vime7; docs/data.md
    python main.py --stills /data/stills            clips animated from still images
    python main.py --resume --run runs/NAME         go on with a stopped run, exactly
    python main.py --steps 2000 --size small        every constant below is a flag
    torchrun --nproc-per-node 4 -- main.py          one process for each of four GPUs

A run writes runs/NAME/last.pt (to resume), best.pt (best on the validation clips), the weights of
best.pt alone in half precision (best.safetensors and best.json), and log.jsonl.
The recipe is the paper's (LR patch 80, Charbonnier loss) where it is not marked as newer below.
"""

import contextlib
import math
import shlex
import sys
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grad_norm_

from data.degrade import DRAWS
from data.loading import load_steps, one_opencv_thread, open_loader
from flow import FLOW_METHODS
from models import MSTT, build_network
from models.checkpoint import load_network, network_from
from models.inference import FLOWS, LONGEST_WINDOW, autocast
from models.mstt import widened
from models.weights import check_window
from training.diagnosis import blame, largest_offset
from training.loop import Clock, Ema, charbonnier, compiled, move_batch, share_of_peak
from training.optimiser import Optimiser
from training.recorder import Recorder
from training.run import MOST_STEPS, Progress, open_run, restore
from training.settings import NETWORK, check_maps, resolve
from training.sources import Data, open_data
from utils.config import describe_config, parse_config, run_script
from utils.team import Team, join


@dataclass(frozen=True)
class Config:
    """The recipe. "none" lets the machine decide, as the comment says."""

    # Data: up to three sources, mixed by weight. Each is left out where its folder is "none".
    data_root: str | None = "auto"  # septuplets; auto: trainset/189_vime7, or built-in scenes
    list_file: str | None = None  # which septuplets to use; none: the list in the folder, or all
    data_weight: float = 1.0  # share of the septuplets among the samples
    clips: str | None = None  # a second folder of septuplets, such as clips cut from a video
    clips_weight: float = 0.2  # share of those
    stills: str | None = None  # a folder of still images, animated on the fly
    stills_weight: float = 1.0  # share of those
    blur_min: float = 0.8  # pixels; least Gaussian sigma of the optics of animated stills
    blur_max: float = 1.5  # pixels; largest sigma; matches the sharpness of satellite video
    fast_share: float = 0.5  # share of animated clips with traffic whose traffic is fast
    validation: str = "auto"  # test clips; auto: testset/, or those of the built-in scenes
    degrade: Literal[*DRAWS] = "none"  # newer; faults: noise, hot pixels; real: codecs too
    flow_method: Literal[*FLOW_METHODS] = "dis2x"  # newer: follows vehicles; pyflow (paper)
    evaluation_flow: Literal["auto", *FLOWS] = "auto"  # auto: flow_method; of --weights if enhanced
    evaluation_window: int = 0  # frames given at once; 0: as --weights ask, or given_frames
    flow_cache: str = ".cache/flow"  # folder for the flow of septuplets, computed once

    # Network
    size: Literal["auto", "mstt", "small", "fast", "large"] = "auto"  # mstt on a GPU, else fast
    coupling: Literal["released", "symmetric"] = "released"  # see models/interpolation.py
    midpoint_flow: bool = True  # warp features half-way; the released code warps them whole
    global_skip: Literal["none", "bicubic", "enhanced", "neighbours"] = "enhanced"  # newer
    skip_refinement: bool = True  # newer: flow and weights of the enhanced skip are corrected
    frame_fusion: bool = False  # newer: multi-frame denoising of the input; for --degrade real
    propagation_blocks: int = 0  # newer: residual blocks of a recurrent propagation (BasicVSR)
    offset_limit: float | None = 10.0  # newer: largest offset of the alignment, LR pixels
    weights: str | None = None  # start from these (a file, or fast, large ..) and their network
    frozen: str | None = None  # newer: stages that keep their weights, with commas between

    # Optimisation
    steps: int | None = None  # optimiser steps; none: the paper's samples on a GPU, else 300
    minutes: float | None = None  # newer: time budget, which the schedule follows; none: no limit
    batch: int | None = None  # of all processes; none: 1 (paper) a CPU process, 16 a GPU
    accumulate: int = 1  # gradient accumulation: parts that a process computes one by one
    patch: int | None = None  # LR pixels of crops; none: 80 (paper), less for small septuplets
    given_frames: int = 4  # N of a sample (paper: 4); 1: the enlargement alone; stills allow more
    optimiser: Literal["muon", "adam"] = "muon"  # newer: muon for the weights inside
    rate: float = 8e-4  # peak learning rate of Adam (released script: 1e-5, which needs weeks)
    muon_rate: float = 1e-2  # peak learning rate of Muon
    moving_weight: float = 10.0  # newer: of moving pixels of interpolated frames in the loss
    bend: float = 1e-3  # the Charbonnier epsilon; newer: 0.03 to 0.1 is closer to PSNR
    alignment_share: float = 0.1  # of Adam's rate, for the alignment, whose offsets run away
    final_share: float = 1e-3  # of the peak rates, at the end of the cosine, at most 1
    warmup: int = 50  # newer: steps of linear warm-up, half of them where it would take all
    clip: float = 0.5  # newer: gradient clipping, largest norm; guards against runaway offsets
    ema: float = 0.999  # newer: averaging of the weights that are validated and saved as best
    precision: Literal["auto", "bfloat16", "float32"] = "auto"  # auto: bfloat16 where it is native
    compile: bool = False  # newer: torch.compile; first steps take minutes, no log of offsets
    skip_nonfinite: int = 0  # steps of a run that may be left out for a loss of NaN or Inf
    seed: int = 123  # of weights, crops and augmentation (paper: 123)

    # Run
    run: str = "auto"  # folder of the run; auto: a new one under runs/, with --resume the newest
    resume: bool = False  # go on from last.pt of the run
    device: str = "auto"  # cpu, cuda, cuda:1; auto: a GPU where there is one
    workers: int | None = None  # loader processes; none: 1 on a CPU, else one per core up to 16
    patience: int = 60  # seconds to wait for a batch before the run stops; without workers no limit
    validate_every: int | None = None  # steps; none: ten times in a run (at most 5000)
    save_minutes: float = 5.0  # between two saves of last.pt, at most
    log_every: int = 20  # steps between lines of the log

    def __post_init__(self):
        counts = ("batch", "accumulate", "patch", "steps", "log_every", "validate_every")
        rates = ("rate", "muon_rate", "moving_weight", "bend", "clip", "offset_limit")
        weights = ("data_weight", "clips_weight", "stills_weight")
        for name in (*counts, *rates, *weights, "patience", "minutes", "save_minutes"):
            value = getattr(self, name)
            if value is not None and not 0 < value <= MOST_STEPS:
                raise ValueError(f"{name} is {value}; it must be above 0, and at most {MOST_STEPS}")
        shares = ("final_share", "alignment_share")
        for name in (*shares, "propagation_blocks", "skip_nonfinite", "warmup", "workers", "seed"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < 2**63:
                raise ValueError(f"{name} is {value}; it must be at least 0, and below 2**63")
        if self.final_share > 1:
            raise ValueError(f"final_share is {self.final_share}; it must be at most 1")
        if not 1 <= self.given_frames <= LONGEST_WINDOW:
            raise ValueError(f"given_frames is {self.given_frames}; give 1 to {LONGEST_WINDOW}")
        check_window(self.evaluation_window)
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema is {self.ema}; it must be at least 0 and below 1")


def train(
    config: Config,
    run: Path,
    device: torch.device,
    state: dict[str, Any] | None,
    team: Team,
    data: Data,
    network: MSTT,
) -> int:
    """The training loop.

    Arguments:
        config, device: of `resolve`: nothing is left to decide, and where this process trains.
        run, state: of `open_run`; only the first process of the team writes into the folder.
        data, network: of `open_data` and `make_network`.

    Returns: the exit status, 0, or 130 after Ctrl-C, or 143 after SIGTERM.
    Raises: FloatingPointError: a loss, gradient or score of NaN or Inf, where it is not left out.
    """
    torch.backends.cudnn.benchmark = True  # shapes stay the same
    check_maps(config, network.options, config.batch // (team.world * config.accumulate))
    network = network.to(device, memory_format=torch.channels_last).train()
    ema = Ema(network, config.ema)
    optimiser = Optimiser(
        network, config.optimiser, config.rate, config.muon_rate, config.alignment_share
    )
    progress = restore(state, ema, optimiser) if state else Progress()
    clock = Clock(config.minutes, progress.seconds)
    model = network
    if team.world > 1:  # one given frame needs no interpolation
        model = DistributedDataParallel(model, find_unused_parameters=config.given_frames == 1)
    model = compiled(model, network) if config.compile else model
    recorder = Recorder(config, run, device, team, network, ema, optimiser, progress, clock, data)
    steps = open_steps(config, device, progress.step, team, data, lambda: recorder.stop.received)

    with recorder.recording(), contextlib.closing(steps):  # whose loader processes may hang
        for parts in () if recorder.catch_up() else steps:
            share = share_of_peak(
                progress.step, config.steps, config.warmup, config.final_share, recorder.elapsed
            )
            optimiser.set_rate(share)
            optimiser.zero_grad()
            losses = []
            for number, part in enumerate(parts, start=1):
                inputs, truth = move_batch(part, device)
                is_averaged = number == len(parts) or team.world == 1
                with contextlib.nullcontext() if is_averaged else model.no_sync():
                    with autocast(device, config.precision):
                        output = model(*inputs)
                    loss = charbonnier(output, truth, config.moving_weight, config.bend)
                    (loss / len(parts)).backward()
                losses.append(loss.detach())
            norm = clip_grad_norm_(network.parameters(), config.clip)
            # One wait for a GPU instead of two.
            loss, norm = torch.stack((torch.stack(losses).mean(), norm)).tolist()
            loss = team.mean(loss)
            is_finite = math.isfinite(loss) and math.isfinite(norm)
            if not is_finite:
                leave_out(recorder, norm, losses, parts)
            with recorder.stepping():
                if is_finite:
                    optimiser.step()
                    ema.update(network, progress.step + 1)
            if recorder.after_step(loss, norm, share):
                break
    if recorder.stop.stopped:
        resume = f"python main.py --resume --run {shlex.quote(str(run))}"
        print(f"stopped at step {progress.step}; go on with: {resume}")
        return 128 + recorder.stop.stopped
    if progress.best_score == -math.inf:
        raise FloatingPointError(f"no validation gave a finite PSNR; the weights are in {run}")
    if team.first:
        report(run, recorder)
    return 0


def open_steps(
    config: Config,
    device: torch.device,
    step: int,
    team: Team,
    data: Data,
    stopping: Callable[[], Any],
) -> Generator[tuple[dict[str, Any], ...], None, None]:
    """The batches of this process from a step on, see `load_steps`; to be closed."""
    loader = open_loader(
        data.sources,
        batch=config.batch // (team.world * config.accumulate),
        samples=range(step * config.batch, max(step, config.steps) * config.batch),
        seed=config.seed,
        workers=config.workers,
        pin_memory=device.type == "cuda",
        rank=team.rank,
        world=team.world,
    )
    return load_steps(loader, config.accumulate, config.patience, stopping)


def leave_out(
    recorder: Recorder, norm: float, losses: list[Tensor], parts: list[dict[str, Any]]
) -> None:
    """Say what a step without a finite loss or gradient was; end the run if it is one too many."""
    config, progress = recorder.config, recorder.progress

    def offset_on(part: dict[str, Any]) -> float:
        inputs, _ = move_batch(part, recorder.device)
        with autocast(recorder.device, config.precision):
            return largest_offset(recorder.network, inputs)

    problem = blame(recorder.team, progress.step, norm, losses, parts, offset_on)
    if progress.skipped >= config.skip_nonfinite:
        raise FloatingPointError(f"{problem}. Lower --rate")
    recorder.bar.write(f"left out: {problem}")
    progress.skipped += 1


def make_network(config: Config, run: Path, state: dict[str, Any] | None) -> MSTT:
    """A new network, the one of trained weights, or that of a run that is resumed.

    Its frozen stages keep their weights, see `freeze`; what is new is drawn by the seed.
    """
    torch.manual_seed(config.seed)
    if state:
        network = network_from(run / "last.pt", state["network_options"], state["network"])
    elif config.weights is None:
        network = build_network(**{name: getattr(config, name) for name in NETWORK})
    else:
        network, information = load_network(config.weights)
        print(f"starting from {config.weights}: {information['network']}")
        network = widened(network, frame_fusion=config.frame_fusion)
    freeze(network, config.frozen)
    return network


def freeze(network: MSTT, frozen: str | None) -> None:
    """Let stages of the network keep their weights; a ValueError where there is no such stage.

    frozen: their names with commas between, also parts of them (propagation.share); None: none.
    """
    stages = [name for name, part in network.named_children() if list(part.parameters())]
    parts = {name: part for name, part in network.named_modules() if name}
    for name in map(str.strip, frozen.split(",") if frozen else ()):
        if name not in parts:
            raise ValueError(f"frozen is {name!r}; the network has {', '.join(stages)} (and parts)")
        parts[name].requires_grad_(False)
    if not any(weight.requires_grad for weight in network.parameters()):
        raise ValueError(f"frozen is {frozen!r}, which leaves nothing to train")


def report(run: Path, recorder: Recorder) -> None:
    """The end of a run: what it reached, and where everything is."""
    # A run that was carried here in parts has only last.pt.
    checkpoint = next(path for name in ("best.pt", "last.pt") if (path := run / name).is_file())
    best, baseline = recorder.progress.best_score, recorder.baseline
    clips = len(recorder.data.validation)
    print(f"\n{'method':<24}PSNR (dB, RGB, no border, {clips} validation clips)")
    print(f"{'bicubic + flow':<24}{baseline:.2f}")
    ours = "MSTT" if checkpoint.name == "best.pt" else "MSTT (best weights gone)"
    print(f"{ours:<24}{best:.2f}  ({best - baseline:+.2f})")
    print(f"\ncheckpoint  {checkpoint}\nlog         {run / 'log.jsonl'}")
    command = ["python", "test.py", "--data", recorder.config.validation, "--checkpoint"]
    print(f"evaluate    {shlex.join([*command, str(checkpoint)])}")
    if recorder.config.given_frames == 1:
        print(
            "Validation warped the interpolated frames, which one given frame does not train; "
            f"train them with --weights {shlex.quote(str(checkpoint))} --given-frames 2"
        )


def main() -> int:
    config = parse_config(Config, __doc__)
    one_opencv_thread()
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    with join(backend) as team, contextlib.ExitStack() as stack:
        # The launchers of several machines count for themselves.
        restarted = team.largest(team.restarts) > 0
        if config.run == "auto" and (restarted or team.largest(team.max_restarts)):
            raise ValueError(
                "a job that is restarted needs --run NAME, so that it finds its own run again "
                "(--max-restarts of torchrun, --requeue of Slurm)"
            )
        run, state = team.from_first(lambda: open_run(config.run, config.resume, restarted, stack))
        config, device = resolve(config, state, team)
        network = make_network(config, run, state)  # before scenes are drawn, which takes minutes
        data = open_data(config, state, team)
        config = replace(config, patch=data.patch)
        command = shlex.join(sys.argv)
        print(f"run {run} on {device}, command: {command}\n{describe_config(config)}")
        return train(config, run, device, state, team, data, network)


if __name__ == "__main__":
    run_script(main)
