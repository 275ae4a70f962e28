"""Pushes and pulls: a worker that has pushed waits at the gate; when it may go on it is sent what it is owed."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, cast

from rowcast.codecs import Codec
from rowcast.delivery.transfer import Request, Transfer
from rowcast.errors import RemoteProtocolError
from rowcast.sync import Policy
from rowcast.training.member import Member, MemberState
from rowcast.training.rules.base import ServerRule, WorkerRule
from rowcast.training.worker_state import WorkerState
from rowcast.wire import Cancel, Go, Message, PullEnd, PushEnd, Rows

if TYPE_CHECKING:
    from rowcast.training.core import WorkerCore
    from rowcast.training.team import Team

__all__ = ["PhasedRule", "PhasedWorker"]


class PhasedRule(ServerRule):
    """Takes members from their push to the end of their pull."""

    states = frozenset({MemberState.COMPUTING, MemberState.WAITING, MemberState.QUEUED, MemberState.PULLING})

    def __init__(self, team: Team) -> None:
        super().__init__(team)
        self.handlers = {PushEnd: self._on_push_end}

    # -- the push ----------------------------------------------------------------------------------------------

    def arrived(self, now: float, member: Member, message: Rows) -> None:
        """Rows of a push are here: those may go on who were held for them."""
        gate = self.team.gate
        gate.versions.advance(member.name, message.rows, message.iteration)
        if message.quota_end:
            gate.quota_arrived(member, message.iteration)
            self._cancel_extras()
        if gate.waiting:
            self.open_gate(now)

    def _on_push_end(self, now: float, member: Member, message: Message) -> None:
        if member.state is not MemberState.COMPUTING:
            raise RemoteProtocolError(f"expected no end of a push while {member.state.value}, got one")
        end = cast(PushEnd, message)
        self.expect(member, end.iteration)
        self.pushed(now, member, end)

    def pushed(self, now: float, member: Member, message: PushEnd) -> None:
        """A push has ended: the worker waits at the gate, or goes on at once."""
        team = self.team
        member.metrics["rate_bps"] = message.rate_bps
        member.next_notice = now + team.settings.patience_s
        if team.model.ledger is not None:
            team.model.ledger.begin(member, message.iteration)
        team.gate.pushed(now, member, message)
        team.journal.record(
            now,
            "push",
            peer=member.name,
            iteration=message.iteration,
            **member.take_push(),
            quota_s=round(message.quota_s, 6),
        )
        self._cancel_extras()
        self.open_gate(now, member)

    def _cancel_extras(self) -> None:
        """Tell those to stop whose rows beyond the quota only delay the next iteration."""
        for member in self.team.gate.superfluous():
            if member.link is not None:
                self.team.notifier.say(member.link, Cancel(member.quota_iteration))

    # -- the gate and the pull ---------------------------------------------------------------------------------

    def left(self, now: float, member: Member) -> None:
        self._cancel_extras()
        self.open_gate(now)

    def open_gate(self, now: float, newcomer: Member | None = None) -> None:
        for member in self.team.gate.may_pass(newcomer):
            self.begin_pull(now, member)

    def begin_pull(self, now: float, member: Member) -> None:
        """``member`` may go on: it is sent what it is owed."""
        team, gate, ledger = self.team, self.team.gate, self.team.model.ledger
        assert ledger is not None and member.link is not None
        ledger.bring_up(member)
        newest = max(gate.newest(), member.iteration)
        held_s = now - member.waiting_since
        mta_time_s, pull_limit_s = gate.limits_s(member)
        member.state = MemberState.PULLING
        team.notifier.say(
            member.link,
            Go(
                iteration=member.iteration,
                mta_time_s=mta_time_s,
                held_s=held_s,
                staleness=newest - member.iteration,
                members=max(len(gate.versions), 1),
                epoch=gate.epoch,
            ),
        )
        team.journal.record(
            now,
            "gate",
            peer=member.name,
            iteration=member.iteration,
            oldest=gate.versions.oldest(),
            held_s=round(held_s, 6),
            mta_time_s=round(mta_time_s, 6),
            staleness=newest - member.iteration,
        )
        member.owed.begin(now, self.pull_request(now, member, pull_limit_s))

    def pull_request(self, now: float, member: Member, limit_s: float) -> Request:
        """What a pull that begins is asked for; rows beyond the quota are sent for ``limit_s`` seconds."""
        choose, codec = self.team.policy.choose_pull, self.pull_code(member)
        return Request(member.iteration, codec, choose, limit_s, announce_zeros=False)

    def pull_code(self, member: Member) -> Codec:
        """The code of a pull that begins."""
        return self.team.policy.row_codec_of_pull

    def next_message(self, now: float, member: Member) -> Message | None:
        owed = member.owed
        if owed.idle and member.state is not MemberState.PULLING:
            return None
        frame = owed.next_frame(now)
        if frame is not None or member.state is not MemberState.PULLING:
            return frame
        transfer = owed.transfer
        if transfer is None or not transfer.finished(now):
            return None
        return self.pulled(now, member, transfer)

    def pulled(self, now: float, member: Member, transfer: Transfer) -> PullEnd:
        """A pull has ended: the worker computes.

        Returns:
            What it is told.
        """
        member.state = MemberState.COMPUTING
        self.team.gate.pulled(now, member, transfer.started, member.owed.quota_s(now))
        member.owed.transfer = None
        return PullEnd(member.iteration)

    # -- what the server's work is -----------------------------------------------------------------------------

    def push_work(self, message: Message) -> float:
        return 1.0 if isinstance(message, PushEnd) else 0.0

    def pull_work(self, message: Message) -> float:
        return 1.0 if isinstance(message, Go) else 0.0

    # -- time --------------------------------------------------------------------------------------------------

    def wake_at(self, member: Member) -> float:
        transfer = member.owed.transfer
        if member.state is MemberState.PULLING and transfer is not None and transfer.waits_beyond(member.woken_at):
            return transfer.deadline
        return math.inf

    def wakes(self, member: Member) -> bool:
        return member.state is MemberState.PULLING


class PhasedWorker(WorkerRule):
    """Pushes, waits at the gate, takes what it pulls."""

    def __init__(self, node: WorkerCore) -> None:
        super().__init__(node)
        self._mta_time_s: float | None = None
        self.handlers = {Go: self._on_go, PullEnd: self._on_pull_end, Cancel: self._on_cancel}

    def exchange(self, now: float) -> None:
        self.begin_push(now)

    def carry_on(self, now: float) -> None:
        if self.node.exchanging:
            self.exchange(now)

    def begin_push(self, now: float) -> None:
        """Choose the rows of a push, and send them."""
        node, policy = self.node, self.node.policy
        assert policy is not None
        node.state = WorkerState.PUSHING
        mta_time_s = node.step.compute_s if self._mta_time_s is None else self._mta_time_s
        node.step.mta_time_s = mta_time_s
        limit_s = max(node.step.proposed + mta_time_s - now, 0.0) if policy.speculative else 0.0
        self.forget_transfer()
        node.outbox.begin(now, self.push_request(now, policy, limit_s))

    def push_request(self, now: float, policy: Policy, limit_s: float) -> Request:
        """What a push that begins is asked for; rows beyond the quota are sent for ``limit_s`` seconds."""
        # Nobody waits for rows that are not drawn, so nobody is to be told that there is nothing in them.
        told = not policy.sampled
        return Request(self.node.iteration, self.push_code(policy), policy.choose_push, limit_s, told)

    def push_code(self, policy: Policy) -> Codec:
        """The code of a push that begins."""
        return policy.row_codec

    def after_rows(self, now: float) -> Message | None:
        node = self.node
        outbox, transfer = node.outbox, node.outbox.transfer
        if node.state is not WorkerState.PUSHING or transfer is None or not transfer.finished(now):
            return None
        node.step.quota_s = outbox.quota_s(now)
        self.forget_transfer()
        node.state = WorkerState.WAITING
        return PushEnd(
            iteration=node.iteration,
            quota_s=node.step.quota_s,
            compute_s=node.step.compute_s,
            rate_bps=outbox.meter.rate_bps(now),
            skipped=node.step.skipped,
            positions=node.positions,
        )

    def _on_cancel(self, now: float, message: Message) -> None:
        transfer = self.node.outbox.transfer
        iteration = cast(Cancel, message).iteration
        if self.node.state is WorkerState.PUSHING and transfer is not None and transfer.iteration == iteration:
            transfer.cancelled = True

    def _on_go(self, now: float, message: Message) -> None:
        node, go = self.node, cast(Go, message)
        if node.state is not WorkerState.WAITING or go.iteration != node.iteration:
            raise RemoteProtocolError(f"expected no permission while {node.state.value}, got one")
        node.state = WorkerState.PULLING
        node.members = max(go.members, 1)
        self._mta_time_s = go.mta_time_s
        node.step.permitted(go)

    def _on_pull_end(self, now: float, message: Message) -> None:
        node = self.node
        if node.state is not WorkerState.PULLING or cast(PullEnd, message).iteration != node.iteration:
            raise RemoteProtocolError(f"expected no end of a pull while {node.state.value}, got one")
        node.compute(now)

    def wake_at(self) -> float:
        node = self.node
        transfer = node.outbox.transfer
        if transfer is not None and node.state is WorkerState.PUSHING and transfer.waits_beyond(node.woken_at):
            return transfer.deadline
        return math.inf
