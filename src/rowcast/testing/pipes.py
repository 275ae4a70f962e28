"""A scripted link that carries the bytes of the wire format, and what a script does to them on the way."""

from __future__ import annotations

from collections.abc import Callable

from rowcast.drivers.virtual.clock import Clock
from rowcast.links import Trace
from rowcast.session import Link
from rowcast.wire import Message, Rows

__all__ = ["Connection", "Pipe"]


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
        self._on_air: list[tuple[float, float, bytes]] = []

    def open(self, connection: Connection, link: Link, trace: Trace) -> None:
        """A connection is made; ``link`` is its end that sends, ``trace`` what it carries."""
        self.connection = connection
        self._trace = trace
        self._link = link
        self._free_at = 0.0

    # -- as the engine sees it (rowcast.drivers.virtual.engine.Direction) -----------------------------------------

    def takes(self, now: float) -> bool:
        return self._free_at <= now

    def carry(self, now: float, message: Message, data: bytes | None = None) -> None:
        """Take a message along; ``data`` is its frame where that was made before."""
        connection, encoder = self.connection, self._link.encoder
        data = encoder.encode(message) if data is None else data
        if isinstance(message, Rows) and self._doubles():
            data += encoder.encode(message)
        done = self._free_at = self._trace.finish(now, 8 * len(data))
        entry = (now + self._delay_s, done + self._delay_s, data)
        self._on_air.append(entry)

        def arrive() -> None:
            if connection is self.connection and connection is not None and connection.alive and not connection.frozen:
                self._on_air.remove(entry)
                self._arrive(data)

        def free() -> None:
            if connection is self.connection and connection is not None and connection.alive:
                self.idle()

        self._clock.at(done + self._delay_s, arrive)
        self._clock.at(done, free)

    # -- what comes out ----------------------------------------------------------------------------------------

    def break_off(self, now: float) -> None:
        """The connection ends: what is on the air arrives as far as it got, in the middle of a frame if need be."""
        on_air, self._on_air = self._on_air, []
        for begun, done, data in on_air if self.connection is not None and not self.connection.frozen else ():
            part = 1.0 if done <= begun else (now - begun) / (done - begun)
            if part > 0:
                self.deliver(self._spoil(data[: int(min(part, 1.0) * len(data))]))

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
