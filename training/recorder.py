"""What a training keeps while it runs: checkpoints, the best weights, the log, the progress bar."""

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from models import MSTT, super_resolve
from models.baselines import bicubic_flow
from models.checkpoint import save_torch_file
from training.diagnosis import mean_offset
from training.log import Meter, RunLog
from training.loop import Clock, Ema, memory_in_use
from training.optimiser import Optimiser
from training.release import save_half
from training.run import Progress, training_state
from training.signals import Stopped, StopSignals
from training.sources import Data
from training.validation import FramesAlone, mean_psnr
from utils.streams import progress_bar
from utils.team import Team

DIVERGED = 5.0  # dB below the best validation: nothing comes back from there


@dataclass(eq=False)
class Recorder:
    """Counts the steps of a run, and saves, validates and logs it when that is due.

    Use as a context around the loop: a run that stops or fails is saved on its way out.
    """

    config: Any  # of the run, with nothing left to decide
    run: Path  # its folder; only the first process writes there
    device: torch.device  # where this process trains
    team: Team
    network: MSTT  # saved, as are the next two
    ema: Ema
    optimiser: Optimiser
    progress: Progress  # where the run begins; kept up to date
    clock: Clock  # of its time
    data: Data  # what it learns from and is judged on
    elapsed: float = 0.0  # share of its time that is used

    def __post_init__(self):
        self.baseline = mean_psnr(self.data.validation, bicubic_flow, self.team)
        print(f"bicubic + flow on the validation clips: {self.baseline:.2f} dB", flush=True)
        self.stop = StopSignals(patient=self.team.launched)
        self.log = RunLog(self.run if self.team.first else None)
        self.meter = Meter()

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """The context of the loop, which begins with `catch_up`."""
        bar = partial(progress_bar, unit="step", smoothing=0.05, dynamic_ncols=True)
        steps = None if self.config.minutes else self.config.steps
        with (
            contextlib.closing(self.log),
            bar(total=steps, initial=self.progress.step, disable=not self.team.first) as self.bar,
            self.stop,
            self.stop.saving(partial(self.save, "last.pt")),
            self.team.contact(),
        ):
            yield

    def catch_up(self) -> bool:
        """Do the validation that a resumed run still owes, or that of the weights it starts from.

        Returns: whether nothing else is left to do.
        """
        is_start = self.progress.step == 0 and self.progress.best_score == -math.inf
        is_owed = self.progress.unvalidated or (is_start and self.config.weights is not None)
        if is_owed:
            self.validate()
        self._look_at_the_clock()
        if self.progress.step >= self.config.steps:
            self.bar.write(f"the run has done {self.progress.step} steps; give more --steps")
            if not is_owed and self.progress.best_score == -math.inf:
                self.validate()
            return True
        is_over = self.elapsed >= 1 and self.progress.step > 0
        if is_over:
            self.bar.write(f"the {self.config.minutes:g} minutes of this run are used up")
            if not is_owed:
                self.validate()
        return is_over

    @contextlib.contextmanager
    def stepping(self) -> Iterator[None]:
        """Around an optimiser step: what fails in it leaves nothing that may be saved."""
        self.stop.sound = False
        yield
        self.progress.step += 1
        self.stop.sound = True

    def after_step(self, loss: float, norm: float, share: float) -> bool:
        """Log, validate and save what is due now.

        loss, norm: of the step and its gradient; share: of the peak rate.

        Returns: whether that was the last step.
        Raises: Stopped: in every process, where one of them has received a signal.
        """
        config, step, before = self.config, self.progress.step, self.elapsed
        self._look_at_the_clock()
        is_last = step == config.steps or self.elapsed >= 1
        self.meter.add(loss, config.batch)
        self.bar.update()
        if step % config.log_every == 0 or is_last:
            self._write_log(norm, share * config.rate)
        self.progress.unvalidated = is_last or self._validation_is_due(before)
        if self.progress.unvalidated:
            self.validate()
            self.meter = Meter()
        if number := int(self.team.largest(self.stop.received or 0)):
            raise Stopped(number)
        if not is_last and self.clock.since_save > 60 * config.save_minutes:
            self.save("last.pt")
        return is_last

    def save(self, name: str) -> None:
        """Write the whole state of the run as a file of this name."""
        self.progress.seconds = self.clock.used
        if self.team.first:
            parts = (self.network, self.ema, self.optimiser, self.progress, self.data.fingerprint)
            save_torch_file(self.run / name, training_state(self.config, *parts))
        self.clock.saved()

    def validate(self) -> None:
        """Measure the averaged weights, and keep them if they are the best so far.

        Raises: FloatingPointError: they have become much worse.
        """
        self.save("last.pt")  # a run that ends meanwhile begins with this validation on resume
        average = self.ema.averaged(self.network)
        with self.clock.validating():
            score = self._score(average)
        step, gain = self.progress.step, score - self.baseline
        self.log.write(step, psnr=score, gain_over_bicubic_flow=gain)
        self.bar.write(f"step {step}: {score:.2f} dB, {gain:+.2f} over bicubic + flow")
        # A run that has diverged ends alike each time it is resumed.
        has_diverged = score < self.progress.best_score - DIVERGED
        self.progress.unvalidated = has_diverged
        if math.isfinite(score) and score > self.progress.best_score:
            self.progress.best_score = score
            self.save("best.pt")
            if self.team.first:
                save_half(self.run / "best.safetensors", average, self.config, step, score)
        self.save("last.pt")
        if has_diverged:
            raise FloatingPointError(
                f"step {step}: {score:.2f} dB after {self.progress.best_score:.2f} dB, the "
                "training has diverged. Lower the rates and start from "
                f"{self.run / 'best.pt'} (--weights)"
            )

    def _score(self, network: nn.Module) -> float:
        """The network's PSNR on the validation clips, in dB; see `mean_psnr`."""
        config = self.config
        if config.given_frames == 1:  # its interpolation has not been trained
            network = FramesAlone(network)
        options = {"flow_method": config.evaluation_flow, "window": config.evaluation_window}
        options |= {"device": self.device, "precision": config.precision}
        method = partial(super_resolve, network, **options)
        return mean_psnr(self.data.validation, method, self.team, self.stop)

    def _validation_is_due(self, before: float) -> bool:
        """Whether it is, in all processes alike; `before`: `elapsed` one step ago."""
        if self.config.validate_every:
            return self.progress.step % self.config.validate_every == 0
        # Ten times in the run's time, but never most of it. The first process saves, so its clock
        # may say no where those of the others say yes.
        is_next = int(10 * self.elapsed) > int(10 * before)
        return is_next and not self.team.largest(not self.clock.rested)

    def _look_at_the_clock(self) -> None:
        # The slowest process counts for all, so that all of them end at the same step.
        self.elapsed = self.team.largest(self.clock.elapsed) if self.config.minutes else 0.0

    def _write_log(self, norm: float, rate: float) -> None:
        self.log.write(
            self.progress.step,
            loss=self.meter.loss,
            rate=rate,
            gradient=norm,
            offset=mean_offset(self.network),
            samples_per_second=self.meter.speed,
        )
        told = [f"loss {self.meter.loss:.4f}"]
        if math.isfinite(best := self.progress.best_score):
            told.append(f"best {best:.2f} dB")
        told.append(f"{self.meter.speed:.1f} samples/s")
        if math.isfinite(memory := memory_in_use(self.device)):
            told.append(f"{memory:.1f} GiB")
        self.bar.set_postfix_str(", ".join(told), refresh=False)
        self.meter = Meter()
