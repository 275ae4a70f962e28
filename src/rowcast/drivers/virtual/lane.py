"""One direction of a robot's link in a simulation."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from rowcast.links import Trace
from rowcast.session import Link
from rowcast.wire import Message

if TYPE_CHECKING:
    from rowcast.drivers.virtual.simulation import Robot, Simulation

__all__ = ["SEGMENT_BYTES", "Lane", "TcpLane", "starting_at"]

#: What TCP puts into a packet of 1,500 bytes beside the head of 52 bytes (IPv4, time stamps): bytes of the stream.
SEGMENT_BYTES, HEAD_BYTES = 1448, 52


class Lane:
    """One direction of a robot's link: carries one message at a time.

    Attributes:
        simulation: to whose server it leads, or from there.
        key: names it to the medium; those of the two directions of a link differ in the last bit.
        connection: the one that it belongs to, as the server sees it; ``None`` while the link is down.
        robot: to whom it leads; ``None`` where it leads to the server.
        carrying: what is on its way.
        held_until: the sender works on what comes next (s).
        burden: bytes that go over it before the next message, and are none (raw samples for others).
        delay_s: from the moment a bit has entered it until it comes out (s).
    """

    __slots__ = (
        "burden", "carrying", "connection", "delay_s", "deliver", "held_until", "key", "next", "robot",
        "simulation", "trace",
    )  # fmt: skip

    def __init__(self, simulation: Simulation, key: int, trace: Trace, delay_s: float) -> None:
        self.key = key
        self.trace = trace
        self.delay_s = delay_s
        self.connection: Link | None = None
        self.robot: Robot | None = None
        self.carrying: Message | None = None
        self.held_until = 0.0
        self.burden = 0
        self.deliver: Callable[[Message], None]
        self.next: Callable[[], bool]
        self.simulation = simulation

    def takes(self, now: float) -> bool:
        return self.carrying is None and self.connection is not None and now >= self.held_until

    def carry(self, now: float, message: Message) -> None:
        self.carrying = message
        self.simulation.begin(now, self, message)

    def wire_bytes(self, size: int) -> int:
        """Bytes that ``size`` bytes of messages take on the link."""
        return size

    def passed(self, other: Lane) -> Message | None:
        """The last bit of what was on its way has left the link; ``other`` is its other direction."""
        message, self.carrying = self.carrying, None
        return message

    def follow(self, now: float) -> None:
        """Carry what waits to be carried, if something does."""

    def clear(self) -> None:
        """The link is lost, and all that is on it."""
        self.carrying = None


class TcpLane(Lane):
    """The same as a TCP socket has it: a stream of bytes, in packets with heads, that are acknowledged.

    The sender hands over whatever it has got, at once, and it goes in this order: an acknowledgement stands behind the
    rows that were handed over before it. Each packet has a head; a segment is filled up while there is more to send.
    The other direction carries an acknowledgement of TCP for every second full segment; those of single ones travel
    with the messages that answer to them. Nothing is lost, and there is no slow start: a link of one place whose
    connection is kept open knows neither for long.

    Attributes:
        filled: bytes of the segment under way that are used.
    """

    __slots__ = ("_carried", "filled", "waiting")

    def __init__(self, simulation: Simulation, key: int, trace: Trace, delay_s: float) -> None:
        super().__init__(simulation, key, trace, delay_s)
        self.waiting: deque[Message] = deque()
        self.filled = 0
        self._carried = 0

    def takes(self, now: float) -> bool:
        return self.connection is not None and now >= self.held_until

    def carry(self, now: float, message: Message) -> None:
        if self.carrying is not None:
            self.waiting.append(message)
            return
        self.filled = 0
        super().carry(now, message)

    def wire_bytes(self, size: int) -> int:
        begun = -(-self.filled // SEGMENT_BYTES)
        self.filled += size
        self._carried = size
        heads = -(-self.filled // SEGMENT_BYTES) - begun
        self.filled %= SEGMENT_BYTES
        return size + heads * HEAD_BYTES

    def passed(self, other: Lane) -> Message | None:
        if other.carrying is not None:
            other.burden += self._carried // (2 * SEGMENT_BYTES) * HEAD_BYTES
        self._carried = 0
        return super().passed(other)

    def follow(self, now: float) -> None:
        if self.waiting and self.carrying is None:
            super().carry(now, self.waiting.popleft())

    def clear(self) -> None:
        super().clear()
        self.waiting.clear()
        self.filled = self._carried = 0


def starting_at(trace: Trace, zero: float) -> Trace:
    """The trace as the channel's clock sees it: its time 0 is ``zero``. What it says before that, nobody asks for."""
    if zero == 0.0:
        return trace
    if trace.loop:
        return trace.shifted(trace.duration_s - zero % trace.duration_s)
    times = trace.times_s + zero
    times[0] = 0.0
    return Trace(times, trace.rates_bps, trace.name, loop=False, duration_s=trace.duration_s + zero)
