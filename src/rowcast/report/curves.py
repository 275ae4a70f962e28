"""A metric of a team over a run, against steps, time or energy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from rowcast.errors import ConfigError
from rowcast.metric import Metric
from rowcast.report.values import Array, Run

__all__ = [
    "ALONG",
    "Along",
    "Curve",
    "common_grid",
    "increasing",
    "joules_at",
    "metric_at_equal_steps",
    "metric_over",
    "team_curve",
]

#: What a metric is drawn against: iterations, seconds, or joules that the robots have spent together.
Along = Literal["steps", "time", "energy"]
ALONG: tuple[Along, ...] = ("steps", "time", "energy")

#: Places of curves that are nearer to each other than this share of the whole are the same.
_SAME = 1e-9


@dataclass(frozen=True, eq=False)
class Curve:
    """A metric of a team: the mean over its robots, each with its own replica; arrays of one length."""

    along: Array  #: seconds, iterations or joules of the team
    values: Array  #: in the unit of the metric; not-a-number where one of the robots measured that

    def at(self, places: Array) -> Curve:
        """The curve at those of ``places`` (increasing) where all robots have been, straight lines between.

        A team has more places than its robots have measurements: each robot's measurement is one. A moving average
        over the places of two runs spans a different part of each; over the same places it does not.
        """
        if len(self.along) == 0:
            return self
        low, high = self.along[0], self.along[-1]
        slack = _SAME * max(abs(high), 1.0)
        inside = np.clip(places[(places >= low - slack) & (places <= high + slack)], low, high)
        return Curve(inside, np.interp(inside, self.along, self.values))

    def every(self, distance: float) -> Curve:
        """The curve at multiples of ``distance``; see :meth:`at`."""
        if len(self.along) == 0:
            return self
        return self.at(np.arange(math.ceil(self.along[-1] / distance) + 1) * distance)


def metric_over(run: Run, metric: Metric, along: Along) -> Curve | None:
    """A metric of the team against steps, time or energy; ``None`` if its robots have no place in common."""
    measured = [robot.measured[metric.name] for robot in run.robots if metric.name in robot.measured]
    if len(measured) < len(run.robots):
        return None
    if along == "steps":
        return team_curve([(each.iterations, each.values) for each in measured])
    curve = team_curve([(each.times_s, each.values) for each in measured])
    if curve is None or along == "time":
        return curve
    return Curve(joules_at(run, curve.along), curve.values)


def joules_at(run: Run, times_s: Array) -> Array:
    """J of the whole team until these times (s since the start), the server left out: float64 [times]."""
    each = [robot.energy.joules_at(times_s) for robot in run.robots]
    return np.array([math.fsum(of_robots) for of_robots in zip(*each, strict=True)])


def metric_at_equal_steps(curves: Mapping[str, Curve | None]) -> tuple[int, dict[str, float]] | None:
    """The largest iteration that all policies reached and measured, and the value of each there.

    Args:
        curves: policy -> its curve against steps.

    Returns:
        ``None`` where there is no iteration that is in all of them.

    Raises:
        ConfigError: no curves.
    """
    if not curves:
        raise ConfigError("equal steps: expected the curve of a policy at least, got none")
    found = {policy: curve for policy, curve in curves.items() if curve is not None and len(curve.along)}
    if len(found) < len(curves):
        return None
    step = math.floor(min(float(curve.along[-1]) for curve in found.values()))
    if step < max(float(curve.along[0]) for curve in found.values()):
        return None
    return step, {policy: float(curve.at(np.array([float(step)])).values[0]) for policy, curve in found.items()}


def team_curve(robots: Sequence[tuple[Array, Array]]) -> Curve | None:
    """The mean over the robots wherever all of them have been, straight lines between measurements."""
    each = [increasing(along, values) for along, values in robots]
    grid = common_grid([along for along, _ in each])
    if len(grid) == 0:
        return None
    mean: Array = np.mean([np.interp(grid, along, values) for along, values in each], axis=0)
    return Curve(grid, mean)


def increasing(along: Array, values: Array) -> tuple[Array, Array]:
    """The same curve with each place once: of several measurements at one place, the last."""
    last = np.append(np.diff(along) > 0, True)[: len(along)]
    return along[last], values[last]


def common_grid(places: Sequence[Array]) -> Array:
    """All places of all curves, within the range that all of them cover; empty if there is none."""
    if not places or any(len(own) == 0 for own in places):
        return np.empty(0)
    low, high = max(own[0] for own in places), min(own[-1] for own in places)
    every: Array = np.unique(np.concatenate(places))
    inside: Array = every[(every >= low) & (every <= high)]
    # Sums of the same joules in another order are neighbours, not two places.
    apart: Array = inside[np.append(True, np.diff(inside) > _SAME * (high - low))[: len(inside)]]
    return apart
