"""What stands between a source and a training loop: samples come in, batches go out. No clock, no thread."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rowcast.streams.batch import BatchRule, Held
from rowcast.streams.buffer import MOST_BYTES, Buffer, BufferRule
from rowcast.streams.rates import RateMeter
from rowcast.streams.sample import Positions, Sample

__all__ = ["Feed", "FeedBatch"]

#: Who waits for so many times as long as the team's streams take to bring a batch is late.
_LATE = 1.5


@dataclass(frozen=True)
class FeedBatch:
    """A batch, and what it was like to wait for it.

    Attributes:
        samples: the oldest first.
        starve_s: seconds from the moment at which it was wanted.
        age_s: mean seconds from the arrival of a sample until now.
        queued: the most samples that waited at one time since the batch before.
        dropped: samples that were not trained on since the batch before.
        positions: behind everything that is in this batch or was before it.
    """

    samples: Sequence[Sample]
    starve_s: float
    age_s: float
    queued: int
    dropped: int
    positions: Positions


class Feed:
    """Gathers batches of a stream.

    Args:
        batch: when how many samples make a batch.
        buffer: what is kept until then.
        most_bytes: of all waiting samples, as far as a batch takes no more.
        positions: where the stream begins.

    Attributes:
        share: this worker's share of the team's batch (samples); ``None``: all of it.
        positions: behind everything that was taken or dropped.
        ended: nothing follows; what is left is the last batch, however little it is.
    """

    def __init__(
        self,
        batch: BatchRule,
        buffer: BufferRule | None = None,
        *,
        most_bytes: int = MOST_BYTES,
        positions: Positions | None = None,
    ) -> None:
        self.rule = batch
        self.buffer = Buffer(buffer or BufferRule(), most_bytes)
        self.share: int | None = None
        self.positions = positions or Positions()
        self.ended = False
        self._meter = RateMeter()
        self._since = math.nan
        self._wanted_at: float | None = None
        self._left = 0
        self._window_s = math.inf
        self._most_queued = 0
        self._dropped = 0

    def told(self, share: int | None, members: int, team_rate: float) -> None:
        """What the server has told of the team's batch.

        Args:
            share: samples of it that are this worker's; ``None``, before it did: an equal share.
            members: workers that share it then.
            team_rate: samples a second of all who share it; 0: not known.
        """
        equal = min(self.rule.total // max(members, 1), self.rule.most or self.rule.total)
        self.share = max(equal, 1) if share is None else share
        self._window_s = self.rule.total / team_rate if team_rate > 0 else math.inf

    def rate(self, now: float) -> float | None:
        """Of the stream (samples/s); ``None`` while nobody can know."""
        return self._meter.rate(now)

    def supply(self, now: float) -> float | None:
        """What the next batch can draw on: the rate, and beside it what the last batch has left, used up in a second.

        So who holds more than its share takes more of the team's next batch, and nobody's queue stays long while
        another one's is empty.
        """
        rate = self.rate(now)
        return None if rate is None else rate + self._left

    def arrived(self, now: float, samples: Sequence[Sample], times_s: Sequence[float] | None = None) -> None:
        """Samples have arrived; none says that time has passed. The stream begins with the first call.

        Args:
            now: time (s).
            samples: the oldest first.
            times_s: when each of them came, where that was before ``now``.
        """
        if math.isnan(self._since):
            self._since = now
        self._meter.arrived(times_s[0] if times_s else now, len(samples))
        gone = self.buffer.put(now, samples, self.rate(now), self.rule.gathers(self._held(now)), times_s)
        self._pass(gone)
        self._most_queued = max(self._most_queued, len(self.buffer))

    def take(self, now: float) -> FeedBatch | None:
        """The next batch, if one can begin; otherwise it is wanted from now on."""
        if self._wanted_at is None:
            self._wanted_at = now
        held = self._held(now)
        if self.ended:
            if not held.queued:
                return None
        elif held.queued < self.rule.needs(held) or now < self.rule.begins_at(held):
            return None
        count = self.rule.takes(held)
        self._pass(self.buffer.truncate(self.rate(now), count))
        samples, age_s = self.buffer.take(now, count)
        self.positions = self.positions.behind(samples)
        self._pass(self.buffer.truncate(self.rate(now)))
        dropped = sum(self.buffer.dropped.values())
        batch = FeedBatch(
            samples,
            max(now - self._wanted_at, 0.0),
            age_s,
            max(self._most_queued, held.queued),
            dropped - self._dropped,
            self.positions,
        )
        self._since, self._wanted_at = now, None
        self._left = len(self.buffer)
        self._dropped, self._most_queued = dropped, len(self.buffer)
        return batch

    def room(self, now: float) -> bool:
        """Whether more may be taken from the source: there is room, or a batch cannot begin without."""
        return self.buffer.room or self.missing(now) > 0

    def missing(self, now: float) -> int:
        """Samples that have to come before a batch can begin."""
        held = self._held(now)
        return max(self.rule.needs(held) - held.queued, 0)

    def begins_at(self, now: float) -> float:
        """Until when it has to wait even if all samples are there (s)."""
        return self.rule.begins_at(self._held(now))

    def _held(self, now: float) -> Held:
        since = now if math.isnan(self._since) else self._since
        return Held(len(self.buffer), self.rate(now), since, self.share, now - since > _LATE * self._window_s)

    def _pass(self, gone: Sequence[Sample]) -> None:
        if gone:
            self.positions = self.positions.behind(gone)
