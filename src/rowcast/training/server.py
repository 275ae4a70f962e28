"""The server: the conversation with each worker, from its hello to goodbye.

What a message leads to is the business of others: who may come in (:mod:`~rowcast.session.newcomers`), who counts and
may go on (:mod:`~rowcast.training.gate`), what is held and owed (:mod:`~rowcast.training.store`), pushes and pulls
(:mod:`~rowcast.training.rules.phased`) or rows all the time (:mod:`~rowcast.training.rules.streamed`), and how workers
go (:mod:`~rowcast.training.drain`).
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from rowcast.config import LinkSettings, ServerSettings
from rowcast.delivery.inbox import Inbox, replace_rows
from rowcast.errors import (
    AuthenticationFailed,
    LinkLost,
    ParametersConflict,
    RemoteProtocolError,
    RowcastError,
    StreamDamaged,
    VersionMismatch,
)
from rowcast.journal import Journal
from rowcast.rows import Layout
from rowcast.session.board import Board
from rowcast.session.figures import LONGEST_NAME, MOST_NAMES, keep
from rowcast.session.limits import StrangerLimits
from rowcast.session.link import Port
from rowcast.session.liveness import Progress
from rowcast.session.memory import Memory
from rowcast.session.newcomers import Newcomers
from rowcast.session.readable import readable
from rowcast.session.recurring import HERE, Recurring
from rowcast.session.seeding import Provenance, Seeding, Verdict
from rowcast.session.tables import table_parts
from rowcast.session.texts import shorten
from rowcast.sync import Policy, VersionTable
from rowcast.training.drain import Departures
from rowcast.training.gate import Gate
from rowcast.training.leader import Leader
from rowcast.training.ledger import Ledger
from rowcast.training.member import NOT_STARTED, Member, MemberStatus, Stage
from rowcast.training.rules.phased import PhasedRule
from rowcast.training.rules.slotted import Slots
from rowcast.training.rules.streamed import STREAMED, Streaming
from rowcast.training.store import Store
from rowcast.wire import (
    Ack,
    Ask,
    Computed,
    Farewell,
    Finish,
    Heartbeat,
    Hello,
    LayoutTable,
    Leave,
    Message,
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

#: The least that a row of the first parameters weighs: one element.
RAW_ROW_BYTES = 4

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
        members: every worker that was not told goodbye, by name.
        gate: whom the gate counts.
        slots: who may transfer; ``None`` where the policy lets everybody.
        frames_applied: row frames applied, by worker name, sessions added up.
        finished: names of the workers that have finished.
        has_secret: workers must prove that they know a secret.
        notices: sentences for the user, oldest first; the driver shows and removes them.
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
        self.members: dict[str, Member] = {}
        self.gate = Gate(policy, self.members, self.settings.expected_workers)
        self.slots = Slots(policy, self.journal) if policy.scheduled else None
        self.frames_applied: dict[str, int] = {}
        self.finished: set[str] = set()
        self.has_secret = secret is not None
        self._report_s = self.settings.silence_limit_s / 2  # a frame that takes longer is slow, and its sender waits
        self._entropy = entropy
        self._life = entropy(16)
        self._lobby = Newcomers(self._life, secret, entropy, StrangerLimits(self.settings))
        self._recurring = Recurring(self.journal)
        self.notices = self._recurring.notices
        self._seeding = Seeding(self._life, self.settings.gather_s)
        self._board = Board()
        links = link_settings or LinkSettings()
        self._store = Store(policy, self.gate, self.members, links, self._board, self.journal)
        self._phases = PhasedRule(policy, self.gate, self.slots, self.members, self._store, self._board, self.journal)
        self._departures = Departures(self.members, self.gate, self._store, self._phases, self._board, self.journal)
        self._leader = Leader(self.members, self._board)
        self._by_port: dict[Port, Member] = {}
        self._woken_at = -math.inf
        self._left_at = 0.0  # when a worker was there last (s)
        self._memory = Memory()

    @property
    def layout(self) -> Layout | None:
        """The model's rows; ``None`` before the first worker came."""
        return self._store.layout

    @property
    def ledger(self) -> Ledger | None:
        """The parameters and what is owed; ``None`` before the first worker sent the parameters."""
        return self._store.ledger

    @property
    def streaming(self) -> Streaming | None:
        """Horizons of the workers; ``None`` where rows travel in pushes and pulls."""
        return self._store.streaming

    @property
    def surplus(self) -> npt.NDArray[np.float64] | None:
        """What factors on rows have added to each row beyond what was sent, float64 [rows]; ``None``: nothing."""
        weights = self._store.row_weights
        return None if weights is None else weights.surplus

    @property
    def parameters(self) -> npt.NDArray[np.float32] | None:
        """Flat float32, the team's model; ``None`` before the first worker sent it."""
        return None if self.ledger is None else self.ledger.parameters

    @property
    def versions(self) -> VersionTable:
        """The version table of the workers that the gate counts."""
        return self.gate.versions

    def received_from(self, name: str, life: bytes) -> int | None:
        """Number of the last frame applied of a worker's session, forgotten or not; ``None``: not known.

        Args:
            name: the worker.
            life: the life of the server that it knows.
        """
        remembered, member = self._memory.received_in(name, life), self.members.get(name)
        return member.inbox.received if remembered is None and member is not None else remembered

    @property
    def epoch(self) -> int:
        """Counts changes of membership."""
        return self.gate.epoch

    # -- the driver's side -------------------------------------------------------------------------------------

    def listen(self, now: float) -> None:
        """Workers can connect from now on. Those that trained before a restart may be on their way."""
        self._seeding.listen(now)

    def link_up(self, now: float, port: Port) -> None:
        """Somebody connected.

        Raises:
            LinkLost: there are too many strangers, or this address failed too often; close the connection.
        """
        if (refused := self._lobby.refuses(now, port)) is not None:
            self._recurring.tell(now, refused[0], port.peer, refused[1])
            raise LinkLost(refused[1])
        port.opened(now)
        self._board.say(port, self._lobby.enter(port))

    def link_down(self, now: float, port: Port, cause: str) -> None:
        """A connection ended."""
        if self._lobby.lost(now, port) and not port.closing:
            self._recurring.tell(now, "no hello", port.peer, f"no introduction before it ended: {cause}")
        self._board.forget(port)
        member = self._by_port.pop(port, None)
        if member is None or member.port is not port:
            return
        member.port = None
        member.lost_at = self._left_at = now
        member.owed.link_lost()
        self.journal.record(now, "link_down", peer=member.name, cause=shorten(cause))
        self._phases.link_lost(now, member)

    def heard(self, now: float, port: Port) -> None:
        """Bytes arrived, whole message or not: the link lives."""
        port.heard(now)

    def blame(self, now: float, port: Port, error: RowcastError) -> None:
        """What came on ``port`` was wrong: tell the peer why and close; everybody else goes on.

        A member stays one: it comes back and goes on where it was.
        """
        if port.closing:
            return
        member = self._by_port.get(port)
        peer = member.name if member else port.peer
        text = shorten(str(error))
        self._recurring.tell(now, type(error).__name__, peer, text, member=member is not None)
        code = "damaged" if isinstance(error, StreamDamaged) else "protocol"
        if isinstance(error, VersionMismatch):
            code = "version"
        port.control.clear()
        self._board.refuse(port, code, text)

    def receive(self, now: float, port: Port, message: Message) -> None:
        """Handle one message.

        Raises:
            RemoteProtocolError: it has no place in the conversation; :meth:`blame` the port.
            LinkLost: the worker left; close the connection.

        What comes on a connection that is being closed is left unread.
        """
        if port.closing:
            return
        message = readable(message)
        member = self._by_port.get(port)
        if member is None:
            if isinstance(message, Leave):
                port.closing = True  # it says goodbye before it has introduced itself: nothing to complain of
                raise LinkLost(message.cause)
            if isinstance(message, Heartbeat) and port in self._lobby.queue:
                return
            if not isinstance(message, Hello):
                raise RemoteProtocolError(f"expected a hello, got {type(message).__name__}")
            self._on_hello(now, port, message)
            return
        if (cause := self._overrun(now, port)) is not None:
            raise LinkLost(cause)
        member.recounted = False  # only who was welcomed says anything
        match message:
            case Rows():
                self._on_rows(now, member, message)
            case Ack():
                member.owed.acknowledged(now, message.number)
                if self.slots is not None:
                    self.slots.observe_pull(now, member)
                self._board.ready[port] = None  # wakes it without a call: this is for every frame
            case Ask():
                self._on_ask(now, member, message)
            case PushEnd():
                self._on_push_end(now, member, message)
            case Computed():
                self._on_computed(now, member, message)
            case Heartbeat():
                port.told(now, message.arrived)
                self._keep_metrics(now, member, message.metrics)
                if self.slots is not None and "rate_bps" in message.metrics:
                    self.slots.observe_push(now, member, message.metrics["rate_bps"])
            case LayoutTable():
                self._on_layout_table(now, member, message)
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
        streaming, ledger = self._store.streaming, self._store.ledger
        if streaming is not None and ledger is not None and member.stage in STREAMED:
            message = streaming.next_message(now, member, ledger)
        elif member.owed.idle and member.stage not in _SENDING:
            return None
        else:
            message = member.owed.next_frame(now) or self._after_rows(now, member)
        if message is not None:
            port.spoke_at = now
        return message

    def trouble(self, now: float, kind: str, text: str) -> None:
        """Something that the driver notices at this end, perhaps again and again: no descriptors, or a fault."""
        self._recurring.tell(now, kind, HERE, text)

    def stop(self, now: float) -> None:
        """The server stops: what was counted and not told is told."""
        self._recurring.on_timer(now, ending=True)

    def farewell(self, port: Port, cause: str) -> None:
        """The server stops: tell the peer, then close."""
        port.control.clear()
        self._board.say(port, Leave(shorten(cause)))
        port.closing = True

    def take_ready(self) -> list[Port]:
        """The ports on which something may be sent since the last call."""
        if (streaming := self._store.streaming) is not None:
            streaming.wake_readers()
        self._leader.tell(self._store.layout)
        return self._board.take() if self._board.ready else []

    def next_timer(self) -> float | None:
        """When :meth:`on_timer` must be called (s), or ``None``."""
        settings = self.settings
        times = [] if (told_at := self._recurring.due()) is None else [told_at]
        times += [port.opened_at + settings.handshake_limit_s for port in self._lobby.strangers()]
        times += [port.spoke_at + settings.heartbeat_s for port in self._lobby.ports()]
        check_at = None if self.streaming is None else self.streaming.check_at()
        times += [due for member in self.members.values() if (due := self._timer_of(member, check_at)) is not None]
        times += [due] if (due := self._fresh_at()) is not None else []
        if not self.gate.opened and (self._lobby.queue or self.members):
            times += [self._seeding.gathers_until] if self._seeding.gathers_until > self._woken_at else []
        return min(times, default=None)

    def next_timer_of(self, port: Port) -> float | None:
        """The same for one connection of a member, for a driver that keeps a timer for each: :meth:`on_timer_of`."""
        member = self._by_port.get(port)
        return None if member is None else self._timer_of(member)

    def _timer_of(self, member: Member, check_at: float | None = None) -> float | None:
        settings, port = self.settings, member.port
        if port is None:
            waited_for = self._departures.computes(member) or member.stage in NOT_STARTED
            return member.lost_at + settings.absence_limit_s if waited_for else None
        due = min(port.silent_at(settings.silence_limit_s), port.spoke_at + settings.heartbeat_s)
        if port.decoder.begun or member.owed.moved_at + settings.stuck_limit_s < due:  # else it is not stuck so soon
            due = min(due, port.heartbeat_due_at(settings.heartbeat_s, self._report_s))
            due = min(due, member.progress.due_at(port, member.owed, member.inbox.received))
        if (streaming := self._store.streaming) is not None and member.stage in STREAMED:
            due = min(due, streaming.wake_at(member, check_at))
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
        self._recurring.on_timer(now)
        self._woken_at = now
        if not self.gate.opened and now >= self._seeding.gathers_until:
            self._choose_seed(now)
            if self.ledger is not None:
                self._begin_if_complete(now)
        if (due := self._fresh_at()) is not None and now >= due:
            self._begin_anew(now, f"no worker was there for {settings.fresh_after_s:g} s (fresh_after_s)")
        dead = [
            (port, f"no hello within {settings.handshake_limit_s:g} s")
            for port in self._lobby.strangers()
            if now >= port.opened_at + settings.handshake_limit_s
        ]
        for port in self._lobby.ports():
            self._keep_alive(now, port)
        streamed = False
        for member in list(self.members.values()):
            if member.port is None:
                if now >= member.lost_at + settings.absence_limit_s:
                    if member.stage in NOT_STARTED:
                        self._drop(now, member, "went away before the start")
                    else:
                        self._departures.give_up(now, member)
            elif (cause := self._tick(now, member, member.port)) is not None:
                dead.append((member.port, cause))
            elif not streamed and self.streaming is not None and member.stage in STREAMED:
                streamed = True
                self._departures.let_go(now, self.streaming)
        self._forget_absent(now)
        return dead

    def on_timer_of(self, now: float, port: Port) -> str | None:
        """The same for one connection: why the driver must close it, or ``None``."""
        member = self._by_port.get(port)
        if member is None:
            return None
        cause = self._tick(now, member, port)
        if cause is None and self.streaming is not None and member.stage in STREAMED:
            self._departures.let_go(now, self.streaming)
        return cause

    def _tick(self, now: float, member: Member, port: Port) -> str | None:
        member.woken_at = now
        if (cause := self._overrun(now, port)) is not None:
            return cause
        if port.is_silent(now, self.settings.silence_limit_s, self.settings.heartbeat_s):
            reads = ", and reads nothing" if port.is_clogged else ""
            return f"silent for {self.settings.silence_limit_s:g} s{reads}"
        if (cause := member.progress.cut(now, port, member.owed, member.inbox.received)) is not None:
            return cause
        self._keep_alive(now, port)
        if member.stage in HELD and now >= member.next_notice:
            self._explain(now, member)
        if member.stage is Stage.PULLING:
            self._board.wake(port)
        if self.streaming is not None and member.stage in STREAMED:
            self._board.wake(port)
        return None

    def _keep_alive(self, now: float, port: Port) -> None:
        if now >= port.heartbeat_due_at(self.settings.heartbeat_s, self._report_s):
            port.spoke_at = port.reported_at = now
            self._board.say(port, Heartbeat(arrived=port.decoder.arrived))

    # -- joining -----------------------------------------------------------------------------------------------

    def _on_hello(self, now: float, port: Port, hello: Hello) -> None:
        try:
            self._lobby.check(port, hello)
        except AuthenticationFailed as error:
            self._refuse(now, port, port.peer, "secret", str(error))
            return
        if (proof := self._lobby.prove(port, hello)) is not None:
            self._board.say(port, proof)
        self._lobby.check_form(hello)
        member = self.members.get(hello.name)
        # A worker that knows no server at all lost its welcome with the link.
        if member is not None and member.session == hello.session and hello.server in (member.life, b""):
            self._resume(now, port, hello, member)
            return
        if member is not None and member.port is not None and member.session != hello.session:
            self._refuse(
                now, port, hello.name, "name", f"a worker named {hello.name!r} is connected; choose another --name"
            )
            return
        verdict = self._judge(now, port, hello)
        if verdict is not None and member is not None:
            # Another life of this worker, or the same one that comes from another server. Who is refused drops nobody.
            self._hang_up(now, member)
            self._drop(now, member, "started afresh")
            verdict = self._judge(now, port, hello)  # it may have been the one that brought the parameters
        if verdict is None:
            return
        if verdict is Verdict.WAIT:
            self._lobby.queue[port] = hello
            left_s = self._seeding.gathers_until - now
            reason = f"workers that trained before the server was started, for {left_s:.1f} s at most (gather_s)"
            self._board.say(port, Waiting(0, reason))
            if self._lobby.trained() >= self.gate.expected:
                self._seeding.complete()
                self._choose_seed(now)
        elif verdict is Verdict.SEED:
            if self._seeding.provenance is not None:
                self._begin_anew(now, f"{hello.name} brings other parameters")
            self._admit(now, port, hello)
        elif self.ledger is None:
            self._lobby.queue[port] = hello
            self._board.say(port, Waiting(0, "the first worker, which is sending the parameters"))
        else:
            self._admit(now, port, hello)

    def _judge(self, now: float, port: Port, hello: Hello) -> Verdict | None:
        """Whether a worker brings the parameters, takes the team's, or waits until that is decided.

        Returns:
            What becomes of it; ``None``: it was refused.
        """
        others = any(
            member.port is not None or member.gated for name, member in self.members.items() if name != hello.name
        )
        try:
            verdict = self._seeding.judge(now, hello, begun=self.gate.opened, others=others)
        except ParametersConflict as error:
            self._refuse(now, port, hello.name, "parameters", str(error))
            return None
        if verdict is Verdict.JOIN and self.layout is not None and hello.layout != self.layout.digest:
            for part in table_parts(self.layout.to_table()):
                self._board.say(port, part)
            self._refuse(now, port, hello.name, "layout", "its model has another layout than the team's")
            return None
        return verdict

    def _choose_seed(self, now: float) -> None:
        """Who may have been on the way has come, or will not: one of those who wait brings the parameters."""
        if self._seeding.provenance is None and (first := self._lobby.next_in_queue()) is not None:
            self._on_hello(now, *first)

    def _fresh_at(self) -> float | None:
        """When the model is forgotten because nobody is there (s), or ``None``."""
        fresh_after_s = self.settings.fresh_after_s
        if fresh_after_s is None or self.ledger is None:
            return None
        there = self._lobby.queue or any(member.port is not None for member in self.members.values())
        return None if there else self._left_at + fresh_after_s

    def _begin_anew(self, now: float, cause: str) -> None:
        """Forget the parameters and everybody: who comes next may bring others."""
        self.notices.append(f"the team begins anew: {cause}")
        for member in list(self.members.values()):
            if (port := member.port) is not None:
                self._by_port.pop(port, None)
                self._board.say(port, Leave(cause))
                port.closing = True
                member.port = None
            self._departures.drop(now, member, cause)
        self._store.forget()
        self._seeding.forget()
        self.gate.reset()

    def _refuse(self, now: float, port: Port, peer: str, code: str, text: str) -> None:
        text = shorten(text)
        port.introduced = code != "secret"
        self._recurring.tell(now, f"refused: {code}", peer, text)
        self._board.refuse(port, code, text)

    def _admit(self, now: float, port: Port, hello: Hello) -> None:
        """A worker (or a new life of one) that this server does not know yet."""
        if self.ledger is None:
            how, stage = "seed", Stage.SEEDING
            self._seeding.chosen(hello)
        elif self._store.suffices(hello.state):
            how, stage = "equal", Stage.RECEIVING
        else:
            how, stage = "receive", Stage.RECEIVING
        layout = self.layout or Layout.from_shapes([("unknown", (1,))])
        member = Member(
            hello.name,
            hello.session,
            self._store.outbox_for(hello.name, layout),
            Inbox(layout),
            stage,
            port=port,
            progress=Progress(self.settings.stuck_limit_s, self.settings.heartbeat_s),
        )
        member.iteration = self._provenance.iteration  # until the gate says where it begins
        self.members[hello.name] = member
        self._forget_absent(now)
        if self.ledger is not None:
            self.ledger.admit(member)
        self.finished.discard(hello.name)
        if how == "receive":
            member.owed.send_state()
        received = self._memory.received(hello)
        member.life = self._life if received is None else self._entropy(16)
        self._connect(now, port, member, hello, how, received=received or 0)

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
            self._phases.link_lost(now, member)

    def _connect(
        self,
        now: float,
        port: Port,
        member: Member,
        hello: Hello,
        how: str,
        iteration: int | None = None,
        received: int = 0,
    ) -> None:
        self._lobby.leave(port)
        member.seed.connect()
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
                server=member.life,
                policy=self.policy.name,
                epoch=self.epoch,
                members=max(len(self.versions), 1),
                iteration=member.iteration if iteration is None else iteration,
                received=member.inbox.received or received,
                state=self._store.digest,
                training=self._provenance.training,
                origin=self._provenance.worker,
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

    def _on_layout_table(self, now: float, member: Member, message: LayoutTable) -> None:
        port = member.port
        if member.stage is not Stage.SEEDING or port is None:
            raise RemoteProtocolError("expected a layout from the first worker only")
        outline = member.seed.read(message)
        if outline is None:
            return
        limit_bytes = self.settings.model_limit_bytes
        if outline.cost_bytes > limit_bytes:
            text = (
                f"its model needs {outline.cost_bytes} bytes ({outline.elements} parameters, {outline.rows} rows), and "
                f"this server takes {limit_bytes}; raise model_limit_bytes in the server's settings"
            )
            self._refuse(now, port, member.name, "model", text)
            self._drop(now, member, "its model is too large")
            return
        port.decoder.rows = outline.rows
        if self.layout is None:
            port.decoder.row_bytes = RAW_ROW_BYTES  # what is kept must weigh something
            self._lay_out(member)

    def _lay_out(self, member: Member) -> None:
        """Set memory aside for the model of the first worker, once it has sent enough of it; apply what was kept."""
        seed = member.seed
        if not seed.ripe or seed.outline is None or member.port is None:
            return
        layout = Layout.from_outline(seed.outline)
        member.owed = self._store.begin(member.name, layout)
        member.owed.link_ready()
        member.inbox = Inbox(layout)
        member.port.decoder.row_bytes = 0
        frames, seed.frames = seed.frames, []
        for frame in frames:
            if (codec := member.inbox.accept(frame)) is not None:
                replace_rows(layout, codec, frame, member.owed.source)

    @property
    def _provenance(self) -> Provenance:
        provenance = self._seeding.provenance
        assert provenance is not None  # somebody was let in
        return provenance

    def _on_state_end(self, now: float, member: Member) -> None:
        if member.stage is not Stage.SEEDING:
            return
        if self.layout is None or not member.seed.whole:
            raise RemoteProtocolError("expected a layout and all parameters before their end, got the end")
        self._store.complete(self.layout, member.owed.source).admit(member)
        origin = self._provenance
        past = f"trained for {origin.iteration} iterations" if origin.trained else "not trained in a team yet"
        self.notices.append(f"the team's parameters are those of {origin.worker}, {past}")
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
        self._begin_if_complete(now)

    def _begin_if_complete(self, now: float) -> None:
        """Those who are ready begin: the team is complete, or was once and nobody else may be on the way."""
        ready = [other for other in self.members.values() if other.stage is Stage.READY]
        resumes = bool(ready) and self._seeding.resumed and now >= self._seeding.gathers_until
        self.gate.opened = self.gate.opened or resumes or len(ready) >= self.gate.expected
        if not self.gate.opened:
            return
        for other in ready:
            self._count(now, other)
            other.owed.renumber(other.iteration)
            other.stage = Stage.COMPUTING
        for other in ready:
            if other.port is not None:
                self._board.say(other.port, Start(other.iteration, len(self.versions), self.epoch))
        self._phases.open_gate(now)

    def _count(self, now: float, member: Member) -> None:
        """Let the gate count a worker from now on."""
        self.gate.admit(member)
        if self.streaming is not None:
            self.streaming.admit(now, member)
        if self.ledger is not None:
            self.ledger.keep_back(member, self.members.values())

    # -- pushes and iterations ---------------------------------------------------------------------------------

    def _on_rows(self, now: float, member: Member, message: Rows) -> None:
        layout, ledger, streaming = self._store.layout, self._store.ledger, self._store.streaming
        if layout is None:
            self._on_early_rows(member, message)
            return
        if not message.absolute:
            self._expect_iteration(member, message.iteration)
        codec = member.inbox.accept(message)
        assert member.port is not None
        if codec is not None:
            self.frames_applied[member.name] = self.frames_applied.get(member.name, 0) + 1
            if message.absolute:
                if member.stage is not Stage.SEEDING:
                    raise RemoteProtocolError("expected parameters from the first worker only, and only once")
                member.seed.count(message)
                replace_rows(layout, codec, message, member.owed.source)
            else:
                if ledger is None or not self.gate.opened:
                    raise RemoteProtocolError("expected no update before the start, got one")
                if message.iteration > member.begun_iteration:
                    member.pushing_since = now
                ledger.begin(member, message.iteration)
                if streaming is not None:
                    streaming.arrived(now, member, message)
                owing = self.members if streaming is None else streaming.owing
                ledger.add(*self._store.weigh(member, codec, message), owing.values())
                empty = len(message.payload) == 0
                member.push_rows += 0 if empty else len(message.rows)
                member.push_zero_rows += len(message.rows) if empty else 0
                member.push_bytes += frame_bytes(message)
                if streaming is None:
                    self._phases.arrived(now, member, message)
                self._departures.wake_draining()
        self._board.say(member.port, Ack(member.inbox.received))

    def _on_early_rows(self, member: Member, message: Rows) -> None:
        """Rows of the first parameters, before the model is laid out."""
        if member.stage is not Stage.SEEDING or member.port is None:
            raise RemoteProtocolError("expected the layout first, got rows")
        seed, before = member.seed, member.seed.rows
        seed.keep(message)
        member.inbox.received = len(seed.frames)
        if seed.rows > before:
            self.frames_applied[member.name] = self.frames_applied.get(member.name, 0) + 1
        self._board.say(member.port, Ack(member.inbox.received))
        self._lay_out(member)

    def _expect_iteration(self, member: Member, iteration: int) -> None:
        """A worker pushes the iteration after its last one, or that one again after a cut."""
        streaming = self._store.streaming
        if streaming is not None and (member.stage in STREAMED or member.stage is Stage.DRAINING):
            streaming.expect(member, iteration)
            return
        if not member.iteration <= iteration <= member.iteration + 1:
            raise RemoteProtocolError(
                f"expected iteration {member.iteration} or {member.iteration + 1} of {member.name}, got {iteration}"
            )

    def _on_ask(self, now: float, member: Member, message: Ask) -> None:
        if self.slots is None or member.stage is not Stage.COMPUTING:
            raise RemoteProtocolError(f"expected no request for a slot while {member.stage.value}, got one")
        self._expect_iteration(member, message.iteration)
        if message.weight <= 0:
            raise RemoteProtocolError(f"expected a weight above 0 with a request for a slot, got {message.weight}")
        self._phases.asked(now, member, message)

    def _on_push_end(self, now: float, member: Member, message: PushEnd) -> None:
        if member.stage is not Stage.COMPUTING or self.streaming is not None:
            raise RemoteProtocolError(f"expected no end of a push while {member.stage.value}, got one")
        self._expect_iteration(member, message.iteration)
        if self.slots is not None and not self.slots.pushes(member):
            raise RemoteProtocolError("expected a request for a slot before a push, got the end of one")
        member.metrics["rate_bps"] = message.rate_bps
        member.next_notice = now + self.settings.patience_s
        self._phases.pushed(now, member, message)

    def _on_computed(self, now: float, member: Member, message: Computed) -> None:
        streaming = self.streaming
        if streaming is not None and member.stage is Stage.DRAINING:
            return  # said again after a cut
        if streaming is None or member.stage not in STREAMED:
            raise RemoteProtocolError(f"expected no finished iteration while {member.stage.value}, got one")
        streaming.computed(now, member, message)
        member.metrics["rate_bps"] = message.rate_bps
        member.next_notice = now + self.settings.patience_s
        self.journal.record(
            now, "push", peer=member.name, iteration=message.iteration, **member.take_push(), quota_s=None
        )
        streaming.tune(now)
        assert member.port is not None
        self._board.wake(member.port)
        if streaming.is_beyond(member):
            self._departures.leave_gate(now, member, streaming)
        self._departures.let_go(now, streaming)

    # -- what workers are sent ---------------------------------------------------------------------------------

    def _after_rows(self, now: float, member: Member) -> Message | None:
        """What follows the last row frame to a worker."""
        owed, transfer = member.owed, member.owed.transfer
        if member.stage is Stage.RECEIVING and owed.settled and not owed.state_due.any():
            self._is_ready(now, member)
            return member.port.next_control(now) if member.port is not None else None
        if member.stage is Stage.PULLING and transfer is not None and transfer.finished(now):
            return self._phases.pulled(now, member, transfer)
        if member.stage is Stage.DRAINING:
            return self._drain(now, member)
        return None

    def _drain(self, now: float, member: Member) -> Message | None:
        """The next message to a worker that has finished, up to goodbye."""
        message = self._departures.next_message(now, member)
        if isinstance(message, Farewell) and (port := member.port) is not None:
            self._drop(now, member, "finished")
            port.closing = True
        return message

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

    # -- departures --------------------------------------------------------------------------------------------

    def _drop(self, now: float, member: Member, cause: str) -> None:
        """Forget a worker; if it was the first one and had not sent all parameters, the next one does."""
        self._left_at = now
        if member.port is not None:
            self._by_port.pop(member.port, None)
        self._departures.drop(now, member, cause)
        if member.stage is Stage.SEEDING and self.ledger is None:
            self._store.forget()
            self._seeding.forget()
            self._choose_seed(now)

    def _on_finish(self, now: float, member: Member, message: Finish) -> None:
        between_steps = STREAMED if self.streaming is not None else (Stage.COMPUTING,)
        if member.stage not in between_steps and member.stage is not Stage.DRAINING:
            raise RemoteProtocolError(f"expected no finish while {member.stage.value}, got one")
        self._expect_iteration(member, message.iteration)
        self.finished.add(member.name)
        self._departures.finish(now, member, message)

    def _forget_absent(self, now: float) -> None:
        """Of the workers that have been away for long, keep as many as the settings say."""
        for member in self._departures.too_long_away(now, self.settings.absence_limit_s, self.settings.absent_workers):
            self._memory.remember(member.name, member.session, member.life, member.inbox.received)
            limit = f"more than {self.settings.absent_workers} workers are absent (absent_workers)"
            self._drop(now, member, f"forgotten after {now - member.lost_at:.0f} s without a link: {limit}")
            self._note_dropped(
                now, member.name, "what it was owed; it will join anew and receive the parameters", limit
            )

    def _keep_metrics(self, now: float, member: Member, metrics: dict[str, float]) -> None:
        left_out = keep(member.metrics, metrics)
        if left_out and not member.metrics_left_out:
            member.metrics_left_out = True
            why = f"expected at most {MOST_NAMES} names of {LONGEST_NAME} characters; report fewer"
            self._note_dropped(
                now, member.name, f"figures under further names: {left_out[0][:LONGEST_NAME]!r} ...", why
            )

    def _overrun(self, now: float, port: Port) -> str | None:
        """Why ``port`` must be closed, if its worker reads nothing of what it is told."""
        cause = port.reads_nothing()
        if cause is not None:
            member = self._by_port.get(port)
            self._note_dropped(now, member.name if member else port.peer, "its connection", cause)
            port.control.clear()
            port.closing = True
        return cause

    def _note_dropped(self, now: float, peer: str, what: str, why: str) -> None:
        """Something was dropped so that memory stays bounded: into the journal, and to the user."""
        self.journal.record(now, "dropped", peer=peer, what=what, why=why)
        self.notices.append(f"{peer}: dropped {what}: {why}")

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
