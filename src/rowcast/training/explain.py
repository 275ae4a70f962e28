"""What people are told of a team: for whom a worker waits, and a line for each worker."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rowcast.training.member import HELD, Member, MemberStatus
from rowcast.wire import Waiting

if TYPE_CHECKING:
    from rowcast.training.team import Team

__all__ = ["explain", "status"]


def explain(now: float, team: Team, member: Member) -> None:
    """Tell a worker that has waited for long for whom."""
    reason = team.rule.reason(now, member)
    waited_s = now - member.waiting_since
    member.next_notice = now + max(team.settings.patience_s, waited_s)
    team.journal.record(
        now,
        "waiting",
        peer=member.name,
        iteration=member.iteration,
        waited_s=round(waited_s, 3),
        **{"for": reason},
    )
    if member.link is not None:
        team.notifier.say(member.link, Waiting(member.iteration, reason))


def status(now: float, team: Team) -> list[MemberStatus]:
    """A line for each worker, for a progress display."""
    newest = max((member.iteration for member in team.members.values()), default=0)
    lines = []
    for member in team.members.values():
        waited_s = now - member.waiting_since if member.state in HELD else 0.0
        state = member.state.value if member.link else f"link lost {now - member.lost_at:.0f} s ago"
        lines.append(
            MemberStatus(
                member.name, state, team.rule.newest(member), newest - member.iteration, waited_s, dict(member.metrics)
            )
        )
    return sorted(lines, key=lambda line: line.name)
