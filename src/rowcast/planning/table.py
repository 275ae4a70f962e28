"""Plans by the rate of the link, computed once, and the robot's own answer when the deadline comes near."""

from __future__ import annotations

import itertools
import math
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from rowcast.errors import ConfigError
from rowcast.graphs import Profile
from rowcast.planning.costs import CostModel, Floats, Plan

__all__ = ["LateStart", "PlanTable", "plan_table"]

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


@dataclass(frozen=True)
class LateStart:
    """The robot computes the answer itself where the server's is not there in time.

    It begins at ``deadline_s - local_s``, so that its own answer is there at the deadline, and not before: most answers
    of the server come earlier and cost the robot nothing.

    Attributes:
        deadline_s: from the input to the answer (s).
        local_s: the whole model on the robot, 99th percentile of a long run (s): :attr:`Profile.sustained_s`.

    Raises:
        ConfigError: the robot cannot keep the deadline alone.
    """

    deadline_s: float
    local_s: float

    def __post_init__(self) -> None:
        if not 0 < self.local_s <= self.deadline_s < math.inf:
            raise ConfigError(
                f"deadline: expected at least {self.local_s:g} s, which the robot alone takes (99th percentile of a "
                f"long run), got {self.deadline_s:g} s; without the link it would be missed: allow more time or take "
                "a smaller model"
            )

    @staticmethod
    def of(profile: Profile, deadline_s: float) -> LateStart:
        """For a profile.

        Raises:
            ConfigError: the robot cannot keep the deadline alone.
        """
        return LateStart(deadline_s, profile.sustained_s)

    @property
    def start_s(self) -> float:
        """When the robot begins, from the input on (s)."""
        return self.deadline_s - self.local_s

    def latency_s(self, remote_s: Floats) -> Floats:
        """When there is an answer (s): the server's, or the robot's own at the deadline.

        Args:
            remote_s: float64 [...]: when the server's answers come; infinite where they do not.
        """
        return np.minimum(remote_s, self.deadline_s)

    def computing_s(self, remote_s: Floats) -> Floats:
        """How long the robot computes until there is an answer (s); as :meth:`latency_s`."""
        return np.clip(remote_s - self.start_s, 0.0, self.local_s)
