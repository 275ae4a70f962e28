"""Sums whose order is part of a format: the same bits on every machine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np
import numpy.typing as npt

from rowcast.rows.intrinsics import blocks_abs_sum
from rowcast.rows.kept import keep

__all__ = ["compiled_exact", "ordered_abs_sum"]

F = TypeVar("F", bound=Callable[..., Any])


def compiled_exact(function: F) -> F:
    """Compile a function for use in kernels whose sums keep their order, also where the kernel's may be reordered.

    Without ``fastmath=False`` numba hands down what it was told of the kernel that is compiled first.
    """
    return cast(F, keep(numba.njit(nogil=True, fastmath=False)(function)))


@compiled_exact
def ordered_abs_sum(row: npt.NDArray[np.float32]) -> np.float32:
    """For use in kernels: sum |.| of a row, added up in one order on every machine.

    Where a sum decides what is on the wire, its last bit counts. The order is the one that AVX2 code has: 32 lanes over
    whole blocks of 32 (see :data:`~rowcast.rows.intrinsics.blocks_abs_sum`), then 4 lanes over whole blocks of 4 of
    the rest, of which the first begins with the sum so far, then the last elements one by one. This function may not
    be compiled with ``reassoc``, and keeps its order also where it is called by a kernel that is.
    """
    total: np.float32 = blocks_abs_sum(row, len(row))
    place = len(row) // 32 * 32
    if len(row) - place >= 4:
        second = third = fourth = np.float32(0.0)
        while len(row) - place >= 4:
            total += abs(row[place])
            second += abs(row[place + 1])
            third += abs(row[place + 2])
            fourth += abs(row[place + 3])
            place += 4
        total = (total + third) + (second + fourth)
    for j in range(place, len(row)):
        total += abs(row[j])
    return total
