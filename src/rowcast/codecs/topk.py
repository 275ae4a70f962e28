"""A fifth of a bit an element: of every 64 elements of a row the largest, their sizes on two levels; or of every 16.

Top-k within chunks of 4096 elements with 2-bit values is what SparseLoCo sends (Sarfi et al., arXiv 2508.15706). Each
row decodes alone here, so a chunk is a row, or a part of one that is longer; and the two levels are means of their own
of each chunk (Lloyd's algorithm over the few sizes), where the published software has those of a whole tensor.
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

__all__ = ["TopK"]

#: Bytes of a chunk before its entries: the upper level as a bfloat16, the lower one in 256ths of it.
HEAD_BYTES = 3
#: Bits of an entry behind its place: the lower one is set for negative, the upper one for the upper level.
VALUE_BITS = 2


# Serial: the order of its sums decides about bytes.
@compiled_serial
@without_numba(plain_chunks.levels)
def _levels(sizes: npt.NDArray[np.float32], count: int) -> tuple[np.float32, np.float32, np.float32]:
    """Two levels for ``count`` sizes, the lower one 0 where there is one only, and from which size on it is the upper.

    The sum of squares of what the levels leave is no larger than with any other levels for the same two groups.
    """
    least = sizes[0]
    most = sizes[0]
    for k in range(count):
        least = min(least, sizes[k])
        most = max(most, sizes[k])
    border = np.float32(0.5) * least + np.float32(0.5) * most
    lower = np.float32(0.0)
    upper = most
    for _ in range(4):
        sum_below = np.float64(0.0)
        sum_above = np.float64(0.0)
        above = 0
        border = min(border, most)  # one is above it, whatever was rounded
        for k in range(count):
            if sizes[k] >= border:
                sum_above += np.float64(sizes[k])
                above += 1
            else:
                sum_below += np.float64(sizes[k])
        upper = np.float32(sum_above / above)
        lower = np.float32(sum_below / (count - above)) if count > above else np.float32(0.0)
        border = np.float32(0.5) * lower + np.float32(0.5) * upper
    return lower, upper, min(border, most)


@compiled
@without_numba(plain_chunks.topk_encode)
def _encode(
    vector: npt.NDArray[np.float32],
    offsets: npt.NDArray[np.int64],
    rows: npt.NDArray[np.int64],
    places: npt.NDArray[np.int64],
    payload: npt.NDArray[np.uint8],
    tables: Tables,
    consume: bool,
) -> None:
    counts, widths, sizes = tables
    bins = np.empty(256, dtype=np.int64)
    chosen = np.empty(counts[CHUNK], dtype=np.float32)
    entries = np.empty(counts[CHUNK] + 1, dtype=np.int64)
    patterns = vector.view(np.uint32)
    level = np.empty(1, dtype=np.float32)
    pattern = level.view(np.uint32)
    for k in range(len(rows)):
        prefetch_next(vector, offsets, rows, k)
        begin = offsets[rows[k]]
        at = places[k]
        while begin < offsets[rows[k] + 1]:
            length = min(offsets[rows[k] + 1] - begin, CHUNK)
            chunk = vector[begin : begin + length]
            found = largest(patterns[begin : begin + length], counts[length], bins, entries)
            ratio = np.uint8(0)
            border = np.float32(0.0)
            level[0] = np.float32(0.0)
            if found > 0:
                for e in range(found):
                    chosen[e] = abs(chunk[entries[e]])
                lower, upper, border = _levels(chosen, found)
                level[0] = upper
                pattern[0] &= np.uint32(0xFFFF0000)  # a bfloat16, and never infinite
                if level[0] > np.float32(0.0):
                    ratio = np.uint8(min(np.float32(256.0) * (lower / level[0]), np.float32(255.0)))
            below = level[0] * (np.float32(ratio) * np.float32(1.0 / 256.0))
            payload[at] = np.uint8((pattern[0] >> np.uint32(16)) & np.uint32(255))
            payload[at + 1] = np.uint8(pattern[0] >> np.uint32(24))
            payload[at + 2] = ratio
            width = widths[length]
            for e in range(found):
                place = entries[e]
                value = chunk[place]
                high = abs(value) >= border
                code = (2 if high else 0) + (1 if value < np.float32(0.0) else 0)
                entries[e] = place | (np.int64(code) << width)
                if consume:
                    amount = level[0] if high else below
                    chunk[place] -= -amount if value < np.float32(0.0) else amount
            for e in range(found, counts[length]):
                entries[e] = entries[e - 1] if e > 0 else 0
            pack(entries, counts[length], width + VALUE_BITS, payload[at + HEAD_BYTES : at + sizes[length]])
            begin += length
            at += sizes[length]


@compiled
@without_numba(plain_chunks.topk_decode_add)
def _decode_add(
    vector: npt.NDArray[np.float32],
    offsets: npt.NDArray[np.int64],
    rows: npt.NDArray[np.int64],
    payload: npt.NDArray[np.uint8],
    tables: Tables,
    sign: np.float32,
) -> None:
    counts, widths, sizes = tables
    entries = np.empty(counts[CHUNK], dtype=np.int64)
    at = 0
    for k in range(len(rows)):
        begin = offsets[rows[k]]
        while begin < offsets[rows[k] + 1]:
            length = min(offsets[rows[k] + 1] - begin, CHUNK)
            width = widths[length]
            level = float_of_bits(np.uint32((payload[at] << 16) | (payload[at + 1] << 24)))
            below = level * (np.float32(payload[at + 2]) * np.float32(1.0 / 256.0))
            unpack(payload[at + HEAD_BYTES : at + sizes[length]], counts[length], width + VALUE_BITS, entries)
            before = np.int64(-1)
            for e in range(counts[length]):
                place = entries[e] & ((np.int64(1) << width) - 1)
                if place != before:
                    code = entries[e] >> width
                    amount = sign * (level if code & 2 else below)
                    vector[begin + place] += -amount if code & 1 else amount
                before = place
            begin += length
            at += sizes[length]


@compiled
def _fault(lengths: npt.NDArray[np.int64], payload: npt.NDArray[np.uint8], tables: Tables) -> int:
    """0: all is right; 1: a level is not finite, or negative; 2: places are not those of the row, ascending."""
    counts, widths, sizes = tables
    entries = np.empty(counts[CHUNK], dtype=np.int64)
    at = 0
    for k in range(len(lengths)):
        left = lengths[k]
        while left > 0:
            length = min(left, CHUNK)
            upper = (np.int64(payload[at + 1]) << 8) | np.int64(payload[at])
            if upper >= 0x7F80:
                return 1
            width = widths[length]
            unpack(payload[at + HEAD_BYTES : at + sizes[length]], counts[length], width + VALUE_BITS, entries)
            if misplaced(entries, counts[length], width, length):
                return 2
            left -= length
            at += sizes[length]
    return 0


class TopK:
    """Of so many elements of a row as the name says the largest: place, sign, and which of two sizes.

    A chunk is a row, or 4096 elements of a longer one and the rest. Payload: the chunks of each row, one behind the
    other, each with the upper size (little-endian bfloat16), the lower one in 256ths of it (uint8), and its entries as
    :mod:`rowcast.codecs.chunks` has them, with two bits behind the place: bit 0 is 1 for negative, bit 1 for the upper
    size.

    Args:
        wire_id: its number.
        one_in: of so many elements one travels, rounded up in each chunk; it is called ``topk64`` with 64.
    """

    def __init__(self, wire_id: int, one_in: int) -> None:
        self.name = f"topk{one_in}"
        self.wire_id = wire_id
        self._packing = Packing(one_in, HEAD_BYTES, VALUE_BITS)

    def row_bytes(self, layout: Layout) -> IntArray:
        return layout.once(self.name, lambda layout: self._packing.row_bytes(layout.lengths))

    def encode(self, layout: Layout, vector: Vector, rows: IntArray, *, consume: bool = True) -> Bytes:
        places = starts(self.row_bytes(layout)[rows])
        payload = np.empty(int(places[-1]), dtype=np.uint8)
        in_parts(
            lambda part, edges: _encode(
                vector, layout.offsets, rows[part], places[edges], payload, self._packing.tables, consume
            ),
            len(rows),
            int(layout.lengths[rows].sum()),
        )
        return payload

    def add(self, layout: Layout, payload: Bytes, rows: IntArray, vector: Vector, sign: float) -> None:
        _decode_add(vector, layout.offsets, rows, payload, self._packing.tables, np.float32(sign))

    def check(self, layout: Layout, payload: Bytes, rows: IntArray) -> None:
        expect_bytes(self.name, payload, int(self.row_bytes(layout)[rows].sum()))
        fault = _fault(layout.lengths[rows], payload, self._packing.tables)
        if fault == 1:
            raise RemoteProtocolError(f"{self.name} payload: expected finite sizes >= 0, got something else")
        if fault == 2:
            raise RemoteProtocolError(
                f"{self.name} payload: expected ascending places inside of their rows, got others"
            )
