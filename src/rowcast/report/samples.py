"""How many samples a team was trained on, and a metric of it against them."""

from __future__ import annotations

import math

import numpy as np

from rowcast.metric import Metric
from rowcast.report.curves import Curve, increasing, metric_over
from rowcast.report.values import Array, Robot, Run
from rowcast.sync import parse_policy

__all__ = ["metric_over_samples", "sample_unit", "samples_at"]


def sample_unit(run: Run) -> str:
    """What :func:`samples_at` counts: 'samples', or 'gradients' where the batch is the task's own."""
    return "samples" if run.streams or run.conditions.batch is not None else "gradients"


def samples_at(run: Run, times_s: Array) -> Array:
    """Samples that the robots of a team were trained on until these times (s since the start), together: float64
    [times].

    Of a stream each step says how many it had. Otherwise it is the batch for each of the policy's local steps; where
    the batch is the task's own, and so the same in all runs under the same conditions, gradients are counted. Within a
    step it grows evenly.

    Raises:
        ConfigError: this version has no such policy, so that nobody knows how many local steps an iteration has.
    """
    each = [
        np.interp(times_s, np.append(0.0, robot.ends_s), np.append(0.0, np.cumsum(_of_steps(run, robot))))
        for robot in run.robots
    ]
    return np.array([math.fsum(of_robots) for of_robots in zip(*each, strict=True)])


def _of_steps(run: Run, robot: Robot) -> Array:
    """Samples of each step of a robot."""
    if run.streams:
        return np.nan_to_num(robot.steps["samples"])  # not-a-number of a robot that has no stream
    batch = 1 if run.conditions.batch is None else run.conditions.batch
    return np.full(len(robot.ends_s), float(batch * parse_policy(run.policy).local_steps))


def metric_over_samples(run: Run, metric: Metric) -> Curve | None:
    """A metric of the team against the samples of the team, as :func:`~rowcast.report.metric_over` has it against
    time.

    Raises:
        ConfigError: as :func:`samples_at`.
    """
    curve = metric_over(run, metric, "time")
    return None if curve is None else Curve(*increasing(samples_at(run, curve.along), curve.values))
