"""What the server makes of a relay among its members: the sum of many workers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rowcast.errors import RemoteProtocolError
from rowcast.training.member import Member
from rowcast.wire import Subtree

if TYPE_CHECKING:
    from rowcast.training.team import Team

__all__ = ["hear_subtree"]

#: Workers below one relay at most.
MOST_LEAVES = 1 << 24


def hear_subtree(now: float, team: Team, member: Member, told: Subtree) -> None:
    """A relay says how many workers are below it; one without any holds nobody up.

    Raises:
        RemoteProtocolError: they are too many, or it does not say which relays these are.
    """
    if not told.below or told.leaves > MOST_LEAVES:
        raise RemoteProtocolError(
            f"expected a relay of at most {MOST_LEAVES} workers and its session, got {told.leaves} workers and "
            f"{len(told.below)} sessions of {member.name}"
        )
    member.below = told.below
    team.gate.branches(member, told.leaves)
    if not told.leaves and member.gated:
        team.departures.leave_gate(now, member, 0.0)
    team.notifier.wake_all(team.members.values())
