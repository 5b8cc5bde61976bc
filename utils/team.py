"""Several processes that work together: torchrun's environment and PyTorch's process group.

`torchrun --nproc-per-node K script.py` starts K processes and tells each its place by environment
variables; so does any launcher that sets RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and
MASTER_PORT. Without them a process is a team of its own, and everything here does nothing.

What the processes tell each other travels over gloo, which notices at once when a process is gone;
so do the gradients of a training, but on GPUs over NCCL, which may wait for PATIENCE before it
does, unless a launcher ends the others first.
"""

import contextlib
import dataclasses
import datetime
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")

# How long a process waits for the others, where it is not told otherwise. The first one draws the
# built-in scenes meanwhile, and validation clips differ in length. Gloo notices a process that dies
# at once, not by this.
PATIENCE = datetime.timedelta(minutes=20)
FAILED = "failed"  # how many processes of the team have failed, in its store


@dataclass(frozen=True)
class Team:
    """The processes of a job, of which this is number `rank` of `world`."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0  # the same among the processes of this machine
    local_world: int = 1
    launched: bool = False  # whether a launcher such as torchrun started this process
    restarts: int = 0  # how often the launcher has started this job again after a failure
    max_restarts: int = 0  # how often it would
    store: Any = None  # numbers that all processes see; None where there is one process
    group: Any = None  # with a patience of its own, see `with_patience`; None: PATIENCE

    @property
    def first(self) -> bool:
        """Whether this is the one process that prints and writes files."""
        return self.rank == 0

    def own_device(self, device: torch.device) -> torch.device:
        """The device of this process: on GPUs each process of a machine has one of its own.

        Raises:
            ValueError: fewer GPUs than processes, or one named GPU for several.
        """
        if self.local_world == 1 or device.type != "cuda":
            return device
        if device.index is not None:
            raise ValueError(f"device is '{device}' for {self.local_world} processes; give cuda")
        if torch.cuda.device_count() < self.local_world:
            raise ValueError(
                f"{self.local_world} processes on {torch.cuda.device_count()} GPU(s); start as "
                "many as there are GPUs, or add --device cpu"
            )
        torch.cuda.set_device(self.local_rank)
        return torch.device("cuda", self.local_rank)

    def with_patience(self, patience: datetime.timedelta) -> "Team":
        """The same team, whose processes wait as long for each other; all of them call this."""
        if self.world == 1:
            return self
        group = dist.new_group(timeout=patience, backend="gloo")
        return dataclasses.replace(self, group=group)

    def mean(self, value: float) -> float:
        """The mean of a number over the team."""
        return sum(self.gather_numbers(value)) / self.world

    def largest(self, value: float) -> float:
        """The largest of a number over the team."""
        return max(self.gather_numbers(value))

    def gather_numbers(self, value: float) -> list[float]:
        """A number of every process, in the order of their ranks: in one message, every step."""
        if self.world == 1:
            return [value]
        values = [torch.empty(1, dtype=torch.float64) for _ in range(self.world)]
        dist.all_gather(values, torch.tensor([value], dtype=torch.float64), group=self.group)
        return torch.cat(values).tolist()

    def gather(self, value: T) -> list[T]:
        """A picklable value of every process, in the order of their ranks."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value, group=self.group)
        return values

    def from_first(self, make: Callable[[], T]) -> T:
        """What make() returns in the first process, which alone calls it, in all of them.

        Raises: its ValueError or OSError, in all of them.
        """
        if self.world == 1:
            return make()
        outcome: list[Any] = [None, None]
        if self.first:
            try:
                outcome[0] = make()
            except (ValueError, OSError) as error:
                outcome[1] = error
        dist.broadcast_object_list(outcome, src=0, group=self.group)
        if outcome[1] is not None:
            raise outcome[1]
        return outcome[0]

    def together(self, do: Callable[[], T], first_alone: bool = False) -> T:
        """Do something in every process, and go on when all are done; fail with one message.

        Arguments:
            do: what; where one process fails, the others may leave it early, see `has_failed`.
            first_alone: only the first process does it, and all of them get its result.

        Returns: what do() returns.

        Raises:
            ValueError, OSError: of a process that failed, in the first one; or its SystemExit.
            SystemExit: in the others then, without a message, after the first one has ended.
        """
        if self.world == 1:
            return do()
        value = failure = None
        try:
            if self.first or not first_alone:
                value = do()
        except BaseException as error:
            self.store.add(FAILED, 1)
            if not isinstance(error, ValueError | OSError | SystemExit):
                raise
            failure = error
        # Exceptions of libraries may not survive pickling.
        said = failure and (isinstance(failure, OSError), str(failure))
        outcomes = self.gather((value if first_alone else None, said))
        failures = [(rank, said) for rank, (_, said) in enumerate(outcomes) if said]
        if not failures:
            return outcomes[0][0] if first_alone else value
        if failure and self.first:
            raise failure
        if self.first:
            rank, (is_system, text) = failures[0]
            raise (OSError if is_system else ValueError)(f"process {rank}: {text}")
        # A launcher ends all processes when one of them ends, perhaps before the first has spoken.
        with contextlib.suppress(RuntimeError):
            self.gather(None)
        raise SystemExit(2)

    @property
    def has_failed(self) -> bool:
        """Whether any process of the team has failed in what they do together."""
        return self.world > 1 and self.store.add(FAILED, 0) > 0

    @contextlib.contextmanager
    def contact(self) -> Iterator[None]:
        """A block in which the loss of another process is told from other errors.

        Raises:
            ConnectionError: another process went away, or the group could not be formed.
        """
        try:
            yield
        except RuntimeError as error:
            if self.world == 1 or not _lost_contact(error):
                raise
            # Where a process ends without having freed the group, the others notice.
            raise ConnectionError(
                f"process {self.rank} of {self.world} lost contact with the others: one of them "
                f"ended, see its message. Go on with --resume "
                f"({str(error).strip().splitlines()[0]})"
            ) from error


