"""What a stream is like: figures of the samples that a source has delivered."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from rowcast.streams import Positions, Sample

__all__ = ["StreamStats"]

WINDOW_S = 1.0


class _Times:
    """Rates and gaps of samples by one kind of time."""

    def __init__(self) -> None:
        self.first_s = self.last_s = math.nan
        self.gap_s = 0.0
        self.back = 0
        self._windows: Counter[int] = Counter()

    def add(self, time_s: float) -> None:
        if math.isnan(self.first_s):
            self.first_s = self.last_s = time_s
        self.back += time_s < self.last_s
        self.gap_s = max(self.gap_s, time_s - self.last_s)
        self.last_s = max(self.last_s, time_s)
        self._windows[math.floor((time_s - self.first_s) / WINDOW_S)] += 1

    @property
    def span_s(self) -> float:
        return self.last_s - self.first_s

    def rates(self) -> tuple[float | None, float | None, float | None]:
        """Samples a second: mean, lowest and highest of the whole windows; ``None`` while that cannot be told."""
        if not self.span_s > 0:
            return None, None, None
        mean, whole = (sum(self._windows.values()) - 1) / self.span_s, math.floor(self.span_s / WINDOW_S)
        if not whole:
            return mean, None, None
        counts = [number for window, number in self._windows.items() if 0 <= window < whole]
        lowest = min(counts) if len(counts) == whole else 0
        return mean, lowest / WINDOW_S, max(counts, default=0) / WINDOW_S


class StreamStats:
    """Figures of a stream. Windows of a second begin with the first sample.

    Rates and gaps are by the samples' own times, or, where they have none, by the moments of their arrival.
    """

    def __init__(self) -> None:
        self.samples = 0
        self.positions = Positions()
        self._bytes = self._most_bytes = 0
        self._own, self._arrival = _Times(), _Times()

    def add(self, now: float, samples: Sequence[Sample]) -> None:
        """Take in what came at ``now`` (s)."""
        for sample in samples:
            self._own.add(sample.time_s)
            self._arrival.add(now)
            self._bytes += sample.size
            self._most_bytes = max(self._most_bytes, sample.size)
        self.samples += len(samples)
        self.positions = self.positions.behind(samples)

    def figures(self) -> dict[str, Any]:
        """The figures by name; ``None`` for what cannot be told.

        ``samples``, ``times`` (own or arrival), ``seconds`` from the first to the last, ``rate_mean``, ``rate_lowest``
        and ``rate_highest`` (samples a second), ``largest_gap_s``, ``times_back`` (how often a time lies before an
        earlier one), ``bytes_mean`` and ``bytes_most`` of a sample in memory, ``positions``.
        """
        own = self._own.span_s > 0
        times = self._own if own else self._arrival
        mean, lowest, highest = times.rates()
        return {
            "samples": self.samples,
            "times": "own" if own else "arrival",
            "seconds": times.span_s if self.samples else None,
            "rate_mean": mean,
            "rate_lowest": lowest,
            "rate_highest": highest,
            "largest_gap_s": times.gap_s if self.samples > 1 else None,
            "times_back": times.back,
            "bytes_mean": self._bytes / self.samples if self.samples else None,
            "bytes_most": self._most_bytes if self.samples else None,
            "positions": dict(self.positions),
        }
