"""One bit an element: the sign, and one 16-bit scale for each row.

Source: dist-EF-SGDM, Zheng, Huang, Kwok, NeurIPS 2019 (arXiv 1905.10936), in the row form of algorithms.md
3.1 and 3.4: ``C(p) = (||p||_1 / n) sign(p)`` for each row of n elements, sign(0) = +1.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rowcast.codecs.base import Bytes, IntArray, Vector, expect_bytes, starts
from rowcast.errors import RemoteProtocolError
from rowcast.rows import Layout
from rowcast.rows.intrinsics import float_of_bits, sign_bits
from rowcast.rows.kernels import (
    PARALLEL_ELEMENTS,
    compiled,
    compiled_serial,
    in_parts,
    prefetch_next,
)
from rowcast.rows.ordered import ordered_abs_sum

__all__ = ["OneBit"]


@compiled_serial
def _extent(offsets: npt.NDArray[np.int64], rows: npt.NDArray[np.int64]) -> tuple[int, int]:
    """Elements of ``rows``, and the bytes of their signs."""
    elements = sign_bytes = 0
    for k in range(len(rows)):
        length = offsets[rows[k] + 1] - offsets[rows[k]]
        elements += length
        sign_bytes += (length + 7) >> 3
    return elements, sign_bytes


@compiled
def _encode(
    vector: npt.NDArray[np.float32],
    offsets: npt.NDArray[np.int64],
    rows: npt.NDArray[np.int64],
    halves: npt.NDArray[np.uint8],
    bits: npt.NDArray[np.uint8],
    consume: bool,
) -> None:
    # Bit 31 of a pattern is the sign, its upper half is the bfloat16.
    scales = np.empty(len(rows), dtype=np.float32)
    patterns, scale_patterns = vector.view(np.uint32), scales.view(np.uint32)
    place = 0
    for k in range(len(rows)):
        prefetch_next(vector, offsets, rows, k)
        row = vector[offsets[rows[k]] : offsets[rows[k] + 1]]
        pattern = patterns[offsets[rows[k]] : offsets[rows[k] + 1]]
        packed = bits[place : place + ((len(row) + 7) >> 3)]
        place += len(packed)
        scales[k] = ordered_abs_sum(row) / np.float32(len(row))
        exact = scale_patterns[k]
        nearest_even = np.uint32(0x7FFF) + ((exact >> np.uint32(16)) & np.uint32(1))
        scale_patterns[k] = (exact + nearest_even) & np.uint32(0xFFFF0000)
        halves[2 * k] = np.uint8((scale_patterns[k] >> np.uint32(16)) & np.uint32(0xFF))
        halves[2 * k + 1] = np.uint8(scale_patterns[k] >> np.uint32(24))
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
    halves: npt.NDArray[np.uint8],
    bits: npt.NDArray[np.uint8],
    sign: np.float32,
) -> None:
    # Moving a bit to the place of the sign and turning the scale by it takes half the time of computing with the
    # bit as a number, and four bytes at once keep the vector units busy: this runs at the rate of memory.
    scales = np.empty(len(rows), dtype=np.float32)
    scale_patterns = scales.view(np.uint32)
    for k in range(len(rows)):
        scale_patterns[k] = (np.uint32(halves[2 * k]) << np.uint32(16)) | (
            np.uint32(halves[2 * k + 1]) << np.uint32(24)
        )
        scales[k] *= sign
    place = 0
    for k in range(len(rows)):
        prefetch_next(vector, offsets, rows, k)
        row = vector[offsets[rows[k]] : offsets[rows[k] + 1]]
        packed = bits[place : place + ((len(row) + 7) >> 3)]
        place += len(packed)
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


@compiled_serial
def _are_scales(halves: npt.NDArray[np.uint8]) -> bool:
    """Whether all of these bfloat16 are finite and 0 or more; 0 may have a sign."""
    for k in range(len(halves) // 2):
        pattern = np.int64(halves[2 * k]) | (np.int64(halves[2 * k + 1]) << 8)
        if pattern & 0x7F80 == 0x7F80 or pattern > 0x8000:
            return False
    return True


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
        return layout.once(self.name, lambda each: _sign_bytes(each.lengths) + 2)

    def encode(self, layout: Layout, vector: Vector, rows: IntArray, *, consume: bool = True) -> Bytes:
        elements, sign_bytes = _extent(layout.offsets, rows)
        payload = np.empty(2 * len(rows) + sign_bytes, dtype=np.uint8)
        if elements < PARALLEL_ELEMENTS:
            _encode(vector, layout.offsets, rows, payload[: 2 * len(rows)], payload[2 * len(rows) :], consume)
        else:
            _encode_long(layout, vector, rows, payload, consume)
        return payload

    def add(self, layout: Layout, payload: Bytes, rows: IntArray, vector: Vector, sign: float) -> None:
        elements, _ = _extent(layout.offsets, rows)
        halves, bits = payload[: 2 * len(rows)], payload[2 * len(rows) :]
        if elements < PARALLEL_ELEMENTS:
            _decode_add(vector, layout.offsets, rows, halves, bits, np.float32(sign))
        else:
            _add_long(layout, payload, rows, vector, np.float32(sign))

    def check(self, layout: Layout, payload: Bytes, rows: IntArray) -> None:
        _, sign_bytes = _extent(layout.offsets, rows)
        expect_bytes(self.name, payload, 2 * len(rows) + sign_bytes)
        if not _are_scales(payload[: 2 * len(rows)]):
            raise RemoteProtocolError("onebit payload: expected finite scales >= 0, got something else")


# Functions of their own, since the names that a ``lambda`` captures make every call slower.


def _encode_long(layout: Layout, vector: Vector, rows: IntArray, payload: Bytes, consume: bool) -> None:
    """Encode in parts."""
    halves, bits = payload[: 2 * len(rows)].reshape(-1, 2), payload[2 * len(rows) :]
    places = starts(_sign_bytes(layout.lengths[rows]))
    in_parts(
        lambda part, _: _encode(
            vector, layout.offsets, rows[part], halves[part].reshape(-1), bits[places[part.start] :], consume
        ),
        len(rows),
        int(layout.lengths[rows].sum()),
    )


def _add_long(layout: Layout, payload: Bytes, rows: IntArray, vector: Vector, sign: np.float32) -> None:
    """Decode and add in parts."""
    halves, bits = payload[: 2 * len(rows)].reshape(-1, 2), payload[2 * len(rows) :]
    places = starts(_sign_bytes(layout.lengths[rows]))
    in_parts(
        lambda part, _: _decode_add(
            vector, layout.offsets, rows[part], halves[part].reshape(-1), bits[places[part.start] :], sign
        ),
        len(rows),
        int(layout.lengths[rows].sum()),
    )


def _sign_bytes(lengths: IntArray) -> IntArray:
    return (lengths + 7) >> 3
