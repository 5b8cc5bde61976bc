"""Ctrl-C and SIGTERM during a training."""

import contextlib
import signal
from collections.abc import Callable, Iterator
from typing import Any

from data.loading import LoadingError


class Stopped(Exception):
    """A training leaves its loop because of a signal, whose number is the argument."""


class StopSignals:
    """Ctrl-C and SIGTERM as a request: the loop finishes its step, saves, and then leaves.

    Use as a context. A second Ctrl-C acts at once, unless `patient`: torchrun passes on to its
    processes a Ctrl-C that the terminal has sent them already, and kills them after 30 s itself.
    """

    def __init__(self, patient: bool = False):
        self.received: int | None = None  # the signal's number
        self.stopped: int | None = None  # that of the signal that the loop was left for
        self.sound = True  # False while weights and optimiser are between two steps
        self.patient = patient

    def __enter__(self) -> "StopSignals":
        self.previous = {
            number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)
        }
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: Any) -> None:
        self.received = number
        if not self.patient:
            signal.signal(number, self.previous[number])

    @contextlib.contextmanager
    def saving(self, save: Callable[[], None]) -> Iterator[None]:
        """A training's loop, which is saved where it stops or fails.

        A signal to all processes of a training, which is how launchers send it, may end those that
        this one waits for. Their loss is then part of the stop.

        Raises: Exception: what the loop fails with, after the save (but an OSError, such as that
            of a full disk, at once); LoadingError and ConnectionError only where no signal came.
        """
        try:
            yield
        except (Stopped, LoadingError, ConnectionError) as error:
            save()
            self.stopped = error.args[0] if isinstance(error, Stopped) else self.received
            if not self.stopped:
                raise
        except OSError:  # such as a full disk, on which another save fails too
            raise
        except Exception:  # NaN, out of memory, a bug
            if self.sound:
                save()
            raise
