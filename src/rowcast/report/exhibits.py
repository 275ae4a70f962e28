"""The numbers behind each figure of a comparison: functions from finished cells to sheets.

Each mean is over seeds, with its 95 % interval. A figure is drawn from its sheet and from nothing else, so the CSV
file beside it holds what is plotted.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rowcast.energy import (
    CensoredValue,
    PowerStates,
    any_censored,
    energy_to_accuracy,
    smoothed,
    time_to_accuracy,
)
from rowcast.energy.accuracy import HOLD
from rowcast.errors import ConfigError
from rowcast.links import Trace, load_trace
from rowcast.report.cells import Array, CellRun, Experiment, TeamCurve, common_grid, increasing
from rowcast.report.intervals import interval
from rowcast.report.sheet import BOUNDS, Sheet, Value, bounds, sheet_of
from rowcast.report.style import STATES
from rowcast.report.timeline import Timeline, hour_sheet
from rowcast.sync import parse_policy

__all__ = [
    "ALONG",
    "MICRO_SPAN_S",
    "accuracy_sheet",
    "composition_sheet",
    "energy_sheet",
    "micro_sheet",
    "paired_sheet",
    "power_sheet",
    "sensitivity_sheets",
    "summary_sheet",
    "target_sheet",
    "timeline_sheet",
]

#: Points that a curve has at most.
MOST_POINTS = 200
#: Seconds that the figure of micro-events shows.
MICRO_SPAN_S = 300.0

Groups = Mapping[str, Sequence[CellRun]]

#: What accuracy is drawn against: column, and where the curve comes from.
ALONG: Mapping[str, tuple[str, Callable[[CellRun], TeamCurve | None]]] = {
    "steps": ("iteration", lambda cell: cell.over_steps),
    "time": ("time_s", lambda cell: cell.over_time),
    "energy": ("energy_j", lambda cell: cell.over_energy),
}


def _mean(values: Array) -> float:
    return float(values.mean()) if len(values) else math.nan


#: Measures of one cell: name with unit -> function.
MEASURES: Mapping[str, Callable[[CellRun], float | None]] = {
    "steps of a robot": lambda cell: cell.step_count / len(cell.robots),
    "step (s)": lambda cell: sum(_mean(cell.step_values(f"{state}_s")) for state in STATES),
    "rows sent (%)": lambda cell: 100 * _mean(cell.step_values("push_share")),
    "sent by the team (MB)": lambda cell: float(cell.step_values("push_bytes").sum()) / 1e6,
    "received by the team (MB)": lambda cell: float(cell.step_values("pull_bytes").sum()) / 1e6,
    "energy of the team (kJ)": lambda cell: float(cell.joules_at(np.array([cell.seconds]))[0]) / 1e3,
    "accuracy at the end (%)": lambda cell: cell.final_accuracy,
}


def over_seeds(cells: Sequence[CellRun], measure: Callable[[CellRun], float | None]) -> tuple[Value, ...]:
    """A measure as the columns of a mean; cells that have none are left out, and without any it is empty."""
    values = [value for value in map(measure, cells) if value is not None and math.isfinite(value)]
    return bounds(interval(values)) if values else (None, None, None, 0)


def summary_sheet(groups: Groups) -> Sheet:
    """What the runs came to, policy by policy."""
    rows = ((policy, name, *over_seeds(cells, of)) for policy, cells in groups.items() for name, of in MEASURES.items())
    return sheet_of(("policy", "measure", *BOUNDS), rows)


def paired_sheet(groups: Groups) -> Sheet:
    """Each policy against the first, seed by seed: the links of a seed are the same for all policies.

    What makes one seed harder than another cancels, so these intervals are narrower than those of the summary.
    Percentages are compared by their difference, all else by its ratio.
    """
    reference, *others = groups
    by_seed = {cell.seed: cell for cell in groups[reference]}
    rows: list[tuple[Value, ...]] = []
    for policy in others:
        pairs = [(cell, by_seed[cell.seed]) for cell in groups[policy] if cell.seed in by_seed]
        for name, of in MEASURES.items():
            differs = name.endswith("(%)")
            each = [(of(cell), of(other)) for cell, other in pairs]
            known = [(a, b) for a, b in each if a is not None and b is not None and math.isfinite(a + b)]
            values = [a - b if differs else a / b for a, b in known if differs or b > 0]
            if values:
                rows.append((policy, name, f"{'minus' if differs else 'over'} {reference}", *bounds(interval(values))))
    return sheet_of(("policy", "measure", "compared", *BOUNDS), rows)


def composition_sheet(groups: Groups) -> Sheet:
    """Mean seconds per step in each state, and of the whole step."""

    def of(states: Sequence[str]) -> Callable[[CellRun], float]:
        return lambda cell: sum(_mean(cell.step_values(f"{state}_s")) for state in states)

    parts = {**{state: (state,) for state in STATES}, "whole": tuple(STATES)}
    rows = ((policy, part, *over_seeds(cells, of(s))) for policy, cells in groups.items() for part, s in parts.items())
    return sheet_of(("policy", "seconds_per_step_in", *BOUNDS), rows)


def accuracy_sheet(groups: Groups, along: str) -> Sheet:
    """Mean accuracy of the team against steps, time or energy; see :data:`ALONG`.

    Curves of several seeds are compared at the same places, wherever all of them have been.
    """
    column, curve_of = ALONG[along]
    rows: list[tuple[Value, ...]] = []
    for policy, cells in groups.items():
        curves = [curve for cell in cells if (curve := curve_of(cell)) is not None]
        each = [increasing(curve.along, curve.accuracy) for curve in curves]
        grid = _thinned(common_grid([places for places, _ in each]))
        values = np.array([np.interp(grid, places, accuracy) for places, accuracy in each])
        rows += [
            (policy, float(place), *bounds(interval(values[:, k].tolist()))) for k, place in enumerate(grid.tolist())
        ]
    return sheet_of(("policy", column, *BOUNDS), rows)


def _thinned(grid: Array) -> Array:
    """So many points that a curve needs; even ones where there are too many."""
    if len(grid) <= MOST_POINTS:
        return grid
    even: Array = np.linspace(grid[0], grid[-1], MOST_POINTS)
    return even


# -- energy ------------------------------------------------------------------------------------------------------------

#: State -> what it means; the order of a step.
MEANINGS: Mapping[str, str] = {
    "compute": "a gradient is computed, rows are encoded and decoded",
    "overlap": "the same, while rows travel",
    "communicate": "rows travel and nothing is computed",
    "stall": "held at the gate",
    "uncovered": "nothing is known; priced as stall",
}


def power_sheet(power: PowerStates) -> Sheet:
    """The table of power states that every energy of the report is made with."""
    watts = (power.compute_w, power.overlap_w, power.communicate_w, power.stall_w, power.stall_w)
    rows = ((state, w, meaning) for (state, meaning), w in zip(MEANINGS.items(), watts, strict=True))
    return sheet_of(("state", "watts", "meaning"), rows)


def energy_sheet(groups: Groups, power: PowerStates) -> Sheet:
    """Mean joules per step in each state, and of the whole step: what the team spent, by the steps it finished."""

    def of(states: Sequence[str]) -> Callable[[CellRun], float | None]:
        def joules(cell: CellRun) -> float | None:
            each = [robot.energy.states.joules(power) for robot in cell.robots if robot.energy.states is not None]
            spent = math.fsum(robot[state] for robot in each for state in states)
            return spent / cell.step_count if cell.step_count else None

        return joules

    parts = {**{state: (state,) for state in MEANINGS}, "whole": tuple(MEANINGS)}
    rows = ((policy, part, *over_seeds(cells, of(s))) for policy, cells in groups.items() for part, s in parts.items())
    return sheet_of(("policy", "joules_per_step_in", *BOUNDS), rows)


def target_sheet(groups: Groups) -> Sheet:
    """Time and energy of the team until it keeps an accuracy.

    The targets come from the runs: the highest accuracy that all of them kept, and the highest that all seeds of
    one policy kept, rounded down to 0.1 %. A run that never kept it gives a lower bound; a mean over bounds is a
    bound, and has no interval. Without enough measurements there are no rows.
    """
    every_s = _look_spacing(groups)
    looks = {policy: [_even_looks(cell, every_s) for cell in cells] for policy, cells in groups.items()}
    if not looks or any(len(curve.along) < HOLD for curves in looks.values() for curve in curves):
        return sheet_of(TARGET_COLUMNS, ())
    kept = [min(map(_kept, curves)) for curves in looks.values()]
    targets = sorted({math.floor(10 * value + 1e-9) / 10 for value in (min(kept), max(kept))})
    return sheet_of(
        TARGET_COLUMNS,
        (
            row
            for target in targets
            for policy, cells in groups.items()
            for row in _reached(policy, cells, looks[policy], target)
        ),
    )


TARGET_COLUMNS = ("accuracy_percent", "policy", "until_then", "bound", *BOUNDS)


def _look_spacing(groups: Groups) -> float:
    """Seconds between two looks, the same for all: a moving average over looks is one over time only then.

    It is what the cells were told, or else the widest that any robot came to.
    """
    told = [float(cell.settings.get("eval_every_s", 0.0)) for cells in groups.values() for cell in cells]
    if told and min(told) > 0:
        return max(told)
    robots = [robot for cells in groups.values() for cell in cells for robot in cell.robots]
    return max((float(np.diff(robot.looks_s).mean()) for robot in robots if len(robot.looks_s) > 1), default=1.0)


def _even_looks(cell: CellRun, every_s: float) -> TeamCurve:
    """The team's accuracy at multiples of ``every_s``, wherever all robots have been."""
    return (cell.over_time or TeamCurve(np.empty(0), np.empty(0))).every(every_s)


