"""A profile that is like a recorded trace: the model of :mod:`rowcast.links.synth`, fitted by moments.

How it is done, in the order of the steps. Nothing is left to chance: the same trace gives the same profile.

1. The rates are put on a grid of the trace's median step (:func:`rowcast.links.stats.on_grid`).
2. **States.** *outage*: at most :data:`OUTAGE_SHARE` of the 95th percentile. What is above is *good*, or *good* and
   *poor* if its logarithms fall into two heaps: the split that separates them best (Otsu, IEEE Trans. SMC, 1979) is
   kept if the means of its sides are :data:`SPLIT` standard deviations within the sides and a factor of 2 apart, and
   each side has :data:`LEAST_SHARE` of the time. (A normal distribution, split in the middle, has 2.6, an even one
   3.5.) A link goes over to the other state when its rate has come half of the way from the split to that side's
   mean, so that it does not flicker between the two.
3. **Time scales.** The logarithm of the rate, less the mean of its state, is a level that holds for a visit plus a
   ripple. Its autocorrelation within the stays in a state, at lags ``t`` on a logarithmic scale, is compared with
   ``s exp(-t / T) + (1 - s) max(0, 1 - t / L)``; least squares over a grid give the ripple's share ``s`` of the
   variance, its time ``T`` and the length ``L`` of a visit.
4. **Visits and turns.** A stay in a state that is longer than ``L`` is cut into about ``stay / L`` equal visits. The
   turns are counted (around the end, since a trace starts again), a state may so follow itself. The length of a visit
   is a log-normal time between the shortest and the longest seen, of the spread seen, and its median is set so that
   the mean is the mean seen: then each state has its share of the time.
5. **Rates.** Level and ripple share the variance of the logarithm in a state as ``1 - s`` and ``s``; rates are kept
   in the range seen; the median is set so that the mean rate of the state is the mean seen.
6. **Calibration.** Recorded changes are rarely normal: many are small and a few are large, so that equal variance does
   not make equal times between changes. Synthetic traces (seed 0) are made for :data:`RIPPLES` of the ripple (the
   level takes over its part of the variance) and :data:`TIMES` of ``T``; kept is the pair whose time between changes
   of 20 % and 40 % and whose autocorrelation time come nearest to the source, by the sum of the absolute logarithms
   of their ratios.

What is not kept: any order beyond one turn, a trend, the shape of the distribution within a state beyond mean, spread
and range. How near a synthesised trace comes to its source is tested in ``tests/test_links_fit.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from rowcast.errors import TraceError
from rowcast.links.stats import FloatArray, TraceStats, on_grid
from rowcast.links.synth import LinkState, MarkovProfile, stay_s, synthesise
from rowcast.links.trace import Trace

__all__ = ["LEAST_FALL", "LEAST_SHARE", "LEAST_STEPS", "OUTAGE_SHARE", "SPLIT", "fit"]

#: A rate of at most this share of the 95th percentile is an outage.
OUTAGE_SHARE = 1e-3
#: Good and poor are two states if their means are so many standard deviations apart.
SPLIT = 4.0
#: ... and that far in the logarithm: poor is half of good or less.
LEAST_FALL = math.log(2)
#: A state has at least this share of the time that is not outage.
LEAST_SHARE = 0.02
#: A trace of fewer steps is too short to be fitted.
LEAST_STEPS = 20

#: Tried in step 6.
RIPPLES = (1.0, 0.8, 0.6, 0.4, 0.2)
TIMES = (1.0, 2.0, 4.0)

_TRIAL_STEPS = 2000
_LAGS = 40  # compared in step 3
_GRID = 28  # candidates for each time of step 3
_QUANTILES = (np.arange(128) + 0.5) / 128
_NORMAL_QUANTILES = np.array([NormalDist().inv_cdf(quantile) for quantile in _QUANTILES.tolist()])

IntArray = npt.NDArray[np.int64]


def fit(trace: Trace, name: str = "") -> MarkovProfile:
    """The kind of link that ``trace`` is one record of; see this module's text.

    Args:
        trace: at least :data:`LEAST_STEPS` steps; :meth:`~rowcast.links.Trace.cut` it if it has no end.
        name: of the profile; default ``"like NAME"``.

    Raises:
        TraceError: the trace has no end, is too short, or carries nothing at all.

    >>> from rowcast.links import outdoor
    >>> [state.name for state in fit(outdoor(1)).states]
    ['good', 'poor']
    """
    if math.isinf(trace.duration_s) or len(trace.rates_bps) < LEAST_STEPS or not trace.rates_bps.any():
        raise TraceError(
            f"trace {trace.name!r}: cannot be fitted; expected an end, {LEAST_STEPS} steps or more and a rate above 0,"
            f" got {trace.duration_s:g} s, {len(trace.rates_bps)} steps and at most {trace.rates_bps.max():g} bit/s"
        )
    rates, step_s = on_grid(np.diff(np.append(trace.times_s, trace.duration_s)), trace.rates_bps)
    names, labels = _states(rates)
    logs = np.log(np.where(rates > 0, rates, 1.0))
    runs = _runs(labels)
    share, ripple_steps, visit_steps = _time_scales(logs, labels, runs, names)
    visits = [piece for run in runs for piece in _pieces(run, visit_steps)]
    states = tuple(
        _state(
            state,
            rates[labels == index],
            np.array([length for label, _, length in visits if label == index]) * step_s,
            share,
            step_s,
        )
        for index, state in enumerate(names)
    )
    turns = np.zeros((len(names), len(names)))
    for (label, *_), (after, *_) in zip(visits, visits[1:] + visits[:1], strict=True):
        turns[label, after] += 1
    turns /= turns.sum(axis=1, keepdims=True)
    profile = MarkovProfile(
        name=name or f"like {trace.name}",
        cap_bps=float(rates.max()),
        states=states,
        turns=tuple(tuple(row) for row in turns.tolist()),
        step_s=step_s,
        ripple_time_s=ripple_steps * step_s,
        low_states=frozenset(names) - {names[0]},
    )
    return _calibrated(profile, trace.stats(), len(rates) * step_s)


def _calibrated(profile: MarkovProfile, source: TraceStats, duration_s: float) -> MarkovProfile:
    """Step 6."""
    length_s = min(max(duration_s, _TRIAL_STEPS * profile.step_s), 4 * _TRIAL_STEPS * profile.step_s)
    best, least = profile, math.inf
    for part in RIPPLES:
        states = tuple(_with_ripple(state, part) for state in profile.states)
        for times in TIMES:
            trial = replace(profile, states=states, ripple_time_s=times * profile.ripple_time_s)
            found = synthesise(trial, 0, length_s).stats()
            error = sum(
                abs(math.log(min(mine, length_s) / min(wanted, length_s)))
                for mine, wanted in (
                    (found.change_20_s, source.change_20_s),
                    (found.change_40_s, source.change_40_s),
                    (found.autocorrelation_s, source.autocorrelation_s),
                )
            )
            if error < least:
                best, least = trial, error
    return best


def _with_ripple(state: LinkState, part: float) -> LinkState:
    """The same spread in all, but with so much of the ripple."""
    ripple = part * state.ripple
    return replace(
        state, ripple=ripple, level_spread=math.sqrt(state.level_spread**2 + state.ripple**2 - ripple * ripple)
    )


Run = tuple[int, int, int]  # label, first step, number of steps


def _states(rates: FloatArray) -> tuple[tuple[str, ...], IntArray]:
    """The names of the states that occur, the best first, and for each step the place of its state."""
    outage = rates <= OUTAGE_SHARE * np.percentile(rates, 95)
    logs = np.sort(np.log(rates[~outage]))
    labels = np.zeros(len(rates), dtype=np.int64)
    names = ["good"]
    limit = _split(logs)
    if limit is not None:
        low, split, high = limit
        values = np.log(np.maximum(rates, math.exp(logs[0])))
        sure = np.where(values >= (split + high) / 2, 0, np.where(values <= (split + low) / 2, 1, -1))
        since = np.maximum.accumulate(np.where(sure >= 0, np.arange(len(rates)), -1))
        labels = np.where(since >= 0, sure[since], (values <= split).astype(np.int64))
        names.append("poor")
    if outage.any():
        labels[outage] = len(names)
        names.append("outage")
    return tuple(names), labels


def _split(logs: FloatArray) -> tuple[float, float, float] | None:
    """If sorted values fall into two heaps: the mean of the lower, where they part, the mean of the upper."""
    count = len(logs)
    below = np.arange(1, count)
    sums = np.cumsum(logs)
    squares = np.cumsum(logs * logs)
    low, high = sums[:-1] / below, (sums[-1] - sums[:-1]) / (count - below)
    spread = squares[-1] - low * low * below - high * high * (count - below)  # sum of squares within the sides
    allowed = (np.minimum(below, count - below) >= LEAST_SHARE * count) & (np.diff(logs) > 0)
    if not allowed.any():
        return None
    at = int(np.argmin(np.where(allowed, spread, math.inf)))
    if high[at] - low[at] < max(SPLIT * math.sqrt(max(spread[at], 0.0) / count), LEAST_FALL):
        return None
    return float(low[at]), float(logs[at] + logs[at + 1]) / 2, float(high[at])


def _runs(labels: IntArray) -> list[Run]:
    starts = np.concatenate(([0], np.flatnonzero(np.diff(labels)) + 1, [len(labels)])).tolist()
    return [(int(labels[start]), start, end - start) for start, end in pairwise(starts)]


def _pieces(run: Run, visit_steps: float) -> list[Run]:
    label, start, length = run
    edges = np.linspace(0, length, max(1, round(length / visit_steps)) + 1).round().astype(int).tolist()
    return [(label, start + a, b - a) for a, b in pairwise(edges)]


def _time_scales(
    logs: FloatArray, labels: IntArray, runs: list[Run], names: tuple[str, ...]
) -> tuple[float, float, float]:
    """Step 3: the ripple's share of the variance, its time and the length of a visit, both in steps."""
    rest = logs.copy()
    run_of = np.empty(len(logs), dtype=np.int64)
    for index, (label, start, length) in enumerate(runs):
        run_of[start : start + length] = -1 if names[label] == "outage" else index
    for index in range(len(names)):
        rest[labels == index] -= logs[labels == index].mean()
    rest[run_of < 0] = 0.0
    variance = float((rest * rest)[run_of >= 0].mean())
    longest = max((length for label, _, length in runs if names[label] != "outage"), default=1)
    if variance <= 0 or longest < 4:
        return 1.0, 1.0, float(max(longest, 1))
    lags = np.unique(np.geomspace(1, max(longest // 2, 2), _LAGS).round().astype(int))
    seen = []
    for lag in lags.tolist():
        together = (run_of[:-lag] == run_of[lag:]) & (run_of[lag:] >= 0)
        seen.append(float((rest[:-lag] * rest[lag:])[together].mean()) / variance if together.any() else 0.0)
    found = np.array(seen)
    best = (math.inf, 1.0, 1.0, float(longest))
    for ripple in np.geomspace(0.3, longest / 2, _GRID).tolist():
        fast = np.exp(-lags / ripple)
        for visit in np.geomspace(3.0, 2.0 * longest, _GRID).tolist():
            slow = np.maximum(0.0, 1.0 - lags / visit)
            apart = fast - slow
            share = min(max(float(apart @ (found - slow)) / float(apart @ apart), 0.0), 1.0)
            error = float(((found - slow - share * apart) ** 2).sum())
            if error < best[0]:
                best = (error, share, ripple, visit)
    return best[1], best[2], best[3]


def _state(name: str, rates: FloatArray, stays_s: FloatArray, share: float, step_s: float) -> LinkState:
    """Steps 4 and 5 for one state."""
    shortest, longest = float(stays_s.min()), float(stays_s.max())
    spread = max(float(np.log(stays_s).std()), 0.05)

    def stay(median_s: float) -> float:
        state = LinkState(name, 0.0, 0.0, 0.0, 0.0, 0.0, median_s, spread, shortest, longest)
        return float(np.mean([max(1, round(stay_s(state, at) / step_s)) for at in _QUANTILES.tolist()])) * step_s

    stay_median_s = _solve(stay, float(stays_s.mean()), shortest, longest)
    if name == "outage":
        return LinkState(name, 0.0, 0.0, 0.0, 0.0, 0.0, stay_median_s, spread, shortest, longest)
    lowest, highest = float(rates.min()), float(rates.max())
    deviation = float(np.log(rates).std())

    def mean(median_bps: float) -> float:
        return float(np.clip(median_bps * np.exp(deviation * _NORMAL_QUANTILES), lowest, highest).mean())

    return LinkState(
        name,
        median_bps=_solve(mean, float(rates.mean()), lowest, highest),
        level_spread=deviation * math.sqrt(1.0 - share),
        ripple=deviation * math.sqrt(share),
        lowest_bps=lowest,
        highest_bps=highest,
        stay_median_s=stay_median_s,
        stay_spread=spread,
        shortest_s=shortest,
        longest_s=longest,
    )


def _solve(rising: Callable[[float], float], wanted: float, low: float, high: float) -> float:
    """Where a rising function is ``wanted``, or the nearer end."""
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) < wanted else (low, middle)
    return (low + high) / 2
