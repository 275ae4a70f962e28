"""Time and energy of a team until it keeps a level of a metric, and which levels are asked for."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from rowcast.energy import CensoredValue, any_censored, smoothed
from rowcast.energy.reaching import HOLD
from rowcast.metric import Metric
from rowcast.report.curves import Curve, metric_over
from rowcast.report.intervals import interval
from rowcast.report.measures import energy_to, is_share, time_to
from rowcast.report.table import BOUNDS, Table, Value, bounds, table_of
from rowcast.report.values import Groups, Run

__all__ = ["bounded", "evenly", "spacing", "target_table"]

#: Significant digits of a target, of metrics that are no shares.
_DIGITS = 3


def target_table(groups: Groups, metric: Metric) -> Table:
    """Time and energy of the team until it keeps a level of a metric.

    The targets come from the runs: the best level that all of them kept, and the best that all seeds of one policy
    kept, rounded to the worse side: shares to 0.1 %, all else to three digits. A run that never kept it gives a lower
    bound; a mean over bounds is a bound, and has no interval. Without enough measurements there are no rows.
    """
    unit = {"": "", "%": "_percent"}.get(metric.unit, f"_{metric.unit}")
    columns = (f"{metric.name}{unit}", "policy", "until_then", "bound", *BOUNDS)
    every_s = spacing(groups, metric)
    curves = {policy: [evenly(run, metric, every_s) for run in runs] for policy, runs in groups.items()}
    if not curves or any(len(curve.along) < HOLD for own in curves.values() for curve in own):
        return table_of(columns, ())
    kept = [min(_kept(curve, metric) for curve in own) for own in curves.values()]
    levels = [level for level in (min(kept), max(kept)) if math.isfinite(level)]
    targets = sorted({_rounded_down(level, metric) for level in levels})
    return table_of(
        columns,
        (
            row
            for target in targets
            for policy, runs in groups.items()
            for row in _reached(policy, runs, curves[policy], metric, metric.sign * target + 0.0)
        ),
    )


def spacing(groups: Groups, metric: Metric) -> float:
    """Seconds between two measurements, the same for all: a moving average over them is one over time only then.

    It is what the runs were told, or else the widest that any robot came to.
    """
    told = [run.settings.get("eval_every_s") for runs in groups.values() for run in runs]
    numbers = [float(each) for each in told if isinstance(each, int | float) and each > 0]
    if numbers and len(numbers) == len(told):
        return max(numbers)
    robots = [robot for runs in groups.values() for run in runs for robot in run.robots]
    times = [robot.measured[metric.name].times_s for robot in robots if metric.name in robot.measured]
    return max((float(np.diff(own).mean()) for own in times if len(own) > 1), default=1.0)


def evenly(run: Run, metric: Metric, every_s: float) -> Curve:
    """The team's metric at multiples of ``every_s``, wherever all robots have been."""
    return (metric_over(run, metric, "time") or Curve(np.empty(0), np.empty(0))).every(every_s)


def _kept(curve: Curve, metric: Metric) -> float:
    """The best smoothed level that a run kept for as long as counts, times the metric's sign: more is better.

    Minus infinity where each stretch has a value that is not a number.
    """
    values = metric.sign * smoothed(curve.values)
    held = np.lib.stride_tricks.sliding_window_view(np.nan_to_num(values, nan=-math.inf), HOLD).min(axis=1)
    return float(held.max())


def _rounded_down(level: float, metric: Metric) -> float:
    """The next round number that is no better than the level, so that whoever kept the level kept this as well."""
    digits = 1 if is_share(metric) else _DIGITS - 1 - math.floor(math.log10(abs(level))) if level else 0
    scale = 10.0**digits
    whole = math.floor(level * scale + 1e-9)
    found = round(whole / scale, digits)
    return found if found <= level else round((whole - 1) / scale, digits)


def _reached(
    policy: str, runs: Sequence[Run], curves: Sequence[Curve], metric: Metric, target: float
) -> Iterator[tuple[Value, ...]]:
    times = [time_to(curve, metric, target) for curve in curves]
    joules = [energy_to(run, curve, metric, target) for run, curve in zip(runs, curves, strict=True)]
    for name, values in (("seconds", times), ("joules of the team", joules)):
        yield target, policy, name, *bounded(values)


def bounded(values: Sequence[CensoredValue]) -> tuple[Value, ...]:
    """'>' or nothing, and the mean with its interval; a mean of which one part is a bound is one, and has none."""
    mean, low, high, count = bounds(interval([each.value for each in values]))
    return (">", mean, None, None, count) if any_censored(values) else ("", mean, low, high, count)
