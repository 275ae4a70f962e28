"""The numbers behind a figure: a small table that becomes a CSV file and a table of the page."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rowcast.errors import ConfigError, visible
from rowcast.report.intervals import Interval

__all__ = ["BOUNDS", "Table", "Value", "bounds", "shown", "table_of"]

Value = str | int | float | None

#: Columns of a mean over seeds.
BOUNDS = ("mean", "low", "high", "seeds")


def bounds(of: Interval) -> tuple[Value, ...]:
    """A mean over seeds, as the columns :data:`BOUNDS` have it."""
    return of.mean, of.low, of.high, of.count


@dataclass(frozen=True)
class Table:
    """A table: names of columns, with units where they have one, and rows of the same length."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Value, ...], ...]

    def values(self, column: str) -> list[Value]:
        """One column, from top to bottom."""
        place = self.columns.index(column)
        return [row[place] for row in self.rows]

    def numbers(self, column: str) -> list[float]:
        """One column of numbers; where it is empty, not-a-number."""
        return [float(value) if isinstance(value, int | float) else float("nan") for value in self.values(column)]

    def distinct(self, column: str) -> list[str]:
        """What stands in a column, each once, in order of appearance."""
        return list(dict.fromkeys(str(value) for value in self.values(column)))

    def where(self, **wanted: Value) -> Table:
        """The rows that have these values in these columns."""
        places = {self.columns.index(column): value for column, value in wanted.items()}
        kept = (row for row in self.rows if all(row[place] == value for place, value in places.items()))
        return Table(self.columns, tuple(kept))

    def save_csv(self, path: str | Path) -> None:
        """Write it with a line of names; what is empty stays empty, numbers have twelve digits, and a text that
        a spreadsheet would compute has an apostrophe in front.

        Raises:
            ConfigError: the file cannot be written.
        """
        try:
            with Path(path).open("w", encoding="utf-8", newline="") as stream:
                writer = csv.writer(stream, lineterminator="\n")
                writer.writerow(map(_written, self.columns))
                writer.writerows([_written(value) for value in row] for row in self.rows)
        except OSError as error:
            raise ConfigError(f"table {path}: cannot be written: {error.strerror}") from error


def table_of(columns: Sequence[str], rows: Iterable[Sequence[Value]]) -> Table:
    """A table from any rows; names that others chose are made visible."""
    return Table(tuple(columns), tuple(tuple(map(_shown, row)) for row in rows))


def _shown(value: Value) -> Value:
    return visible(value) if isinstance(value, str) else value


#: A cell that begins so is a formula for a spreadsheet, which would compute it.
_FORMULAS = ("=", "+", "-", "@", "\t", "\r")


def _written(value: Value) -> Value:
    if isinstance(value, str):
        return f"'{value}" if value.startswith(_FORMULAS) else value
    return f"{value:.12g}" if isinstance(value, float) else value


def shown(value: Any) -> str:
    """A value as the page shows it: four digits or so; the CSV file has them all."""
    if value is None:
        return ""
    if isinstance(value, float):
        if math.isnan(value):
            return "not a number"
        return f"{value:.4g}" if abs(value) < 1e4 else f"{value:.0f}"
    if isinstance(value, list | tuple):
        return ", ".join(map(shown, value))
    return visible(str(value), 2000)
