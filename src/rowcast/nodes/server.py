"""The server: holds the parameters, what it owes each worker, and the gate."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from rowcast.codecs import Codec
from rowcast.config import LinkSettings, ServerSettings
from rowcast.errors import LinkLost, RemoteProtocolError, RowcastError, VersionMismatch
from rowcast.journal import Journal
from rowcast.nodes.inbox import Inbox, replace_rows
from rowcast.nodes.member import Member, MemberStatus, Stage
from rowcast.nodes.outbox import Outbox
from rowcast.nodes.port import Port
from rowcast.nodes.replica import digest_of
from rowcast.rows import Layout
from rowcast.sync import MtaTime, Policy, VersionTable
from rowcast.wire import (
    Ack,
    Cancel,
    Challenge,
    Farewell,
    Finish,
    Go,
    Heartbeat,
    Hello,
    LayoutTable,
    Leave,
    Message,
    PullEnd,
    PushEnd,
    Refusal,
    Rows,
    StateEnd,
    Waiting,
    Welcome,
)
from rowcast.wire.auth import matches, server_proof, worker_proof
from rowcast.wire.frames import frame_bytes

__all__ = ["ServerNode"]

MAX_NAME = 200


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
        parameters: flat float32, the team's model; ``None`` before the first worker sent it.
        members: every worker that was not told goodbye, by name.
        versions: the version table of the workers that the gate counts.
        epoch: counts changes of membership.
        frames_applied: row frames applied, by worker name, sessions added up.
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
        self.parameters: npt.NDArray[np.float32] | None = None
        self.members: dict[str, Member] = {}
        self.versions = VersionTable(0)
        self.epoch = 0
        self.frames_applied: dict[str, int] = {}
        self.finished: set[str] = set()
        self._link_settings = link_settings or LinkSettings()
        self._secret = secret
        self._entropy = entropy
        self._life = entropy(16)
        self._digest = b""
        self._opened = False
        # Updates that came before the team was complete; the gate is closed, so one iteration of each at most.
        self._early: list[tuple[Member, Codec, Rows]] = []
        self._challenges: dict[Port, Challenge] = {}
        self._hopefuls: dict[Port, Hello] = {}
        self._by_port: dict[Port, Member] = {}
        self._push_time = MtaTime()
        self._pull_time = MtaTime()
        self._ready: dict[Port, None] = {}
        self._woken_at = 0.0

    # -- the driver's side -------------------------------------------------------------------------------------

    def link_up(self, now: float, port: Port) -> None:
        """Somebody connected."""
        challenge = Challenge(self._life, self._entropy(16), self._secret is not None)
        self._challenges[port] = challenge
        port.opened_at = port.heard_at = port.spoke_at = now
        self._say(port, challenge)

    def link_down(self, now: float, port: Port, cause: str) -> None:
        """A connection ended."""
        self._challenges.pop(port, None)
        self._hopefuls.pop(port, None)
        self._ready.pop(port, None)
        member = self._by_port.pop(port, None)
        if member is None or member.port is not port:
            return
        member.port = None
        member.lost_at = now
        member.owed.link_lost()
        self.journal.record(now, "link_down", peer=member.name, cause=cause)

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
        port.refuse(code, str(error))
        self._ready[port] = None

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
            if not isinstance(message, Hello) or port in self._hopefuls or port not in self._challenges:
                raise RemoteProtocolError(f"expected a hello, got {type(message).__name__}")
            self._on_hello(now, port, message)
            return
        match message:
            case Rows():
                self._on_rows(now, member, message)
            case Ack():
                member.owed.acknowledged(now, message.number)
                self._ready[port] = None
            case PushEnd():
                self._on_push_end(now, member, message)
            case Heartbeat():
                member.metrics.update(message.metrics)
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
        message = port.next_control(now)
        if message is not None or port.closing:
            return message
        member = self._by_port.get(port)
        if member is None:
            return None
        message = member.owed.next_frame(now) or self._after_rows(now, member)
        if message is not None:
            port.spoke_at = now
        return message

    def farewell(self, port: Port, cause: str) -> None:
        """The server stops: tell the peer, then close."""
        port.control.clear()
        self._say(port, Leave(cause))
        port.closing = True

    @property
    def has_secret(self) -> bool:
        """Whether workers must prove that they know a secret."""
        return self._secret is not None

    def take_ready(self) -> list[Port]:
        """The ports on which something may be sent since the last call."""
        ready, self._ready = list(self._ready), {}
        return ready

    def next_timer(self) -> float | None:
        """When :meth:`on_timer` must be called (s), or ``None``."""
        settings = self.settings
        times = [port.opened_at + settings.handshake_limit_s for port in self._strangers()]
        times += [port.spoke_at + settings.heartbeat_s for port in self._hopefuls]
        for member in self.members.values():
            if member.port is None:
                if member.gated or member.stage is Stage.SEEDING:
                    times.append(member.lost_at + settings.absence_limit_s)
                continue
            times.append(member.port.heard_at + settings.silence_limit_s)
            times.append(member.port.spoke_at + settings.heartbeat_s)
            if member.stage is Stage.WAITING:
                times.append(member.next_notice)
            transfer = member.owed.transfer
            if member.stage is Stage.PULLING and transfer is not None and transfer.deadline > self._woken_at:
                times.append(transfer.deadline)
        return min(times, default=None)

    def on_timer(self, now: float) -> list[tuple[Port, str]]:
        """Time passed.

        Returns:
            Connections that the driver must close, with the reason: call :meth:`link_down` for each.
        """
        self._woken_at = now
        settings = self.settings
        dead = [
            (port, f"no hello within {settings.handshake_limit_s:g} s")
            for port in self._strangers()
            if now >= port.opened_at + settings.handshake_limit_s
        ]
        for port in self._hopefuls:
            self._keep_alive(now, port)
        for member in list(self.members.values()):
            if member.port is None:
                if now >= member.lost_at + settings.absence_limit_s:
                    self._absent(now, member)
                continue
            if now >= member.port.heard_at + settings.silence_limit_s:
                dead.append((member.port, f"silent for {settings.silence_limit_s:g} s"))
                continue
            self._keep_alive(now, member.port)
            if member.stage is Stage.WAITING and now >= member.next_notice:
                self._explain(now, member)
            if member.stage is Stage.PULLING:
                self._ready[member.port] = None
        return dead

    def _strangers(self) -> list[Port]:
        """Connections that have not introduced themselves."""
        return [port for port in self._challenges if port not in self._hopefuls]

    def _keep_alive(self, now: float, port: Port) -> None:
        if now >= port.spoke_at + self.settings.heartbeat_s:
            port.spoke_at = now
            self._say(port, Heartbeat())

    # -- joining -----------------------------------------------------------------------------------------------

    def _on_hello(self, now: float, port: Port, hello: Hello) -> None:
        if self._secret is not None and not matches(
            worker_proof(self._secret, self._challenges[port], hello), hello.proof
        ):
            self.journal.record(now, "error", peer=port.peer, error="AuthenticationFailed", message="wrong secret")
            port.refuse("secret", "the worker's proof does not fit the server's shared secret; give both the same one")
            self._ready[port] = None
            return
        if not 0 < len(hello.name) <= MAX_NAME or not hello.name.isprintable() or len(hello.session) != 16:
            raise RemoteProtocolError(f"hello: expected a printable name of 1 .. {MAX_NAME} characters and a session")
        if self.layout is not None and hello.layout != self.layout.digest:
            self._say(port, LayoutTable(self.layout.to_table()))
            self._refuse(now, port, hello, "layout", "its model has another layout than the team's")
            return
        member = self.members.get(hello.name)
        if member is not None and member.session == hello.session and hello.server == self._life:
            self._resume(now, port, hello, member)
            return
        if member is not None and member.port is not None and member.session != hello.session:
            self._refuse(now, port, hello, "name", f"a worker named {hello.name!r} is connected; choose another --name")
            return
        if member is not None:
            # Another life of this worker, or the same one whose welcome was lost with its link.
            self._hang_up(member)
            self._drop(now, member, "started afresh")
        if self.parameters is None and any(other.stage is Stage.SEEDING for other in self.members.values()):
            self._hopefuls[port] = hello
            self._say(port, Waiting(0, "the first worker, which is sending the parameters"))
            return
        self._admit(now, port, hello)

    def _refuse(self, now: float, port: Port, hello: Hello, code: str, text: str) -> None:
        self.journal.record(now, "error", peer=hello.name, error=f"refused: {code}", message=text)
        port.refuse(code, text)
        self._ready[port] = None

    def _admit(self, now: float, port: Port, hello: Hello) -> None:
        """A worker (or a new life of one) that this server does not know yet."""
        if self.parameters is None:
            how, stage = "seed", Stage.SEEDING
        elif hello.state == self._state_digest():
            how, stage = "equal", Stage.COMPUTING
        else:
            how, stage = "receive", Stage.RECEIVING
        layout = self.layout or Layout.from_shapes([("unknown", (1,))])
        member = Member(hello.name, hello.session, self._new_outbox(layout), Inbox(layout), stage, port=port)
        self.members[hello.name] = member
        self.finished.discard(hello.name)
        if stage is Stage.RECEIVING:
            member.owed.send_state()
        elif stage is Stage.COMPUTING:
            self._count(now, member)
        self._connect(now, port, member, hello, how)

    def _resume(self, now: float, port: Port, hello: Hello, member: Member) -> None:
        """The same life of a worker is back on a new connection."""
        self._hang_up(member)
        delivered, restored = member.owed.resume(now, hello.received)
        member.port = port
        iteration = hello.iteration
        if member.stage in (Stage.WAITING, Stage.PULLING):
            member.stage = Stage.COMPUTING
        if member.stage is Stage.COMPUTING and not hello.joined:
            # The end of the state transfer was lost with the link: say it again.
            member.stage = Stage.RECEIVING
            self._uncount(now, member)
        elif member.stage is Stage.COMPUTING and not member.gated:
            iteration = self._count(now, member)
        if iteration != hello.iteration:
            member.owed.renumber(iteration)
        member.dirty = True
        self.journal.record(now, "resume", peer=member.name, delivered=delivered, restored=restored)
        self._connect(now, port, member, hello, "resume", iteration)

    def _hang_up(self, member: Member) -> None:
        """Close a connection that its worker has left for another one."""
        old, member.port = member.port, None
        if old is not None:
            self._by_port.pop(old, None)
            old.closing = True
            self._ready[old] = None
            member.owed.link_lost()

    def _connect(
        self, now: float, port: Port, member: Member, hello: Hello, how: str, iteration: int | None = None
    ) -> None:
        self._by_port[port] = member
        self._hopefuls.pop(port, None)
        port.decoder.trusted = True
        port.heard_at = now  # one that had to wait for its turn had nothing to say
        port.decoder.rows = self.layout.rows if self.layout is not None else 0
        member.owed.link_ready()
        proof = server_proof(self._secret, self._challenges.pop(port), hello) if self._secret is not None else b""
        self._challenges.pop(port, None)
        self.journal.record(
            now,
            "link_up",
            peer=member.name,
            congestion_control=port.congestion_control,
            shaped_by=port.shaped_by,
        )
        self._say(
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
                state=self._state_digest() if self.parameters is not None else b"",
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
            try:
                member.owed = self._new_outbox(layout)
            except MemoryError as error:
                raise RemoteProtocolError(f"expected a model that fits in memory, got {layout}") from error
            self.layout = layout
            self.versions = VersionTable(layout.rows)
            member.owed.link_ready()
            member.inbox = Inbox(layout)
        member.port.decoder.rows = layout.rows

    def _on_state_end(self, now: float, member: Member) -> None:
        if member.stage is not Stage.SEEDING:
            return
        if self.layout is None:
            raise RemoteProtocolError("expected a layout before the end of the parameters")
        self.parameters = member.owed.source
        self._digest = b""
        self._count(now, member)
        member.stage = Stage.COMPUTING
        for port, hello in list(self._hopefuls.items()):
            del self._hopefuls[port]
            self._on_hello(now, port, hello)

    def _count(self, now: float, member: Member) -> int:
        """Let the gate count a worker from now on; returns the iteration at which it starts (1.10).

        All rows of an iteration may be here before its end is: the gate has let others pass for these rows, so
        the newcomer starts no earlier.
        """
        others = [
            max(other.iteration, self.versions.oldest_of(other.name))
            for other in self.members.values()
            if other.gated and other is not member
        ]
        if self._opened:
            member.iteration = min(others, default=member.iteration)
        member.quota_iteration = member.begun_iteration = member.iteration
        member.gated = True
        self.versions.admit(member.name, member.iteration)
        self.epoch += 1
        if not self._opened and len(self.versions) >= self.settings.expected_workers:
            self._open(now)
        self._open_gate(now)
        return member.iteration

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
                if self.parameters is None:
                    raise RemoteProtocolError("expected the parameters first, got an update")
                if self._opened:
                    self._add(now, member, codec, message)
                else:
                    self._early.append((member, codec, dataclasses.replace(message, payload=message.payload.copy())))
        self._say(member.port, Ack(member.inbox.received))

    def _add(self, now: float, member: Member, codec: Codec, message: Rows) -> None:
        """Add an update to the parameters and to what everybody is owed."""
        assert self.layout is not None and self.parameters is not None
        member.begin(message.iteration)
        codec.add(self.layout, message.payload, message.rows, self.parameters, -1.0)
        for other in self.members.values():
            owed = other.owed_from(message.iteration, self.policy.slack)
            codec.add(self.layout, message.payload, message.rows, owed, 1.0)
            other.owed.measured = False
            other.dirty = True
        self._digest = b""
        if self.members.get(member.name) is member:
            self._book(now, member, message)

    def _open(self, now: float) -> None:
        """The team is complete: its first iteration begins at the same parameters, whoever came first."""
        self._opened = True
        early, self._early = self._early, []
        for member, codec, message in early:
            self._add(now, member, codec, message)

    def _expect_iteration(self, member: Member, iteration: int) -> None:
        """A worker pushes the iteration after its last one, or that one again after a cut."""
        if not member.iteration <= iteration <= member.iteration + 1:
            raise RemoteProtocolError(
                f"expected iteration {member.iteration} or {member.iteration + 1} of {member.name}, got {iteration}"
            )

    def _book(self, now: float, member: Member, message: Rows) -> None:
        empty = len(message.payload) == 0
        member.push_rows += 0 if empty else len(message.rows)
        member.push_zero_rows += len(message.rows) if empty else 0
        member.push_bytes += frame_bytes(message)
        self.versions.advance(member.name, message.rows, message.iteration)
        if message.quota_end:
            member.quota_iteration = message.iteration
            self._cancel_extras()
        if any(other.stage is Stage.WAITING for other in self.members.values()):
            self._open_gate(now)
        self._wake_drainers()

    def _cancel_extras(self) -> None:
        """Once every quota of an iteration is here, sending beyond one's own only delays the next (2.2)."""
        gated = [member for member in self.members.values() if member.gated]
        lowest = min((member.quota_iteration for member in gated), default=0)
        for member in gated:
            sending = member.stage is Stage.COMPUTING and member.iteration < member.quota_iteration <= lowest
            if sending and member.cancelled_iteration < member.quota_iteration and member.port is not None:
                member.cancelled_iteration = member.quota_iteration
                self._say(member.port, Cancel(member.quota_iteration))

    def _on_push_end(self, now: float, member: Member, message: PushEnd) -> None:
        if member.stage is not Stage.COMPUTING:
            raise RemoteProtocolError(f"expected no end of a push while {member.stage.value}, got one")
        self._expect_iteration(member, message.iteration)
        member.begin(message.iteration)
        member.iteration = message.iteration
        member.quota_iteration = max(member.quota_iteration, message.iteration)
        self._push_time.report(member.name, message.iteration, message.quota_s, message.compute_s)
        member.metrics["rate_bps"] = message.rate_bps
        self.journal.record(
            now,
            "push",
            peer=member.name,
            iteration=message.iteration,
            rows=member.push_rows,
            zero_rows=member.push_zero_rows,
            bytes=member.push_bytes,
            quota_s=round(message.quota_s, 6),
        )
        member.push_rows = member.push_zero_rows = member.push_bytes = 0
        member.stage = Stage.WAITING
        member.waiting_since = now
        member.next_notice = now + self.settings.patience_s
        self._cancel_extras()
        self._open_gate(now)

    # -- the gate ----------------------------------------------------------------------------------------------

    def _open_gate(self, now: float) -> None:
        """Let everybody go on whom the policy allows to."""
        if not self._opened:
            return
        oldest = self.versions.oldest()
        waiting = [member for member in self.members.values() if member.stage is Stage.WAITING and member.port]
        for member in sorted(waiting, key=lambda waiter: (waiter.waiting_since, waiter.name)):
            if self.policy.may_start(member.iteration, oldest):
                self._begin_pull(now, member, oldest)

    def _begin_pull(self, now: float, member: Member, oldest: int | None) -> None:
        newest = max((other.iteration for other in self.members.values() if other.gated), default=member.iteration)
        held_s = now - member.waiting_since
        mta_time_s = self._push_time.value_s(newest)
        member.stage = Stage.PULLING
        assert member.port is not None
        self._say(
            member.port,
            Go(
                iteration=member.iteration,
                mta_time_s=mta_time_s,
                held_s=held_s,
                staleness=max(newest - member.iteration, 0),
                members=max(len(self.versions), 1),
                epoch=self.epoch,
            ),
        )
        self.journal.record(
            now,
            "gate",
            peer=member.name,
            iteration=member.iteration,
            oldest=oldest,
            held_s=round(held_s, 6),
            mta_time_s=round(mta_time_s, 6),
            staleness=max(newest - member.iteration, 0),
        )
        member.owed.begin(
            now,
            member.iteration,
            self.policy.row_codec,
            self.policy.choose_pull,
            self._pull_time.value_s(newest) if self.policy.speculative else 0.0,
            announce_zeros=False,
        )

    def _after_rows(self, now: float, member: Member) -> Message | None:
        """What follows the last row frame to a worker."""
        owed, transfer = member.owed, member.owed.transfer
        if member.stage is Stage.RECEIVING and not owed.state_due.any():
            member.stage = Stage.COMPUTING
            self._count(now, member)
            owed.renumber(member.iteration)
            return StateEnd(member.iteration)
        if member.stage is Stage.PULLING and transfer is not None and transfer.finished(now):
            member.stage = Stage.COMPUTING
            compute_s = self._push_time.compute_s(member.name)
            self._pull_time.report(member.name, member.iteration, owed.quota_s(now), compute_s)
            owed.transfer = None
            return PullEnd(member.iteration)
        if member.stage is Stage.DRAINING:
            return self._drain(now, member)
        return None

    def _explain(self, now: float, member: Member) -> None:
        """Tell a worker that has waited for long for whom."""
        reason = self._reason(now, member)
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
            self._say(member.port, Waiting(member.iteration, reason))

    def _reason(self, now: float, member: Member) -> str:
        if not self._opened:
            return f"the team: {len(self.versions)} of {self.settings.expected_workers} workers have joined"
        needed = member.iteration - (self.policy.slack or 0)
        reasons = []
        for name in self.versions.behind(needed):
            other = self.members[name]
            if other.port is None:
                left_s = max(other.lost_at + self.settings.absence_limit_s - now, 0.0)
                why = f"link lost {now - other.lost_at:.0f} s ago, given up in {left_s:.0f} s"
            else:
                why = f"{other.stage.value} at iteration {other.iteration + 1}"
            reasons.append(f"{name} ({why})")
        return ", ".join(reasons) or "its turn"

    # -- departures --------------------------------------------------------------------------------------------

    def _absent(self, now: float, member: Member) -> None:
        """A link has been down for longer than the limit: nobody waits for this worker any longer."""
        if member.stage is Stage.SEEDING:
            self._drop(now, member, "went away before the parameters were complete")
        elif member.gated:
            self._uncount(now, member)
            self.journal.record(
                now,
                "absent",
                peer=member.name,
                epoch=self.epoch,
                silent_s=round(now - member.lost_at, 3),
                members=len(self.versions),
            )

    def _uncount(self, now: float, member: Member) -> None:
        if not member.gated:
            return
        member.gated = False
        member.owe_later()
        self.versions.remove(member.name)
        self._push_time.remove(member.name)
        self._pull_time.remove(member.name)
        self.epoch += 1
        self._cancel_extras()
        self._open_gate(now)
        self._wake_drainers()

    def _drop(self, now: float, member: Member, cause: str) -> None:
        """Forget a worker: it left, started afresh, or was told goodbye."""
        del self.members[member.name]
        if member.port is not None:
            self._by_port.pop(member.port, None)
        self._uncount(now, member)
        self.journal.record(now, "leave", peer=member.name, epoch=self.epoch, cause=cause, members=len(self.versions))
        if member.stage is Stage.SEEDING and self.parameters is None:
            self.layout = None
            for port, hello in list(self._hopefuls.items())[:1]:
                del self._hopefuls[port]
                self._on_hello(now, port, hello)

    def _on_finish(self, now: float, member: Member, message: Finish) -> None:
        if member.stage not in (Stage.COMPUTING, Stage.DRAINING):
            raise RemoteProtocolError(f"expected no finish while {member.stage.value}, got one")
        self._expect_iteration(member, message.iteration)
        member.stage = Stage.DRAINING
        member.finish_wait = message.wait
        member.iteration = max(member.iteration, message.iteration)
        member.dirty = True
        member.owed.transfer = None
        self.finished.add(member.name)
        self._uncount(now, member)
        self._wake_drainers()

    def _drain(self, now: float, member: Member) -> Message | None:
        """Send a worker that has finished everything it is owed, then say goodbye."""
        owed = member.owed
        if owed.transfer is not None and not owed.transfer.finished(now):
            return None
        if member.dirty:
            member.dirty = False
            owed.send_everything(now, member.iteration)
            frame = owed.next_frame(now)
            if frame is not None:
                return frame
        others_compute = member.finish_wait and (len(self.versions) > 0 or not self._opened)
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

    def _wake_drainers(self) -> None:
        for member in self.members.values():
            if member.stage is Stage.DRAINING and member.port is not None:
                self._ready[member.port] = None

    # -- small things ------------------------------------------------------------------------------------------

    def early_sum(self) -> npt.NDArray[np.float32]:
        """The sum of the updates that came before the team was complete and wait until it is (for the books)."""
        assert self.layout is not None
        total = self.layout.zeros()
        for _, codec, message in self._early:
            codec.add(self.layout, message.payload, message.rows, total, 1.0)
        return total

    def status(self, now: float) -> list[MemberStatus]:
        """A line for each worker, for a progress display."""
        newest = max((member.iteration for member in self.members.values()), default=0)
        lines = []
        for member in self.members.values():
            waited_s = now - member.waiting_since if member.stage is Stage.WAITING else 0.0
            state = member.stage.value if member.port else f"link lost {now - member.lost_at:.0f} s ago"
            lines.append(
                MemberStatus(
                    member.name, state, member.iteration, newest - member.iteration, waited_s, dict(member.metrics)
                )
            )
        return sorted(lines, key=lambda line: line.name)

    def _new_outbox(self, layout: Layout) -> Outbox:
        source = self.parameters if self.parameters is not None else layout.zeros()
        return Outbox(layout, self._link_settings, layout.zeros(), source, state_settles=True)

    def _state_digest(self) -> bytes:
        if not self._digest and self.parameters is not None:
            self._digest = digest_of(self.parameters)
        return self._digest

    def _say(self, port: Port, message: Message) -> None:
        port.say(message)
        self._ready[port] = None
