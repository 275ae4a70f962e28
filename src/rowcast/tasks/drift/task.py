"""What tasks whose world drifts have in common: a small model, single samples, test then train."""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from rowcast.errors import ConfigError, SourceEnded
from rowcast.metric import Metric
from rowcast.streams import Sample
from rowcast.tasks.base import Task, TaskSettings, TaskWorker
from rowcast.tasks.drift.settings import DriftSettings
from rowcast.tasks.drift.worker import DriftWorker
from rowcast.tasks.items import labelled

__all__ = ["Batch", "DriftTask"]

#: Inputs ``(n, features)`` float32, and targets: classes ``(n,)`` int64, or values ``(n, outputs)`` float32.
Batch: TypeAlias = tuple[Tensor, Tensor]


class DriftTask(Task):
    """A stream whose world drifts, and a small model that follows it. Derive from it for a stream of your own.

    Here, samples belong to classes; what is measured are percents that are right. Whoever predicts values overrides
    :meth:`losses`, :meth:`scores` and :attr:`metrics`.

    Attributes:
        name: of the task, for messages.
        features, outputs: numbers that the model takes and gives.
    """

    #: Test then train, over all that came so far; and the model as it is, over the whole stream, which shows what it
    #: forgot. In this order.
    metrics = (Metric("prequential_accuracy", "%", "higher"), Metric("stream_accuracy", "%", "higher"))
    Settings: ClassVar[type[TaskSettings]] = DriftSettings
    name: ClassVar[str]
    features: int
    outputs: int

    @abstractmethod
    def samples(self, index: int, workers: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Input ``(features,)`` and target of one sample after the other, as robot ``index`` of ``workers`` sees them.

        Raises:
            ConfigError: ``index`` is not below ``workers``, or the stream is too short for so many robots.
        """

    @abstractmethod
    def whole(self, workers: int) -> Batch:
        """All of the stream of all robots, or what stands for it: on this the second metric is measured."""

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The loss of each sample ``(n,)``: the cross-entropy."""
        return functional.cross_entropy(outputs, targets, reduction="none")

    def scores(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """What the metrics are the mean of, for each sample ``(n,)``: 100 where it is right, otherwise 0."""
        return 100.0 * (outputs.argmax(dim=1) == targets)

    def make_model(self) -> nn.Module:
        sizes = [self.features, *self.settings.hidden]
        layers = [layer for pair in itertools.pairwise(sizes) for layer in (nn.Linear(*pair), nn.ReLU())]
        return nn.Sequential(*layers, nn.Linear(sizes[-1], self.outputs))

    def make_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), lr=self.settings.lr, momentum=self.settings.momentum)

    @classmethod
    def check(cls, options: Mapping[str, Any], *, data_dir: str | Path | None = None, workers: int = 1) -> None:
        task = cls.build(options, data_dir=data_dir)
        for index in range(workers):
            task.samples(index, workers)

    def worker(self, index: int, workers: int) -> DriftWorker:
        self.check_index(index, workers)
        return DriftWorker(self, index, workers)

    def batches(self, index: int, workers: int) -> Iterator[Batch]:
        """The samples in batches of the settings' size; the last one may be smaller."""
        samples = self.samples(index, workers)
        return self._batches(samples, f"task {self.name}: robot {index} of {workers}")

    def collate(self, samples: Sequence[tuple[Tensor, Tensor]]) -> Batch:
        inputs, targets = zip(*samples, strict=True)
        return torch.stack(inputs), torch.stack(targets)

    def decode(self, sample: Sample) -> tuple[Tensor, Tensor]:
        """Input and target, as :func:`rowcast.tasks.pack_item` writes them.

        Raises:
            DataError: something else, or of another shape.
        """
        return labelled(super().decode(sample), (self.features,), self.outputs)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        inputs, targets = batch
        return self.losses(model(inputs), targets).mean()

    def evaluate(self, worker: TaskWorker) -> dict[str, float]:
        if not isinstance(worker, DriftWorker):
            raise ConfigError(f"task {self.name}: expected a DriftWorker, got {type(worker).__name__}")
        inputs, targets = self.whole(worker.workers)
        values = (worker.prequential(), float(self.scores(worker.model(inputs), targets).mean()))
        return {metric.name: value for metric, value in zip(self.metrics, values, strict=True)}

    def _batches(self, samples: Iterator[tuple[Tensor, Tensor]], whose: str) -> Iterator[Batch]:
        count = 0
        while chunk := list(itertools.islice(samples, self.settings.batch)):
            count += len(chunk)
            yield self.collate(chunk)
        raise SourceEnded(f"{whose}: its stream is over, after {count} samples")
