"""Who computes against the others.

Each iteration of a member is compared with what each other member sent lately: the mean over rows of the cosine, each
row alike. (The few rows that tell classes apart are the largest of many models, and point apart where robots see
different classes; the many others agree all the same.) Two members agree by the mean of both comparisons over their
last iterations.

A member is against the others where it disagrees with each of them by more than chance, and nearly any two of them
agree. That alone is not wrong: a robot that sees other classes than the rest stands so, too. But its data turns around
what tells classes apart, and leaves alone what they have in common, such as the first layers; a flipped sign turns
around everything. So it is the share of the tensors in which the others agree and this one disagrees that tells. (Wrong
labels look like other classes: they can be told from them only where it is known that all see the same.)

A member climbs: see :mod:`rowcast.training.guard.response`.

Nothing here depends on how large updates are.

Sources: a negative cosine with those that are trusted counts nothing: Cao et al., "FLTrust", NDSS 2021; here the others
take the place of trusted data. Distances of pairs tell who stands apart: Blanchard et al., "Machine Learning with
Adversaries" (Krum), NeurIPS 2017. History, since a single iteration cannot tell: Karimireddy, He and Jaggi, ICML 2021.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rowcast.training.guard.watched import Watched

Numbers = npt.NDArray[np.float64]

__all__ = ["against", "climbs", "direction"]

#: Iterations that must have been compared.
LEAST = 8
#: Beyond so many standard errors something is more than chance.
ERRORS = 2.0
#: Nearly any two: all but this part of the pairs.
NEARLY = 0.1
#: Share of the tensors, by their rows, that a flipped sign turns around at least.
TURNED = 0.75
#: Mean cosine of an update's change with the model's movement, beyond those of all others, from which a member climbs.
CLIMBS = 0.2


def direction(one: Watched, others: Collection[str]) -> tuple[float, float] | None:
    """How a member's own updates stand to what others sent: the medians of cosine and standard error.

    Returns:
        ``None`` where fewer than two of them have been compared with it for long enough.
    """
    known = [mean for other in others if (mean := one.toward.get(other)) is not None and mean.count[-1] >= LEAST]
    if len(known) < 2:
        return None
    return float(np.median([mean.value[-1] for mean in known])), float(np.median([mean.error[-1] for mean in known]))


def against(
    watched: Mapping[str, Watched], name: str, others: Collection[str], weights: Numbers, *, alike: bool
) -> bool:
    """Whether a member computes against the others, who agree.

    Args:
        watched: all members.
        name: the member.
        others: those that it is compared with, two or more.
        weights: of the tensors, float64 [tensors].
        alike: all are known to have data of the same kinds, so that it need not turn around everything.
    """
    if (pairs := _Pairs.of(watched, name, others)) is None:
        return False
    if (pairs.mine[:, -1] + ERRORS * pairs.my_errors[:, -1]).max() >= 0:
        return False
    low = float(np.quantile(pairs.theirs[:, -1], NEARLY, method="lower"))
    agreement, error = pairs.agreement
    if low <= 0 or agreement[-1] <= ERRORS * error[-1]:
        return False
    return alike or pairs.turned(weights) >= TURNED


def climbs(watched: Mapping[str, Watched], name: str, others: Collection[str]) -> bool:
    """Whether a member climbs where others descend that have quite different data.

    Args:
        watched, name, others: see :func:`against`.
    """
    response = watched[name].response.value
    if response < CLIMBS or response < CLIMBS + max((watched[other].response.value for other in others), default=0.0):
        return False
    if (pairs := _Pairs.of(watched, name, others)) is None:
        return False
    value, error = (float(np.median(column[:, -1])) for column in (pairs.mine, pairs.my_errors))
    agreement, chance = pairs.agreement
    return value > ERRORS * error and bool(agreement[-1] < -ERRORS * chance[-1])


class _Pairs(NamedTuple):
    """How a member stands to each other one, and how each two of them to each other.

    Attributes:
        mine, my_errors: cosines and standard errors, float64 [others, tensors + 1]; see :attr:`Watched.toward`.
        theirs, their_errors: float64 [pairs, tensors + 1].
    """

    mine: Numbers
    my_errors: Numbers
    theirs: Numbers
    their_errors: Numbers

    @classmethod
    def of(cls, watched: Mapping[str, Watched], name: str, others: Collection[str]) -> _Pairs | None:
        """``None`` before all of them have been compared for long enough."""
        if len(others) < 2:
            return None
        columns: list[Numbers] = []
        for pairs in ([(name, other) for other in others], list(itertools.combinations(others, 2))):
            known = [found for a, b in pairs if (found := _agreement(watched[a], watched[b], a, b)) is not None]
            if len(known) < len(pairs):
                return None
            columns += [np.stack(column) for column in zip(*known, strict=True)]
        return cls(*columns)

    @property
    def agreement(self) -> tuple[Numbers, Numbers]:
        """Of the others: the mean over their pairs, and its standard error, float64 [tensors + 1]."""
        return self.theirs.mean(axis=0), np.sqrt((self.their_errors**2).sum(axis=0)) / len(self.theirs)

    def turned(self, weights: Numbers) -> float:
        """Share of the tensors in which the others agree, by weight, in which this one disagrees as much as half."""
        agreement, error = (column[:-1] for column in self.agreement)
        agreed = agreement > ERRORS * error
        turned = agreed & (self.mine.mean(axis=0)[:-1] < -0.5 * agreement)
        return float(weights[turned].sum() / weights[agreed].sum()) if agreed.any() else 0.0


def _agreement(one: Watched, two: Watched, a: str, b: str) -> tuple[Numbers, Numbers] | None:
    """How two members stand to each other: the means of both comparisons, and their standard errors."""
    there, back = one.toward.get(b), two.toward.get(a)
    if there is None or back is None or min(there.count[-1], back.count[-1]) < LEAST:
        return None
    return 0.5 * (there.value + back.value), 0.5 * np.hypot(there.error, back.error)
