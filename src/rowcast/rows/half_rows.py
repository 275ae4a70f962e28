"""Rows of float32 kept in half the memory: 16-bit numbers, and a power of two for each row (algorithms.md 8.14).

Block floating point: the largest element of a row has 15 bits and a sign, where bfloat16 has 8 and float16 underflows
at the sizes of updates. Rows are expanded, changed as float32, and stored again. What does not change is the same bit
for bit however often that is done.

A number is rounded up or down at random, so that on the average it is what was stored: what is far below the step of
its row, as most of what is added to a row with one large element, would otherwise be rounded away each time anew. The
chance is drawn from a hash of the row, the place in it and a count of what was stored before: the same with numba and
without it. Whoever stores is told what rounding has added to each row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from rowcast.rows import plain_half
from rowcast.rows.compiling import compiled_serial, without_numba
from rowcast.rows.intrinsics import array_at, float_of_bits, pointer
from rowcast.rows.kernels import compiled, count_elements, in_parts
from rowcast.rows.layout import Layout, TensorSpec
from rowcast.rows.plain_half import LARGEST, LEAST_SCALE, MOST_PATTERN, MOST_SCALE, MOST_SIZE
from rowcast.rows.scattered import addresses_of

__all__ = ["HalfRows", "half_bytes"]

Vector = npt.NDArray[np.float32]
Numbers = npt.NDArray[np.int16]
Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


def half_bytes(layout: Layout) -> int:
    """Bytes of all rows of a layout in this form."""
    return 2 * layout.elements + 4 * layout.rows


class HalfRows:
    """The rows of a layout with content, all zero at first.

    Args:
        layout: the layout.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._numbers = np.zeros(layout.elements, dtype=np.int16)
        self._scales = np.zeros(layout.rows, dtype=np.float32)
        self._count = 0  # how often rows were stored

    def any(self) -> bool:
        """Whether an element is not zero."""
        return bool(self._scales.any())

    def sizes(self, rows: Integers) -> Vector:
        """Sum |element| of ``rows``, float32 [k]."""
        sums = np.empty(len(rows), dtype=np.float32)
        _sizes(self._numbers, self._scales, self._layout.offsets, rows, sums)
        return sums

    # -- expanded ----------------------------------------------------------------------------------------------

    def expand(self, rows: Integers, room: Vector | None = None) -> Vector:
        """``rows``, one behind the other, as float32; in ``room``, flat float32, where that is long enough."""
        count = count_elements(self._layout.offsets, rows)
        fits = room is not None and len(room) >= count
        values = room[:count] if room is not None and fits else np.empty(count, dtype=np.float32)
        _expand(self._numbers, self._scales, self._layout.offsets, rows, values)
        return values

    def __getitem__(self, part: slice) -> Vector:
        """Elements of whole rows, ``begin:end``, as a new flat float32 array; ``[:]``: all of them."""
        begin, end, _ = part.indices(self._layout.elements)
        first, last = np.searchsorted(self._layout.offsets, (begin, end))
        return self.expand(np.arange(first, last, dtype=np.int64))

    def groups(self, elements: int, rows: int | None = None) -> Iterator[slice]:
        """Cut the first ``rows`` (all) into slices of consecutive ones with so many elements, or of one row."""
        offsets, end, first = self._layout.offsets, self._layout.rows if rows is None else rows, 0
        while first < end:
            last = int(np.searchsorted(offsets, offsets[first] + elements, side="right")) - 1
            last = min(max(last, first + 1), end)
            yield slice(first, last)
            first = last

    def subtract_into(
        self,
        places: Integers,
        starts: Integers,
        image: Vector,
        vector: Vector,
        times: Vector,
        rows: Integers,
    ) -> None:
        """Write ``vector`` less ``times`` these rows into tensors and into ``image``.

        Args:
            places, starts: address of each tensor, and its first element in the layout, int64.
            image, vector: flat float32 [elements].
            times: how often each row is subtracted, float32 [rows].
            rows: of each row the tensor and its number, int64 [k, 2].
        """
        offsets = self._layout.offsets
        in_parts(
            lambda part, _: _subtract(
                places, starts, image, vector, (self._numbers, self._scales), times, offsets, rows[part]
            ),
            len(rows),
            self._layout.elements,
        )

    # -- stored ------------------------------------------------------------------------------------------------

    def store(self, rows: Integers, values: Vector, books: Floats) -> Vector:
        """Make ``rows`` what :meth:`expand` has returned, changed.

        Args:
            rows: int64 [k], each at most once.
            values: float32, one behind the other; used up. Where they are not finite the largest number is stored that
                can be, or 0 for NaN, which is no rounding.
            books: float64 [rows of the layout]: gains what rounding has added to each row.

        Returns:
            Sum |element| of each of the rows, float32 [k].
        """
        sums = np.empty(len(rows), dtype=np.float32)
        _store(self._numbers, self._scales, self._layout.offsets, rows, values, (sums, books), self._turn())
        return sums

    def clear(self, rows: Integers) -> None:
        """Make ``rows`` zero."""
        for row in rows.tolist():
            self._numbers[self._layout.offsets[row] : self._layout.offsets[row + 1]] = 0
        self._scales[rows] = 0

    def accumulate(
        self, origin: Vector, sources: Sequence[Vector], weights: Vector, abs_sums: Vector, computed: Floats
    ) -> float:
        """Add ``weights * (origin - sources)``, as :func:`rowcast.rows.scattered.accumulate_all`.

        ``computed`` gains what rounding has added as well.
        """
        layout = self._layout
        places, turn = addresses_of(sources, layout.tensors), self._turn()
        moved = self._add(origin, places, weights, (0, layout.parameter_rows), (abs_sums, computed), turn)
        if layout.buffers:
            self._add(origin, places, weights, (layout.parameter_rows, layout.rows), (abs_sums, computed), turn)
        return moved

    def accumulate_tensor(
        self, index: int, origin: Vector, source: Vector, weights: Vector, abs_sums: Vector, computed: Floats
    ) -> float:
        """The same for tensor ``index`` of the layout alone; weights, sums and books are those of the whole layout."""
        tensors = self._layout.tensors
        spec: TensorSpec = tensors[index]
        places = np.zeros(len(tensors), dtype=np.int64)
        places[index] = addresses_of([source], [spec])[0]
        rows = spec.first_row, spec.end_row
        return self._add(origin, places, weights, rows, (abs_sums, computed), self._turn())

    def _add(
        self,
        origin: Vector,
        places: Integers,
        weights: Vector,
        rows: tuple[int, int],
        results: tuple[Vector, Floats],
        turn: int,
    ) -> float:
        offsets, (first, last) = self._layout.offsets, rows
        moved = in_parts(
            lambda part, _: _accumulate(
                (self._numbers, self._scales),
                origin,
                places,
                self._layout.tensor_rows,
                weights,
                offsets,
                results,
                (first + part.start, first + part.stop, turn),
            ),
            last - first,
            int(offsets[last] - offsets[first]),
        )
        return float(sum(moved))

    def _turn(self) -> int:
        """A number for what is stored now."""
        self._count = (self._count + 1) & 0xFFFFFFFF
        return self._count


