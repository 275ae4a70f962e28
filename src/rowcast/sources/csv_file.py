"""Samples from a CSV file: a row each."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rowcast.errors import ConfigError, DataError, SourceEnded, StreamGap, near_match, visible
from rowcast.sources.base import PulledSource
from rowcast.sources.lines import LineFile
from rowcast.sources.text import SourceText
from rowcast.streams import Positions, Sample

__all__ = ["CSV_OPTIONS", "CsvRow", "CsvSource", "ValidRange"]

CSV_OPTIONS = ("time", "valid", "follow", "delimiter")
#: Bytes that a row takes besides those of its line: two objects.
ROW_BYTES = 96


class Columns:
    """The columns of a CSV file, and how its lines are cut into fields."""

    __slots__ = ("delimiter", "index", "names")

    def __init__(self, names: Sequence[str], delimiter: str) -> None:
        self.names, self.delimiter = tuple(names), delimiter
        self.index = {name: k for k, name in enumerate(self.names)}

    def __reduce__(self) -> tuple[Any, ...]:
        return Columns, (self.names, self.delimiter)

    def fields(self, line: bytes) -> list[str]:
        """The fields of a line.

        Raises:
            ValueError: it is no text in UTF-8, or its quotes do not close.
        """
        text = line.decode()
        if '"' not in text:
            return text.split(self.delimiter)
        try:
            return next(csv.reader([text], delimiter=self.delimiter, strict=True))
        except csv.Error as error:
            raise ValueError(str(error)) from error

    def wrong(self, line: bytes) -> str:
        """What is wrong with a line; empty if nothing is."""
        try:
            if b'"' in line or not line.isascii():
                count = len(self.fields(line))
            else:
                count = line.count(self.delimiter.encode()) + 1
        except ValueError as error:
            return str(error)
        return "" if count == len(self.names) else f"{count} fields, the header has {len(self.names)}"

    def number(self, line: bytes, column: str) -> float:
        """A field as a number; NaN if it is none."""
        k = self.index[column]
        try:
            field: str | bytes
            if b'"' in line:
                field = self.fields(line)[k]
            else:
                field = line.split(self.delimiter.encode(), k + 1)[k]
            return float(field)
        except ValueError:
            return math.nan


class CsvRow(Mapping[str, str]):
    """A row by the names of its columns. It keeps the line, and cuts it when a field is asked for.

    >>> row = CsvRow(b"0.5,left", Columns(["x_m", "label"], ","))
    >>> row["label"], row.numbers(["x_m"])
    ('left', array([0.5]))
    """

    __slots__ = ("_columns", "line")

    def __init__(self, line: bytes, columns: Columns) -> None:
        self.line, self._columns = line, columns

    def __getitem__(self, name: str) -> str:
        return self._columns.fields(self.line)[self._columns.index[name]]

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns.names)

    def __len__(self) -> int:
        return len(self._columns.names)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, CsvRow):
            return self.line == other.line and self._columns.names == other._columns.names
        return NotImplemented

    def __hash__(self) -> int:
        return hash(self.line)

    def __bytes__(self) -> bytes:
        return self.line

    def __repr__(self) -> str:
        return f"CsvRow({visible(self.line.decode(errors='replace'), 80)})"

    def fields(self) -> list[str]:
        """All fields, in the order of the columns."""
        return self._columns.fields(self.line)

    def numbers(self, names: Sequence[str] | None = None) -> NDArray[np.float64]:
        """Fields as float64 numbers [columns].

        Args:
            names: of the columns; all if not given.

        Raises:
            DataError: there is no such column, or a field is no number.
        """
        fields = self.fields()
        try:
            if names is not None:
                fields = [fields[self._columns.index[name]] for name in names]
            return np.array([float(field) for field in fields])
        except KeyError as error:
            raise DataError(f"no column {error.args[0]!r}; {near_match(error.args[0], self._columns.names)}") from error
        except ValueError as error:
            raise DataError(f"row {self!r}: {error}; name the columns that are numbers") from error


@dataclass(frozen=True)
class ValidRange:
    """A rule: the number in ``column`` is from ``low`` to ``high``."""

    column: str
    low: float
    high: float

    @classmethod
    def parse(cls, text: str) -> ValidRange:
        """The rule that ``COLUMN:LOW..HIGH`` says.

        Raises:
            ConfigError: it is none.
        """
        column, colon, bounds = text.rpartition(":")
        low, dots, high = bounds.partition("..")
        try:
            rule = cls(column, float(low), float(high))
        except ValueError:
            rule = cls("", math.nan, math.nan)
        if not (column and colon and dots and rule.low <= rule.high):
            raise ConfigError(f"valid: expected COLUMN:LOW..HIGH as rssi_dbm:-100..0, got {visible(text)!r}")
        return rule

    def holds(self, number: float) -> bool:
        """Whether a number keeps the rule; NaN does not."""
        return self.low <= number <= self.high

    def __str__(self) -> str:
        return f"{self.column} outside {self.low:g}..{self.high:g}"


class CsvSource(PulledSource):
    """Rows of a CSV file with a header, plain or gzip'd; each line is a row, also where fields are quoted.

    The payload is a :class:`CsvRow`; the partition is the name of the file; a position is the number of lines behind
    the header, also of those that are dropped. Empty lines are passed over.

    Args:
        path: the file.
        time: column of the time, in seconds; without it the time of each sample is 0.
        valid: rules for rows; what breaks one is dropped and counted.
        follow: the file may grow: more is waited for, and a last line without an end is not read before it has one.
        delimiter: between the fields, one character.
        settings: clock and pause, see :class:`PulledSource`.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        time: str = "",
        valid: Sequence[ValidRange] = (),
        follow: bool = False,
        delimiter: str = ",",
        **settings: Any,
    ) -> None:
        self._path = Path(path)
        super().__init__(str(path), **settings)
        self._time, self._valid, self._follow = time, tuple(valid), follow
        self._delimiter = {"tab": "\t"}.get(delimiter, delimiter)
        if len(self._delimiter) != 1 or not self._delimiter.isascii() or self._delimiter in '"\r\n':
            raise ConfigError(f"source {self.name}: delimiter: expected one character or 'tab', got {delimiter!r}")
        if follow and self._path.suffix == ".gz":
            raise ConfigError(f"source {self.name}: a gzip'd file cannot be followed; leave follow=1 out")
        self._lines: LineFile | None = None
        self._columns: Columns | None = None

    @classmethod
    def from_text(cls, text: SourceText) -> CsvSource:
        """``FILE.csv?time=COLUMN&valid=COLUMN:LOW..HIGH&follow=1&delimiter=;``."""
        text.check(CSV_OPTIONS)
        return cls(
            text.place,
            time=text.one("time"),
            valid=[ValidRange.parse(rule) for rule in text.many("valid")],
            follow=text.flag("follow"),
            delimiter=text.one("delimiter", ","),
        )

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the columns; none before the header was read."""
        return self._columns.names if self._columns else ()

    def _begin(self, positions: Positions) -> Positions:
        self._lines, self._columns = LineFile(self._path, self._follow), None
        self._read_header()
        wanted = positions.get(self._path.name, 0)
        found = self._lines.skip(wanted) if self._columns else 0
        if found < wanted:
            raise StreamGap(
                f"{self._path}: to be read behind row {wanted}, and it has {found}; was it cut or replaced? Open it "
                "from its start to read it anew"
            )
        return Positions({self._path.name: wanted})

    def _next(self, at_most: int) -> list[Sample]:
        if self._columns is None:
            self._read_header()
            self._trouble = "" if self._columns else "it has no header line yet"
        if self._columns is None or self._lines is None:
            return []
        while lines := self._lines.lines(at_most):
            first = self._lines.taken - len(lines)  # the header is the first line: rows count from 1
            found = [self._sample(line, first + k) for k, line in enumerate(lines)]
            samples = [sample for sample in found if sample is not None]
            if samples:
                return samples
        if self._lines.cut and not self._trouble:
            if self._lines.incomplete:
                self._drops.count("cut off", f"the row behind row {self._lines.taken - 1}")
            self._troubled(
                f"it is cut off behind row {self._lines.taken - 1}, the rest cannot be read: {self._lines.cut}"
            )
        if not self._follow:
            raise SourceEnded(f"{self._path}: all {self._lines.taken - 1} rows were delivered")
        return []

    def _left(self) -> int | None:
        if self._columns is None or self._lines is None:
            return 0
        return self._lines.left()

    def _end(self) -> None:
        if self._lines is not None:
            self._lines.close()
            self._lines = None

    def _sample(self, line: bytes, position: int) -> Sample | None:
        """The sample of a line; ``None`` for one that is dropped, or empty."""
        columns = self._columns
        assert columns is not None
        line = line.removesuffix(b"\r")
        if not line:
            return None
        time_s = 0.0
        reason, why = "not a row", columns.wrong(line)
        if not why and self._time:
            time_s = columns.number(line, self._time)
            if not math.isfinite(time_s):
                reason, why = f"{self._time} is no number", "it has no time"
        if not why:
            broken = next((rule for rule in self._valid if not rule.holds(columns.number(line, rule.column))), None)
            if broken is None:
                return Sample(self._path.name, position, time_s, CsvRow(line, columns), len(line) + ROW_BYTES)
            reason, why = str(broken), "not valid"
        self._drops.count(reason, f"row {position}: {why}: {line[:120].decode(errors='replace')}")
        return None

    def _read_header(self) -> None:
        """Read the names of the columns, if they are there."""
        assert self._lines is not None
        lines = self._lines.lines(1)
        if not lines:
            if not self._follow:
                raise DataError(f"{self._path}: expected a header line with the names of columns, got nothing")
            return
        try:
            line = lines[0].removeprefix(b"\xef\xbb\xbf").removesuffix(b"\r")
            names = [name.strip() for name in Columns((), self._delimiter).fields(line)]
        except ValueError as error:
            raise DataError(f"{self._path}: the header cannot be read: {error}") from error
        if not all(names) or len(set(names)) < len(names) or all(map(_is_number, names)):
            raise DataError(
                f"{self._path}: expected a header line with different names of columns, "
                f"got {visible(','.join(names), 80)!r}"
            )
        for column in [self._time, *(rule.column for rule in self._valid)]:
            if column and column not in names:
                raise ConfigError(f"{self._path}: no column {visible(column)!r}; {near_match(column, names)}")
        self._columns = Columns(names, self._delimiter)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
