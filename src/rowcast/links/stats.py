"""What a bandwidth trace is like, in the words in which published traces are described.

How a *change* is counted: going through the trace, each moment at which the rate differs by the given
share or more from the rate at the last counted change (at first: from the first rate) is a change, and
becomes the new reference. The mean time between changes is the length of the trace over their number.
Counted this way, the outdoor record of the ROG artifact gives the 1.0 s and 1.4 s that its
``outdoors_stats.json`` states for 20 % and 40 %.

The *autocorrelation time* is the first lag at which the autocorrelation of the rate is no more than 1/e,
interpolated between lags. The autocorrelation is taken over one pass, not around the end of a loop, about
the mean of the whole pass, ``sum_t x(t) x(t + k) / sum_t x(t)^2``, on a grid of the median step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["MOST_STEPS", "TraceStats", "autocorrelation", "measure", "on_grid"]

FloatArray = npt.NDArray[np.float64]

#: A grid over a trace has at most so many steps.
MOST_STEPS = 1 << 18


@dataclass(frozen=True)
class TraceStats:
    """Statistics of one pass through a trace; shares and percentiles are of time, not of steps."""

    mean_bps: float  #: mean rate, bit/s
    p5_bps: float  #: the rate is at or below this for 5 % of the time; and so on
    p25_bps: float
    p50_bps: float
    p75_bps: float
    p95_bps: float
    best_bps: float  #: highest rate
    low_bps: float  #: what counts as low in the next two
    share_low: float  #: share of time below ``low_bps``
    low_episodes_s: tuple[float, ...]  #: length of each unbroken stretch below ``low_bps``, in order
    share_zero: float  #: share of time at rate 0
    change_20_s: float  #: mean seconds between changes of 20 % or more; inf if there are none
    change_40_s: float  #: mean seconds between changes of 40 % or more; inf if there are none
    autocorrelation_s: float  #: the autocorrelation of the rate falls to 1/e in so many seconds; inf if it never does


def measure(lengths_s: FloatArray, rates_bps: FloatArray, low_bps: float | None = None) -> TraceStats:
    """Statistics of the steps ``rates_bps`` (bit/s) that last ``lengths_s`` (s); both of shape ``(n,)``.

    ``low_bps`` defaults to 5 % of the best rate.
    """
    total_s = float(lengths_s.sum())
    best = float(rates_bps.max())
    low = 0.05 * best if low_bps is None else float(low_bps)
    order = np.argsort(rates_bps, kind="stable")
    until = np.cumsum(lengths_s[order]) / total_s
    at = [min(int(np.searchsorted(until, share)), len(order) - 1) for share in (0.05, 0.25, 0.50, 0.75, 0.95)]
    p5, p25, p50, p75, p95 = (float(rates_bps[order[index]]) for index in at)
    return TraceStats(
        mean_bps=float((rates_bps * lengths_s).sum()) / total_s,
        p5_bps=p5,
        p25_bps=p25,
        p50_bps=p50,
        p75_bps=p75,
        p95_bps=p95,
        best_bps=best,
        low_bps=low,
        share_low=float(lengths_s[rates_bps < low].sum()) / total_s,
        low_episodes_s=_episodes(lengths_s, rates_bps < low),
        share_zero=float(lengths_s[rates_bps == 0].sum()) / total_s,
        change_20_s=_time_between_changes(rates_bps, total_s, 0.20),
        change_40_s=_time_between_changes(rates_bps, total_s, 0.40),
        autocorrelation_s=_autocorrelation_time(*on_grid(lengths_s, rates_bps)),
    )


def on_grid(lengths_s: FloatArray, rates_bps: FloatArray) -> tuple[FloatArray, float]:
    """The mean rates (bit/s) over equal steps, and their length (s), which is that of the median step.

    Steps are longer where there would be more than :data:`MOST_STEPS`; what does not fill a step at the end is left
    out. Equal steps stay as they are.
    """
    step_s = float(np.median(lengths_s))
    if np.allclose(lengths_s, step_s, rtol=1e-6, atol=0.0) and len(lengths_s) <= MOST_STEPS:
        return rates_bps, step_s
    edges_s = np.concatenate(([0.0], np.cumsum(lengths_s)))
    steps = min(max(int(edges_s[-1] / step_s + 1e-6), 1), MOST_STEPS)
    step_s = max(step_s, float(edges_s[-1]) / steps) if steps == MOST_STEPS else step_s
    passed = np.concatenate(([0.0], np.cumsum(lengths_s * rates_bps)))
    return np.diff(np.interp(np.arange(steps + 1) * step_s, edges_s, passed)) / step_s, step_s


def autocorrelation(values: FloatArray) -> FloatArray:
    """Autocorrelation at lags ``0, 1, ..., n - 1`` of values of shape ``(n,)``; zeros if they are all the same."""
    centred = values - values.mean()
    if not np.ptp(values) > 0:
        return np.zeros(len(values))
    spectrum = np.fft.rfft(centred, 2 * len(values))
    sums: FloatArray = np.fft.irfft(np.abs(spectrum) ** 2, 2 * len(values))[: len(values)]
    sums /= sums[0]
    return sums


def _autocorrelation_time(values: FloatArray, step_s: float) -> float:
    correlation = autocorrelation(values)
    below = np.flatnonzero(correlation <= 1 / math.e)
    if not correlation[0] or not below.size:
        return math.inf
    lag = int(below[0])
    before, after = float(correlation[lag - 1]), float(correlation[lag])
    return step_s * (lag - 1 + (before - 1 / math.e) / (before - after))


def _episodes(lengths_s: FloatArray, low: npt.NDArray[np.bool_]) -> tuple[float, ...]:
    edges = np.flatnonzero(np.diff(np.concatenate(([False], low, [False])).astype(np.int8)))
    starts_s = np.concatenate(([0.0], np.cumsum(lengths_s)))
    return tuple((starts_s[edges[1::2]] - starts_s[edges[::2]]).tolist())


def _time_between_changes(rates_bps: FloatArray, total_s: float, share: float) -> float:
    reference, changes = float(rates_bps[0]), 0
    for rate in rates_bps.tolist():
        if rate != reference and abs(rate - reference) >= share * reference:
            reference, changes = rate, changes + 1
    return total_s / changes if changes else math.inf
