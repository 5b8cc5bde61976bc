"""Train MSTT: low-resolution satellite video in, 4x sharper and 2x more frames out.

    python main.py                                  built-in scenes, or trainset/189_vime7 if there
    python main.py --data-root /data/189_vime7      septuplets in the 189_vime7 or Vimeo-90K layout
    python main.py --stills /data/stills            clips animated from still images
    python main.py --resume --run runs/NAME         go on with a stopped run, exactly
    python main.py --steps 2000 --size small        every constant below is a flag

A run writes runs/NAME/last.pt (to resume), best.pt (best on the validation clips) and log.jsonl.
The recipe is the paper's (LR patch 80, Charbonnier loss, Adam); what is newer is marked below.
"""

import dataclasses
import math
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from data.animation import Animation, StillsDataset
from data.clips import Clip, find_clips, read_clip
from data.sampler import MixedDataset, ResumableSampler
from data.scenes import make_scenes
from data.septuplets import SeptupletDataset
from models import MSTT, build_network
from utils.baselines import bicubic_blend, bicubic_flow
from utils.checkpoint import load_network, save_torch_file
from utils.config import describe_config, parse_config, run_script
from utils.inference import autocast, pick_device, pick_precision, super_resolve
from utils.metrics import psnr
from utils.runs import check_unchanged, choose_run, read_state, restore, training_state
from utils.training import (
    Ema,
    RunLog,
    StopSignals,
    charbonnier,
    learning_rate,
    memory_in_use,
)

PAPER_SAMPLES = 50 * 2647  # the paper's schedule: 50 epochs of 2,647 clips
SCENES = Path("trainset/scenes")  # where the built-in scenes are kept


