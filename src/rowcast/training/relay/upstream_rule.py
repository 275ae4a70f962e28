"""When the rows of a relay travel up, and what it hears from above of how fresh it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from rowcast.training.rules.streamed_worker import StreamedWorker
from rowcast.wire import Message

if TYPE_CHECKING:
    from rowcast.training.relay.upstream import Upstream

__all__ = ["UpstreamRule"]


class UpstreamRule(StreamedWorker):
    """A worker's side of rows that are streamed, at a relay: what it is told holds for all below."""

    def _on_horizon(self, now: float, message: Message) -> None:
        super()._on_horizon(now, message)
        cast("Upstream", self.node).heard_horizon()

    def apart(self, now: float) -> bool:
        """Nobody above waits for this relay, as far as it can know."""
        return self.told is not None and self._in_outage(now, self.told)
