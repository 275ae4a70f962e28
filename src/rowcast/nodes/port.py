"""One connection, as a node sees it."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from rowcast.wire import Ack, FrameDecoder, Heartbeat, Message, Refusal

__all__ = ["MOST_WAITING", "Port"]

#: More control messages than a peer that reads ever lets wait. One whose link carries nothing is told a few things
#: meanwhile: acknowledgements and heartbeats count once.
MOST_WAITING = 256
#: With so many waiting, nothing more is read from the peer until it has read.
PAUSE_WAITING = 64


@dataclass(eq=False)
class Port:
    """A connection that a driver made: where from, and what waits to be sent on it.

    The driver fills the decoder and gives its messages to the node; the node sets what the decoder accepts.

    Attributes:
        peer: the other end, for people.
        congestion_control: TCP congestion control in force, if there is one.
        shaped_by: name of the bandwidth trace under the connection, if there is one.
        decoder: cuts what arrives into messages.
        control: control messages to be sent; they overtake rows.
        closing: the driver closes the connection once the control messages are sent.
        doubted_until: nothing has arrived for too long: until then something still may (s); ``None``: all is well.
        opened_at, heard_at, spoke_at: when the connection was made, when a byte last arrived, when a message was
            last handed out (s).
    """

    peer: str
    congestion_control: str | None = None
    shaped_by: str | None = None
    decoder: FrameDecoder = field(default_factory=FrameDecoder)
    control: deque[Message] = field(default_factory=deque)
    closing: bool = False
    opened_at: float = 0.0
    heard_at: float = 0.0
    spoke_at: float = 0.0
    doubted_until: float | None = None

    def hear(self, now: float) -> None:
        """Bytes have arrived."""
        self.heard_at = now
        self.doubted_until = None

    def silent_at(self, limit_s: float) -> float:
        """When :meth:`is_silent` must be asked (s)."""
        return self.heard_at + limit_s if self.doubted_until is None else self.doubted_until

    def is_silent(self, now: float, limit_s: float, heartbeat_s: float) -> bool:
        """Whether nothing has arrived for ``limit_s``.

        The first time it is a doubt only. The driver reads what there is before it asks again: a node that was busy for
        long has perhaps not read what has arrived long since. Who is asked late (it was busy, or its machine slept)
        also gives the peer the time of a heartbeat.
        """
        due = self.heard_at + limit_s
        if now < due:
            return False
        if self.doubted_until is None:
            self.doubted_until = now + heartbeat_s if now > due + heartbeat_s / 2 else now
            return False
        return now >= self.doubted_until

    def say(self, message: Message) -> None:
        """Queue a control message. Of several acknowledgements or heartbeats in a row only the newest counts."""
        if self.closing:
            return
        if self.control and isinstance(message, Ack | Heartbeat) and type(self.control[-1]) is type(message):
            self.control[-1] = message
        else:
            self.control.append(message)

    @property
    def is_clogged(self) -> bool:
        """So much waits to be sent that nothing more should be read: what is read leads to more."""
        return len(self.control) >= PAUSE_WAITING

    def reads_nothing(self) -> str | None:
        """Why the connection must be closed, if its peer lets too much wait."""
        if len(self.control) < MOST_WAITING:
            return None
        return f"it reads nothing: expected fewer than {MOST_WAITING} messages to wait for it"

    def refuse(self, code: str, text: str) -> None:
        """Queue the reason, then close."""
        self.say(Refusal(code, text))
        self.closing = True

    def next_control(self, now: float) -> Message | None:
        """The next control message, if any."""
        if not self.control:
            return None
        self.spoke_at = now
        return self.control.popleft()
