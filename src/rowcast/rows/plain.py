"""Plain versions of the kernels of this package: numpy, and the same bits as with numba.

Rows of one length that lie one behind the other are worked on together, as a matrix that shares the vector's memory
and holds at most :data:`BLOCK_ELEMENTS`: what is computed on the way never takes as much memory as a model.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from rowcast.rows.intrinsics import array_at
from rowcast.rows.lanes import sums_of_rows

__all__ = ["BLOCK_ELEMENTS", "Block", "all_blocks", "blocks", "blocks_of", "matrix", "starts_of"]

Vector = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Stamps = npt.NDArray[np.int32]
Flags = npt.NDArray[np.bool_]

#: Elements of a matrix of rows, at most, unless a single row has more.
BLOCK_ELEMENTS = 1 << 14


class Block(NamedTuple):
    """Rows of one length, one behind the other: ``rows[first:last]``, which begin at element ``begin``."""

    first: int
    last: int
    begin: int
    length: int

    def of(self, vector: npt.NDArray[Any], begin: int | None = None) -> npt.NDArray[Any]:
        """Their elements in a flat vector, [rows, length], sharing its memory; they begin elsewhere if told so."""
        start = self.begin if begin is None else begin
        return matrix(vector, start, self.last - self.first, self.length)


def matrix(vector: npt.NDArray[Any], begin: int, rows: int, length: int) -> npt.NDArray[Any]:
    """Elements of a flat vector from ``begin`` on as [rows, length], sharing its memory."""
    return vector[begin : begin + rows * length].reshape(rows, length)


def blocks_of(begins: Integers, lengths: Integers) -> Iterator[Block]:
    """Cut rows with these begins and lengths into blocks, in order."""
    if not len(begins):
        return
    apart = (begins[1:] != begins[:-1] + lengths[:-1]) | (lengths[1:] != lengths[:-1])
    edges = [0, *(np.flatnonzero(apart) + 1).tolist(), len(begins)]
    for first, last in itertools.pairwise(edges):
        begin, length = int(begins[first]), int(lengths[first])
        step = max(BLOCK_ELEMENTS // max(length, 1), 1)
        for k in range(first, last, step):
            yield Block(k, min(k + step, last), begin + (k - first) * length, length)


def blocks(offsets: Integers, rows: Integers) -> Iterator[Block]:
    """Cut ``rows`` of a layout with these offsets into blocks, in order."""
    return blocks_of(offsets[rows], offsets[rows + 1] - offsets[rows])


def all_blocks(offsets: Integers) -> Iterator[Block]:
    """The same for every row."""
    return blocks_of(offsets[:-1], np.diff(offsets))


def starts_of(offsets: Integers, rows: Integers) -> Integers:
    """Where each of ``rows`` begins when they lie one behind the other, and where the last ends, int64 [k + 1]."""
    starts = np.zeros(len(rows) + 1, dtype=np.int64)
    np.cumsum(offsets[rows + 1] - offsets[rows], out=starts[1:])
    return starts


def nothing(*arguments: object) -> None:
    """In place of what only helps the memory."""


def _book(step: Vector, weights: Vector, computed: Floats) -> float:
    """Note what is added to rows, float32 [rows, n] before its weights; returns its size."""
    total, distance = sums_of_rows(step), sums_of_rows(np.abs(step))
    computed += weights.astype(np.float64) * total
    return float((weights.astype(np.float64) * distance).sum())


def accumulate(
    pending: Vector,
    replica: Vector,
    source: Vector,
    weights: Vector,
    start: int,
    offsets: Integers,
    abs_sums: Vector,
    computed: Floats,
) -> float:
    moved = 0.0
    for block in all_blocks(offsets):
        here = slice(block.first, block.last)
        step = block.of(replica) - block.of(source, block.begin - start)
        moved += _book(step, weights[here], computed[here])
        row = block.of(pending)
        row += weights[here, None] * step
        abs_sums[here] = sums_of_rows(np.abs(row))
    return moved


def nonfinite(source: Vector) -> int:
    return sum(not np.isfinite(source[at : at + 4096]).all() for at in range(0, len(source), 4096))


def row_abs_sums(vector: Vector, offsets: Integers, abs_sums: Vector) -> None:
    for block in all_blocks(offsets):
        abs_sums[block.first : block.last] = sums_of_rows(np.abs(block.of(vector)))


def some_row_abs_sums(vector: Vector, offsets: Integers, rows: Integers, abs_sums: Vector) -> None:
    for block in blocks(offsets, rows):
        abs_sums[rows[block.first : block.last]] = sums_of_rows(np.abs(block.of(vector)))


def count_elements(offsets: Integers, rows: Integers) -> int:
    return int((offsets[rows + 1] - offsets[rows]).sum())


def lowest(numbers: Stamps) -> int:
    return int(numbers.min())


def gather_rows(source: Vector, offsets: Integers, rows: Integers) -> Vector:
    starts = starts_of(offsets, rows)
    values = np.empty(int(starts[-1]), dtype=np.float32)
    for block in blocks(offsets, rows):
        block.of(values, int(starts[block.first]))[:] = block.of(source)
    return values


def scatter_rows(values: Vector, target: Vector, offsets: Integers, rows: Integers) -> None:
    starts = starts_of(offsets, rows)
    for block in blocks(offsets, rows):
        block.of(target)[:] = block.of(values, int(starts[block.first]))


def copy_rows(source: Vector, target: Vector, offsets: Integers, rows: Integers) -> None:
    for block in blocks(offsets, rows):
        block.of(target)[:] = block.of(source)


def add_rows(vector: Vector, offsets: Integers, rows: Integers, values: Vector, sign: np.float32) -> None:
    starts = starts_of(offsets, rows)
    for block in blocks(offsets, rows):
        row = block.of(vector)
        row += sign * block.of(values, int(starts[block.first]))


def scale_rows(vector: Vector, offsets: Integers, factor: np.float32, gained: Floats) -> None:
    for block in all_blocks(offsets):
        row = block.of(vector)
        scaled = factor * row
        gained[block.first : block.last] += sums_of_rows(scaled - row)
        row[:] = scaled


def scattered_nonfinite(places: Integers, pieces: Integers, found: Flags) -> None:
    for tensor, begin, stop in pieces:
        if not np.isfinite(array_at(places[tensor], stop)[begin:stop]).all():
            found[tensor] = True


def scattered_differing(places: Integers, starts: Integers, vector: Vector, pieces: Integers, found: Flags) -> None:
    bits = vector.view(np.uint32)
    for tensor, begin, stop in pieces:
        part = array_at(places[tensor], stop)[begin:stop].view(np.uint32)
        if not np.array_equal(part, bits[starts[tensor] + begin : starts[tensor] + stop]):
            found[tensor] = True


def scattered_spread(places: Integers, starts: Integers, image: Vector, vector: Vector, pieces: Integers) -> None:
    for tensor, begin, stop in pieces:
        source = vector[starts[tensor] + begin : starts[tensor] + stop]
        image[starts[tensor] + begin : starts[tensor] + stop] = source
        array_at(places[tensor], stop)[begin:stop] = source


def scattered_spread_less(
    places: Integers,
    starts: Integers,
    image: Vector,
    vector: Vector,
    minus: Vector,
    times: Vector,
    offsets: Integers,
    rows: Integers,
) -> None:
    for tensor, row in rows:
        first, last = offsets[row], offsets[row + 1]
        image[first:last] = vector[first:last] - times[row] * minus[first:last]
        array_at(places[tensor], last - starts[tensor])[first - starts[tensor] :] = image[first:last]


def scattered_accumulate(
    pending: Vector,
    origin: Vector,
    places: Integers,
    first_rows: Integers,
    weights: Vector,
    offsets: Integers,
    results: tuple[Vector, Floats],
    span: tuple[int, int],
) -> float:
    abs_sums, computed = results
    moved = 0.0
    tensor = int(np.searchsorted(first_rows, span[0], side="right")) - 1
    first = span[0]
    while first < span[1]:
        last = min(int(first_rows[tensor + 1]), span[1])
        start = int(offsets[first_rows[tensor]])
        source = array_at(places[tensor], int(offsets[last]) - start)
        here = slice(first, last)
        moved += accumulate(
            pending, origin, source, weights[here], start, offsets[first : last + 1], abs_sums[here], computed[here]
        )
        first, tensor = last, tensor + 1
    return moved


def count_stamps(units: Integers, stamps: Stamps, order: Integers) -> bool:
    taken = stamps[units]
    if int(taken.max()) - int(taken.min()) >= 1 << 10:
        return False
    order[:] = units[np.argsort(taken, kind="stable")]
    return True


def value_keys(units: Integers, patterns: npt.NDArray[np.uint32], keys: Integers) -> None:
    bits = patterns[units].astype(np.int64)
    bits[bits == 0x80000000] = 0  # -0.0
    bits[bits & 0x7F800000 == 0x7F800000] = 0x7F800000  # not finite: +Inf
    keys[:] = ((0x7FFFFFFF - bits) << 32) | units


def quota(oldest: Integers, stamps: Stamps, row_bytes: Integers, quota_bytes: float, overdue_before: int) -> int:
    ends = np.cumsum(row_bytes[oldest])
    enough = (ends - row_bytes[oldest] >= quota_bytes) & (stamps[oldest] >= overdue_before)
    return int(enough.argmax()) if enough.any() else len(oldest)


Notes = tuple[Integers, Integers, Stamps, Integers]


def note(
    notes: Notes, place: int, rows: Integers, start: int, offsets: Integers, floor: Stamps, iteration: int
) -> None:
    numbers, starts, floors, iterations = notes
    here = slice(place, place + len(rows))
    numbers[here] = rows
    starts[here] = start + starts_of(offsets, rows)[:-1] if start >= 0 else start
    floors[here] = floor if len(floor) else -1
    iterations[here] = iteration


def replay(
    vector: Vector,
    offsets: Integers,
    values: Vector,
    notes: Notes,
    span: tuple[int, int],
    limit: int,
    stamps: Stamps,
    changed: Flags,
) -> int:
    numbers, starts, floors, iterations = notes
    oldest = 2147483647
    # A row may be noted several times: one after the other, in their order.
    for k in np.arange(span[0], span[1])[iterations[span[0] : span[1]] <= limit].tolist():
        i = numbers[k]
        if floors[k] >= 0 and len(changed) > 0:
            if not changed[i]:
                stamps[i] = floors[k]
                changed[i] = True
            oldest = min(oldest, int(stamps[i]))
        if starts[k] >= 0:
            row = vector[offsets[i] : offsets[i + 1]]
            row += values[starts[k] : starts[k] + len(row)]
    return oldest
