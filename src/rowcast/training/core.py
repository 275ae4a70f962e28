"""What the parts of a worker have in common: its state, and what they ask of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import cast

import numpy as np
import numpy.typing as npt

from rowcast.config import LinkSettings, WorkerSettings
from rowcast.delivery.inbox import Inbox
from rowcast.delivery.outbox import Outbox
from rowcast.delivery.placed import PlacedVector
from rowcast.delivery.residual import Residual
from rowcast.delivery.snapshot import Snapshot
from rowcast.delivery.window import Window
from rowcast.errors import LinkLost, RemoteProtocolError, RowcastError
from rowcast.journal import Journal
from rowcast.rows import Layout
from rowcast.session.client import Client, JoinRequest
from rowcast.session.link import Link
from rowcast.session.reconnect import Reconnect
from rowcast.sync import Policy, UsualInterval, parse_policy
from rowcast.training.delivered import Delivered
from rowcast.training.holding import Holding
from rowcast.training.joining import Joining
from rowcast.training.kept.notes import Acknowledged, Notebook, Received
from rowcast.training.kept.recovery import Recovery
from rowcast.training.kept.replay import Replay
from rowcast.training.memory import Loop
from rowcast.training.proposal.contribution import Contribution
from rowcast.training.proposal.replica import Replica, Writes
from rowcast.training.rules import worker_rule
from rowcast.training.rules.base import WorkerHandler, WorkerRule
from rowcast.training.steps import Step
from rowcast.training.supplier import Supplier
from rowcast.training.worker_state import EXCHANGING, WorkerState
from rowcast.training.worker_watch import WorkerWatch
from rowcast.wire import (
    Ack,
    Farewell,
    Heartbeat,
    Lead,
    Leave,
    Message,
    Rows,
    Share,
)

__all__ = ["WorkerCore"]


class WorkerCore:
    """The state of a worker, and what its parts call; see :class:`rowcast.training.WorkerNode` for the arguments.

    Attributes:
        residual: what was computed and not delivered.
        computed: float64 [rows], the signed sum of everything ever added to each row (the audit).
        state: what the worker is doing.
        iteration: iterations finished.
        members: among how many workers the update of an iteration is shared.
        leads: it is the first worker: what it makes of the buffers is the team's. Only where their rule is "first".
        failure: why the worker cannot go on, or ``None``.
        welcomed_at: when the server last let this worker in (s), or ``None``.
        turned_away: why the server did not let this worker in although it may later, or empty.
        awaited: for what a server that has not let this worker in makes it wait, or empty.
        standby: where the standby of the server is, host:port, as the server has told; empty: there is none.
        search: attempts to connect to the server.
        link: the connection to the server, or ``None``.
        rule: when its rows travel, and when it may compute on; of the server's policy.
        client: its place in the team.
        contribution: what it adds.
        delivered: which of its iterations have arrived.
        supplier: what it tells the server of its stream, and its share of the team's batch.
        positions: how far its data was read up to the newest iteration; empty where it is no stream.
        next_positions: how far it was read for the iteration that is finished next.
        resumed_positions: how far it was read that is in the team's parameters already, as the server told at joining.
        acknowledgements: how regularly the server acknowledges rows.
        inner_momentum: decay of the average of gradients that the inner optimizer steps by; 0: it keeps none.
        step, done_step: the step that is under way, and the one before.
        woken_at: when :meth:`on_timer` was last called (s).
        notices: sentences for the user, oldest first; the driver shows and removes them.
        notebook: keeps what is needed to go on after the process was killed; ``None``: nothing does.
        recovery: it goes on from what was kept, and no server has welcomed it yet.
        loop: what the training loop holds beside it; whoever makes both says so before they join.
        moved: rows have moved the replica since the last exchange was over.
        holding: where its vectors lie, and in which form.
    """

    def __init__(
        self,
        name: str,
        layout: Layout,
        replica: npt.NDArray[np.float32],
        *,
        settings: WorkerSettings | None = None,
        link_settings: LinkSettings | None = None,
        request: JoinRequest | None = None,
        journal: Journal | None = None,
        entropy: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self.name = name
        self.layout = layout
        self._replica = Replica(layout, replica)
        self.computed = self._replica.computed
        self.settings = settings or WorkerSettings()
        self.journal = journal or Journal(name)
        self.state = WorkerState.JOINING
        self.iteration = 0
        self.members = 1
        self.leads = False
        self.inner_momentum = 0.0
        self.policy: Policy | None = None
        self.failure: RowcastError | None = None
        self.turned_away = ""
        self.awaited = ""
        self.standby = ""
        self.notices: list[str] = []
        self.welcomed_at: float | None = None
        self.metrics: dict[str, float] = {}
        self._metrics_left_out = False
        self.residual = self._backlog(layout)
        window = Window(link_settings or LinkSettings())
        self.outbox = Outbox(self.residual, window, Snapshot(layout, replica, settles=False))
        self.inbox = Inbox(layout)
        self.delivered = Delivered(self.outbox, self.residual)
        self.supplier = Supplier(self.say)
        self.positions = b""
        self.next_positions = b""
        self.resumed_positions = b""
        self.client = Client(
            name, self.outbox, self.inbox, request=request or JoinRequest(), journal=self.journal, entropy=entropy
        )
        self.link: Link | None = None
        self.step = Step(0.0)
        self.done_step: Step | None = None
        self.contribution = Contribution(self._replica, self.residual)
        self.acknowledgements = UsualInterval(0.0)
        self.search = Reconnect(self.settings.reconnect_first_s, self.settings.reconnect_cap_s, entropy)
        self.woken_at = 0.0
        self.notebook: Notebook | None = None
        self.recovery: Recovery | None = None
        self.loop = Loop()
        self.moved = False
        self.holding = Holding(self)
        self.rule = WorkerRule(self)
        self._joining = Joining(self, self.client)
        self._watch = WorkerWatch(self, self._joining)
        self._finish_wait = True
        self._finish_said = False
        self._handlers: Mapping[type[Message], WorkerHandler] = {
            Rows: self._on_rows,
            Ack: self._on_ack,
            Heartbeat: self._on_heartbeat,
            Lead: self._on_lead,
            Share: self.supplier.on_share,
            Farewell: self._on_farewell,
            Leave: self._on_leave,
            **self._joining.handlers,
        }

    def _backlog(self, layout: Layout) -> Residual:
        """What is pending, with what is recorded of its rows."""
        return Residual(layout, layout.zeros())

    @property
    def replica(self) -> npt.NDArray[np.float32]:
        """Its parameters, flat float32 [elements]; a copy where they do not lie in host memory."""
        return self._replica.parameters

    @property
    def pending(self) -> npt.NDArray[np.float32]:
        """What was computed and not delivered, flat float32; a copy where it is not held as such in host memory."""
        return self.residual.vector

    def hold_in(self, residual: Residual) -> None:
        """What is pending is in this from now on."""
        self.residual = self.outbox.source = self.contribution.residual = self.delivered.residual = residual

    def move_replica(self, to: npt.NDArray[np.float32] | PlacedVector) -> None:
        """The parameters, as they are, lie there from now on."""
        self._replica.move(to)
        self.outbox.snapshot.move(to)

    @property
    def own_writes(self) -> Writes | None:
        """What follows this worker's own rows, if the policy asks for that."""
        return self._replica.own_writes

    @own_writes.setter
    def own_writes(self, writes: Writes | None) -> None:
        self._replica.own_writes = writes

    @property
    def joined(self) -> bool:
        """The server knows this worker, and its parameters are the team's."""
        return self.client.joined

    @property
    def connected(self) -> bool:
        """A connection to the server stands."""
        return self.link is not None

    @property
    def exchanging(self) -> bool:
        """An iteration is finished here, and its exchange with the team is not."""
        return self.state in EXCHANGING

    @property
    def over(self) -> bool:
        """Its work is done: it wants no connection any more."""
        return self.state is WorkerState.DONE

    @property
    def proven(self) -> bool:
        """The server has proved that it knows the secret, on the connection that stands, or there is no secret."""
        return self.client.proven

    @property
    def connect_at(self) -> float | None:
        """When the driver is to try to connect (s): at once if that is over; ``None``: it is not to.

        It says so with :meth:`connecting`, and what came of it with :meth:`link_up` or :meth:`connect_failed`.
        """
        settled = self.over or self.link is not None or self.failure is not None
        return None if settled else self.search.connect_at

    @property
    def unproven(self) -> str:
        """What was wrong with the newest server that did not prove that it knows the secret; empty once one did."""
        return self._joining.unproven

    def restore(self, replay: Replay, age_s: float = 0.0) -> None:
        """Go on where another life of this worker was; before it is connected for the first time.

        Args:
            replay: what was kept of it; taken over.
            age_s: seconds since the picture in it was taken.
        """
        self.recovery = Recovery(self, replay, age_s)

    @property
    def holds(self) -> bool:
        """Rows that have arrived wait until the parameters may move."""
        return self._replica.holds

    @staticmethod
    def rule_of(policy: str) -> str:
        """The name of a policy's rule."""
        return parse_policy(policy).rule

    # -- what its parts call -----------------------------------------------------------------------------------

    @property
    def welcomed(self) -> bool:
        """The server has let it in, on a connection that stands."""
        return self.client.welcomed

    @property
    def let_in(self) -> bool:
        """It is let in, and the team's parameters are its own."""
        return self.client.welcomed and self.client.joined

    @property
    def beyond(self) -> bool:
        """It computes although the gate is shut: in an outage, in which nobody waits for it."""
        return self.rule.beyond

    def follow(self, policy: Policy) -> None:
        """The server that let it in has this policy."""
        kind = worker_rule(policy.rule)
        if type(self.rule) is not kind:
            self.rule = kind(self)
        self.policy = self.rule.welcomed(policy)

    def start(self, now: float) -> None:
        """The parameters are the team's: compute, or go on where the work was left."""
        if self.state is WorkerState.JOINING:
            self.rule.begin(now)
            return
        if self.exchanging:
            self.iteration += 1
            self.rule.begin_again(now)
        else:
            self.rule.carry_on(now)
        if self.state is WorkerState.FINISHING:
            self._drain(now)

    def begin(self, now: float) -> None:
        """The training loop may compute its first iteration."""
        self.state = WorkerState.COMPUTING
        self.moved = False
        self.step = Step(started=now)

    def carry_on(self, now: float) -> None:
        """It is let in again: go on where the link was lost."""
        self.rule.carry_on(now)
        if self.state is WorkerState.FINISHING:
            self._drain(now)

    def read_own_writes(self) -> None:
        """The replica is the team's: follow what of this worker is on its way, if the policy asks for it."""
        self.holding.begin()

    def next_number(self) -> int:
        """Number of the next frame of rows that is sent."""
        return self.outbox.sent_frames + 1

    @property
    def lean(self) -> bool:
        """The training loop is to count its steps from the replica, and to keep no copy of it."""
        return self.holding.lean

    def compute(self, now: float) -> None:
        """The exchange of an iteration is over: the training loop may compute the next one."""
        self.state = WorkerState.COMPUTING
        self.moved = False
        step = self.step
        step.record(now, self.journal, self.layout, self.iteration, self.outbox.meter.rate_bps(now))
        self.metrics["share"] = step.share(self.layout)
        self.metrics["staleness"] = float(step.staleness)
        if step.fed is not None:
            self.metrics |= {"samples": float(step.fed.samples), "queued": float(step.fed.queued)}
        self.done_step, self.step = step, Step(started=now)

    def say(self, message: Message) -> None:
        """Queue a control message, if there is a connection."""
        if self.link is not None:
            self.link.say(message)

    def fail(self, error: RowcastError) -> None:
        """Give up: the driver stops and the training loop gets ``error``, the first one."""
        self.failure = self.failure or error
        if self.link is not None:
            self.link.closing = True

    # -- what arrives ------------------------------------------------------------------------------------------

    def _on_rows(self, now: float, message: Message) -> None:
        rows = cast(Rows, message)
        if rows.stream:
            self.rule.side_rows(now, rows)
            return
        codec = self.inbox.accept(rows)
        if codec is not None:
            if self.notebook is not None and self.rule.resumes:
                self.notebook.note(Received(rows))
            self.step.pulled(rows)
            self._replica.apply(codec, rows, self.rule.returned(rows))
            self.moved = True
            self.rule.arrived(codec, rows)
        self.say(Ack.at(now, self.inbox.received))

    def _on_ack(self, now: float, message: Message) -> None:
        ack = cast(Ack, message)
        if ack.stream:
            self.rule.side_acknowledged(now, ack)
            return
        self.outbox.acknowledged(now, ack.number, ack.arrived_s)
        if self.notebook is not None:
            self.notebook.note(Acknowledged(ack.number))
        self.rule.acknowledged(now)

    def _on_heartbeat(self, now: float, message: Message) -> None:
        assert self.link is not None
        self.link.told(now, cast(Heartbeat, message).arrived)

    def _on_lead(self, now: float, message: Message) -> None:
        self.leads = cast(Lead, message).leads

    def _on_leave(self, now: float, message: Message) -> None:
        raise LinkLost(f"the server said goodbye: {cast(Leave, message).cause}")

    # -- the end -----------------------------------------------------------------------------------------------

    def _drain(self, now: float) -> None:
        """Send all that is pending."""
        self._finish_said = False
        self.outbox.send_everything(now, self.iteration)

    def _on_farewell(self, now: float, message: Message) -> None:
        if self.state is not WorkerState.FINISHING:
            raise RemoteProtocolError("expected a farewell after a finish, got one out of turn")
        self.state = WorkerState.DONE
        self.holding.settle()
        self.delivered.all_arrived()
        self.journal.record(
            now,
            "drained",
            peer="server",
            iteration=self.iteration,
            frames_sent=self.outbox.sent_frames,
            frames_applied=cast(Farewell, message).received,
        )
        self.journal.record(now, "end", cause="finished")
