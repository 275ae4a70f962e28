"""Plain versions of the kernels of this package: numpy, the same bits as with numba."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rowcast.rows.lanes import sums_of_rows
from rowcast.rows.plain import Block, all_blocks, blocks

__all__ = ["compare", "measure", "multiply", "outer_step", "scale", "shrink", "sketch", "sums"]

Vector = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


def _serial(numbers: Floats) -> Floats:
    """The sum of each row of [rows, n], one number after the other as in a loop; ``sum`` adds in another order."""
    return np.cumsum(numbers, axis=1)[:, -1] if numbers.shape[1] else np.zeros(len(numbers))


def _here(block: Block) -> slice:
    return slice(block.first, block.last)


def measure(values: Vector, places: Integers, sums: Floats, squares: Floats) -> None:
    for block in all_blocks(places):
        rows = block.of(values)
        wide = rows.astype(np.float64)
        total, square = _serial(wide), _serial(wide * wide)
        bad = ~np.isfinite(square)
        rows[bad] = 0
        sums[_here(block)] = np.where(bad, 0.0, total)
        squares[_here(block)] = np.where(bad, np.nan, square)


def scale(values: Vector, places: Integers, factors: Vector) -> None:
    for block in all_blocks(places):
        rows = block.of(values)
        rows *= factors[_here(block), None]


def sums(values: Vector, places: Integers, sums: Floats) -> None:
    for block in all_blocks(places):
        sums[_here(block)] = _serial(block.of(values).astype(np.float64))


def compare(
    values: Vector, others: Vector, places: Integers, tensors: Integers, cosines: Floats, weights: Floats
) -> None:
    for block in all_blocks(places):
        a, b = block.of(values).astype(np.float64), block.of(others).astype(np.float64)
        dot, one, two = _serial(a * b), _serial(a * a), _serial(b * b)
        some = (one > 0.0) & (two > 0.0)
        weight = np.sqrt(np.float64(block.length))
        tensor = tensors[_here(block)][some]
        np.add.at(cosines, tensor, weight * dot[some] / np.sqrt(one[some] * two[some]))
        np.add.at(weights, tensor, weight)


def sketch(values: Vector, places: Integers, begins: Integers, width: int) -> Floats:
    sums = np.zeros(width)
    for k in range(len(begins)):
        row = values[places[k] : places[k + 1]].astype(np.float64)
        mixed = (np.uint64(begins[k]) + np.arange(len(row), dtype=np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(32))) * np.uint64(0xD6E8FEB86659FD93)
        place = ((mixed >> np.uint64(32)) & np.uint64(width - 1)).astype(np.int64)
        np.add.at(sums, place, np.where(mixed >> np.uint64(63), row, -row))
    return sums


def outer_step(
    vectors: tuple[Vector, Vector, Vector],
    source: Vector,
    start: int,
    offsets: Integers,
    weights: Vector,
    factors: tuple[np.float32, np.float32, np.float32],
    abs_sums: Vector,
    computed: Floats,
) -> float:
    pending, velocity, replica = vectors
    keep, of_step, of_velocity = factors
    moved = 0.0
    for block in all_blocks(offsets):
        here = _here(block)
        weight, row, speed = weights[here, None], block.of(pending), block.of(velocity)
        step = block.of(replica) - block.of(source, block.begin - start)
        speed[:] = keep * speed + weight * step
        added = of_step * weight * step + of_velocity * speed
        row += added
        abs_sums[here] = sums_of_rows(np.abs(row))
        computed[here] += sums_of_rows(added)
        moved += float(sums_of_rows(np.abs(added)).sum(dtype=np.float64))
    return moved


def multiply(values: Vector, places: Integers, factors: Vector, added: Floats) -> None:
    for block in all_blocks(places):
        rows = block.of(values)
        before = rows.sum(axis=1, dtype=np.float64)
        rows *= factors[_here(block), None]
        added[_here(block)] = rows.sum(axis=1, dtype=np.float64) - before


def shrink(vector: Vector, offsets: Integers, rows: Integers, sums: Vector, most: Vector) -> None:
    for block in blocks(offsets, rows):
        here = _here(block)
        factor = np.where(sums[here] > most[here], most[here] / sums[here], np.float32(1.0)).astype(np.float32)
        values = block.of(vector)
        values *= factor[:, None]
