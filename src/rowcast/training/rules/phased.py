"""The server's side of a policy with pushes and pulls: who has pushed, whom the gate lets go on, the pull that follows.

A worker that has pushed waits at the gate; when it may go on it is sent what it is owed, and computes on. Where the
policy schedules transfers, a push and a pull also wait for a slot. Where rows are streamed
(:mod:`rowcast.training.rules.streamed`) nobody waits here, and nothing of this happens.
"""

from __future__ import annotations

from collections.abc import Mapping

from rowcast.delivery.source import Transfer
from rowcast.journal import Journal
from rowcast.session.board import Board
from rowcast.sync import Policy
from rowcast.sync.flown import Direction
from rowcast.training.gate import Gate
from rowcast.training.member import Member, Stage
from rowcast.training.rules.slotted import Slots
from rowcast.training.store import Store
from rowcast.wire import Ask, Cancel, Go, Grant, PullEnd, PushEnd, Rows

__all__ = ["PhasedRule"]


class PhasedRule:
    """Takes members from their push to the end of their pull.

    Args:
        policy: the team's policy.
        gate: whom it counts, and whom it lets go on.
        slots: who may transfer; ``None`` where the policy lets everybody.
        members: the server's members, by name; read, never changed.
        store: what members are owed.
        board: where they are told.
        journal: where pushes and passages of the gate are recorded.
    """

    def __init__(
        self,
        policy: Policy,
        gate: Gate,
        slots: Slots | None,
        members: Mapping[str, Member],
        store: Store,
        board: Board,
        journal: Journal,
    ) -> None:
        self._policy = policy
        self._gate = gate
        self._slots = slots
        self._members = members
        self._store = store
        self._board = board
        self._journal = journal

    # -- the push ----------------------------------------------------------------------------------------------

    def asked(self, now: float, member: Member, message: Ask) -> None:
        """A worker asks for a slot for its push."""
        assert self._slots is not None
        member.samples = message.weight
        self._slots.observe_push(now, member, message.rate_bps)
        self._slots.ask(now, member, Direction.PUSH, message.iteration)
        self._schedule(now)

    def arrived(self, now: float, member: Member, message: Rows) -> None:
        """Rows of a push are here: those may go on who were held for them."""
        self._gate.versions.advance(member.name, message.rows, message.iteration)
        if message.quota_end:
            self._gate.quota_arrived(member, message.iteration)
            self.cancel_extras()
        if self._gate.waiting:
            self.open_gate(now)

    def pushed(self, now: float, member: Member, message: PushEnd) -> None:
        """A push has ended: the worker waits at the gate, or goes on at once."""
        if self._slots is not None:
            self._slots.observe_push(now, member, message.rate_bps)
            self._slots.done(now, member)
        if self._store.ledger is not None:
            self._store.ledger.begin(member, message.iteration)
        self._gate.pushed(now, member, message)
        self._journal.record(
            now,
            "push",
            peer=member.name,
            iteration=message.iteration,
            **member.take_push(),
            quota_s=round(message.quota_s, 6),
        )
        self.cancel_extras()
        self.open_gate(now, member)

    def cancel_extras(self) -> None:
        """Tell those to stop whose rows beyond the quota only delay the next iteration."""
        for member in self._gate.superfluous():
            if member.port is not None:
                self._board.say(member.port, Cancel(member.quota_iteration))

    # -- the gate and the pull ---------------------------------------------------------------------------------

    def open_gate(self, now: float, newcomer: Member | None = None) -> None:
        """Let everybody go on whom the policy allows to.

        Args:
            now: time (s).
            newcomer: has begun to wait since the last call.
        """
        for member in self._gate.may_pass(newcomer):
            if self._slots is None:
                self._begin_pull(now, member)
            else:
                member.stage = Stage.QUEUED
                self._slots.ask(now, member, Direction.PULL, member.iteration)
        self._schedule(now)

    def _begin_pull(self, now: float, member: Member) -> None:
        gate, ledger = self._gate, self._store.ledger
        assert ledger is not None and member.port is not None
        ledger.bring_up(member)
        newest = max(gate.newest(), member.iteration)
        held_s = now - member.waiting_since
        mta_time_s, pull_limit_s = gate.limits_s(member)
        member.stage = Stage.PULLING
        self._board.say(
            member.port,
            Go(
                iteration=member.iteration,
                mta_time_s=mta_time_s,
                held_s=held_s,
                staleness=newest - member.iteration,
                members=max(len(gate.versions), 1),
                epoch=gate.epoch,
            ),
        )
        self._journal.record(
            now,
            "gate",
            peer=member.name,
            iteration=member.iteration,
            oldest=gate.versions.oldest(),
            held_s=round(held_s, 6),
            mta_time_s=round(mta_time_s, 6),
            staleness=newest - member.iteration,
        )
        member.owed.begin(
            now,
            member.iteration,
            self._policy.row_codec,
            self._policy.choose_pull,
            pull_limit_s,
            announce_zeros=False,
        )

    def pulled(self, now: float, member: Member, transfer: Transfer) -> PullEnd:
        """A pull has ended: the worker computes.

        Returns:
            What it is told.
        """
        member.stage = Stage.COMPUTING
        self._gate.pulled(now, member, transfer.started, member.owed.quota_s(now))
        member.owed.transfer = None
        if self._slots is not None:
            self._slots.done(now, member)
            self._schedule(now)
        return PullEnd(member.iteration)

    # -- slots -------------------------------------------------------------------------------------------------

    def link_lost(self, now: float, member: Member) -> None:
        """The link of a member is gone, and with it what it waited for or transferred."""
        if self._slots is not None:
            self._slots.withdraw(member)
            self._schedule(now)

    def remove(self, member: Member) -> None:
        """``member`` does not count any more: it has no slot, and waits for none."""
        if self._slots is not None:
            self._slots.remove(member)

    def _schedule(self, now: float) -> None:
        """Something has changed that slots depend on: let those transfer to whom one is due."""
        if self._slots is None or self._store.layout is None:
            return
        for admission in self._slots.admit(now, self._members, self._store.layout):
            member = admission.member
            if admission.direction is Direction.PULL:
                self._begin_pull(now, member)
            elif member.port is not None:
                self._board.say(member.port, Grant(admission.iteration, admission.waited_s))