@compiled_serial
def _mixed(number: np.uint32) -> np.uint32:
    """A hash of 32 bits ("lowbias32" of Chris Wellons, public domain): each bit depends on every bit."""
    number = np.uint32(np.uint32(number ^ np.uint32(number >> np.uint32(16))) * np.uint32(0x7FEB352D))
    number = np.uint32(np.uint32(number ^ np.uint32(number >> np.uint32(15))) * np.uint32(0x846CA68B))
    return np.uint32(number ^ np.uint32(number >> np.uint32(16)))


@compiled_serial
def _peak_of(value: Vector) -> int:
    """The pattern of the largest element of a row without its sign; those of NaN are above that of Inf."""
    patterns = value.view(np.int32)
    peak = np.int32(0)
    for j in range(len(value)):
        peak = max(peak, np.int32(patterns[j] & np.int32(0x7FFFFFFF)))
    return np.int64(peak)  # type: ignore[return-value]


@compiled_serial
def _tame(value: Vector) -> None:
    """Bring a row back to what can be stored: sizes of 32767 times the largest scale at most; NaN is 0."""
    most = np.float32(MOST_SIZE)
    for j in range(len(value)):
        size = abs(value[j])
        if not size <= most:
            value[j] = np.copysign(most, value[j]) if size > most else np.float32(0.0)


@compiled_serial
def _scale_of(peak: int) -> np.float32:
    """The smallest power of two of which a number with this pattern is 32767 times as much at most."""
    power = min(max((peak >> 23) - 14, LEAST_SCALE), MOST_SCALE)
    scale = float_of_bits(np.uint32(power << 23))
    if float_of_bits(np.uint32(peak)) > np.float32(LARGEST) * scale and power < MOST_SCALE:
        scale = float_of_bits(np.uint32((power + 1) << 23))
    return scale  # type: ignore[no-any-return]


@compiled_serial
def _round(value: Vector, number: Numbers, scale: np.float32, seed: np.uint32) -> None:
    """Write ``value`` as multiples of ``scale`` into ``number``, rounded up or down at random.

    ``value`` becomes what that adds.
    """
    inverse = np.float32(1.0) / scale
    for j in range(len(value)):
        # Each step says its type: numba would go on with 64 bits, and half as many elements at once.
        mixed = np.uint32(np.uint32(np.uint32(j) * np.uint32(0x9E3779B9)) ^ seed)
        mixed = np.uint32(np.uint32(mixed ^ np.uint32(mixed >> np.uint32(16))) * np.uint32(0x7FEB352D))
        mixed = np.uint32(np.uint32(mixed ^ np.uint32(mixed >> np.uint32(15))) * np.uint32(0x846CA68B))
        mixed = np.uint32(mixed ^ np.uint32(mixed >> np.uint32(16)))
        chance = np.float32(np.int32(mixed >> np.uint32(8))) * np.float32(2.0**-24)
        exact = value[j] * inverse
        whole = np.int32(exact)
        rest = exact - np.float32(whole)  # exact, with the sign of the element
        up = np.int32(1) if chance < rest else np.int32(0)
        down = np.int32(1) if chance < -rest else np.int32(0)
        number[j] = np.int16(whole + up - down)
    # In the loop above it takes twice as long.
    for j in range(len(value)):
        value[j] = np.float32(number[j]) * scale - value[j]


