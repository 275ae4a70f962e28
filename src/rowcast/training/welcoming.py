"""What a worker is told when it is let in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rowcast.session.seeding import Provenance
from rowcast.training.member import Member
from rowcast.wire import Welcome

if TYPE_CHECKING:
    from rowcast.training.team import Team

__all__ = ["welcome_of"]


def welcome_of(
    team: Team, member: Member, how: str, provenance: Provenance, *, iteration: int, received: int
) -> Welcome:
    """The welcome of a worker.

    Args:
        team, member: which worker of which team.
        how: ``seed``, ``equal``, ``receive`` or ``resume``.
        provenance: where the team's parameters come from.
        iteration: the worker goes on counting from here.
        received: number of its last frame that is known to have been applied.
    """
    return Welcome(
        how=how,
        server=member.life,
        policy=team.policy.name,
        epoch=team.gate.epoch,
        members=team.rule.size(),
        iteration=iteration,
        received=received,
        state=team.model.digest,
        training=provenance.training,
        origin=provenance.worker,
        positions=team.positions.get(member.name, b""),
        team=team.tenure.team,
        term=team.tenure.term,
        standby=team.tenure.standby,
    )