def _kept(curve: TeamCurve) -> float:
    """The highest smoothed accuracy that a run kept for as long as counts."""
    held = np.lib.stride_tricks.sliding_window_view(smoothed(curve.accuracy), HOLD).min(axis=1)
    return float(held.max())


def _reached(
    policy: str, cells: Sequence[CellRun], looks: Sequence[TeamCurve], target: float
) -> Iterator[tuple[Value, ...]]:
    times = [time_to_accuracy(curve.along, curve.accuracy, target) for curve in looks]
    joules = [
        energy_to_accuracy(curve.along, curve.accuracy, target, [robot.energy for robot in cell.robots])
        for cell, curve in zip(cells, looks, strict=True)
    ]
    for name, values in (("seconds", times), ("joules of the team", joules)):
        yield target, policy, name, *_bounded(values)


def _bounded(values: Sequence[CensoredValue]) -> tuple[Value, ...]:
    mean, low, high, count = bounds(interval([each.value for each in values]))
    return (">", mean, None, None, count) if any_censored(values) else ("", mean, low, high, count)


# -- the first seed of each policy, second by second ----------------------------------------------------------------

#: The picture has room for so many lanes in a panel.
MOST_LANES = 8


def timeline_sheet(groups: Groups) -> Sheet:
    """What the robots of one run of each policy did, and when; see :func:`~rowcast.report.hour_sheet`.

    The seed is the first; of a large team it has the first robots by name. Links are those of the first policy.
    """
    runs = {policy: cells[0] for policy, cells in groups.items()}
    teams = {
        policy: [Timeline.of(robot.name, robot.ends_s, robot.steps) for robot in run.robots[:MOST_LANES]]
        for policy, run in runs.items()
    }
    one = next(iter(runs.values()))
    found = {robot.name: trace_under(one, robot.name) for robot in one.robots[:MOST_LANES]}
    links = {name: trace for name, trace in found.items() if trace is not None}
    return hour_sheet(teams, max(run.seconds for run in runs.values()), links)