ALONE = Team()


@contextlib.contextmanager
def join(backend: str = "gloo") -> Iterator[Team]:
    """Join the processes that a launcher started, for the time of the block.

    Only the first process prints from then on.

    Arguments:
        backend: of PyTorch's process group.

    Raises:
        ConnectionError: another process went away, or the group could not be formed.
        ValueError: see `read_environment`.
    """
    team = read_environment()
    if team.world == 1:
        yield team
        return
    with contextlib.ExitStack() as stack:
        if not team.first:
            nowhere = stack.enter_context(open(os.devnull, "w", encoding="utf-8", errors="replace"))
            stack.enter_context(contextlib.redirect_stdout(nowhere))
        with team.contact():
            store, rank, world = next(dist.rendezvous("env://", timeout=PATIENCE))
            if team.local_world == team.world:
                # torchrun keeps its store over a restart, and with it the addresses of processes
                # that are gone. Machines count their restarts differently; for several of them
                # TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 gives every start a store of its own.
                store = dist.PrefixStore(f"restart {team.restarts}", store)
            dist.init_process_group(
                backend, store=store, rank=rank, world_size=world, timeout=PATIENCE
            )
            yield dataclasses.replace(team, store=store)
        dist.destroy_process_group()


def read_environment() -> Team:
    """The place of this process, as a launcher says; nobody else is reached yet.

    Raises:
        ValueError: a variable that is no number.
    """
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return ALONE

    def number(name: str, default: int = 0) -> int:
        text = os.environ.get(name, str(default))
        try:
            return int(text)
        except ValueError:
            raise ValueError(f"{name} is {text!r} in the environment, not a number") from None

    world = number("WORLD_SIZE", default=1)
    return Team(
        rank=number("RANK"),
        world=world,
        local_rank=number("LOCAL_RANK"),
        local_world=number("LOCAL_WORLD_SIZE", default=world),
        launched=True,
        # torchrun's own restarts, and those of the Slurm job that it runs in
        restarts=number("TORCHELASTIC_RESTART_COUNT") + number("SLURM_RESTART_COUNT"),
        max_restarts=number("TORCHELASTIC_MAX_RESTARTS"),
    )


def _lost_contact(error: RuntimeError) -> bool:
    """Whether a RuntimeError is one of the process group, not of the computation."""
    if isinstance(error, dist.DistError):
        return True
    return any(word in str(error) for word in ("gloo", "Gloo", "NCCL", "Connection closed by peer"))
