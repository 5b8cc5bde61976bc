"""What a training writes down."""

import json
import math
import time
from pathlib import Path

from utils.text import one_line


class Meter:
    """Mean loss and speed since it was made; a loss of NaN or Inf does not count."""

    def __init__(self):
        self.losses: list[float] = []
        self.samples = 0
        self.start = time.perf_counter()

    def add(self, loss: float, samples: int) -> None:
        """Count a step."""
        self.samples += samples
        if math.isfinite(loss):
            self.losses.append(loss)

    @property
    def loss(self) -> float:
        """The mean loss; NaN where no step counted."""
        return sum(self.losses) / len(self.losses) if self.losses else math.nan

    @property
    def speed(self) -> float:
        """Samples per second."""
        return self.samples / (time.perf_counter() - self.start)


class RunLog:
    """A run's log: one JSON object per line in log.jsonl, and TensorBoard where it is installed.

    A resumed run appends; lines of steps that are taken again stay, the later one counts. Numbers
    that are not finite become null, which JSON has no other word for. `folder` None writes nothing.
    """

    def __init__(self, folder: Path | None):
        self.file = self.board = None
        if folder is None:
            return
        self.file = open(folder / "log.jsonl", "a", encoding="utf-8")  # noqa: SIM115
        try:
            from torch.utils.tensorboard import SummaryWriter

            self.board = SummaryWriter(str(folder / "tensorboard"))
        except ImportError:
            pass
        except Exception as error:  # it builds on packages of many versions, and is not needed
            reason = one_line(f"{type(error).__name__}: {error}")
            print(f"no TensorBoard log, which fails here ({reason})", flush=True)

    def write(self, step: int, **values: float) -> None:
        """Add the values of a step."""
        if self.file is None:
            return
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
        line = {"step": step, "time": round(time.time(), 1)} | finite
        self.file.write(json.dumps(line) + "\n")
        self.file.flush()
        if self.board:
            for name, value in values.items():
                self.board.add_scalar(name, value, step)

    def close(self) -> None:
        if self.file:
            self.file.close()
        if self.board:
            self.board.close()
