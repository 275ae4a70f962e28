"""Two bytes an element: float16 on a power-of-two scale for each row.

Plain float16 loses updates below 6e-8, which a small learning rate makes; with the row's own exponent taken
out first, the largest element of a row always has the full 11 bits.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rowcast.codecs import plain
from rowcast.codecs.base import Bytes, IntArray, Vector, expect_bytes, starts
from rowcast.errors import RemoteProtocolError
from rowcast.rows import Layout
from rowcast.rows.compiling import compiled_inline, without_numba
from rowcast.rows.intrinsics import float_of_bits
from rowcast.rows.kernels import PARALLEL_ELEMENTS, compiled, compiled_serial, in_parts, prefetch_next

__all__ = ["Half"]

#: float32 has 112 more exponents below 1 than float16: times 2**-112, the fields of both line up 13 bits apart,
#: and the subnormal numbers of one become those of the other.
_ALIGN = np.float32(2.0**-112)
_BACK = np.float32(2.0**112)
_ONE = 0x3C00
_FOUR = 0x4400
#: The bits of Inf as a float32; those of NaN are more.
_INFINITE = 0x7F800000


@compiled_serial
@without_numba(plain.half_size_of)
def _size_of(offsets: npt.NDArray[np.int64], rows: npt.NDArray[np.int64]) -> tuple[int, int]:
    """Elements of ``rows``, and of the longest of them."""
    elements = longest = 0
    for i in rows:
        length = offsets[i + 1] - offsets[i]
        elements += length
        longest = max(longest, length)
    return elements, longest


@compiled
@without_numba(plain.half_encode)
def _encode(
    vector: npt.NDArray[np.float32],
    offsets: npt.NDArray[np.int64],
    rows: npt.NDArray[np.int64],
    exponents: npt.NDArray[np.int8],
    halves: npt.NDArray[np.uint16],
    room: npt.NDArray[np.float32],
    consume: bool,
) -> None:
    patterns = vector.view(np.uint32)
    place = 0
    for k in range(len(rows)):
        prefetch_next(vector, offsets, rows, k)
        row = vector[offsets[rows[k]] : offsets[rows[k] + 1]]
        bits_of_row = patterns[offsets[rows[k]] : offsets[rows[k] + 1]]
        half = halves[place : place + len(row)]
        place += len(row)
        value = room[: len(row)]
        pattern = value.view(np.uint32)
        # Sizes of floats sort like their bits; NaN counts as nothing.
        peak = np.uint32(0)
        for j in range(len(row)):
            size = bits_of_row[j] & np.uint32(0x7FFFFFFF)
            size = np.uint32(0) if size > np.uint32(_INFINITE) else size
            peak = size if size > peak else peak
        # A row with Inf stays as it is; subnormal numbers count as the smallest of the others.
        exponent = np.int64(0)
        if peak != np.uint32(0) and peak != np.uint32(_INFINITE):
            exponent = np.int64(peak >> np.uint32(23)) - np.int64(126)
            exponent = np.int64(126) if exponent > 126 else exponent
        exponents[k] = exponent
        down = float_of_bits(np.uint32(127 - exponent) << np.uint32(23))  # exact: powers of two
        up = float_of_bits(np.uint32(127 + exponent) << np.uint32(23))
        # Loops of their own: in one, the compiler may multiply the two factors first, and they may overflow.
        for j in range(len(row)):
            value[j] = row[j] * down
        for j in range(len(row)):
            value[j] *= _ALIGN
        for j in range(len(row)):
            size = pattern[j] & np.uint32(0x7FFFFFFF)
            nearest_even = np.uint32(0x0FFF) + ((size >> np.uint32(13)) & np.uint32(1))
            sign = (pattern[j] >> np.uint32(16)) & np.uint32(0x8000)
            nearest = (size + nearest_even) >> np.uint32(13)
            # Beyond 2**126 no exponent is large enough: at most 1 is sent, the rest stays. NaN and Inf stay as well.
            nearest = np.uint32(_ONE) if np.uint32(_ONE) < nearest <= np.uint32(_FOUR) else nearest
            half[j] = np.uint16(nearest | sign)
        if consume:
            _expand(half, value, pattern, up)
            for j in range(len(row)):
                row[j] -= value[j]


@compiled
@without_numba(plain.half_decode_add)
def _decode_add(
    vector: npt.NDArray[np.float32],
    offsets: npt.NDArray[np.int64],
    rows: npt.NDArray[np.int64],
    exponents: npt.NDArray[np.int8],
    halves: npt.NDArray[np.uint16],
    room: npt.NDArray[np.float32],
    sign: np.float32,
) -> None:
    place = 0
    for k in range(len(rows)):
        row = vector[offsets[rows[k]] : offsets[rows[k] + 1]]
        half = halves[place : place + len(row)]
        place += len(row)
        value = room[: len(row)]
        up = float_of_bits(np.uint32(np.int64(exponents[k]) + 127) << np.uint32(23))
        _expand(half, value, value.view(np.uint32), up)
        for j in range(len(row)):
            row[j] += sign * value[j]


@compiled_inline
def _expand(
    half: npt.NDArray[np.uint16], value: npt.NDArray[np.float32], pattern: npt.NDArray[np.uint32], up: np.float32
) -> None:
    """For use in kernels: write what ``half`` says, times ``up``, into ``value``, of which ``pattern`` are the bits."""
    for j in range(len(half)):
        bits = np.uint32(half[j])
        pattern[j] = ((bits & np.uint32(0x7FFF)) << np.uint32(13)) | ((bits & np.uint32(0x8000)) << np.uint32(16))
    for j in range(len(half)):
        value[j] *= _BACK
    for j in range(len(half)):
        value[j] *= up


@compiled_serial
@without_numba(plain.half_within_one)
def _within_one(halves: npt.NDArray[np.uint16]) -> bool:
    """Whether all of these float16 are in -1 .. 1."""
    largest = np.uint16(0)
    for j in range(len(halves)):
        size = halves[j] & np.uint16(0x7FFF)
        largest = size if size > largest else largest
    return bool(largest <= _ONE)


class Half:
    """float16 elements, one int8 exponent for each row.

    Payload of k rows: k exponents (int8; the row was multiplied by 2**-exponent), then the elements of each
    row (little-endian float16). A row of zeros has exponent 0.
    """

    name = "half"
    wire_id = 2
    coarse = False

    def row_bytes(self, layout: Layout) -> IntArray:
        return 2 * layout.lengths + 1

    def encode(self, layout: Layout, vector: Vector, rows: IntArray, *, consume: bool = True) -> Bytes:
        elements, longest = _size_of(layout.offsets, rows)
        exponents = np.empty(len(rows), dtype=np.int8)
        halves = np.empty(elements, dtype="<u2")
        if elements < PARALLEL_ELEMENTS:
            room = np.empty(longest, dtype=np.float32)
            _encode(vector, layout.offsets, rows, exponents, halves, room, consume)
        else:
            _encode_long(layout, vector, rows, exponents, halves, consume)
        return np.concatenate([exponents.view(np.uint8), halves.view(np.uint8)])

    def add(self, layout: Layout, payload: Bytes, rows: IntArray, vector: Vector, sign: float) -> None:
        elements, longest = _size_of(layout.offsets, rows)
        exponents, halves = payload[: len(rows)].view(np.int8), _halves(payload, len(rows))
        if elements < PARALLEL_ELEMENTS:
            room = np.empty(longest, dtype=np.float32)
            _decode_add(vector, layout.offsets, rows, exponents, halves, room, np.float32(sign))
        else:
            _add_long(layout, exponents, halves, rows, vector, np.float32(sign))

    def check(self, layout: Layout, payload: Bytes, rows: IntArray) -> None:
        elements, _ = _size_of(layout.offsets, rows)
        expect_bytes(self.name, payload, len(rows) + 2 * elements)
        exponents = payload[: len(rows)].view(np.int8)
        if (np.abs(exponents.astype(np.int16)) > 126).any():
            raise RemoteProtocolError("half payload: expected exponents in -126 .. 126, got one outside")
        # Elements are at most 1 in size, so that no exponent makes them overflow.
        if not _within_one(_halves(payload, len(rows))):
            raise RemoteProtocolError("half payload: expected elements in -1 .. 1, got one outside or NaN")


# Functions of their own, since the names that a ``lambda`` captures make every call slower.


def _encode_long(
    layout: Layout,
    vector: Vector,
    rows: IntArray,
    exponents: npt.NDArray[np.int8],
    halves: npt.NDArray[np.uint16],
    consume: bool,
) -> None:
    """Encode in parts."""
    lengths = layout.lengths[rows]
    places, longest = starts(lengths), int(lengths.max())

    def work(part: slice, edges: slice) -> None:
        room = np.empty(longest, dtype=np.float32)
        _encode(vector, layout.offsets, rows[part], exponents[part], halves[places[part.start] :], room, consume)

    in_parts(work, len(rows), len(halves))


def _add_long(
    layout: Layout,
    exponents: npt.NDArray[np.int8],
    halves: npt.NDArray[np.uint16],
    rows: IntArray,
    vector: Vector,
    sign: np.float32,
) -> None:
    """Decode and add in parts."""
    lengths = layout.lengths[rows]
    places, longest = starts(lengths), int(lengths.max())

    def work(part: slice, edges: slice) -> None:
        room = np.empty(longest, dtype=np.float32)
        _decode_add(vector, layout.offsets, rows[part], exponents[part], halves[places[part.start] :], room, sign)

    in_parts(work, len(rows), len(halves))


def _halves(payload: Bytes, count: int) -> npt.NDArray[np.uint16]:
    return np.frombuffer(payload[count:].tobytes(), dtype="<u2")
