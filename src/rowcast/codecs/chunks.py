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

from rowcast.codecs.base import Bytes, IntArray
from rowcast.rows.kernels import compiled

__all__ = ["CHUNK", "Packing", "Tables", "largest", "misplaced", "pack", "unpack"]

#: Numbers of a chunk, at most: those of a block of 64 x 64 in the published methods.
CHUNK = 4096

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
def _sift_down(heap: npt.NDArray[np.float32], count: int, size: np.float32) -> None:
    """Put ``size`` into a heap whose smallest number, at its top, goes."""
    at = 0
    while 2 * at + 1 < count:
        below = 2 * at + 1
        if below + 1 < count and heap[below + 1] < heap[below]:
            below += 1
        if heap[below] >= size:
            break
        heap[at] = heap[below]
        at = below
    heap[at] = size


@compiled
def _sift_up(heap: npt.NDArray[np.float32], count: int, size: np.float32) -> None:
    """Put ``size`` into a heap of ``count`` numbers, the smallest at its top, that has room for one more."""
    at = count
    while at > 0 and heap[(at - 1) >> 1] > size:
        heap[at] = heap[(at - 1) >> 1]
        at = (at - 1) >> 1
    heap[at] = size


@compiled
def largest(values: npt.NDArray[np.float32], most: int, heap: npt.NDArray[np.float32], places: IntArray) -> int:
    """Find the ``most`` largest |values|; of equal ones the first. Zeros are never among them.

    Args:
        values: float32 [n].
        most: 1 or more.
        heap: float32 [most or more], overwritten.
        places: int64 [most or more]; receives the places, ascending.

    Returns:
        How many there are.
    """
    count = 0
    for j in range(len(values)):
        size = abs(values[j])
        if count < most:
            if size > np.float32(0.0):
                _sift_up(heap, count, size)
                count += 1
        elif size > heap[0]:
            _sift_down(heap, count, size)
    least = heap[0]
    equal = 0
    for k in range(count):
        if heap[k] == least:
            equal += 1
    found = 0
    for j in range(len(values)):
        size = abs(values[j])
        if found < count and (size > least or (size == least and equal > 0)):
            if size == least:
                equal -= 1
            places[found] = j
            found += 1
    return found


@compiled
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
