"""Robots of a run in virtual time whose batches a rule makes, of the samples of their task."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from rowcast.drivers.virtual import Gifts, VirtualStream, VirtualWorker
from rowcast.errors import ConfigError, SourceEnded
from rowcast.experiment.feeding import Feeding, find_streams
from rowcast.streams import BatchRule, BufferRule, Feed, parse_batch, parse_buffer, parse_injection
from rowcast.tasks import Task, TaskWorker

__all__ = ["FedWorker", "Feeder"]


class FedWorker:
    """The batches of one robot.

    Attributes:
        rule: when how many samples make one, and how much it counts.
    """

    def __init__(self, task: Task, rule: BatchRule, stream: VirtualStream) -> None:
        self.rule = rule
        self._task, self._stream = task, stream

    def compute(self, robot: TaskWorker) -> tuple[float, int]:
        """Wait for the next batch and compute its gradient; the loss, and how many samples it is of.

        Raises:
            SourceEnded: the stream is over.
        """
        samples = self._stream.next()
        return robot.compute_on(self._task.collate(samples)), len(samples)


class Feeder:
    """The streams of a team.

    Args:
        task: gives the samples.
        feeding: how they come.
        workers: robots of the team.
        seed: of what is drawn.
    """

    def __init__(self, task: Task, feeding: Feeding, workers: int, seed: int) -> None:
        self._task, self._workers = task, workers
        self._rule = parse_batch(feeding.batch)
        self._buffer = parse_buffer(feeding.buffer) if feeding.buffer else BufferRule()
        rates = find_streams(feeding.rates).team(workers, seed) if feeding.rates else None
        self._arrivals = [None] * workers if rates is None else rates
        injection = parse_injection(feeding.inject) if feeding.inject else None
        self._gifts = None if injection is None else Gifts(injection, workers, seed)

    def stream(self, worker: VirtualWorker, index: int) -> FedWorker:
        """That of one robot, from now on its worker's.

        Raises:
            ConfigError: it has no sample at all.
        """
        samples, size = _measured(self._task.samples(index, self._workers), self._task, index)
        stream = VirtualStream(
            worker,
            Feed(self._rule, self._buffer),
            self._arrivals[index],
            samples,
            sample_bytes=size,
            gifts=self._gifts,
            index=index,
        )
        return FedWorker(self._task, self._rule, stream)


def _measured(samples: Iterator[Any], task: Task, index: int) -> tuple[Iterator[Any], int]:
    """The same samples, and the bytes of the first."""
    try:
        first = next(samples)
    except (StopIteration, SourceEnded):
        raise ConfigError(f"task {type(task).__name__}: samples: robot {index} has none at all") from None
    return itertools.chain([first], samples), task.sample_bytes(first)
