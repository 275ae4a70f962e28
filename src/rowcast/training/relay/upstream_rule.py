"""When the rows of a relay travel up, and what it hears from above of how fresh it is."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rowcast.training.rules.downstream import CHOOSE_FRAMES
from rowcast.training.rules.streamed_worker import StreamedWorker
from rowcast.wire import Message

if TYPE_CHECKING:
    from rowcast.training.relay.upstream import Upstream

__all__ = ["UpstreamRule"]


class UpstreamRule(StreamedWorker):
    """A worker's side of rows that are streamed, at a relay: what it is told holds for all below.

    Rows are chosen when an iteration is finished, as at a worker, and as often as new ones have come from below and all
    that were chosen before are sent.
    """

    node: Upstream

    def __init__(self, node: Upstream) -> None:
        super().__init__(node)
        self._choose_at = -math.inf
        self._last_step_s = math.inf

    def _on_horizon(self, now: float, message: Message) -> None:
        super()._on_horizon(now, message)
        self.node.heard_horizon()

    def apart(self, now: float) -> bool:
        """Nobody above waits for this relay, as far as it can know."""
        return self.told is not None and self._in_outage(now, self.told)

    # -- what is sent ------------------------------------------------------------------------------------------

    @property
    def busy(self) -> bool:
        return super().busy or self.node.backlog.news

    def before_frame(self, now: float) -> None:
        node, step_s = self.node, self._step_s
        super().before_frame(now)
        if step_s is not None:
            node.backlog.news = False
            self._last_step_s = step_s
            self._choose_at = now + CHOOSE_FRAMES * node.frame_s

    def refine(self, now: float) -> bool:
        if self._news_wait(now):
            if now < self._choose_at:
                return False
            self._choose_before_next_frame(now, self._last_step_s)
            self.before_frame(now)
            return True
        return super().refine(now)

    def _news_wait(self, now: float) -> bool:
        """Whether rows have come from below that are not chosen, and all that were chosen are sent."""
        transfer = self.node.outbox.transfer
        return self.node.backlog.news and (transfer is None or transfer.refining or transfer.finished(now))

    def wake_at(self) -> float:
        woken_at, due = self.node.woken_at, super().wake_at()
        return min(due, self._choose_at) if self._choose_at > woken_at and self._news_wait(woken_at) else due
