"""The worker's side of a policy that streams: which rows it sends next, and whether it is fresh enough to compute on.

There is no push and no permission: rows flow while it computes, and it opens the gate itself. It is told its horizon,
up to which it holds everybody's contributions, and may be as many iterations ahead of it as the slack allows
(algorithms.md 1.4; the server's side is :mod:`rowcast.training.rules.streamed`).
"""

from __future__ import annotations

import math

from rowcast.codecs import codec_by_name
from rowcast.delivery.outbox import Outbox
from rowcast.delivery.transfer import Request
from rowcast.errors import RemoteProtocolError
from rowcast.sync import Policy, Punctuality
from rowcast.training.proposal.row_ages import RowAges
from rowcast.training.steps import Step
from rowcast.wire import Horizon

__all__ = ["WorkerStream"]


class WorkerStream:
    """Chooses the rows of an outbox, and keeps the gate for who fills it.

    Args:
        outbox: what is sent to the server.
        freshness: told from which parameters an iteration is computed.
        acknowledgements: how regularly the server acknowledges rows; told when there are none to acknowledge.

    Attributes:
        told: the horizon as the server told it last; ``None`` before it did since the worker has started.
    """

    def __init__(self, outbox: Outbox, freshness: RowAges, acknowledgements: Punctuality) -> None:
        self.told: Horizon | None = None
        self._outbox = outbox
        self._freshness = freshness
        self._acknowledgements = acknowledgements
        self._most_slack = 0
        self._started_at = 0

    # -- what the server says ----------------------------------------------------------------------------------

    def welcomed(self, policy: Policy) -> Policy:
        """The server let the worker in, with this policy.

        Returns:
            The policy with the slack that is in force: what was told last holds until it is told anew.
        """
        self._most_slack = policy.slack or 0
        if not policy.streaming or self.told is None:
            return policy
        return policy.at_slack(min(self.told.slack, self._most_slack))

    def start(self, iteration: int) -> None:
        """The parameters are the team's, and the worker counts from ``iteration``."""
        self._started_at = iteration
        self.told = None
        self._freshness.restart(iteration)

    def tell(self, policy: Policy, message: Horizon) -> Policy:
        """The horizon moved.

        Returns:
            The policy with the slack that is in force from now on.

        Raises:
            RemoteProtocolError: the slack is not one that the policy of the welcome allows.
        """
        if not 1 <= message.slack <= self._most_slack:
            raise RemoteProtocolError(f"expected a slack in 1 .. {self._most_slack}, got {message.slack}")
        self.told = message
        return policy.at_slack(message.slack)

    # -- which rows are sent -----------------------------------------------------------------------------------

    def choose(self, now: float, policy: Policy, iteration: int, step: Step, step_s: float) -> None:
        """Choose rows anew: they flow until the next iteration is finished.

        Args:
            now: time (s).
            policy: the team's policy.
            iteration: iterations finished.
            step: the rows that travelled since they were last chosen are booked there.
            step_s: what a gradient takes (s); ``inf`` as long as nobody knows.
        """
        outbox = self._outbox
        if self.overdue_at() == math.inf:
            self._acknowledgements.since = now  # until now there was nothing to acknowledge
        if outbox.transfer is not None:
            step.pushed(outbox.transfer)
        code = policy.code_for(outbox.layout, policy.share, outbox.meter.rate_bps(now), step_s)
        outbox.begin(now, Request(iteration, code, policy.choose_push))

    def refine(self, now: float, policy: Policy, iteration: int) -> bool:
        """All rows were sent, and the next iteration is not finished: the idle link carries what the code left.

        Returns:
            Whether there is something new to send.
        """
        transfer = self._outbox.transfer
        if not policy.refine or transfer is None or transfer.refining or not transfer.finished(now):
            return False
        refining = self._outbox.begin(
            now, Request(iteration, codec_by_name("half"), policy.choose_refinement, refine=True)
        )
        # Booked as one, when the next iteration is finished: a step that is held at the gate would have two pushes.
        refining.rows, refining.zero_rows, refining.size = transfer.rows, transfer.zero_rows, transfer.size
        return True

    # -- the gate ----------------------------------------------------------------------------------------------

    def may_compute(self, now: float, policy: Policy, iteration: int, *, linked: bool) -> bool:
        """Whether the parameters are fresh enough to compute on.

        Args:
            now: time (s).
            policy: the team's policy, with the slack that is in force.
            iteration: iterations finished.
            linked: the server has let it in, on a connection that stands.
        """
        lag, slack = self._lag(iteration), policy.slack or 0
        if self.told is not None and lag <= slack:
            return True
        # Before it was told, nobody knows how fresh what it was given was: others may be behind it.
        return lag <= slack + policy.ahead and policy.elastic and self._in_outage(now, linked)

    def begin(self, iteration: int) -> int:
        """The iteration behind ``iteration`` begins.

        Returns:
            Iterations that the fastest worker is further, as far as it is known.
        """
        self._freshness.begin(iteration, iteration - self._lag(iteration))
        return 0 if self.told is None else max(self.told.newest - iteration, 0)

    def beyond(self, policy: Policy, iteration: int) -> bool:
        """Whether the gate is shut: who computes all the same does so in an outage."""
        return self._lag(iteration) > (policy.slack or 0)

    def overdue_at(self) -> float:
        """When it becomes an outage that nothing is acknowledged although there is something to send (s)."""
        transfer = self._outbox.transfer
        all_sent = transfer is None or transfer.all_sent()
        return math.inf if all_sent and self._outbox.settled else self._acknowledgements.overdue_at()

    def _lag(self, iteration: int) -> int:
        """Iterations of which the replica may lack contributions."""
        return iteration - (self._started_at if self.told is None else self.told.horizon)

    def _in_outage(self, now: float, linked: bool) -> bool:
        """Nobody waits for this worker, as far as it can know: its own link is at fault."""
        left_out = self.told is not None and not self.told.counted
        return left_out or not linked or now >= self.overdue_at()
