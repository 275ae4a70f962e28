"""What the sources that are pulled have in common: being open or not, waiting, and counting what they drop."""

from __future__ import annotations

import abc
import logging
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType

from rowcast.errors import ConfigError, LocalProtocolError, visible
from rowcast.streams import Positions, Sample

__all__ = ["Drops", "PulledSource"]

log = logging.getLogger("rowcast")

#: Seconds between two looks at what may have grown.
POLL_S = 0.02


class Drops:
    """How many samples were dropped, by reason; the first of each reason is shown in the log.

    Args:
        name: of the source, for the log.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._counts: dict[str, int] = {}

    def count(self, reason: str, what: str, samples: int = 1, level: int = logging.WARNING) -> None:
        """Count some.

        Args:
            reason: for the table of counts; few different ones.
            what: the first of them, for people.
            samples: how many; none is nothing to tell.
            level: of the line in the log.
        """
        if not samples:
            return
        if reason not in self._counts:
            log.log(
                level,
                "source %s: dropped, and from now on only counted: %s: %s",
                visible(self._name), visible(reason), visible(what, 200),
            )  # fmt: skip
        self._counts[reason] = self._counts.get(reason, 0) + samples

    @property
    def counts(self) -> Mapping[str, int]:
        """The counts by reason, not to be changed."""
        return MappingProxyType(self._counts)


class PulledSource(abc.ABC):
    """A source whose samples are fetched when they are asked for; :class:`rowcast.streams.Source` but for the fetching.

    It keeps no commits. After :meth:`close` it can be opened again.

    Args:
        name: for messages.
        clock: seconds that only grow.
        pause: waits for so many seconds; tests give a clock and a pause of their own.
    """

    def __init__(
        self,
        name: str,
        *,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self.name = name
        self._clock, self._pause = clock, pause
        self._latest = self._back = 0.0
        self._is_open = False
        self._drops = Drops(name)
        self._trouble = ""

    def open(self, positions: Positions | None = None) -> Positions:
        """Begin to deliver behind ``positions``; see :class:`rowcast.streams.Source`."""
        if self._is_open:
            raise LocalProtocolError(f"source {self.name}: open: it is open already; close it first")
        self._drops, self._trouble = Drops(self.name), ""
        self._latest, self._back = self._clock(), 0.0
        try:
            begin = self._begin(Positions() if positions is None else positions)
        except BaseException:
            self._end()
            raise
        self._is_open = True
        return begin

    def take(self, at_most: int, timeout_s: float) -> list[Sample]:
        """The next samples; see :class:`rowcast.streams.Source`."""
        self._check_open("take")
        if at_most < 1:
            raise ConfigError(f"source {self.name}: take: expected 1 sample or more, got {at_most}")
        samples = self._next(at_most)
        if samples or timeout_s <= 0:
            return samples
        until = self._now() + timeout_s
        while not samples:
            left = until - self._now()
            if left <= 0:
                break
            self._pause(min(left, self._patience_s()))
            samples = self._next(at_most)
        return samples

    def commit(self, positions: Positions) -> None:
        """Nothing: whoever reads keeps the positions."""
        self._check_open("commit")

    def lag(self) -> int | None:
        """Samples that are there and were not delivered yet; ``None`` where it cannot tell."""
        self._check_open("lag")
        return self._left()

    def close(self) -> None:
        """Let go of everything; a second call does nothing."""
        if self._is_open:
            self._is_open = False
            self._end()

    @property
    def trouble(self) -> str:
        """What is wrong, for people; empty while nothing is."""
        return self._trouble

    @property
    def dropped(self) -> Mapping[str, int]:
        """How many samples it did not deliver since it was opened, by reason."""
        return self._drops.counts

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {visible(self.name)}>"

    @abc.abstractmethod
    def _begin(self, positions: Positions) -> Positions:
        """Open what is read and go behind ``positions``; returns where it begins."""

    @abc.abstractmethod
    def _next(self, at_most: int) -> list[Sample]:
        """What is there, without waiting.

        Raises:
            SourceEnded: everything was delivered, and there will be no more.
        """

    @abc.abstractmethod
    def _end(self) -> None:
        """Let go of everything that :meth:`_begin` opened, also if it only came half the way."""

    def _left(self) -> int | None:
        """The lag, where it can be told."""
        return None

    def _patience_s(self) -> float:
        """Seconds to wait before the next look."""
        return POLL_S

    def _now(self) -> float:
        """Seconds that never go back, whatever the clock does."""
        now = self._clock() + self._back
        if now < self._latest:
            if not self._back:
                log.warning(
                    "source %s: the clock went back by %.3g s; it goes on as if it had not",
                    visible(self.name), self._latest - now,
                )  # fmt: skip
            self._back += self._latest - now
            now = self._latest
        self._latest = now
        return now

    def _troubled(self, text: str) -> None:
        """Say what is wrong, once."""
        if not self._trouble:
            self._trouble = visible(text)
            log.warning("source %s: %s", visible(self.name), self._trouble)

    def _check_open(self, what: str) -> None:
        if not self._is_open:
            raise LocalProtocolError(f"source {self.name}: {what}: it is not open; call open() first")
