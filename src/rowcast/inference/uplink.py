"""Row frames on their way to the server: their numbers, what has arrived, and the rate that this tells."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Protocol

from rowcast.errors import RemoteProtocolError
from rowcast.inference.outcome import Spent
from rowcast.wire import Rows
from rowcast.wire.frames import frame_bytes

__all__ = ["RateSink", "Uplink"]

#: Acknowledgements closer together than this tell nothing about the link (s).
GRAIN_S = 0.0005


class RateSink(Protocol):
    """Who is told what the link has delivered."""

    def delivered(self, now: float, size: int, seconds: float) -> None:
        """``size`` bytes took ``seconds`` of the link, half a round trip excluded."""

    def round_trip(self, now: float, seconds: float) -> None:
        """So long after a frame that found the link idle was sent its acknowledgement came, its bytes excluded (s)."""


@dataclass(frozen=True)
class _Frame:
    number: int
    size: int
    sent_at: float
    spent: Spent


class Uplink:
    """Counts frames on each stream of one connection, and measures.

    The first acknowledgement of a burst comes a round trip later than its bytes took, and each further one as many
    bytes later as it acknowledges: so the rate is that between the first and the last.

    Args:
        sink: told of rates.
    """

    def __init__(self, sink: RateSink) -> None:
        self._sink = sink
        self._counts: dict[int, int] = {}
        self._flight: dict[int, deque[_Frame]] = {}
        self._busy_since = 0.0
        self._in_flight = 0
        self._burst_bytes = 0
        self._first_ack: tuple[float, int] | None = None  # when it came, bytes up to it
        self._acked = 0

    @property
    def idle(self) -> bool:
        """Everything has arrived."""
        return not self._in_flight

    def send(self, now: float, rows: Rows, spent: Spent) -> Rows:
        """The frame as it is sent now, on behalf of an inference."""
        number = self._counts[rows.stream] = self._counts.get(rows.stream, 0) + 1
        size = frame_bytes(rows)
        if not self._in_flight:
            self._busy_since, self._first_ack, self._acked = now, None, 0
        self._in_flight += size
        spent.up_bytes += size
        self._flight.setdefault(rows.stream, deque()).append(_Frame(number, size, now, spent))
        return rows.numbered(number)

    def acknowledged(self, now: float, number: int, stream: int) -> None:
        """All frames of a stream up to a number have arrived.

        Raises:
            RemoteProtocolError: frames that were not sent.
        """
        if not number <= self._counts.get(stream, 0):
            raise RemoteProtocolError(
                f"expected an acknowledgement of at most frame {self._counts.get(stream, 0)} on stream {stream}, got "
                f"one of {number}"
            )
        waiting = self._flight.get(stream, deque())
        size, spent = 0, None
        while waiting and waiting[0].number <= number:
            frame = waiting.popleft()
            size, spent = size + frame.size, frame.spent
        if spent is None:
            return
        self._in_flight -= size
        self._acked += size
        if self._first_ack is None:
            self._first_ack = now, self._acked
        if not self._in_flight:
            self._measure(now, spent)

    def _measure(self, now: float, spent: Spent) -> None:
        """The link is idle again."""
        assert self._first_ack is not None
        spent.sending_s += now - self._busy_since
        first_at, first_bytes = self._first_ack
        between_s, between = now - first_at, self._acked - first_bytes
        if between and between_s >= GRAIN_S:
            self._sink.delivered(now, between, between_s)
            self._sink.round_trip(now, max(first_at - self._busy_since - first_bytes * between_s / between, 0.0))
        else:
            self._sink.delivered(now, self._acked, now - self._busy_since)

    def interrupted(self, now: float) -> None:
        """What is on its way has been given up, or the link is gone: what was delivered so far is news as well."""
        if self._in_flight and now > self._busy_since:
            self._sink.delivered(now, self._acked, now - self._busy_since)

    def lost(self, now: float) -> None:
        """The connection has ended."""
        self.interrupted(now)
        self._counts, self._flight, self._in_flight = {}, {}, 0
