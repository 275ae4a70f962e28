"""Time on the server: heartbeats, silence, what is overdue, and who has been away for too long."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rowcast.session.link import Link
from rowcast.session.recurring import Recurring
from rowcast.session.timers import Timers
from rowcast.training.explain import explain
from rowcast.training.member import HELD, NOT_STARTED, Member
from rowcast.wire import Heartbeat

if TYPE_CHECKING:
    from rowcast.training.admission import Admission
    from rowcast.training.team import Team

__all__ = ["Watch"]


class Watch:
    """Says when something is due, and does it.

    Args:
        team: the team.
        admission: who comes, and who is forgotten.
        recurring: tells what strangers do again and again.

    Attributes:
        timers: of connections, and of members that have none. A key is touched when anything has happened to it. What
            only a poll brings nearer is seen when the connection is next heard of or spoken on: at the next heartbeat.
    """

    def __init__(self, team: Team, admission: Admission, recurring: Recurring) -> None:
        self._team = team
        self._admission = admission
        self._recurring = recurring
        self._begins_anew = team.settings.fresh_after_s is not None
        self._report_s = team.settings.silence_limit_s / 2  # a frame that takes longer is slow, and its sender waits
        self._woken_at = -math.inf
        self.timers: Timers[Link | Member] = Timers(self._due_of)

    # -- when --------------------------------------------------------------------------------------------------

    def next_wake(self) -> float | None:
        """When :meth:`on_timer` must be called (s), or ``None``. Looks only at what was touched since the last call."""
        due = self.timers.next()
        if self._team.gate.opened and not (self._recurring.counts or self._begins_anew):
            return due
        others = (due, self._recurring.due(), self._admission.fresh_at(), self._gathered_at())
        return min((other for other in others if other is not None), default=None)

    def _gathered_at(self) -> float | None:
        """When those who wait for workers that trained before are not kept waiting any longer (s), or ``None``."""
        if self._team.gate.opened:
            return None
        gathers_until = self._admission.seeding.gathers_until
        waits = self._admission.newcomers.queue or self._team.members
        return gathers_until if waits and gathers_until > self._woken_at else None

    def _due_of(self, key: Link | Member, before: float) -> float | None:
        """When something must be done for a connection, or for a member that has none (s).

        Not before ``before`` (s) where that is the answer.
        """
        settings = self._team.settings
        if isinstance(key, Member):
            given_up_at = key.lost_at + settings.absence_limit_s
            return given_up_at if key.link is None and given_up_at > key.woken_at else None
        link, member = key, self._admission.by_link.get(key)
        if member is None:
            return self._admission.newcomers.wake_at(link, settings.handshake_limit_s, settings.heartbeat_s)
        due = min(before, link.heartbeat_due_at(settings.heartbeat_s, self._report_s))
        if link.may_be_silent_before(due, settings.silence_limit_s):
            due = min(due, link.silent_at(settings.silence_limit_s))
        due = min(due, self._team.rule.wake_at(member))
        sending = self._team.rule.sending(member)
        if link.decoder.begun or sending.may_be_stuck_before(due, settings.stuck_limit_s):
            due = min(due, member.progress.due_at(link, sending, member.inbox.received))
        return min(due, member.next_notice) if member.state in HELD else due

    # -- what then ---------------------------------------------------------------------------------------------

    def on_timer(self, now: float) -> list[tuple[Link, str]]:
        """Time passed.

        Returns:
            Connections that the driver must close, with the reason: call :meth:`link_down` for each.
        """
        self._recurring.on_timer(now)
        self._woken_at = now
        if not self._team.gate.opened and now >= self._admission.seeding.gathers_until:
            self._admission.choose_seed(now)
            if self._team.model.ledger is not None:
                self._admission.begin_if_complete(now)
        if (due := self._admission.fresh_at()) is not None and now >= due:
            limit_s = self._team.settings.fresh_after_s
            self._admission.begin_anew(now, f"no worker was there for {limit_s:g} s (fresh_after_s)")
        dead, looked = [], False
        for key in self.timers.take(now):
            if isinstance(key, Member):
                self._miss(now, key)
                continue
            member = self._admission.by_link.get(key)
            cause = self._tick_newcomer(now, key) if member is None else self._tick(now, member, key)
            if cause is not None:
                dead.append((key, cause))
            elif member is not None and not looked and member.state in self._team.rule.states:
                looked = True
                self._team.departures.let_go(now)
        return dead

    def _miss(self, now: float, member: Member) -> None:
        """The link of a member has been gone for longer than the limit."""
        member.woken_at = now
        if self._team.members.get(member.name) is not member:
            return
        if member.state in NOT_STARTED:
            self._admission.drop(now, member, "went away before the start")
        else:
            self._team.departures.give_up(now, member)
        self._admission.forget_absent(now)

    def _tick_newcomer(self, now: float, link: Link) -> str | None:
        limit_s = self._team.settings.handshake_limit_s
        newcomers = self._admission.newcomers
        if newcomers.is_brief(link) and now >= link.opened_at + limit_s:
            what = "no hello within" if newcomers.is_stranger(link) else "the link was measured for"
            return f"{what} {limit_s:g} s"
        self._keep_alive(now, link)
        return None

    def _tick(self, now: float, member: Member, link: Link) -> str | None:
        member.woken_at = now
        if (cause := self.overrun(now, link)) is not None:
            return cause
        if link.is_silent(now, self._team.settings.silence_limit_s, self._team.settings.heartbeat_s):
            reads = ", and reads nothing" if link.is_clogged else ""
            return f"silent for {self._team.settings.silence_limit_s:g} s{reads}"
        sending = self._team.rule.sending(member)
        if (cause := member.progress.cut(now, link, sending, member.inbox.received)) is not None:
            return cause
        self._keep_alive(now, link)
        if member.state in HELD and now >= member.next_notice:
            explain(now, self._team, member)
        if self._team.rule.wakes(member):
            self._team.notifier.wake(link)
        return None

    def _keep_alive(self, now: float, link: Link) -> None:
        if now >= link.heartbeat_due_at(self._team.settings.heartbeat_s, self._report_s):
            link.spoke_at = link.reported_at = now
            self._team.notifier.say(link, Heartbeat(arrived=link.decoder.arrived))

    def overrun(self, now: float, link: Link) -> str | None:
        """Why ``link`` must be closed, if its worker reads nothing of what it is told."""
        cause = link.reads_nothing()
        if cause is not None:
            member = self._admission.by_link.get(link)
            self._recurring.dropped(now, member.name if member else link.peer, "its connection", cause)
            link.control.clear()
            link.closing = True
        return cause
