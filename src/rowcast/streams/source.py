"""The one protocol of all sources: a recorded file, a directory that grows, a topic of a broker."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from rowcast.streams.sample import Positions, Sample

__all__ = ["Source"]


@runtime_checkable
class Source(Protocol):
    """Where samples come from; pulled by one thread. A client that pushes has its thread inside.

    What is delivered is in order within each partition, and nothing is left out: what a source has to drop is counted
    in :attr:`dropped`, and what is gone for good (retention of a broker) is an error. The conformance suite is
    :func:`rowcast.testing.check_source`.
    """

    def open(self, positions: Positions | None = None) -> Positions:
        """Begin to deliver behind ``positions``.

        Args:
            positions: of every partition; one that is not in it is read from its start. ``None``: where the last
                :meth:`commit` was, where the source keeps that, otherwise from the start.

        Returns:
            where it begins.

        Raises:
            ConfigError: what it is told to read is not there, or not to be read.
            StreamGap: the samples behind ``positions`` are gone for good.
        """

    def take(self, at_most: int, timeout_s: float) -> list[Sample]:
        """The next samples: as soon as there is one; none once ``timeout_s`` seconds are over without any.

        Raises:
            SourceEnded: it has an end, and everything was delivered.
            StreamGap: samples are gone for good.
        """

    def commit(self, positions: Positions) -> None:
        """Everything up to ``positions`` is taken care of: an :meth:`open` without positions begins there.

        May be called again with the same; never moves back. A source that keeps nothing does nothing.
        """

    def lag(self) -> int | None:
        """Samples that are there and were not delivered yet; ``None`` where the source cannot tell."""

    def close(self) -> None:
        """Let go of everything; a second call does nothing."""

    @property
    def trouble(self) -> str:
        """What it waits for, for people: 'no broker answers at 10.0.0.1:9092'; empty while nothing is wrong."""

    @property
    def dropped(self) -> Mapping[str, int]:
        """How many samples it did not deliver, by reason."""
