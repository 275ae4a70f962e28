"""What tasks told beside their metrics: how often each kind of event happened, and the first of each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from rowcast.errors import visible
from rowcast.report.intervals import interval
from rowcast.report.parts import TableOrFigure, with_interval
from rowcast.report.table import BOUNDS, Table, Value, bounds, table_of
from rowcast.report.values import Groups, Run, Told

__all__ = ["kinds_told", "told_line", "told_part", "told_table"]

#: Kinds of events that a table has room for; the most frequent ones stay.
MOST_KINDS = 30


def kinds_told(run: Run) -> dict[str, int]:
    """How often each kind of event happened to the robots of a run, in order of the first of each."""
    found: dict[str, int] = {}
    for _, each in _in_order(run):
        found[each.what] = found.get(each.what, 0) + 1
    return found


def _in_order(run: Run) -> list[tuple[str, Told]]:
    """The events of all robots of a run, with the name of the robot, in order of time."""
    return sorted(((robot.name, each) for robot in run.robots for each in robot.told), key=lambda pair: pair[1].time_s)


def told_table(groups: Groups) -> Table:
    """How often each kind of event happened in a run, by policy; and of the first run that has one, the first."""
    rows: list[tuple[Value, ...]] = []
    kinds = _kinds(groups)
    for policy, runs in groups.items():
        counts, events = [kinds_told(run) for run in runs], [found for run in runs for found in _in_order(run)]
        for what in kinds:
            first = next(((robot, event) for robot, event in events if event.what == what), None)
            if first is not None:
                robot, event = first
                mean = bounds(interval([float(of_run.get(what, 0)) for of_run in counts]))
                rows.append((policy, what, *mean, robot, event.time_s, event.detail))
    return table_of(("policy", "what", *BOUNDS, "first_robot", "first_s", "first_detail"), rows)


def _kinds(groups: Groups) -> list[str]:
    """The kinds that the table lists, the most frequent first."""
    counts: dict[str, int] = {}
    for runs in groups.values():
        for run in runs:
            for what, count in kinds_told(run).items():
                counts[what] = counts.get(what, 0) + count
    return sorted(counts, key=lambda what: -counts[what])[:MOST_KINDS]


def told_part(groups: Groups, suffix: str, conditions: object, notes: list[str]) -> Iterator[TableOrFigure]:
    """The table of the page, if a task told anything.

    Args:
        groups: the runs.
        suffix: what the name of the file ends in.
        conditions: of the runs, in words.
        notes: take a sentence about what was left out.
    """
    table = told_table(groups)
    if not table.rows:
        return
    kinds = {what for runs in groups.values() for run in runs for what in kinds_told(run)}
    if len(kinds) > MOST_KINDS:
        notes.append(f"what the tasks told, {conditions}: {len(kinds) - MOST_KINDS} of {len(kinds)} kinds of events")
    shown = (
        (policy, what, with_interval(*mean), f"{robot}, {time_s:.4g} s: {detail}")
        for policy, what, *mean, robot, time_s, detail in table.rows
    )
    yield TableOrFigure(
        f"told{suffix}",
        "What the tasks told",
        "Events 'task' of all robots: how often in a run, mean and 95 % interval over seeds, and the first one of the "
        "first seed that has any.",
        table,
        table_of(("policy", "what", "times in a run", "the first"), shown),
    )


def told_line(run: Run) -> str | None:
    """The same of one run, in a sentence; ``None``: nothing was told."""
    kinds: Mapping[str, int] = kinds_told(run)
    if not kinds:
        return None
    listed = sorted(kinds, key=lambda what: -kinds[what])[:MOST_KINDS]
    robot, first = _in_order(run)[0]
    each = ", ".join(f"{kinds[what]} x {what}" for what in listed)
    at = f"{robot} at {first.time_s:.0f} s, {first.what}: {first.detail}"
    return visible(f"{run.policy}: the task told {each}; the first: {at}")