# -- one robot, step by step -------------------------------------------------------------------------------------------

#: Quantities of the micro-events, in the unit of the journal.
MICRO = ("rate_bps", "push_share", "staleness")


def micro_sheet(groups: Groups, span_s: float = MICRO_SPAN_S) -> Sheet:
    """What one robot met in the middle of one seed: its link, and each step of each policy.

    The seed is the first, the robot the first by name. ``link_bps`` is the trace under its link (towards the
    server) wherever it changes, if the run left it in ``links.json``; the others are what the journal says of the
    step that ended at ``time_s``.
    """
    runs = {policy: cells[0] for policy, cells in groups.items()}
    if not runs:
        return sheet_of(("policy", "quantity", "time_s", "value"), ())
    length = max(run.seconds for run in runs.values())
    start = max(0.0, (length - span_s) / 2)
    end = min(length, start + span_s)
    rows: list[tuple[Value, ...]] = []
    one = next(iter(runs.values()))
    trace = trace_under(one, one.robots[0].name)
    if trace is not None:
        times = [start, *_changes(trace, start, end), end]
        rows += [("", "link_bps", t, trace.rate(min(t, np.nextafter(end, start)))) for t in times]
    for policy, run in runs.items():
        robot = run.robots[0]
        inside = (robot.ends_s >= start) & (robot.ends_s <= end)
        for quantity in MICRO:
            pairs = zip(robot.ends_s[inside].tolist(), robot.steps[quantity][inside].tolist(), strict=True)
            rows += [(policy, quantity, t, value) for t, value in pairs if math.isfinite(value)]
    return sheet_of(("policy", "quantity", "time_s", "value"), rows)


