"""A run as one long table: a row for each value, as CSV or Parquet."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from pathlib import Path

from rowcast.export.moments import Moment
from rowcast.libraries import needing

__all__ = ["COLUMNS", "write_csv", "write_parquet"]

#: Of the table, in their order.
COLUMNS = ("time_s", "robot", "iteration", "series", "value", "unit", "text")
#: Rows that are packed together in a Parquet file.
_GROUP = 100_000

Row = tuple[float, str, int | None, str, float | None, str, str | None]


def _rows(moment: Moment) -> Iterator[Row]:
    t, iteration = moment.t, moment.iteration
    for value in moment.values:
        yield t, moment.who, iteration, value.series, value.number, value.unit, value.text or None
    if (line := moment.line) is not None:
        yield t, line.who, iteration, f"event/{line.event}", None, "", line.text


def write_csv(moments: Iterable[Moment], path: Path) -> None:
    """Write a CSV file; an empty cell: no number, no text, or an iteration that is not known.

    Raises:
        OSError: the file cannot be written.
    """
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for moment in moments:
            writer.writerows(_rows(moment))


def write_parquet(moments: Iterable[Moment], path: Path) -> None:
    """Write a Parquet file, in groups of rows.

    Raises:
        ConfigError: the library is not installed.
        OSError: the file cannot be written.
    """
    with needing("an export to parquet", "parquet"):
        import pyarrow as pa
        import pyarrow.parquet as pq
    names = pa.dictionary(pa.int32(), pa.string())
    kinds = (pa.float64(), names, pa.int64(), names, pa.float64(), names, pa.string())
    schema = pa.schema([pa.field(name, kind) for name, kind in zip(COLUMNS, kinds, strict=True)])
    rows: list[Row] = []

    def flush() -> None:
        columns = list(zip(*rows, strict=True)) if rows else [()] * len(COLUMNS)
        arrays = [pa.array(column, kind) for column, kind in zip(columns, kinds, strict=True)]
        writer.write_table(pa.table(arrays, schema=schema))
        rows.clear()

    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for moment in moments:
            rows.extend(_rows(moment))
            if len(rows) >= _GROUP:
                flush()
        flush()
