"""What a bandwidth trace is like, in the words in which published traces are described.

How a *change* is counted: going through the trace, each moment at which the rate differs by the given
share or more from the rate at the last counted change (at first: from the first rate) is a change, and
becomes the new reference. The mean time between changes is the length of the trace over their number.
Counted this way, the outdoor record of the ROG artifact gives the 1.0 s and 1.4 s that its
``outdoors_stats.json`` states for 20 % and 40 %.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["TraceStats", "measure"]

FloatArray = npt.NDArray[np.float64]


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
    )


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
