"""One connection, as a node sees it."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from rowcast.session.states import ClientState, Conversation, HostState
from rowcast.session.timeout import ConfirmedTimeout
from rowcast.wire import Ack, FrameDecoder, FrameEncoder, Heartbeat, Message, Refusal

__all__ = ["MOST_WAITING", "Link"]

#: More control messages than a peer that reads ever lets wait. One whose link carries nothing is told a few things
#: meanwhile: acknowledgements and heartbeats count once.
MOST_WAITING = 256
#: With so many waiting, nothing more is read from the peer until it has read.
PAUSE_WAITING = 64

#: A frame that takes longer to arrive holds up what comes behind it, such as acknowledgements (s).
LONG_S = 1.0


@dataclass(eq=False)
class Link:
    """A connection that a driver made: where from, and what waits to be sent on it.

    The driver fills the decoder and gives its messages to the node; the node sets what the decoder accepts.

    Attributes:
        peer: the other end, for people.
        congestion_control: TCP congestion control in force, if there is one.
        shaped_by: name of the bandwidth trace under the connection, if there is one.
        decoder: cuts what arrives into messages.
        encoder: makes frames of what is sent; the driver uses it for every message, in order.
        control: control messages to be sent; they overtake rows.
        closing: the driver closes the connection once the control messages are sent.
        opened_at, heard_at, spoke_at: when the connection was made, when a byte last arrived, when a message was
            last handed out (s).
        reported_at: when the peer was last told how many bytes had arrived (s).
        arrived_at: when it last told that more of the row frames sent to it had arrived (s).
        occupied_at: when bytes last came of a frame that takes long (s).
        address: where from, without the link: what a server's limits for strangers count by; ``None`` has none.
        introduced: a worker that is refused for another reason than who it is: no stranger.
        secured: nothing of TLS is missing: it stands, or there is none on this connection.
        channel: SHA-256 of the certificate of the server in TLS; empty where there is none.
        identity: the only name that the peer may have: that of its certificate; ``None``: it has none.
        conversation: what may be said on it; a server's begins with a stranger, a worker sets its own.
        upward: at a relay: its own connection to the server above.
    """

    peer: str
    congestion_control: str | None = None
    shaped_by: str | None = None
    decoder: FrameDecoder = field(default_factory=FrameDecoder)
    encoder: FrameEncoder = field(default_factory=FrameEncoder)
    control: deque[Message] = field(default_factory=deque)
    closing: bool = False
    opened_at: float = 0.0
    heard_at: float = 0.0
    spoke_at: float = 0.0
    address: str | None = None
    introduced: bool = False
    secured: bool = True
    channel: bytes = b""
    identity: str | None = None
    conversation: Conversation = field(default_factory=lambda: Conversation(HostState.STRANGER))
    reported_at: float = 0.0
    arrived_at: float = 0.0
    occupied_at: float = 0.0
    upward: bool = False
    _silence: ConfirmedTimeout = field(default_factory=ConfirmedTimeout)
    _begun_at: float = 0.0
    _frames: int = 0
    _told: int = 0

    def opened(self, now: float) -> None:
        """The connection was made."""
        self.opened_at = self.heard_at = self.spoke_at = self.reported_at = self.arrived_at = now

    @property
    def is_stranger(self) -> bool:
        """Nobody has proved who is at the other end, and this end wants to know."""
        return not self.secured or self.conversation.state in (HostState.STRANGER, ClientState.UNPROVEN)

    def secure(self, channel: bytes, identity: str | None) -> None:
        """TLS stands, and no message has come yet; see :attr:`channel` and :attr:`identity`."""
        self.secured = True
        self.channel, self.identity = channel, identity

    def heard(self, now: float) -> None:
        """Bytes arrived; they are not in the decoder yet."""
        decoder, since = self.decoder, now
        if decoder.begun:
            since = self._begun_at if decoder.frames == self._frames else self.heard_at
            if now >= since + LONG_S:
                self.occupied_at = now
        self._begun_at = since
        self._frames = decoder.frames
        self.heard_at = now
        self._silence.clear()

    @property
    def unfinished_since(self) -> float | None:
        """Since when a frame has begun that is not whole (s); ``None`` when there is none."""
        decoder = self.decoder
        if not decoder.begun:
            return None
        # If the bytes that came last finished another frame, they were the first of this one.
        return self._begun_at if decoder.frames == self._frames else self.heard_at

    def told(self, now: float, arrived: int) -> None:
        """The peer tells how many bytes have arrived there on this connection."""
        if self._told < min(arrived, self.encoder.rows_end):
            self.arrived_at = now
        self._told = max(self._told, arrived)

    def heartbeat_due_at(self, heartbeat_s: float, report_s: float) -> float:
        """When the peer must hear something (s): that we live, or how much has come of a frame that takes its time."""
        due = self.spoke_at + heartbeat_s
        return min(due, self.reported_at + report_s) if self.decoder.begun else due

    def silent_at(self, limit_s: float) -> float:
        """When :meth:`is_silent` must be asked (s)."""
        return self._silence.due_at(self.heard_at + limit_s)

    def may_be_silent_before(self, time: float, limit_s: float) -> bool:
        """Whether :meth:`silent_at` may be before ``time`` (s): what a node is asked after each message."""
        return self.heard_at + limit_s < time

    def is_silent(self, now: float, limit_s: float, heartbeat_s: float) -> bool:
        """Whether nothing has arrived for ``limit_s``; asked twice, see :class:`.ConfirmedTimeout`."""
        return self._silence.is_over(now, self.heard_at + limit_s, heartbeat_s)

    def say(self, message: Message) -> None:
        """Queue a control message. Of several acknowledgements or heartbeats in a row only the newest counts."""
        if self.closing:
            return
        if self.control and _supersedes(message, self.control[-1]):
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


def _supersedes(message: Message, waiting: Message) -> bool:
    """Whether what waits need not be sent any more, since ``message`` says it too."""
    if isinstance(message, Ack):
        return isinstance(waiting, Ack) and waiting.stream == message.stream
    return isinstance(message, Heartbeat) and isinstance(waiting, Heartbeat)
