"""Plain versions of the kernels of :mod:`rowcast.rows.half_rows`: numpy, and the same bits as with numba."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rowcast.rows.intrinsics import array_at
from rowcast.rows.lanes import sums_of_rows
from rowcast.rows.plain import all_blocks, blocks, starts_of

__all__ = [
    "LARGEST",
    "LEAST_SCALE",
    "MOST_PATTERN",
    "MOST_SCALE",
    "MOST_SIZE",
    "accumulate",
    "expand",
    "sizes",
    "store",
    "subtract",
]

Vector = npt.NDArray[np.float32]
Numbers = npt.NDArray[np.int16]
Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bits = npt.NDArray[np.uint32]

#: The largest number of a row.
LARGEST = 32767
#: Exponents of scales, as float32 has them: 2^-126, and 2^113, of which 32767 are the largest number below 2^128.
LEAST_SCALE, MOST_SCALE = 1, 240
#: The largest size of an element that can be stored, and its pattern.
MOST_SIZE = np.float32(LARGEST * 2.0**113)
MOST_PATTERN = int(MOST_SIZE.view(np.uint32))


def _mixed(numbers: Bits) -> Bits:
    numbers = (numbers ^ (numbers >> np.uint32(16))) * np.uint32(0x7FEB352D)
    numbers = (numbers ^ (numbers >> np.uint32(15))) * np.uint32(0x846CA68B)
    return numbers ^ (numbers >> np.uint32(16))


def _tame(values: Vector) -> None:
    """Bring float32 [rows, n] back to what can be stored; only where something is beyond that."""
    sizes = np.abs(values)
    if not (sizes < MOST_SIZE).all():
        tame = np.where(sizes > MOST_SIZE, np.copysign(MOST_SIZE, values), np.float32(0.0))
        values[:] = np.where(sizes <= MOST_SIZE, values, tame)


def _scales_of(values: Vector) -> Vector:
    """The scale of each row of float32 [rows, n]."""
    peaks = (values.view(np.uint32) & np.uint32(0x7FFFFFFF)).max(axis=1)
    powers = np.clip((peaks >> np.uint32(23)).astype(np.int64) - 14, LEAST_SCALE, MOST_SCALE)
    scales = (powers << 23).astype(np.uint32).view(np.float32)
    powers += (peaks.view(np.float32) > np.float32(LARGEST) * scales) & (powers < MOST_SCALE)
    chosen: Vector = (powers << 23).astype(np.uint32).view(np.float32)
    chosen[peaks == 0] = 0
    return chosen


def _rounded(values: Vector, scales: Vector, rows: Integers, turn: int) -> Numbers:
    """The numbers of ``rows``, float32 [rows, n], with these scales."""
    seeds = _mixed(_mixed(np.full(1, turn, dtype=np.uint32)) ^ rows.astype(np.uint32))
    exact = values * np.where(scales == 0, np.float32(0.0), np.float32(1.0) / scales)[:, None]
    whole = exact.astype(np.int32)
    rest = exact - whole.astype(np.float32)
    places = np.arange(values.shape[1], dtype=np.uint32) * np.uint32(0x9E3779B9)
    chances = (_mixed(places[None] ^ seeds[:, None]) >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-24)
    whole += chances < rest
    whole -= chances < -rest
    return whole.astype(np.int16)


def _sizes_of(numbers: Numbers, scales: Vector) -> Vector:
    totals = np.abs(numbers.astype(np.int32)).sum(axis=1, dtype=np.int64)
    sums: Vector = (totals.astype(np.float64) * scales.astype(np.float64)).astype(np.float32)
    return sums


def _gained(values: Vector, numbers: Numbers, scales: Vector) -> Floats:
    gained: Floats = sums_of_rows(numbers.astype(np.float32) * scales[:, None] - values).astype(np.float64)
    return gained


def sizes(numbers: Numbers, scales: Vector, offsets: Integers, rows: Integers, sums: Vector) -> None:
    for block in blocks(offsets, rows):
        here = slice(block.first, block.last)
        sums[here] = _sizes_of(block.of(numbers), scales[rows[here]])


def expand(numbers: Numbers, scales: Vector, offsets: Integers, rows: Integers, values: Vector) -> None:
    starts = starts_of(offsets, rows)
    for block in blocks(offsets, rows):
        scale = scales[rows[block.first : block.last], None]
        block.of(values, int(starts[block.first]))[:] = block.of(numbers).astype(np.float32) * scale


def store(
    numbers: Numbers,
    scales: Vector,
    offsets: Integers,
    rows: Integers,
    values: Vector,
    results: tuple[Vector, Floats],
    turn: int,
) -> None:
    sums, books = results
    starts = starts_of(offsets, rows)
    for block in blocks(offsets, rows):
        here = slice(block.first, block.last)
        value = block.of(values, int(starts[block.first]))
        _tame(value)
        scale = _scales_of(value)
        number = _rounded(value, scale, rows[here], turn)
        sums[here] = _sizes_of(number, scale)
        block.of(numbers)[:], scales[rows[here]] = number, np.where(sums[here] == 0, np.float32(0.0), scale)
        books[rows[here]] += _gained(value, number, scale)


def accumulate(
    pending: tuple[Numbers, Vector],
    origin: Vector,
    places: Integers,
    first_rows: Integers,
    weights: Vector,
    offsets: Integers,
    results: tuple[Vector, Floats],
    span: tuple[int, int, int],
) -> float:
    numbers, scales = pending
    abs_sums, computed = results
    moved = 0.0
    tensor = int(np.searchsorted(first_rows, span[0], side="right")) - 1
    first = span[0]
    while first < span[1]:
        last = min(int(first_rows[tensor + 1]), span[1])
        start = int(offsets[first_rows[tensor]])
        source = array_at(places[tensor], int(offsets[last]) - start)
        for block in all_blocks(offsets[first : last + 1]):
            here = slice(first + block.first, first + block.last)
            rows, weight = np.arange(here.start, here.stop, dtype=np.int64), weights[here].astype(np.float64)
            step = block.of(origin) - block.of(source, block.begin - start)
            number = block.of(numbers)
            value = number.astype(np.float32) * scales[here, None] + weights[here, None] * step
            _tame(value)
            scale = _scales_of(value)
            number[:] = _rounded(value, scale, rows, span[2])
            abs_sums[here] = _sizes_of(number, scale)
            scales[here] = np.where(abs_sums[here] == 0, np.float32(0.0), scale)
            computed[here] += weight * sums_of_rows(step) + _gained(value, number, scale)
            moved += float((weight * sums_of_rows(np.abs(step))).sum())
        first, tensor = last, tensor + 1
    return moved


def subtract(
    places: Integers,
    starts: Integers,
    image: Vector,
    vector: Vector,
    minus: tuple[Numbers, Vector],
    times: Vector,
    offsets: Integers,
    rows: Integers,
) -> None:
    numbers, scales = minus
    for tensor, row in rows:
        first, last = offsets[row], offsets[row + 1]
        less = numbers[first:last].astype(np.float32) * scales[row]
        image[first:last] = vector[first:last] - times[row] * less
        array_at(places[tensor], last - starts[tensor])[first - starts[tensor] :] = image[first:last]
