"""What codes have in common that send a few numbers of each chunk of a row, each with its place.

A row is cut into chunks of at most :data:`CHUNK` numbers. How many travel of a chunk follows from its length alone, so
that the size of a row is known before it is encoded. A chunk is its head, then its entries, one behind the other
without a gap: first the place, in as many bits as the chunk needs, then what a code says of the number there. Bits are
filled from the lowest of each byte on; what is left of the last byte is zero.

Places ascend. Where a chunk has fewer numbers that are not zero than entries, the last place is repeated: an entry with
the place of the one before says nothing.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rowcast.codecs import plain_chunks
from rowcast.codecs.base import Bytes, IntArray
from rowcast.rows.compiling import without_numba
from rowcast.rows.kernels import compiled

__all__ = ["CHUNK", "Packing", "Tables", "largest", "misplaced", "pack", "unpack"]

#: Numbers of a chunk, at most: those of a block of 64 x 64 in the published methods.
CHUNK = 4096

#: The bits of float32 numbers.
Patterns = npt.NDArray[np.uint32]
#: For each length of a chunk, 0 .. :data:`CHUNK`: its entries, the bits of a place, its bytes; for kernels.
Tables = tuple[IntArray, IntArray, IntArray]


class Packing:
    """How many entries chunks have, and how many bytes they take.

    Args:
        one_in: of so many numbers one travels, rounded up: at least one of each chunk.
        head_bytes: bytes of a chunk before its entries.
        value_bits: bits of an entry beside its place.

    Attributes:
        tables: see :data:`Tables`.
    """

    def __init__(self, one_in: int, head_bytes: int, value_bits: int) -> None:
        lengths = np.arange(CHUNK + 1, dtype=np.int64)
        counts = -(-lengths // one_in)
        widths = np.array([max(length - 1, 0).bit_length() for length in range(CHUNK + 1)], dtype=np.int64)
        sizes = head_bytes + (counts * (widths + value_bits) + 7) // 8
        sizes[0] = 0
        self.tables: Tables = counts, widths, sizes

    def row_bytes(self, lengths: IntArray) -> IntArray:
        """Encoded bytes of rows of these lengths, int64 [rows]."""
        sizes = self.tables[2]
        return np.asarray(lengths // CHUNK * sizes[CHUNK] + sizes[lengths % CHUNK], dtype=np.int64)


@compiled
def _border(patterns: Patterns, most: int, bins: IntArray) -> tuple[np.uint32, int]:
    """The bits of the ``most``-th largest |value|, and how many of that size are among the largest.

    The bits of |values| are in the order of the values, so they are counted by their highest bits, then, of those that
    may be it, by the next, until all that are left are among the largest: as a rule twice.
    """
    border = np.uint32(0)
    known = np.uint32(0)
    wanted = most
    for step in range(4):
        shift = np.uint32(23 - 8 * step) if step < 3 else np.uint32(0)
        digit = np.uint32(255) if step < 3 else np.uint32(127)
        for k in range(256):
            bins[k] = 0
        for j in range(len(patterns)):
            if (patterns[j] & known) == border:
                bins[(patterns[j] >> shift) & digit] += 1
        at = 255
        while bins[at] < wanted:
            wanted -= bins[at]
            at -= 1
        border |= np.uint32(at) << shift
        known |= digit << shift
        if bins[at] == wanted:
            return border, most
    return border, wanted


@compiled
@without_numba(plain_chunks.largest)
def largest(patterns: Patterns, most: int, bins: IntArray, places: IntArray) -> int:
    """Find the ``most`` largest |values|; of equal ones the first. Zeros are never among them.

    Args:
        patterns: the bits of the values (float32), uint32 [``most`` or more].
        most: 1 or more.
        bins: int64 [256], overwritten.
        places: int64 [``most`` + 1 or more]; receives the places, ascending, and something behind them.

    Returns:
        How many there are.
    """
    border, equal = _border(patterns, most, bins)
    found = 0
    for j in range(len(patterns)):
        size = patterns[j] & np.uint32(0x7FFFFFFF)
        places[found] = j
        if size >= border and size > 0 and (size > border or equal > 0):
            found += 1
            if size == border:
                equal -= 1
    return found


@compiled
@without_numba(plain_chunks.pack)
def pack(entries: IntArray, count: int, bits: int, target: Bytes) -> None:
    """Write ``count`` entries of so many bits each (at most 32) into ``target``, uint8."""
    waiting = np.uint64(0)
    filled = 0
    at = 0
    for k in range(count):
        waiting |= np.uint64(entries[k]) << np.uint64(filled)
        filled += bits
        while filled >= 8:
            target[at] = np.uint8(waiting & np.uint64(255))
            waiting >>= np.uint64(8)
            filled -= 8
            at += 1
    if filled > 0:
        target[at] = np.uint8(waiting)


@compiled
@without_numba(plain_chunks.unpack)
def unpack(source: Bytes, count: int, bits: int, entries: IntArray) -> None:
    """Read ``count`` entries of so many bits each (at most 32) from ``source``, uint8."""
    waiting = np.uint64(0)
    filled = 0
    at = 0
    mask = (np.uint64(1) << np.uint64(bits)) - np.uint64(1)
    for k in range(count):
        while filled < bits:
            waiting |= np.uint64(source[at]) << np.uint64(filled)
            filled += 8
            at += 1
        entries[k] = np.int64(waiting & mask)
        waiting >>= np.uint64(bits)
        filled -= bits


@compiled
@without_numba(plain_chunks.misplaced)
def misplaced(entries: IntArray, count: int, width: int, length: int) -> bool:
    """Whether places of entries, their lowest ``width`` bits, descend or lie beyond a chunk of this length."""
    before = np.int64(0)
    mask = (np.int64(1) << np.int64(width)) - np.int64(1)
    for k in range(count):
        place = entries[k] & mask
        if place < before or place >= length:
            return True
        before = place
    return False
