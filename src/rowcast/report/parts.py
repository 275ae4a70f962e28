"""What a page of a report is made of: sections of figures with their numbers, and of tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rowcast.report.table import Table, Value, shown, table_of

__all__ = ["Section", "TableOrFigure", "across", "targets_part", "with_interval", "with_levels"]

#: Measures that a page has room for side by side.
MOST_ACROSS = 10
#: An interval that is narrower than this share of its mean is rounding.
_NOISE = 1e-12


@dataclass(frozen=True)
class TableOrFigure:
    """A figure with its numbers, or a table alone.

    Attributes:
        name: of its files, without the suffix.
        title, caption: of the page; the caption says which numbers of the journals it is made from.
        numbers: what the CSV file holds; ``shown``: the same as a table of the page has them.
        draw: writes the figure to a path; ``None`` for a table.
    """

    name: str
    title: str
    caption: str
    numbers: Table
    shown: Table
    draw: Callable[[Path], None] | None = None


@dataclass(frozen=True)
class Section:
    """A part of the page under one heading."""

    title: str
    parts: tuple[TableOrFigure, ...]


def targets_part(name: str, level: str, by: str, where: str, targets: Table) -> Iterator[TableOrFigure]:
    """A table of the time and energy until a level is kept, if there is one.

    Args:
        name: of its file.
        level: of what, in words.
        by: what tells its lines apart, in words.
        where: the runs whose levels they are, in words.
        targets: its lines.
    """
    if targets.rows:
        title = f"Time and energy until a level of the {level} is kept, by {by}"
        yield TableOrFigure(
            name,
            title,
            f"As the targets by policy; the levels are those of the runs of this {where}.",
            targets,
            targets,
        )


def across(summary: Table) -> Table:
    """Measures with a line for each policy, as one reads them; of many measures each has a line."""
    measures = summary.distinct("measure")

    def line(policy: str) -> list[Value]:
        own = summary.where(policy=policy)
        found = [own.where(measure=measure).rows for measure in measures]
        written = [with_interval(*rows[0][-4:]) if rows else "" for rows in found]
        return [policy, *written, max(int(count) for count in own.numbers("seeds"))]

    columns = ("policy", *measures, "seeds")
    lines = [line(policy) for policy in summary.distinct("policy")]
    if len(measures) <= MOST_ACROSS:
        return table_of(columns, lines)
    header, *turned = zip(columns, *lines, strict=True)
    return table_of(("measure", *map(str, header[1:])), turned)


def with_levels(
    columns: Sequence[str], parts: Mapping[str, tuple[str, ...]], numbers: Table, targets: Table, unit: str
) -> Table:
    """Measures with a line for each group of runs, as one reads them, behind the time to each level of a metric.

    Args:
        columns: what groups differ in; ``parts``: of each group, by its name.
        numbers: those columns, the measures, and their means.
        targets: of the same names, as :func:`rowcast.report.targets.target_table` gives them.
        unit: of the levels.
    """
    levels = targets.distinct(targets.columns[0])
    unit = f" {unit}" if unit else ""
    measures = numbers.distinct("measure")

    def line(name: str, own_parts: tuple[str, ...]) -> list[Value]:
        own = numbers.where(**dict(zip(columns, own_parts, strict=True)))
        reached = targets.where(policy=name, until_then="seconds")
        times = {str(row[0]): f"{row[3]} {with_interval(*row[-4:])}".strip() for row in reached.rows}
        written = [with_interval(*own.where(measure=measure).rows[0][-4:]) for measure in measures]
        return [*own_parts, *(times[level] for level in levels), *written, max(map(int, own.numbers("seeds")))]

    header = [*columns, *(f"time to {level}{unit} (s)" for level in levels), *measures, "seeds"]
    return table_of(header, (line(name, own_parts) for name, own_parts in parts.items()))


def with_interval(mean: Value, low: Value, high: Value, count: Value) -> str:
    if mean is None:
        return ""
    assert isinstance(mean, float)
    if not isinstance(high, float):
        return shown(mean)
    half = high - mean
    return f"{shown(mean)} ± {shown(half if half > _NOISE * abs(mean) else 0.0)}"
