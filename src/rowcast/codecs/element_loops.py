"""Loops of the code ``elements``: sizes, thresholds, and a row after the other to bytes and back."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rowcast.codecs import plain_elements
from rowcast.rows.compiling import without_numba
from rowcast.rows.intrinsics import float_of_bits
from rowcast.rows.kernels import compiled_serial, prefetch_next

__all__ = [
    "BINS",
    "ESCAPE",
    "SHIFT",
    "decode_add",
    "encode",
    "fault",
    "gap_bytes",
    "head_bytes",
    "histogram",
    "limits_of",
]

#: A gap byte that says: two bytes follow, and add so much. Two such bytes that say: go on, the gap is not over.
ESCAPE, FAR = 255, 65535
#: Sizes of elements are told apart by the upper bits of their patterns: the exponent and 5 bits of the mantissa, 3 %.
SHIFT, BINS = 18, 1 << 13
#: Elements that are looked at together.
BLOCK = 16
#: A scale has so many steps; a size is one less at most.
STEPS = 128

_MASK = np.uint32(0x7FFFFFFF)
_UPPER = np.uint32(0xFFFF0000)
#: 2^-100: rows without anything larger are nothing, since half a step of theirs may be no normal number.
_LEAST = np.uint32(27 << 23)


@compiled_serial
def gap_bytes(gap: int) -> int:
    """Bytes of the gap before an element."""
    size = 0
    while gap >= ESCAPE:
        size += 3
        if gap - ESCAPE < FAR:
            return size
        gap -= FAR
    return size + 1


@compiled_serial
def head_bytes(count: int) -> int:
    """Bytes of the number of elements of a row."""
    size = 1
    while count >= 128:
        count >>= 7
        size += 1
    return size


@compiled_serial
@without_numba(plain_elements.tops)
def _tops(patterns: npt.NDArray[np.uint32], tops: npt.NDArray[np.uint32]) -> np.uint32:
    """The largest pattern without its sign of each block of a row, into ``tops``; and of all."""
    largest = np.uint32(0)
    for b in range(_blocks(len(patterns))):
        top = np.uint32(0)
        for j in range(b * BLOCK, min((b + 1) * BLOCK, len(patterns))):
            top = max(top, patterns[j] & _MASK)
        tops[b] = top
        largest = max(largest, top)
    return largest


@compiled_serial
def _blocks(length: int) -> int:
    return (length + BLOCK - 1) // BLOCK


@compiled_serial
@without_numba(plain_elements.find)
def _find(
    patterns: npt.NDArray[np.uint32],
    tops: npt.NDArray[np.uint32],
    least: np.uint32,
    entries: npt.NDArray[np.int64],
) -> tuple[int, int]:
    """The elements of ``least`` and more (patterns without signs), ascending, into ``entries``.

    Returns:
        How many there are, and the bytes of the row with these.
    """
    count = 0
    size = 0
    before = -1
    for b in range(_blocks(len(patterns))):
        if tops[b] < least:
            continue
        for j in range(b * BLOCK, min((b + 1) * BLOCK, len(patterns))):
            if (patterns[j] & _MASK) >= least:
                size += gap_bytes(j - before - 1)
                before = j
                entries[count] = j
                count += 1
    if count == 0:
        return 0, 1
    return count, head_bytes(count) + 2 + size + (count if count > 1 else 0)


@compiled_serial
@without_numba(plain_elements.histogram)
def histogram(patterns: npt.NDArray[np.uint32], bins: npt.NDArray[np.int64]) -> None:
    for j in range(len(patterns)):
        bins[(patterns[j] & _MASK) >> np.uint32(SHIFT)] += 1


@compiled_serial
def limits_of(
    patterns: npt.NDArray[np.uint32],
    offsets: npt.NDArray[np.int64],
    rows: int,
    least: np.uint32,
    limits: npt.NDArray[np.int64],
) -> int:
    """What each of the first ``rows`` takes with a threshold, and one element at least; returns the sum."""
    total = 0
    entries = np.empty(_longest(offsets, np.arange(rows)), dtype=np.int64)
    tops = np.empty(_blocks(len(entries)), dtype=np.uint32)
    for k in range(rows):
        row = patterns[offsets[k] : offsets[k + 1]]
        _tops(row, tops)
        _, size = _find(row, tops, least, entries)
        limits[k] = max(size, 3 + gap_bytes(offsets[k + 1] - offsets[k] - 1))
        total += limits[k]
    return total


@compiled_serial
@without_numba(plain_elements.longest)
def _longest(offsets: npt.NDArray[np.int64], rows: npt.NDArray[np.int64]) -> int:
    longest = 0
    for row in rows:
        longest = max(longest, offsets[row + 1] - offsets[row])
    return longest


@compiled_serial
def _choose(
    row: npt.NDArray[np.uint32],
    tops: npt.NDArray[np.uint32],
    largest: np.uint32,
    threshold: np.uint32,
    limit: int,
    entries: npt.NDArray[np.int64],
) -> int:
    """The elements of a row that travel, into ``entries``: those beyond ``threshold``, or fewer, so that they fit.

    Returns:
        How many there are; one at least.
    """
    low = min(threshold, largest)
    count, size = _find(row, tops, low, entries)
    if size <= limit:
        return count
    high = largest
    while high - low > np.uint32(1):
        middle = low + (high - low) // np.uint32(2)
        _, size = _find(row, tops, middle, entries)
        if size <= limit:
            high = middle
        else:
            low = middle
    count, size = _find(row, tops, high, entries)
    return count if size <= limit else 1  # several are the largest, and not all fit


@compiled_serial
def _put_gap(payload: npt.NDArray[np.uint8], at: int, gap: int) -> int:
    while gap >= ESCAPE:
        far = min(gap - ESCAPE, FAR)
        payload[at] = np.uint8(ESCAPE)
        payload[at + 1] = np.uint8(far & 255)
        payload[at + 2] = np.uint8(far >> 8)
        at += 3
        if far < FAR:
            return at
        gap -= FAR
    payload[at] = np.uint8(gap)
    return at + 1


@compiled_serial
def encode(
    vector: npt.NDArray[np.float32],
    offsets: npt.NDArray[np.int64],
    rows: npt.NDArray[np.int64],
    threshold: np.uint32,
    limits: npt.NDArray[np.int64],
    payload: npt.NDArray[np.uint8],
    consume: bool,
) -> int:
    """Encode rows one behind the other; returns how many bytes they are, at most the sum of ``limits``."""
    patterns = vector.view(np.uint32)
    entries = np.empty(_longest(offsets, rows), dtype=np.int64)
    tops = np.empty(_blocks(len(entries)), dtype=np.uint32)
    at = 0
    for k in range(len(rows)):
        prefetch_next(vector, offsets, rows, k)
        first, last = offsets[rows[k]], offsets[rows[k] + 1]
        largest = _tops(patterns[first:last], tops)
        if largest < _LEAST:
            payload[at] = np.uint8(0)
            at += 1
            continue
        power = min((largest >> np.uint32(23)) + np.uint32(1), np.uint32(254))
        # What is less than half a step is nothing.
        least = max(threshold, (power - np.uint32(8)) << np.uint32(23))
        count = _choose(patterns[first:last], tops, largest, least, limits[k], entries)
        scale = largest & _UPPER if count == 1 else power << np.uint32(23)
        at = _put(vector[first:last], scale, entries[:count], payload, at, consume)
    return at


@compiled_serial
def _amount(number: int, scale: np.float32) -> np.float32:
    """A size of so many steps, without rounding: 7 bits, times a power of two."""
    return np.float32(number) * (scale / np.float32(STEPS))


@compiled_serial
@without_numba(plain_elements.put)
def _put(
    row: npt.NDArray[np.float32],
    scale_pattern: np.uint32,
    entries: npt.NDArray[np.int64],
    payload: npt.NDArray[np.uint8],
    at: int,
    consume: bool,
) -> int:
    """Write the elements of a row that travel; returns what comes behind them."""
    count = len(entries)
    single = count == 1
    left = count
    while left >= 128:
        payload[at] = np.uint8(128 | (left & 127))
        left >>= 7
        at += 1
    payload[at] = np.uint8(left)
    scale = float_of_bits(scale_pattern)
    payload[at + 1] = np.uint8((scale_pattern >> np.uint32(16)) & np.uint32(255))
    payload[at + 2] = np.uint8(scale_pattern >> np.uint32(24))
    if single and row[entries[0]] < np.float32(0.0):
        payload[at + 2] |= np.uint8(128)
    at += 3
    before = -1
    for j in entries:
        at = _put_gap(payload, at, j - before - 1)
        before = j
    if single:
        if consume:
            row[entries[0]] -= scale if row[entries[0]] > np.float32(0.0) else -scale
        return at
    steps = np.float32(STEPS) / scale
    for j in entries:
        negative = row[j] < np.float32(0.0)
        number = min(max(int(abs(row[j]) * steps + np.float32(0.5)), 1), STEPS - 1)
        payload[at] = np.uint8(256 - number if negative else number)
        at += 1
        if consume:
            amount = _amount(number, scale)
            row[j] -= -amount if negative else amount
    return at


@compiled_serial
@without_numba(plain_elements.decode_add)
def decode_add(
    vector: npt.NDArray[np.float32],
    offsets: npt.NDArray[np.int64],
    rows: npt.NDArray[np.int64],
    payload: npt.NDArray[np.uint8],
    sign: np.float32,
) -> None:
    at = 0
    for k in range(len(rows)):
        count, at = _get_count(payload, at)
        if count == 0:
            continue
        scale = float_of_bits((np.uint32(payload[at]) << np.uint32(16)) | (np.uint32(payload[at + 1]) << np.uint32(24)))
        at += 2
        j = offsets[rows[k]] - 1
        if count == 1:
            gap, at = _get_gap(payload, at)
            vector[j + 1 + gap] += sign * scale
            continue
        values = _skip_gaps(payload, at, count)
        for e in range(count):
            gap, at = _get_gap(payload, at)
            j += 1 + gap
            number = int(payload[values + e])
            amount = sign * _amount(number if number < 128 else 256 - number, scale)
            vector[j] += amount if number < 128 else -amount
        at = values + count


@compiled_serial
def _get_count(payload: npt.NDArray[np.uint8], at: int) -> tuple[int, int]:
    """The number of elements of a row, and what comes behind it; -1: bytes are missing, or too many."""
    count = 0
    for shift in range(0, 35, 7):
        if at >= len(payload):
            return -1, at
        byte = int(payload[at])
        at += 1
        count |= (byte & 127) << shift
        if byte < 128:
            return (count if byte > 0 or shift == 0 else -1), at
    return -1, at


@compiled_serial
def _get_gap(payload: npt.NDArray[np.uint8], at: int) -> tuple[int, int]:
    """A gap, and what comes behind it; -1: bytes are missing."""
    gap = 0
    while at < len(payload):
        byte = int(payload[at])
        if byte < ESCAPE:
            return gap + byte, at + 1
        if at + 3 > len(payload):
            break
        far = int(payload[at + 1]) | (int(payload[at + 2]) << 8)
        at += 3
        if far < FAR:
            return gap + ESCAPE + far, at
        gap += FAR
    return -1, at


@compiled_serial
def _skip_gaps(payload: npt.NDArray[np.uint8], at: int, count: int) -> int:
    for _ in range(count):
        _, at = _get_gap(payload, at)
    return at


@compiled_serial
def _row_fault(length: int, payload: npt.NDArray[np.uint8], at: int, count: int) -> tuple[int, int]:
    """What is wrong with a row behind the number of its elements, see :func:`fault`; and what comes behind the row."""
    if at + 2 > len(payload):
        return 1, at
    upper = int(payload[at]) | (int(payload[at + 1]) << 8)
    size = upper & 0x7FFF
    if size >= 0x7F80 or size == 0 or (upper != size and count > 1):
        return 2, at
    at += 2
    place = -1
    for _ in range(count):
        gap, at = _get_gap(payload, at)
        place += 1 + gap
        if gap < 0:
            return 1, at
        if place >= length:
            return 3, at
    if count == 1:
        return 0, at
    if at + count > len(payload):
        return 1, at
    for e in range(count):
        if payload[at + e] == 0 or payload[at + e] == 128:
            return 4, at
    return 0, at + count


@compiled_serial
def fault(lengths: npt.NDArray[np.int64], payload: npt.NDArray[np.uint8]) -> int:
    """What is wrong with a payload.

    Returns:
        0: nothing; 1: the number of bytes; 2: a scale; 3: a place that is beyond its row; 4: a size.
    """
    at = 0
    for k in range(len(lengths)):
        count, at = _get_count(payload, at)
        if count < 0:
            return 1
        if count > lengths[k]:
            return 3
        if count > 0:
            found, at = _row_fault(lengths[k], payload, at, count)
            if found:
                return found
    return 0 if at == len(payload) else 1
