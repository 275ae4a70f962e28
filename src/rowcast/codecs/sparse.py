"""A quarter of a bit an element: of every 32 elements the largest, coarsely.

For links that cannot carry a row in :mod:`one bit an element <rowcast.codecs.onebit>`. Top-k with error feedback
(algorithms.md 3.3), the k largest taken one from each block: so a row has a fixed size, the index of an element is
five bits, and finding it is one pass without sorting. What is not sent stays pending, as with every lossy code.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rowcast.codecs import plain
from rowcast.codecs.base import Bytes, IntArray, Vector, bfloat_scales, expect_bytes, starts
from rowcast.errors import RemoteProtocolError
from rowcast.rows import Layout
from rowcast.rows.compiling import without_numba
from rowcast.rows.kernels import compiled, in_parts, prefetch_next

__all__ = ["Sparse"]

BLOCK = 32


@compiled
@without_numba(plain.sparse_encode)
def _encode(
    vector: npt.NDArray[np.float32],
    offsets: npt.NDArray[np.int64],
    rows: npt.NDArray[np.int64],
    scales: npt.NDArray[np.float32],
    scale_patterns: npt.NDArray[np.uint32],
    places: npt.NDArray[np.int64],
    chosen: npt.NDArray[np.uint8],
    consume: bool,
) -> None:
    for k in range(len(rows)):
        prefetch_next(vector, offsets, rows, k)
        row = vector[offsets[rows[k]] : offsets[rows[k] + 1]]
        block = chosen[places[k] : places[k + 1]]
        peak = np.float32(0.0)
        for b in range(len(block)):
            first = 32 * b
            best = first
            for j in range(first + 1, min(first + 32, len(row))):
                if abs(row[j]) > abs(row[best]):
                    best = j
            block[b] = best - first
            peak = max(peak, abs(row[best]))
        scales[k] = peak
        # Down to a bfloat16: the largest is never sent larger than it is, and stays finite.
        scale_patterns[k] &= np.uint32(0xFFFF0000)
        scale = scales[k]
        third = scale / np.float32(3.0)
        for b in range(len(block)):
            place = 32 * b + block[b]
            size = abs(row[place])
            level = np.uint8(0)
            for step in range(1, 4):
                # The nearest of 0, 1/3, 2/3, 3/3 of the scale: what is left is never larger than what was there.
                if size >= (np.float32(step) - np.float32(0.5)) * third:
                    level = np.uint8(step)
            negative = row[place] < np.float32(0.0)
            block[b] |= level << np.uint8(5)
            if negative:
                block[b] |= np.uint8(128)
            if consume:
                amount = np.float32(level) * third
                row[place] -= -amount if negative else amount


@compiled
@without_numba(plain.sparse_decode_add)
def _decode_add(
    vector: npt.NDArray[np.float32],
    offsets: npt.NDArray[np.int64],
    rows: npt.NDArray[np.int64],
    scales: npt.NDArray[np.float32],
    places: npt.NDArray[np.int64],
    chosen: npt.NDArray[np.uint8],
) -> None:
    for k in range(len(rows)):
        row = vector[offsets[rows[k]] : offsets[rows[k] + 1]]
        block = chosen[places[k] : places[k + 1]]
        third = scales[k] / np.float32(3.0)
        for b in range(len(block)):
            amount = np.float32((block[b] >> 5) & 3) * third
            row[32 * b + (block[b] & 31)] += -amount if block[b] & 128 else amount


class Sparse:
    """Of every 32 elements the largest: its place, its sign, and its size in thirds of the row's largest.

    Payload of k rows: k scales (little-endian bfloat16), then a byte for each block of each row: bits 0-4 the place in
    the block, bits 5-6 the size in thirds of the scale (0: nothing), bit 7 is 1 for negative.
    """

    name = "sparse"
    wire_id = 4

    def row_bytes(self, layout: Layout) -> IntArray:
        return _blocks(layout.lengths) + 2

    def encode(self, layout: Layout, vector: Vector, rows: IntArray, *, consume: bool = True) -> Bytes:
        lengths = layout.lengths[rows]
        places = starts(_blocks(lengths))
        payload = np.empty(2 * len(rows) + int(places[-1]), dtype=np.uint8)
        scales = np.empty(len(rows), dtype=np.float32)
        patterns, chosen = scales.view(np.uint32), payload[2 * len(rows) :]
        in_parts(
            lambda part, edges: _encode(
                vector, layout.offsets, rows[part], scales[part], patterns[part], places[edges], chosen, consume
            ),
            len(rows),
            int(lengths.sum()),
        )
        payload[: 2 * len(rows)] = (patterns >> np.uint32(16)).astype("<u2").view(np.uint8)
        return payload

    def add(self, layout: Layout, payload: Bytes, rows: IntArray, vector: Vector, sign: float) -> None:
        lengths = layout.lengths[rows]
        places = starts(_blocks(lengths))
        scales, chosen = bfloat_scales(payload, len(rows)) * np.float32(sign), payload[2 * len(rows) :]
        in_parts(
            lambda part, edges: _decode_add(vector, layout.offsets, rows[part], scales[part], places[edges], chosen),
            len(rows),
            int(lengths.sum()),
        )

    def check(self, layout: Layout, payload: Bytes, rows: IntArray) -> None:
        lengths = layout.lengths[rows]
        blocks = _blocks(lengths)
        expect_bytes(self.name, payload, 2 * len(rows) + int(blocks.sum()))
        scales = bfloat_scales(payload, len(rows))
        if not np.isfinite(scales).all() or (scales < 0).any():
            raise RemoteProtocolError("sparse payload: expected finite scales >= 0, got something else")
        last = payload[2 * len(rows) + np.cumsum(blocks) - 1] & 31
        if (last >= lengths - BLOCK * (blocks - 1)).any():
            raise RemoteProtocolError("sparse payload: expected places inside of their rows, got one beyond")


def _blocks(lengths: IntArray) -> IntArray:
    return (lengths + BLOCK - 1) // BLOCK