@dataclass(frozen=True)
class Config:
    """The recipe. "none" lets the machine decide, as the comment says."""

    # Data: up to three sources, mixed by weight. Each is left out where its folder is "none".
    data_root: str | None = "auto"  # septuplets; auto: trainset/189_vime7, or the built-in scenes
    list_file: str | None = None  # which septuplets to use; none: the list in the folder, or all
    data_weight: float = 1.0  # share of the septuplets among the samples
    clips: str | None = None  # a second folder of septuplets, such as clips cut from a video
    clips_weight: float = 0.2  # share of those
    stills: str | None = None  # a folder of still images, animated on the fly
    stills_weight: float = 1.0  # share of those
    blur_max: float = 0.8  # pixels; strongest optics (Gaussian sigma) of animated stills
    fast_share: float = 0.5  # share of animated clips with traffic whose traffic is fast
    validation: str = "auto"  # test clips; auto: testset/, or those of the built-in scenes
    flow_method: str = "pyflow"  # pyflow (paper) or dis (faster, coarser on fine motion)
    flow_cache: str = ".cache/flow"  # folder for the flow of septuplets, computed once

    # Network
    size: Literal["auto", "mstt", "small"] = "auto"  # auto: mstt (5.7 M) on a GPU, small on a CPU
    coupling: Literal["released", "symmetric"] = "released"  # see models/interpolation.py
    midpoint_flow: bool = True  # warp features half-way; the released code warps them whole
    global_skip: bool = True  # newer: add bicubic + flow to the output, so training starts there
    weights: str | None = None  # start from these trained weights instead of random ones

    # Optimisation
    steps: int | None = None  # optimiser steps; none: the paper's 132,350 on a GPU, 500 on a CPU
    batch: int = 1  # samples per step (paper: 1)
    patch: int = 80  # LR pixels, side of a training crop (paper: 80); attention wants multiples
    given_frames: int = 4  # N of a sample (paper: 4); 2 or 3 train faster on less time
    rate: float = 4e-4  # peak learning rate (released script: 1e-5, which would need weeks)
    final_rate: float = 1e-6  # learning rate at the end of the cosine
    warmup: int = 50  # newer: steps of linear warm-up
    clip: float = 0.5  # newer: largest norm of the gradient; guards against runaway offsets
    ema: float = 0.999  # newer: averaging of the weights that are validated and saved as best
    precision: Literal["auto", "bfloat16", "float32"] = "auto"  # auto: bfloat16 where it is native
    seed: int = 123  # of weights, crops and augmentation (paper: 123)

    # Run
    run: str = "auto"  # folder of the run; auto: a new one under runs/, with --resume the newest
    resume: bool = False  # go on from last.pt of the run
    device: str = "auto"  # cpu, cuda, cuda:1; auto: a GPU where there is one
    workers: int | None = None  # loader processes; none: 1 on a CPU, else one per core up to 16
    validate_every: int | None = None  # steps; none: ten times in a run, at most every 5000
    log_every: int = 20  # steps between lines of the log

    def __post_init__(self):
        for name in ("batch", "patch", "log_every", "rate", "clip"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be above 0")
        if not 2 <= self.given_frames <= 4:
            raise ValueError(f"given_frames is {self.given_frames}; a septuplet has 2 to 4 of them")
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema is {self.ema}; it must be at least 0 and below 1")


def train(config: Config, run: Path, device: torch.device, state: dict[str, Any] | None) -> int:
    """The training loop.

    Arguments:
        config: settled, see `settle`.
        run: the folder of the run.
        device: where to train.
        state: the state of a run that is resumed.

    Returns: the exit status, 0, or 130 after Ctrl-C, or 143 after SIGTERM.
    """
    torch.manual_seed(config.seed)
    network = MSTT(**state["network_options"]) if state else make_network(config)
    network = network.to(device, memory_format=torch.channels_last).train()
    ema = Ema(network, config.ema)
    optimiser = torch.optim.Adam(network.parameters(), lr=config.rate, betas=(0.9, 0.999))
    step, best_score = 0, -math.inf
    if state:
        step, best_score = restore(state, network, ema, optimiser)

    sources = open_sources(config)
    validation = find_validation(config)
    loader = open_loader(config, sources, device, first_sample=step * config.batch)
    baseline = mean_psnr(validation, bicubic_flow)
    print(f"bicubic + flow on the validation clips: {baseline:.2f} dB", flush=True)

    def save(name: str) -> None:
        save_torch_file(
            run / name, training_state(config, network, ema, optimiser, step, best_score)
        )

    log = RunLog(run)
    bar = tqdm(total=config.steps, initial=step, unit="step", smoothing=0.05, dynamic_ncols=True)
    window = {"loss": 0.0, "steps": 0, "start": time.perf_counter()}
    with StopSignals() as stop:
        for batch in loader:
            rate = learning_rate(step, config.steps, config.rate, config.warmup, config.final_rate)
            for group in optimiser.param_groups:
                group["lr"] = rate
            inputs, truth = move_batch(batch, config.given_frames, device)
            with autocast(device, config.precision):
                output = network(*inputs)
            loss = charbonnier(output, truth)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            norm = clip_grad_norm_(network.parameters(), config.clip)
            if not torch.isfinite(norm):
                raise FloatingPointError(
                    f"the loss is {loss.item()}, its gradient {norm.item()} at step {step} on "
                    f"{', '.join(batch['name'])}; nothing was changed by this step. Lower --rate"
                )
            optimiser.step()
            step += 1
            ema.update(network, step)

            window["loss"] += loss.detach()
            window["steps"] += 1
            bar.update()
            if step % config.log_every == 0 or step == config.steps:
                average = float(window["loss"]) / window["steps"]
                speed = window["steps"] * config.batch / (time.perf_counter() - window["start"])
                log.write(
                    step, loss=average, rate=rate, gradient=norm.item(), samples_per_second=speed
                )
                bar.set_postfix_str(
                    f"loss {average:.4f}, best {best_score:.2f} dB, {speed:.1f} samples/s, "
                    f"{memory_in_use(device):.1f} GiB"
                )
                window = {"loss": 0.0, "steps": 0, "start": time.perf_counter()}
            if step % config.validate_every == 0 or step == config.steps:
                score = validate(averaged(ema, network), validation, config, device)
                log.write(step, psnr=score, gain_over_bicubic_flow=score - baseline)
                bar.write(
                    f"step {step}: {score:.2f} dB, {score - baseline:+.2f} over bicubic + flow"
                )
                if math.isfinite(score) and score > best_score:
                    best_score = score
                    save("best.pt")
                save("last.pt")
                window = {"loss": 0.0, "steps": 0, "start": time.perf_counter()}
            if stop.received:
                save("last.pt")
                break
    bar.close()
    log.close()
    if stop.received:
        print(f"stopped at step {step}; go on with: python main.py --resume --run {run}")
        return 128 + stop.received
    report(run, baseline, validation, config, device)
    return 0


def make_network(config: Config) -> MSTT:
    """A new network, or the one of trained weights."""
    if config.weights is None:
        return build_network(
            config.size,
            coupling=config.coupling,
            midpoint_flow=config.midpoint_flow,
            global_skip=config.global_skip,
        )
    network, information = load_network(config.weights)
    print(f"starting from {config.weights}: {information['network']}")
    return network


def averaged(ema: Ema, network: MSTT) -> MSTT:
    """A copy of the network with the averaged weights, ready to be evaluated."""
    device = next(network.parameters()).device
    copy = MSTT(**network.options).to(device, memory_format=torch.channels_last).eval()
    copy.load_state_dict(ema.weights)
    return copy


def move_batch(
    batch: dict[str, Any], count: int, device: torch.device
) -> tuple[tuple[Tensor, ...], Tensor]:
    """The network's inputs and the truth, cut to the first `count` given frames, on the device."""
    frames = batch["frames"][:, :count]
    flows = (batch[name][:, : count - 1] for name in ("forward_flow", "backward_flow"))
    tensors = (frames, *flows, batch["truth"][:, : 2 * count - 1])
    *inputs, truth = (tensor.to(device, non_blocking=True) for tensor in tensors)
    return tuple(inputs), truth


def open_sources(config: Config) -> list[tuple[Dataset, float]]:
    """The training data sets and their weights. All problems of a set are reported here."""
    root = config.data_root
    if root == "auto":
        root = None if config.stills else "trainset/189_vime7"
        if root and not Path(root).is_dir():
            print(
                f"NO TRAINING DATA in {root}: training on the built-in scenes, which are drawn, "
                "not filmed.\nThe result shows that everything works; it is no network for real "
                "video. Give --data-root or --stills.",
                flush=True,
            )
            root = make_scenes(SCENES)
    sources: list[tuple[Dataset, float]] = []
    for folder, list_file, weight in (
        (root, config.list_file, config.data_weight),
        (config.clips, None, config.clips_weight),
    ):
        if folder is not None:
            septuplets = SeptupletDataset(
                folder,
                list_file=list_file,
                patch=config.patch,
                flow_method=config.flow_method,
                flow_cache=Path(config.flow_cache),
                seed=config.seed,
            )
            sources.append((septuplets, weight))
    if config.stills is not None:
        look = Animation(blur_max=config.blur_max, fast_share=config.fast_share)
        stills = StillsDataset(
            config.stills,
            patch=config.patch,
            flow_method=config.flow_method,
            seed=config.seed,
            animation=look,
        )
        sources.append((stills, config.stills_weight))
    if not sources:
        raise ValueError("no training data: data_root, clips and stills are all none")
    return sources


def open_loader(
    config: Config,
    sources: list[tuple[Dataset, float]],
    device: torch.device,
    first_sample: int,
) -> DataLoader:
    """Batches from `first_sample` to the end of the run, the same whatever the workers."""
    datasets, weights = zip(*sources, strict=True)
    sampler = ResumableSampler(
        lengths=[len(dataset) for dataset in datasets],
        weights=weights,
        seed=config.seed,
        start=first_sample,
        count=config.steps * config.batch - first_sample,
    )
    return DataLoader(
        MixedDataset(datasets),
        batch_size=config.batch,
        sampler=sampler,
        num_workers=config.workers,
        worker_init_fn=one_opencv_thread,
        pin_memory=device.type == "cuda",
        prefetch_factor=4 if config.workers else None,
        generator=torch.Generator(),  # its own, so that the global one resumes exactly
    )


def one_opencv_thread(worker: int | None = None) -> None:
    """Keep OpenCV to one thread: loader workers share the cores among themselves.

    The main process does so before it uses OpenCV at all, because a worker that is forked from a
    process with OpenCV threads waits for them for ever.
    """
    cv2.setNumThreads(1)


def find_validation(config: Config) -> list[Clip]:
    """The clips that the network is validated on; never trained on."""
    folder = config.validation
    if folder == "auto":
        folder = "testset"
        if not Path(folder).is_dir():
            folder = make_scenes(SCENES) / "test"
            print(f"no testset/ here: validating on the built-in scenes in {folder}", flush=True)
    return find_clips(folder)


def validate(network: nn.Module, clips: list[Clip], config: Config, device: torch.device) -> float:
    """The network's PSNR on the validation clips, in dB."""
    method = partial(
        super_resolve,
        network,
        flow_method=config.flow_method,
        device=device,
        precision=config.precision,
    )
    return mean_psnr(clips, method)


def mean_psnr(clips: list[Clip], method: Callable[[np.ndarray], Iterable[np.ndarray]]) -> float:
    """PSNR in dB (RGB, no border cut): mean over the frames of a clip, then over the clips."""
    scores = []
    for clip in clips:
        given, truth = read_clip(clip)
        scores.append(np.mean([psnr(a, b) for a, b in zip(method(given), truth, strict=True)]))
    return float(np.mean(scores))


def report(
    run: Path, baseline: float, clips: list[Clip], config: Config, device: torch.device
) -> None:
    """The end of a run: what it reached, and where everything is."""
    network, information = load_network(run / "best.pt", device)
    score = validate(network, clips, config, device)
    print(f"\n{'method':<24}PSNR (dB, RGB, no border, {len(clips)} validation clips)")
    print(f"{'bicubic + blend':<24}{mean_psnr(clips, bicubic_blend):.2f}")
    print(f"{'bicubic + flow':<24}{baseline:.2f}")
    print(f"{'MSTT, step ' + str(information['step']):<24}{score:.2f}  ({score - baseline:+.2f})")
    print(f"\ncheckpoint  {run / 'best.pt'}\nlog         {run / 'log.jsonl'}")
    print(f"evaluate    python test.py --checkpoint {run / 'best.pt'}")


def settle(config: Config, device: torch.device) -> Config:
    """Replace "auto" and "none" by what they mean on this machine, so that a run is on record."""
    gpu = device.type == "cuda"
    steps = config.steps or (math.ceil(PAPER_SAMPLES / config.batch) if gpu else 500)
    every = config.validate_every or min(max(steps // 10, 1), 5000)
    size = config.size if config.size != "auto" else ("mstt" if gpu else "small")
    workers = config.workers
    if workers is None:
        workers = min(torch.multiprocessing.cpu_count(), 16) if gpu else 1
    precision = (
        "bfloat16" if pick_precision(device, config.precision) == torch.bfloat16 else "float32"
    )
    return dataclasses.replace(
        config, steps=steps, validate_every=every, size=size, workers=workers, precision=precision
    )


def main() -> int:
    config = parse_config(Config, __doc__)
    one_opencv_thread()
    device = pick_device(config.device)
    run, state = choose_run(config.run, config.resume), None
    if config.resume:
        state = read_state(run / "last.pt")
        config = parse_config(Config, __doc__, defaults=state["config"])
        check_unchanged(config, state["config"])
    config = settle(config, device)
    print(f"run {run} on {device}, command: {' '.join(sys.argv)}\n{describe_config(config)}")
    return train(config, run, device, state)


if __name__ == "__main__":
    run_script(main)
