"""The section of a page on runs with adaptive top-k, beside those without."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from rowcast.metric import Metric
from rowcast.report.comparison import over_seeds
from rowcast.report.measures import Measure, at_the_end, step_count, step_values, words_of
from rowcast.report.parts import Section, TableOrFigure, targets_part, with_levels
from rowcast.report.table import BOUNDS, Table, table_of
from rowcast.report.targets import target_table
from rowcast.report.values import Conditions, Experiment, Groups, Run

__all__ = ["PARTS", "TopKGroup", "topk_groups", "topk_measures", "topk_sections", "topk_table"]

#: What runs under one conditions may differ in.
PARTS = ("top-k", "policy")


@dataclass(frozen=True)
class TopKGroup:
    """Runs that differ in policy and top-k only, with some top-k among them.

    Attributes:
        conditions: all else.
        groups: the runs of each, by a name.
        parts: of each name the top-k ('' for none) and the policy.
    """

    conditions: Conditions
    groups: Groups
    parts: Mapping[str, tuple[str, ...]]


def topk_groups(experiment: Experiment) -> list[TopKGroup]:
    """The runs of which some have top-k, by all else; in the order of the settings."""
    found: dict[Conditions, dict[tuple[str, ...], list[Run]]] = {}
    for run in experiment.runs:
        by_parts = found.setdefault(replace(run.conditions, topk=""), {})
        by_parts.setdefault((run.conditions.topk, run.policy), []).append(run)
    return [_group(conditions, by_parts) for conditions, by_parts in found.items() if any(topk for topk, _ in by_parts)]


def _group(conditions: Conditions, by_parts: Mapping[tuple[str, ...], Sequence[Run]]) -> TopKGroup:
    names = {f"{policy}, top-k {topk or 'none'}": (topk, policy) for topk, policy in by_parts}
    groups = {name: sorted(by_parts[parts], key=lambda run: run.seed) for name, parts in names.items()}
    return TopKGroup(conditions, groups, names)


def topk_measures(metrics: Sequence[Metric]) -> tuple[Measure, ...]:
    """What the table of top-k lists of each run."""
    return (
        *map(at_the_end, metrics),
        Measure("CNC ratio (%)", _compressed_share, differs=True),
        Measure("floats sent (%)", _sent_share, differs=True),
    )


def _compressed_share(run: Run) -> float | None:
    """Of the steps of all robots that have a gradient; without top-k none is compressed."""
    if not run.conditions.topk:
        return 0.0 if step_count(run) else None
    compressed = step_values(run, "compressed")[step_values(run, "floats") > 0]
    return 100 * float(compressed.mean()) if len(compressed) else None


def _sent_share(run: Run) -> float | None:
    """Of the numbers of the same gradients, whole; an index counts as a number."""
    if not run.conditions.topk:
        return 100.0 if step_count(run) else None
    sent, whole = (float(np.nansum(step_values(run, name))) for name in ("floats", "gradient_floats"))
    return 100 * sent / whole if whole else None


def topk_table(group: TopKGroup, metrics: Sequence[Metric]) -> Table:
    """What the runs came to."""
    rows = (
        (*group.parts[name], each.name, *over_seeds(own, each.of))
        for name, own in group.groups.items()
        for each in topk_measures(metrics)
    )
    return table_of((*PARTS, "measure", *BOUNDS), rows)


def topk_sections(experiment: Experiment) -> list[Section]:
    """One section with a table for each conditions; none where nobody has top-k."""
    groups = topk_groups(experiment)
    names = [""] if len(groups) == 1 else [f"-{place}" for place in range(1, len(groups) + 1)]
    parts = [
        part for group, name in zip(groups, names, strict=True) for part in _parts(group, experiment.metrics, name)
    ]
    return [Section("Adaptive top-k", tuple(parts))] if parts else []


def _parts(group: TopKGroup, metrics: Sequence[Metric], suffix: str) -> Iterator[TableOrFigure]:
    primary = metrics[0]
    numbers, targets = topk_table(group, metrics), target_table(group.groups, primary)
    yield TableOrFigure(
        f"topk{suffix}",
        f"Gradients of which only a part is used: {group.conditions}",
        "Events 'step' of all robots: compressed steps over all (CNC ratio), floats over gradient_floats: what a "
        "system would send that exchanges gradients, an index counted as a number. What travelled is the code of the "
        "policy. "
        f"Time until a level of the {words_of(primary)} is kept: as the targets by policy, '>' is a bound. Mean and "
        "95 % interval over seeds.",
        numbers,
        with_levels(PARTS, group.parts, numbers, targets, primary.unit),
    )
    yield from targets_part(f"topk-targets{suffix}", words_of(primary), "top-k", "table", targets)
