"""The task ``motion``: robots learn together which way digits move."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from rowcast.metric import Metric
from rowcast.streams import Sample
from rowcast.tasks.base import Task, TaskSettings, TaskWorker
from rowcast.tasks.cruda import dirichlet_shards, load_dataset
from rowcast.tasks.items import labelled
from rowcast.tasks.motion.clips import DIRECTIONS, moving, opposite
from rowcast.tasks.motion.models import MotionNet
from rowcast.tasks.motion.settings import MotionSettings
from rowcast.tasks.saved import Labelled

__all__ = ["MotionTask"]

#: Clips ``(n, frames, 1, side, side)`` float32 and directions ``(n,)`` int64.
Batch: TypeAlias = tuple[Tensor, Tensor]

_BLOCK = 64
"""Clips that are made at a time."""
_EVALUATION_BATCH = 64
"""Clips of one forward pass of an evaluation; few enough that their maps stay in the cache of a small CPU."""

# Streams of random numbers.
_STREAM, _TESTS, _SHARDS = range(3)


class MotionTask(Task):
    """Digits of scikit-learn that move over a frame in one of eight directions, and come in again where they left.

    The start is uniform and so is the place in every frame, whatever the direction: one frame says nothing. What tells
    is the order. Each robot has digits of its own, in a mixture of its own (as in CRUDA); the directions are uniform
    everywhere. Test clips are of 500 images that no robot sees, in all directions equally often.

    Measured by ``accuracy``, the share of test clips whose direction is told (chance: 12.5 %), and ``axis_accuracy``,
    where the opposite direction counts as well (chance: 25 %): what could be told of the frames without their order.

    Source of the models: J. Lin, C. Gan, S. Han, "TSM: Temporal Shift Module for Efficient Video Understanding", ICCV
    2019; see :class:`MotionNet`.
    """

    metrics = (Metric("accuracy", "%", "higher"), Metric("axis_accuracy", "%", "higher"))
    Settings: ClassVar[type[TaskSettings]] = MotionSettings
    name: ClassVar[str] = "motion"

    def __init__(self, settings: TaskSettings) -> None:
        super().__init__(settings)
        data = load_dataset("digits")
        self._images, self._digits = _pixels(data.train_images), data.train_labels
        count = self.settings.test_clips
        images = _pixels(data.test_images)[np.arange(count) % len(data.test_images)]
        rng = self.rng(_TESTS)
        directions = rng.permutation(np.arange(count) % len(DIRECTIONS))
        self._tests: Batch = (self._clips(images, directions, rng), torch.from_numpy(directions))

    def make_model(self) -> MotionNet:
        settings = self.settings
        return MotionNet(settings.model, len(DIRECTIONS), channels=settings.channels, blocks=settings.blocks)

    def make_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.Adam(model.parameters(), lr=self.settings.lr)

    def shards(self, workers: int) -> list[NDArray[np.int64]]:
        """The numbers of the training images of each of ``workers`` workers; see :func:`dirichlet_shards`.

        Raises:
            ConfigError: more workers than images.
        """
        rng = self.rng(_SHARDS, workers)
        return dirichlet_shards(self._digits, workers, alpha=self.settings.alpha, minimum=1, rng=rng)

    @classmethod
    def check(cls, options: Mapping[str, Any], *, data_dir: str | Path | None = None, workers: int = 1) -> None:
        task = cls.build(options, data_dir=data_dir)
        assert isinstance(task, MotionTask)
        task.shards(workers)

    @classmethod
    def limit_tests(cls, options: Mapping[str, Any], items: int) -> dict[str, Any]:
        return {**options, "test_clips": min(items, options.get("test_clips", items))}

    def samples(self, index: int, workers: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Clip ``(frames, 1, side, side)`` and direction of one after the other, without an end.

        Raises:
            ConfigError: ``index`` is not below ``workers``, or there are more workers than images.
        """
        self.check_index(index, workers)
        shard = self.shards(workers)[index]
        return self._samples(shard, self.rng(_STREAM, workers, index))

    def batches(self, index: int, workers: int) -> Iterator[Batch]:
        """:meth:`samples` in batches of the settings' size."""
        samples = self.samples(index, workers)
        while True:
            yield self.collate(list(itertools.islice(samples, self.settings.batch)))

    def collate(self, samples: Sequence[tuple[Tensor, Tensor]]) -> Batch:
        clips, directions = zip(*samples, strict=True)
        return torch.stack(clips), torch.stack(directions)

    def decode(self, sample: Sample) -> tuple[Tensor, Tensor]:
        """Clip and direction, as :func:`rowcast.tasks.pack_item` writes them.

        Raises:
            DataError: something else, or of another shape.
        """
        settings = self.settings
        shape = (settings.frames, 1, settings.side, settings.side)
        return labelled(super().decode(sample), shape, len(DIRECTIONS))

    def class_names(self) -> tuple[str, ...]:
        return DIRECTIONS

    def labelled_tests(self) -> Labelled:
        """The test clips."""
        return Labelled(*self._tests, DIRECTIONS)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        clips, directions = batch
        return functional.cross_entropy(model(clips), directions)

    def evaluate(self, worker: TaskWorker) -> dict[str, float]:
        clips, directions = self._tests
        told = torch.cat([worker.model(part).argmax(dim=1) for part in torch.split(clips, _EVALUATION_BATCH)])
        right, reverse = told == directions, told == opposite(directions)
        values = (100.0 * float(each.double().mean()) for each in (right, right | reverse))
        return {metric.name: value for metric, value in zip(self.metrics, values, strict=True)}

    def _samples(self, shard: NDArray[np.int64], rng: np.random.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            directions = rng.integers(0, len(DIRECTIONS), _BLOCK)
            clips = self._clips(self._images[rng.choice(shard, _BLOCK)], directions, rng)
            yield from zip(clips, torch.from_numpy(directions), strict=True)

    def _clips(self, images: NDArray[np.float32], directions: NDArray[np.int64], rng: np.random.Generator) -> Tensor:
        """Clips as the model takes them: with noise, then to mean 0 and deviation 1, about."""
        settings = self.settings
        starts = rng.integers(0, settings.side, (len(images), 2))
        clips = moving(images, directions, starts, frames=settings.frames, side=settings.side, speed=settings.speed)
        noise = settings.noise * rng.standard_normal(clips.shape, dtype=np.float32)
        return torch.from_numpy((clips + noise - _MEAN) / _DEVIATION)


#: Mean and deviation of the pixels of a frame of 16 x 16 from 0 to 1; about, since they need not be exact.
_MEAN, _DEVIATION = np.float32(0.075), np.float32(0.25)


def _pixels(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Images ``(n, 8, 8)`` from 0 to 1."""
    pixels: NDArray[np.float32] = images[:, 0].astype(np.float32) / np.float32(255)
    return pixels
