"""A run on disk: its folder, and the training checkpoint from which it goes on exactly."""

import dataclasses
import platform
import time
from pathlib import Path
from typing import Any

import torch

from models import MSTT
from utils.checkpoint import FORMAT, load_torch_file
from utils.training import Ema, random_states, restore_random_states

# Constants that may differ between a run and its continuation without changing what it learns.
MAY_CHANGE = {
    "resume",
    "run",
    "device",
    "workers",
    "validate_every",
    "log_every",
    "steps",
    "weights",
}


def choose_run(name: str, resume: bool) -> Path:
    """The folder of a run: a new one, or to resume one that is there.

    Arguments:
        name: the folder, or "auto": a new one under runs/, or to resume the newest there.
        resume: whether the run goes on.

    Raises:
        ValueError: the folder holds a run already, or there is none to resume.
    """
    if name != "auto":
        run = Path(name)
    elif resume:
        runs = sorted(Path("runs").glob("*/last.pt"), key=lambda path: path.stat().st_mtime)
        if not runs:
            raise ValueError("nothing to resume under runs/; leave out --resume")
        run = runs[-1].parent
    else:
        run = Path("runs") / time.strftime("%Y-%m-%d_%H-%M-%S")
    if not resume and run.exists() and any(run.iterdir()):
        raise ValueError(f"{run} holds a run already; add --resume or choose another --run")
    run.mkdir(parents=True, exist_ok=True)
    return run


def training_state(
    config: Any,
    network: MSTT,
    ema: Ema,
    optimiser: torch.optim.Optimizer,
    step: int,
    best_score: float,
) -> dict[str, Any]:
    """Everything that a run needs to go on exactly, and that load_network needs.

    The position in the data is step * batch: the sampler is a pure function of it.
    """
    return {
        "format": FORMAT,
        "step": step,
        "network": network.state_dict(),
        "ema": ema.weights,
        "network_options": network.options,
        "optimiser": optimiser.state_dict(),
        "random": random_states(),
        "best_score": best_score,
        "config": dataclasses.asdict(config),
        "versions": {"python": platform.python_version(), "torch": str(torch.__version__)},
    }


def read_state(path: Path) -> dict[str, Any]:
    """The training state in a checkpoint.

    Raises:
        FileNotFoundError: nothing to resume.
        ValueError: damaged, or no training checkpoint.
    """
    if not path.is_file():
        raise FileNotFoundError(f"nothing to resume: no checkpoint at {path}")
    state = load_torch_file(path)
    if state.get("format") != FORMAT:
        raise ValueError(f"{path} is no training checkpoint of this version")
    return state


def check_unchanged(config: Any, recorded: dict[str, Any]) -> None:
    """Refuse to go on with constants that would make another run of it.

    Raises:
        ValueError: names every constant that differs from the recorded ones.
    """
    changed = [
        f"{name} was {recorded[name]}, is {now}"
        for name, now in dataclasses.asdict(config).items()
        if name in recorded and name not in MAY_CHANGE and now != recorded[name]
    ]
    if changed:
        raise ValueError(
            f"a resumed run keeps its constants, but {'; '.join(changed)}. To train on with "
            "others, start a new run with --weights"
        )


def restore(
    state: dict[str, Any], network: MSTT, ema: Ema, optimiser: torch.optim.Optimizer
) -> tuple[int, float]:
    """Put a training state back in place; returns its step and best score."""
    network.load_state_dict(state["network"])
    for name, average in ema.weights.items():
        average.copy_(state["ema"][name])
    optimiser.load_state_dict(state["optimiser"])
    restore_random_states(state["random"])
    return state["step"], state["best_score"]
