"""What a robot decides with: plans, and what it draws."""

from __future__ import annotations

from dataclasses import dataclass, field

from rowcast.energy import PowerStates
from rowcast.planning import Chooser, Plan

__all__ = ["Planning"]


@dataclass(frozen=True)
class Planning:
    """What a robot knows of itself and its plans.

    Attributes:
        chooser: which plan for an input.
        local: the plan that has everything computed on the robot.
        local_s: what that takes, 99th percentile of a long run (s): so long before its deadline it is begun.
        power: what the robot draws in each state.
    """

    chooser: Chooser
    local: Plan
    local_s: float
    power: PowerStates = field(default_factory=PowerStates)
