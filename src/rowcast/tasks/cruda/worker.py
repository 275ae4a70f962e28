"""A robot of the CRUDA task: a replica of the model, and its own foggy images."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rowcast.optim import Optimizer
from rowcast.optim.team import TeamLike
from rowcast.tasks.base import TaskWorker

if TYPE_CHECKING:
    from rowcast.tasks.cruda.task import CrudaTask

__all__ = ["CrudaWorker", "endless_batches", "one_cycle"]


class CrudaWorker(TaskWorker):
    """One robot of the team: a replica of the model, an optimizer, and its own foggy images.

    Attributes:
        model: the replica; batch norm frozen.
        optimizer: that of the settings, over the parameters of ``model``.
        images: ``(n, channels, height, width)`` float32, the shard.
        labels: ``(n,)`` int64.
    """

    task: CrudaTask

    def __init__(
        self,
        task: CrudaTask,
        images: Tensor,
        labels: Tensor,
        rng: np.random.Generator,
        *,
        index: int = 0,
        workers: int = 1,
    ) -> None:
        self.images, self.labels = images, labels
        self._order = endless_batches(np.arange(len(labels)), task.settings.batch, rng)
        model = task.model()
        batches = iter(self._next, None)
        super().__init__(task, model, task.make_optimizer(model), batches, index=index, workers=workers)

    def batch(self) -> tuple[Tensor, Tensor]:
        """The next images ``(batch, channels, height, width)`` and labels ``(batch,)``, as the seed orders them."""
        batch: tuple[Tensor, Tensor] = next(self._batches)
        return batch

    def accuracy(self, model: nn.Module | None = None) -> float:
        """Percent of the foggy test images that ``model`` (by default this replica) classifies rightly."""
        return self.task.accuracy(self.model if model is None else model)

    def wrap(self, team: TeamLike, *, nonfinite: str = "raise") -> Optimizer:
        """Join the team with this robot's model; the statistics of its batch norm are frozen, so that none travel."""
        return Optimizer(self.optimizer, self.model, team, nonfinite=nonfinite, buffers="local")

    def _next(self) -> tuple[Tensor, Tensor]:
        indices = torch.from_numpy(next(self._order))
        return self.images[indices], self.labels[indices]


def endless_batches(indices: NDArray[np.int64], batch: int, rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    """Batches of one shuffled pass after another; a pass ends when fewer than ``batch`` images are left."""
    while True:
        order = rng.permutation(indices)
        for start in range(0, len(order) - batch + 1, batch):
            yield order[start : start + batch]


def one_cycle(step: int, steps: int) -> float:
    """Share of the highest learning rate: a linear rise over the first quarter, then half a cosine down to 0."""
    rise = max(1, steps // 4)
    if step < rise:
        return (step + 1) / (rise + 1)
    return 0.5 + 0.5 * math.cos(math.pi * (step - rise) / max(1, steps - rise))
