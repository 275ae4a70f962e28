"""Who computes against the others.

Each iteration of a member is compared with what each other member sent lately: the mean over rows of the cosine, each
row alike. (The few rows that tell classes apart are the largest of many models, and point apart where robots see
different classes; the many others agree all the same.) Two members agree by the mean of both comparisons over their
last iterations. A member computes against the others, because a sign is flipped or its labels are wrong, where

- its agreement with them (the median) is negative by more than chance,
- the others agree among themselves by more than chance, and
- it is further from them than nearly any two of them are from each other.

The last one is the measure of how different sound members are: with robots that see quite different things it decides
nothing. Nothing here depends on how large updates are.

Sources: a negative cosine with those that are trusted counts nothing: Cao et al., "FLTrust", NDSS 2021; here the others
take the place of trusted data. Distances of pairs tell who stands apart: Blanchard et al., "Machine Learning with
Adversaries" (Krum), NeurIPS 2017. History, since a single iteration cannot tell: Karimireddy, He and Jaggi, ICML 2021.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Mapping

import numpy as np

from rowcast.training.guard.watched import Watched

__all__ = ["against", "direction"]

#: Iterations that must have been compared.
LEAST = 8
#: Beyond so many standard errors something is more than chance.
ERRORS = 2.0
#: Nearly any two: all but this part of the pairs.
NEARLY = 0.1


def direction(one: Watched, others: Collection[str]) -> tuple[float, float] | None:
    """How a member's own updates stand to what others sent: the medians of cosine and standard error.

    Returns:
        ``None`` where fewer than two of them have been compared with it for long enough.
    """
    known = [mean for other in others if (mean := one.toward.get(other)) is not None and mean.count >= LEAST]
    if len(known) < 2:
        return None
    return float(np.median([mean.value for mean in known])), float(np.median([mean.error for mean in known]))


def against(watched: Mapping[str, Watched], name: str, others: Collection[str]) -> bool:
    """Whether a member computes against the others.

    Args:
        watched: all members.
        name: the member.
        others: those that it is compared with, two or more.
    """
    mine = [pair for other in others if (pair := _agreement(watched, name, other)) is not None]
    if len(mine) < 2:
        return False
    value, error = (float(np.median(column)) for column in zip(*mine, strict=True))
    if value + ERRORS * error >= 0:
        return False
    pairs = [pair for a, b in itertools.combinations(others, 2) if (pair := _agreement(watched, a, b)) is not None]
    if not pairs:
        return False
    values, errors = (np.array(column) for column in zip(*pairs, strict=True))
    chance = float(np.sqrt((errors**2).sum())) / len(errors)
    return float(values.mean()) > ERRORS * chance and value < float(np.quantile(values, NEARLY))


def _agreement(watched: Mapping[str, Watched], a: str, b: str) -> tuple[float, float] | None:
    """How two members stand to each other: the mean of both comparisons, and its standard error."""
    one, two = watched[a].toward.get(b), watched[b].toward.get(a)
    if one is None or two is None or min(one.count, two.count) < LEAST:
        return None
    return 0.5 * (one.value + two.value), 0.5 * math.hypot(one.error, two.error)
