"""Time on the server: heartbeats, silence, what is overdue, and who has been away for too long."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rowcast.session.link import Port
from rowcast.session.recurring import Recurring
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
    """

    def __init__(self, team: Team, admission: Admission, recurring: Recurring) -> None:
        self._team = team
        self._admission = admission
        self._recurring = recurring
        self._report_s = team.settings.silence_limit_s / 2  # a frame that takes longer is slow, and its sender waits
        self._woken_at = -math.inf

    def next_timer(self) -> float | None:
        """When :meth:`on_timer` must be called (s), or ``None``."""
        team, admission, settings = self._team, self._admission, self._team.settings
        times = [] if (told_at := self._recurring.due()) is None else [told_at]
        times += [port.opened_at + settings.handshake_limit_s for port in admission.newcomers.strangers()]
        times += [port.spoke_at + settings.heartbeat_s for port in admission.newcomers.ports()]
        check_at = team.rule.check_at()
        times += [due for one in team.members.values() if (due := self._timer_of(one, check_at)) is not None]
        times += [due] if (due := admission.fresh_at()) is not None else []
        if not team.gate.opened and (admission.newcomers.queue or team.members):
            gathers_until = admission.seeding.gathers_until
            times += [gathers_until] if gathers_until > self._woken_at else []
        return min(times, default=None)

    def next_timer_of(self, port: Port) -> float | None:
        """The same for one connection of a member, for a driver that keeps a timer for each: :meth:`on_timer_of`."""
        member = self._admission.by_port.get(port)
        return None if member is None else self._timer_of(member)

    def _timer_of(self, member: Member, check_at: float | None = None) -> float | None:
        settings, port = self._team.settings, member.port
        if port is None:
            waited_for = self._team.departures.computes(member) or member.stage in NOT_STARTED
            return member.lost_at + settings.absence_limit_s if waited_for else None
        due = min(port.silent_at(settings.silence_limit_s), port.spoke_at + settings.heartbeat_s)
        if port.decoder.begun or member.owed.moved_at + settings.stuck_limit_s < due:  # else it is not stuck so soon
            due = min(due, port.heartbeat_due_at(settings.heartbeat_s, self._report_s))
            due = min(due, member.progress.due_at(port, member.owed, member.inbox.received))
        due = min(due, self._team.rule.wake_at(member, check_at))
        return min(due, member.next_notice) if member.stage in HELD else due

    def on_timer(self, now: float) -> list[tuple[Port, str]]:
        """Time passed.

        Returns:
            Connections that the driver must close, with the reason: call :meth:`link_down` for each.
        """
        settings = self._team.settings
        self._recurring.on_timer(now)
        self._woken_at = now
        if not self._team.gate.opened and now >= self._admission.seeding.gathers_until:
            self._admission.choose_seed(now)
            if self._team.model.ledger is not None:
                self._admission.begin_if_complete(now)
        if (due := self._admission.fresh_at()) is not None and now >= due:
            self._admission.begin_anew(now, f"no worker was there for {settings.fresh_after_s:g} s (fresh_after_s)")
        dead = [
            (port, f"no hello within {settings.handshake_limit_s:g} s")
            for port in self._admission.newcomers.strangers()
            if now >= port.opened_at + settings.handshake_limit_s
        ]
        for port in self._admission.newcomers.ports():
            self._keep_alive(now, port)
        looked = False
        for member in list(self._team.members.values()):
            if member.port is None:
                if now >= member.lost_at + settings.absence_limit_s:
                    if member.stage in NOT_STARTED:
                        self._admission.drop(now, member, "went away before the start")
                    else:
                        self._team.departures.give_up(now, member)
            elif (cause := self._tick(now, member, member.port)) is not None:
                dead.append((member.port, cause))
            elif not looked and member.stage in self._team.rule.stages:
                looked = True
                self._team.departures.let_go(now)
        self._admission.forget_absent(now)
        return dead

    def on_timer_of(self, now: float, port: Port) -> str | None:
        """The same for one connection: why the driver must close it, or ``None``."""
        member = self._admission.by_port.get(port)
        if member is None:
            return None
        cause = self._tick(now, member, port)
        if cause is None and member.stage in self._team.rule.stages:
            self._team.departures.let_go(now)
        return cause

    def _tick(self, now: float, member: Member, port: Port) -> str | None:
        member.woken_at = now
        if (cause := self.overrun(now, port)) is not None:
            return cause
        if port.is_silent(now, self._team.settings.silence_limit_s, self._team.settings.heartbeat_s):
            reads = ", and reads nothing" if port.is_clogged else ""
            return f"silent for {self._team.settings.silence_limit_s:g} s{reads}"
        if (cause := member.progress.cut(now, port, member.owed, member.inbox.received)) is not None:
            return cause
        self._keep_alive(now, port)
        if member.stage in HELD and now >= member.next_notice:
            explain(now, self._team, member)
        if self._team.rule.wakes(member):
            self._team.board.wake(port)
        return None

    def _keep_alive(self, now: float, port: Port) -> None:
        if now >= port.heartbeat_due_at(self._team.settings.heartbeat_s, self._report_s):
            port.spoke_at = port.reported_at = now
            self._team.board.say(port, Heartbeat(arrived=port.decoder.arrived))

    def overrun(self, now: float, port: Port) -> str | None:
        """Why ``port`` must be closed, if its worker reads nothing of what it is told."""
        cause = port.reads_nothing()
        if cause is not None:
            member = self._admission.by_port.get(port)
            self._recurring.dropped(now, member.name if member else port.peer, "its connection", cause)
            port.control.clear()
            port.closing = True
        return cause
