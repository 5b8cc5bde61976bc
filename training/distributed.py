"""Several processes that train together: torchrun's environment, PyTorch's process group, DDP.

`torchrun --nproc-per-node K main.py` starts K processes and tells each its place by environment
variables; so does any launcher that sets RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and
MASTER_PORT. Without them a process is a team of its own, and everything here does nothing.

Gradients travel by DDP over NCCL on GPUs and over gloo on CPUs. Everything else (losses, scores,
the request to stop) travels over gloo, which notices at once when a process is gone; NCCL may wait
for PATIENCE before it does, unless a launcher such as torchrun ends the others first.
"""

import contextlib
import datetime
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from models.inference import pick_device

T = TypeVar("T")

# How long a process waits for the others. The first one draws the built-in scenes meanwhile, and
# validation clips differ in length. Gloo notices a process that dies at once, not by this.
PATIENCE = datetime.timedelta(minutes=20)


@dataclass(frozen=True)
class Team:
    """The processes of a training, of which this is number `rank` of `world`.

    Attributes:
        rank, world: place among all processes, and their number.
        local_rank, local_world: the same among the processes of this machine.
        launched: whether a launcher such as torchrun started this process.
        restarts: how often the launcher has started this job again after a failure.
        max_restarts: how often it would.
    """

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    local_world: int = 1
    launched: bool = False
    restarts: int = 0
    max_restarts: int = 0

    @property
    def first(self) -> bool:
        """Whether this is the one process that prints and writes files."""
        return self.rank == 0

    def device(self, name: str) -> torch.device:
        """The device of this process: on GPUs each process of a machine has one of its own.

        Raises:
            ValueError: no such device, fewer GPUs than processes, or one named GPU for several.
        """
        device = pick_device(name)
        if self.local_world == 1 or device.type != "cuda":
            return device
        if device.index is not None:
            raise ValueError(f"device is {name!r} for {self.local_world} processes; give cuda")
        if torch.cuda.device_count() < self.local_world:
            raise ValueError(
                f"{self.local_world} processes on {torch.cuda.device_count()} GPU(s); start as "
                "many as there are GPUs, or add --device cpu"
            )
        torch.cuda.set_device(self.local_rank)
        return torch.device("cuda", self.local_rank)

    def wrap(self, network: nn.Module, in_part: bool = False) -> nn.Module:
        """The network, with gradients averaged over the team during the backward pass.

        Arguments:
            network: on the device of this process.
            in_part: parameters may go without a gradient, the same ones in all processes.
        """
        if self.world == 1:
            return network
        return DistributedDataParallel(network, find_unused_parameters=in_part)

    def gradients_later(
        self, model: nn.Module, later: bool
    ) -> contextlib.AbstractContextManager[None]:
        """A block whose gradients are only added up if a later one of this step averages them."""
        return model.no_sync() if later and self.world > 1 else contextlib.nullcontext()

    def mean(self, value: float) -> float:
        """The mean of a number over the team."""
        return sum(self.gather_numbers(value)) / self.world

    def largest(self, value: float) -> float:
        """The largest of a number over the team."""
        return max(self.gather_numbers(value))

    def gather_numbers(self, value: float) -> list[float]:
        """A number of every process, in the order of their ranks."""
        if self.world == 1:
            return [value]
        values = [torch.empty(1, dtype=torch.float64) for _ in range(self.world)]
        dist.all_gather(values, torch.tensor([value], dtype=torch.float64))
        return torch.cat(values).tolist()

    def gather(self, value: T) -> list[T]:
        """A picklable value of every process, in the order of their ranks."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value)
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
        dist.broadcast_object_list(outcome, src=0)
        if outcome[1] is not None:
            raise outcome[1]
        return outcome[0]

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
                f"ended, see its message. Go on from the last checkpoint with --resume "
                f"({str(error).strip().splitlines()[0]})"
            ) from error

    @contextlib.contextmanager
    def first_goes_first(self) -> Iterator[None]:
        """The first process runs the block alone, then the others do, who find its files made."""
        if self.world > 1 and not self.first:
            dist.barrier()
        yield
        if self.world > 1 and self.first:
            dist.barrier()


@contextlib.contextmanager
def join_team() -> Iterator[Team]:
    """Join the processes that a launcher started, for the time of the block.

    Only the first process prints from then on.

    Raises:
        ConnectionError: another process went away, or the group could not be formed.
    """
    team = _read_environment()
    if team.world == 1:
        yield team
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    with contextlib.ExitStack() as stack:
        if not team.first:
            nowhere = stack.enter_context(open(os.devnull, "w"))
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
            yield team
        dist.destroy_process_group()


def _read_environment() -> Team:
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return Team()

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
