"""A robot whose world drifts: it is tested on what comes, then trained on it and on some of what came before."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rowcast.streams import parse_rehearsal
from rowcast.tasks.base import TaskWorker

if TYPE_CHECKING:
    from rowcast.tasks.drift.task import Batch, DriftTask

__all__ = ["DriftWorker"]

_REHEARSAL = 1
"""Stream of random numbers; 0 is that of the data."""


class DriftWorker(TaskWorker):
    """Test, then train: each new batch is predicted with the parameters as they are before it changes them.

    Both take one pass through the model, since its parameters do not change between the two.

    Attributes:
        rehearsal: the old samples, as the settings say; ``None``: new ones only.
        tested: new samples that were predicted so far.
    """

    task: DriftTask

    def __init__(self, task: DriftTask, index: int, workers: int) -> None:
        model = task.model()
        super().__init__(
            task, model, task.make_optimizer(model), task.batches(index, workers), index=index, workers=workers
        )
        seed = int(task.rng(_REHEARSAL, index).integers(2**63))
        self.rehearsal = parse_rehearsal(task.settings.rehearsal, seed)
        self.tested = 0
        self._scores = 0.0
        self._batch: Batch | None = None
        self._steps_left = 0

    def compute(self) -> float:
        """The next step: of the next batch, or one more of the last where the settings ask for several.

        Returns:
            the mean loss of the samples, new and old.

        Raises:
            SourceEnded: the stream is over.
        """
        first = self._steps_left == 0
        if first:
            self._batch = self._next_batch()
            self._steps_left = self.task.settings.steps
        self._steps_left -= 1
        assert self._batch is not None
        return self._step(self._batch, first=first, last=self._steps_left == 0)

    def compute_on(self, batch: Batch) -> float:
        """Test and train on a batch that the caller gives, in one step."""
        return self._step(batch, first=True, last=True)

    def prequential(self) -> float:
        """Mean score of all that was predicted before it was trained on; before the first step, of the first batch."""
        if self.tested:
            return self._scores / self.tested
        first = self._peek()
        return float("nan") if first is None else float(self.task.scores(self.model(first[0]), first[1]).mean())

    def _step(self, batch: Batch, *, first: bool, last: bool) -> float:
        new, count = batch, len(batch[1])
        old = [] if self.rehearsal is None else self.rehearsal.draw(self.task.settings.rehearsed)
        inputs, targets = new if not old else _joined(new, self.task.collate(old))
        self.optimizer.zero_grad()
        outputs = self.model(inputs)
        if first:
            self._scores += float(self.task.scores(outputs[:count].detach(), targets[:count]).sum())
            self.tested += count
        losses = self.task.losses(outputs, targets)
        loss = losses.mean()
        loss.backward()  # type: ignore[no-untyped-call]
        if self.rehearsal is not None:
            costs = losses.detach().tolist()
            if old:
                self.rehearsal.told(costs[count:])
            if last:
                self.rehearsal.add(zip(*new, strict=True), costs[:count])
        return float(loss.detach())


def _joined(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return torch.cat([one[0], other[0]]), torch.cat([one[1], other[1]])