def trace_under(run: CellRun, robot: str) -> Trace | None:
    """The trace under a robot's link towards the server, if the run left it in ``links.json``."""
    path = run.folder / "links.json"
    if not path.is_file():
        return None
    try:
        name = json.loads(path.read_text(encoding="utf-8"))[robot]["up"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: expected {{worker: {{'up': trace file, 'down': ...}}}}, got {error!r}") from error
    return load_trace(path.parent / Path(name).name)  # beside the journals, whatever the file says


def _changes(trace: Trace, start: float, end: float) -> list[float]:
    """When the rate changes, between the two times."""
    found: list[float] = []
    t = trace.next_change(start)
    while t < end:
        found.append(t)
        t = trace.next_change(t)
    return found


# -- sensitivity -------------------------------------------------------------------------------------------------------

#: What is shown of each run.
SENSITIVE: Mapping[str, Callable[[CellRun], float | None]] = {
    "step (s)": MEASURES["step (s)"],
    "accuracy at the end (%)": MEASURES["accuracy at the end (%)"],
    "energy of a step (J)": lambda cell: (
        float(cell.joules_at(np.array([cell.seconds]))[0]) / cell.step_count if cell.step_count else None
    ),
}


def sensitivity_sheets(experiment: Experiment) -> dict[str, Sheet]:
    """What batch, number of workers and threshold do: a sheet for each of the three that has several values.

    All else is as in the first scene. The threshold is the slack of policies that differ in nothing else.
    """
    scene = experiment.scenes[0]
    cells = experiment.cells
    found = {}
    for axis, value_of, scene_of in (
        ("batch", lambda cell: cell.scene.batch, lambda s: (s.links, s.devices, s.workers)),
        ("workers", lambda cell: cell.scene.workers, lambda s: (s.links, s.devices, s.batch)),
        ("threshold", lambda cell: threshold_of(cell.policy), lambda s: s),
    ):
        chosen = [cell for cell in cells if scene_of(cell.scene) == scene_of(scene) and value_of(cell) is not None]
        name_of = family_of if axis == "threshold" else str
        series: dict[str, dict[Any, list[CellRun]]] = {}
        for cell in chosen:
            series.setdefault(name_of(cell.policy), {}).setdefault(value_of(cell), []).append(cell)
        rows = [
            (name, value, measure, *over_seeds(own, of))
            for name, by_value in series.items()
            if len(by_value) > 1
            for measure, of in SENSITIVE.items()
            for value, own in sorted(by_value.items())
        ]
        if rows:
            found[axis] = sheet_of(("policy", axis, "measure", *BOUNDS), rows)
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
