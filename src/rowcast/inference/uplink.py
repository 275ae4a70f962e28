"""Row frames on their way to the server: their numbers, what has arrived, and the rate that this tells."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from rowcast.errors import RemoteProtocolError
from rowcast.inference.outcome import Spent
from rowcast.planning import RateEstimator
from rowcast.wire import Rows
from rowcast.wire.frames import frame_bytes

__all__ = ["Uplink"]

#: Acknowledgements closer together than this (s) are counted as one: their spacing tells nothing about the link.
GRAIN_S = 0.0005
#: The round trip is the shortest of so many bursts.
TRIPS = 8


@dataclass(frozen=True)
class _Frame:
    number: int
    order: int
    size: int
    spent: Spent


class Uplink:
    """Counts frames on each stream of one connection, and measures the link.

    In a burst the first acknowledgement comes a round trip later than its bytes took, and each further one as many
    bytes later as it acknowledges. So a round trip is taken off the first, which is known from bursts before it.

    Args:
        delivered: called with the time (s), so many bytes that have arrived since the last call, and the seconds of
            the link that they took; 0 bytes where none arrived in that time.

    Attributes:
        rate_bps: what was measured lately (bit/s); 0 before the first time.
        round_trip_s: the shortest lately (s); 0 before the first.
    """

    def __init__(self, delivered: Callable[[float, int, float], None]) -> None:
        self.rate_bps = self.round_trip_s = 0.0
        self._rate = RateEstimator(1.0)
        self._delivered = delivered
        self._trips: deque[float] = deque(maxlen=TRIPS)
        self._counts: dict[int, int] = {}
        self._flight: dict[int, deque[_Frame]] = {}
        self._in_flight = 0
        self._waiting: Spent | None = None  # rows of it are ready, and the link has not taken any
        self._busy_since = self._told_at = self._charged_at = 0.0
        self._untold = self._acked = self._sent = 0
        self._first: tuple[float, int] | None = None  # of this burst: when an acknowledgement came, bytes up to it

    def ready(self, now: float, spent: Spent) -> None:
        """Rows of an inference are there to be sent: from now on it is the link that they wait for."""
        if not self._in_flight and self._waiting is None:
            self._waiting = spent
            self._told_at = self._charged_at = now

    def withdrawn(self, now: float, spent: Spent) -> None:
        """No more rows of an inference are to be sent."""
        self.look(now)
        if self._waiting is spent:
            self._waiting = None

    def send(self, now: float, rows: Rows, spent: Spent) -> Rows:
        """The frame as it is sent now, on behalf of an inference."""
        number = self._counts[rows.stream] = self._counts.get(rows.stream, 0) + 1
        size = frame_bytes(rows)
        if not self._in_flight:
            self.look(now)
            self._waiting = None
            self._busy_since, self._told_at = now, now + self.round_trip_s
            self._charged_at = now
            self._untold = self._acked = 0
            self._first = None
        self._in_flight += size
        spent.up_bytes += size
        self._sent += 1
        self._flight.setdefault(rows.stream, deque()).append(_Frame(number, self._sent, size, spent))
        return rows.numbered(number)

    def acknowledged(self, now: float, number: int, stream: int) -> None:
        """All frames of a stream up to a number have arrived.

        Raises:
            RemoteProtocolError: frames that were not sent.
        """
        sent = self._counts.get(stream, 0)
        if number > sent:
            raise RemoteProtocolError(
                f"expected an acknowledgement of at most frame {sent} on stream {stream}, got one of {number}"
            )
        self._charge(now)
        waiting = self._flight.get(stream, deque())
        while waiting and waiting[0].number <= number:
            frame = waiting.popleft()
            self._in_flight -= frame.size
            self._acked += frame.size
            self._untold += frame.size
        if not self._untold:
            return
        if self._first is None:
            self._first = now, self._acked
        if not self._in_flight:
            self._measure_trip(now)
        if now - self._told_at >= GRAIN_S or not self._in_flight:
            self._tell(now, max(now - self._told_at, GRAIN_S / 10))

    def _charge(self, now: float) -> None:
        """The link was busy until now for the oldest frame that is on its way, or did not take the first one."""
        oldest = min((sent[0] for sent in self._flight.values() if sent), key=lambda frame: frame.order, default=None)
        spent = self._waiting if oldest is None else oldest.spent
        if spent is not None:
            spent.sending_s += now - self._charged_at
            self._charged_at = now

    def _measure_trip(self, now: float) -> None:
        """The burst is over: what its first acknowledgement took beyond its bytes."""
        assert self._first is not None
        first_at, first_bytes = self._first
        if now - first_at >= GRAIN_S:
            byte_s = (now - first_at) / (self._acked - first_bytes)
            self._trips.append(max(first_at - self._busy_since - first_bytes * byte_s, 0.0))
            self.round_trip_s = min(self._trips)

    def _tell(self, now: float, seconds: float) -> None:
        self._rate.delivered(now, self._untold, seconds)
        self.rate_bps = self._rate.rate_bps(now)
        self._delivered(now, self._untold, seconds)
        self._untold, self._told_at = 0, now

    def look(self, now: float) -> None:
        """Count and tell what there is by now: also that bytes are on their way, or wait, and nothing arrives."""
        self._charge(now)
        if (self._in_flight or self._waiting is not None) and now - self._told_at >= GRAIN_S:
            self._tell(now, now - self._told_at)

    def lost(self, now: float) -> None:
        """The connection has ended."""
        self.look(now)
        self._counts, self._flight, self._in_flight, self._waiting = {}, {}, 0, None
