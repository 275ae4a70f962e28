"""What a robot computes on: its task's own batches, or samples that arrive from sources."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

from rowcast.errors import ConfigError, SourceEnded
from rowcast.experiment.settings import StreamSettings
from rowcast.loader import StreamLoader
from rowcast.optim import Optimizer
from rowcast.sources.joined import join_sources
from rowcast.sources.registry import make_source
from rowcast.streams import Source
from rowcast.tasks import TaskWorker

__all__ = ["Computed", "computing", "source_of", "streaming"]


@dataclass(frozen=True)
class Computed:
    """A gradient that is in the model's parameters.

    Attributes:
        loss: of its batch.
        samples: new samples of the batch; ``None``: as many as ever.
        busy_s: seconds of computation, without the wait for samples.
    """

    loss: float
    samples: int | None
    busy_s: float


def computing(robot: TaskWorker, loader: StreamLoader | None) -> Iterator[Computed]:
    """One gradient after the other, each when it is asked for.

    Raises:
        SourceEnded: the data are over, or the loader was stopped.
    """
    if loader is None:
        while True:
            began = time.monotonic()
            loss = robot.compute()
            yield Computed(loss, None, time.monotonic() - began)
    for batch in loader:
        began = time.monotonic()
        loss = robot.compute_on(batch)
        yield Computed(loss, loader.samples, time.monotonic() - began)
    raise SourceEnded("the samples are over")


def source_of(settings: StreamSettings | None) -> Source | None:
    """Where the samples of a robot come from; nothing is opened or connected yet. ``None``: it has data of its own.

    Raises:
        ConfigError: a text that stands for no source; or what becomes of samples is said, and not where they are from.
    """
    if settings is None:
        return None
    if not settings.sources:
        raise ConfigError(
            "batch, buffer and rehearsal say what becomes of samples that arrive, and no source is given: add --source "
            "SOURCE (in a file [robot.stream] sources), or leave them out; with its own data a task makes its batches "
            "as its options say"
        )
    return join_sources([make_source(text) for text in settings.sources])


@contextlib.contextmanager
def streaming(
    source: Source | None,
    settings: StreamSettings | None,
    robot: TaskWorker,
    optimizer: Optimizer,
    seconds: float | None,
) -> Iterator[StreamLoader | None]:
    """The loader of a robot whose samples arrive; ``None``: it has data of its own.

    Args:
        source: where samples come from, as :func:`source_of` has it.
        settings: what becomes of them.
        robot, optimizer: what is trained on them.
        seconds: the wait for samples ends after so long.
    """
    if source is None or settings is None:
        yield None
        return
    loader = StreamLoader(
        source,
        robot.task.decode,
        optimizer,
        batch=settings.batch,
        buffer=settings.buffer,
        rehearsal=settings.rehearsal,
        collate=robot.task.collate,
    )
    timer = None if seconds is None else threading.Timer(seconds, loader.stop)
    with loader:
        try:
            if timer is not None:
                timer.daemon = True
                timer.start()
            yield loader
        finally:
            if timer is not None:
                timer.cancel()
