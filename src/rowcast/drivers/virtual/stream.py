"""The stream of a robot in virtual time: its samples arrive by the clock, its training loop waits for batches.

No event is spent on a sample. Whenever somebody looks, what has come since the last look is put into the queue, each
sample with the moment at which it came.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np

from rowcast.drivers.virtual.gifts import Gifts
from rowcast.drivers.virtual.worker import VirtualWorker
from rowcast.errors import SourceEnded
from rowcast.streams import Feed, FeedBatch, RateTrace, Sample

__all__ = ["VirtualStream"]

#: The rate is measured, and the queue cut, in steps of so many seconds.
_LUMP_S = 0.1
#: While a batch is gathered the server is told of the stream, and the share looked at, so often (s).
_LOOK_S = 0.25
#: Samples that are drawn ahead at most; of those behind only their number is known.
_MOST_AHEAD = 4096
#: Rounding: a time that was waited for may be this much later (s).
_TICK_S = 1e-6


class VirtualStream:
    """Feeds a worker.

    Args:
        worker: whose training loop asks for batches.
        feed: gathers them.
        arrivals: when samples come, from the start of the team on; ``None``: there are always as many as are wanted.
        samples: what comes, in order; ends with ``StopIteration`` or ``SourceEnded``.
        sample_bytes: of one sample.
        gifts: what the robots of the team give each other; ``None``: nothing.
        index: which robot this is, from 0.

    Attributes:
        arrived: samples that have come.
        trained: its own samples of all batches.
    """

    def __init__(
        self,
        worker: VirtualWorker,
        feed: Feed,
        arrivals: RateTrace | None,
        samples: Iterator[Any],
        *,
        sample_bytes: int,
        gifts: Gifts | None = None,
        index: int = 0,
    ) -> None:
        self._feed = feed
        self.arrived = self.trained = 0
        self._worker, self._arrivals = worker, arrivals
        self._drawer = _Drawer(samples)
        self._sample_bytes = sample_bytes
        self._gifts, self._index = gifts, index
        self._batches = 0
        self._flows = False
        worker.feed()

    @property
    def queued(self) -> int:
        """Samples that wait, as of the last look."""
        return len(self._feed.buffer)

    @property
    def dropped(self) -> int:
        """Samples that gave way to newer ones."""
        return sum(self._feed.buffer.dropped.values())

    def next(self) -> list[Any]:
        """The samples of the next batch; the training loop waits until it can begin, and its gradient begins then.

        Raises:
            SourceEnded: the stream is over, and everything was given.
        """
        worker = self._worker
        worker.end_gradient()
        while (batch := self._look(worker.now)) is None:
            if self._feed.ended:
                raise SourceEnded(f"{worker.name}: the stream is over after {self.arrived} samples")
            worker.wait_until(max(self._worth_a_look(worker.now), worker.now + _TICK_S))
        return self._begin(batch)

    def look(self) -> None:
        """Put what has come until now into the queue."""
        now, feed = self._worker.now, self._feed
        if not self._flows:
            self._flows = True
            feed.arrived(now, ())
        due = self._due(now)
        while self.arrived < due and feed.room(now):
            count = min(due - self.arrived, _MOST_AHEAD)
            known = self._drawer.known(self.arrived + count) - self.arrived
            if known > 0:
                self._put(now, known)
            if known < count:
                break
        feed.arrived(now, ())
        feed.ended = self.arrived >= self._drawer.total

    # -- gathering ---------------------------------------------------------------------------------------------

    def _look(self, now: float) -> FeedBatch | None:
        """The next batch, if one can begin now."""
        self.look()
        worker, feed = self._worker, self._feed
        rule = feed.rule
        if rule.shares_by:
            worker.supply(rule, feed.supply(now))
            feed.told(worker.share, worker.members, worker.team_rate)
            if self._arrivals is None:
                self.look()  # as many as are wanted by now
        return feed.take(now)

    def _worth_a_look(self, now: float) -> float:
        """When a batch may begin, or something else may have changed by then (s)."""
        feed = self._feed
        wanted = self._drawer.known(self.arrived + feed.missing(now))
        comes = now
        if wanted > self.arrived and self._arrivals is not None:
            comes = self._arrivals.time_of(wanted - 1)
        begins = max(comes, feed.begins_at(now))
        return min(begins, now + _LOOK_S) if feed.rule.shares_by else begins

    def _due(self, now: float) -> int:
        """Samples that have come until ``now``."""
        if self._arrivals is None:
            return self.arrived + self._feed.missing(now)
        return self._arrivals.count_until(now)

    def _put(self, now: float, count: int) -> None:
        """The next ``count`` samples are here: in lumps, so that each meets the rate and the queue of its moment."""
        if self._arrivals is None:
            times = np.full(count, now)
        else:
            times = np.minimum(self._arrivals.times_of(self.arrived, count), now)
        ends = np.flatnonzero(np.diff(np.floor(times / _LUMP_S))) + 1
        for own in np.split(times, ends):
            first = self.arrived + 1
            samples = [Sample("", first + k, at, None, self._sample_bytes) for k, at in enumerate(own.tolist())]
            self._feed.arrived(float(own[-1]), samples, own.tolist())
            self.arrived += len(samples)

    # -- a batch -----------------------------------------------------------------------------------------------

    def _begin(self, batch: FeedBatch) -> list[Any]:
        """A batch begins: with what others gave, and some of it is given to others."""
        worker, gifts = self._worker, self._gifts
        samples = self._drawn(batch)
        own = len(samples)
        self.trained += own
        exposed = 0
        if gifts is not None:
            received = gifts.take(self._index, own)
            given = gifts.give(self._batches, self._index, samples)
            exposed = given * (gifts.robots - 1)
            samples += received
            # Each sample goes up once, and from the server down to each of the others.
            worker.burden(given * self._sample_bytes, len(received) * self._sample_bytes)
        self._batches += 1
        worker.node.fed(
            len(samples),
            batch.starve_s,
            batch.queued,
            batch.dropped,
            batch.age_s,
            exposed,
            exposed * self._sample_bytes,
        )
        worker.begin_gradient(len(samples))
        return samples

    def _drawn(self, batch: FeedBatch) -> list[Any]:
        """What the samples of a batch are; of a queue so long that its end was not known, those that there are."""
        found: list[Any] = []
        for sample in batch.samples:
            try:
                found.append(self._drawer.at(sample.position))
            except SourceEnded:
                self._feed.ended = True
                if not found:
                    raise
                break
        return found


class _Drawer:
    """Samples by their position, drawn from an iterator: not all that wait are in memory.

    Args:
        samples: the first has position 1.

    Attributes:
        total: how many there are; infinite as long as that is not known.
    """

    def __init__(self, samples: Iterator[Any]) -> None:
        self._samples = samples
        self._ahead: deque[Any] = deque()
        self._passed = 0  # samples before those that are drawn ahead
        self.total: float = math.inf

    def known(self, upto: int) -> int:
        """``upto``, or how many samples there are, where it is known that there are fewer."""
        while self._passed + len(self._ahead) < upto and len(self._ahead) < _MOST_AHEAD and self._draw():
            pass
        return int(min(upto, self.total))

    def at(self, position: int) -> Any:
        """A sample; what is before it is not asked for any more.

        Raises:
            SourceEnded: there are fewer.
        """
        while True:
            if not self._ahead and not self._draw():
                raise SourceEnded(f"the stream is over after {self._passed} samples")
            payload = self._ahead.popleft()
            self._passed += 1
            if self._passed == position:
                return payload

    def _draw(self) -> bool:
        """Whether there was one more."""
        if self.total < math.inf:
            return False
        try:
            self._ahead.append(next(self._samples))
        except (StopIteration, SourceEnded):
            self.total = self._passed + len(self._ahead)
            return False
        return True
