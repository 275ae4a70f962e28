"""One bit an element: the sign, and one 16-bit scale for each row.

Source: dist-EF-SGDM, Zheng, Huang, Kwok, NeurIPS 2019 (arXiv 1905.10936), in the row form of algorithms.md
3.1 and 3.4: ``C(p) = (||p||_1 / n) sign(p)`` for each row of n elements, sign(0) = +1.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rowcast.codecs.base import Bytes, IntArray, Vector, bfloat_scales, expect_bytes, starts
from rowcast.errors import RemoteProtocolError
from rowcast.rows import Layout
from rowcast.rows.intrinsics import float_of_bits, sign_bits
from rowcast.rows.kernels import compiled, in_parts, prefetch_next

__all__ = ["OneBit"]


@compiled
def _encode(
    vector: npt.NDArray[np.float32],
    offsets: npt.NDArray[np.int64],
    rows: npt.NDArray[np.int64],
    scales: npt.NDArray[np.float32],
    places: npt.NDArray[np.int64],
    bits: npt.NDArray[np.uint8],
    consume: bool,
) -> None:
    # Bit 31 of a pattern is the sign, its upper half is the bfloat16.
    patterns, scale_patterns = vector.view(np.uint32), scales.view(np.uint32)
    for k in range(len(rows)):
        prefetch_next(vector, offsets, rows, k)
        row = vector[offsets[rows[k]] : offsets[rows[k] + 1]]
        pattern = patterns[offsets[rows[k]] : offsets[rows[k] + 1]]
        packed = bits[places[k] : places[k + 1]]
        size = np.float32(0.0)
        for j in range(len(row)):
            size += abs(row[j])
        scales[k] = size / np.float32(len(row))
        exact = scale_patterns[k]
        nearest_even = np.uint32(0x7FFF) + ((exact >> np.uint32(16)) & np.uint32(1))
        scale_patterns[k] = (exact + nearest_even) & np.uint32(0xFFFF0000)
        whole = len(row) // 8
        for b in range(whole):
            packed[b] = sign_bits(pattern, 8 * b)
        if whole < len(packed):
            byte = np.int64(0)
            for j in range(len(row) - 8 * whole):
                byte |= np.int64(pattern[8 * whole + j] >> 31) << j
            packed[whole] = np.uint8(byte)
        if consume:
            scale = scales[k]
            for j in range(len(row)):
                row[j] -= np.copysign(scale, row[j])


@compiled
def _decode_add(
    vector: npt.NDArray[np.float32],
    offsets: npt.NDArray[np.int64],
    rows: npt.NDArray[np.int64],
    scale_patterns: npt.NDArray[np.uint32],
    places: npt.NDArray[np.int64],
    bits: npt.NDArray[np.uint8],
) -> None:
    # Moving a bit to the place of the sign and turning the scale by it takes half the time of computing with the
    # bit as a number, and four bytes at once keep the vector units busy: this runs at the rate of memory.
    for k in range(len(rows)):
        prefetch_next(vector, offsets, rows, k)
        row = vector[offsets[rows[k]] : offsets[rows[k] + 1]]
        packed = bits[places[k] : places[k + 1]]
        scale = scale_patterns[k]
        words = len(row) // 32
        for w in range(words):
            word = (
                np.uint32(packed[4 * w])
                | (np.uint32(packed[4 * w + 1]) << np.uint32(8))
                | (np.uint32(packed[4 * w + 2]) << np.uint32(16))
                | (np.uint32(packed[4 * w + 3]) << np.uint32(24))
            )
            for j in range(32):
                row[32 * w + j] += float_of_bits(scale ^ ((word << np.uint32(31 - j)) & np.uint32(0x80000000)))
        for j in range(32 * words, len(row)):
            bit = np.uint32(packed[j >> 3]) << np.uint32(31 - (j & 7))
            row[j] += float_of_bits(scale ^ (bit & np.uint32(0x80000000)))


class OneBit:
    """Sign bits padded to bytes for each row, one bfloat16 scale for each row.

    The scale is a bfloat16, not a float16: updates with a learning rate of 1e-6 have means below the smallest
    float16, and the exponent range of float32 is what keeps them. Its rounding error (at most 0.4 %) stays in
    the residual like everything else that the code cannot express.

    Payload of k rows: k scales (little-endian uint16), then the sign bytes of each row. Bit j of a byte is
    element j, 1 for negative.
    """

    name = "onebit"
    wire_id = 3

    def row_bytes(self, layout: Layout) -> IntArray:
        return _sign_bytes(layout.lengths) + 2

    def encode(self, layout: Layout, vector: Vector, rows: IntArray, *, consume: bool = True) -> Bytes:
        lengths = layout.lengths[rows]
        places = starts(_sign_bytes(lengths))
        payload = np.empty(2 * len(rows) + int(places[-1]), dtype=np.uint8)
        scales = np.empty(len(rows), dtype=np.float32)
        bits = payload[2 * len(rows) :]
        in_parts(
            lambda part, edges: _encode(vector, layout.offsets, rows[part], scales[part], places[edges], bits, consume),
            len(rows),
            int(lengths.sum()),
        )
        payload[: 2 * len(rows)] = (scales.view(np.uint32) >> np.uint32(16)).astype("<u2").view(np.uint8)
        return payload

    def add(self, layout: Layout, payload: Bytes, rows: IntArray, vector: Vector, sign: float) -> None:
        lengths = layout.lengths[rows]
        places = starts(_sign_bytes(lengths))
        scales = (bfloat_scales(payload, len(rows)) * np.float32(sign)).view(np.uint32)
        bits = payload[2 * len(rows) :]
        in_parts(
            lambda part, edges: _decode_add(vector, layout.offsets, rows[part], scales[part], places[edges], bits),
            len(rows),
            int(lengths.sum()),
        )

    def check(self, layout: Layout, payload: Bytes, rows: IntArray) -> None:
        expect_bytes(self.name, payload, 2 * len(rows) + int(_sign_bytes(layout.lengths[rows]).sum()))
        scales = bfloat_scales(payload, len(rows))
        if not np.isfinite(scales).all() or (scales < 0).any():
            raise RemoteProtocolError("onebit payload: expected finite scales >= 0, got something else")


def _sign_bytes(lengths: IntArray) -> IntArray:
    return (lengths + 7) >> 3
