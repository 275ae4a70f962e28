"""Loops of the code ``elements`` that find the threshold with which what is beyond it fits into a room."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from rowcast.codecs.base import INDEX_BYTES
from rowcast.codecs.element_loops import BINS, SHIFT, gap_bytes, head_bytes, histogram
from rowcast.rows.kernels import compiled_serial

__all__ = ["Candidates", "find_candidates", "lowest_threshold", "sizes_above"]

#: Places of elements in their rows, ascending in each, int64 [n]; where those of each row begin, int64 [rows + 1]; and
#: from which pattern on an element is one of them.
Candidates: TypeAlias = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], int]

_MASK = np.uint32(0x7FFFFFFF)


@compiled_serial
def find_candidates(
    patterns: npt.NDArray[np.uint32], offsets: npt.NDArray[np.int64], rows: npt.NDArray[np.int64], most: int
) -> Candidates:
    """The largest elements of ``rows`` other than 0, ``most`` of them at most: equal ones all or none."""
    bins = np.zeros(BINS, dtype=np.int64)
    for row in rows:
        histogram(patterns[offsets[row] : offsets[row + 1]], bins)
    place = BINS
    count = 0
    while place > 0 and count + bins[place - 1] <= most:
        place -= 1
        count += bins[place]
    least = max(place << SHIFT, 1)
    places = np.empty(count, dtype=np.int64)
    starts = np.zeros(len(rows) + 1, dtype=np.int64)
    found = 0
    for k in range(len(rows)):
        row = patterns[offsets[rows[k]] : offsets[rows[k] + 1]]
        for j in range(len(row)):
            if np.int64(row[j] & _MASK) >= least:
                places[found] = j
                found += 1
        starts[k + 1] = found
    return places[:found], starts, least


@compiled_serial
def sizes_above(
    patterns: npt.NDArray[np.uint32],
    offsets: npt.NDArray[np.int64],
    rows: npt.NDArray[np.int64],
    candidates: Candidates,
    least: int,
    threshold: int,
    limits: npt.NDArray[np.int64],
) -> int:
    """What each row takes at most with its elements from ``threshold`` (a pattern) on, into ``limits``.

    Rows without one take nothing, but the first ``least``, which take one element. None that takes something takes less
    than its largest element may wherever it is: what is in a row may change.

    Returns:
        The sum, with what the index of these rows takes.
    """
    places, starts, _ = candidates
    total = 0
    for k in range(len(rows)):
        first = offsets[rows[k]]
        count = 0
        gaps = 0
        before = -1
        for p in range(starts[k], starts[k + 1]):
            j = places[p]
            if np.int64(patterns[first + j] & _MASK) >= threshold:
                gaps += gap_bytes(j - before - 1)
                before = j
                count += 1
        limit = 0
        if count > 0 or k < least:
            limit = 3 + gap_bytes(offsets[rows[k] + 1] - first - 1)
            total += INDEX_BYTES
        if count > 1:
            limit = max(limit, head_bytes(count) + 2 + gaps + count)
        limits[rows[k]] = limit
        total += limit
    return total


@compiled_serial
def lowest_threshold(
    patterns: npt.NDArray[np.uint32],
    offsets: npt.NDArray[np.int64],
    rows: npt.NDArray[np.int64],
    candidates: Candidates,
    least: int,
    room: float,
    limits: npt.NDArray[np.int64],
) -> tuple[int, int]:
    """The lowest threshold with which everything fits into ``room`` bytes; if nothing does, one above all elements.

    Returns:
        Its pattern, and that of the largest element of all.
    """
    low = candidates[2]
    largest = np.uint32(0)
    for row in rows:
        for j in range(offsets[row], offsets[row + 1]):
            largest = max(largest, patterns[j] & _MASK)
    top = int(largest)
    if sizes_above(patterns, offsets, rows, candidates, least, low, limits) <= room:
        return low, top
    high = max(top + 1, low)
    while high - low > 1:
        middle = (low + high) // 2
        if sizes_above(patterns, offsets, rows, candidates, least, middle, limits) <= room:
            high = middle
        else:
            low = middle
    return high, top
