"""How fast samples come: measured from arrivals, and given as a rate over time."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from rowcast.errors import ConfigError

__all__ = ["RateMeter", "RateTrace"]

Array = npt.NDArray[np.float64]

#: A rate is measured over so many seconds, as far as there are so many.
WINDOW_S = 5.0
#: Arrivals within so many seconds count as one entry, so that memory does not grow with the rate.
_GRAIN_S = 0.1
#: The first look is after so many seconds: the rate of the first sample alone means nothing.
_FIRST_S = 0.5
#: Keeps the last sample of a turn out of the next one, which may begin with silence, however many turns have passed.
_LESS = 1 - 1e-15


class RateMeter:
    """Samples a second over a sliding window, from the times at which they arrived.

    Args:
        window_s: length of the window (s).

    A time before the last one (a clock that goes back) counts as the last one.
    """

    def __init__(self, window_s: float = WINDOW_S) -> None:
        self._window_s = window_s
        self._entries: deque[tuple[float, int]] = deque()
        self._in_window = 0
        self._since: float | None = None
        self._latest = -math.inf

    def arrived(self, now: float, samples: int) -> None:
        """``samples`` have arrived at ``now`` (s); 0 says that time has passed without any."""
        now = self._latest = max(now, self._latest)
        if self._since is None:
            self._since = now  # what is there at the first look came at an unknown rate
            return
        if not samples:
            return
        if self._entries and now - self._entries[-1][0] < _GRAIN_S:
            at, before = self._entries.pop()
            self._entries.append((at, before + samples))
        else:
            self._entries.append((now, samples))
        self._in_window += samples
        self._forget(now)

    def rate(self, now: float) -> float | None:
        """Samples a second; ``None`` while nobody can know."""
        now = max(now, self._latest)
        if self._since is None or now - self._since < min(_FIRST_S, self._window_s):
            return None
        self._forget(now)
        return self._in_window / min(now - self._since, self._window_s)

    def _forget(self, now: float) -> None:
        while self._entries and self._entries[0][0] <= now - self._window_s:
            self._in_window -= self._entries.popleft()[1]


class RateTrace:
    """A rate that is constant between given times: when each sample comes follows from it, without chance.

    Sample ``k`` (from 0) comes when the rate, summed up from time 0, reaches ``k + 1``.

    Args:
        times_s: where each rate begins (s), ascending, the first 0.
        rates: samples a second from there on, finite, 0 or more.
        period_s: the trace begins again after so many seconds; ``None``: the last rate goes on.

    Raises:
        ConfigError: values that are no such trace, or a trace without any sample.
    """

    def __init__(self, times_s: Sequence[float], rates: Sequence[float], period_s: float | None = None) -> None:
        times, values = np.asarray(times_s, np.float64), np.asarray(rates, np.float64)
        if times.ndim != 1 or times.shape != values.shape or not len(times):
            raise ConfigError(f"rate trace: expected as many times as rates, got {times.shape} and {values.shape}")
        if times[0] != 0 or not np.all(np.diff(times) > 0) or not np.all(np.isfinite(times)):
            raise ConfigError("rate trace: expected times that begin with 0 and ascend")
        if not np.all(np.isfinite(values) & (values >= 0)):
            raise ConfigError("rate trace: expected finite rates of 0 or more samples a second")
        if period_s is not None and not times[-1] < period_s < math.inf:
            raise ConfigError(f"rate trace: expected a period behind the last time {times[-1]:g} s, got {period_s!r}")
        if (values[-1] if period_s is None else values.max()) <= 0:
            raise ConfigError("rate trace: expected samples, got a rate that stays 0")
        self._times, self._rates, self._period_s = times, values, period_s
        lengths = np.diff(times if period_s is None else np.append(times, period_s))
        self._counts = np.concatenate([[0.0], np.cumsum(lengths * values[: len(lengths)])])

    @classmethod
    def constant(cls, rate: float) -> RateTrace:
        """Always so many samples a second."""
        return cls([0.0], [rate])

    def rate_at(self, time_s: float) -> float:
        """Samples a second at ``time_s`` (0 or more)."""
        if self._period_s is not None:
            time_s %= self._period_s
        return float(self._rates[int(np.searchsorted(self._times, time_s, side="right")) - 1])

    def count_until(self, time_s: float) -> int:
        """Samples that have come until ``time_s`` (s), that moment included."""
        turns, rest = (0, time_s) if self._period_s is None else divmod(time_s, self._period_s)
        place = int(np.searchsorted(self._times, rest, side="right")) - 1
        inside = self._counts[place] + (rest - self._times[place]) * self._rates[place]
        # Rounding must not keep back the sample for whose moment somebody waits: time_of and this agree.
        return int(turns * self._per_turn + inside + 1e-6)

    def time_of(self, sample: int) -> float:
        """When sample ``sample`` (from 0) comes (s)."""
        wanted = float(sample + 1)
        turns = 0.0
        if self._period_s is not None:
            turns = max(math.ceil(wanted / self._per_turn * _LESS) - 1.0, 0.0)
            wanted = min(wanted - turns * self._per_turn, self._per_turn)
        place = int(np.searchsorted(self._counts, wanted, side="left")) - 1
        place = min(max(place, 0), len(self._rates) - 1)
        return float(
            turns * (self._period_s or 0.0) + self._times[place] + (wanted - self._counts[place]) / self._rates[place]
        )

    def times_of(self, first: int, count: int) -> Array:
        """When each of ``count`` samples from sample ``first`` on comes (s); float64 [count], as :meth:`time_of`."""
        wanted = np.arange(first + 1, first + count + 1, dtype=np.float64)
        turns = np.zeros(count)
        if self._period_s is not None:
            turns = np.maximum(np.ceil(wanted / self._per_turn * _LESS) - 1.0, 0.0)
            wanted = np.minimum(wanted - turns * self._per_turn, self._per_turn)
        places = np.clip(np.searchsorted(self._counts, wanted, side="left") - 1, 0, len(self._rates) - 1)
        inside: Array = self._times[places] + (wanted - self._counts[places]) / self._rates[places]
        return turns * (self._period_s or 0.0) + inside

    @property
    def _per_turn(self) -> float:
        return float(self._counts[-1])