@compiled_serial
def _size_of(number: Numbers, scale: np.float32) -> np.float32:
    """Sum |element| of a row; whole numbers, so that their order makes no difference."""
    total = np.int64(0)
    for j in range(len(number)):
        total += np.int64(abs(np.int32(number[j])))
    return np.float32(np.float64(total) * np.float64(scale))


# Of differences that are there already: a compiler that may reorder sums up both sides of a difference apart, which are
# thousands of times larger.
@compiled
def _sum_of(value: Vector) -> np.float32:
    total = np.float32(0.0)
    for j in range(len(value)):
        total += value[j]
    return total


@compiled_serial
def _keep(value: Vector, number: Numbers, scales: Vector, row: int, turn: np.uint32) -> tuple[np.float32, np.float64]:
    """Store a row; returns sum |element| of it, and the sum of what rounding has added. ``value`` is used up."""
    peak = _peak_of(value)
    if peak >= MOST_PATTERN:
        _tame(value)
        peak = _peak_of(value)
    if peak == 0:
        number[:] = 0
        scales[row] = np.float32(0.0)
        return np.float32(0.0), np.float64(0.0)
    scale = _scale_of(peak)
    _round(value, number, scale, _mixed(np.uint32(_mixed(turn) ^ np.uint32(row))))
    size = _size_of(number, scale)
    scales[row] = scale
    if size == np.float32(0.0):  # all of it was below the least scale
        scales[row] = np.float32(0.0)
    return size, np.float64(_sum_of(value))


@compiled_serial
@without_numba(plain_half.sizes)
def _sizes(numbers: Numbers, scales: Vector, offsets: Integers, rows: Integers, sums: Vector) -> None:
    for k in range(len(rows)):
        i = rows[k]
        sums[k] = _size_of(numbers[offsets[i] : offsets[i + 1]], scales[i])


@compiled_serial
@without_numba(plain_half.expand)
def _expand(numbers: Numbers, scales: Vector, offsets: Integers, rows: Integers, values: Vector) -> None:
    place = 0
    for k in range(len(rows)):
        i = rows[k]
        number, scale = numbers[offsets[i] : offsets[i + 1]], scales[i]
        value = values[place : place + len(number)]
        for j in range(len(number)):
            value[j] = np.float32(number[j]) * scale
        place += len(number)


@compiled_serial
@without_numba(plain_half.store)
def _store(
    numbers: Numbers,
    scales: Vector,
    offsets: Integers,
    rows: Integers,
    values: Vector,
    results: tuple[Vector, Floats],
    turn: int,
) -> None:
    sums, books = results
    place = 0
    for k in range(len(rows)):
        i = rows[k]
        number = numbers[offsets[i] : offsets[i + 1]]
        value = values[place : place + len(number)]
        sums[k], gained = _keep(value, number, scales, i, np.uint32(turn))
        books[i] += gained
        place += len(number)


@compiled
@without_numba(plain_half.accumulate)
def _accumulate(
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
    longest = 0
    for i in range(span[0], span[1]):
        longest = max(longest, offsets[i + 1] - offsets[i])
    room = np.empty(longest, dtype=np.float32)
    moved = 0.0
    tensor = np.searchsorted(first_rows, span[0], side="right") - 1
    for i in range(span[0], span[1]):
        while i >= first_rows[tensor + 1]:
            tensor += 1
        start = offsets[first_rows[tensor]]
        weight, scale = weights[i], scales[i]
        number = numbers[offsets[i] : offsets[i + 1]]
        now = origin[offsets[i] : offsets[i + 1]]
        proposed = array_at(pointer(places[tensor]), offsets[i + 1] - start)[offsets[i] - start :]
        value = room[: len(number)]
        total = np.float32(0.0)
        distance = np.float32(0.0)
        for j in range(len(value)):
            step = now[j] - proposed[j]
            total += step
            distance += abs(step)
            value[j] = np.float32(number[j]) * scale + weight * step
        abs_sums[i], gained = _keep(value, number, scales, i, np.uint32(span[2]))
        computed[i] += np.float64(weight) * np.float64(total) + gained
        moved += np.float64(weight) * np.float64(distance)
    return moved


# Serial: a compiler that may reorder multiplies ``often`` by the scale first, which rounds where that is tiny.
@compiled_serial
@without_numba(plain_half.subtract)
def _subtract(
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
    for r in range(len(rows)):
        tensor, row = rows[r]
        first, last = offsets[row], offsets[row + 1]
        part = array_at(pointer(places[tensor]), last - starts[tensor])[first - starts[tensor] :]
        kept, source, number = image[first:last], vector[first:last], numbers[first:last]
        often, scale = times[row], scales[row]
        for j in range(len(kept)):
            value = source[j] - often * (np.float32(number[j]) * scale)
            kept[j] = value
            part[j] = value
