"""Time at the worker: heartbeats, silence of the server, links that are stuck."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rowcast.errors import LinkLost
from rowcast.session.liveness import Progress
from rowcast.training.joining import Joining
from rowcast.training.worker_state import WorkerState
from rowcast.wire import Heartbeat
from rowcast.wire.frames import message_bytes

if TYPE_CHECKING:
    from rowcast.training.core import WorkerCore

__all__ = ["WorkerWatch"]


class WorkerWatch:
    """Says when something is due, and does it.

    Args:
        node: the worker.
        joining: knows whether it has introduced itself, and when its next heartbeat is due.
    """

    def __init__(self, node: WorkerCore, joining: Joining) -> None:
        self._node = node
        self._joining = joining
        self._progress = Progress(node.settings.stuck_limit_s, node.settings.heartbeat_s)

    def next_wake(self, before: float = math.inf) -> float | None:
        """When :meth:`on_timer` must be called (s); ``None``: not before the time ``before``.

        Who has a timer already asks whether there must be an earlier one: that is answered with less work.
        """
        node, link = self._node, self._node.link
        if link is None or node.state is WorkerState.DONE:
            connect_at = node.connect_at
            return connect_at if connect_at is not None and connect_at < before else None
        # A byte now and then is no proof.
        settings, client, sending = node.settings, node.client, node.rule.sending
        due = before
        if self._joining.introduced and self._joining.heartbeat_due < due:
            due = self._joining.heartbeat_due
        if not (client.welcomed or client.proven):
            due = min(due, link.opened_at + settings.silence_limit_s)
        elif link.may_be_silent_before(due, settings.silence_limit_s):
            due = min(due, link.silent_at(settings.silence_limit_s))
        if link.decoder.begun or sending.may_be_stuck_before(due, settings.stuck_limit_s):
            due = min(due, self._progress.due_at(link, sending, node.inbox.received))
        if client.welcomed and (wake_at := node.rule.wake_at()) < due:
            due = wake_at
        return due if due < before else None

    def on_timer(self, now: float) -> None:
        """Time passed.

        Raises:
            LinkLost: the server has been silent for too long, or the link is stuck.
        """
        node, joining = self._node, self._joining
        node.woken_at = now
        node.rule.on_timer(now)
        link, settings = node.link, node.settings
        if link is None:
            return
        if link.is_silent(now, settings.silence_limit_s, settings.heartbeat_s):
            raise LinkLost(f"nothing came from the server for {settings.silence_limit_s:g} s")
        if not node.proven and now >= link.opened_at + settings.silence_limit_s:
            raise joining.doubt(now, f"no proof came for {settings.silence_limit_s:g} s")
        if (cause := self._progress.cut(now, link, node.rule.sending, node.inbox.received)) is not None:
            raise LinkLost(cause)
        # Also before the welcome: if the hello got lost, the next frame tells.
        if joining.introduced and now >= joining.heartbeat_due:
            # The rate comes first: it is needed, and a message has room for 64 figures.
            metrics = {"rate_bps": node.outbox.meter.rate_bps(now), **node.metrics}
            heartbeat = Heartbeat(metrics, link.decoder.arrived)
            # On a link that is so slow, heartbeats leave at least half of it to the rows that they overtake.
            link_s = message_bytes(heartbeat) * 8 / node.outbox.meter.usual_bps
            joining.heartbeat_due = now + max(settings.heartbeat_s, 2 * link_s)
            link.say(heartbeat)
