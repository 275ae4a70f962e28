"""Recorded streams: reading them, sharing them out, and scaling them without a look at what is still to come."""

from __future__ import annotations

import csv
import gzip
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rowcast.errors import ConfigError, DataError, visible

__all__ = ["Recording", "RunningScale", "as_number", "parts", "read_columns", "standardised"]

_AGAIN = "fetch the file again"
_CLIP = 3.0
_LEAST = 1e-6


@dataclass(frozen=True)
class Recording:
    """What one robot has recorded, in order of time.

    Attributes:
        inputs: ``(rows, features)`` float32.
        targets: ``(rows,)`` int64, or ``(rows, outputs)`` float32.
    """

    inputs: NDArray[np.float32]
    targets: NDArray[Any]


def read_columns(path: Path, numbers: Sequence[str], text: str | None = None) -> tuple[NDArray[np.float64], list[str]]:
    """Columns of a gzip'd CSV file, by the names in its first row.

    Args:
        path: the file.
        numbers: columns of numbers.
        text: a column that is taken as it is written; ``None``: none.

    Returns:
        the numbers ``(rows, columns)``, all finite, and the texts.

    Raises:
        DataError: no such file, cut off, a column is missing, or a cell holds no number; with the line.
    """
    columns = [*numbers, *([] if text is None else [text])]
    values: list[list[float]] = []
    texts: list[str] = []
    try:
        with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
            rows = csv.reader(file)
            head = next(rows, [])
            missing = [name for name in columns if name not in head]
            if missing:
                raise DataError(
                    f"{path}: line 1: expected the columns {', '.join(columns)}; lacks {', '.join(missing)}"
                )
            places = [head.index(name) for name in numbers]
            for row in rows:
                where = f"{path}: line {rows.line_num}"
                if len(row) != len(head):
                    raise DataError(f"{where}: expected {len(head)} columns, found {len(row)}; {_AGAIN}")
                values.append([as_number(row[place], where, head[place]) for place in places])
                if text is not None:
                    texts.append(row[head.index(text)])
    except (OSError, EOFError, zlib.error, UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"{path}: expected a whole gzip'd CSV file, found one that is missing, cut off or damaged ({error}); "
            f"{_AGAIN}"
        ) from error
    if not values:
        raise DataError(f"{path}: expected rows below the first, found none; {_AGAIN}")
    return np.asarray(values), texts


def as_number(cell: str, where: str, column: str) -> float:
    """The finite number in a cell.

    Raises:
        DataError: it is none; ``where`` and ``column`` are in the message.
    """
    try:
        value = float(cell)
    except ValueError:
        value = float("nan")
    if not np.isfinite(value):
        raise DataError(f"{where}: {column}: expected a finite number, found {visible(cell, 40)!r}; {_AGAIN}")
    return value


def parts(recordings: Sequence[Recording], index: int, workers: int) -> list[Recording]:
    """What robot ``index`` of ``workers`` sees, one after the other.

    With as many robots as recordings each has its own. More robots take turns row by row in the same one, so that all
    are at the same moment of it; with fewer, a robot that has seen one goes on with another.

    Raises:
        ConfigError: there are more robots than rows.
    """
    count = len(recordings)
    if workers <= count:
        return list(recordings[index::workers])
    mine = recordings[index % count]
    turn, sharers = index // count, -(-(workers - index % count) // count)
    if len(mine.targets) < sharers:
        raise ConfigError(f"a recording of {len(mine.targets)} rows is too short for {sharers} robots; take fewer")
    return [Recording(mine.inputs[turn::sharers], mine.targets[turn::sharers])]


def standardised(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Each row over mean and deviation of itself and of the rows before it, each value within -3..3.

    So a robot could do it while it drives. Deviations of what is yet to come would tell it about the future.

    Args:
        rows: ``(rows, features)``.
    """
    values = rows.astype(np.float64) - rows[0]
    counts = np.arange(1, len(values) + 1)[:, None]
    mean = np.cumsum(values, axis=0) / counts
    variance = np.maximum(np.cumsum(values**2, axis=0) / counts - mean**2, 0.0)
    scaled: NDArray[np.float32] = np.clip((values - mean) / (np.sqrt(variance) + _LEAST), -_CLIP, _CLIP).astype(
        np.float32
    )
    return scaled


class RunningScale:
    """What :func:`standardised` does, for one row after the other as they come."""

    def __init__(self) -> None:
        self._count = 0
        self._mean: NDArray[np.float64] | None = None
        self._squares: NDArray[np.float64] | None = None

    def scaled(self, row: NDArray[np.float32]) -> NDArray[np.float32]:
        """The next row ``(features,)`` over mean and deviation of itself and of those before it."""
        value = row.astype(np.float64)
        if self._mean is None or self._squares is None:
            self._mean, self._squares = np.zeros_like(value), np.zeros_like(value)
        self._count += 1
        off = value - self._mean
        self._mean += off / self._count
        self._squares += off * (value - self._mean)
        deviation = np.sqrt(self._squares / self._count)
        scaled: NDArray[np.float32] = np.clip((value - self._mean) / (deviation + _LEAST), -_CLIP, _CLIP).astype(
            np.float32
        )
        return scaled
