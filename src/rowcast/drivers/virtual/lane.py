"""One direction of a robot's link in a simulation."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from rowcast.links import Trace
from rowcast.session import Link
from rowcast.wire import Message

if TYPE_CHECKING:
    from rowcast.drivers.virtual.simulation import Robot, Simulation

__all__ = ["Lane", "starting_at"]


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

    def passed(self) -> Message | None:
        """The last bit of what was on its way has left the link; the message that is complete with it."""
        message, self.carrying = self.carrying, None
        return message

    @property
    def busy(self) -> bool:
        """Something is on the link."""
        return self.carrying is not None

    @property
    def idle(self) -> bool:
        """All that was handed to it has left it."""
        return self.carrying is None

    def opened(self, now: float) -> None:
        """A connection is made."""

    def clear(self) -> None:
        """The link is lost, and all that is on it."""
        self.carrying = None


def starting_at(trace: Trace, zero: float) -> Trace:
    """The trace as the channel's clock sees it: its time 0 is ``zero``. What it says before that, nobody asks for."""
    if zero == 0.0:
        return trace
    if trace.loop:
        return trace.shifted(trace.duration_s - zero % trace.duration_s)
    times = trace.times_s + zero
    times[0] = 0.0
    return Trace(times, trace.rates_bps, trace.name, loop=False, duration_s=trace.duration_s + zero)
