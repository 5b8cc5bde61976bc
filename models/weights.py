"""The shipped weights, and the flow method and window that a file of weights asks for."""

from numbers import Integral
from pathlib import Path
from typing import Any

import torch

from models.inference import FLOWS, LONGEST_WINDOW, WINDOW
from utils.text import plain

CHECKPOINTS = Path(__file__).resolve().parents[1] / "checkpoints"

# The shipped weights by name, and which to take on a device, best first. Those called real were
# trained on degraded frames (main.py --degrade real), for compressed and noisy footage.
NAMES = ("large", "fast", "small", "large_real", "fast_real")
SHIPPED = {name: CHECKPOINTS / f"mstt_{name}.safetensors" for name in NAMES}
PREFERRED = {"cuda": ("large", "fast", "small"), "cpu": ("fast", "small", "large")}


def find_weights(name: str | Path) -> Path:
    """The file of weights: a path, a run's folder, or the name of shipped ones ("fast").

    Raises: FileNotFoundError: there is no such file.
    """
    path = Path(name)
    if (path / "best.pt").is_file():  # the folder of a run
        return path / "best.pt"
    if not path.is_file():
        path = SHIPPED.get(str(name).removeprefix("mstt_"), path)
    if not path.is_file():
        raise FileNotFoundError(
            f"no checkpoint at {path}; give a file, or the name of shipped weights: "
            f"{', '.join(SHIPPED)}"
        )
    return path


def shipped_weights(device: torch.device, real: bool = False) -> Path | None:
    """The shipped weights that suit a device best; None where there are none.

    real: those for compressed and noisy footage.
    """
    names = PREFERRED.get(device.type, PREFERRED["cpu"])
    paths = [SHIPPED.get(f"{name}_real" if real else name) for name in names]
    return next((path for path in paths if path and path.is_file()), None)


def trained_flow(information: dict[str, Any]) -> str:
    """The flow method that a file asks for, from load_network; the released code: PyFlow.

    Raises: ValueError: the file names no method that there is.
    """
    config = information.get("config", {})
    config = config if isinstance(config, dict) else {"flow_method": config}
    trained = config.get("evaluation_flow", config.get("flow_method", "pyflow"))
    method = information.get("flow_method", trained)
    if not isinstance(method, str) or method not in FLOWS:
        raise ValueError(
            f"the checkpoint names an unknown flow method ({plain(method)}); choose one of "
            f"{', '.join(FLOWS)} with --flow-method"
        )
    return method


def trained_window(information: dict[str, Any]) -> int:
    """How many given frames a file, from load_network, wants to be shown at once.

    As many as it was trained with, at least those of the released code, unless it says otherwise.

    Raises: ValueError: the file has a number that there cannot be.
    """
    config = information.get("config", {})
    config = config if isinstance(config, dict) else {}
    trained = config.get("given_frames", WINDOW)
    trained = max(trained, WINDOW) if type(trained) is int else trained
    window = information.get("window", config.get("evaluation_window") or trained)
    if type(window) is not int or not 2 <= window <= LONGEST_WINDOW:
        raise ValueError(
            f"the checkpoint asks for windows of {plain(window)}; they have 2 to "
            f"{LONGEST_WINDOW} given frames"
        )
    return window


def check_window(window: int) -> None:
    """Refuse, by a ValueError, what `--window` cannot be."""
    if not isinstance(window, Integral) or (window and not 2 <= window <= LONGEST_WINDOW):
        raise ValueError(
            f"window is {window!r}; give 2 to {LONGEST_WINDOW} frames, or 0 for the weights' own"
        )
