"""A curve of bounded size: its newest points as they came, and all of the run in bins that grow wider."""

from __future__ import annotations

from array import array

__all__ = ["BINS", "RECENT", "Curve"]

#: Newest points that are kept as they came.
RECENT = 1024
#: Bins of the whole run. When the last one is full, neighbours are merged: between half of them and all are in use.
BINS = 512
#: Seconds that a bin is wide at first.
FIRST_WIDTH_S = 0.25


class Curve:
    """A value over time, in the same memory however long it gets.

    Args:
        start: time at which the first bin begins (s).

    Attributes:
        total: points that were added, ever.
        width_s: how wide a bin is (s), a power of two times :data:`FIRST_WIDTH_S`.
    """

    __slots__ = ("_counts", "_sums", "_times", "_used", "_values", "start", "total", "width_s")

    def __init__(self, start: float) -> None:
        self.start = start
        self.total = 0
        self.width_s = FIRST_WIDTH_S
        self._times = array("d")
        self._values = array("d")
        self._sums = array("d", bytes(8 * BINS))
        self._counts = array("L", bytes(array("L").itemsize * BINS))
        self._used = 0

    def add(self, t: float, value: float) -> None:
        """One point; ``value`` is a finite number, and ``t`` (s) may be a little before that of another point."""
        if self.total < RECENT:
            self._times.append(t)
            self._values.append(value)
        else:
            place = self.total % RECENT
            self._times[place] = t
            self._values[place] = value
        self.total += 1
        place = int((t - self.start) / self.width_s)
        while place >= BINS:
            self._widen()
            place = int((t - self.start) / self.width_s)
        place = max(place, 0)
        self._sums[place] += value
        self._counts[place] += 1
        if place >= self._used:
            self._used = place + 1

    def _widen(self) -> None:
        half = BINS // 2
        sums, counts = self._sums, self._counts
        for place in range(half):
            sums[place] = sums[2 * place] + sums[2 * place + 1]
            counts[place] = counts[2 * place] + counts[2 * place + 1]
        for place in range(half, BINS):
            sums[place] = counts[place] = 0
        self._used = (self._used + 1) // 2
        self.width_s *= 2

    @property
    def newest(self) -> tuple[float, float] | None:
        """Time and value of the last point; ``None`` before the first."""
        if not self.total:
            return None
        place = (self.total - 1) % RECENT
        return self._times[place], self._values[place]

    def recent(self, behind: int = 0) -> tuple[list[float], list[float]]:
        """Times and values of the newest points, the oldest first, of those after the first ``behind`` ever added."""
        count = min(self.total - behind, self.total, RECENT)
        places = [place % RECENT for place in range(self.total - count, self.total)]
        return [self._times[place] for place in places], [self._values[place] for place in places]

    def whole(self) -> tuple[list[float], list[float]]:
        """Middle of each bin that holds a point (s), and the mean of its points."""
        places = [place for place in range(self._used) if self._counts[place]]
        middles = [self.start + (place + 0.5) * self.width_s for place in places]
        return middles, [self._sums[place] / self._counts[place] for place in places]
