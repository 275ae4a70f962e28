"""How late packets were: a histogram that costs nothing to add to."""

from __future__ import annotations

import math

__all__ = ["Lateness"]

#: Width of a bin (s), and how many; what is later than all of them is in the last one.
BIN_S = 1e-6
BINS = 100_000


class Lateness:
    """Counts times in bins of a microsecond, up to a tenth of a second.

    Attributes:
        count: how many were added.
        most_s: the longest (s).
    """

    def __init__(self) -> None:
        self.count = 0
        self.most_s = 0.0
        self._bins = [0] * BINS

    def add(self, late_s: float) -> None:
        """One more; a time below 0 counts as 0."""
        self.count += 1
        if late_s > self.most_s:
            self.most_s = late_s
        place = int(late_s * 1e6)
        self._bins[place if 0 <= place < BINS else (BINS - 1 if place > 0 else 0)] += 1

    def quantile_s(self, share: float) -> float:
        """So large a share was no later (s), to a microsecond; NaN if nothing was added."""
        if not self.count:
            return math.nan
        wanted, seen = share * self.count, 0
        for place, number in enumerate(self._bins):
            seen += number
            if number and seen >= wanted:
                # The last bin has no end of its own.
                return self.most_s if place == BINS - 1 else min((place + 1) * BIN_S, self.most_s)
        return self.most_s

    def summary(self) -> dict[str, float | None]:
        """Median, 99th percentile and maximum in seconds; ``None`` where nothing was added."""
        if not self.count:
            return {"p50_s": None, "p99_s": None, "max_s": None}
        return {"p50_s": self.quantile_s(0.5), "p99_s": self.quantile_s(0.99), "max_s": self.most_s}
