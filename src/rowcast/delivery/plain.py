"""Plain versions of the kernels of this package: numpy, the same numbers as with numba."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rowcast.codecs.base import INDEX_BYTES

__all__ = ["SPARSE", "held", "mark_sent", "next_rows", "oldest_changed", "planned_ends", "touch"]

Rows = npt.NDArray[np.int64]
Stamps = npt.NDArray[np.int32]
Flags = npt.NDArray[np.bool_]

#: Rows of which not even every so many-th is sent are sorted.
SPARSE = 8

#: What :mod:`rowcast.delivery.floored` calls ``MAX_STAMP``.
_MAX_STAMP = int(np.iinfo(np.int32).max)


def oldest_changed(held_to: Stamps, changed: Flags) -> int:
    return int(held_to[changed].min(initial=_MAX_STAMP))


def touch(rows: Rows, floor: Stamps, held_to: Stamps, changed: Flags) -> int:
    new = ~changed[rows]
    held_to[rows[new]] = floor[new]
    changed[rows] = True
    return int(held_to[rows].min(initial=_MAX_STAMP))


def held(rows: Rows, held_to: Stamps, changed: Flags) -> Stamps:
    return np.where(changed[rows], held_to[rows], np.int32(_MAX_STAMP)).astype(np.int32)


def mark_sent(rows: Rows, floor: Stamps, held_to: Stamps, changed: Flags) -> None:
    held_to[rows] = floor[rows]
    changed[rows] = False


def next_rows(order: Rows, ends: Rows, place: int, limit: int, room: int) -> tuple[Rows, bool]:
    base = int(ends[place - 1]) if place else 0
    until = int(np.searchsorted(ends[place:], base + room, side="right")) + place
    chosen = order[place : min(max(until, place + 1), limit)]
    if int(chosen.max()) - int(chosen.min()) + 1 > SPARSE * len(chosen):
        return chosen.copy(), False
    return np.sort(chosen), True


def planned_ends(row_bytes: Rows, order: Rows) -> Rows:
    return np.cumsum(row_bytes[order] + INDEX_BYTES, dtype=np.int64)
