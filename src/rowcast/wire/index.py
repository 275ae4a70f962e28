"""The index block of a row frame: which rows it holds, in as few bytes as their pattern allows.

Rows stand in ascending order, so only the gaps between them travel. Four forms; the encoder takes the shortest:

====== ===========================================================================================
form   content
====== ===========================================================================================
run    first (u32): consecutive rows
gaps8  first (u32), k - 1 gaps as u8; a gap of 255 or more is 255 there and its value follows as u16
gaps32 first (u32), k - 1 gaps as u32
bitmap first (u32), span (u32), one bit for each row of the span
====== ===========================================================================================
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rowcast.errors import RemoteProtocolError
from rowcast.rows.kernels import compiled_serial

__all__ = ["decode_index", "encode_index", "index_bytes"]

IntArray = npt.NDArray[np.int64]

_RUN, _GAPS8, _GAPS32, _BITMAP = range(4)
_ESCAPE = 255


def encode_index(rows: IntArray) -> tuple[int, bytes]:
    """Encode ascending row indices (at least one).

    Returns:
        The number of the form, and its content.
    """
    form, _ = _shortest(rows)
    first = int(rows[0]).to_bytes(4, "big")
    if form == _RUN:
        return form, first
    if form == _BITMAP:
        span = int(rows[-1] - rows[0]) + 1
        flags = np.zeros(span, dtype=np.uint8)
        flags[rows - rows[0]] = 1
        return form, first + span.to_bytes(4, "big") + np.packbits(flags, bitorder="little").tobytes()
    gaps = np.diff(rows)
    if form == _GAPS8:
        wide = gaps[gaps >= _ESCAPE]
        return form, first + np.minimum(gaps, _ESCAPE).astype(np.uint8).tobytes() + wide.astype(">u2").tobytes()
    return form, first + gaps.astype(">u4").tobytes()


def index_bytes(rows: IntArray) -> int:
    """Length of the index block of these rows, without making it."""
    return _shortest(rows)[1]


def _shortest(rows: IntArray) -> tuple[int, int]:
    """The form that takes the fewest bytes, and how many."""
    span = int(rows[-1]) - int(rows[0]) + 1
    count = len(rows) - 1
    if span == count + 1:
        return _RUN, 4
    bitmap_bytes = 4 + (span + 7) // 8
    if bitmap_bytes < count:  # a gap takes a byte at least: no need to look at them
        return _BITMAP, 4 + bitmap_bytes
    gaps8_bytes = _gaps8_bytes(rows)
    if bitmap_bytes < min(gaps8_bytes, 4 * count):
        return _BITMAP, 4 + bitmap_bytes
    if gaps8_bytes <= 4 * count:
        return _GAPS8, 4 + gaps8_bytes
    return _GAPS32, 4 + 4 * count


@compiled_serial
def _gaps8_bytes(rows: IntArray) -> int:
    """Bytes of the gaps of ascending ``rows`` in the form ``gaps8``; more than all other forms take where one is
    too wide for it."""
    size = 0
    for k in range(1, len(rows)):
        gap = rows[k] - rows[k - 1]
        if gap >= 1 << 16:
            return 1 << 62
        size += 1 if gap < _ESCAPE else 3
    return size


def decode_index(form: int, data: memoryview, count: int, total: int) -> tuple[IntArray, int]:
    """Read ``count`` row indices from the head of ``data``.

    Args:
        form: number of the form.
        data: the bytes from the index block on.
        count: rows in the frame, at least 1.
        total: rows of the layout.

    Returns:
        Ascending row indices below ``total`` (int64 [count]), and the bytes that the block took.

    Raises:
        RemoteProtocolError: anything else came.
    """
    first = int.from_bytes(_take(data, 0, 4), "big")
    if form == _RUN:
        rows, used = np.arange(first, first + count, dtype=np.int64), 4
    elif form == _GAPS8:
        small = np.frombuffer(_take(data, 4, count - 1), dtype=np.uint8).astype(np.int64)
        wide = np.flatnonzero(small == _ESCAPE)
        used = 4 + (count - 1) + 2 * len(wide)
        small[wide] = np.frombuffer(_take(data, 4 + count - 1, 2 * len(wide)), dtype=">u2")
        rows = _from_gaps(first, small)
    elif form == _GAPS32:
        used = 4 + 4 * (count - 1)
        rows = _from_gaps(first, np.frombuffer(_take(data, 4, used - 4), dtype=">u4").astype(np.int64))
    elif form == _BITMAP:
        span = int.from_bytes(_take(data, 4, 4), "big")
        if not count <= span <= total:
            raise RemoteProtocolError(f"index block: expected a span of {count} .. {total} rows, got {span}")
        used = 8 + (span + 7) // 8
        packed = np.frombuffer(_take(data, 8, used - 8), dtype=np.uint8)
        rows = np.flatnonzero(np.unpackbits(packed, count=span, bitorder="little")) + first
    else:
        raise RemoteProtocolError(f"index block: expected a form in 0 .. 3, got {form}")
    if len(rows) != count or int(rows[-1]) >= total:
        raise RemoteProtocolError(f"index block: expected {count} rows below {total}, got other rows")
    return rows, used


def _from_gaps(first: int, gaps: IntArray) -> IntArray:
    if (gaps <= 0).any():
        raise RemoteProtocolError("index block: expected ascending rows, got a gap of 0")
    rows = np.empty(len(gaps) + 1, dtype=np.int64)
    rows[0] = first
    np.cumsum(gaps, out=rows[1:])
    rows[1:] += first
    return rows


def _take(data: memoryview, start: int, length: int) -> memoryview:
    if length < 0 or start + length > len(data):
        raise RemoteProtocolError("index block: the frame ends inside it")
    return data[start : start + length]
