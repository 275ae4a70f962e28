"""Label-skewed shards: which worker of a team holds which training images."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rowcast.errors import ConfigError

__all__ = ["dirichlet_shards"]


def dirichlet_shards(
    labels: NDArray[np.int64],
    workers: int,
    *,
    alpha: float,
    minimum: int,
    rng: np.random.Generator,
) -> list[NDArray[np.int64]]:
    """Split a set over ``workers`` so that each sees its own mixture of classes.

    The images of each class are dealt in proportions drawn from a Dirichlet distribution: a small ``alpha``
    gives each class to few workers, a large one gives everyone the same mixture. A worker that would hold fewer
    than ``minimum`` images takes some of the largest class of the largest shard.

    Args:
        labels: ``(n,)`` class of each image.
        workers: number of shards, >= 1.
        alpha: concentration, > 0.
        minimum: images that every shard holds at least (a batch).
        rng: a seeded numpy generator.

    Returns:
        one sorted index array for each worker; disjoint, and together the whole set.

    Raises:
        ConfigError: ``workers`` or ``alpha`` out of range, or fewer than ``workers * minimum`` images.

    Source: T. H. Hsu, H. Qi, M. Brown, "Measuring the Effects of Non-Identical Data Distribution for Federated
    Visual Classification", arXiv 1909.06335; the proportions here are drawn for each class over the workers.
    """
    if workers < 1:
        raise ConfigError(f"workers: expected a number >= 1, got {workers!r}")
    if not alpha > 0:
        raise ConfigError(f"alpha: expected a number > 0, got {alpha!r}")
    if len(labels) < workers * minimum:
        raise ConfigError(
            f"{len(labels)} images are too few for {workers} workers with a batch of {minimum} each; "
            "use fewer workers, a smaller batch or more images"
        )
    shards: list[list[int]] = [[] for _ in range(workers)]
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        shares = rng.dirichlet(np.full(workers, alpha))
        cuts = np.rint(np.cumsum(shares)[:-1] * len(members)).astype(np.int64)
        for shard, part in zip(shards, np.split(members, cuts), strict=True):
            shard.extend(part.tolist())
    _fill_up(shards, labels, minimum)
    return [np.sort(np.asarray(shard, dtype=np.int64)) for shard in shards]


def _fill_up(shards: list[list[int]], labels: NDArray[np.int64], minimum: int) -> None:
    """Move images from the largest shards until every shard holds ``minimum``."""
    for shard in shards:
        while len(shard) < minimum:
            donor = max(shards, key=len)
            kinds, counts = np.unique(labels[donor], return_counts=True)
            largest = kinds[np.argmax(counts)]
            spare = min(minimum - len(shard), len(donor) - minimum, int(counts.max()))
            moved = [index for index in donor if labels[index] == largest][:spare]
            taken = set(moved)
            donor[:] = [index for index in donor if index not in taken]
            shard.extend(moved)
