"""Sums of float32 whose order is the same on every processor, with numba and without it, and on a GPU.

What a compiler makes of a plain loop depends on the width of the vectors of the processor. Where a sum decides about
bytes (the scale of a code) or about the order of rows, this order holds instead:

1. over whole blocks of 32 elements, element ``j`` is added to lane ``j % 32``;
2. lanes 0-7, 8-15, 16-23 and 24-31 are added one after the other; of the 8 sums the upper half is added to the lower
   one, three times;
3. over whole blocks of 4 of the rest, element ``j`` is added to lane ``j % 4``; lane 0 begins with the sum so far, the
   others with 0; the lanes are added as (0 + 2) + (1 + 3);
4. what is left is added one after the other.

It is the order that a compiler chooses for AVX2, which made the bytes of releases before it was written down
(algorithms.md 3.1).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rowcast.rows.compiling import compiled_serial, without_numba
from rowcast.rows.intrinsics import dot_lanes, size_lanes

__all__ = ["dot_of", "size_of", "sums_of_rows"]

Vector = npt.NDArray[np.float32]


def _fold(lanes: Vector) -> Vector:
    half = lanes.shape[1] // 2
    return lanes[:, :half] + lanes[:, half:]


def sums_of_rows(block: Vector) -> Vector:
    """The sum of each row of float32 [rows, n] in the order above, float32 [rows]."""
    rows, length = block.shape
    whole, fours = length - length % 32, length - length % 4
    lanes = np.zeros((rows, 32), dtype=np.float32)
    for first in range(0, whole, 32):
        lanes += block[:, first : first + 32]
    eight = ((lanes[:, :8] + lanes[:, 8:16]) + lanes[:, 16:24]) + lanes[:, 24:]
    total = _fold(_fold(_fold(eight)))[:, 0]
    if whole < fours:
        four = np.zeros((rows, 4), dtype=np.float32)
        four[:, 0] = total
        for first in range(whole, fours, 4):
            four += block[:, first : first + 4]
        total = _fold(_fold(four))[:, 0]
    for place in range(fours, length):
        total = total + block[:, place]
    return total


def _plain_size(row: Vector) -> np.float32:
    return np.float32(sums_of_rows(np.abs(row)[None])[0])


def _plain_dot(one: Vector, other: Vector) -> np.float32:
    return np.float32(sums_of_rows((one * other)[None])[0])


# Not with ``compiled``, which would let the compiler choose an order.
@compiled_serial
@without_numba(_plain_size)
def size_of(row: Vector) -> np.float32:
    """Sum |element| of a contiguous float32 array in the order above; for kernels and alone."""
    return size_lanes(row)  # type: ignore[no-any-return]


@compiled_serial
@without_numba(_plain_dot)
def dot_of(one: Vector, other: Vector) -> np.float32:
    """Sum of products of two contiguous float32 arrays in the order above; for kernels and alone."""
    return dot_lanes(one, other)  # type: ignore[no-any-return]
