"""Plain versions of the kernels of ``elements``: numpy within a row, the same bytes as with numba."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rowcast.codecs.base import Bytes, IntArray, Vector
from rowcast.rows.intrinsics import float_of_bits

__all__ = ["decode_values", "find", "histogram", "longest", "put", "tops"]

Patterns = npt.NDArray[np.uint32]

_MASK = np.uint32(0x7FFFFFFF)
_ESCAPE, _FAR, _STEPS, _BLOCK, _SHIFT = 255, 65535, 128, 16, 18


def tops(patterns: Patterns, tops: Patterns) -> np.uint32:
    sizes = patterns & _MASK
    found = np.maximum.reduceat(sizes, np.arange(0, len(sizes), _BLOCK))
    tops[: len(found)] = found
    return np.uint32(found.max())


def find(patterns: Patterns, tops: Patterns, least: np.uint32, entries: IntArray) -> tuple[int, int]:
    found = np.flatnonzero((patterns & _MASK) >= least)
    count = len(found)
    entries[:count] = found
    if count == 0:
        return 0, 1
    gaps = np.diff(found, prepend=-1) - 1
    size = int(np.where(gaps < _ESCAPE, 1, 3 * (1 + (gaps - _ESCAPE) // _FAR)).sum())
    head = max(1, -(-count.bit_length() // 7))
    return count, head + 2 + size + (count if count > 1 else 0)


def histogram(patterns: Patterns, bins: IntArray) -> None:
    bins += np.bincount((patterns & _MASK) >> np.uint32(_SHIFT), minlength=len(bins))


def longest(offsets: IntArray, rows: IntArray) -> int:
    return int((offsets[rows + 1] - offsets[rows]).max(initial=0))


def put(row: Vector, scale_pattern: np.uint32, entries: IntArray, payload: Bytes, at: int, consume: bool) -> int:
    count, pattern = len(entries), int(scale_pattern)
    values, scale = row[entries], float_of_bits(scale_pattern)
    negative = values < 0
    head = bytearray()
    left = count
    while left >= 128:
        head.append(128 | (left & 127))
        left >>= 7
    head += bytes((left, (pattern >> 16) & 255, (pattern >> 24) | (128 if count == 1 and negative[0] else 0)))
    gaps = np.diff(entries, prepend=-1) - 1
    if (gaps < _ESCAPE).all():
        head += gaps.astype(np.uint8).tobytes()
    else:
        for gap in gaps.tolist():
            head += _gap_code(gap)
    if count == 1:
        amount = np.where(values > 0, scale, -scale)
    else:
        number = (np.abs(values) * (np.float32(_STEPS) / scale) + np.float32(0.5)).astype(np.int64)
        number = np.clip(number, 1, _STEPS - 1)
        head += np.where(negative, 256 - number, number).astype(np.uint8).tobytes()
        size = number.astype(np.float32) * (scale / np.float32(_STEPS))
        amount = np.where(negative, -size, size)
    payload[at : at + len(head)] = np.frombuffer(head, dtype=np.uint8)
    if consume:
        row[entries] -= amount
    return at + len(head)


def _gap_code(gap: int) -> bytes:
    code = b""
    while gap >= _ESCAPE:
        far = min(gap - _ESCAPE, _FAR)
        code += bytes((_ESCAPE, far & 255, far >> 8))
        if far < _FAR:
            return code
        gap -= _FAR
    return code + bytes((gap,))


def decode_values(
    vector: Vector, begin: int, gaps: IntArray, numbers: Bytes, scale: np.float32, sign: np.float32
) -> None:
    """Add several elements to a row that begins at ``begin``: the gaps before them, and their sizes."""
    number = numbers.astype(np.int64)
    positive = number < _STEPS
    steps = np.where(positive, number, 256 - number).astype(np.float32)
    amount = sign * (steps * (scale / np.float32(_STEPS)))
    vector[begin + np.cumsum(gaps + 1) - 1] += np.where(positive, amount, -amount)


def decode_add(vector: Vector, offsets: IntArray, rows: IntArray, payload: Bytes, sign: np.float32) -> None:
    data = payload.tobytes()
    at = 0
    for row in rows:
        count, shift = 0, 0
        while True:
            byte = data[at]
            at, count, shift = at + 1, count | ((byte & 127) << shift), shift + 7
            if byte < 128:
                break
        if count == 0:
            continue
        scale = float_of_bits(np.uint32((data[at] << 16) | (data[at + 1] << 24)))
        gaps, at = _gaps(payload, data, at + 2, count)
        if count == 1:
            vector[offsets[row] + int(gaps[0])] += sign * scale
            continue
        decode_values(vector, int(offsets[row]), gaps, payload[at : at + count], scale, sign)
        at += count


def _gaps(payload: Bytes, data: bytes, at: int, count: int) -> tuple[IntArray, int]:
    """``count`` gaps from ``at`` on, and what comes behind them."""
    short = payload[at : at + count]
    if len(short) == count and (short < _ESCAPE).all():
        return short.astype(np.int64), at + count
    gaps = np.zeros(count, dtype=np.int64)
    for k in range(count):
        while True:
            byte = data[at]
            if byte < _ESCAPE:
                gaps[k] += byte
                at += 1
                break
            far = data[at + 1] | (data[at + 2] << 8)
            at += 3
            gaps[k] += _FAR if far == _FAR else _ESCAPE + far
            if far < _FAR:
                break
    return gaps, at
