"""Robots in an outage: nobody waits for one that others wait for and that is silent for longer than it ever used to be.

It is sent what it is owed and its rows are taken as before; when both have caught up, it counts again.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from rowcast.training.member import Member, MemberState
from rowcast.training.rules.streamed_member import STREAMED, StreamedMember

if TYPE_CHECKING:
    from rowcast.training.rules.streamed import StreamedRule

__all__ = ["Outages"]


#: A worker counts again when it lacks at most this share of the slack for as long as one of its iterations takes, or
#: for what these times are (s) where that is less or more; doubled with each absence of the last :data:`FORGIVEN_S`
#: seconds, up to :data:`STEADY_CAP` times as long: a link that comes and goes is damped. Not in seconds alone, for a
#: worker that does not count computes on for so many iterations, not for so long. Of one whose usual interval is not
#: known yet others would wait for the first silence: it takes the longest.
CAUGHT_UP = 0.5
STEADY_LEAST_S, STEADY_MOST_S = 0.1, 2.0
STEADY_CAP = 30.0
FORGIVEN_S = 300.0


class Outages:
    """Who leaves the gate and who comes back to it.

    Args:
        rule: the rule that streams rows.
    """

    def __init__(self, rule: StreamedRule) -> None:
        self._rule = rule
        self._team = rule.team
        self._away: dict[str, Member] = {}  # who has left the gate and is a member still
        self._waiting: dict[str, Member] = {}  # who waits for others; some may have gone on meanwhile

    def forget(self, member: Member) -> None:
        """``member`` has left for good."""
        self._away.pop(member.name, None)
        self._waiting.pop(member.name, None)

    def waits(self, member: Member) -> None:
        """``member`` waits for others."""
        self._waiting[member.name] = member

    def sharing(self) -> list[Member]:
        """Those of whom more will come."""
        return [member for member in self._away.values() if member.state in STREAMED and not member.given_up]

    # -- who leaves --------------------------------------------------------------------------------------------

    def check_at(self) -> float:
        """When :meth:`leavers` may have an answer (s)."""
        if not self._team.policy.elastic:
            return math.inf
        return min((self._rule.streamed(member).interval.overdue_at() for member in self._blockers()), default=math.inf)

    def leavers(self, now: float) -> list[tuple[Member, float]]:
        """Workers that others wait for and that are in an outage, and for how long each has been silent (s)."""
        if not self._team.policy.elastic:
            return []
        blockers = self._blockers()
        overdue = [member for member in blockers if now >= self._rule.streamed(member).interval.overdue_at()]
        return [(member, self.silent_s(now, member)) for member in overdue]

    def silent_s(self, now: float, member: Member) -> float:
        """For how long nothing has come of ``member`` that others wait for (s)."""
        return now - self._rule.streamed(member).interval.since

    def _blockers(self) -> list[Member]:
        """Members without whose oldest row somebody would go on."""
        team, slack = self._team, self._rule.slack
        for name, member in list(self._waiting.items()):
            if member.state is not MemberState.WAITING or team.members.get(name) is not member:
                del self._waiting[name]
        waiting = [member.iteration - slack for member in self._waiting.values() if member.gated]
        if not waiting or len(team.gate.versions) < 2:
            return []
        return [team.members[name] for name in team.gate.versions.behind(min(waiting))]

    def left(self, now: float, member: Member, streamed: StreamedMember) -> None:
        """``member`` does not count any longer."""
        if now - streamed.left_at > FORGIVEN_S:
            streamed.absences = 0
        streamed.absences += 1
        streamed.left_at = now
        streamed.steady_since = None
        if member.state in STREAMED:  # otherwise it has finished
            self._away[member.name] = member

    # -- who comes back ----------------------------------------------------------------------------------------

    def ends(self, now: float, member: Member) -> bool:
        """Whether ``member``, which does not count, may count again; if so, it does."""
        rule = self._rule
        streamed = rule.streamed(member)
        oldest = int(streamed.versions.min())
        horizon = rule.horizon_of(member)
        lag = math.ceil(CAUGHT_UP * rule.slack)
        # Its oldest row may count as the oldest of all: what it holds must not be older than its own first iteration.
        late = max(streamed.own - oldest, rule.held - horizon) > lag
        if late or oldest < rule.floor.lowest - horizon or not member.leaves:
            streamed.steady_since = None
            return False
        if streamed.steady_since is None:
            streamed.steady_since = now
        if now < streamed.steady_since + self.proof_s(streamed):
            return False
        streamed.shift = self._place(streamed, oldest, horizon)
        streamed.interval.since = now
        self._away.pop(member.name, None)
        self._team.gate.readmit(member, streamed.own + streamed.shift, streamed.versions + np.int32(streamed.shift))
        rule.floor.renew()
        rule.count(member, True)
        return True

    def _place(self, streamed: StreamedMember, oldest: int, horizon: int) -> int:
        """What is added to the count of a worker that counts again.

        Others wait when its oldest row is the slack behind their newest iteration, and it waits when its own newest
        iteration is the slack beyond its horizon. It begins where both are as far from that. Were its oldest row to be
        the oldest of the team, all would soon wait for iterations that it has yet to compute.

        Args:
            streamed: the worker.
            oldest: its oldest row, in its own count.
            horizon: what it holds, in the gate's count.
        """
        middle = (self._team.gate.newest() + horizon - streamed.own - oldest) // 2
        # No horizon falls by it: its oldest row is none below the floor. Nor is what it is told of its own below 0.
        return max(self._rule.floor.lowest - oldest, min(middle, horizon))

    def proof_s(self, streamed: StreamedMember) -> float:
        """For how long a worker must have caught up (s): where nobody counts there is nobody to spare."""
        if not len(self._team.gate.versions):
            return 0.0
        usual_s = streamed.step_s if streamed.interval.known else STEADY_MOST_S
        iteration_s = min(max(usual_s, STEADY_LEAST_S), STEADY_MOST_S)
        doublings = min(streamed.absences - 1, 10)  # beyond the cap already; a link may flap for days
        return iteration_s * min(2.0**doublings, STEADY_CAP)
