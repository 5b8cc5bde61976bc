"""The score of a network on validation clips, shared out over the processes of a training."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from data.clips import Clip, read_clip
from models.blocks import interleave, mean_of_neighbours
from models.inference import NotFinite
from training.signals import Stopped, StopSignals
from utils.metrics import PSNR_CAP, psnr
from utils.team import ALONE, Team

Method = Callable[[np.ndarray], Iterable[np.ndarray]]


def mean_psnr(
    clips: list[Clip], method: Method, team: Team = ALONE, stop: StopSignals | None = None
) -> float:
    """PSNR in dB (RGB, no border cut): mean over the frames of a clip, then over the clips.

    Every clip counts once, whatever the number of processes. NaN where the method's network gives
    NaN or Inf.

    Arguments:
        clips: the same in every process.
        method: given frames (N, H, W, 3) uint8 to 2N - 1 frames (4H, 4W, 3).
        team: the processes that share the clips out among them.
        stop: a signal that it has received ends this after the clip in work.

    Raises: Stopped: in every process, where one of them has received a signal.
    """
    scores = {}
    for number in range(team.rank, len(clips), team.world):
        if stop and stop.received:
            break
        given, truth = read_clip(clips[number])
        try:
            frames = zip(method(given), truth, strict=True)
            values = [min(psnr(ours, true), PSNR_CAP) for ours, true in frames]
        except NotFinite:  # the other processes wait for a score
            values = [math.nan]
        scores[number] = float(np.mean(values))
    if stop and (number := int(team.largest(stop.received or 0))):
        raise Stopped(number)
    scores = {number: score for part in team.gather(scores) for number, score in part.items()}
    if len(scores) != len(clips):
        raise ValueError("the processes of this training see different validation clips")
    return float(np.mean([scores[number] for number in range(len(clips))]))


class FramesAlone(nn.Module):
    """An MSTT that only enlarges: each given frame by itself, and between them their warped mean.

    What a training with one given frame is validated with.
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network
        self.options: dict[str, Any] = {}  # no propagation: a frame alone has none

    def extract(self, frames: Tensor) -> None:
        """Nothing: the network finds the features of each frame."""

    def forward(
        self, frames: Tensor, forward_flow: Tensor, backward_flow: Tensor, *_: None
    ) -> Tensor:
        """As `MSTT.forward`."""
        none = forward_flow[:, :0]
        given = [self.network(frame, none, none) for frame in frames.split(1, dim=1)]
        enlarged = torch.cat(given, dim=1)
        if frames.shape[1] == 1:
            return enlarged
        between = mean_of_neighbours(enlarged, forward_flow, backward_flow, mode="bicubic")
        return interleave(enlarged, between)
