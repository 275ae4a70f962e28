"""The cells of ``grid.py``: which jobs, teams, rates, optimizers, shards, robots and links are tried together.

Not the product of all (3,000 cells that are possible), but a **base** cell of each job with every other value of one
factor, and a **covering array**: so many cells more that every combination of values of two or three factors that is
possible at all is in one of them at least.
"""

from __future__ import annotations

import fnmatch
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

__all__ = ["JOBS", "OPTIMIZERS", "GridCell", "all_cells", "chosen", "covering", "deviations", "ladder"]

JOBS = ("Digits", "Fashion", "Text", "Series", "Diabetes")
OPTIMIZERS = ("sgd", "momentum", "adam")
#: Factors and their values; the rate is a multiple of the best for ``bsp``.
FACTORS: dict[str, tuple[str | int | float, ...]] = {
    "job": JOBS,
    "team": (4, 1, 2, 16),
    "rate": (1.0, 0.5, 2.0, 4.0),
    "optimizer": ("momentum", "sgd", "adam"),
    "shards": ("iid", "skew"),
    "robots": ("equal", "unequal"),
    "links": ("outdoor", "fast", "slow", "silent"),
}
#: The first stage: the lowest rate that ``bsp`` tries at first, and how many, each the double of the one before.
LADDER = {"sgd": 0.05, "momentum": 0.005, "adam": 0.0005}
RUNGS = 5


@dataclass(frozen=True)
class GridCell:
    """One combination of values; the defaults are those of a base cell.

    Attributes:
        job: a class of ``grid_jobs.py``.
        team: robots.
        rate: learning rate, as a multiple of the best for ``bsp`` with this job and optimizer.
        optimizer: 'sgd', 'momentum' or 'adam'.
        shards: of the data: 'iid' or 'skew', by label.
        robots: 'equal', or 'unequal': the first one computes four times slower.
        links: 'fast', constant; 'outdoor'; 'slow', 0.2 Mbit/s; 'silent', good ones of which one stops for a while.
    """

    job: str = "Digits"
    team: int = 4
    rate: float = 1.0
    optimizer: str = "momentum"
    shards: str = "iid"
    robots: str = "equal"
    links: str = "outdoor"

    @property
    def name(self) -> str:
        """``digits/4/x1/momentum/iid/equal/outdoor``: what a pattern is held against."""
        values = (self.job.lower(), self.team, f"x{self.rate:g}", self.optimizer, self.shards, self.robots, self.links)
        return "/".join(map(str, values))

    @property
    def possible(self) -> bool:
        """One robot alone has all of the data, and nobody to be unequal to."""
        return self.team > 1 or (self.shards, self.robots) == ("iid", "equal")

    @property
    def reference(self) -> GridCell:
        """The cell whose ``bsp`` this one is compared with: by iteration, links and robots change nothing for it."""
        return replace(self, robots="equal", links="fast")


def deviations(jobs: Sequence[str]) -> list[GridCell]:
    """The base cell of each job, and all that differ from it in one factor."""
    found = []
    for job in jobs:
        base = GridCell(job)
        found.append(base)
        for factor, values in itertools.islice(FACTORS.items(), 1, None):
            found += [replace(base, **{factor: value}) for value in values if value != getattr(base, factor)]
    return found


def covering(jobs: Sequence[str], strength: int, begun: Sequence[GridCell] = ()) -> list[GridCell]:
    """Cells that, with those ``begun``, hold every combination of values of ``strength`` factors that is possible.

    Greedy (as AETG: Cohen et al., IEEE TSE 1997), but over the whole product, which is small: the next cell is the one
    with the most combinations that are in none so far, of several the first.
    """
    factors = {**FACTORS, "job": tuple(jobs)}
    names = [field.name for field in fields(GridCell)]
    product = [GridCell(*values) for values in itertools.product(*(factors[name] for name in names))]
    product = [cell for cell in product if cell.possible]
    numbers: dict[tuple[tuple[str, object], ...], int] = {}
    held = np.array([_combinations(cell, names, strength, numbers) for cell in product])
    missing = np.ones(len(numbers), dtype=bool)
    for cell in begun:
        missing[_combinations(cell, names, strength, numbers)] = False
    found = []
    while missing.any():
        best = int(missing[held].sum(axis=1).argmax())
        missing[held[best]] = False
        found.append(product[best])
    return found


def _combinations(
    cell: GridCell, names: Sequence[str], strength: int, numbers: dict[tuple[tuple[str, object], ...], int]
) -> list[int]:
    """The numbers of the combinations that a cell holds; a new one gets the next number."""
    pairs = [(name, getattr(cell, name)) for name in names]
    return [numbers.setdefault(each, len(numbers)) for each in itertools.combinations(pairs, strength)]


def all_cells(jobs: Sequence[str], strength: int) -> list[GridCell]:
    """The cells of the grid, in order."""
    begun = deviations(jobs)
    return [*begun, *covering(jobs, strength, begun)]


def chosen(cells: Sequence[GridCell], pattern: str) -> list[GridCell]:
    """Those whose name fits one of the patterns, by commas, with ``*`` for anything."""
    patterns = [each.strip().lower() for each in pattern.split(",")]
    return [cell for cell in cells if any(fnmatch.fnmatchcase(cell.name, each) for each in patterns)]


def ladder(optimizer: str, below: int = 0, above: int = 0) -> list[float]:
    """The learning rates that ``bsp`` tries with an optimizer, with so many more below and above."""
    return [LADDER[optimizer] * 2.0**k for k in range(-below, RUNGS + above)]
