"""The server: holds the parameters, what it owes each worker, and the gate."""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from rowcast.config import LinkSettings, ServerSettings
from rowcast.errors import AuthenticationFailed, LinkLost, RemoteProtocolError, RowcastError, VersionMismatch
from rowcast.journal import Journal
from rowcast.nodes.common import Stream
from rowcast.nodes.gate import Gate
from rowcast.nodes.inbox import Inbox, replace_rows
from rowcast.nodes.ledger import Ledger
from rowcast.nodes.lobby import Lobby
from rowcast.nodes.member import Member, MemberStatus, Stage
from rowcast.nodes.outbox import Outbox
from rowcast.nodes.port import Port
from rowcast.nodes.reader import Reader
from rowcast.nodes.slots import Slots
from rowcast.nodes.streaming import STREAMED, Streaming
from rowcast.nodes.switchboard import Switchboard
from rowcast.nodes.tally import Tally
from rowcast.rows import Layout
from rowcast.sync import Policy, VersionTable
from rowcast.sync.flown import Direction
from rowcast.wire import (
    Ack,
    Ask,
    Cancel,
    Computed,
    Farewell,
    Finish,
    Go,
    Grant,
    Heartbeat,
    Hello,
    LayoutTable,
    Leave,
    Message,
    PullEnd,
    PushEnd,
    Refusal,
    Rows,
    Start,
    StateEnd,
    Waiting,
    Welcome,
)
from rowcast.wire.frames import frame_bytes

__all__ = ["ServerNode"]

#: Stages of a worker that has not computed yet: forgotten when it goes away, there is nothing to come back to.
NOT_STARTED = (Stage.SEEDING, Stage.RECEIVING, Stage.READY)

#: Stages of a worker that is told for whom it waits.
HELD = (Stage.READY, Stage.WAITING, Stage.QUEUED)

#: Stages in which something follows the last row frame, or may.
_SENDING = (Stage.RECEIVING, Stage.PULLING, Stage.DRAINING)


