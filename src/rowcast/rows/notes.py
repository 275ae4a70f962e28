"""Rows that were noted and are added later, all in one call: kernels for :mod:`rowcast.delivery.arrivals`."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rowcast.rows import plain
from rowcast.rows.compiling import without_numba
from rowcast.rows.kernels import compiled_serial

__all__ = ["NO_FLOOR", "Notes", "note", "replay"]

#: Of each noted row: its number, where its values begin (-1: it has none), its floor (-1: none) and its iteration.
Notes = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int32], npt.NDArray[np.int64]]

#: In place of the floors of rows that have none.
NO_FLOOR = np.zeros(0, dtype=np.int32)


@compiled_serial
@without_numba(plain.note)
def note(
    notes: Notes,
    place: int,
    rows: npt.NDArray[np.int64],
    start: int,
    offsets: npt.NDArray[np.int64],
    floor: npt.NDArray[np.int32],
    iteration: int,
) -> None:
    """Write into ``notes``, from ``place`` on, which rows follow.

    Args:
        notes: what is known of each noted row.
        place: where to begin.
        rows: the rows.
        start: where the values of the first of them begin, behind which those of the others lie; -1: they have none.
        offsets: int64 [rows + 1], the layout's.
        floor: int32 [k], their floors; empty: they have none.
        iteration: to which they belong.
    """
    numbers, starts, floors, iterations = notes
    for k in range(len(rows)):
        i = rows[k]
        numbers[place + k] = i
        starts[place + k] = start
        floors[place + k] = floor[k] if len(floor) else -1
        iterations[place + k] = iteration
        if start >= 0:
            start += offsets[i + 1] - offsets[i]


@compiled_serial
@without_numba(plain.replay)
def replay(
    vector: npt.NDArray[np.float32],
    offsets: npt.NDArray[np.int64],
    values: npt.NDArray[np.float32],
    notes: Notes,
    span: tuple[int, int],
    limit: int,
    stamps: npt.NDArray[np.int32],
    changed: npt.NDArray[np.bool_],
) -> int:
    """Add noted rows to ``vector`` in their order, those of an iteration beyond ``limit`` left out.

    A row with a floor is lacked from now on; one that was lacked before keeps its stamp.

    Args:
        vector: float32 [elements], what the rows are added to.
        offsets: int64 [rows + 1], the layout's.
        values: float32, what was noted of all rows.
        notes: what is known of each noted row.
        span: the first noted row, and the one behind the last.
        limit: an iteration.
        stamps, changed: int32 and bool [rows], as :class:`rowcast.delivery.arrivals.Arrivals` has them; ``changed`` is
            empty where nothing is stamped.

    Returns:
        The oldest stamp of the rows with a floor; 2**31 - 1 where there is none.
    """
    rows, starts, floors, iterations = notes
    oldest = np.int64(2147483647)
    for k in range(span[0], span[1]):
        if iterations[k] > limit:
            continue
        i = rows[k]
        if floors[k] >= 0 and len(changed) > 0:
            if not changed[i]:
                stamps[i] = floors[k]
                changed[i] = True
            oldest = min(oldest, np.int64(stamps[i]))
        if starts[k] >= 0:
            row = vector[offsets[i] : offsets[i + 1]]
            source = values[starts[k] : starts[k] + len(row)]
            for j in range(len(row)):
                row[j] += source[j]
    return int(oldest)
