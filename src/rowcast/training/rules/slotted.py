"""The slots of a team whose policy schedules transfers: who waits for one, who has one, what is told of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from rowcast.codecs import codec_for
from rowcast.journal import Journal
from rowcast.rows import Layout
from rowcast.sync import Policy
from rowcast.sync.flown import Direction, FlownScheduler
from rowcast.training.member import Member

__all__ = ["Admission", "Slots"]

#: A rate that a worker reports counts for no more than this (bit/s), so that sums of what it says stay finite.
HIGHEST_BPS = 1e12


@dataclass(frozen=True)
class Admission:
    """A slot is given: ``member`` may transfer now.

    Attributes:
        direction: which way.
        iteration: the iteration that it pushes, or whose pull it is.
        waited_s: seconds since it asked.
    """

    member: Member
    direction: Direction
    iteration: int
    waited_s: float


class Slots:
    """Knows the scheduler, and what a member has to do with it.

    Args:
        policy: the team's policy, one that is ``scheduled``.
        journal: where admissions are recorded.
    """

    def __init__(self, policy: Policy, journal: Journal) -> None:
        self._scheduler = FlownScheduler(policy.lag)
        self._codec = policy.row_codec
        self._journal = journal
        self._iterations: dict[str, int] = {}
        self._layout: Layout | None = None
        self._size_bytes = 0.0

    def ask(self, now: float, member: Member, direction: Direction, iteration: int) -> None:
        """``member`` wants to transfer."""
        self._iterations[member.name] = iteration
        self._scheduler.ask(now, member.name, direction)

    def observe_push(self, now: float, member: Member, rate_bps: float) -> None:
        """A worker reports the rate of its link to the server (bit/s).

        Before its first frame arrived it has measured nothing: what it says is the rate that it assumes.
        """
        if member.inbox.received > 0:
            self._observe(now, member, Direction.PUSH, rate_bps)

    def observe_pull(self, now: float, member: Member) -> None:
        """A worker acknowledged rows: the rate of its link from the server is known."""
        self._observe(now, member, Direction.PULL, member.owed.meter.rate_bps(now))

    def _observe(self, now: float, member: Member, direction: Direction, rate_bps: float) -> None:
        self._scheduler.observe(now, member.name, direction, min(max(rate_bps, 0.0), HIGHEST_BPS))

    def admit(self, now: float, members: Mapping[str, Member], layout: Layout) -> list[Admission]:
        """Give slots to whom they are due, and record it. Costs next to nothing when nobody waits."""
        scheduler = self._scheduler
        if not scheduler.waiting or len(scheduler.active) >= scheduler.slots:
            return []
        team = {member.name: (member.iteration, member.samples) for member in members.values() if member.gated}
        limit_s = scheduler.limit_s
        admissions = []
        for request in scheduler.admit(now, team, self._size(layout)):
            iteration = self._iterations[request.worker]
            admission = Admission(members[request.worker], request.direction, iteration, now - request.since)
            admissions.append(admission)
            self._journal.record(
                now,
                "slot",
                peer=request.worker,
                iteration=iteration,
                direction=request.direction.value,
                waited_s=round(admission.waited_s, 6),
                limit_s=None if math.isinf(limit_s) else round(limit_s, 6),
            )
        return admissions

    def _size(self, layout: Layout) -> float:
        """Bytes of a whole model."""
        if self._layout is not layout:
            self._layout = layout
            self._size_bytes = float(codec_for(layout, self._codec).row_bytes(layout).sum())
        return self._size_bytes

    def pushes(self, member: Member) -> bool:
        """``member`` has a slot for its push."""
        return any(
            request.worker == member.name and request.direction is Direction.PUSH for request in self._scheduler.active
        )

    def done(self, now: float, member: Member) -> None:
        """The transfer of ``member`` is complete: its slot is free."""
        self._scheduler.done(now, member.name)

    def withdraw(self, member: Member) -> None:
        """The link of ``member`` was lost: it neither waits nor transfers any more."""
        self._scheduler.withdraw(member.name)

    def remove(self, member: Member) -> None:
        """``member`` does not count any more: what was known of its link is forgotten."""
        self._scheduler.remove(member.name)
        self._iterations.pop(member.name, None)

    def reason(self) -> str:
        """For whom a member waits that waits for a slot, in words."""
        active = [f"{request.worker} ({request.direction.value})" for request in self._scheduler.active]
        text = f"a slot: {', '.join(active) or 'nobody'} {'are' if len(active) > 1 else 'is'} transferring"
        if len(active) < self._scheduler.slots:
            text += ", and its own transfer is expected to take too long beside that"
        return text
