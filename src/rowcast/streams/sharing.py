"""A batch of the whole team, shared out: in proportion, in whole samples, within bounds (algorithms.md 13)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from rowcast.errors import ConfigError

__all__ = ["DEAD_BAND", "share"]

#: What a worker can train on counts as unchanged within this share of it (Tyagi and Sharma 2020).
DEAD_BAND = 0.05


def share(
    total: int, weights: Sequence[float], least: Sequence[int] | None = None, most: Sequence[int] | None = None
) -> list[int]:
    """Share ``total`` samples out in proportion to ``weights``, by the largest remainder.

    With the measured speeds of processors as weights it is dynamic batching: ``b_k mu / mu_k``, the batch times the
    mean time over its own, is in proportion to the speed ``b_k / mu_k`` (Tyagi and Sharma 2020).

    A share beyond its bounds is put on its bound, and the others share what that leaves. Of equal remainders the first
    wins, so that the same values give the same shares everywhere.

    Args:
        total: samples, 0 or more.
        weights: finite, 0 or more; all 0: in equal parts.
        least, most: bounds of each share; by default 0 and ``total``.

    Returns:
        the shares. They sum up to ``total`` where the bounds allow it; otherwise each is on the bound that is nearest.

    Raises:
        ConfigError: a weight that is no share, or bounds that cross.

    >>> share(10, [1.0, 1.0, 1.0])
    [4, 3, 3]
    >>> share(100, [9.0, 1.0], least=[0, 20])
    [80, 20]
    """
    values = np.asarray(weights, np.float64)
    low = np.zeros(len(values), np.int64) if least is None else np.asarray(least, np.int64)
    high = np.full(len(values), max(total, 0), np.int64) if most is None else np.asarray(most, np.int64)
    if total < 0 or not np.all(np.isfinite(values) & (values >= 0)):
        raise ConfigError(f"share: expected a total and finite weights of 0 or more, got {total} and {list(weights)}")
    if np.any(low > high) or np.any(low < 0):
        raise ConfigError(f"share: expected 0 <= least <= most, got {low.tolist()} and {high.tolist()}")
    shares = np.zeros(len(values), np.int64)
    free = np.ones(len(values), bool)
    while free.any():
        left = max(total - int(shares[~free].sum()), 0)
        wanted = _in_proportion(left, values[free])
        beyond = np.where(wanted < low[free], wanted - low[free], np.maximum(wanted - high[free], 0))
        if not beyond.any():
            shares[free] = wanted
            break
        # Only the side that moves the total more is put on its bound; the other side may come free by that.
        side = beyond > 0 if beyond.sum() > 0 else beyond < 0
        places = np.flatnonzero(free)[side]
        shares[places] = np.where(beyond[side] > 0, high[places], low[places])
        free[places] = False
    return [int(value) for value in shares]


def _in_proportion(total: int, weights: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    whole = weights.sum()
    exact = total * (weights / whole if whole > 0 else np.full(len(weights), 1 / max(len(weights), 1)))
    shares: npt.NDArray[np.int64] = np.floor(exact).astype(np.int64)
    rest = total - int(shares.sum())
    shares[np.argsort(-(exact - shares), kind="stable")[:rest]] += 1
    return shares
