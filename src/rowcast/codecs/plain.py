"""Plain versions of the kernels of ``raw``, ``half``, ``onebit`` and ``sparse``: numpy, the same bits as with numba."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rowcast.codecs.base import Bytes, IntArray, Vector
from rowcast.rows.intrinsics import float_of_bits
from rowcast.rows.lanes import sums_of_rows
from rowcast.rows.plain import blocks, matrix, starts_of

__all__ = [
    "are_scales",
    "gather",
    "half_decode_add",
    "half_encode",
    "half_size_of",
    "half_within_one",
    "onebit_decode_add",
    "onebit_encode",
    "onebit_extent",
    "sparse_decode_add",
    "sparse_encode",
]

Halves = npt.NDArray[np.uint16]
Patterns = npt.NDArray[np.uint32]


def gather(vector: Vector, offsets: IntArray, rows: IntArray, places: IntArray, out: Vector, consume: bool) -> None:
    for block in blocks(offsets, rows):
        row = block.of(vector)
        block.of(out, int(places[block.first]))[:] = row
        if consume:
            row[:] = 0


def half_size_of(offsets: IntArray, rows: IntArray) -> tuple[int, int]:
    lengths = offsets[rows + 1] - offsets[rows]
    return int(lengths.sum()), int(lengths.max(initial=0))


def _powers(exponents: npt.NDArray[np.int64]) -> Vector:
    """2 to these exponents, [rows, 1]."""
    return np.asarray(float_of_bits((127 + exponents).astype(np.uint32) << np.uint32(23)))[:, None]


def _expanded(halves: Halves, up: Vector) -> Vector:
    """What float16 say, times ``up`` of their row."""
    bits = halves.astype(np.uint32)
    patterns = ((bits & np.uint32(0x7FFF)) << np.uint32(13)) | ((bits & np.uint32(0x8000)) << np.uint32(16))
    value = patterns.view(np.float32)
    value *= np.float32(2.0**112)
    value *= up
    return value


def half_encode(
    vector: Vector,
    offsets: IntArray,
    rows: IntArray,
    exponents: npt.NDArray[np.int8],
    halves: Halves,
    room: Vector,
    consume: bool,
) -> None:
    starts = starts_of(offsets, rows)
    for block in blocks(offsets, rows):
        row = block.of(vector)
        sizes = row.view(np.uint32) & np.uint32(0x7FFFFFFF)
        sizes[sizes > np.uint32(0x7F800000)] = 0
        peak = sizes.max(axis=1)
        exponent = np.minimum((peak >> np.uint32(23)).astype(np.int64) - 126, 126)
        exponent[(peak == 0) | (peak == np.uint32(0x7F800000))] = 0
        exponents[block.first : block.last] = exponent
        value = row * _powers(-exponent)
        value *= np.float32(2.0**-112)
        pattern = value.view(np.uint32)
        size = pattern & np.uint32(0x7FFFFFFF)
        nearest_even = np.uint32(0x0FFF) + ((size >> np.uint32(13)) & np.uint32(1))
        nearest = (size + nearest_even) >> np.uint32(13)
        nearest[(nearest > np.uint32(0x3C00)) & (nearest <= np.uint32(0x4400))] = 0x3C00
        half = block.of(halves, int(starts[block.first]))
        half[:] = nearest | ((pattern >> np.uint32(16)) & np.uint32(0x8000))
        if consume:
            row -= _expanded(half, _powers(exponent))


def half_decode_add(
    vector: Vector,
    offsets: IntArray,
    rows: IntArray,
    exponents: npt.NDArray[np.int8],
    halves: Halves,
    room: Vector,
    sign: np.float32,
) -> None:
    starts = starts_of(offsets, rows)
    for block in blocks(offsets, rows):
        up = _powers(exponents[block.first : block.last].astype(np.int64))
        row = block.of(vector)
        row += sign * _expanded(block.of(halves, int(starts[block.first])), up)


def half_within_one(halves: Halves) -> bool:
    return bool((halves & np.uint16(0x7FFF)).max(initial=0) <= 0x3C00)


def onebit_extent(offsets: IntArray, rows: IntArray) -> tuple[int, int]:
    lengths = offsets[rows + 1] - offsets[rows]
    return int(lengths.sum()), int(((lengths + 7) >> 3).sum())


def _sign_places(offsets: IntArray, rows: IntArray) -> IntArray:
    return np.concatenate([[0], np.cumsum((offsets[rows + 1] - offsets[rows] + 7) >> 3)])


def onebit_encode(vector: Vector, offsets: IntArray, rows: IntArray, halves: Bytes, bits: Bytes, consume: bool) -> None:
    places = _sign_places(offsets, rows)
    for block in blocks(offsets, rows):
        row, count = block.of(vector), block.last - block.first
        scales = sums_of_rows(np.abs(row)) / np.float32(block.length)
        exact = scales.view(np.uint32)
        nearest_even = np.uint32(0x7FFF) + ((exact >> np.uint32(16)) & np.uint32(1))
        rounded = (exact + nearest_even) & np.uint32(0xFFFF0000)
        head = matrix(halves, 2 * block.first, count, 2)
        head[:, 0] = (rounded >> np.uint32(16)) & np.uint32(0xFF)
        head[:, 1] = rounded >> np.uint32(24)
        signs = (row.view(np.uint32) >> np.uint32(31)).astype(np.uint8)
        packed = np.packbits(signs, axis=1, bitorder="little")
        matrix(bits, int(places[block.first]), count, packed.shape[1])[:] = packed
        if consume:
            row -= np.copysign(rounded.view(np.float32)[:, None], row)


def onebit_decode_add(
    vector: Vector, offsets: IntArray, rows: IntArray, halves: Bytes, bits: Bytes, sign: np.float32
) -> None:
    places = _sign_places(offsets, rows)
    for block in blocks(offsets, rows):
        count = block.last - block.first
        head = matrix(halves, 2 * block.first, count, 2).astype(np.uint32)
        scales = ((head[:, 0] << np.uint32(16)) | (head[:, 1] << np.uint32(24))).view(np.float32) * sign
        packed = matrix(bits, int(places[block.first]), count, (block.length + 7) >> 3)
        signs = np.unpackbits(packed, axis=1, count=block.length, bitorder="little").astype(np.uint32)
        row = block.of(vector)
        row += float_of_bits(scales.view(np.uint32)[:, None] ^ (signs << np.uint32(31)))


def are_scales(halves: Bytes) -> bool:
    pattern = halves[::2].astype(np.int64) | (halves[1::2].astype(np.int64) << 8)
    return not bool(((pattern & 0x7F80 == 0x7F80) | (pattern > 0x8000)).any())


def sparse_encode(
    vector: Vector,
    offsets: IntArray,
    rows: IntArray,
    scales: Vector,
    scale_patterns: Patterns,
    places: IntArray,
    chosen: Bytes,
    consume: bool,
) -> None:
    for block in blocks(offsets, rows):
        row, count = block.of(vector), block.last - block.first
        here, groups = slice(block.first, block.last), (block.length + 31) // 32
        sizes = np.full((count, 32 * groups), -2, dtype=np.float32)
        sizes[:, : block.length] = np.abs(row)
        sizes[np.isnan(sizes)] = -1
        best = sizes.reshape(count, groups, 32).argmax(axis=2)
        at = (np.arange(count)[:, None], 32 * np.arange(groups) + best)
        size = np.abs(row[at])
        scales[here] = np.fmax.reduce(size, axis=1, initial=np.float32(0))
        scale_patterns[here] &= np.uint32(0xFFFF0000)
        third = (scales[here] / np.float32(3.0))[:, None]
        level = np.zeros((count, groups), dtype=np.uint8)
        for step in range(1, 4):
            level[size >= (np.float32(step) - np.float32(0.5)) * third] = step
        negative = row[at] < 0
        code = best.astype(np.uint8) | (level << np.uint8(5)) | (negative.astype(np.uint8) << np.uint8(7))
        matrix(chosen, int(places[block.first]), count, groups)[:] = code
        if consume:
            amount = level.astype(np.float32) * third
            row[at] -= np.where(negative, -amount, amount)


def sparse_decode_add(
    vector: Vector, offsets: IntArray, rows: IntArray, scales: Vector, places: IntArray, chosen: Bytes
) -> None:
    for block in blocks(offsets, rows):
        row, count = block.of(vector), block.last - block.first
        groups = (block.length + 31) // 32
        code = matrix(chosen, int(places[block.first]), count, groups)
        third = (scales[block.first : block.last] / np.float32(3.0))[:, None]
        amount = ((code >> np.uint8(5)) & np.uint8(3)).astype(np.float32) * third
        at = (np.arange(count)[:, None], 32 * np.arange(groups) + (code & np.uint8(31)).astype(np.int64))
        row[at] += np.where(code & np.uint8(128), -amount, amount)


def taken(vector: Vector, sizes: IntArray, rows: IntArray, consume: bool) -> int:
    if consume:
        vector[rows] = 0
    return int(sizes[rows].sum())


def sum_of(sizes: IntArray, rows: IntArray) -> int:
    return int(sizes[rows].sum())
