"""The upper end of a relay: a worker that computes nothing, and sums up what comes from below."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from rowcast.codecs import Codec
from rowcast.config import LinkSettings, WorkerSettings
from rowcast.delivery.residual import Residual
from rowcast.delivery.summed import Summed
from rowcast.errors import ConfigError
from rowcast.journal import Journal
from rowcast.rows import Layout
from rowcast.session.client import JoinRequest
from rowcast.session.link import Link
from rowcast.sync import Policy
from rowcast.training.proposal.replica import Replica
from rowcast.training.relay.passage import Passage
from rowcast.training.relay.upstream_rule import UpstreamRule
from rowcast.training.steps import Step
from rowcast.training.worker import WorkerNode
from rowcast.training.worker_state import WorkerState
from rowcast.wire import Hello, Message, Rows, Share, Subtree, Supply

if TYPE_CHECKING:
    from rowcast.training.relay.node import RelayNode

__all__ = ["Upstream"]


class _Passing(Replica):
    """The parameters of a relay: what moves them is owed below, once workers there hold them."""

    def __init__(self, layout: Layout, parameters: npt.NDArray[np.float32], relay: RelayNode) -> None:
        super().__init__(layout, parameters)
        self._relay = relay

    def apply(self, codec: Codec, message: Rows, numbers: npt.NDArray[np.int64] | None = None) -> None:
        """See :class:`Replica`; a relay does not hold them."""
        if message.absolute or not self._relay.passes_down(codec, message, numbers):
            super().apply(codec, message)


class Upstream(WorkerNode):
    """The worker of a relay. It finishes an iteration when all below have, and adds nothing of its own.

    The audit of rows (:attr:`WorkerCore.computed`) stays at 0: it is kept where gradients are computed.

    Args:
        layout: the model's rows.
        replica: flat float32 parameters; taken over. The server below has the same array.
        relay: what it is the upper end of.
        settings, link_settings, request, journal, entropy: see :class:`rowcast.training.WorkerNode`.

    Attributes:
        told: what the server above was told of the workers below, on this connection.
        backlog: what is pending.
        passage: follows it up, and what comes back of it.
        frame_s: see :class:`rowcast.config.LinkSettings`.
    """

    def __init__(
        self,
        layout: Layout,
        replica: npt.NDArray[np.float32],
        relay: RelayNode,
        *,
        settings: WorkerSettings,
        link_settings: LinkSettings,
        request: JoinRequest,
        journal: Journal,
        entropy: Callable[[int], bytes],
    ) -> None:
        super().__init__(
            relay.name,
            layout,
            replica,
            settings=settings,
            link_settings=link_settings,
            request=request,
            journal=journal,
            entropy=entropy,
        )
        self._relay = relay
        self.frame_s = link_settings.frame_s
        self._replica = _Passing(layout, replica, relay)
        self._handlers = {**self._handlers, Share: self._on_share}
        self.told: Subtree | None = None
        self._introduced = False  # on the connection that stands

    def _backlog(self, layout: Layout) -> Residual:
        self.backlog = Summed(layout, layout.zeros())
        self.passage = Passage(layout.rows, self.next_number)
        if not layout.is_timing_only:
            self.backlog.follower = self.passage
        return self.backlog

    # -- joining -----------------------------------------------------------------------------------------------

    def link_up(self, now: float, link: Link) -> None:
        self.told, self._introduced = None, False
        super().link_up(now, link)

    def follow(self, policy: Policy) -> None:
        ours = self._relay.policy_name
        if policy.name != ours:
            self.fail(
                ConfigError(
                    f"relay {self.name}: expected the policy of the server above, {policy.name}, got {ours}; "
                    f"start it with --policy {policy.name}"
                )
            )
            return
        if not isinstance(self.rule, UpstreamRule):
            self.rule = UpstreamRule(self)
        self.policy = self.rule.welcomed(policy)
        self.told = None  # who has waited until now was not listened to
        self.tell_leaves()

    def say(self, message: Message) -> None:
        """See :class:`WorkerCore`; behind its introduction a relay says what is below it."""
        super().say(message)
        if isinstance(message, Hello):
            self._introduced = True
            self.tell_leaves()

    def tell_leaves(self) -> None:
        """Tell the server above how many workers are below, unless it knows."""
        told = Subtree(self._relay.leaves(), (self.client.session, *self._relay.sessions_below()))
        if self.link is not None and self._introduced and told != self.told:
            self.told = told
            self.say(told)

    def start(self, now: float) -> None:
        self._relay.joined_above(now)
        super().start(now)

    def read_own_writes(self) -> None:
        """Nobody computes from these parameters."""

    def heard_horizon(self) -> None:
        """The server above has told how fresh this relay is."""
        self._relay.heard_horizon()

    # -- the team's batch --------------------------------------------------------------------------------------

    def share_of(self, supply: Supply) -> Share | None:
        """See :class:`rowcast.training.above.Above`."""
        self.supplier.tell(supply)
        told = self.supplier.share
        return None if told is None else Share(told, self.supplier.team_rate)

    def _on_share(self, now: float, message: Message) -> None:
        self.supplier.on_share(now, message)
        self._relay.heard_share()

    # -- an iteration ------------------------------------------------------------------------------------------

    def take(self, codec: Codec, message: Rows) -> None:
        """Rows of a worker below are to be sent on, as part of a sum."""
        if self.layout.is_timing_only:
            self.pending[message.rows] += 1
        elif len(message.payload):
            codec.add(self.layout, message.payload, message.rows, self.pending, 1.0)
        else:
            return
        self.backlog.touch(message.rows)

    def exchange_sum(self, now: float, size: float, momentum: float) -> None:
        """Everything of the next iteration is here from below.

        Args:
            now: time (s).
            size: sum |.| of what a worker below has contributed to it, on the average.
            momentum: of the inner optimizers below.
        """
        self.iteration += 1
        self.delivered.finish(self.iteration)
        self.contribution.size = size
        self.inner_momentum = momentum
        self.step.proposed = now
        self.step.skipped = size <= 0.0
        self.rule.exchange(now)

    def compute(self, now: float) -> None:
        self.state = WorkerState.COMPUTING
        self.done_step, self.step = self.step, Step(started=now)
