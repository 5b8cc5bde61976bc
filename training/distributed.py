"""Several processes that train together: a team, see utils/team.py, with PyTorch's DDP.

Gradients travel by DDP over NCCL on GPUs and over gloo on CPUs. Everything else (losses, scores,
the request to stop) travels over gloo, which notices at once when a process is gone; NCCL may wait
for PATIENCE before it does, unless a launcher such as torchrun ends the others first.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from models.inference import pick_device
from utils import team


@dataclass(frozen=True)
class Team(team.Team):
    """The processes of a training."""

    def device(self, name: str) -> torch.device:
        """The device of this process: on GPUs each process of a machine has one of its own.

        Raises: ValueError: no such device, fewer GPUs than processes, or one named GPU for several.
        """
        return self.own_device(pick_device(name))

    def wrap(self, network: nn.Module, in_part: bool = False) -> nn.Module:
        """The network on a device, with gradients averaged over the team during the backward pass.

        `in_part`: parameters may go without a gradient, the same ones in all processes.
        """
        if self.world == 1:
            return network
        return DistributedDataParallel(network, find_unused_parameters=in_part)

    def gradients_later(
        self, model: nn.Module, later: bool
    ) -> contextlib.AbstractContextManager[None]:
        """A block whose gradients are only added up if a later one of this step averages them."""
        return model.no_sync() if later and self.world > 1 else contextlib.nullcontext()


@contextlib.contextmanager
def join_team() -> Iterator[Team]:
    """Join the processes that a launcher started, for the time of the block.

    Only the first process prints from then on. A ConnectionError where another one went away.
    """
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    with team.join(_read_environment(), backend) as joined:
        yield joined


def _read_environment() -> Team:
    return Team(**team.read_environment())
