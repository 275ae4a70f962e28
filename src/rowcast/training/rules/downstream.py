"""Which rows a worker is sent next, where they are streamed, and when they are chosen."""

from __future__ import annotations

import math

from rowcast.codecs import codec_by_name
from rowcast.delivery.backlog import MAX_STAMP
from rowcast.delivery.cursor import Cursor
from rowcast.delivery.floored import Floored
from rowcast.delivery.transfer import Request
from rowcast.training.member import Member, MemberState
from rowcast.training.rules.streamed_member import StreamedMember
from rowcast.training.team import Team

__all__ = ["CHOOSE_FRAMES", "choose", "due_at", "lacks", "refine"]

#: Rows to a worker are chosen anew at most once in so many frames' time; while it waits at the gate, in one.
CHOOSE_FRAMES = 10


def lacks(member: Member) -> Floored | Cursor:
    """What ``member`` lacks; rows are streamed to it."""
    source = member.owed.source
    assert isinstance(source, (Floored, Cursor))
    return source


def choose(now: float, team: Team, member: Member, streamed: StreamedMember) -> None:
    """Choose the rows that ``member`` is sent next."""
    owed, policy = member.owed, team.policy
    code, room = policy.code_for(owed.layout, policy.share_of_pull, owed.meter.latest_bps(now), streamed.step_s)
    owed.begin(now, Request(member.iteration, code, policy.choose_pull, announce_zeros=False, room=room))
    frames = 1 if member.state is MemberState.WAITING else CHOOSE_FRAMES
    streamed.choose_at = now + frames * team.links.frame_s
    streamed.outdated = False


def due_at(now: float, member: Member, streamed: StreamedMember) -> float:
    """When rows for ``member`` are to be chosen (s); ``inf`` when there is nothing to choose, or enough is."""
    owed = member.owed
    if lacks(member).lacking() == MAX_STAMP:
        return math.inf
    if streamed.outdated:
        return now
    done = owed.transfer is None or owed.transfer.refining or owed.transfer.finished(now)
    return max(streamed.choose_at, now) if done else math.inf


def refine(now: float, team: Team, member: Member) -> None:
    """Where all rows for ``member`` were sent, the idle link may carry what the code left of them."""
    owed, policy, transfer = member.owed, team.policy, member.owed.transfer
    idle = transfer is not None and not transfer.refining and transfer.finished(now)
    if policy.refine and idle and not owed.follows and lacks(member).lacking() == MAX_STAMP:
        half = codec_by_name("half")
        owed.begin(now, Request(member.iteration, half, policy.choose_refinement, announce_zeros=False, refine=True))
