"""Whether a peer gets on with what is on its way to it, and from it: a link that lives may still be stuck.

Heartbeats tell that the other end lives. They do not tell that rows arrive there: an acknowledgement may have been
lost although the connection stands. So there are two limits more, in both directions:

* Row frames were sent, and nothing is acknowledged.
* A frame has begun to arrive, and is not finished.

A slow transfer that makes progress is neither. For the first, the peer tells with its heartbeats how many bytes have
arrived; for the second, they are counted here.
"""

from __future__ import annotations

import math
from collections.abc import Hashable

from rowcast.delivery.source import Sending
from rowcast.session.link import Link
from rowcast.session.timeout import ConfirmedTimeout

__all__ = ["Progress", "Streak"]

#: Acknowledgements may take so many times what was measured: bytes on their way by rate, and a round trip.
MARGIN = 4.0
#: A frame is not stuck when it will be whole within so many times the limit, at the pace at which it comes.
FRAME_LIMITS = 10.0
#: The limit doubles with each cut, up to so many times.
MOST_PATIENCE = 1024


class Streak:
    """How often something happened in a row, with nothing delivered in between."""

    def __init__(self) -> None:
        self._count = 0
        self._mark: Hashable = None

    def add(self, mark: Hashable) -> int:
        """It happened again; ``mark`` is another one whenever something was delivered. Returns how often so far."""
        self._count = self.length(mark) + 1
        self._mark = mark
        return self._count

    def length(self, mark: Hashable) -> int:
        """How often it happened since something was last delivered."""
        return self._count if mark == self._mark else 0


class Progress:
    """Watches what is on its way between a node and one peer, over all of its connections.

    The limit doubles with each cut that it causes, until something is delivered: a link so slow that one frame takes
    longer than the limit gets that frame through in the end.

    Before it cuts, :class:`~rowcast.session.timeout.ConfirmedTimeout` asks twice: what tells of progress may have
    arrived and not been read yet.

    Args:
        limit_s: ``stuck_limit_s`` of the settings; ``inf``: there is no limit.
        heartbeat_s: the peer says something so often.
    """

    def __init__(self, limit_s: float = math.inf, heartbeat_s: float = 0.0) -> None:
        self._limit_s = limit_s
        self._heartbeat_s = heartbeat_s
        self._timeout = ConfirmedTimeout()
        self._cuts = Streak()

    def due_at(self, link: Link, outbox: Sending, received: int) -> float:
        """When the link is stuck, if nothing happens until then (s).

        Args:
            link: the connection.
            outbox: what is sent to the peer.
            received: number of the last row frame that came from it.
        """
        return self._timeout.due_at(self._over_at(link, outbox, received))

    def _over_at(self, link: Link, outbox: Sending, received: int) -> float:
        """When the limit is over (s)."""
        settled, begun = outbox.settled, link.decoder.begun
        if settled and not begun:
            return math.inf
        limit_s = self._patience_s(outbox, received)
        over_at = math.inf if settled else _unacknowledged_at(link, outbox, limit_s)
        return min(over_at, _unfinished_at(link, limit_s)) if begun else over_at

    def cut(self, now: float, link: Link, outbox: Sending, received: int) -> str | None:
        """Why the connection must be closed, or ``None``; see :meth:`due_at`."""
        if not self._timeout.is_over(now, self._over_at(link, outbox, received), self._heartbeat_s):
            return None
        self._timeout.clear()
        limit_s = self._patience_s(outbox, received)
        self._cuts.add((outbox.delivered, received))
        if (since := link.unfinished_since) is not None and now >= _unfinished_at(link, limit_s):
            here, announced = link.decoder.unfinished
            return f"stuck: {here} of {announced} bytes of a frame came in {now - since:.3g} s"
        return f"stuck: {outbox.in_flight} bytes sent, nothing acknowledged for {now - outbox.moved_at:.3g} s"

    def _patience_s(self, outbox: Sending, received: int) -> float:
        cuts = self._cuts.length((outbox.delivered, received))
        return self._limit_s * min(2.0 ** min(cuts, 60), MOST_PATIENCE) if cuts else self._limit_s


def _unacknowledged_at(link: Link, outbox: Sending, limit_s: float) -> float:
    """When it has taken too long that nothing is acknowledged of what is on its way (s)."""
    usual_s = outbox.in_flight * 8 / outbox.meter.usual_bps + outbox.meter.round_trip_s + outbox.meter.late_s
    return max(outbox.moved_at, link.arrived_at, link.occupied_at) + max(limit_s, MARGIN * usual_s)


def _unfinished_at(link: Link, limit_s: float) -> float:
    """When it has taken too long that the frame that has begun is not whole (s)."""
    since = link.unfinished_since
    if since is None:
        return math.inf
    here, announced = link.decoder.unfinished
    return since + limit_s * max(1.0, FRAME_LIMITS * here / announced if link.decoder.vouched else 0.0)
