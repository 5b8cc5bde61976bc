"""Windows dealt out over the processes of a team, which may be on several machines.

Every process gets a run of windows that follow each other, so that what neighbours share is made
once. The first one decides which windows are missing and tells the others, since a list that is
made while others write already would be another one.
"""

import itertools
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from media.frames import Sink, Source
from models.inference import windows
from utils.team import Team

# Seconds until a machine sees what another has written; NFS looks once a minute.
LAG = 90

Cut = tuple[int, int, int]  # of `models.inference.windows`


@dataclass(frozen=True)
class Share:
    """What one process makes of a source in one pass."""

    cuts: Sequence[Cut]  # its windows
    elsewhere: int = 0  # frames of the result that the other processes make

    @property
    def frames(self) -> int:
        """How many frames of the result it makes."""
        return sum(stop - start for start, stop in map(output_frames, self.cuts))


def output_frames(cut: Cut) -> tuple[int, int]:
    """The first new frame of the result of a window, and the one after the last."""
    start, stop, first_new = cut
    return 2 * start + first_new, 2 * stop - 1


def missing_windows(source: Source, sink: Sink, length: int) -> list[Cut]:
    """The windows of up to `length` frames of a source that a sink does not have."""
    return [cut for cut in windows(source.count, length) if not sink.holds(*output_frames(cut))]


def deal(missing: Sequence[Sequence[Cut]], rank: int, world: int) -> list[Share]:
    """The share of process `rank` of `world` of every source, given the missing windows of each."""
    numbers = [number for number, cuts in enumerate(missing) for _ in cuts]
    start, stop = (-(-len(numbers) * place // world) for place in (rank, rank + 1))
    shares, before = [], 0
    for cuts in missing:
        mine = cuts[max(start - before, 0) : max(stop - before, 0)]
        elsewhere = Share(cuts).frames - Share(mine).frames
        shares.append(Share(mine, elsewhere))
        before += len(cuts)
    return shares


def check_alike(team: Team, settings: dict[str, Any]) -> None:
    """Refuse, by a ValueError, processes whose frames would not go together."""
    first, *others = team.gather(settings)
    for rank, other in enumerate(others, 1):
        for name, value in first.items():
            if other[name] != value:
                raise ValueError(
                    f"process {rank} has {name} {other[name]!r}, the first {value!r}; all have to "
                    "have the same"
                )


def wait_to_see(seen: Callable[[], bool], folder: Path, team: Team) -> None:
    """Wait until this machine sees in a folder what another process of the team has written.

    Raises: FileNotFoundError: it does not; says where.
    """
    if team.world == 1:
        return
    for second in itertools.count():
        if seen():
            return
        if second == LAG:
            raise FileNotFoundError(
                f"{socket.gethostname()} does not see in {folder} what other processes have "
                "written; all machines need OUTPUT on a disk that they share"
            )
        time.sleep(1)
