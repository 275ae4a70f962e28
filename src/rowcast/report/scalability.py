"""What communication costs a team: Tc, and the scalability X/Y over the number of robots (algorithms.md 10.6).

Measured from the events 'step' alone: ``X/Y`` is the steps of the team by those that its robots would have made in the
same time if each had only computed, as long as it did compute for a step. The model ``1 / (1 + Tc / t1)`` stands beside
it, where the run left its links in ``links.json``: there ``Tc`` is the delay of a round trip and the measured bytes by
the mean rate, as if nothing of it were hidden behind computing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from rowcast.errors import ConfigError
from rowcast.links import Trace, load_trace
from rowcast.report.intervals import interval
from rowcast.report.measures import sent_meanwhile_s, step_mean
from rowcast.report.parts import Section, TableOrFigure
from rowcast.report.style import FAINT, figure_legend, headline, line_styles, new_figure, plain_axes
from rowcast.report.table import BOUNDS, Table, Value, bounds, table_of
from rowcast.report.values import STARVE, STATES, Conditions, Experiment, Robot, Run

__all__ = ["draw_scalability", "link_under", "model_scalability", "scalability", "scalability_sections", "tc_s"]

#: Quantities of the table, in its order.
ALONE, OPEN, WHOLE, SHARE, MODEL = "t1 (s)", "Tc, not hidden (s)", "Tc, all (s)", "X/Y", "X/Y, nothing hidden (model)"


def tc_s(run: Run) -> float:
    """Tc that nothing hides: mean seconds of a step in which a robot sent, received or waited at the gate."""
    return step_mean(run, "communicate_s") + step_mean(run, "stall_s")


def scalability(run: Run) -> float | None:
    """X/Y of a run, 0 to 1: steps of the team by the steps of as many robots that only compute; ``None`` without one.

    Both in the same time: from the start of the first step of a robot to the end of its last. A wait for data counts
    as computing, since a robot alone would wait as well. A robot without a step counts over the whole run, with what a
    step takes the others.
    """
    counted = [(*_alone(robot), len(robot.ends_s)) for robot in run.robots if len(robot.ends_s)]
    if not counted:
        return None
    usual_s = math.fsum(alone_s for alone_s, _, _ in counted) / len(counted)
    if not all(alone_s > 0 for alone_s, _, _ in counted):
        return None
    alone = math.fsum(span_s / alone_s for alone_s, span_s, _ in counted)
    alone += (len(run.robots) - len(counted)) * run.seconds / usual_s
    return sum(steps for _, _, steps in counted) / alone


def model_scalability(run: Run) -> float | None:
    """The model 1 / (1 + Tc/t1), mean over the robots; ``None`` where a link is not known, or carries nothing.

    Raises:
        ConfigError: ``links.json``, or a trace that it names, cannot be read.
    """
    found = []
    for robot in run.robots:
        link = link_under(run, robot.name)
        if link is None or not len(robot.ends_s):
            return None
        up, down, delay_s = link
        rates = [trace.bits(0.0, run.seconds) / run.seconds for trace in (up, down)]
        alone_s, _ = _alone(robot)
        if min(rates) <= 0 or alone_s <= 0:
            return None
        sent = (float(np.mean(robot.steps[field])) for field in ("push_bytes", "pull_bytes"))
        modelled_s = 2 * delay_s + math.fsum(8 * size / rate for size, rate in zip(sent, rates, strict=True))
        found.append(1 / (1 + modelled_s / alone_s))
    return math.fsum(found) / len(found) if found else None


def link_under(run: Run, robot: str) -> tuple[Trace, Trace, float] | None:
    """A robot's link as the run left it in ``links.json``: traces to and from the server, and its delay (s).

    Returns:
        ``None`` where the run left none, or only one direction of it.

    Raises:
        ConfigError: the file, or a trace that it names, cannot be read.
    """
    path = run.folder / "links.json"
    if not path.is_file():
        return None
    try:
        entry: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))[robot]
        up, down = (Path(name).name if (name := entry.get(way)) is not None else None for way in ("up", "down"))
        delay_s = float(entry.get("delay_s", 0.0))
        if not 0 <= delay_s < math.inf:
            raise ValueError(f"delay_s = {delay_s}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{path}: expected {{worker: {{'up': trace file, 'down': ...}}}}, where there is one with 'delay_s' in "
            f"seconds, got {error!r}; run the comparison again"
        ) from error
    if up is None or down is None:
        return None
    return load_trace(path.parent / up), load_trace(path.parent / down), delay_s


def scalability_sections(experiment: Experiment) -> list[Section]:
    """The section on scalability: a table for each kind of links, and a figure where there are several team sizes."""
    each = experiment.conditions
    places: Sequence[int | None] = [None] if len(each) == 1 else range(len(each))
    parts = [part for place, one in zip(places, each, strict=True) for part in _part(experiment, one, place)]
    return [Section("Scalability", tuple(parts))] if parts else []


def _part(experiment: Experiment, conditions: Conditions, place: int | None) -> Iterator[TableOrFigure]:
    table = _table(experiment, conditions)
    if not table.rows:
        return
    streams = any(run.streams for runs in experiment.by_policy(conditions).values() for run in runs)
    alone = ["compute_s", f"{STARVE}_s"] if streams else ["compute_s"]
    several = len(table.distinct("workers")) > 1
    name = "scalability" if place is None else f"scalability-{place + 1}"
    yield TableOrFigure(
        name,
        "Tc and X/Y by the number of robots" + ("" if place is None else f", all else as in: {conditions}"),
        f"Events 'step': t1 is {' and '.join(alone)}; Tc, not hidden: communicate_s and stall_s; with overlap_s, in "
        "which rows may have travelled, it is Tc, all. X/Y: steps of the team by those of "
        "as many robots that only compute. Model: 1 / (1 + Tc/t1), with the round trip of the links, the measured "
        "bytes and the mean rate, as if nothing were hidden; empty where the run left no links.",
        table,
        table,
        partial(draw_scalability, table) if several else None,
    )


def _table(experiment: Experiment, conditions: Conditions) -> Table:
    """Policy, workers and quantity, with means over seeds; all else as in the conditions."""

    def alike(of: Conditions) -> tuple[object, ...]:
        return of.links, of.devices, of.batch, of.feeding, of.topk

    quantities: Mapping[str, Callable[[Run], float | None]] = {
        ALONE: _alone_s,
        OPEN: tc_s,
        WHOLE: lambda run: tc_s(run) + sent_meanwhile_s(run),
        SHARE: scalability,
        MODEL: model_scalability,
    }
    teams: dict[str, dict[int, list[Run]]] = {policy: {} for policy in experiment.by_policy(conditions)}
    for run in experiment.runs:
        if alike(run.conditions) == alike(conditions) and any(len(robot.ends_s) for robot in run.robots):
            teams.setdefault(run.policy, {}).setdefault(run.conditions.workers, []).append(run)
    rows: list[tuple[Value, ...]] = []
    for policy, by_workers in teams.items():
        for workers, runs in sorted(by_workers.items()):
            for quantity, of in quantities.items():
                values = [value for value in map(of, runs) if value is not None and math.isfinite(value)]
                if values:
                    rows.append((policy, workers, quantity, *bounds(interval(values))))
    return table_of(("policy", "workers", "quantity", *BOUNDS), rows)


def draw_scalability(table: Table, path: str | Path) -> None:
    """X/Y over the number of robots: a line for each policy, whiskers for the 95 % intervals, dotted the model.

    Args:
        table: as the section has it.
        path: file to write.

    Raises:
        ConfigError: matplotlib is not installed, or the file cannot be written.
    """
    policies = table.distinct("policy")
    with new_figure(path, width=7.0, height=4.2) as figure:
        axes = figure.subplots()
        for policy, (colour, line, marker) in zip(policies, line_styles(policies), strict=True):
            own = table.where(policy=policy, quantity=SHARE)
            means = own.numbers("mean")
            spread = [
                high - mean if high == high else 0.0 for high, mean in zip(own.numbers("high"), means, strict=True)
            ]
            axes.errorbar(
                own.numbers("workers"), means, yerr=spread, color=colour, linestyle=line, marker=marker, markersize=5,
                capsize=3, linewidth=1.6, label=policy,
            )  # fmt: skip
            model = table.where(policy=policy, quantity=MODEL)
            if model.rows:
                axes.plot(
                    model.numbers("workers"), model.numbers("mean"), color=colour, linestyle=":", linewidth=1.0,
                    marker=marker, markersize=3, markerfacecolor="white",
                )  # fmt: skip
        axes.set_xticks(sorted(set(table.numbers("workers"))))
        axes.set_xlabel("robots Y")
        axes.set_ylabel("X/Y")
        axes.set_ylim(0, 1.05)
        axes.set_title("dotted: model 1 / (1 + Tc/t1), nothing hidden", loc="left", fontsize=9, color=FAINT)
        plain_axes(axes, grid="both")
        figure_legend(figure, axes)
        headline(figure, "Scalability X/Y")


def _alone_s(run: Run) -> float:
    """Seconds of a step of one that only computes, mean over the robots that made one."""
    each = [_alone(robot)[0] for robot in run.robots if len(robot.ends_s)]
    return math.fsum(each) / len(each)


def _alone(robot: Robot) -> tuple[float, float]:
    """What a step would take a robot without a team, and what all of its steps took in it (s)."""
    sums = _sums(robot, (STARVE, *STATES))
    return (sums[STARVE] + sums["compute"]) / len(robot.ends_s), math.fsum(sums.values())


def _sums(robot: Robot, states: Sequence[str]) -> dict[str, float]:
    return {state: math.fsum(np.nan_to_num(robot.steps[f"{state}_s"]).tolist()) for state in states}
