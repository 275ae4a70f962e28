"""A few components of each row in a cosine transform.

DeMo (Peng, Quesnelle and Kingma, arXiv 2411.19870) sends, of the momentum in blocks of 64 x 64 elements, the 32 largest
components of a discrete cosine transform. Here rows decode alone: the transform is one along a row, in pieces of 64
elements and what remains, and the largest are chosen among all components of a chunk, which is a row of at most 4096
elements. One component in 128 travels, as there; of each chunk at least one.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rowcast.codecs import plain_chunks
from rowcast.codecs.base import Bytes, IntArray, Vector, expect_bytes, starts
from rowcast.codecs.chunks import CHUNK, Packing, Tables, largest, misplaced, pack, unpack
from rowcast.errors import RemoteProtocolError
from rowcast.rows import Layout
from rowcast.rows.compiling import without_numba
from rowcast.rows.intrinsics import float_of_bits
from rowcast.rows.kernels import compiled, compiled_serial, in_parts, prefetch_next

__all__ = ["Dct"]

#: Elements that are transformed together, at most.
PIECE = 64
#: Bits of an entry behind its place: the component as a bfloat16.
VALUE_BITS = 16
#: Bits of the float32 at which components end, 2**120: the sum of a piece's then is finite.
LIMIT = (120 + 127) << 23

Array = npt.NDArray[np.float32]


def _bases() -> tuple[Array, Array, IntArray]:
    """The orthonormal DCT-II of each length up to :data:`PIECE`, one behind the other; transposed; where each begins.

    Component ``i`` of ``x`` is ``sum over j of base[i, j] * x[j]``; ``x[j]`` is ``sum over i of base[i, j] * c[i]``.
    """
    begins = np.zeros(PIECE + 2, dtype=np.int64)
    bases, columns = [], []
    for length in range(1, PIECE + 1):
        begins[length + 1] = begins[length] + length * length
        component, place = np.arange(length)[:, None], np.arange(length)[None, :]
        base = np.cos(np.pi * component * (2 * place + 1) / (2 * length)) * np.sqrt(2 / length)
        base[0] = np.sqrt(1 / length)
        bases.append(base.reshape(-1).astype(np.float32))
        columns.append(base.T.reshape(-1).astype(np.float32))
    return np.concatenate(bases), np.concatenate(columns), begins


_TRANSFORM = _bases()


# Serial, and the sums of a piece side by side: so their order is the same everywhere, and it decides about bytes.
@compiled_serial
@without_numba(plain_chunks.transform)
def _transform(chunk: Array, components: Array, columns: Array, begins: IntArray) -> None:
    """Write the components of each piece of a chunk to where its elements are in the chunk."""
    first = 0
    while first < len(chunk):
        length = min(len(chunk) - first, PIECE)
        piece = chunk[first : first + length]
        totals = components[first : first + length]
        for i in range(length):
            totals[i] = np.float32(0.0)
        for j in range(length):
            column = columns[begins[length] + j * length : begins[length] + (j + 1) * length]
            for i in range(length):
                totals[i] += column[i] * piece[j]
        first += length


@compiled
@without_numba(plain_chunks.add_component)
def _add_component(chunk: Array, place: int, value: np.float32, bases: Array, begins: IntArray) -> None:
    """Add ``value`` times the component at ``place`` to the piece that it belongs to."""
    first = place // PIECE * PIECE
    length = min(len(chunk) - first, PIECE)
    at = begins[length] + (place - first) * length
    piece = chunk[first : first + length]
    base = bases[at : at + length]
    for j in range(length):
        piece[j] += value * base[j]


@compiled
@without_numba(plain_chunks.dct_encode)
def _encode(
    vector: Array,
    offsets: IntArray,
    rows: IntArray,
    places: IntArray,
    payload: Bytes,
    tables: Tables,
    transform: tuple[Array, Array, IntArray],
    consume: bool,
) -> None:
    counts, widths, sizes = tables
    bases, columns, begins = transform
    components = np.empty(CHUNK, dtype=np.float32)
    patterns = components.view(np.uint32)
    bins = np.empty(256, dtype=np.int64)
    entries = np.empty(counts[CHUNK] + 1, dtype=np.int64)
    for k in range(len(rows)):
        prefetch_next(vector, offsets, rows, k)
        begin = offsets[rows[k]]
        at = places[k]
        while begin < offsets[rows[k] + 1]:
            length = min(offsets[rows[k] + 1] - begin, CHUNK)
            chunk = vector[begin : begin + length]
            _transform(chunk, components, columns, begins)
            found = largest(patterns[:length], counts[length], bins, entries)
            for e in range(counts[length]):
                if e >= found:
                    entries[e] = entries[e - 1] if e > 0 else 0
                    continue
                place = entries[e]
                size = patterns[place] & np.uint32(0x7FFFFFFF)
                size += np.uint32(0x7FFF) + ((size >> np.uint32(16)) & np.uint32(1))  # to the nearest, even
                size = min(size & np.uint32(0xFFFF0000), np.uint32(LIMIT - 0x10000))
                coded = (patterns[place] & np.uint32(0x80000000)) | size
                entries[e] = place | (np.int64(coded >> np.uint32(16)) << widths[length])
                if consume:
                    _add_component(chunk, place, -float_of_bits(coded), bases, begins)
            pack(entries, counts[length], widths[length] + VALUE_BITS, payload[at : at + sizes[length]])
            begin += length
            at += sizes[length]


@compiled
@without_numba(plain_chunks.dct_decode_add)
def _decode_add(
    vector: Array,
    offsets: IntArray,
    rows: IntArray,
    payload: Bytes,
    tables: Tables,
    transform: tuple[Array, Array, IntArray],
    sign: np.float32,
) -> None:
    counts, widths, sizes = tables
    bases, _, begins = transform
    entries = np.empty(counts[CHUNK], dtype=np.int64)
    at = 0
    for k in range(len(rows)):
        begin = offsets[rows[k]]
        while begin < offsets[rows[k] + 1]:
            length = min(offsets[rows[k] + 1] - begin, CHUNK)
            width = widths[length]
            unpack(payload[at : at + sizes[length]], counts[length], width + VALUE_BITS, entries)
            before = np.int64(-1)
            for e in range(counts[length]):
                place = entries[e] & ((np.int64(1) << width) - 1)
                if place != before:
                    value = float_of_bits(np.uint32((entries[e] >> width) << 16))
                    _add_component(vector[begin : begin + length], place, sign * value, bases, begins)
                before = place
            begin += length
            at += sizes[length]


@compiled
def _fault(lengths: IntArray, payload: Bytes, tables: Tables) -> int:
    """0: all is right; 1: a component is not finite, or too large; 2: places are not those of the row, ascending."""
    counts, widths, sizes = tables
    entries = np.empty(counts[CHUNK], dtype=np.int64)
    at = 0
    for k in range(len(lengths)):
        left = lengths[k]
        while left > 0:
            length = min(left, CHUNK)
            width = widths[length]
            unpack(payload[at : at + sizes[length]], counts[length], width + VALUE_BITS, entries)
            for e in range(counts[length]):
                if ((entries[e] >> width) & 0x7FFF) >= LIMIT >> 16:
                    return 1
            if misplaced(entries, counts[length], width, length):
                return 2
            left -= length
            at += sizes[length]
    return 0


class Dct:
    """Of so many components of a row's cosine transform as the name says the largest: place and value.

    A chunk is a row, or 4096 elements of a longer one and the rest; a component is one of the orthonormal DCT-II of 64
    elements, or of those that remain at the end of the chunk. Payload: the chunks of each row, one behind the other;
    of each its entries as :mod:`rowcast.codecs.chunks` has them, with a bfloat16 below 2**120 behind the place.

    Args:
        wire_id: its number.
        one_in: of so many components one travels, rounded up in each chunk; it is called ``dct128`` with 128.
    """

    def __init__(self, wire_id: int, one_in: int) -> None:
        self.name = f"dct{one_in}"
        self.wire_id = wire_id
        self._packing = Packing(one_in, 0, VALUE_BITS)

    def row_bytes(self, layout: Layout) -> IntArray:
        return layout.once(self.name, lambda layout: self._packing.row_bytes(layout.lengths))

    def encode(self, layout: Layout, vector: Vector, rows: IntArray, *, consume: bool = True) -> Bytes:
        places = starts(self.row_bytes(layout)[rows])
        payload = np.empty(int(places[-1]), dtype=np.uint8)
        tables, transform = self._packing.tables, _TRANSFORM
        in_parts(
            lambda part, edges: _encode(
                vector, layout.offsets, rows[part], places[edges], payload, tables, transform, consume
            ),
            len(rows),
            int(layout.lengths[rows].sum()),
        )
        return payload

    def add(self, layout: Layout, payload: Bytes, rows: IntArray, vector: Vector, sign: float) -> None:
        _decode_add(vector, layout.offsets, rows, payload, self._packing.tables, _TRANSFORM, np.float32(sign))

    def check(self, layout: Layout, payload: Bytes, rows: IntArray) -> None:
        expect_bytes(self.name, payload, int(self.row_bytes(layout)[rows].sum()))
        fault = _fault(layout.lengths[rows], payload, self._packing.tables)
        if fault == 1:
            raise RemoteProtocolError(f"{self.name} payload: expected components below 2**120, got something else")
        if fault == 2:
            raise RemoteProtocolError(
                f"{self.name} payload: expected ascending places inside of their rows, got others"
            )
