"""Plain versions of the kernels that work on chunks of rows, and of ``lowrank``: numpy, the same bits as with numba."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from rowcast.codecs.base import Bytes, IntArray, Vector
from rowcast.rows.intrinsics import float_of_bits
from rowcast.rows.lanes import sums_of_rows
from rowcast.rows.plain import matrix

__all__ = ["add_component", "dct_decode_add", "dct_encode", "expand", "largest", "misplaced", "pack", "project"]

Patterns = npt.NDArray[np.uint32]
Tables = tuple[IntArray, IntArray, IntArray]
Transform = tuple[Vector, Vector, IntArray]
Which = tuple[IntArray, IntArray, IntArray]

_CHUNK, _PIECE = 4096, 64
#: The largest pattern of a component of ``dct``: below 2**120, as a bfloat16.
_MOST = np.uint32(((120 + 127) << 23) - 0x10000)


def largest(patterns: Patterns, most: int, bins: IntArray, places: IntArray) -> int:
    sizes = patterns & np.uint32(0x7FFFFFFF)
    border = np.partition(sizes, len(sizes) - most)[len(sizes) - most]
    chosen = sizes > border
    if border > 0:
        chosen[np.flatnonzero(sizes == border)[: most - int(chosen.sum())]] = True
    found = np.flatnonzero(chosen)
    places[: len(found)] = found
    return len(found)


def pack(entries: IntArray, count: int, bits: int, target: Bytes) -> None:
    apart = (entries[:count, None] >> np.arange(bits)) & 1
    packed = np.packbits(apart.astype(np.uint8).reshape(-1), bitorder="little")
    target[: len(packed)] = packed


def unpack(source: Bytes, count: int, bits: int, entries: IntArray) -> None:
    apart = np.unpackbits(source, count=count * bits, bitorder="little").reshape(count, bits)
    entries[:count] = apart @ (np.int64(1) << np.arange(bits))


def misplaced(entries: IntArray, count: int, width: int, length: int) -> bool:
    places = entries[:count] & ((1 << int(width)) - 1)
    return bool((np.diff(places, prepend=0) < 0).any() or (places >= length).any())


def _chunks(offsets: IntArray, rows: IntArray, sizes: IntArray) -> Iterator[tuple[int, int, int, int]]:
    """Of each chunk the place of its row in ``rows``, its begin, its length, and its bytes before it in this row."""
    for k in range(len(rows)):
        begin, stop, skipped = int(offsets[rows[k]]), int(offsets[rows[k] + 1]), 0
        while begin < stop:
            length = min(stop - begin, _CHUNK)
            yield k, begin, length, skipped
            begin += length
            skipped += int(sizes[length])


def _repeat_last(entries: IntArray, found: int, count: int) -> None:
    entries[found:count] = entries[found - 1] if found > 0 else 0


def _new_places(entries: IntArray, count: int, width: int) -> tuple[IntArray, IntArray]:
    """Places of entries and what else they say, those left out that repeat the place before."""
    places = entries[:count] & ((1 << int(width)) - 1)
    new = np.diff(places, prepend=-1) != 0
    return places[new], entries[:count][new] >> width


def levels(sizes: Vector, count: int) -> tuple[np.float32, np.float32, np.float32]:
    taken = sizes[:count]
    wide = taken.astype(np.float64)
    most = taken.max()
    border = np.float32(0.5) * taken.min() + np.float32(0.5) * most
    lower, upper = np.float32(0.0), most
    for _ in range(4):
        high = taken >= min(border, most)
        above = int(high.sum())
        # ``cumsum`` adds one after the other; ``sum`` does not.
        upper = np.float32(np.cumsum(wide[high])[-1] / above)
        lower = np.float32(np.cumsum(wide[~high])[-1] / (count - above)) if count > above else np.float32(0.0)
        border = np.float32(0.5) * lower + np.float32(0.5) * upper
    return lower, upper, min(border, most)


def topk_encode(
    vector: Vector, offsets: IntArray, rows: IntArray, places: IntArray, payload: Bytes, tables: Tables, consume: bool
) -> None:
    counts, widths, sizes = tables
    for k, begin, length, skipped in _chunks(offsets, rows, sizes):
        at, count, width = int(places[k]) + skipped, int(counts[length]), int(widths[length])
        chunk = vector[begin : begin + length]
        entries = np.empty(count + 1, dtype=np.int64)
        found = largest(chunk.view(np.uint32), count, entries, entries)
        ratio, border, level = 0, np.float32(0.0), np.float32(0.0)
        if found > 0:
            lower, upper, border = levels(np.abs(chunk[entries[:found]]), found)
            level = float_of_bits(upper.view(np.uint32) & np.uint32(0xFFFF0000))
            if level > 0:
                ratio = int(min(np.float32(256.0) * (lower / level), np.float32(255.0)))
        below = level * (np.float32(ratio) * np.float32(1.0 / 256.0))
        payload[at : at + 2] = np.array([level], dtype="<f4").view(np.uint8)[2:]
        payload[at + 2] = ratio
        chosen = entries[:found].copy()
        values = chunk[chosen]
        high, negative = np.abs(values) >= border, values < 0
        entries[:found] = chosen | ((2 * high + negative).astype(np.int64) << width)
        if consume:
            amount = np.where(high, level, below).astype(np.float32)
            chunk[chosen] -= np.where(negative, -amount, amount)
        _repeat_last(entries, found, count)
        pack(entries, count, width + 2, payload[at + 3 : at + int(sizes[length])])


def topk_decode_add(
    vector: Vector, offsets: IntArray, rows: IntArray, payload: Bytes, tables: Tables, sign: np.float32
) -> None:
    counts, widths, sizes = tables
    at = 0
    for _, begin, length, _ in _chunks(offsets, rows, sizes):
        count, width, stop = int(counts[length]), int(widths[length]), at + int(sizes[length])
        level = float_of_bits(np.uint32((int(payload[at]) << 16) | (int(payload[at + 1]) << 24)))
        below = level * (np.float32(payload[at + 2]) * np.float32(1.0 / 256.0))
        entries = np.empty(count, dtype=np.int64)
        unpack(payload[at + 3 : stop], count, width + 2, entries)
        chosen, code = _new_places(entries, count, width)
        amount = sign * np.where(code & 2, level, below).astype(np.float32)
        vector[begin + chosen] += np.where(code & 1, -amount, amount)
        at = stop


def transform(chunk: Vector, components: Vector, columns: Vector, begins: IntArray) -> None:
    whole = len(chunk) // _PIECE * _PIECE
    for first, last, length in ((0, whole, _PIECE), (whole, len(chunk), len(chunk) - whole)):
        if first == last:
            continue
        pieces = chunk[first:last].reshape(-1, length)
        base = matrix(columns, int(begins[length]), length, length)
        total = np.zeros_like(pieces)
        for j in range(length):
            total += base[j] * pieces[:, j : j + 1]
        components[first:last] = total.reshape(-1)


def add_component(chunk: Vector, place: int, value: np.float32, bases: Vector, begins: IntArray) -> None:
    first = place // _PIECE * _PIECE
    piece = chunk[first : first + _PIECE]
    at = int(begins[len(piece)]) + (place - first) * len(piece)
    piece += value * bases[at : at + len(piece)]


def dct_encode(
    vector: Vector,
    offsets: IntArray,
    rows: IntArray,
    places: IntArray,
    payload: Bytes,
    tables: Tables,
    transforms: Transform,
    consume: bool,
) -> None:
    counts, widths, sizes = tables
    bases, columns, begins = transforms
    components = np.empty(_CHUNK, dtype=np.float32)
    for k, begin, length, skipped in _chunks(offsets, rows, sizes):
        at, count, width = int(places[k]) + skipped, int(counts[length]), int(widths[length])
        chunk = vector[begin : begin + length]
        transform(chunk, components, columns, begins)
        entries = np.empty(count + 1, dtype=np.int64)
        found = largest(components[:length].view(np.uint32), count, entries, entries)
        chosen = entries[:found].copy()
        patterns = components.view(np.uint32)[chosen]
        size = patterns & np.uint32(0x7FFFFFFF)
        size += np.uint32(0x7FFF) + ((size >> np.uint32(16)) & np.uint32(1))
        coded = (patterns & np.uint32(0x80000000)) | np.minimum(size & np.uint32(0xFFFF0000), _MOST)
        entries[:found] = chosen | ((coded >> np.uint32(16)).astype(np.int64) << width)
        if consume:
            for place, value in zip(chosen.tolist(), float_of_bits(coded), strict=True):
                add_component(chunk, place, -value, bases, begins)
        _repeat_last(entries, found, count)
        pack(entries, count, width + 16, payload[at : at + int(sizes[length])])


def dct_decode_add(
    vector: Vector,
    offsets: IntArray,
    rows: IntArray,
    payload: Bytes,
    tables: Tables,
    transforms: Transform,
    sign: np.float32,
) -> None:
    counts, widths, sizes = tables
    bases, _, begins = transforms
    at = 0
    for _, begin, length, _ in _chunks(offsets, rows, sizes):
        count, width, stop = int(counts[length]), int(widths[length]), at + int(sizes[length])
        entries = np.empty(count, dtype=np.int64)
        unpack(payload[at:stop], count, width + 16, entries)
        chosen, code = _new_places(entries, count, width)
        values = sign * float_of_bits(code.astype(np.uint32) << np.uint32(16))
        for place, value in zip(chosen.tolist(), values, strict=True):
            add_component(vector[begin : begin + length], place, value, bases, begins)
        at = stop


def _lines(
    vector: Vector, offsets: IntArray, which: Which, basis: Vector, places: IntArray
) -> Iterator[tuple[Vector, Vector, slice, tuple[int, int]]]:
    """Of each row its lines [lines, width], its basis [rank, width], and where its products lie, [lines, rank]."""
    rows, widths, basis_at = which
    for k in range(len(rows)):
        width, start, stop = int(widths[k]), int(offsets[rows[k]]), int(offsets[rows[k] + 1])
        lines = (stop - start) // width
        rank = int(places[k + 1] - places[k]) // lines
        directions = matrix(basis, int(basis_at[k]), rank, width)
        here = slice(int(places[k]), int(places[k]) + lines * rank)
        yield matrix(vector, start, lines, width), directions, here, (lines, rank)


def project(
    vector: Vector, offsets: IntArray, which: Which, basis: Vector, places: IntArray, out: Vector, consume: bool
) -> None:
    for block, directions, here, shape in _lines(vector, offsets, which, basis, places):
        target: npt.NDArray[Any] = out[here].reshape(shape)
        for c, direction in enumerate(directions):
            target[:, c] = sums_of_rows(block * direction)
        if consume:
            for c, direction in enumerate(directions):
                block -= target[:, c : c + 1] * direction


def expand(
    vector: Vector,
    offsets: IntArray,
    which: Which,
    basis: Vector,
    places: IntArray,
    values: Vector,
    sign: np.float32,
) -> None:
    for block, directions, here, shape in _lines(vector, offsets, which, basis, places):
        factors = sign * values[here].reshape(shape)
        for c, direction in enumerate(directions):
            block += factors[:, c : c + 1] * direction
