"""The worker: proposes updates, pushes rows of them, waits at the gate, applies what it pulls.

Here is its conversation with the server, and the phase that it is in. What a message leads to is mostly the business of
others: its place in the team (:mod:`~rowcast.session.client`), what it adds
(:mod:`~rowcast.training.proposal.contribution`), its parameters (:mod:`~rowcast.training.proposal.replica`), and rows
all the time instead of pushes and pulls (:mod:`~rowcast.training.rules.upstream`).
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from rowcast.config import LinkSettings, WorkerSettings
from rowcast.delivery.inbox import Inbox
from rowcast.delivery.outbox import Outbox
from rowcast.delivery.residual import Residual
from rowcast.delivery.snapshot import Snapshot
from rowcast.delivery.transfer import Request
from rowcast.delivery.window import Window
from rowcast.errors import (
    AuthenticationFailed,
    ConfigError,
    LayoutMismatch,
    LinkLost,
    LocalProtocolError,
    ParametersConflict,
    RemoteProtocolError,
    RowcastError,
    StreamDamaged,
    VersionMismatch,
)
from rowcast.journal import Journal
from rowcast.rows import Layout
from rowcast.rows.outline import Outline
from rowcast.session.client import Client
from rowcast.session.doubt import Doubt, said
from rowcast.session.figures import LONGEST_NAME, MOST_REPORTED, keep
from rowcast.session.link import Port
from rowcast.session.liveness import Progress, Streak
from rowcast.session.readable import readable
from rowcast.session.reconnect import Reconnect
from rowcast.session.tables import TableParts, table_parts
from rowcast.session.texts import shorten
from rowcast.sync import Policy, Punctuality, parse_policy
from rowcast.training.patience import limit_of, out_of_time, waits_for
from rowcast.training.phase import EXCHANGING, Phase
from rowcast.training.proposal.contribution import Contribution
from rowcast.training.proposal.replica import Replica, first_nonfinite
from rowcast.training.proposal.row_ages import RowAges
from rowcast.training.rules.upstream import WorkerStream
from rowcast.training.steps import Step
from rowcast.wire import (
    Ack,
    Ask,
    Cancel,
    Challenge,
    Computed,
    Farewell,
    Finish,
    Go,
    Grant,
    Heartbeat,
    Hello,
    Horizon,
    LayoutTable,
    Lead,
    Leave,
    Message,
    Proof,
    PullEnd,
    PushEnd,
    Refusal,
    Rows,
    Start,
    StateEnd,
    Waiting,
    Welcome,
)
from rowcast.wire.frames import message_bytes

__all__ = ["Phase", "WorkerNode"]


#: Refusals with which a worker need not come back; they have their place in the handshake only.
_FINAL = ("version", "secret")

#: A table of the server's is read up to twice the length of our own and so much more: by then one of the two differs.
TABLE_ROOM_BYTES = 1 << 16

#: What a server may say before it has let the worker in.
_BEFORE_WELCOME = (Challenge, Welcome, LayoutTable, Refusal, Waiting, Heartbeat, Leave)


class WorkerNode:
    """One worker.

    Args:
        name: stable name, unique in the team.
        layout: the model's rows.
        replica: flat float32 parameters; taken over and changed in place. The training loop copies them from
            here; nothing else moves them.
        settings, link_settings: see :mod:`rowcast.config`.
        secret: the team's shared secret, or ``None``.
        parameters: ``"mine"``: the replica is to become the team's; ``"team"``: the team's replace it in any case;
            empty: whoever comes first brings them, and training is not overwritten (:mod:`~rowcast.session.seeding`).
        journal: where events are recorded.
        entropy: source of random bytes (replaced in tests).

    Attributes:
        pending: flat float32, what was computed and not delivered.
        computed: float64 [rows], the signed sum of everything ever added to each row (the audit).
        phase: what the worker is doing.
        iteration: iterations finished.
        members: among how many workers the update of an iteration is shared.
        leads: it is the first worker: what it makes of the buffers is the team's. Only where their rule is "first".
        failure: why the worker cannot go on, or ``None``.
        welcomed_at: when the server last let this worker in (s), or ``None``.
        turned_away: why the server did not let this worker in although it may later, or empty.
        awaited: for what a server that has not let this worker in makes it wait, or empty.
        search: attempts to connect to the server.
        notices: sentences for the user, oldest first; the driver shows and removes them.
    """

    def __init__(
        self,
        name: str,
        layout: Layout,
        replica: npt.NDArray[np.float32],
        *,
        settings: WorkerSettings | None = None,
        link_settings: LinkSettings | None = None,
        secret: bytes | None = None,
        parameters: str = "",
        journal: Journal | None = None,
        entropy: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self.name = name
        self.layout = layout
        self.replica = replica
        self.pending = layout.zeros()
        self._replica = Replica(layout, replica)
        self.computed = self._replica.computed
        self.settings = settings or WorkerSettings()
        self.journal = journal or Journal(name)
        self.phase = Phase.JOINING
        self.iteration = 0
        self.members = 1
        self.leads = False
        self.policy: Policy | None = None
        self.failure: RowcastError | None = None
        self.turned_away = ""
        self.awaited = ""
        self._lost_at: float | None = None
        self.notices: list[str] = []
        self.welcomed_at: float | None = None
        self.metrics: dict[str, float] = {}
        self._metrics_left_out = False
        self.residual = Residual(layout, self.pending)
        window = Window(link_settings or LinkSettings())
        self.outbox = Outbox(self.residual, window, Snapshot(layout, replica, settles=False))
        self.inbox = Inbox(layout)
        self._membership = Client(
            name, self.outbox, self.inbox, secret=secret, wish=parameters, journal=self.journal, entropy=entropy
        )
        self._port: Port | None = None
        self._doubt = Doubt(name, self.settings.patience_s, self.notices)
        self._table: TableParts | None = None
        self._step = Step(0.0)
        self._done: Step | None = None
        self._mta_time_s: float | None = None
        self._finish_wait = True
        self._finish_said = False
        self._freshness = RowAges(layout.rows)
        self._contribution = Contribution(self._replica, self.residual, self._freshness)
        self._acknowledgements = Punctuality(0.0)
        self._upstream = WorkerStream(self.outbox, self._freshness, self._acknowledgements)
        self._progress = Progress(self.settings.stuck_limit_s, self.settings.heartbeat_s)
        self._refusals = Streak()
        self.search = Reconnect(self.settings.reconnect_first_s, self.settings.reconnect_cap_s, entropy)
        self._introduced = False
        self._heartbeat_due = 0.0
        self._woken_at = 0.0

    # -- the training loop's side ------------------------------------------------------------------------------

    def hold(self) -> None:
        """Arriving rows wait until :meth:`release`, so that the replica does not move."""
        self._replica.hold()

    def release(self) -> None:
        """Apply the rows that arrived since :meth:`hold`."""
        self._replica.release()

    @property
    def anticipated(self) -> tuple[npt.NDArray[np.float32], float] | None:
        """How far beyond the replica the next gradient is computed: a vector, and how often to subtract it.

        What is pending, float32 [elements]; once, or as often as the team has such a share (the inverse of the
        averaging weight), never less than once. ``None`` where the policy has gradients computed from the replica,
        and when the work is done.
        """
        if self.policy is None or self.policy.anticipate == "off" or self.phase is Phase.DONE:
            return None
        return self.pending, 1.0 if self.policy.anticipate == "own" else max(1.0, 1.0 / self._contribution.weight)

    @property
    def joined(self) -> bool:
        """The server knows this worker, and its parameters are the team's."""
        return self._membership.joined

    @property
    def connected(self) -> bool:
        """A connection to the server stands."""
        return self._port is not None

    def waits_for(self, now: float) -> str | None:
        """What a long wait of the training loop is for, for people; ``None``: the server says it."""
        return waits_for(self, now)

    @property
    def exchanging(self) -> bool:
        """An iteration is finished here, and its exchange with the team is not."""
        return self.phase in EXCHANGING

    @property
    def proven(self) -> bool:
        """The server has proved that it knows the secret, on the connection that stands, or there is no secret."""
        return self._membership.proven

    @property
    def unproven(self) -> str:
        """What was wrong with the newest server that did not prove that it knows the secret; empty once one did."""
        return self._doubt.cause

    @property
    def server_life(self) -> bytes:
        """The life of the server that let this worker in last; empty before one did."""
        return self._membership.server

    @property
    def local_steps(self) -> int:
        """Optimizer steps for each iteration, from the server's policy; 1 before the server has told it."""
        return 1 if self.policy is None else self.policy.local_steps

    def accumulate(self, sources: Sequence[npt.NDArray[np.float32]], weight: float) -> npt.NDArray[np.float32]:
        """Add ``weight * (replica - sources)`` to pending; no iteration is finished by it.

        The policy's outer learning rate and momentum come in here. See
        :meth:`rowcast.training.proposal.replica.Replica.propose` for shapes and errors.

        Returns:
            What each row counted, float32 [rows]: less than ``weight`` where the policy lets contributions fade that
            were computed from old parameters.
        """
        return self._contribution.add(self.policy, self.iteration, sources, weight)

    def accumulate_rows(self, amounts: npt.NDArray[np.float32]) -> None:
        """Add an amount to each row of a hollow layout: an update of which only the sizes matter.

        Args:
            amounts: importance of what was computed, float32 [rows], >= 0; a row with 0 has nothing to send.

        Raises:
            LocalProtocolError: the layout has content.
        """
        self._contribution.add_rows(amounts, 1 / self.members)

    def exchange(self, now: float) -> None:
        """Finish the iteration: push, then wait at the gate, then pull. :attr:`phase` is COMPUTING when done.

        Where the policy gives slots, both push and pull wait for one.

        An iteration in which nothing was accumulated counts as well: nobody waits for it.

        Raises:
            LocalProtocolError: an exchange is under way, or the worker has not joined.
        """
        if self.phase is not Phase.COMPUTING:
            raise LocalProtocolError(f"exchange: expected a worker that computes, it is {self.phase.value}")
        self.iteration += 1
        self._step.proposed = now
        self._step.skipped = not self._contribution.end(self.policy, self.iteration)
        if self._streams:
            self._stream(now, self._step)
            self._pass_gate(now)
        else:
            self._request_push(now)

    def finish(self, now: float, *, wait: bool = True) -> None:
        """Deliver everything, receive everything, say goodbye. :attr:`phase` is DONE when done.

        Args:
            now: time (s).
            wait: stay until the others have finished too, so that all end with the same parameters.
        """
        if self.phase is not Phase.COMPUTING:
            raise LocalProtocolError(f"finish: expected a worker between two steps, it is {self.phase.value}")
        self.phase = Phase.FINISHING
        self.search.again_from(now)  # it looks for the server anew, however long that was gone before
        self._finish_wait = wait
        self._begin_drain(now)

    def leave(self, now: float, cause: str) -> None:
        """Go at once; what is pending is not delivered."""
        if self._port is not None:
            self._port.say(Leave(shorten(cause)))
            self._port.closing = True
        self.phase = Phase.DONE
        self.journal.record(now, "end", cause=cause)

    def report(self, now: float, metrics: dict[str, float]) -> None:
        """Tell the journal and the server's display a few numbers."""
        plain = {name: float(value) for name, value in metrics.items()}
        left_out = keep(self.metrics, plain, MOST_REPORTED)
        if left_out and not self._metrics_left_out:
            self._metrics_left_out = True
            what = f"figures under further names: {left_out[0][:LONGEST_NAME]!r} ..."
            why = f"expected at most {MOST_REPORTED} names of {LONGEST_NAME} characters; the journal has all of them"
            self.journal.record(now, "dropped", peer=self.name, what=what, why=why)
            self.notices.append(f"{self.name}: the server's display is not told {what}: {why}")
        for name, value in plain.items():
            self.journal.record(now, "metric", iteration=self.iteration, name=name, value=value)

    # -- the driver's side -------------------------------------------------------------------------------------

    @property
    def connect_at(self) -> float | None:
        """When the driver is to try to connect (s): at once if that is over; ``None``: it is not to.

        It says so with :meth:`connecting`, and what came of it with :meth:`link_up` or :meth:`connect_failed`.
        """
        over = self._port is not None or self.phase is Phase.DONE or self.failure is not None
        return None if over else self.search.connect_at

    def connecting(self, now: float, address: str) -> None:
        """The driver tries to connect to the server at ``address`` (for people)."""
        self.search.trying(now, address)

    def connect_failed(self, now: float, cause: str) -> None:
        """The attempt came to nothing; ``cause`` says why, for people."""
        if not self.search.failed(now, cause, limit_of(self)):
            self._fail(out_of_time(self))

    def link_up(self, now: float, port: Port) -> None:
        """A connection to the server stands."""
        self._port = port
        self.search.connected(now)
        self._membership.connect()
        self._introduced = False
        self._table = TableParts(2 * len(self.layout.to_table()) + TABLE_ROOM_BYTES)
        port.decoder.trusted = self.proven
        port.opened(now)
        self.journal.record(
            now, "link_up", peer=port.peer, congestion_control=port.congestion_control, shaped_by=port.shaped_by
        )

    def link_down(self, now: float, cause: str) -> None:
        """The connection ended."""
        if self._port is None:
            return
        cause = shorten(cause)
        self.journal.record(now, "link_down", peer=self._port.peer, cause=cause)
        self._port = None
        self.awaited = ""
        was_in = self._membership.welcomed
        self._membership.disconnect()
        self.outbox.link_lost()
        if was_in:
            self.search.welcomed(now, self.setbacks)
        if self.phase is not Phase.DONE and self.failure is None:
            self.connect_failed(now, cause)
        if self._streams and self.phase is Phase.WAITING:
            self._pass_gate(now)
        if self.phase is not Phase.DONE and self.joined and was_in and self._lost_at is None:
            self._lost_at = now
            self.notices.append(f"{self.name}: link to the server lost ({cause}); reconnecting")

    def heard(self, now: float) -> None:
        """Bytes arrived, whole message or not: the link lives."""
        if self._port is not None:
            self._port.heard(now)

    def blame(self, now: float, error: RemoteProtocolError) -> str:
        """What the server sent was wrong: close the connection. Damage on the way is a cut link, nothing more.

        Returns:
            Why the connection is closed.
        """
        text = shorten(str(error))
        self.journal.record(now, "error", peer="server", error=type(error).__name__, message=text)
        if not self.proven and not isinstance(error, StreamDamaged):
            return str(self.doubt(now, text))
        if isinstance(error, VersionMismatch) and not self._membership.welcomed:
            self._fail(error)
        elif not isinstance(error, StreamDamaged):
            self._count_refusal(error)
        return text

    @property
    def setbacks(self) -> int:
        """How often in a row one end found the other's messages wrong, with nothing delivered in between."""
        return self._refusals.length(self._delivered)

    @property
    def _delivered(self) -> tuple[int, int]:
        """Another value whenever rows were delivered, in either direction."""
        return self.outbox.delivered, self.inbox.received

    def _count_refusal(self, error: RemoteProtocolError) -> None:
        """One end found the other's messages wrong: try again, but not for ever.

        What was not let in goes on trying anyway, for as long as it does while nobody answers.
        """
        if self._membership.welcomed and self._refusals.add(self._delivered) > self.settings.refusals_limit:
            self._fail(error)

    def receive(self, now: float, message: Message) -> None:
        """Handle one message.

        Raises:
            RemoteProtocolError: it has no place in the conversation; close the connection.
            LinkLost: the server said goodbye, or did not prove that it knows the secret; close the connection.
        """
        if self._port is not None and not self.proven:
            self._hear_stranger(now, self._port, message)
            return
        stranger = not self._membership.welcomed and not isinstance(message, _BEFORE_WELCOME)
        if stranger or self._port is None:
            raise RemoteProtocolError(f"expected the server's part of the handshake, got {type(message).__name__}")
        message = readable(message)
        match message:
            case Rows():
                self._on_rows(now, message)
            case Ack():
                self.outbox.acknowledged(now, message.number)
                self._acknowledgements.advanced(now)
            case Heartbeat():
                self._port.told(now, message.arrived)
            case Grant():
                self._on_grant(now, message)
            case Go():
                self._on_go(now, message)
            case Horizon():
                self._on_horizon(now, message)
            case PullEnd():
                self._on_pull_end(now, message)
            case Cancel():
                self._on_cancel(message)
            case Waiting() if not self._membership.welcomed:
                self.awaited = message.reason
            case Waiting():
                self.notices.append(f"{self.name}: waiting for {message.reason}")
            case Challenge():
                self._on_challenge(now, message)
            case Welcome():
                self._on_welcome(now, message)
            case Start():
                self._on_start(now, message)
            case Lead():
                self.leads = message.leads
            case LayoutTable():
                self._on_layout_table(message)
            case Refusal():
                self._on_refusal(now, message)
            case Farewell():
                self._on_farewell(now, message)
            case Leave():
                raise LinkLost(f"the server said goodbye: {message.cause}")
            case _:
                raise RemoteProtocolError(f"expected a server's message, got {type(message).__name__}")

    def poll(self, now: float) -> Message | None:
        """The next message to send, or ``None``. Control overtakes rows."""
        port = self._port
        if port is None:
            return None
        message = port.next_control(now) if port.control else None
        if message is not None or port.closing or not self._membership.welcomed:
            return message
        if self.outbox.idle and not self._membership.seeding:
            return None
        message = self._next_in_order(now)
        if message is not None:
            port.spoke_at = now
        return message

    def _next_in_order(self, now: float) -> Message | None:
        """Rows, and the messages whose place is before or behind rows."""
        if self._membership.seeding and not self.outbox.snapshot.left:
            self._membership.seeding = False
            return StateEnd()
        if not (self._membership.joined or self._membership.seeding):
            return None
        frame = self.outbox.next_frame(now)
        if (
            frame is None
            and self.policy is not None
            and self.phase is not Phase.FINISHING
            and self._upstream.refine(now, self.policy, self.iteration)
        ):
            frame = self.outbox.next_frame(now)
        return frame or self._after_rows(now)

    def next_wake(self) -> float | None:
        """When :meth:`on_timer` must be called (s), or ``None``; without a connection, :attr:`connect_at`."""
        port = self._port
        if port is None or self.phase is Phase.DONE:
            return self.connect_at
        # A byte now and then is no proof.
        silence_s = self.settings.silence_limit_s
        due = port.silent_at(silence_s) if self.proven else port.opened_at + silence_s
        if self._introduced:
            due = min(due, self._heartbeat_due)
        if port.decoder.begun or self.outbox.moved_at + self.settings.stuck_limit_s < due:
            due = min(due, self._progress.due_at(port, self.outbox, self.inbox.received))
        if not self._membership.welcomed:
            return due
        if self._streams:
            overdue_at = self._upstream.overdue_at() if self.phase is Phase.WAITING else math.inf
            return min(due, overdue_at) if overdue_at > self._woken_at else due
        transfer = self.outbox.transfer
        if transfer is not None and self.phase is Phase.PUSHING and transfer.waits_beyond(self._woken_at):
            return min(due, transfer.deadline)
        return due

    def on_timer(self, now: float) -> None:
        """Time passed.

        Raises:
            LinkLost: the server has been silent for too long; close the connection.
        """
        self._woken_at = now
        if self._streams and self.phase is Phase.WAITING:
            self._pass_gate(now)
        port = self._port
        if port is None:
            return
        if port.is_silent(now, self.settings.silence_limit_s, self.settings.heartbeat_s):
            raise LinkLost(f"nothing came from the server for {self.settings.silence_limit_s:g} s")
        if not self.proven and now >= port.opened_at + self.settings.silence_limit_s:
            raise self.doubt(now, f"no proof came for {self.settings.silence_limit_s:g} s")
        if (cause := self._progress.cut(now, port, self.outbox, self.inbox.received)) is not None:
            raise LinkLost(cause)
        # Also before the welcome: if the hello got lost, the next frame tells.
        if self._introduced and now >= self._heartbeat_due:
            # The rate comes first: it is needed, and a message has room for 64 figures.
            metrics = {"rate_bps": self.outbox.meter.rate_bps(now), **self.metrics}
            heartbeat = Heartbeat(metrics, port.decoder.arrived)
            # On a link that is so slow, heartbeats leave at least half of it to the rows that they overtake.
            link_s = message_bytes(heartbeat) * 8 / self.outbox.meter.usual_bps
            self._heartbeat_due = now + max(self.settings.heartbeat_s, 2 * link_s)
            port.say(heartbeat)

    # -- joining -----------------------------------------------------------------------------------------------

    def doubt(self, now: float, what: str) -> LinkLost:
        """The error to raise for a server that has not proved that it knows the secret.

        It ends the connection and not the worker: anybody may answer at the server's address for a while. The driver
        looks on until its own limit.

        Args:
            now: time (s).
            what: what was wrong.
        """
        return self._doubt.raised(now, "?" if self._port is None else self._port.peer, what)

    def _hear_stranger(self, now: float, port: Port, message: Message) -> None:
        """Handle a message of a server that has not proved that it knows the secret: believe nothing but its proof."""
        if isinstance(message, Heartbeat):
            return  # it takes its time; how long it may take is not for it to say
        if not isinstance(message, Challenge | Proof):
            raise self.doubt(now, said(message))
        try:
            hello = self._membership.introduce(message, self.iteration, self._trained)
        except RemoteProtocolError as error:
            raise self.doubt(now, str(error)) from error
        if hello is not None:
            self._introduce(now, hello)
            return
        self._doubt.settle()
        port.decoder.trusted = True

    @property
    def _trained(self) -> int:
        """Iterations of training behind the parameters: one that is being exchanged does not count."""
        return max(self.iteration - (1 if self.joined and self.exchanging else 0), 0)

    def _introduce(self, now: float, hello: Hello) -> None:
        self._say(hello)
        self._introduced = True
        self._heartbeat_due = now + self.settings.heartbeat_s

    def _on_challenge(self, now: float, message: Challenge) -> None:
        try:
            self._introduce(now, self._membership.hello(message, self.iteration, self._trained))
        except AuthenticationFailed as error:
            self._fail(error)

    def _on_welcome(self, now: float, message: Welcome) -> None:
        self._membership.verify(message)
        try:
            policy = parse_policy(message.policy)
        except ConfigError as error:
            self._fail(
                RemoteProtocolError(
                    f"the server's policy is not known here: {shorten(str(error))}; "
                    "install the same version of rowcast on both"
                )
            )
            return
        self.policy = self._upstream.welcomed(policy)
        self.members = max(message.members, 1)
        self._membership.enter(message)
        self.turned_away = self.awaited = ""
        self.leads = False
        self.welcomed_at = now
        self._say_that_the_link_is_back(now)
        assert self._port is not None
        self._port.decoder.rows = self.layout.rows
        self._heartbeat_due = now + self.settings.heartbeat_s
        if message.how == "resume":
            self._recount(self._membership.resume(now, message))
        elif message.how in ("seed", "equal", "receive"):
            self._note_push()
            self.iteration = message.iteration
            self._membership.join(now, message)
        else:
            raise RemoteProtocolError(f"expected seed, equal, receive or resume, got {message.how!r}")
        if self._membership.seeding:
            if (name := first_nonfinite(self.layout, self.replica)) is not None:
                self._say(Leave("its parameters are not finite"))
                self._fail(
                    ConfigError(
                        f"parameter {name!r}: expected finite numbers for the team to begin with, found NaN or Inf; "
                        "look at how the model is initialised, or at the checkpoint that was loaded"
                    )
                )
                return
            for part in table_parts(self.layout.to_table()):
                self._say(part)
        if self.joined:
            self._carry_on(now)

    def _say_that_the_link_is_back(self, now: float) -> None:
        """Whether the server is the same one or another: what was said to be lost is there again."""
        if self._lost_at is not None:
            self.notices.append(f"{self.name}: link to the server is back, after {max(now - self._lost_at, 0.0):.3g} s")
            self._lost_at = None

    def _recount(self, more: int) -> None:
        """The server counts so many iterations more than it was told."""
        if more:
            self.iteration += more
            self.outbox.renumber(self.iteration - 1 if self.phase in EXCHANGING else self.iteration)

    def _carry_on(self, now: float) -> None:
        if self._streams and self.phase is not Phase.JOINING:
            self._stream(now, self._step if self.phase in EXCHANGING else self._done)
        elif self.phase in EXCHANGING:
            self._request_push(now)
        if self.phase is Phase.FINISHING:
            self._begin_drain(now)

    def _on_start(self, now: float, message: Start) -> None:
        """The parameters are the team's, and the team is complete: begin, or go on where the work was left."""
        self._membership.start(message)
        self.members = max(message.members, 1)
        self.iteration = message.iteration
        self.notices.append(self._whose_parameters(message))
        self._upstream.start(message.iteration)
        self.outbox.renumber(message.iteration)
        if self.phase is Phase.JOINING:
            self.phase = Phase.COMPUTING
            self._step = Step(started=now)
            return
        if self.phase in EXCHANGING:
            self.iteration += 1
            if self._streams:
                self.phase = Phase.WAITING  # whatever the policy was before
        self._carry_on(now)

    def _whose_parameters(self, message: Start) -> str:
        """A line for the user: with whose parameters it trains, and from which iteration on."""
        membership, at = self._membership, f"iteration {message.iteration}"
        if membership.how == "seed":
            return f"{self.name}: its parameters are the team's, from {at}"
        if membership.how == "equal":
            return f"{self.name}: has the team's parameters, which {membership.origin} brought, from {at}"
        if membership.goes_on:
            return f"{self.name}: goes on with the team's parameters as {membership.origin} held them, from {at}"
        return (
            f"{self.name}: the team's parameters, which {membership.origin} brought, have replaced its own, from {at}; "
            "to bring its own, join with parameters='mine'"
        )

    def _on_layout_table(self, message: LayoutTable) -> None:
        if self._membership.welcomed:
            raise RemoteProtocolError("expected no layout once this worker was let in, got one")
        if self._table is not None and len(message.part) + message.left > self._table.limit_bytes:
            self._table = None  # it is not ours, and the refusal that follows says so
        table = None if self._table is None else self._table.add(message)
        if table is None:
            return
        try:
            self.layout.check_equal(Outline.read(table), ours=f"worker {self.name}", theirs="the team")
        except LayoutMismatch as error:
            self._turn_away(LayoutMismatch(shorten(str(error))))

    def _turn_away(self, error: RowcastError) -> None:
        """The team is another one than this worker's: a worker that has trained keeps that, and goes on looking."""
        if not self._membership.training:
            self._fail(error)
            return
        self.turned_away = str(error)
        raise LinkLost(self.turned_away)

    def _on_refusal(self, now: float, message: Refusal) -> None:
        code, text = shorten(message.code, 20), message.text
        self.journal.record(now, "error", peer="server", error=f"refused: {code}", message=text)
        if code == "name":
            # It may be this worker's own former life, whose connection the server has not given up yet.
            self.turned_away = text
            raise LinkLost(text)
        if code == "damaged":
            raise LinkLost(f"the server got damaged bytes: {text}")
        error = RemoteProtocolError(f"the server refused this worker ({code}): {text}")
        if code in _FINAL and not self._membership.welcomed:
            self._fail(AuthenticationFailed(text) if code == "secret" else error)
        elif code == "parameters":
            self._turn_away(ParametersConflict(text))
        elif code == "layout":
            self._turn_away(LayoutMismatch(f"the server refused this worker: {text}; run the same model code on both"))
        elif code == "model":
            self._turn_away(error)
        else:
            self._count_refusal(error)
            if not self._membership.welcomed:
                self.turned_away = text
            raise LinkLost(str(error))

    # -- one iteration -----------------------------------------------------------------------------------------

    def _request_push(self, now: float) -> None:
        """Push; where the policy gives slots, ask for one first, and again after each cut."""
        assert self.policy is not None
        if not self.policy.scheduled:
            self._begin_push(now)
            return
        self.phase = Phase.ASKING
        self._note_push()
        if self._membership.welcomed and self._membership.joined:
            self._say(Ask(self.iteration, self._contribution.weight, self.outbox.meter.rate_bps(now)))

    def _on_grant(self, now: float, message: Grant) -> None:
        if self.phase is not Phase.ASKING or message.iteration != self.iteration:
            raise RemoteProtocolError(f"expected no slot while {self.phase.value}, got one")
        self._step.granted(message)
        self._begin_push(now)

    def _begin_push(self, now: float) -> None:
        assert self.policy is not None
        self.phase = Phase.PUSHING
        mta_time_s = self._step.compute_s if self._mta_time_s is None else self._mta_time_s
        self._step.mta_time_s = mta_time_s
        limit_s = max(self._step.proposed + mta_time_s - now, 0.0) if self.policy.speculative else 0.0
        self._note_push()
        self.outbox.begin(now, Request(self.iteration, self.policy.row_codec, self.policy.choose_push, limit_s))

    def _note_push(self) -> None:
        """Book what the last transfer sent, before another one takes its place."""
        transfer = self.outbox.transfer
        if transfer is not None and transfer.iteration == self.iteration:
            self._step.pushed(transfer)
        self.outbox.transfer = None

    def _after_rows(self, now: float) -> Message | None:
        """What follows the last row frame."""
        outbox = self.outbox
        transfer = outbox.transfer
        if self.phase is Phase.PUSHING and transfer is not None and transfer.finished(now):
            self._step.quota_s = outbox.quota_s(now)
            self._note_push()
            self.phase = Phase.WAITING
            return PushEnd(
                iteration=self.iteration,
                quota_s=self._step.quota_s,
                compute_s=self._step.compute_s,
                rate_bps=outbox.meter.rate_bps(now),
                skipped=self._step.skipped,
            )
        if self.phase is Phase.FINISHING and not self._finish_said and outbox.settled and transfer is not None:
            if not transfer.finished(now):
                return None
            self._finish_said = True
            return Finish(self.iteration, self._finish_wait)
        return None

    def _on_cancel(self, message: Cancel) -> None:
        transfer = self.outbox.transfer
        if self.phase is Phase.PUSHING and transfer is not None and transfer.iteration == message.iteration:
            transfer.cancelled = True

    def _on_go(self, now: float, message: Go) -> None:
        if self.phase is not Phase.WAITING or message.iteration != self.iteration:
            raise RemoteProtocolError(f"expected no permission while {self.phase.value}, got one")
        self.phase = Phase.PULLING
        self.members = max(message.members, 1)
        self._mta_time_s = message.mta_time_s
        self._step.permitted(message)

    def _on_pull_end(self, now: float, message: PullEnd) -> None:
        if self.phase is not Phase.PULLING or message.iteration != self.iteration:
            raise RemoteProtocolError(f"expected no end of a pull while {self.phase.value}, got one")
        self.phase = Phase.COMPUTING
        self._record_step(now)

    # -- iterations without phases -----------------------------------------------------------------------------

    @property
    def _streams(self) -> bool:
        return self.policy is not None and self.policy.streaming

    def _stream(self, now: float, finished: Step | None) -> None:
        """Rows are chosen anew, and flow until the next iteration is finished.

        Args:
            now: time (s).
            finished: the step of the newest iteration, which the server is told (again, after a cut); ``None``: no
                iteration is finished.
        """
        assert self.policy is not None
        step_s = math.inf if finished is None else finished.compute_s
        self._upstream.choose(now, self.policy, self.iteration, self._step, step_s)
        if finished is not None and self._membership.welcomed and self._membership.joined:
            size = 0.0 if finished.skipped else self._contribution.size
            rate_bps = self.outbox.meter.rate_bps(now)
            self._say(Computed(self.iteration, finished.compute_s, rate_bps, size, finished.skipped))

    def _on_horizon(self, now: float, message: Horizon) -> None:
        if self.policy is None or not self.policy.streaming:
            raise RemoteProtocolError(
                f"expected no horizon with the policy {self.policy and self.policy.name}, got one"
            )
        self.policy = self._upstream.tell(self.policy, message)
        self.members = max(message.members, 1)
        if self.phase is Phase.WAITING:
            self._pass_gate(now)

    def _pass_gate(self, now: float) -> None:
        """Compute on, if the parameters are fresh enough for that."""
        assert self.policy is not None
        if not self._upstream.may_compute(now, self.policy, self.iteration, linked=self._membership.welcomed):
            self.phase = Phase.WAITING
            return
        self.phase = Phase.COMPUTING
        self._step.passed(now, self._upstream.begin(self.iteration))
        self._record_step(now)

    @property
    def beyond(self) -> bool:
        """It computes although the gate is shut: in an outage, in which nobody waits for it."""
        policy = self.policy
        return policy is not None and policy.streaming and self._upstream.beyond(policy, self.iteration)

    def _record_step(self, now: float) -> None:
        step = self._step
        step.record(now, self.journal, self.layout, self.iteration, self.outbox.meter.rate_bps(now))
        self.metrics["share"] = step.share(self.layout)
        self.metrics["staleness"] = float(step.staleness)
        self._done, self._step = step, Step(started=now)

    # -- rows that arrive --------------------------------------------------------------------------------------

    def _on_rows(self, now: float, message: Rows) -> None:
        codec = self.inbox.accept(message)
        if codec is not None:
            self._step.pulled(message)
            self._freshness.arrived(message.rows, self.iteration)
            self._replica.apply(message)
        self._say(Ack(self.inbox.received))

    # -- the end -----------------------------------------------------------------------------------------------

    def _begin_drain(self, now: float) -> None:
        self._finish_said = False
        self.outbox.send_everything(now, self.iteration)

    def _on_farewell(self, now: float, message: Farewell) -> None:
        if self.phase is not Phase.FINISHING:
            raise RemoteProtocolError("expected a farewell after a finish, got one out of turn")
        self.phase = Phase.DONE
        self.journal.record(
            now,
            "drained",
            peer="server",
            iteration=self.iteration,
            frames_sent=self.outbox.sent_frames,
            frames_applied=message.received,
        )
        self.journal.record(now, "end", cause="finished")

    def _say(self, message: Message) -> None:
        if self._port is not None:
            self._port.say(message)

    def _fail(self, error: RowcastError) -> None:
        """Give up: the driver stops and the training loop gets ``error``, the first one."""
        self.failure = self.failure or error
        if self._port is not None:
            self._port.closing = True
