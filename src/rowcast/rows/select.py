"""Which rows travel, in which order: first the oldest up to the quota, then the rest by importance."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rowcast.rows import plain
from rowcast.rows.compiling import without_numba
from rowcast.rows.kernels import compiled_serial
from rowcast.rows.layout import Layout

__all__ = ["Selection", "descending", "oldest_first", "select", "usual_buffers", "value_per_byte"]

IntArray = npt.NDArray[np.int64]

#: Stamps that lie within so many iterations of each other are sorted by counting how often each occurs.
_COUNTED = 1 << 10

_NO_VALUES = np.zeros(0, dtype=np.uint32)


class Selection(NamedTuple):
    """Rows in the order in which they should travel.

    Attributes:
        order: int64 [k], row indices: the quota, then the rest.
        quota: how many of them are the quota and must travel.
    """

    order: IntArray
    quota: int


def oldest_first(units: IntArray, stamps: npt.NDArray[np.int32]) -> IntArray:
    """Ascending ``units``, at least one, sorted by ``stamps[units]`` ascending, ties by index."""
    order = np.empty(len(units), dtype=np.int64)
    if not _count_stamps(units, stamps, order):
        order = (stamps[units].astype(np.int64) << 32) | units  # both in one integer key
        order.sort()
        order &= 0xFFFFFFFF
    return order


@compiled_serial
@without_numba(plain.count_stamps)
def _count_stamps(units: IntArray, stamps: npt.NDArray[np.int32], order: IntArray) -> bool:
    """Write ``units`` into ``order``, oldest first; False where stamps lie too far apart to be counted."""
    low = high = stamps[units[0]]
    for unit in units:
        low, high = min(low, stamps[unit]), max(high, stamps[unit])
    if high - low >= _COUNTED:
        return False
    places = np.zeros(high - low + 2, dtype=np.int64)
    for unit in units:
        places[stamps[unit] - low + 1] += 1
    for k in range(1, len(places)):
        places[k] += places[k - 1]
    for unit in units:
        age = stamps[unit] - low
        order[places[age]] = unit
        places[age] += 1
    return True


def descending(units: IntArray, values: npt.NDArray[np.float32]) -> IntArray:
    """``units`` sorted by ``values[units]`` descending, ties by index. NaN and Inf come first.

    Values must be >= 0: the bits of such floats sort like integers.
    """
    order = np.empty(len(units), dtype=np.int64)
    _value_keys(units, values.view(np.uint32), order)
    _sort_keys(order)
    return order


def _sort_keys(keys: IntArray) -> None:
    """Put units in the place of their keys, in place, the lowest key first."""
    keys.sort()
    keys &= 0xFFFFFFFF


@compiled_serial
@without_numba(plain.value_keys)
def _value_keys(units: IntArray, patterns: npt.NDArray[np.uint32], keys: IntArray) -> None:
    """One integer for each unit, lower for a higher value, from the bits of the values."""
    for k, unit in enumerate(units):
        bits = np.int64(patterns[unit])
        if bits & 0x7F800000 == 0x7F800000:
            bits = np.int64(0x7F800000)  # not finite: +Inf
        elif bits == 0x80000000:
            bits = np.int64(0)  # -0.0
        # The sign bit of a value >= 0 is 0: 31 bits of value and 32 of index fill one positive integer.
        keys[k] = ((0x7FFFFFFF - bits) << 32) | unit


_LARGEST = np.finfo(np.float32).max


def value_per_byte(
    lengths: IntArray,
    abs_sums: npt.NDArray[np.float32],
    row_bytes: IntArray,
    ages: npt.NDArray[np.int32],
    slack: int,
    beta: float = 1.0,
) -> npt.NDArray[np.float32]:
    """First-order loss decrease bought by a byte of each row, times an age factor (algorithms.md 2.1).

    For the one-bit code with row scale m = mean|a|, <C(a), a> = n m^2, so the value of a row per byte is
    ``n m^2 / c * (1 + beta * age / slack)``. Shapes: all [rows].
    """
    means = abs_sums / lengths
    value = lengths * means * means / row_bytes
    if beta:
        value = value * (1.0 + beta * ages / max(slack, 1))
    # A diverged update may be beyond float32 when it is squared; it goes first all the same. A row that a peer has
    # stamped ahead of time is worth nothing yet.
    return np.clip(value, 0.0, _LARGEST).astype(np.float32)


def usual_buffers(layout: Layout, abs_sums: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """What rows are worth, those of buffers like the usual row of a parameter, by their length.

    A running mean moves by a thousand times what a weight does. Taken by their size, buffers would always go first, and
    where sizes are in units of their mean the rows of the parameters would all look the same.

    Args:
        abs_sums: sum |.| of each row, float32 [rows].

    Returns:
        The same array where there are no buffers.
    """
    if not layout.buffers:
        return abs_sums
    first = layout.parameter_rows
    usual = abs_sums[:first].sum() / np.float32(layout.offsets[first]) or np.float32(1.0)
    taken = abs_sums.copy()
    taken[first:] = np.where(abs_sums[first:] != 0, usual * layout.lengths[first:], 0)
    return taken


def select(
    eligible: IntArray,
    stamps: npt.NDArray[np.int32],
    values: npt.NDArray[np.float32] | None,
    row_bytes: IntArray,
    *,
    quota_bytes: float,
    overdue_before: int,
    units: IntArray | None = None,
) -> Selection:
    """Order the rows that may travel (algorithms.md 1.8, 2.1).

    The quota is the shortest prefix of the oldest units that holds ``quota_bytes``, lengthened so that it
    holds every overdue unit: oldest-first with a share of at least 1/S of the bytes sends each row once in any
    S iterations, and the overdue rule keeps the bound after a return or a change of policy as well. The rest
    follows by importance.

    Args:
        eligible: rows with something to send, ascending, int64 [k].
        stamps: iteration at which each row was last sent, int32 [rows].
        values: importance of each row (>= 0), float32 [rows]; ``None``: nothing beyond the quota is ordered,
            the rest stays oldest-first.
        row_bytes: encoded bytes of each row, int64 [rows].
        quota_bytes: bytes that must travel.
        overdue_before: rows whose stamp is below this must travel as well.
        units: int64 [units + 1], first row of each unit, when rows travel only together with the others of
            their unit (a tensor, the model); ``None``: each row for itself.

    Returns:
        The rows in order; empty exactly when ``eligible`` is.
    """
    if len(eligible) == 0:
        return Selection(eligible, 0)
    if units is not None:
        return _select_units(eligible, stamps, values, row_bytes, quota_bytes, overdue_before, units)
    order = np.empty(len(eligible), dtype=np.int64)
    patterns = _NO_VALUES if values is None else values.view(np.uint32)
    quota = _rank(eligible, stamps, patterns, row_bytes, float(quota_bytes), overdue_before, order)
    if quota < 0:  # the stamps lie too far apart to be counted
        order = oldest_first(eligible, stamps)
        quota = _quota(order, stamps, row_bytes, float(quota_bytes), overdue_before)
        if values is not None:
            _value_keys(order[quota:], patterns, order[quota:])
    if values is not None and quota < len(order):
        _sort_keys(order[quota:])
    return Selection(order, quota)


@compiled_serial
def _rank(
    eligible: IntArray,
    stamps: npt.NDArray[np.int32],
    patterns: npt.NDArray[np.uint32],
    row_bytes: IntArray,
    quota_bytes: float,
    overdue_before: int,
    order: IntArray,
) -> int:
    """Write ``eligible`` into ``order``, oldest first, and beyond the quota the keys of their values, if there are any.

    Returns:
        How many are the quota; -1 where stamps lie too far apart to be counted, and nothing was written.
    """
    if not _count_stamps(eligible, stamps, order):
        return -1
    quota = _quota(order, stamps, row_bytes, quota_bytes, overdue_before)
    if len(patterns):
        _value_keys(order[quota:], patterns, order[quota:])
    return quota


@compiled_serial
@without_numba(plain.quota)
def _quota(
    oldest: IntArray, stamps: npt.NDArray[np.int32], row_bytes: IntArray, quota_bytes: float, overdue_before: int
) -> int:
    """How many of ``oldest`` hold ``quota_bytes`` and every unit that is overdue."""
    filled = 0
    for k, unit in enumerate(oldest):
        if filled >= quota_bytes and stamps[unit] >= overdue_before:
            return k
        filled += row_bytes[unit]
    return len(oldest)


def _select_units(
    eligible: IntArray,
    stamps: npt.NDArray[np.int32],
    values: npt.NDArray[np.float32] | None,
    row_bytes: IntArray,
    quota_bytes: float,
    overdue_before: int,
    units: IntArray,
) -> Selection:
    """The same with units of several rows: a unit is as old as its oldest row, as valuable as its mean byte."""
    if len(units) == 2:  # one unit, the model: all of it is the quota, or nothing
        must = quota_bytes > 0 or int(stamps[eligible].min()) < overdue_before
        return Selection(eligible, len(eligible) if must else 0)
    unit_of = np.searchsorted(units, eligible, side="right") - 1
    present, first = np.unique(unit_of, return_index=True)
    sizes = np.add.reduceat(row_bytes[eligible], first)
    ages = np.minimum.reduceat(stamps[eligible], first).astype(np.int32)
    worth = None
    if values is not None:
        weighted = values[eligible].astype(np.float64) * row_bytes[eligible]
        worth = (np.add.reduceat(weighted, first) / sizes).astype(np.float32)
    picked = select(
        np.arange(len(present), dtype=np.int64),
        ages,
        worth,
        sizes,
        quota_bytes=quota_bytes,
        overdue_before=overdue_before,
    )
    counts = np.diff(np.append(first, len(eligible)))
    chosen = counts[picked.order]
    ends = np.cumsum(chosen)
    within = np.arange(int(ends[-1]), dtype=np.int64) - np.repeat(ends - chosen, chosen)
    order = eligible[np.repeat(first[picked.order], chosen) + within]
    return Selection(order, int(ends[picked.quota - 1]) if picked.quota else 0)