class ServerNode:
    """The server of one team.

    It needs no model: the first worker brings the layout and the parameters.

    Args:
        policy: the synchronisation policy of the team.
        settings, link_settings: see :mod:`rowcast.config`.
        secret: the team's shared secret, or ``None``.
        journal: where events are recorded.
        entropy: source of random bytes (replaced in tests).

    Attributes:
        layout: the model's rows, or ``None`` before the first worker came.
        ledger: the parameters and what is owed; ``None`` before the first worker sent the parameters.
        members: every worker that was not told goodbye, by name.
        gate: whom the gate counts.
        slots: who may transfer; ``None`` where the policy lets everybody.
        streaming: horizons of the workers; ``None`` where rows travel in pushes and pulls.
        frames_applied: row frames applied, by worker name, sessions added up.
        finished: names of the workers that have finished.
        has_secret: workers must prove that they know a secret.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        settings: ServerSettings | None = None,
        link_settings: LinkSettings | None = None,
        secret: bytes | None = None,
        journal: Journal | None = None,
        entropy: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self.policy = policy
        self.settings = settings or ServerSettings()
        self.journal = journal or Journal("server")
        self.layout: Layout | None = None
        self.ledger: Ledger | None = None
        self.members: dict[str, Member] = {}
        self.gate = Gate(policy, self.members, self.settings.expected_workers)
        self.slots = Slots(policy, self.journal) if policy.scheduled else None
        self.streaming: Streaming | None = None
        self.frames_applied: dict[str, int] = {}
        self.finished: set[str] = set()
        self.has_secret = secret is not None
        self._link_settings = link_settings or LinkSettings()
        self._life = entropy(16)
        self._lobby = Lobby(self._life, secret, entropy)
        self._by_port: dict[Port, Member] = {}
        self._board = Switchboard()
        self._draining: dict[str, Member] = {}

    @property
    def parameters(self) -> npt.NDArray[np.float32] | None:
        """Flat float32, the team's model; ``None`` before the first worker sent it."""
        return None if self.ledger is None else self.ledger.parameters

    @property
    def versions(self) -> VersionTable:
        """The version table of the workers that the gate counts."""
        return self.gate.versions

    @property
    def epoch(self) -> int:
        """Counts changes of membership."""
        return self.gate.epoch

    # -- the driver's side -------------------------------------------------------------------------------------

    def link_up(self, now: float, port: Port) -> None:
        """Somebody connected."""
        port.opened_at = port.heard_at = port.spoke_at = now
        self._board.say(port, self._lobby.enter(port))

    def link_down(self, now: float, port: Port, cause: str) -> None:
        """A connection ended."""
        self._lobby.leave(port)
        self._board.forget(port)
        member = self._by_port.pop(port, None)
        if member is None or member.port is not port:
            return
        member.port = None
        member.lost_at = now
        member.owed.link_lost()
        self.journal.record(now, "link_down", peer=member.name, cause=cause)
        self._slot_lost(now, member)

    def heard(self, now: float, port: Port) -> None:
        """Bytes arrived, whole message or not: the link lives."""
        port.heard_at = now

    def blame(self, now: float, port: Port, error: RowcastError) -> None:
        """What came on ``port`` was wrong: tell the peer why and close; everybody else goes on."""
        if port.closing:
            return
        member = self._by_port.get(port)
        peer = member.name if member else port.peer
        self.journal.record(now, "error", peer=peer, error=type(error).__name__, message=str(error))
        code = "version" if isinstance(error, VersionMismatch) else "protocol"
        port.control.clear()
        self._board.refuse(port, code, str(error))

    def receive(self, now: float, port: Port, message: Message) -> None:
        """Handle one message.

        Raises:
            RemoteProtocolError: it has no place in the conversation; :meth:`blame` the port.
            LinkLost: the worker left; close the connection.

        What comes on a connection that is being closed is left unread.
        """
        if port.closing:
            return
        member = self._by_port.get(port)
        if member is None:
            if isinstance(message, Leave):
                raise LinkLost(message.cause)
            if not isinstance(message, Hello):
                raise RemoteProtocolError(f"expected a hello, got {type(message).__name__}")
            self._on_hello(now, port, message)
            return
        member.recounted = False  # only who was welcomed says anything
        match message:
            case Rows():
                self._on_rows(now, member, message)
            case Ack():
                member.owed.acknowledged(now, message.number)
                if self.slots is not None:
                    self.slots.observe_pull(now, member)
                self._board.ready[port] = None
            case Ask():
                self._on_ask(now, member, message)
            case PushEnd():
                self._on_push_end(now, member, message)
            case Computed():
                self._on_computed(now, member, message)
            case Heartbeat():
                member.metrics.update(message.metrics)
                if self.slots is not None and "rate_bps" in message.metrics:
                    self.slots.observe_push(now, member, message.metrics["rate_bps"])
            case LayoutTable():
                self._on_layout_table(member, message)
            case StateEnd():
                self._on_state_end(now, member)
            case Finish():
                self._on_finish(now, member, message)
            case Leave():
                self._drop(now, member, message.cause)
                raise LinkLost(message.cause)
            case Refusal():
                raise LinkLost(f"refused by the worker: {message.text}")
            case _:
                raise RemoteProtocolError(f"expected a worker's message, got {type(message).__name__}")

    def poll(self, now: float, port: Port) -> Message | None:
        """The next message to send on ``port``, or ``None``. Control overtakes rows."""
        message = port.next_control(now) if port.control else None
        if message is not None or port.closing:
            return message
        member = self._by_port.get(port)
        if member is None:
            return None
        if self.streaming is not None and self.ledger is not None and member.stage in STREAMED:
            message = self.streaming.next_message(now, member, self.ledger)
        elif member.owed.idle and member.stage not in _SENDING:
            return None
        else:
            message = member.owed.next_frame(now) or self._after_rows(now, member)
        if message is not None:
            port.spoke_at = now
        return message

    def farewell(self, port: Port, cause: str) -> None:
        """The server stops: tell the peer, then close."""
        port.control.clear()
        self._board.say(port, Leave(cause))
        port.closing = True

    def take_ready(self) -> list[Port]:
        """The ports on which something may be sent since the last call."""
        if self.streaming is not None:
            self.streaming.wake_readers()
        return self._board.take() if self._board.ready else []

    def next_timer(self) -> float | None:
        """When :meth:`on_timer` must be called (s), or ``None``."""
        settings = self.settings
        times = [port.opened_at + settings.handshake_limit_s for port in self._lobby.strangers()]
        times += [port.spoke_at + settings.heartbeat_s for port in self._lobby.queue]
        times += [due for member in self.members.values() if (due := self._timer_of(member)) is not None]
        return min(times, default=None)

    def next_timer_of(self, port: Port) -> float | None:
        """The same for one connection of a member, for a driver that keeps a timer for each: :meth:`on_timer_of`."""
        member = self._by_port.get(port)
        return None if member is None else self._timer_of(member)

    def _timer_of(self, member: Member) -> float | None:
        settings, port = self.settings, member.port
        if port is None:
            waited_for = self._computes(member) or member.stage in NOT_STARTED
            return member.lost_at + settings.absence_limit_s if waited_for else None
        due = min(port.heard_at + settings.silence_limit_s, port.spoke_at + settings.heartbeat_s)
        if self.streaming is not None and member.stage in STREAMED:
            due = min(due, self.streaming.wake_at(member))
        if member.stage in HELD:
            return min(due, member.next_notice)
        transfer = member.owed.transfer
        if member.stage is Stage.PULLING and transfer is not None and transfer.waits_beyond(member.woken_at):
            return min(due, transfer.deadline)
        return due

    def on_timer(self, now: float) -> list[tuple[Port, str]]:
        """Time passed.

        Returns:
            Connections that the driver must close, with the reason: call :meth:`link_down` for each.
        """
        settings = self.settings
        dead = [
            (port, f"no hello within {settings.handshake_limit_s:g} s")
            for port in self._lobby.strangers()
            if now >= port.opened_at + settings.handshake_limit_s
        ]
        for port in self._lobby.queue:
            self._keep_alive(now, port)
        for member in list(self.members.values()):
            if member.port is None:
                if now >= member.lost_at + settings.absence_limit_s:
                    self._absent(now, member)
            elif (cause := self._tick(now, member, member.port)) is not None:
                dead.append((member.port, cause))
        return dead

    def on_timer_of(self, now: float, port: Port) -> str | None:
        """The same for one connection: why the driver must close it, or ``None``."""
        member = self._by_port.get(port)
        return None if member is None else self._tick(now, member, port)

    def _tick(self, now: float, member: Member, port: Port) -> str | None:
        member.woken_at = now
        if now >= port.heard_at + self.settings.silence_limit_s:
            return f"silent for {self.settings.silence_limit_s:g} s"
        self._keep_alive(now, port)
        if member.stage in HELD and now >= member.next_notice:
            self._explain(now, member)
        if member.stage is Stage.PULLING:
            self._board.wake(port)
        if self.streaming is not None and member.stage in STREAMED:
            self._board.wake(port)
            self._let_go(now, self.streaming)
        return None

    def _keep_alive(self, now: float, port: Port) -> None:
        if now >= port.spoke_at + self.settings.heartbeat_s:
            port.spoke_at = now
            self._board.say(port, Heartbeat())

    # -- joining -----------------------------------------------------------------------------------------------

    def _on_hello(self, now: float, port: Port, hello: Hello) -> None:
        try:
            self._lobby.check(port, hello)
        except AuthenticationFailed as error:
            self._refuse(now, port, port.peer, "secret", str(error))
            return
        if self.layout is not None and hello.layout != self.layout.digest:
            self._board.say(port, LayoutTable(self.layout.to_table()))
            self._refuse(now, port, hello.name, "layout", "its model has another layout than the team's")
            return
        member = self.members.get(hello.name)
        # A worker that knows no server at all lost its welcome with the link.
        if member is not None and member.session == hello.session and hello.server in (self._life, b""):
            self._resume(now, port, hello, member)
            return
        if member is not None and member.port is not None and member.session != hello.session:
            self._refuse(
                now, port, hello.name, "name", f"a worker named {hello.name!r} is connected; choose another --name"
            )
            return
        if member is not None:
            # Another life of this worker, or the same one that comes from another server.
            self._hang_up(now, member)
            self._drop(now, member, "started afresh")
        if self.ledger is None and any(other.stage is Stage.SEEDING for other in self.members.values()):
            self._lobby.queue[port] = hello
            self._board.say(port, Waiting(0, "the first worker, which is sending the parameters"))
            return
        self._admit(now, port, hello)

    def _refuse(self, now: float, port: Port, peer: str, code: str, text: str) -> None:
        self.journal.record(now, "error", peer=peer, error=f"refused: {code}", message=text)
        self._board.refuse(port, code, text)

    def _admit(self, now: float, port: Port, hello: Hello) -> None:
        """A worker (or a new life of one) that this server does not know yet."""
        if self.ledger is None:
            how, stage = "seed", Stage.SEEDING
        elif hello.state == self.ledger.digest and (self._common is None or self._common.clean):
            how, stage = "equal", Stage.RECEIVING
        else:
            how, stage = "receive", Stage.RECEIVING
        layout = self.layout or Layout.from_shapes([("unknown", (1,))])
        member = Member(
            hello.name, hello.session, self._new_outbox(hello.name, layout), Inbox(layout), stage, port=port
        )
        self.members[hello.name] = member
        if self.ledger is not None:
            self.ledger.admit(member)
        self.finished.discard(hello.name)
        if how == "receive":
            member.owed.send_state()
        self._connect(now, port, member, hello, how)

    def _resume(self, now: float, port: Port, hello: Hello, member: Member) -> None:
        """The same life of a worker is back on a new connection."""
        self._hang_up(now, member)
        delivered, restored = member.owed.resume(now, hello.received)
        member.port = port
        member.given_up = False
        iteration = hello.iteration
        if member.stage in (Stage.WAITING, Stage.QUEUED, Stage.PULLING):
            member.stage = Stage.COMPUTING
        if not hello.joined and member.stage in (Stage.READY, Stage.COMPUTING):
            # The permission to start was lost with the link: once more. It keeps its place at the gate.
            member.stage = Stage.RECEIVING
        elif self.streaming is None and member.stage is Stage.COMPUTING and (not member.gated or member.recounted):
            # It counts from elsewhere now; and it must hear so again if the link was lost before it could.
            if not member.gated:
                self._count(now, member)
            member.recounted = True
            iteration = member.iteration
        if self.streaming is not None:
            self.streaming.forget_told(member)
        if iteration != hello.iteration:
            member.owed.renumber(iteration)
        member.dirty = True
        self.journal.record(now, "resume", peer=member.name, delivered=delivered, restored=restored)
        how = "seed" if member.stage is Stage.SEEDING and not hello.server else "resume"
        self._connect(now, port, member, hello, how, iteration)

    def _hang_up(self, now: float, member: Member) -> None:
        """Close a connection that its worker has left for another one."""
        old, member.port = member.port, None
        if old is not None:
            self._by_port.pop(old, None)
            old.closing = True
            self._board.wake(old)
            member.owed.link_lost()
            self._slot_lost(now, member)

    def _connect(
        self, now: float, port: Port, member: Member, hello: Hello, how: str, iteration: int | None = None
    ) -> None:
        proof = self._lobby.proof(port, hello)
        self._lobby.leave(port)
        self._by_port[port] = member
        port.decoder.trusted = True
        port.heard_at = now  # one that had to wait for its turn had nothing to say
        port.decoder.rows = self.layout.rows if self.layout is not None else 0
        member.owed.link_ready()
        self.journal.record(
            now,
            "link_up",
            peer=member.name,
            congestion_control=port.congestion_control,
            shaped_by=port.shaped_by,
        )
        self._board.say(
            port,
            Welcome(
                how=how,
                proof=proof,
                server=self._life,
                policy=self.policy.name,
                epoch=self.epoch,
                members=max(len(self.versions), 1),
                iteration=member.iteration if iteration is None else iteration,
                received=member.inbox.received,
                state=self.ledger.digest if self.ledger is not None else b"",
            ),
        )
        self.journal.record(
            now,
            "join",
            peer=member.name,
            epoch=self.epoch,
            iteration=member.iteration,
            how=how,
            members=len(self.versions),
        )

    def _on_layout_table(self, member: Member, message: LayoutTable) -> None:
        if member.stage is not Stage.SEEDING or member.port is None:
            raise RemoteProtocolError("expected a layout from the first worker only")
        layout = Layout.from_table(message.table)
        if self.layout is None:
            if self.policy.streaming:
                self.streaming = Streaming(
                    self.policy,
                    self.gate,
                    self.members,
                    layout.rows,
                    frame_s=self._link_settings.frame_s,
                    board=self._board,
                    journal=self.journal,
                )
            try:
                if self.streaming is not None and self.policy.pulls == "common":
                    self.streaming.share_pulls(layout, self._link_settings)
                member.owed = self._new_outbox(member.name, layout)
            except MemoryError as error:
                raise RemoteProtocolError(f"expected a model that fits in memory, got {layout}") from error
            self.layout = layout
            self.gate.versions = VersionTable(layout.rows)
            member.owed.link_ready()
            member.inbox = Inbox(layout)
        member.port.decoder.rows = layout.rows

    def _on_state_end(self, now: float, member: Member) -> None:
        if member.stage is not Stage.SEEDING:
            return
        if self.layout is None:
            raise RemoteProtocolError("expected a layout before the end of the parameters")
        parameters = member.owed.source
        common = None if self._common is None else self._common.debt
        if self.layout.is_hollow:
            self.ledger = Tally(self.layout, parameters, common=common)
        else:
            self.ledger = Ledger(self.layout, parameters, strict=self.policy.slack == 0, common=common)
        self.ledger.admit(member)
        self._is_ready(now, member)
        while (next_one := self._lobby.next_in_queue()) is not None:
            self._on_hello(now, *next_one)

    def _is_ready(self, now: float, member: Member) -> None:
        """It holds the team's parameters: it starts with the others, or at once if they have started."""
        if member.gated:
            member.stage = Stage.COMPUTING
            if member.port is not None:
                self._board.say(member.port, Start(member.iteration, len(self.versions), self.epoch))
            return
        member.stage = Stage.READY
        member.waiting_since = now
        member.next_notice = now + self.settings.patience_s
        ready = [other for other in self.members.values() if other.stage is Stage.READY]
        self.gate.opened = self.gate.opened or len(ready) >= self.gate.expected
        if not self.gate.opened:
            return
        for other in ready:
            self._count(now, other)
            other.owed.renumber(other.iteration)
            other.stage = Stage.COMPUTING
        for other in ready:
            if other.port is not None:
                self._board.say(other.port, Start(other.iteration, len(self.versions), self.epoch))
        self._open_gate(now)

    def _count(self, now: float, member: Member) -> None:
        """Let the gate count a worker from now on."""
        self.gate.admit(member)
        if self.streaming is not None:
            self.streaming.admit(now, member)
        if self.ledger is not None:
            self.ledger.keep_back(member, self.members.values())

    # -- rows --------------------------------------------------------------------------------------------------

    def _on_rows(self, now: float, member: Member, message: Rows) -> None:
        if self.layout is None:
            raise RemoteProtocolError("expected the layout first, got rows")
        if not message.absolute:
            self._expect_iteration(member, message.iteration)
        codec = member.inbox.accept(message)
        assert member.port is not None
        if codec is not None:
            self.frames_applied[member.name] = self.frames_applied.get(member.name, 0) + 1
            if message.absolute:
                if member.stage is not Stage.SEEDING:
                    raise RemoteProtocolError("expected parameters from the first worker only, and only once")
                replace_rows(self.layout, codec, message, member.owed.source)
            else:
                if self.ledger is None or not self.gate.opened:
                    raise RemoteProtocolError("expected no update before the start, got one")
                if message.iteration > member.begun_iteration:
                    member.pushing_since = now
                self.ledger.begin(member, message.iteration)
                if self.streaming is not None:
                    self.streaming.arrived(now, member, message)
                owing = self.members if self.streaming is None else self.streaming.owing
                self.ledger.add(codec, message, owing.values())
                self._book(now, member, message)
        self._board.say(member.port, Ack(member.inbox.received))

    def _expect_iteration(self, member: Member, iteration: int) -> None:
        """A worker pushes the iteration after its last one, or that one again after a cut."""
        if self.streaming is not None and member.stage in STREAMED:
            self.streaming.expect(member, iteration)
            return
        if not member.iteration <= iteration <= member.iteration + 1:
            raise RemoteProtocolError(
                f"expected iteration {member.iteration} or {member.iteration + 1} of {member.name}, got {iteration}"
            )

    def _book(self, now: float, member: Member, message: Rows) -> None:
        empty = len(message.payload) == 0
        member.push_rows += 0 if empty else len(message.rows)
        member.push_zero_rows += len(message.rows) if empty else 0
        member.push_bytes += frame_bytes(message)
        if self.streaming is not None:
            self._board.wake_all(self._draining.values())
            return
        self.versions.advance(member.name, message.rows, message.iteration)
        if message.quota_end:
            self.gate.quota_arrived(member, message.iteration)
            self._cancel_extras()
        if self.gate.waiting:
            self._open_gate(now)
        self._board.wake_all(self._draining.values())

    def _cancel_extras(self) -> None:
        for member in self.gate.superfluous():
            if member.port is not None:
                self._board.say(member.port, Cancel(member.quota_iteration))

    def _on_push_end(self, now: float, member: Member, message: PushEnd) -> None:
        if member.stage is not Stage.COMPUTING:
            raise RemoteProtocolError(f"expected no end of a push while {member.stage.value}, got one")
        self._expect_iteration(member, message.iteration)
        if self.slots is not None:
            if not self.slots.pushes(member):
                raise RemoteProtocolError("expected a request for a slot before a push, got the end of one")
            self.slots.observe_push(now, member, message.rate_bps)
            self.slots.done(now, member)
        if self.ledger is not None:
            self.ledger.begin(member, message.iteration)
        self.gate.pushed(now, member, message)
        member.metrics["rate_bps"] = message.rate_bps
        self._record_push(now, member, message.iteration, round(message.quota_s, 6))
        member.next_notice = now + self.settings.patience_s
        self._cancel_extras()
        self._open_gate(now, member)

    def _record_push(self, now: float, member: Member, iteration: int, quota_s: float | None) -> None:
        """What has come since the last push was recorded is the push of ``iteration``."""
        self.journal.record(
            now,
            "push",
            peer=member.name,
            iteration=iteration,
            rows=member.push_rows,
            zero_rows=member.push_zero_rows,
            bytes=member.push_bytes,
            quota_s=quota_s,
        )
        member.push_rows = member.push_zero_rows = member.push_bytes = 0

    # -- the gate ----------------------------------------------------------------------------------------------

    def _open_gate(self, now: float, newcomer: Member | None = None) -> None:
        """Let everybody go on whom the policy allows to."""
        for member in self.gate.may_pass(newcomer):
            if self.slots is None:
                self._begin_pull(now, member)
            else:
                member.stage = Stage.QUEUED
                self.slots.ask(now, member, Direction.PULL, member.iteration)
        self._schedule(now)

    def _begin_pull(self, now: float, member: Member) -> None:
        assert self.ledger is not None
        self.ledger.bring_up(member)
        newest = max(self.gate.newest(), member.iteration)
        held_s = now - member.waiting_since
        mta_time_s, pull_limit_s = self.gate.limits_s(member)
        member.stage = Stage.PULLING
        assert member.port is not None
        self._board.say(
            member.port,
            Go(
                iteration=member.iteration,
                mta_time_s=mta_time_s,
                held_s=held_s,
                staleness=newest - member.iteration,
                members=max(len(self.versions), 1),
                epoch=self.epoch,
            ),
        )
        self.journal.record(
            now,
            "gate",
            peer=member.name,
            iteration=member.iteration,
            oldest=self.versions.oldest(),
            held_s=round(held_s, 6),
            mta_time_s=round(mta_time_s, 6),
            staleness=newest - member.iteration,
        )
        member.owed.begin(
            now,
            member.iteration,
            self.policy.row_codec,
            self.policy.choose_pull,
            pull_limit_s,
            announce_zeros=False,
        )

    def _after_rows(self, now: float, member: Member) -> Message | None:
        """What follows the last row frame to a worker."""
        owed, transfer = member.owed, member.owed.transfer
        if member.stage is Stage.RECEIVING and owed.settled and not owed.state_due.any():
            self._is_ready(now, member)
            return member.port.next_control(now) if member.port is not None else None
        if member.stage is Stage.PULLING and transfer is not None and transfer.finished(now):
            member.stage = Stage.COMPUTING
            self.gate.pulled(now, member, transfer.started, owed.quota_s(now))
            owed.transfer = None
            if self.slots is not None:
                self.slots.done(now, member)
                self._schedule(now)
            return PullEnd(member.iteration)
        if member.stage is Stage.DRAINING:
            return self._drain(now, member)
        return None

    def _explain(self, now: float, member: Member) -> None:
        """Tell a worker that has waited for long for whom."""
        if self.slots is not None and member.stage is Stage.QUEUED:
            reason = self.slots.reason()
        else:
            reason = self.gate.reason(now, member, self.settings.absence_limit_s)
        waited_s = now - member.waiting_since
        member.next_notice = now + max(self.settings.patience_s, waited_s)
        self.journal.record(
            now,
            "waiting",
            peer=member.name,
            iteration=member.iteration,
            waited_s=round(waited_s, 3),
            **{"for": reason},
        )
        if member.port is not None:
            self._board.say(member.port, Waiting(member.iteration, reason))

    # -- streaming ---------------------------------------------------------------------------------------------

    def _on_computed(self, now: float, member: Member, message: Computed) -> None:
        if self.streaming is not None and member.stage is Stage.DRAINING:
            return  # said again after a cut
        if self.streaming is None or member.stage not in STREAMED:
            raise RemoteProtocolError(f"expected no finished iteration while {member.stage.value}, got one")
        self.streaming.computed(now, member, message)
        member.metrics["rate_bps"] = message.rate_bps
        member.next_notice = now + self.settings.patience_s
        self._record_push(now, member, message.iteration, None)
        self.streaming.tune(now)
        assert member.port is not None
        self._board.wake(member.port)
        if self.streaming.is_beyond(member):
            self._leave_gate(now, member, self.streaming)
        self._let_go(now, self.streaming)

    def _let_go(self, now: float, streaming: Streaming) -> None:
        """Nobody is to wait for a robot in an outage."""
        for member in streaming.leavers(now):
            self._leave_gate(now, member, streaming)

    def _leave_gate(self, now: float, member: Member, streaming: Streaming) -> None:
        """A worker is in an outage: it does not count until it has caught up."""
        silent_s = now - streaming.seat(member).punctuality.since
        self._uncount(now, member)
        self._record_absence(now, member, silent_s)

    # -- slots -------------------------------------------------------------------------------------------------

    def _on_ask(self, now: float, member: Member, message: Ask) -> None:
        if self.slots is None or member.stage is not Stage.COMPUTING:
            raise RemoteProtocolError(f"expected no request for a slot while {member.stage.value}, got one")
        self._expect_iteration(member, message.iteration)
        if message.weight <= 0:
            raise RemoteProtocolError(f"expected a weight above 0 with a request for a slot, got {message.weight}")
        member.samples = message.weight
        self.slots.observe_push(now, member, message.rate_bps)
        self.slots.ask(now, member, Direction.PUSH, message.iteration)
        self._schedule(now)

    def _schedule(self, now: float) -> None:
        """Something has changed that slots depend on: let those transfer to whom one is due."""
        if self.slots is None or self.layout is None:
            return
        for admission in self.slots.admit(now, self.members, self.layout):
            member = admission.member
            if admission.direction is Direction.PULL:
                self._begin_pull(now, member)
            elif member.port is not None:
                self._board.say(member.port, Grant(admission.iteration, admission.waited_s))

    def _slot_lost(self, now: float, member: Member) -> None:
        """The link of a member is gone, and with it what it waited for or transferred."""
        if self.slots is not None:
            self.slots.withdraw(member)
            self._schedule(now)

    # -- departures --------------------------------------------------------------------------------------------

    def _absent(self, now: float, member: Member) -> None:
        """A link has been down for longer than the limit: nobody waits for this worker any longer."""
        if member.stage in NOT_STARTED:
            self._drop(now, member, "went away before the start")
        elif self._computes(member):
            counted, member.given_up = member.gated, True
            self._uncount(now, member)
            self._board.wake_all(self._draining.values())
            if counted:
                self._record_absence(now, member, now - member.lost_at)

    def _record_absence(self, now: float, member: Member, silent_s: float) -> None:
        self.journal.record(
            now,
            "absent",
            peer=member.name,
            epoch=self.epoch,
            silent_s=round(silent_s, 3),
            members=len(self.versions),
        )

    def _computes(self, member: Member) -> bool:
        """Whether more is to come from a worker: it counts, or it is in an outage and will count again."""
        return member.gated or (self.streaming is not None and member.stage in STREAMED and not member.given_up)

    def _uncount(self, now: float, member: Member) -> None:
        if not member.gated:
            return
        if self.ledger is not None:
            self.ledger.settle(member)
        if self.slots is not None:
            self.slots.remove(member)
        self.gate.remove(member)
        if self.streaming is not None:
            self.streaming.left(now, member)
            self._board.wake_all(self.members.values())
        self._cancel_extras()
        self._open_gate(now)
        self._board.wake_all(self._draining.values())

    def _drop(self, now: float, member: Member, cause: str) -> None:
        """Forget a worker: it left, started afresh, or was told goodbye."""
        del self.members[member.name]
        self._draining.pop(member.name, None)
        if member.port is not None:
            self._by_port.pop(member.port, None)
        if self.slots is not None:
            self.slots.remove(member)
        self._uncount(now, member)
        if self.streaming is not None:
            self.streaming.remove(member)
        self.journal.record(now, "leave", peer=member.name, epoch=self.epoch, cause=cause, members=len(self.versions))
        if member.stage is Stage.SEEDING and self.ledger is None:
            self.layout = self.streaming = None
            if (next_one := self._lobby.next_in_queue()) is not None:
                self._on_hello(now, *next_one)

    def _on_finish(self, now: float, member: Member, message: Finish) -> None:
        between_steps = STREAMED if self.streaming is not None else (Stage.COMPUTING,)
        if member.stage not in between_steps and member.stage is not Stage.DRAINING:
            raise RemoteProtocolError(f"expected no finish while {member.stage.value}, got one")
        self._expect_iteration(member, message.iteration)
        member.stage = Stage.DRAINING
        self._draining[member.name] = member
        member.finish_wait = message.wait
        member.iteration = max(member.iteration, message.iteration)
        member.dirty = True
        member.owed.transfer = None
        self.finished.add(member.name)
        if self.streaming is not None and not message.wait and member.owed.follows:
            self.streaming.part(member)  # it does not stay until all is in the stream
            if self.ledger is not None:
                self.ledger.admit(member)
        self._uncount(now, member)
        self._board.wake_all(self._draining.values())

    def _drain(self, now: float, member: Member) -> Message | None:
        """Send a worker that has finished everything it is owed, then say goodbye."""
        owed = member.owed
        others_compute = member.finish_wait and any(self._computes(other) for other in self.members.values())
        if (shared := owed.follow(now, draining=not others_compute)) is not None:
            return shared
        if owed.transfer is not None and not owed.transfer.finished(now):
            return None
        if self.ledger is not None:
            self.ledger.bring_up(member)
        if member.dirty:
            member.dirty = False
            owed.send_everything(now, member.iteration)
            frame = owed.next_frame(now)
            if frame is not None:
                return frame
        if others_compute or not owed.empty or member.port is None:
            return None
        self.journal.record(
            now,
            "drained",
            peer=member.name,
            iteration=member.iteration,
            frames_sent=owed.sent_frames,
            frames_applied=member.inbox.received,
        )
        port = member.port
        self._drop(now, member, "finished")
        port.closing = True
        return Farewell(member.inbox.received)

    # -- small things ------------------------------------------------------------------------------------------

    def status(self, now: float) -> list[MemberStatus]:
        """A line for each worker, for a progress display."""
        newest = max((member.iteration for member in self.members.values()), default=0)
        lines = []
        for member in self.members.values():
            waited_s = now - member.waiting_since if member.stage in HELD else 0.0
            state = member.stage.value if member.port else f"link lost {now - member.lost_at:.0f} s ago"
            lines.append(
                MemberStatus(
                    member.name, state, member.iteration, newest - member.iteration, waited_s, dict(member.metrics)
                )
            )
        return sorted(lines, key=lambda line: line.name)

    @property
    def _common(self) -> Stream | None:
        """The rows that all workers are sent alike, if they are."""
        return None if self.streaming is None else self.streaming.stream

    def _new_outbox(self, name: str, layout: Layout) -> Outbox:
        source = layout.zeros() if self.ledger is None else self.ledger.parameters
        if (stream := self._common) is not None:
            return Reader(name, layout, self._link_settings, source, stream)
        floor = None if self.streaming is None else self.streaming.floor
        return Outbox(layout, self._link_settings, layout.zeros(), source, state_settles=True, floor=floor)
