"""Rows that are drawn at random in each iteration: the same at every worker, on every machine (algorithms.md 5.10)."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import numpy.typing as npt

__all__ = ["draw", "drawn_of"]

#: Steps and multipliers of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators",
#: OOPSLA 2014).
_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_MIX = ((np.uint64(30), np.uint64(0xBF58476D1CE4E5B9)), (np.uint64(27), np.uint64(0x94D049BB133111EB)))
_LAST = np.uint64(31)

#: A share times a number of units may come out above a whole number by rounding alone.
_ROUNDING = 1e-9


def drawn_of(share: float, population: int) -> int:
    """How many of ``population`` units are drawn in an iteration: a share of them, rounded up."""
    return min(max(math.ceil(share * population - _ROUNDING), 1), population)


def draw(iteration: int, population: int, share: float) -> npt.NDArray[np.int64]:
    """The units of an iteration, drawn without replacement, and independently of those of other iterations.

    Each gets the number that SplitMix64 has for it; those with the lowest are drawn. The numbers of an iteration all
    differ, so it makes no difference how they are sorted.

    Args:
        iteration: seeds the draw, together with the population.
        population: units there are, 1 or more.
        share: of them, above 0.

    Returns:
        int64 [:func:`drawn_of` units], ascending.
    """
    seed = hashlib.blake2b(iteration.to_bytes(8, "big") + population.to_bytes(8, "big"), digest_size=8).digest()
    numbers = np.arange(1, population + 1, dtype=np.uint64)
    numbers *= _GAMMA
    numbers += np.uint64(int.from_bytes(seed, "big"))
    for shift, factor in _MIX:
        numbers ^= numbers >> shift
        numbers *= factor
    numbers ^= numbers >> _LAST
    count = drawn_of(share, population)
    drawn = np.argpartition(numbers, count - 1)[:count].astype(np.int64)
    drawn.sort()
    return drawn
