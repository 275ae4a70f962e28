"""What members of a team say, and what becomes of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

from rowcast.codecs import Codec
from rowcast.errors import LinkLost, RemoteProtocolError
from rowcast.session.figures import LONGEST_NAME, MOST_NAMES, keep
from rowcast.session.recurring import Recurring
from rowcast.session.texts import shorten
from rowcast.training.first import FirstParameters
from rowcast.training.guard import Incident
from rowcast.training.member import Member, MemberState
from rowcast.training.rules.base import Handler
from rowcast.training.sharing import Sharing
from rowcast.wire import (
    Ack,
    Finish,
    Heartbeat,
    LayoutTable,
    Leave,
    Message,
    Notice,
    PushEnd,
    Refusal,
    Rows,
    StateEnd,
    Subtree,
    Supply,
)
from rowcast.wire.frames import ROWS_OVERHEAD_BYTES, frame_bytes

if TYPE_CHECKING:
    from rowcast.training.admission import Admission
    from rowcast.training.team import Team

__all__ = ["Incoming"]

#: Workers whose positions are kept, the latest ones.
MOST_POSITIONS = 4096

#: What a frame that is staged takes beside its bytes, about.
_STAGED_BYTES = 1024

#: With these nothing more follows of a push.
_ENDS_A_PUSH = (PushEnd, Finish)


class Incoming:
    """Takes the messages of members; those that only a rule knows go there.

    Args:
        team: the team.
        admission: forgets who leaves.
        recurring: tells what was dropped.
        sharing: shares the team's batch out.

    Attributes:
        handlers: what takes a message, by its class.
        frames_applied: row frames applied, by worker name, sessions added up.
    """

    def __init__(self, team: Team, admission: Admission, recurring: Recurring, sharing: Sharing) -> None:
        self.frames_applied: dict[str, int] = {}
        self._team = team
        self._admission = admission
        team.departures.settle = self._unstage
        self._recurring = recurring
        self._sharing = sharing
        self._first = FirstParameters(team, admission)
        self.handlers: Mapping[type[Message], Handler] = {
            Rows: self._on_rows,
            Ack: self._on_ack,
            Heartbeat: self._on_heartbeat,
            LayoutTable: self._on_layout_table,
            StateEnd: self._on_state_end,
            Finish: self._on_finish,
            Leave: self._on_leave,
            Refusal: self._on_refusal,
            Supply: self._on_supply,
            **team.rule.handlers,
        }

    def take(self, now: float, member: Member, message: Message) -> None:
        """Handle a message.

        Raises:
            RemoteProtocolError: it has no place in the conversation.
            LinkLost: the worker left.
        """
        handler = self.handlers.get(type(message))
        if handler is None:
            raise RemoteProtocolError(
                f"expected a worker's message that goes with the policy {self._team.policy.name}, got "
                f"{type(message).__name__}"
            )
        if type(message) in _ENDS_A_PUSH:
            self._unstage(now, member)
        if type(message) is Subtree and self._is_loop(now, member, message):
            return
        handler(now, member, message)
        if type(message) is PushEnd:
            self._pushed(member, message)

    def _is_loop(self, now: float, member: Member, message: Subtree) -> bool:
        """A relay that this one is below of is refused, and forgotten."""
        if member.link is None or not self._admission.branches.is_loop(now, member.link, member.name, message.below):
            return False
        self._admission.drop(now, member, "a loop of relays")
        return True

    def _on_rows(self, now: float, member: Member, message: Message) -> None:
        rows = cast(Rows, message)
        if rows.stream:
            self._team.rule.side_rows(now, member, rows)
            return
        if self._team.model.layout is None:
            if self._first.on_rows(now, member, rows):
                self._count_frame(member)
            return
        if not rows.absolute:
            self._team.rule.expect(member, rows.iteration)
        codec = member.inbox.accept(rows)
        assert member.link is not None
        if codec is not None:
            if rows.absolute:
                self._count_frame(member)
                if member.state is not MemberState.SEEDING:
                    raise RemoteProtocolError("expected parameters from the first worker only, and only once")
                member.seed.count(rows)
                member.owed.snapshot.apply(codec, rows)
            elif self._team.model.ledger is None or not self._team.gate.opened:
                raise RemoteProtocolError("expected no update before the start, got one")
            elif member.staged is not None:
                self._stage(now, member, codec, rows)
            else:
                self._apply(now, member, codec, rows)
            self._team.departures.wake_draining()
        self._team.notifier.say(member.link, Ack.at(now, member.inbox.received))

    def _count_frame(self, member: Member) -> None:
        self.frames_applied[member.name] = self.frames_applied.get(member.name, 0) + 1

    def _apply(self, now: float, member: Member, codec: Codec, rows: Rows) -> None:
        """Add an update to the model, and to what everybody is owed."""
        model = self._team.model
        assert model.ledger is not None
        self._count_frame(member)
        if rows.iteration > member.begun_iteration:
            member.pushing_since = now
        model.ledger.begin(member, rows.iteration)
        self._team.rule.arriving(now, member, rows)
        code, counted = model.judge(member, codec, rows)
        model.add(*model.weigh(member, code, counted))
        if model.guard is not None and model.guard.incidents:
            self._tell(now, model.guard.take_incidents())
        empty = len(rows.payload) == 0
        member.push_rows += 0 if empty else len(rows.rows)
        member.push_zero_rows += len(rows.rows) if empty else 0
        member.push_bytes += frame_bytes(rows)
        self._team.rule.arrived(now, member, counted)

    def _tell(self, now: float, incidents: list[Incident]) -> None:
        """The guard has done something: into the journal, and to those whom it concerns."""
        for incident in incidents:
            self._team.journal.record(now, incident.event, peer=incident.peer, **incident.fields)
            if not incident.text:
                continue
            self._recurring.notices.append(incident.text)
            member = self._team.members.get(incident.peer)
            if member is not None and member.link is not None:
                self._team.notifier.say(member.link, Notice(shorten(incident.text)))

    def _stage(self, now: float, member: Member, codec: Codec, rows: Rows) -> None:
        """Keep rows until their push has ended.

        A push that sends more than all rows twice, for it was cut again and again or never ends, counts in part after
        all: memory has its bound.
        """
        assert member.staged is not None
        # The bytes are the decoder's, and others' soon.
        member.staged.append((codec, dataclasses.replace(rows, payload=rows.payload.copy())))
        member.staged_bytes += frame_bytes(rows) + _STAGED_BYTES
        layout = self._team.model.layout
        assert layout is not None
        if member.staged_bytes > 2 * (layout.elements * 4 + layout.rows * (ROWS_OVERHEAD_BYTES + _STAGED_BYTES)):
            self._unstage(now, member)

    def _unstage(self, now: float, member: Member) -> None:
        """A push is here as a whole, or its worker is forgotten and will not send it again: it counts."""
        if not member.staged:
            return
        staged, member.staged, member.staged_bytes = member.staged, [], 0
        for codec, rows in staged:
            self._apply(now, member, codec, rows)

    def _pushed(self, member: Member, message: PushEnd) -> None:
        """Note how far the data was read that is in the parameters now."""
        positions = self._team.positions
        if member.staged is None or not message.positions:
            return
        positions.pop(member.name, None)
        positions[member.name] = message.positions
        while len(positions) > MOST_POSITIONS:
            del positions[next(iter(positions))]

    def _on_supply(self, now: float, member: Member, message: Message) -> None:
        """Its data is a stream: where every push is whole, one that was cut off by a crash must not count in part."""
        if member.staged is None and self._team.policy.whole_pushes:
            member.staged = []
        self._sharing.on_supply(now, member, message)

    def _on_ack(self, now: float, member: Member, message: Message) -> None:
        team, ack = self._team, cast(Ack, message)
        if ack.stream:
            team.rule.side_acknowledged(now, member, ack)
        else:
            member.owed.acknowledged(now, ack.number, ack.arrived_s)
            team.rule.acknowledged(now, member)
        assert member.link is not None
        team.notifier.ready[member.link] = None  # wakes it without a call: this is for every frame

    def _on_heartbeat(self, now: float, member: Member, message: Message) -> None:
        heartbeat = cast(Heartbeat, message)
        assert member.link is not None
        member.link.told(now, heartbeat.arrived)
        left_out = keep(member.metrics, heartbeat.metrics)
        if left_out and not member.metrics_left_out:
            member.metrics_left_out = True
            why = f"expected at most {MOST_NAMES} names of {LONGEST_NAME} characters; report fewer"
            what = f"figures under further names: {left_out[0][:LONGEST_NAME]!r} ..."
            self._recurring.dropped(now, member.name, what, why)
        self._team.rule.heartbeat(now, member, heartbeat.metrics)

    def _on_layout_table(self, now: float, member: Member, message: Message) -> None:
        self._first.on_layout_table(now, member, cast(LayoutTable, message))

    def _on_state_end(self, now: float, member: Member, message: Message) -> None:
        self._first.on_state_end(now, member)

    def _on_finish(self, now: float, member: Member, message: Message) -> None:
        finish = cast(Finish, message)
        if member.state not in self._team.rule.between_steps and member.state is not MemberState.DRAINING:
            raise RemoteProtocolError(f"expected no finish while {member.state.value}, got one")
        self._team.rule.expect(member, finish.iteration)
        self._team.finished.add(member.name)
        self._team.departures.finish(now, member, finish)

    def _on_leave(self, now: float, member: Member, message: Message) -> None:
        cause = cast(Leave, message).cause
        self._admission.drop(now, member, cause)
        raise LinkLost(cause)

    def _on_refusal(self, now: float, member: Member, message: Message) -> None:
        raise LinkLost(f"refused by the worker: {cast(Refusal, message).text}")
