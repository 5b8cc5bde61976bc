"""A run on disk: its folder, and the training checkpoint from which it goes on exactly."""

import contextlib
import dataclasses
import itertools
import math
import platform
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models import MSTT
from models.checkpoint import FORMAT, check_state, is_plain, load_torch_file
from training.loop import Ema
from training.muon import Muon
from training.optimiser import Optimiser
from utils.files import LOCK, PARTIAL, lock_folder, remove_unused
from utils.text import one_line

MOST_STEPS = 10**9  # of a run; beyond it is a mistake
VERSIONS = {"python": platform.python_version(), "torch": str(torch.__version__)}


def open_run(
    name: str, resume: bool, restarted: bool, stack: contextlib.ExitStack
) -> tuple[Path, dict[str, Any] | None]:
    """Choose the folder of a run, take it for this process alone, and read where it stopped.

    Arguments:
        name: the folder, or "auto": a new one under runs/, or to resume the newest there.
        resume: whether the run goes on.
        restarted: whether a launcher started the job again: then the run goes on from its last
            checkpoint, or from its start where there is none yet.
        stack: keeps the folder locked until it is closed.

    Raises: ValueError: the folder holds a run already or is in use, or there is none to resume.
    """
    if resume and name != "auto" and not (Path(name) / "last.pt").is_file():
        raise FileNotFoundError(
            f"nothing to resume: no checkpoint at {Path(name) / 'last.pt'}; leave out --resume"
        )
    is_new = not Path(name).exists()  # "auto" names none
    run = choose_run(name, resume or restarted)
    stack.enter_context(lock_folder(run, "choose another --run"))
    if is_new and not resume:
        stack.callback(remove_unused, run)  # where it ends before it has written anything
    for leftover in run.glob(f".*{PARTIAL}"):  # of a process that was killed while it saved
        leftover.unlink()
    if resume or (restarted and (run / "last.pt").is_file()):
        return run, read_state(run / "last.pt")
    return run, None


def choose_run(name: str, resume: bool) -> Path:
    """The folder of a run: a new one, or to resume one that is there; see `open_run`."""
    if name != "auto":
        run = Path(name)
        if run.exists() and not run.is_dir():
            raise ValueError(f"{run} is a file; give a folder with --run")
    elif resume:
        runs = sorted(Path("runs").glob("*/last.pt"), key=lambda path: path.stat().st_mtime)
        if not runs:
            raise ValueError("nothing to resume under runs/; leave out --resume")
        return runs[-1].parent
    else:
        return _new_folder(Path("runs") / time.strftime("%Y-%m-%d_%H-%M-%S"))
    if not resume and run.exists() and not all(map(_before_first_save, run.iterdir())):
        is_run = (run / "last.pt").is_file()
        what = "a run already; add --resume or" if is_run else "other files;"
        raise ValueError(f"{run} holds {what} choose another --run")
    run.mkdir(parents=True, exist_ok=True)
    return run


def _before_first_save(path: Path) -> bool:
    """Whether a file is one that a run writes before its first checkpoint, so none is lost."""
    return path.name in (LOCK, "log.jsonl", "tensorboard") or path.name.endswith(PARTIAL)


def _new_folder(path: Path) -> Path:
    """Make a folder of this name, or with -2, -3 .. behind it where another process was first."""
    for number in itertools.count(1):
        folder = path.with_name(f"{path.name}-{number}") if number > 1 else path
        with contextlib.suppress(FileExistsError):
            folder.mkdir(parents=True)
            return folder


@dataclass
class Progress:
    """How far a run is."""

    step: int = 0  # optimiser steps, left-out ones included
    best_score: float = -math.inf  # dB, on the validation clips
    skipped: int = 0  # steps left out for a loss or gradient that was not finite
    unvalidated: bool = False  # whether a validation is due at this step
    seconds: float = 0.0  # that the run has used


def training_state(
    config: Any,
    network: MSTT,
    ema: Ema,
    optimiser: Optimiser,
    progress: Progress,
    data: dict[str, str] | None = None,
) -> dict[str, Any]:
    """Everything that a run needs to go on exactly, and that load_network needs.

    The position in the data is step * batch. data: the fingerprint of what is trained on.
    """
    return {
        "format": FORMAT,
        **dataclasses.asdict(progress),
        "network": network.state_dict(),
        "ema": ema.weights,
        "network_options": network.options,
        "optimiser": optimiser.state_dict(),
        "random": random_states(),
        "data": data,
        "config": dataclasses.asdict(config),
        "versions": VERSIONS,
    }


