"""Samples that wait for their turn: kept all, or truncated (ScaDLES; algorithms.md 13.2)."""

from __future__ import annotations

import itertools
import re
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass

from rowcast.config import as_number
from rowcast.errors import ConfigError, near_match
from rowcast.streams.sample import Sample

__all__ = ["MOST_BYTES", "Buffer", "BufferRule", "parse_buffer"]

#: Bytes that a buffer holds at most.
MOST_BYTES = 1 << 30


@dataclass(frozen=True)
class BufferRule:
    """What of a stream is kept until it is trained on.

    Attributes:
        seconds: keep what comes in so many seconds; ``None``: not limited by time.
        count: keep so many samples; ``None``: not limited by number. Neither: persistence, everything is kept.
    """

    seconds: float | None = None
    count: int | None = None

    def __str__(self) -> str:
        if self.seconds is not None:
            return f"truncate:{self.seconds:g}s"
        return "persist" if self.count is None else f"truncate:{self.count}"

    @property
    def truncates(self) -> bool:
        """Whether old samples give way to new ones."""
        return self.seconds is not None or self.count is not None

    def keeps(self, rate: float | None) -> float:
        """Samples that are kept behind a step, at a rate of so many samples a second; not yet known: all."""
        if self.count is not None:
            return self.count
        if self.seconds is None or rate is None:
            return float("inf")
        return max(1, int(rate * self.seconds + 1e-9))


def parse_buffer(text: str) -> BufferRule:
    """Read ``persist``, ``truncate:1s`` (what one second brings) or ``truncate:500`` (samples).

    Raises:
        ConfigError: something else.
    """
    name, colon, value = text.strip().partition(":")
    if name == "persist" and not colon:
        return BufferRule()
    if name == "truncate":
        seconds = as_number(value.removesuffix("s")) if value.endswith("s") else None
        if seconds is not None and 0 < seconds <= 86_400:
            return BufferRule(seconds=seconds)
        if re.fullmatch(r"[1-9][0-9]{0,8}", value):
            return BufferRule(count=int(value))
        raise ConfigError(f"buffer {text}: expected truncate:SECONDSs above 0, as truncate:1s, or truncate:SAMPLES")
    raise ConfigError(f"buffer {text!r} is unknown; {near_match(name, ('persist', 'truncate:1s', 'truncate:500'))}")


class Buffer:
    """Samples in the order in which they came; taken from the front.

    A rule that truncates holds, at every moment, at most what it keeps and the batch that is being gathered: what is
    older gives way as soon as something newer arrives. A rule that persists drops nothing: :attr:`room` says when no
    more is to be taken from the source, which then keeps what follows.

    Args:
        rule: what is kept.
        most_bytes: of all samples together; a rule that truncates drops beyond it, too, but none of those that the
            batch needs that is being gathered.

    Attributes:
        dropped: samples that were not trained on, by reason.
        bytes: of the samples in here.
    """

    def __init__(self, rule: BufferRule, most_bytes: int = MOST_BYTES) -> None:
        self.rule = rule
        self.dropped: Counter[str] = Counter()
        self.bytes = 0
        self._most_bytes = most_bytes
        self._queue: deque[tuple[float, Sample]] = deque()

    def __len__(self) -> int:
        return len(self._queue)

    @property
    def room(self) -> bool:
        """Whether more may be taken from the source."""
        return self.rule.truncates or self.bytes < self._most_bytes

    def put(
        self,
        now: float,
        samples: Iterable[Sample],
        rate: float | None,
        batch: int,
        times_s: Iterable[float] | None = None,
    ) -> list[Sample]:
        """Samples arrive; returns those that gave way to them.

        Args:
            now: time (s); kept as the moment from which their age counts.
            rate: of the stream (samples/s), where it is known.
            batch: samples of the batch that is being gathered.
            times_s: from when the age of each sample counts, where it came before ``now``.
        """
        for at, sample in zip(itertools.repeat(now) if times_s is None else times_s, samples, strict=False):
            self._queue.append((at, sample))
            self.bytes += sample.size
        if not self.rule.truncates:
            return []
        gone = self._cut(self.rule.keeps(rate) + batch, "truncated")
        while self.bytes > self._most_bytes and len(self._queue) > max(batch, 1):
            gone.append(self._drop("memory"))
        return gone

    def take(self, now: float, count: int) -> tuple[list[Sample], float]:
        """The oldest ``count`` samples, and how long they have waited on average (s)."""
        taken, waited_s = [], 0.0
        for _ in range(min(count, len(self._queue))):
            arrived, sample = self._queue.popleft()
            self.bytes -= sample.size
            waited_s += max(now - arrived, 0.0)
            taken.append(sample)
        return taken, waited_s / max(len(taken), 1)

    def truncate(self, rate: float | None, batch: int = 0) -> list[Sample]:
        """Drop what is beyond the rule, the oldest first; what was dropped.

        Args:
            rate: of the stream (samples/s), where it is known.
            batch: samples that are about to be taken, and are kept in any case.
        """
        return self._cut(max(self.rule.keeps(rate), batch), "truncated") if self.rule.truncates else []

    def _cut(self, keep: float, why: str) -> list[Sample]:
        return [self._drop(why) for _ in range(max(len(self._queue) - int(min(keep, len(self._queue))), 0))]

    def _drop(self, why: str) -> Sample:
        _, sample = self._queue.popleft()
        self.bytes -= sample.size
        self.dropped[why] += 1
        return sample
