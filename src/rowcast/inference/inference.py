"""One inference at the robot, from the input to the answer."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rowcast.errors import RowcastError
from rowcast.inference.outcome import Spent
from rowcast.inference.work import Work
from rowcast.planning import Plan

if TYPE_CHECKING:
    from rowcast.inference.exchanges import Exchange

__all__ = ["Inference"]


@dataclass(eq=False)
class Inference:
    """What a user asked for.

    Attributes:
        ticket: names it to the user.
        inputs: the model's inputs, for the engine.
        asked_at: when they came (s).
        deadline_at: when the answer is wanted (s), or ``None``.
        plan: how it was begun, or ``None``.
        begun_at: when its turn came (s), for the first time; infinite before.
        local_at: when the robot begins to compute the whole model, unless it must begin earlier (s).
        remote: what is exchanged with the server, where the plan says so and the link stands.
        local: the robot's own answer that is computed, or was.
        spent: what the robot did for it.
        trouble: why the server does not answer it.
    """

    ticket: int
    inputs: Any
    asked_at: float
    deadline_at: float | None
    plan: Plan | None = None
    begun_at: float = math.inf
    local_at: float = math.inf
    remote: Exchange | None = None
    local: Work | None = None
    spent: Spent = field(default_factory=Spent)
    trouble: RowcastError | None = None

    def urgency(self) -> float:
        """The lower, the earlier it is wanted."""
        return math.inf if self.deadline_at is None else self.deadline_at

    def start_at(self, local_s: float | None) -> float:
        """When the robot has to begin the whole model (s): as was decided, or to keep the deadline.

        Args:
            local_s: what that takes; ``None``: the robot need not keep the deadline by itself.
        """
        return self.local_at if local_s is None else min(self.local_at, self.urgency() - local_s)
