"""What stands on the page of a report, and in which order: figures with their numbers, and tables."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from functools import partial

from rowcast.energy.reaching import HOLD, WINDOW
from rowcast.metric import Metric
from rowcast.report.bars_figure import JOULES, SECONDS, draw_bars
from rowcast.report.comparison import (
    composition_table,
    curve_table,
    energy_table,
    paired_table,
    power_table,
    sensitivity_tables,
    summary_table,
    without_ratio,
    without_value,
)
from rowcast.report.curve_figure import CurvePanel, draw_curves
from rowcast.report.curves import ALONG, Along
from rowcast.report.exhibits_sections import exhibit_parts
from rowcast.report.measures import is_share, step_count, words_of
from rowcast.report.moments import MOST_LANES, first_seed_timeline, micro_table
from rowcast.report.panel_figures import draw_micro, draw_sensitivity
from rowcast.report.parts import Section, TableOrFigure, across
from rowcast.report.reference import reference_of
from rowcast.report.reference_sections import Against, against_parts, without_reference
from rowcast.report.scalability import scalability_sections
from rowcast.report.stream_sections import stream_sections
from rowcast.report.table import Table
from rowcast.report.targets import target_table
from rowcast.report.timeline import state_shares
from rowcast.report.timeline_figure import draw_timeline
from rowcast.report.told_sections import told_part
from rowcast.report.topk_sections import topk_sections
from rowcast.report.values import Conditions, Experiment, Groups, states_of

__all__ = ["Section", "TableOrFigure", "sections"]

#: What a metric is drawn against -> label of the axis, and what the caption says of it.
_AXES: dict[Along, tuple[str, str]] = {
    "steps": ("steps (iterations of each robot)", "iteration at which each robot measured"),
    "time": ("time (s)", "time of each measurement"),
    "energy": ("energy of the team (J)", "time of each measurement and events 'step', priced by the power states"),
}


def sections(experiment: Experiment, reference: str | None = None) -> tuple[list[Section], list[str]]:
    """All sections of the page, and a sentence for each thing that they leave out.

    Args:
        experiment: the runs.
        reference: the policy that all others are held against; ``None``: see :func:`~.reference.reference_of`.
    """
    notes = list(experiment.notes)
    found = []
    each = experiment.conditions
    for conditions, suffix in zip(each, _suffixes(each), strict=True):
        groups = experiment.by_policy(conditions)
        if reference is not None:
            notes += without_reference(groups, reference, conditions)
        chosen = reference_of(groups, reference)
        against = Against(groups, chosen, conditions) if chosen is not None and len(groups) > 1 else None
        notes += _left_out(groups, experiment.metrics, conditions, against)
        of_conditions = _of_conditions(experiment, groups, conditions, suffix, notes, against)
        found.append(Section(str(conditions), tuple(of_conditions)))
    found += stream_sections(experiment)
    found += topk_sections(experiment)
    found += scalability_sections(experiment)
    parts = [
        _sensitivity(axis, table, experiment.metrics, each[0]) for axis, table in sensitivity_tables(experiment).items()
    ]
    if parts:
        found.append(Section("Sensitivity", tuple(parts)))
    power = power_table(experiment.power, streams=any(run.streams for run in experiment.runs))
    caption = f"Source: {experiment.power.source}. Server and looks at the {_names(experiment.metrics)} are left out."
    found.append(Section("Power", (TableOrFigure("power-states", "Power states", caption, power, power),)))
    return found, notes


def _names(metrics: Sequence[Metric]) -> str:
    words = [words_of(metric) for metric in metrics]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _better(metric: Metric) -> str:
    """What a caption adds where it is not the usual way round."""
    return " Lower is better." if metric.better == "lower" else ""


def _left_out(
    groups: Groups, metrics: Sequence[Metric], conditions: Conditions, against: Against | None
) -> Iterator[str]:
    """Runs that a mean is not over."""
    for policy, runs in groups.items():
        idle = [str(run.seed) for run in runs if not step_count(run)]
        if idle:
            yield f"steps, {conditions}: {policy} finished none with seed {', '.join(idle)}"
    for policy, measure, seeds in without_value(groups, metrics):
        if measure.metric is not None:
            listed = ", ".join(map(str, seeds))
            yield f"{measure.name}, {conditions}: {policy} came to no number with seed {listed}"
    if against is None:
        return
    for policy, measure, seeds in without_ratio(groups, metrics, against.reference):
        listed = ", ".join(map(str, seeds))
        yield f"{measure.name}, {conditions}: {policy} over {against.reference}, which is 0 with seed {listed}"


def _of_conditions(
    experiment: Experiment,
    groups: Groups,
    conditions: Conditions,
    suffix: str,
    notes: list[str],
    against: Against | None,
) -> Iterator[TableOrFigure]:
    metrics = experiment.metrics
    yield from _summaries(groups, metrics, suffix)
    if against is not None:
        yield from _paired(against, metrics, suffix)
        yield from against_parts(against, metrics[0], "", suffix, notes)
    composition = composition_table(groups)
    yield TableOrFigure(
        f"composition{suffix}",
        "Average time composition of a step",
        f"Events 'step': {_fields(groups)}; the mean over all steps of all robots of a run, then over seeds.",
        composition,
        composition,
        partial(draw_bars, composition, SECONDS),
    )
    for metric in metrics:
        which = "" if metric == metrics[0] else f"-{metric.name}"
        yield from _metric(groups, metric, conditions, suffix, notes)
        yield from _targets(groups, metric, conditions, which, suffix, notes)
        if which and against is not None:
            yield from against_parts(against, metric, which, suffix, notes)
    energy = energy_table(groups, experiment.power)
    yield TableOrFigure(
        f"energy{suffix}",
        "Energy of a step",
        f"Seconds in each state, from events 'step', by {experiment.power.source}. Server and looks at the "
        f"{_names(metrics)} are left out.",
        energy,
        energy,
        partial(draw_bars, energy, JOULES),
    )
    yield from told_part(groups, suffix, conditions, notes)
    yield from exhibit_parts(groups, suffix, conditions, notes)
    yield _timeline(groups, suffix)
    yield from _micro(groups, suffix)


def _fields(groups: Groups) -> str:
    """The parts of a step in the journal."""
    return ", ".join(f"{state}_s" for state in states_of(run for runs in groups.values() for run in runs))


def _summaries(groups: Groups, metrics: Sequence[Metric], suffix: str) -> Iterator[TableOrFigure]:
    summary = summary_table(groups, metrics)
    yield TableOrFigure(
        f"summary{suffix}",
        "What the runs came to",
        f"Events 'step' and 'metric' of all robots; mean and 95 % interval.{_which_lower(metrics)}",
        summary,
        across(summary),
    )


def _which_lower(metrics: Sequence[Metric]) -> str:
    """What a caption of several metrics adds."""
    lower = [words_of(metric) for metric in metrics if metric.better == "lower"]
    return f" Lower is better: {', '.join(lower)}." if lower else ""


def _paired(against: Against, metrics: Sequence[Metric], suffix: str) -> Iterator[TableOrFigure]:
    paired = paired_table(against.groups, metrics, against.reference)
    if paired.rows:
        differ = "percentages" if all(is_share(metric) for metric in metrics) else "percentages and metrics"
        yield TableOrFigure(
            f"paired{suffix}",
            f"Against {against.reference}, seed by seed",
            f"As the summary, each run against the one with the same seed and so the same links: {differ} by their "
            f"difference, all else by its ratio.{_which_lower(metrics)}",
            paired,
            across(paired),
        )


def _metric(
    groups: Groups, metric: Metric, conditions: Conditions, suffix: str, notes: list[str]
) -> Iterator[TableOrFigure]:
    for along in ALONG:
        label, source = _AXES[along]
        table = curve_table(groups, metric, along)
        name = words_of(metric)
        for policy in groups:
            own = table.where(policy=policy)
            if not own.rows:
                notes.append(
                    f"{name} against {along}, {conditions}: {policy} has no measurements that all robots share"
                )
            elif None in own.values("mean"):
                notes.append(f"{name} against {along}, {conditions}: {policy} has gaps where a value was not a number")
        if table.rows:
            yield TableOrFigure(
                f"{metric.name}-{along}{suffix}",
                f"{name[:1].upper()}{name[1:]} against {along}",
                f"Events 'metric' named {metric.name}: {source}; each robot with its own replica, then the mean over "
                f"robots and seeds where all of them have been. Band: 95 % interval.{_better(metric)}",
                table,
                table,
                partial(draw_curves, [CurvePanel(table, label)], metric),
            )


def _targets(
    groups: Groups, metric: Metric, conditions: Conditions, which: str, suffix: str, notes: list[str]
) -> Iterator[TableOrFigure]:
    """Time and energy to a level."""
    name = words_of(metric)
    article = "an" if name[0] in "aeiou" else "a"
    table = target_table(groups, metric)
    if not table.rows:
        notes.append(
            f"time and energy until {article} {name} is kept, {conditions}: a run has too few looks at the {name}"
        )
        return
    yield TableOrFigure(
        f"targets{which}{suffix}",
        f"Time and energy until {article} {name} is kept",
        f"Moving average of the team's {name} over {WINDOW} looks, kept for {HOLD}; the looks are as far apart "
        "for all. '>' marks a bound: a seed did not get there. Targets: what all runs kept, and what all seeds "
        f"of one policy kept.{_better(metric)}",
        table,
        table,
    )


def _timeline(groups: Groups, suffix: str) -> TableOrFigure:
    table = first_seed_timeline(groups)
    run = next(iter(groups.values()))[0]
    return TableOrFigure(
        f"timeline{suffix}",
        f"Who computed, sent and stalled, and when, seed {run.seed}",
        f"Events 'step': {_fields(groups)}, in bins, and below step by step; where a push ends and a "
        "pull begins is right to about the quota. Thin: overlap_s. Line: the trace under the robot's link towards the "
        f"server, where the run left it. At most {MOST_LANES} robots; the table has the totals of the CSV file.",
        table,
        state_shares(table),
        partial(draw_timeline, table),
    )


def _micro(groups: Groups, suffix: str) -> Iterator[TableOrFigure]:
    table = micro_table(groups)
    if table.rows:
        run = next(iter(groups.values()))[0]
        title = f"Micro-events of {run.robots[0].name}, seed {run.seed}"
        yield TableOrFigure(
            f"micro-events{suffix}",
            title,
            "Events 'step' of one robot: rate_bps, push_share, staleness, drawn at the end of each step; grey: the "
            "trace under the robot's link towards the server, where the run left it.",
            table,
            table,
            partial(draw_micro, table, title),
        )


def _sensitivity(axis: str, table: Table, metrics: Sequence[Metric], conditions: Conditions) -> TableOrFigure:
    return TableOrFigure(
        f"sensitivity-{axis}",
        f"Sensitivity to the {axis}",
        f"As the summary, with another {axis}; all else as in: {conditions}. Whiskers: 95 % interval.",
        table,
        table,
        partial(draw_sensitivity, table, axis, metrics),
    )


def _suffixes(each: Sequence[Conditions]) -> list[str]:
    """What the names of the files under each conditions end in: nothing for a single one, else links and devices."""
    if len(each) == 1:
        return [""]
    found: list[str] = []
    for conditions in each:
        stream = conditions.feeding.stream if conditions.feeding else ""
        text = f"{conditions.links_name}-{conditions.devices_name}-{stream}"
        plain = re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-.")
        numbered = (f"-{plain}" if k == 1 else f"-{plain}-{k}" for k in itertools.count(1))
        found.append(next(name for name in numbered if name not in found))
    return found
