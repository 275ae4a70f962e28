"""CSV files with a header, read strictly: what is wrong is said with file, line and column."""

from __future__ import annotations

import csv
import gzip
import io
import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rowcast.config import as_number
from rowcast.errors import DataError

__all__ = ["Line", "Table", "expect_files"]


@dataclass(frozen=True)
class Line:
    """A line of a table."""

    path: Path
    line: int
    cells: Mapping[str, str]

    def error(self, column: str, what: str) -> DataError:
        return DataError(f"{self.path}, line {self.line}, column {column}: {what}")

    def text(self, column: str) -> str:
        if column not in self.cells:
            raise DataError(f"{self.path}: lacks the column {column!r}; it has {', '.join(self.cells)}")
        if not self.cells[column]:
            raise self.error(column, "expected a text, got an empty cell")
        return self.cells[column]

    def number(self, column: str, default: float | None = None) -> float:
        """A finite number of 0 or more; ``default``, if any, where the column is not there or its cell empty."""
        if default is not None and not self.cells.get(column):
            return default
        return self._number(column)

    def recorded(self, column: str, absent: float | None = None) -> float:
        """A finite number of 0 or more; NaN where the cell is empty: it was not recorded.

        Args:
            absent: the value where there is no such column; ``None``: that is an error.
        """
        if absent is not None and column not in self.cells:
            return absent
        return math.nan if self.cells.get(column) == "" else self._number(column)

    def _number(self, column: str) -> float:
        text = self.cells.get(column)
        if text is None:
            raise DataError(f"{self.path}: lacks the column {column!r}; it has {', '.join(self.cells)}")
        value = as_number(text)
        if value is None or not 0 <= value < math.inf:
            got = repr(text) if text else "an empty cell"
            comma = (
                "; write a point, not a comma" if as_number(text.replace(",", ".")) is not None and "," in text else ""
            )
            raise self.error(column, f"expected a number of 0 or more, got {got}{comma}")
        return value


@dataclass(frozen=True)
class Table:
    """A CSV file with a header; a ``.gz`` is unpacked on the way.

    A line with too few or too many cells is an error to whoever needs that line.
    """

    path: Path
    header: tuple[str, ...]
    lines: tuple[tuple[int, tuple[str, ...]], ...]

    @classmethod
    def read(cls, path: Path) -> Table:
        reader = csv.reader(io.StringIO(_content(path), newline=""))
        lines: list[tuple[int, tuple[str, ...]]] = []
        header: tuple[str, ...] | None = None
        try:
            for cells in reader:
                if not cells:
                    continue
                if header is None:
                    header = tuple(name.strip() for name in cells)
                    twice = next((name for name in header if header.count(name) > 1), None)
                    if twice is not None:
                        raise DataError(f"{path}, line {reader.line_num}: the column {twice!r} is there twice")
                    continue
                lines.append((reader.line_num, tuple(map(str.strip, cells))))
        except csv.Error as error:
            raise DataError(f"{path}, line {reader.line_num}: not CSV: {error}") from error
        if header is None:
            raise DataError(f"{path}, line 1: expected a header that names each column, got nothing")
        return cls(path, header, tuple(lines))

    @property
    def rows(self) -> Iterator[Line]:
        """All lines."""
        return (self._line(number, cells) for number, cells in self.lines)

    def of(self, run: str) -> Iterator[Line]:
        """The lines of one run; what is wrong with a line of another run is no matter of it."""
        place = self.header.index("run") if "run" in self.header else len(self.header)
        for number, cells in self.lines:
            # A line with a cell too many may have its run elsewhere, and one that names none may be of any.
            if run in cells or not "".join(cells[place : place + 1]):
                row = self._line(number, cells)
                if row.text("run") == run:
                    yield row

    def _line(self, number: int, cells: tuple[str, ...]) -> Line:
        if len(cells) != len(self.header):
            raise DataError(
                f"{self.path}, line {number}: expected {len(self.header)} cells, as the header has, got {len(cells)}; "
                "a number with a comma is two cells"
            )
        return Line(self.path, number, dict(zip(self.header, cells, strict=True)))


def _content(path: Path) -> str:
    try:
        content = path.read_bytes()
        return (gzip.decompress(content) if path.suffix.lower() == ".gz" else content).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not a text file: {error}") from error
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error


def expect_files(folder: Path, names: Sequence[str]) -> None:
    missing = [name for name in names if not (folder / name).exists()]
    if missing:
        raise DataError(
            f"{folder}: expected measured runs (docs/simulator.md has the files); missing: {', '.join(missing)}"
        )
