"""Adaptive top-k in runs in virtual time: robots step with the largest elements of their gradients.

What is counted is what a system would send that exchanges gradients. What travels is the code of the policy, as ever.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from rowcast.drivers.virtual import VirtualWorker
from rowcast.streams import TopK, compresses
from rowcast.tasks import TaskWorker

__all__ = ["Thinning", "ThinningWorker"]


class Thinning:
    """Top-k of a team, whose robots share their newest votes.

    A robot decides when it has a gradient: by the majority of the newest votes of all robots. Who has not voted on a
    gradient since then counts with the vote before; who has never voted, or has left, does not count.

    Args:
        rule: for all robots.
    """

    def __init__(self, rule: TopK) -> None:
        self._rule = rule
        self._votes: dict[str, bool] = {}

    def worker(self, robot: TaskWorker, worker: VirtualWorker) -> ThinningWorker:
        """Top-k of one robot."""
        return ThinningWorker(self, robot, worker, self._rule)

    def vote(self, name: str, vote: bool) -> bool:
        """A robot votes; whether it compresses."""
        self._votes[name] = vote
        return compresses(list(self._votes.values()))

    def leave(self, name: str) -> None:
        """A robot votes no more."""
        self._votes.pop(name, None)


class ThinningWorker:
    """The gradients of one robot: all parameters that its optimizer trains, as one vector.

    Args:
        team: whose votes decide.
        robot: has model and optimizer.
        worker: its journal says what would be sent.
        rule: what is used of a gradient.
    """

    def __init__(self, team: Thinning, robot: TaskWorker, worker: VirtualWorker, rule: TopK) -> None:
        trained = {id(each) for group in robot.optimizer.param_groups for each in group["params"]}
        self._parameters = [each for each in robot.model.parameters() if each.requires_grad and id(each) in trained]
        self._team, self._worker = team, worker
        self._elements = sum(each.numel() for each in self._parameters)
        self._device = rule.device(self._elements)

    def thin(self, samples: int | None = None) -> None:
        """Replace the gradients in the parameters by what is used of them, and note that with the step.

        A gradient with NaN or Inf stays as it is, and what was left of those before it is kept: no step is made of it.

        Args:
            samples: of which the gradient is the mean, where batches differ. What is left of a gradient then counts in
                the next by its samples, as the step that it is taken from does.
        """
        count = np.float32(1 if samples is None else samples)
        gradient = gather(self._parameters) * count
        device, worker = self._device, self._worker
        if not np.isfinite(gradient).all():
            worker.node.thinned(0, 0, compressed=False)
            return
        compress = self._team.vote(worker.name, device.look(gradient))
        before = device.floats
        scatter(device.send(compress) / count, self._parameters)
        worker.node.thinned(device.floats - before, self._elements, compressed=compress)

    def leave(self) -> None:
        """This robot votes no more."""
        self._team.leave(self._worker.name)


def gather(parameters: Sequence[nn.Parameter]) -> npt.NDArray[np.float32]:
    """The gradients of parameters one after the other, float32 [elements]; 0 where one has none."""
    parts = [torch.zeros_like(each) if each.grad is None else each.grad for each in parameters]
    flat = torch.cat([part.detach().reshape(-1).to("cpu", torch.float32) for part in parts])
    vector: npt.NDArray[np.float32] = flat.numpy()
    return vector


def scatter(vector: npt.NDArray[np.float32], parameters: Sequence[nn.Parameter]) -> None:
    """Put them back; a parameter without a gradient gets one only where it is not 0."""
    begin = 0
    for each in parameters:
        part = torch.from_numpy(vector[begin : begin + each.numel()]).reshape(each.shape)
        begin += each.numel()
        if each.grad is not None:
            each.grad.copy_(part)
        elif bool(part.any()):
            each.grad = part.to(each.device, each.dtype)
