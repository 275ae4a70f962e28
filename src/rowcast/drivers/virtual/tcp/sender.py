"""The sending end of a TCP stream: segments, time-outs, and what is sent again."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator

from rowcast.drivers.virtual.tcp.congestion import Cubic

__all__ = ["SEGMENT_BYTES", "Segment", "Sender"]

#: What TCP puts into a packet of 1,500 bytes beside a head of 52 bytes (IPv4, time stamps): bytes of the stream.
SEGMENT_BYTES = 1448
#: The least and the longest that is waited beyond the round trip before everything is taken to be lost (s), as Linux
#: has it; RFC 6298 says a second at least.
LEAST_TIMEOUT_S, LONGEST_TIMEOUT_S = 0.2, 120.0
#: Before a round trip was measured (RFC 6298, 2.1).
FIRST_TIMEOUT_S = 1.0
#: Round trips are measured in these (s), as Linux does.
TICK_S = 1e-6
#: For the probe of a lost tail (RFC 8985, 7.2), beyond two round trips: what an acknowledgement of a single segment may
#: wait at the other end, and the grain of the timers, two ticks of 1000 Hz (s).
LATE_ACK_S, GRAIN_S = 0.2, 0.002


class Segment:
    """A segment that is on its way, or was, and is not acknowledged.

    Attributes:
        begin, end: its bytes in the stream.
        sent_at: when it was sent last (s); ``order``: as which of all that were sent.
        again: it was sent more than once.
        arrived: the other end has it, and not what is before it.
        lost: it is to be sent again.
    """

    __slots__ = ("again", "arrived", "begin", "end", "lost", "order", "sent_at")

    def __init__(self, begin: int, end: int) -> None:
        self.begin = begin
        self.end = end
        self.sent_at = 0.0
        self.order = 0
        self.again = self.arrived = self.lost = False


class Sender:
    """Sends a stream of bytes once, whatever gets lost.

    Congestion window: CUBIC. Losses: the network keeps the order, so what was sent before something that has arrived,
    and has not, is lost (RACK, RFC 8985, without its time for packets that overtake others). A tail that is lost, so
    that nothing arrives behind it, is found by a probe after two round trips (TLP, RFC 8985), and by the time-out (RFC
    6298) that doubles each time. A time-out after which segments arrive that were not sent again was none (F-RTO, RFC
    5682).

    Attributes:
        congestion: the congestion window.
        end: bytes that were handed over.
        acknowledged: bytes that the other end has told to have.
        due: when :meth:`timer` is to be called (s).
        sent_again: segments.
    """

    def __init__(self) -> None:
        self.congestion = Cubic()
        self.end = self.acknowledged = 0
        self.due = math.inf
        self.sent_again = 0
        self._timeout_at = math.inf
        self._next = 0  # the first byte that was never sent
        self._flight: deque[Segment] = deque()
        self._arrived = self._lost = 0  # segments of those
        self._order = 0
        self._newest = 0  # the order of what has arrived and was sent last
        self._round_trip_s: float | None = None
        self._varies_s = 0.0
        self._shortest_s = math.inf
        self._backoff = 0
        self._recover = 0  # losses before this byte are of one window
        self._timed_out_at = 0  # order of the newest segment when a time-out was; 0: none is to be made good
        self._probing = 0  # a probe was sent when so many bytes were
        self._probe_next = False
        self._limited = False
        self._most_in_flight = 0
        self._round = 0  # when this byte is acknowledged, a round trip is over
        self._quiet_since = 0.0

    @property
    def unsent(self) -> int:
        """Bytes that wait to be sent for the first time."""
        return self.end - self._next

    @property
    def in_flight(self) -> int:
        """Segments that are taken to be on their way."""
        return len(self._flight) - self._arrived - self._lost

    @property
    def timeout_s(self) -> float:
        """After this everything on the way is taken to be lost (s)."""
        trip_s = self._round_trip_s
        usual = FIRST_TIMEOUT_S if trip_s is None else trip_s + max(4 * self._varies_s, LEAST_TIMEOUT_S)
        return float(min(usual * 2.0**self._backoff, LONGEST_TIMEOUT_S))

    def measured(self, round_trip_s: float) -> None:
        """A round trip was measured (RFC 6298, 2.2 and 2.3)."""
        self._shortest_s = min(self._shortest_s, round_trip_s)
        if self._round_trip_s is None:
            self._round_trip_s, self._varies_s = round_trip_s, round_trip_s / 2
            return
        self._varies_s += (abs(self._round_trip_s - round_trip_s) - self._varies_s) / 4
        self._round_trip_s += (round_trip_s - self._round_trip_s) / 8

    def write(self, now: float, size: int) -> None:
        """``size`` bytes more are to be sent."""
        if self._next == self.end and not self._flight and now - self._quiet_since > self.timeout_s:
            self.congestion.idle((now - self._quiet_since) / self.timeout_s)
        self.end += size

    def take(self, now: float, room: int = SEGMENT_BYTES) -> Segment | None:
        """The next segment that may be sent, with ``room`` bytes at most; ``None``: nothing may."""
        probe, self._probe_next = self._probe_next, False
        if not probe and self.in_flight >= int(self.congestion.window):
            self._limited = self._limited or self._next < self.end or self._lost > 0
            return None
        segment = self._again(probe)
        if segment is None:
            if self._next == self.end:
                return None
            segment = Segment(self._next, min(self._next + room, self.end))
            self._next = segment.end
            self._flight.append(segment)
        self._order += 1
        segment.order, segment.sent_at = self._order, now
        self._quiet_since = now
        if self.in_flight > self._most_in_flight:
            self._most_in_flight = self.in_flight
        if self._timeout_at == math.inf:
            self._timeout_at = now + self.timeout_s
        self._arm(now)
        return segment

    def _again(self, probe: bool) -> Segment | None:
        """What is to be sent again next."""
        found = None
        if self._lost:
            found = next(segment for segment in self._flight if segment.lost)
            found.lost = False
            self._lost -= 1
        elif probe and self._next == self.end:
            found = next((segment for segment in reversed(self._flight) if not segment.arrived), None)
        if found is not None:
            found.again = True
            self.sent_again += 1
        return found

    def acknowledge(self, now: float, upto: int, blocks: Iterable[tuple[int, int]] = ()) -> None:
        """The other end tells that it has all bytes before ``upto``, and those of ``blocks``."""
        arrived = self._take_in(now, upto, blocks)
        if not arrived:
            return
        if self._timed_out_at and any(not one.again and one.order <= self._timed_out_at for one in arrived):
            self._nothing_was_lost()
        if self._arrived or any(one.again for one in arrived):
            self._find_losses()
        if self.acknowledged >= self._recover:
            self._timed_out_at = 0
        recovers = self.acknowledged < self._recover and not self._timed_out_at
        if self._grows() and not recovers:
            self.congestion.acknowledged(now, len(arrived), self._round_trip_s or 0.0)
        if self.acknowledged >= self._round:
            self._limited, self._most_in_flight, self._round = False, self.in_flight, self._next
        if self.acknowledged >= self._probing:
            self._probing = 0
        self._arm(now)

    def _grows(self) -> bool:
        """Whether the window is what limits this sender; in slow start up to twice of what is used."""
        congestion = self.congestion
        if congestion.window < congestion.threshold:
            return congestion.window < 2 * self._most_in_flight
        return self._limited

    def _take_in(self, now: float, upto: int, blocks: Iterable[tuple[int, int]]) -> list[Segment]:
        """Segments of which it was not known that they have arrived."""
        found, flight = [], self._flight
        while flight and flight[0].end <= upto:
            segment = flight.popleft()
            if segment.lost:
                self._lost -= 1
            if segment.arrived:
                self._arrived -= 1
            else:
                found.append(segment)
        if upto > self.acknowledged:
            self.acknowledged = upto
            self._backoff = 0
            self._timeout_at = now + self.timeout_s if flight else math.inf
        for begin, end in blocks:
            found += self._take_in_block(begin, end)
        self._learn(now, found)
        return found

    def _take_in_block(self, begin: int, end: int) -> Iterator[Segment]:
        """Segments of a range that has arrived behind a gap."""
        for segment in self._flight:
            if segment.begin >= end:
                return
            if segment.begin >= begin and not segment.arrived:
                segment.arrived = True
                self._arrived += 1
                if segment.lost:
                    segment.lost = False
                    self._lost -= 1
                yield segment

    def _learn(self, now: float, arrived: Iterable[Segment]) -> None:
        """What segments that have arrived tell of the round trip, and of what was sent before them."""
        trip_s = -1.0
        for segment in arrived:
            took_s = now - segment.sent_at
            if not segment.again:
                trip_s = max(trip_s, took_s)
            elif took_s < self._shortest_s - TICK_S:
                continue  # it cannot be the answer to what was sent last
            if segment.order > self._newest:
                self._newest = segment.order
        if trip_s >= 0.0:
            self.measured(trip_s)

    def _find_losses(self) -> None:
        """What was sent before the newest of all that arrived, and has not arrived, is lost."""
        newest, found = self._newest, False
        for segment in self._flight:
            if segment.order < newest and not segment.arrived and not segment.lost:
                segment.lost = found = True
                self._lost += 1
        if found and self.acknowledged >= self._recover:
            self.congestion.lost()
            self._recover = self._next

    def _nothing_was_lost(self) -> None:
        """The time-out was none: what waits was on its way all the time."""
        self._timed_out_at = 0
        self.congestion.undo()
        for segment in self._flight:
            segment.lost = False
        self._lost = 0
        self._recover = self.acknowledged

    def timer(self, now: float) -> None:
        """The time :attr:`due` has come: what :meth:`take` gives now is sent although nothing was acknowledged."""
        if now < self.due:
            return
        if not self._flight:
            self.due = math.inf
            return
        if self._probes:
            self._probing, self._probe_next = max(self._next, 1), True
            self.due = self._timeout_at = now + self.timeout_s
            return
        for segment in self._flight:
            if not segment.arrived and not segment.lost:
                segment.lost = True
                self._lost += 1
        if not self._timed_out_at:
            self.congestion.timed_out(len(self._flight))
        self._timed_out_at = self._order
        self._recover = self._next
        self._backoff += 1
        self._probing = 0
        self.due = self._timeout_at = now + self.timeout_s

    @property
    def _probes(self) -> bool:
        """Whether a lost tail is looked for by a probe, before the time-out."""
        return not (self._lost or self._arrived or self._probing or self._timed_out_at or self._backoff)

    def _arm(self, now: float) -> None:
        if not self._flight:
            self.due = math.inf
            return
        self.due = self._timeout_at
        if self._round_trip_s is not None and self._probes:
            wait_s = 2 * self._round_trip_s + (LATE_ACK_S if len(self._flight) == 1 else GRAIN_S)
            self.due = min(self.due, now + wait_s)
