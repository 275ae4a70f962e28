"""A batch of the whole team, shared out: in proportion, in whole samples, within bounds (algorithms.md 5)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from rowcast.errors import ConfigError

__all__ = ["DEAD_BAND", "rebalanced", "share"]

#: Batches stay as they are while none would change by more than this share of it (Tyagi and Sharma 2020).
DEAD_BAND = 0.05


def share(
    total: int, weights: Sequence[float], least: Sequence[int] | None = None, most: Sequence[int] | None = None
) -> list[int]:
    """Share ``total`` samples out in proportion to ``weights``, by the largest remainder.

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


def rebalanced(
    batches: Sequence[int],
    seconds: Sequence[float],
    *,
    least: int = 1,
    most: int | None = None,
    dead_band: float = DEAD_BAND,
) -> list[int]:
    """Batches that follow the measured speed of unequal processors, with the same sum (Tyagi and Sharma 2020).

    A worker that computes ``seconds`` for its batch gets its batch times the mean of all over its own: so that all
    take as long. Nothing changes while no batch would change by ``dead_band`` of it or more.

    Args:
        batches: samples of each worker, 1 or more.
        seconds: mean time of a gradient of each, since the last change; above 0.
        least, most: bounds of a batch; ``most``: memory of a device.
        dead_band: share of a batch.

    Returns:
        the batches of the next steps.

    Raises:
        ConfigError: as many values as workers are expected, above 0.
    """
    if len(batches) != len(seconds) or min(batches, default=0) < 1 or not min(seconds, default=0.0) > 0:
        raise ConfigError(f"batches: expected a batch and a time above 0 of each worker, got {batches} and {seconds}")
    mean = sum(seconds) / len(seconds)
    wanted = [batch * mean / own for batch, own in zip(batches, seconds, strict=True)]
    if all(abs(new - old) < dead_band * old for new, old in zip(wanted, batches, strict=True)):
        return list(batches)
    total, workers = sum(batches), len(batches)
    return share(total, wanted, [least] * workers, [total if most is None else most] * workers)
