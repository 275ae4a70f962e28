"""Which plan an inference gets, when the robot begins its own, and when the link is tried."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from rowcast.errors import ConfigError
from rowcast.graphs import Profile
from rowcast.planning.costs import Floats
from rowcast.planning.plan import Plan
from rowcast.planning.rate import RateEstimator
from rowcast.planning.table import PlanTable

__all__ = ["Always", "ByRate", "Chooser", "Decision", "LateStart"]


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

    @staticmethod
    def without_deadline(profile: Profile) -> LateStart:
        """Where nobody gave a deadline: the robot begins once it could have been ready.

        It waits for the server as long as its own answer takes, so no answer takes more than twice that, whatever
        becomes of the link. No rule that knows nothing of the future promises less (the problem of renting skis:
        Karlin et al., "Competitive snoopy caching", Algorithmica 1988).
        """
        return LateStart(2 * profile.sustained_s, profile.sustained_s)

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


@dataclass(frozen=True)
class Decision:
    """What is done with one input.

    The answer is that of the server or of the robot alone, whichever is there first; the other one is given up then: a
    transfer is cancelled, a computation ended.

    Attributes:
        plan: what the server is asked for; nothing where the plan has all on the robot.
        local_start_s: when the robot begins to compute the whole model itself, unless there is an answer, from the
            input on (s); infinite: never.
        probe: the robot alone is expected to be faster; the server is asked to learn the rate.
    """

    plan: Plan
    local_start_s: float
    probe: bool = False

    @staticmethod
    def of(plan: Plan, late: LateStart | None = None) -> Decision:
        """A plan, and where it needs the server the late start, if there is one."""
        if not plan.on_server:
            return Decision(plan, 0.0)
        return Decision(plan, late.start_s if late else math.inf)


class Chooser(Protocol):
    """Decides on each input, and hears what the link carried."""

    def decide(self, now: float) -> Decision:
        """What to do with an input that is there ``now`` (s)."""
        ...

    def delivered(self, now: float, size: float, seconds: float) -> None:
        """``size`` bytes went up in ``seconds`` until ``now``, as far as the robot knows of it."""
        ...


@dataclass(frozen=True)
class Always:
    """The same for every input."""

    decision: Decision

    def decide(self, now: float) -> Decision:
        return self.decision

    def delivered(self, now: float, size: float, seconds: float) -> None:
        """Changes nothing."""


class ByRate:
    """The plan of a table for the rate that was measured.

    Where the table says that the robot alone is faster, nothing travels and nothing is learned of the link. After a
    silence the input is sent all the same, as the best plan at the highest rate has it, while the robot computes from
    the start: latency is that of the faster one, and what it costs is a transfer no longer than the robot's own
    inference, at most once in :data:`rowcast.planning.rate.SILENCE_S`.

    Args:
        table: plans by rate; rates are those that tensors travel at, divided by ``goodput``.
        rate: what is known of the link.
        late: when the robot begins itself although the server was asked; ``None``: never.
        goodput: share of the link's rate that carries tensors: that of the costs which the table was made for.
    """

    def __init__(
        self, table: PlanTable, rate: RateEstimator, late: LateStart | None = None, goodput: float = 1.0
    ) -> None:
        self.table = table
        self.rate = rate
        self.late = late
        self._goodput = goodput

    def decide(self, now: float) -> Decision:
        """See :class:`Chooser`."""
        plan = self.table.at(self.rate.rate_bps(now) / self._goodput)
        fastest = self.table.plans[-1]
        if not plan.on_server and fastest.on_server and self.rate.wants_probe(now):
            self.rate.probed(now)
            return Decision(fastest, 0.0, probe=True)
        return Decision.of(plan, self.late)

    def delivered(self, now: float, size: float, seconds: float) -> None:
        """See :class:`Chooser`."""
        self.rate.delivered(now, size, seconds)
