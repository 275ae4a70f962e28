"""How workers go: into an outage, out of sight, or finished and with everything that they are owed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from rowcast.training.member import NOT_STARTED, Member, MemberState
from rowcast.wire import Farewell, Finish, Message

if TYPE_CHECKING:
    from rowcast.training.team import Team

__all__ = ["Departures"]


class Departures:
    """Sees to it that nobody waits for who has gone, and that who has finished goes with all that it is owed.

    Args:
        team: the team; who is dropped is taken out of its members.

    Attributes:
        draining: members that have finished and are sent what they are owed, by name.
        settle: lets what is staged of a member count; see :attr:`Member.staged`.
    """

    def __init__(self, team: Team) -> None:
        self.draining: dict[str, Member] = {}
        self.settle: Callable[[float, Member], None] = lambda now, member: None
        self._team = team

    def computes(self, member: Member) -> bool:
        """Whether more is to come from a worker: it counts, or it is in an outage and will count again."""
        return member.gated or self._team.rule.returns(member)

    def is_awaited(self, member: Member) -> bool:
        """Whether who has finished waits for a worker: it computes, or has joined and not begun yet."""
        return self.computes(member) or member.state in NOT_STARTED

    # -- who is waited for no longer ---------------------------------------------------------------------------

    def give_up(self, now: float, member: Member) -> None:
        """A link has been down for longer than the limit: nobody waits for this worker any longer."""
        if not self.computes(member):
            return
        counted, member.given_up = member.gated, True
        self._uncount(now, member)
        self.wake_draining()
        if counted:
            self._record_absence(now, member, now - member.lost_at)

    def let_go(self, now: float) -> None:
        """Nobody is to wait for a robot in an outage."""
        for member, silent_s in self._team.rule.leavers(now):
            self.leave_gate(now, member, silent_s)

    def leave_gate(self, now: float, member: Member, silent_s: float) -> None:
        """A worker is in an outage, and silent for so long (s): it does not count until it has caught up."""
        self._uncount(now, member)
        self._record_absence(now, member, silent_s)

    def drop(self, now: float, member: Member, cause: str, *, returns: bool = False) -> None:
        """Forget a worker: it left, started afresh, or was told goodbye.

        Args:
            now: time (s).
            member: the worker.
            cause: in words.
            returns: the same life may come back, and will not send again what was acknowledged: that is to count.
        """
        team = self._team
        if returns:
            self.settle(now, member)
        del team.members[member.name]
        self.draining.pop(member.name, None)
        team.rule.leaving(now, member)
        self._uncount(now, member)
        if team.model.ledger is not None:
            team.model.ledger.dismiss(member)
        team.model.forget_member(member)
        team.rule.remove(member)
        self.wake_draining()  # also for one that has not begun
        team.journal.record(
            now, "leave", peer=member.name, epoch=team.gate.epoch, cause=cause, members=len(team.gate.versions)
        )

    def _uncount(self, now: float, member: Member) -> None:
        if not member.gated:
            return
        team = self._team
        if team.model.ledger is not None:
            team.model.ledger.settle(member)
        team.rule.leaving(now, member)
        team.gate.remove(member)
        team.rule.left(now, member)
        self.wake_draining()

    def _record_absence(self, now: float, member: Member, silent_s: float) -> None:
        self._team.journal.record(
            now,
            "absent",
            peer=member.name,
            epoch=self._team.gate.epoch,
            silent_s=round(silent_s, 3),
            members=len(self._team.gate.versions),
        )

    def too_long_away(self, now: float, limit_s: float, most: int) -> list[Member]:
        """Members whose link has been gone for longer than ``limit_s``, beyond ``most`` of them: the first to go."""
        away = [
            one
            for one in self._team.members.values()
            if one.link is None and now >= one.lost_at + limit_s and one.state not in NOT_STARTED
        ]
        if len(away) <= most:
            return []
        return sorted(away, key=lambda one: (one.lost_at, one.name))[: len(away) - most]

    # -- who has finished --------------------------------------------------------------------------------------

    def finish(self, now: float, member: Member, message: Finish) -> None:
        """A worker has finished: it counts no longer, and is sent what it is owed."""
        member.state = MemberState.DRAINING
        self.draining[member.name] = member
        member.finish_wait = message.wait
        member.iteration = max(member.iteration, message.iteration)
        member.dirty = True
        member.owed.transfer = None
        ledger = self._team.model.ledger
        self._team.rule.finishing(member, message.wait)
        self._uncount(now, member)
        if not message.wait and ledger is not None:
            # It is owed what is there now. Were it owed what comes, it would never have everything on a slow link.
            ledger.dismiss(member)
        if member.link is not None:
            self._team.notifier.wake(member.link)
        self.wake_draining()

    def next_message(self, now: float, member: Member) -> Message | None:
        """The next message to a worker that has finished: all that it is owed, and then goodbye.

        One that waits for the others is sent it when they have finished, not before: each of their updates touches all
        rows, so they would be sent again, to each that waits, for each frame that arrives.

        Goodbye is a :class:`~rowcast.wire.Farewell`: drop the member, and close its connection.
        """
        owed = member.owed
        others_compute = member.finish_wait and self._anybody_computes()
        if (shared := owed.follow(now, draining=not others_compute)) is not None:
            return shared
        if owed.transfer is not None and not owed.transfer.finished(now):
            return None
        if others_compute:
            return None
        if self._team.model.ledger is not None:
            self._team.model.ledger.bring_up(member)
        if member.dirty:
            member.dirty = False
            owed.send_everything(now, member.iteration)
            frame = owed.next_frame(now)
            if frame is not None:
                return frame
        if not owed.empty or member.link is None:
            return None
        self._team.journal.record(
            now,
            "drained",
            peer=member.name,
            iteration=member.iteration,
            frames_sent=owed.sent_frames,
            frames_applied=member.inbox.received,
        )
        return Farewell(member.inbox.received)

    def _anybody_computes(self) -> bool:
        """Whether more is to come from anybody, now or once it has begun.

        Asked for each message: where many wait, it must not look at all.
        """
        above = self._team.above
        if len(self._team.gate.versions) or not (above is None or above.over):
            return True
        if len(self.draining) == len(self._team.members):
            return False
        return any(self.is_awaited(other) for other in self._team.members.values())

    def wake_draining(self) -> None:
        """Those that have finished may go, if nothing more is to come."""
        if self.draining and not self._anybody_computes():
            self._team.notifier.wake_all(self.draining.values())
