"""What is an outage: silence for longer than a worker's own usual."""

from __future__ import annotations

import math
from bisect import insort
from collections import deque

__all__ = ["UsualInterval"]


class UsualInterval:
    """How regularly something goes on, and for how long its silence is nothing unusual.

    No fixed time-out fits both a link that carries a model in a second and one that needs a minute: what is usual is
    what this one did lately.

    Attributes:
        since: when it last went on (s).
    """

    MEMORY = 64
    #: So many intervals tell what is usual.
    ENOUGH = 8
    QUANTILE = 0.95
    #: Silence beyond the usual that nobody takes for an outage: as much again, at most this (s); and how much counts
    #: before anything is known.
    GRACE_S = 2.0
    UNKNOWN_S = 10.0

    def __init__(self, now: float) -> None:
        self.since = now
        self._intervals: deque[float] = deque()
        self._ordered: list[float] = []

    def advanced(self, now: float) -> None:
        """It went on."""
        interval = now - self.since
        self.since = now
        self._intervals.append(interval)
        insort(self._ordered, interval)
        if len(self._intervals) > self.MEMORY:
            self._ordered.remove(self._intervals.popleft())

    @property
    def known(self) -> bool:
        """Whether enough intervals were seen to tell what is usual."""
        return len(self._ordered) >= self.ENOUGH

    @property
    def limit_s(self) -> float:
        """Silence for longer than this is an outage (s)."""
        if not self.known:
            return self.UNKNOWN_S
        usual_s = self._ordered[math.ceil(self.QUANTILE * len(self._ordered)) - 1]
        return usual_s + min(usual_s, self.GRACE_S)

    def overdue_at(self) -> float:
        """When its silence becomes an outage (s)."""
        return self.since + self.limit_s
