"""A scripted link that carries the bytes of the wire format, and what a script does to them on the way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rowcast.drivers.virtual.clock import Clock
from rowcast.links import Trace
from rowcast.session import Link
from rowcast.wire import Message, Rows

__all__ = ["Connection", "Pipe"]

#: Where the kind of a frame stands in its header.
KIND_AT = 3


class Connection:
    """One connection between a worker and the server.

    Attributes:
        alive: it stands.
        frozen: nothing arrives on it any more, and nobody is told (a half-open connection).
    """

    def __init__(self, worker_link: Link, server_link: Link) -> None:
        self.worker_link = worker_link
        self.server_link = server_link
        self.alive = True
        self.frozen = False


@dataclass(eq=False)
class _Flight:
    """A frame on its way.

    Attributes:
        begun, done: when its first byte arrives, and its last (s).
        data: its bytes; ``given``: so many of them have arrived.
    """

    begun: float
    done: float
    data: bytes
    given: int = 0

    def place(self, now: float) -> int:
        """How many of its bytes have arrived by some time (s)."""
        part = 1.0 if self.done <= self.begun else (now - self.begun) / (self.done - self.begun)
        return int(min(max(part, 0.0), 1.0) * len(self.data))


class Pipe:
    """One direction of a worker's link, over all of its connections.

    Args:
        clock: the time.
        delay_s: how long each byte is on its way beyond that (s).
        doubles: whether a row frame arrives twice, drawn for each.

    Attributes:
        carried: bytes that came to its end.
        cuts: (bytes that still arrive, seconds until the link is back), counted as :attr:`carried`.
        harm: (first byte, byte behind the last, bits that are flipped; 0: the byte gets lost).
        connection: the one that stands, or the last one.
        deliver, cut, idle: called with what arrives; when a scripted cut is due, with the seconds until the link is
            back; and when the link is free for more.
    """

    deliver: Callable[[bytes], None]
    cut: Callable[[float], None]
    idle: Callable[[], None]

    def __init__(self, clock: Clock, delay_s: float, doubles: Callable[[], bool]) -> None:
        self.carried = 0
        self.cuts: list[tuple[int, float]] = []
        self.harm: list[tuple[int, int, int]] = []
        self.connection: Connection | None = None
        self._clock = clock
        self._delay_s = delay_s
        self._doubles = doubles
        self._free_at = 0.0
        self._link: Link
        self._trace: Trace
        self._on_air: list[_Flight] = []
        self._stalled_until = 0.0

    def open(self, connection: Connection, link: Link, trace: Trace) -> None:
        """A connection is made; ``link`` is its end that sends, ``trace`` what it carries."""
        self.connection = connection
        self._trace = trace
        self._link = link
        self._free_at = 0.0

    def stall(self, now: float, until: float) -> None:
        """Nothing passes until some time (s), and nobody is told; what is on the air stops, in the middle of a frame.

        It holds for connections that are made meanwhile as well.
        """
        longer_s = until - max(now, self._stalled_until)
        if longer_s <= 0:
            return
        self._stalled_until = until
        for flight in list(self._on_air):
            place = flight.place(now)
            if flight.done > now:
                flight.begun, flight.done = flight.begun + longer_s, flight.done + longer_s
            self._give(flight, place)
        if self._free_at > now:
            self._free_at += longer_s
        else:
            self._free_at = until
            self._clock.at(until, self._is_free, self.connection)

    def follow(self, trace: Trace) -> None:
        """Frames are carried at another rate from the next one on, until a connection is made."""
        self._trace = trace

    def middle(self, now: float) -> float | None:
        """When a frame of rows that is on the air has arrived in half (s); ``None``: there is none, or it has."""
        rows = (each for each in self._on_air if each.data[KIND_AT] == Rows.KIND and each.begun < each.done)
        return min((mid for each in rows if (mid := (each.begun + each.done) / 2) > now), default=None)

    # -- as the engine sees it (rowcast.drivers.virtual.engine.Direction) -----------------------------------------

    def takes(self, now: float) -> bool:
        return self._free_at <= now

    def carry(self, now: float, message: Message, data: bytes | None = None) -> None:
        """Take a message along; ``data`` is its frame where that was made before."""
        connection, encoder = self.connection, self._link.encoder
        data = encoder.encode(message) if data is None else data
        if isinstance(message, Rows) and self._doubles():
            data += encoder.encode(message)
        begun = max(now, self._stalled_until)
        done = self._free_at = self._trace.finish(begun, 8 * len(data))
        flight = _Flight(begun + self._delay_s, done + self._delay_s, data)
        self._on_air.append(flight)
        self._clock.at(flight.done, self._land, connection, flight)
        self._clock.at(done, self._is_free, connection)

    def _land(self, connection: Connection | None, flight: _Flight) -> None:
        """A frame has arrived, unless it was stopped on its way."""
        if connection is not self.connection or connection is None or not connection.alive or connection.frozen:
            return
        if flight.done > self._clock.now:
            self._clock.at(flight.done, self._land, connection, flight)
            return
        self._on_air.remove(flight)
        self._arrive(flight.data[flight.given :])

    def _is_free(self, connection: Connection | None) -> None:
        if connection is not self.connection or connection is None or not connection.alive:
            return
        if self._free_at > self._clock.now:
            self._clock.at(self._free_at, self._is_free, connection)
        else:
            self.idle()

    # -- what comes out ----------------------------------------------------------------------------------------

    def break_off(self, now: float) -> None:
        """The connection ends: what is on the air arrives as far as it got, in the middle of a frame if need be."""
        on_air, self._on_air = self._on_air, []
        for flight in on_air if self.connection is not None and not self.connection.frozen else ():
            self._give(flight, flight.place(now))

    def _give(self, flight: _Flight, place: int) -> None:
        """What of a frame has come out so far arrives now."""
        if place > flight.given:
            self.deliver(self._spoil(flight.data[flight.given : place]))
            flight.given = place

    def _arrive(self, data: bytes) -> None:
        """All bytes come out, or as many as a scripted cut leaves."""
        due = min((cut for cut in self.cuts if cut[0] <= self.carried + len(data)), default=None)
        if due is None:
            self.deliver(self._spoil(data))
            return
        self.cuts.remove(due)
        part = data[: max(due[0] - self.carried, 0)]
        if part:
            self.deliver(self._spoil(part))
        self.cut(due[1])

    def _spoil(self, data: bytes) -> bytes:
        """Count bytes that came to the end, and do to them what the script says."""
        before = self.carried
        self.carried += len(data)
        if not self.harm:
            return data
        rest = []
        for place, value in enumerate(data, before):
            masks = [mask for start, end, mask in self.harm if start <= place < end]
            if 0 not in masks:
                for mask in masks:
                    value ^= mask
                rest.append(value)
        return bytes(rest)
