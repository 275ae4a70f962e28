"""Plans by the rate of the link, computed once."""

from __future__ import annotations

import itertools
import math
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from rowcast.errors import ConfigError
from rowcast.planning.costs import CostModel
from rowcast.planning.plan import Plan

__all__ = ["PlanTable", "plan_table"]

#: Boundaries between plans are found to this share of the rate.
PRECISION = 1e-3


@dataclass(frozen=True)
class PlanTable:
    """Which plan for which rate.

    Attributes:
        from_bps: the rate (bit/s, up) from which each plan counts; ascending, the first one counts below as well.
        plans: the plans; what they predict is for the rate in ``from_bps``.
    """

    from_bps: tuple[float, ...]
    plans: tuple[Plan, ...]

    @property
    def thresholds_bps(self) -> tuple[float, ...]:
        """The rates at which the plan changes (bit/s)."""
        return self.from_bps[1:]

    def at(self, rate_bps: float) -> Plan:
        """The plan for a rate (bit/s)."""
        return self.plans[max(0, bisect_right(self.from_bps, rate_bps) - 1)]


def plan_table(
    planner: Callable[[CostModel], Plan], costs: CostModel, low_bps: float, high_bps: float, steps: int = 32
) -> PlanTable:
    """Ask a planner at rates from ``low_bps`` to ``high_bps``, and find where its plan changes.

    A plan that is best only between two neighbouring of the ``steps`` rates (in geometric order) can be missed.

    Args:
        planner: gives a plan; for example ``pipeline``, or a ``partial`` of it with an objective.
        costs: the model, at any rate; the rate down stays in proportion to that up.
        low_bps, high_bps: rates up (bit/s).
        steps: how many rates are asked, 2 or more.

    Raises:
        ConfigError: not ``0 < low_bps < high_bps``, or fewer than two steps.
    """
    if not 0 < low_bps < high_bps < math.inf or steps < 2:
        raise ConfigError(
            f"plan table: expected 0 < low < high and 2 steps or more, got {low_bps} .. {high_bps} bit/s, {steps} steps"
        )
    rates = np.geomspace(low_bps, high_bps, steps).tolist()
    found = [(low_bps, planner(costs.at_rate(low_bps)))]
    for below, rate in itertools.pairwise(rates):
        plan = planner(costs.at_rate(rate))
        while not found[-1][1].same_work(plan):
            rate_at, plan_at = _change(planner, costs, found[-1][1], below, (rate, plan))
            found.append((rate_at, plan_at))
            below = rate_at
    return PlanTable(tuple(rate for rate, _ in found), tuple(plan for _, plan in found))


def _change(
    planner: Callable[[CostModel], Plan], costs: CostModel, old: Plan, below: float, above: tuple[float, Plan]
) -> tuple[float, Plan]:
    """The lowest rate in ``(below, above]`` whose plan is another than ``old``, and that plan."""
    while above[0] > below * (1 + PRECISION):
        middle = math.sqrt(below * above[0])
        plan = planner(costs.at_rate(middle))
        if old.same_work(plan):
            below = middle
        else:
            above = middle, plan
    return above
