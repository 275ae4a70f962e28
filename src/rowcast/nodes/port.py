"""One connection, as a node sees it."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from rowcast.wire import FrameDecoder, Message, Refusal

__all__ = ["Port"]


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
        opened_at, heard_at, spoke_at: when the connection was made, when a byte last arrived, when a message was
            last handed out (s).
        address: where from, without the port: what a server's limits for strangers count by; ``None`` has none.
        introduced: a worker that is refused for another reason than who it is: no stranger.
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
    address: str | None = None
    introduced: bool = False

    def say(self, message: Message) -> None:
        """Queue a control message."""
        if not self.closing:
            self.control.append(message)

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
