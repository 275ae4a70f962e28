"""The worker's side of rows that are streamed: which it sends next, and whether it is fresh enough to compute on.

There is no push and no permission: rows flow while it computes, and it opens the gate itself. It is told its horizon,
up to which it holds everybody's contributions, and may be as many iterations ahead of it as the slack allows
(algorithms.md 1.4; the server's side is :mod:`rowcast.training.rules.streamed`).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, cast

import numpy as np
import numpy.typing as npt

from rowcast.codecs import codec_by_name
from rowcast.delivery.transfer import Request
from rowcast.errors import RemoteProtocolError
from rowcast.session.proof import expect_countable
from rowcast.sync import Policy
from rowcast.sync.outer_rate import MOST
from rowcast.training.rules.base import WorkerRule
from rowcast.training.steps import Step
from rowcast.training.worker_state import WorkerState
from rowcast.wire import Computed, Horizon, Message, Returned, Rows

if TYPE_CHECKING:
    from rowcast.training.core import WorkerCore

__all__ = ["StreamedWorker"]

#: What a lag of :class:`rowcast.wire.Returned` means by this: nothing of the row has come back.
NOTHING = 255


class StreamedWorker(WorkerRule):
    """Streams rows, and keeps the gate for the training loop.

    Attributes:
        told: the horizon as the server told it last; ``None`` before it did since the worker has started. Until then
            nobody knows how fresh what it was given was, since others may be behind it: it does not compute.
    """

    def __init__(self, node: WorkerCore) -> None:
        super().__init__(node)
        self.told: Horizon | None = None
        self.handlers = {Horizon: self._on_horizon, Returned: self._on_returned}
        self._returned: Returned | None = None
        self._begun: Policy | None = None  # the policy with the slack and the outer learning rate to begin with
        self._step_s: float | None = None  # rows are to be chosen for a step of so many seconds; None: they are

    # -- joining -----------------------------------------------------------------------------------------------

    def welcomed(self, policy: Policy) -> Policy:
        # What was told last holds until it is told anew.
        self._begun = policy
        return policy if self.told is None else self._at(policy, self.told)

    @staticmethod
    def _at(begun: Policy, told: Horizon) -> Policy:
        """The policy with the slack and the outer learning rate that are in force."""
        return begun.at_slack(min(told.slack, begun.largest_slack)).at_outer_lr(told.outer_lr or begun.outer_lr)

    def start(self) -> None:
        self.told = None

    def begin(self, now: float) -> None:
        """Its first horizon follows; it joins until that lets it compute."""

    def carry_on(self, now: float) -> None:
        node = self.node
        if node.state is not WorkerState.JOINING:
            self._stream(now, node.step if node.exchanging else node.done_step)

    def begin_again(self, now: float) -> None:
        self.node.state = WorkerState.WAITING  # whatever the rule was before
        self.carry_on(now)

    def link_lost(self, now: float) -> None:
        self._returned = None
        if self.node.state is WorkerState.WAITING:
            self._pass_gate(now)

    # -- an iteration ------------------------------------------------------------------------------------------

    def exchange(self, now: float) -> None:
        self._stream(now, self.node.step)
        self._pass_gate(now)

    def _stream(self, now: float, finished: Step | None) -> None:
        """Rows are chosen anew, and flow until the next iteration is finished.

        Args:
            now: time (s).
            finished: the step of the newest iteration, which the server is told (again, after a cut); ``None``: no
                iteration is finished.
        """
        node = self.node
        self._choose_before_next_frame(now, math.inf if finished is None else finished.interval_s)
        if finished is not None and node.let_in:
            size = 0.0 if finished.skipped else node.contribution.size
            rate_bps = node.outbox.meter.rate_bps(now)
            momentum = node.inner_momentum
            node.say(Computed(node.iteration, finished.interval_s, rate_bps, size, finished.skipped, momentum))

    def _choose_before_next_frame(self, now: float, step_s: float) -> None:
        """Rows are to be chosen anew; not now, since the training loop waits.

        Args:
            now: time (s).
            step_s: what a gradient takes, with the wait for its data (s); ``inf`` as long as nobody knows.
        """
        node, transfer = self.node, self.node.outbox.transfer
        if self._overdue_at() == math.inf:
            node.acknowledgements.since = now  # until now there was nothing to acknowledge
        if self._step_s is None and transfer is not None:
            node.step.pushed(transfer)  # the rows that travelled since they were last chosen
        self._step_s = step_s

    @property
    def _to_choose(self) -> bool:
        """Rows are to be chosen yet; who finishes sends everything."""
        return self._step_s is not None and self.node.state is not WorkerState.FINISHING

    @property
    def busy(self) -> bool:
        return self._to_choose

    def before_frame(self, now: float) -> None:
        if self._step_s is None:
            return
        outbox, policy = self.node.outbox, self._policy
        code, room = policy.code_for(outbox.layout, policy.share, outbox.meter.latest_bps(now), self._step_s)
        outbox.begin(now, Request(self.node.iteration, code, policy.choose_push, room=room))
        self._step_s = None

    def refine(self, now: float) -> bool:
        """All rows were sent, and the next iteration is not finished: the idle link carries what the code left."""
        policy, transfer = self._policy, self.node.outbox.transfer
        if not policy.refine or transfer is None or transfer.refining or not transfer.finished(now):
            return False
        half = codec_by_name("half")
        request = Request(self.node.iteration, half, policy.choose_refinement, refine=True)
        refining = self.node.outbox.begin(now, request)
        # Booked as one, when the next iteration is finished: a step that is held at the gate would have two pushes.
        refining.rows, refining.zero_rows, refining.size = transfer.rows, transfer.zero_rows, transfer.size
        return True

    # -- the gate ----------------------------------------------------------------------------------------------

    def _on_horizon(self, now: float, message: Message) -> None:
        node, told = self.node, cast(Horizon, message)
        expect_countable(max(told.horizon, told.newest))
        begun = self._begun
        assert begun is not None
        if not 1 <= told.slack <= begun.largest_slack:
            raise RemoteProtocolError(f"expected a slack in 1 .. {begun.largest_slack}, got {told.slack}")
        if not 0 <= told.outer_lr <= MOST * begun.outer_lr:
            raise RemoteProtocolError(
                f"expected an outer learning rate in 0 .. {MOST * begun.outer_lr:g}, got {told.outer_lr:g}"
            )
        self.told = told
        node.policy = self._at(begun, told)
        node.members = max(told.members, 1)
        if node.state is WorkerState.WAITING:
            self._pass_gate(now)
        elif node.state is WorkerState.JOINING and self._may_compute(now):
            node.begin(now)

    # -- below a relay -----------------------------------------------------------------------------------------

    def _on_returned(self, now: float, message: Message) -> None:
        self._returned = cast(Returned, message)

    def returned(self, message: Rows) -> npt.NDArray[np.int64] | None:
        if message.absolute:
            return None
        told, self._returned = self._returned, None
        if told is None:
            return None
        if len(told.lags) not in (0, len(message.rows)):
            raise RemoteProtocolError(
                f"expected what has come back of {len(message.rows)} rows or of all, got {len(told.lags)}"
            )
        expect_countable(told.number)
        numbers = np.full(len(message.rows), told.number, dtype=np.int64)
        if told.lags:
            lags = np.frombuffer(told.lags, dtype=np.uint8).astype(np.int64)
            numbers = np.where(lags < NOTHING, numbers - lags, 0)
        return numbers

    def _pass_gate(self, now: float) -> None:
        """Compute on, if the parameters are fresh enough for that."""
        node = self.node
        if not self._may_compute(now):
            node.state = WorkerState.WAITING
            return
        assert self.told is not None
        node.step.passed(now, max(self.told.newest - node.iteration, 0))
        node.compute(now)

    def _may_compute(self, now: float) -> bool:
        """Whether the parameters are fresh enough to compute on."""
        if self.told is None:
            return False
        policy, lag = self._policy, self.node.iteration - self.told.horizon
        slack = policy.slack or 0
        return lag <= slack or (lag <= slack + policy.ahead and policy.elastic and self._in_outage(now, self.told))

    def _in_outage(self, now: float, told: Horizon) -> bool:
        """Nobody waits for this worker, as far as it can know: its own link is at fault."""
        return not told.counted or not self.node.welcomed or now >= self._overdue_at()

    def _overdue_at(self) -> float:
        """When it becomes an outage that nothing is acknowledged although there is something to send (s)."""
        outbox = self.node.outbox
        all_sent = not self._to_choose and (outbox.transfer is None or outbox.transfer.all_sent())
        return math.inf if all_sent and outbox.settled else self.node.acknowledgements.overdue_at()

    @property
    def beyond(self) -> bool:
        return self.told is not None and self.node.iteration - self.told.horizon > (self._policy.slack or 0)

    @property
    def _policy(self) -> Policy:
        policy = self.node.policy
        assert policy is not None
        return policy

    def acknowledged(self, now: float) -> None:
        self.node.acknowledgements.advanced(now)

    # -- time --------------------------------------------------------------------------------------------------

    def wake_at(self) -> float:
        overdue_at = self._overdue_at() if self.node.state is WorkerState.WAITING else math.inf
        return overdue_at if overdue_at > self.node.woken_at else math.inf

    def on_timer(self, now: float) -> None:
        if self.node.state is WorkerState.WAITING:
            self._pass_gate(now)
