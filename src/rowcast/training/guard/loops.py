"""Loops over the rows of an update, which lie one behind the other."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rowcast.rows.compiling import without_numba
from rowcast.rows.kernels import compiled_serial
from rowcast.training import plain

__all__ = ["compare", "measure", "scale", "sketch", "sums"]


@compiled_serial
@without_numba(plain.measure)
def measure(
    values: npt.NDArray[np.float32],
    places: npt.NDArray[np.int64],
    sums: npt.NDArray[np.float64],
    squares: npt.NDArray[np.float64],
) -> None:
    """Sum and sum of squares of each row; a row that holds NaN or infinity becomes zeros, and its squares NaN."""
    for k in range(len(sums)):
        total, square = 0.0, 0.0
        for j in range(places[k], places[k + 1]):
            value = np.float64(values[j])
            total += value
            square += value * value
        if not np.isfinite(square):
            for j in range(places[k], places[k + 1]):
                values[j] = 0.0
            total, square = 0.0, np.nan
        sums[k], squares[k] = total, square


@compiled_serial
@without_numba(plain.scale)
def scale(values: npt.NDArray[np.float32], places: npt.NDArray[np.int64], factors: npt.NDArray[np.float32]) -> None:
    for k in range(len(factors)):
        for j in range(places[k], places[k + 1]):
            values[j] *= factors[k]


@compiled_serial
@without_numba(plain.sums)
def sums(values: npt.NDArray[np.float32], places: npt.NDArray[np.int64], sums: npt.NDArray[np.float64]) -> None:
    for k in range(len(sums)):
        total = 0.0
        for j in range(places[k], places[k + 1]):
            total += np.float64(values[j])
        sums[k] = total


@compiled_serial
@without_numba(plain.compare)
def compare(
    values: npt.NDArray[np.float32],
    others: npt.NDArray[np.float32],
    places: npt.NDArray[np.int64],
    tensors: npt.NDArray[np.int64],
    cosines: npt.NDArray[np.float64],
    weights: npt.NDArray[np.float64],
) -> None:
    """Add the cosines of rows to those of their tensors, weighted by the root of their lengths, and the weights.

    Each row counts alike, however large: the few that tell classes apart are the largest, and point apart where robots
    see different classes.

    Args:
        values, others, places: the rows of two updates.
        tensors: of which tensor each row is, int64 [k].
        cosines, weights: float64 [tensors]; changed in place.
    """
    for k in range(len(places) - 1):
        dot, one, two = 0.0, 0.0, 0.0
        for j in range(places[k], places[k + 1]):
            a, b = np.float64(values[j]), np.float64(others[j])
            dot += a * b
            one += a * a
            two += b * b
        if one > 0.0 and two > 0.0:
            weight = np.sqrt(np.float64(places[k + 1] - places[k]))
            cosines[tensors[k]] += weight * dot / np.sqrt(one * two)
            weights[tensors[k]] += weight


@compiled_serial
@without_numba(plain.sketch)
def sketch(
    values: npt.NDArray[np.float32],
    places: npt.NDArray[np.int64],
    begins: npt.NDArray[np.int64],
    width: int,
) -> npt.NDArray[np.float64]:
    """Count sketch of a vector of which rows are given: each element is added to one of ``width`` sums, or subtracted.

    Args:
        values, places: the rows.
        begins: place of each row's first element in the vector, int64 [k].
        width: a power of two.
    """
    sums = np.zeros(width)
    mask = np.uint64(width - 1)
    for k in range(len(begins)):
        for j in range(places[k], places[k + 1]):
            mixed = np.uint64(begins[k] + j - places[k]) * np.uint64(0x9E3779B97F4A7C15)
            mixed = (mixed ^ (mixed >> np.uint64(32))) * np.uint64(0xD6E8FEB86659FD93)
            value = np.float64(values[j])
            sums[(mixed >> np.uint64(32)) & mask] += value if mixed >> np.uint64(63) else -value
    return sums
