"""Sums of float32 whose order is the same on every processor, with numba and without it.

What a compiler makes of a plain loop depends on the width of the vectors of the processor. Where a sum decides about
bytes (the scale of a code) or about the order of rows, this order holds instead:

1. element ``j`` is added to lane ``j % 32``, as long as there are 32;
2. lanes are folded to 16, then 8: lane ``i`` gains lane ``i + half``; of what is left, element ``j`` is added to lane
   ``j % 8``, as long as there are 8;
3. lanes are folded to 4, 2 and 1; what is left is added one after the other.
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
    whole, eights = length - length % 32, length - length % 8
    lanes = np.zeros((rows, 32), dtype=np.float32)
    for first in range(0, whole, 32):
        lanes += block[:, first : first + 32]
    eight = _fold(_fold(lanes))
    for first in range(whole, eights, 8):
        eight += block[:, first : first + 8]
    total = _fold(_fold(_fold(eight)))[:, 0]
    for place in range(eights, length):
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
