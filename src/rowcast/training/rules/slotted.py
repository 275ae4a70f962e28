"""Pushes and pulls that each need a slot, which the server gives: FLOWN (:mod:`rowcast.sync.flown`)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from rowcast.codecs import codec_for
from rowcast.delivery.transfer import Transfer
from rowcast.errors import RemoteProtocolError
from rowcast.journal import Journal
from rowcast.rows import Layout
from rowcast.sync import Policy
from rowcast.sync.flown import Direction, FlownScheduler
from rowcast.training.member import Member, MemberState
from rowcast.training.rules.phased import PhasedRule, PhasedWorker
from rowcast.training.worker_state import WorkerState
from rowcast.wire import Ask, Grant, Message, PullEnd, PushEnd

if TYPE_CHECKING:
    from rowcast.training.core import WorkerCore
    from rowcast.training.team import Team

__all__ = ["Admission", "Slots", "SlottedRule"]

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
    """Who waits for a slot, who has one, what is told of it.

    Args:
        policy: the team's policy.
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


class SlottedRule(PhasedRule):
    """Pushes and pulls wait for a slot.

    Attributes:
        slots: who may transfer.
    """

    def __init__(self, team: Team) -> None:
        super().__init__(team)
        self.slots = Slots(team.policy, team.journal)
        self.handlers = {**self.handlers, Ask: self._on_ask}

    # -- who takes part ----------------------------------------------------------------------------------------

    def leaving(self, now: float, member: Member) -> None:
        self.slots.remove(member)

    def link_lost(self, now: float, member: Member) -> None:
        self.slots.withdraw(member)
        self._schedule(now)

    # -- the push ----------------------------------------------------------------------------------------------

    def _on_ask(self, now: float, member: Member, message: Message) -> None:
        ask = cast(Ask, message)
        if member.state is not MemberState.COMPUTING:
            raise RemoteProtocolError(f"expected no request for a slot while {member.state.value}, got one")
        self.expect(member, ask.iteration)
        if ask.weight <= 0:
            raise RemoteProtocolError(f"expected a weight above 0 with a request for a slot, got {ask.weight}")
        member.samples = ask.weight
        self.slots.observe_push(now, member, ask.rate_bps)
        self.slots.ask(now, member, Direction.PUSH, ask.iteration)
        self._schedule(now)

    def pushed(self, now: float, member: Member, message: PushEnd) -> None:
        if not self.slots.pushes(member):
            raise RemoteProtocolError("expected a request for a slot before a push, got the end of one")
        self.slots.observe_push(now, member, message.rate_bps)
        self.slots.done(now, member)
        super().pushed(now, member, message)

    def acknowledged(self, now: float, member: Member) -> None:
        self.slots.observe_pull(now, member)

    def heartbeat(self, now: float, member: Member, metrics: Mapping[str, float]) -> None:
        if "rate_bps" in metrics:
            self.slots.observe_push(now, member, metrics["rate_bps"])

    # -- the gate and the pull ---------------------------------------------------------------------------------

    def open_gate(self, now: float, newcomer: Member | None = None) -> None:
        for member in self.team.gate.may_pass(newcomer):
            member.state = MemberState.QUEUED
            self.slots.ask(now, member, Direction.PULL, member.iteration)
        self._schedule(now)

    def pulled(self, now: float, member: Member, transfer: Transfer) -> PullEnd:
        end = super().pulled(now, member, transfer)
        self.slots.done(now, member)
        self._schedule(now)
        return end

    def _schedule(self, now: float) -> None:
        """Something has changed that slots depend on: let those transfer to whom one is due."""
        layout = self.team.model.layout
        if layout is None:
            return
        for admission in self.slots.admit(now, self.team.members, layout):
            member = admission.member
            if admission.direction is Direction.PULL:
                self.begin_pull(now, member)
            elif member.link is not None:
                self.team.notifier.say(member.link, Grant(admission.iteration, admission.waited_s))

    def reason(self, now: float, member: Member) -> str:
        return self.slots.reason() if member.state is MemberState.QUEUED else super().reason(now, member)


class SlottedWorker(PhasedWorker):
    """Asks for a slot before each push, and again after each cut."""

    asks_for = "a slot: the policy lets only a few workers transfer at once"

    def __init__(self, node: WorkerCore) -> None:
        super().__init__(node)
        self.handlers = {**self.handlers, Grant: self._on_grant}

    def exchange(self, now: float) -> None:
        node = self.node
        node.state = WorkerState.ASKING
        self.forget_transfer()
        if node.let_in:
            node.say(Ask(node.iteration, node.contribution.weight, node.outbox.meter.rate_bps(now)))

    def _on_grant(self, now: float, message: Message) -> None:
        node, grant = self.node, cast(Grant, message)
        if node.state is not WorkerState.ASKING or grant.iteration != node.iteration:
            raise RemoteProtocolError(f"expected no slot while {node.state.value}, got one")
        node.step.granted(grant)
        self.begin_push(now)
