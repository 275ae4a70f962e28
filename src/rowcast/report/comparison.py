"""The numbers behind each figure of a comparison: functions from finished runs to tables.

Each mean is over seeds, with its 95 % interval. A figure is drawn from its table and from nothing else, so the CSV
file beside it holds what is plotted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from rowcast.energy import PowerStates
from rowcast.metric import Metric
from rowcast.report.curves import Along, common_grid, increasing, metric_over
from rowcast.report.intervals import interval
from rowcast.report.measures import (
    Measure,
    measures_of,
    seconds_in,
    sensitive_measures,
    sent_meanwhile_s,
    step_count,
)
from rowcast.report.table import BOUNDS, Table, Value, bounds, table_of
from rowcast.report.values import STARVE, Array, Experiment, Groups, Run, states_of
from rowcast.sync import parse_policy

__all__ = [
    "MEANWHILE",
    "composition_table",
    "curve_table",
    "energy_table",
    "paired_table",
    "power_table",
    "sensitivity_tables",
    "summary_table",
    "without_ratio",
    "without_value",
]

#: Points that a curve has at most.
MOST_POINTS = 200
#: Column of the place along a curve.
PLACES: Mapping[Along, str] = {"steps": "iteration", "time": "time_s", "energy": "energy_j"}
#: Part of the composition that lies within another: seconds of the computation in which rows travelled.
MEANWHILE = "sent meanwhile"


def over_seeds(runs: Sequence[Run], of: Callable[[Run], float | None]) -> tuple[Value, ...]:
    """A measure as the columns of a mean; runs that have none are left out, and without any it is empty."""
    values = [value for value in map(of, runs) if value is not None and math.isfinite(value)]
    return bounds(interval(values)) if values else (None, None, None, 0)


def without_value(groups: Groups, metrics: Sequence[Metric]) -> Iterator[tuple[str, Measure, list[int]]]:
    """Policy, measure and seeds of which the summary leaves runs out, because they came to no number."""
    for policy, runs in groups.items():
        for measure in measures_of(metrics):
            found = [(run.seed, measure.of(run)) for run in runs]
            lost = [seed for seed, value in found if value is None or not math.isfinite(value)]
            if lost:
                yield policy, measure, lost


def summary_table(groups: Groups, metrics: Sequence[Metric]) -> Table:
    """What the runs came to, policy by policy."""
    measures = measures_of(metrics)
    rows = ((policy, each.name, *over_seeds(runs, each.of)) for policy, runs in groups.items() for each in measures)
    return table_of(("policy", "measure", *BOUNDS), rows)


def paired_table(groups: Groups, metrics: Sequence[Metric], reference: str) -> Table:
    """Each policy against one of them, seed by seed: the links of a seed are the same for all policies.

    What makes one seed harder than another cancels, so these intervals are narrower than those of the summary.
    Percentages and metrics are compared by their difference, all else by its ratio; a pair that would be divided by
    0 has none.
    """
    rows: list[tuple[Value, ...]] = []
    for policy, measure, by_seed in _pairs(groups, metrics, reference):
        values = [_compared(measure, *pair) for pair in by_seed.values() if measure.differs or pair[1] > 0]
        if values:
            how = f"{'minus' if measure.differs else 'over'} {reference}"
            rows.append((policy, measure.name, how, *bounds(interval(values))))
    return table_of(("policy", "measure", "compared", *BOUNDS), rows)


def without_ratio(
    groups: Groups, metrics: Sequence[Metric], reference: str
) -> Iterator[tuple[str, Measure, list[int]]]:
    """Policy, measure and seeds that the comparison seed by seed leaves out, because they would be divided by 0."""
    for policy, measure, by_seed in _pairs(groups, metrics, reference):
        lost = [seed for seed, (value, by) in by_seed.items() if not measure.differs and by <= 0 and value != by]
        if lost:
            yield policy, measure, lost


def _pairs(
    groups: Groups, metrics: Sequence[Metric], reference: str
) -> Iterator[tuple[str, Measure, dict[int, tuple[float, float]]]]:
    """For each policy but the reference, measure by measure: seed -> its number, and that of the reference."""
    by_seed = {run.seed: run for run in groups[reference]}
    for policy in (each for each in groups if each != reference):
        pairs = [(run, by_seed[run.seed]) for run in groups[policy] if run.seed in by_seed]
        for measure in measures_of(metrics):
            each = [(run.seed, measure.of(run), measure.of(other)) for run, other in pairs]
            known = {s: (a, b) for s, a, b in each if a is not None and b is not None and math.isfinite(a + b)}
            yield policy, measure, known


def _compared(measure: Measure, value: float, by: float) -> float:
    return value - by if measure.differs else value / by


def composition_table(groups: Groups, *, meanwhile: bool = False) -> Table:
    """Mean seconds per step in each state, and of the whole step.

    Args:
        meanwhile: also the part of the computation in which rows travelled (:data:`MEANWHILE`).
    """
    states = states_of(run for runs in groups.values() for run in runs)
    parts: dict[str, Callable[[Run], float | None]] = {
        **{state: partial(seconds_in, states=(state,)) for state in states},
        "whole": seconds_in,
    }
    if meanwhile:
        parts[MEANWHILE] = sent_meanwhile_s
    rows = ((policy, part, *over_seeds(runs, of)) for policy, runs in groups.items() for part, of in parts.items())
    return table_of(("policy", "seconds_per_step_in", *BOUNDS), rows)


def curve_table(groups: Groups, metric: Metric, along: Along) -> Table:
    """The mean of a metric of the team against steps, time or energy.

    Curves of several seeds are compared at the same places, wherever all of them have been. Where one of them is not
    a number, the mean is empty, and ``seeds`` says how many are numbers.
    """
    rows: list[tuple[Value, ...]] = []
    for policy, runs in groups.items():
        curves = [curve for run in runs if (curve := metric_over(run, metric, along)) is not None]
        each = [increasing(curve.along, curve.values) for curve in curves]
        grid = _thinned(common_grid([places for places, _ in each]))
        values = np.array([np.interp(grid, places, of) for places, of in each])
        rows += [(policy, float(place), *_mean_of(values[:, k])) for k, place in enumerate(grid.tolist())]
    return table_of(("policy", PLACES[along], *BOUNDS), rows)


def _mean_of(values: Array) -> tuple[Value, ...]:
    known = int(np.isfinite(values).sum())
    return bounds(interval(values.tolist())) if known == len(values) else (None, None, None, known)


def _thinned(grid: Array) -> Array:
    """So many points that a curve needs; even ones where there are too many."""
    if len(grid) <= MOST_POINTS:
        return grid
    even: Array = np.linspace(grid[0], grid[-1], MOST_POINTS)
    return even


# -- energy ------------------------------------------------------------------------------------------------------------

#: State -> what it means; the order of a step.
MEANINGS: Mapping[str, str] = {
    STARVE: "waits for data; priced as communicate where the policy lets rows travel meanwhile",
    "compute": "a gradient is computed, rows are encoded and decoded",
    "overlap": "the same, while rows travel",
    "communicate": "rows travel and nothing is computed",
    "stall": "held at the gate",
    "uncovered": "nothing is known; priced as stall",
}


def power_table(power: PowerStates, *, streams: bool = False) -> Table:
    """The table of power states that every energy of the report is made with.

    Args:
        streams: with the wait for data.
    """
    watts = (power.stall_w, power.compute_w, power.overlap_w, power.communicate_w, power.stall_w, power.stall_w)
    rows = zip(MEANINGS, watts, MEANINGS.values(), strict=True)
    return table_of(("state", "watts", "meaning"), (row for row in rows if streams or row[0] != STARVE))


def energy_table(groups: Groups, power: PowerStates) -> Table:
    """Mean joules per step in each state, and of the whole step: what the team spent, by the steps it finished."""

    def of(states: Sequence[str]) -> Callable[[Run], float | None]:
        def joules(run: Run) -> float | None:
            each = [robot.energy.states.joules(power) for robot in run.robots if robot.energy.states is not None]
            spent = math.fsum(robot.get(state, 0.0) for robot in each for state in states)
            return spent / step_count(run) if step_count(run) else None

        return joules

    streams = any(run.streams for runs in groups.values() for run in runs)
    listed = [state for state in MEANINGS if streams or state != STARVE]
    parts = {**{state: (state,) for state in listed}, "whole": tuple(listed)}
    rows = ((policy, part, *over_seeds(runs, of(s))) for policy, runs in groups.items() for part, s in parts.items())
    return table_of(("policy", "joules_per_step_in", *BOUNDS), rows)


# -- sensitivity -------------------------------------------------------------------------------------------------------


def sensitivity_tables(experiment: Experiment) -> dict[str, Table]:
    """What batch, number of workers and threshold do: a table for each of the three that has several values.

    All else is as under the first conditions. The threshold is the slack of policies that differ in nothing else.
    """
    base = experiment.conditions[0]
    found = {}
    for axis, value_of, alike in (
        ("batch", lambda run: run.conditions.batch, lambda c: (c.links, c.devices, c.workers, c.feeding, c.topk)),
        ("workers", lambda run: run.conditions.workers, lambda c: (c.links, c.devices, c.batch, c.feeding, c.topk)),
        ("threshold", lambda run: threshold_of(run.policy), lambda c: c),
    ):
        chosen = [run for run in experiment.runs if alike(run.conditions) == alike(base) and value_of(run) is not None]
        name_of = family_of if axis == "threshold" else str
        series: dict[str, dict[Any, list[Run]]] = {}
        for run in chosen:
            series.setdefault(name_of(run.policy), {}).setdefault(value_of(run), []).append(run)
        rows = [
            (name, value, measure.name, *over_seeds(own, measure.of))
            for name, by_value in series.items()
            if len(by_value) > 1
            for measure in sensitive_measures(experiment.metrics)
            for value, own in sorted(by_value.items())
        ]
        if rows:
            found[axis] = table_of(("policy", axis, "measure", *BOUNDS), rows)
    return found


def threshold_of(policy: str) -> int | None:
    """The slack of a policy whose name has one."""
    if ":" not in policy.partition("?")[0]:
        return None
    parsed = parse_policy(policy)
    return parsed.lag if parsed.scheduled else parsed.slack


def family_of(policy: str) -> str:
    """The policy without its slack: ``rog:4?codec=raw`` -> ``rog?codec=raw``."""
    name, mark, options = policy.partition("?")
    return name.partition(":")[0] + mark + options