def read_state(path: Path) -> dict[str, Any]:
    """The training state in a checkpoint; a ValueError for one that no run can have."""
    state = load_torch_file(path)
    if state.get("format") != FORMAT:
        raise ValueError(f"{path} is not a training checkpoint of this version")
    check_state(path, state)
    step, skipped = state["step"], state.get("skipped", 0)
    best_score, seconds = state["best_score"], state.get("seconds", 0.0)
    if type(step) is not int or not 0 <= step <= MOST_STEPS:
        raise ValueError(f"{path} is of step {str(step)[:40]}, not of one up to {MOST_STEPS}")
    if type(skipped) is not int or not 0 <= skipped <= step:
        raise ValueError(f"{path} has left out {one_line(str(skipped))[:40]} of {step} steps")
    if math.isnan(best_score) or best_score == math.inf:
        raise ValueError(f"{path} has a best score of {best_score}")
    if type(seconds) is not float or not 0 <= seconds < math.inf:
        raise ValueError(f"{path} has used {one_line(str(seconds))[:40]} seconds")
    return state


def restore(state: dict[str, Any], ema: Ema, optimiser: Optimiser) -> Progress:
    """Put the rest of a training state back; returns how far it was.

    Raises: ValueError: its parts are not of this network and these settings.
    """
    averages, moments = state["ema"], state["optimiser"]
    if averages.keys() != ema.weights.keys() or not all(
        _is_like(averages[name], average) for name, average in ema.weights.items()
    ):
        raise ValueError("the checkpoint's parts do not fit each other (ema and network)")
    if moments.keys() != optimiser.parts.keys() or not all(
        _are_moments(moments[name], part) for name, part in optimiser.parts.items()
    ):
        raise ValueError("the checkpoint's optimiser is not that of its network and its settings")
    for name, average in ema.weights.items():
        average.copy_(averages[name])
    optimiser.load_state_dict(moments)
    try:
        restore_random_states(state["random"])
    except (KeyError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        reason = one_line(str(error).partition("\n")[0])
        raise ValueError(f"the checkpoint's random state cannot be restored ({reason})") from error
    names = [field.name for field in dataclasses.fields(Progress)]
    return Progress(**{name: state[name] for name in names if name in state})


def _is_like(value: Any, expected: Tensor) -> bool:
    """Whether a value from a file is a plain tensor that can take another one's place."""
    return isinstance(value, Tensor) and is_plain(value) and value.shape == expected.shape


def _are_moments(moments: Any, part: torch.optim.Optimizer) -> bool:
    """Whether a value from a file is an optimiser's state: of a parameter all entries, or none."""
    parameters = [p for group in part.param_groups for p in group["params"]]
    names = {"momentum"} if isinstance(part, Muon) else {"exp_avg", "exp_avg_sq"}
    steps = names - {"momentum"} and {"step"}
    return isinstance(moments, dict) and all(
        type(number) is int
        and 0 <= number < len(parameters)
        and isinstance(entries, dict)
        and entries.keys() == names | steps
        and all(_is_like(entries[n], torch.tensor(0.0)) and entries[n] >= 0 for n in steps)
        and all(_is_like(entries[n], parameters[number]) for n in names)
        for number, entries in moments.items()
    )


def random_states() -> dict[str, Tensor]:
    """The states of PyTorch's random generators in use, for a checkpoint."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_initialized():  # the other GPUs are other processes', leave them alone
        states[f"cuda:{torch.cuda.current_device()}"] = torch.cuda.get_rng_state()
    return states


def restore_random_states(states: dict[str, Tensor]) -> None:
    """The inverse of `random_states`; states of GPUs that are not here are left out."""
    torch.set_rng_state(states["cpu"])
    for index in range(torch.cuda.device_count()):
        if f"cuda:{index}" in states:
            torch.cuda.set_rng_state(states[f"cuda:{index}"], index)
