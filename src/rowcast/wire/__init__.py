"""Bytes to messages and back, on buffers: nothing here knows a socket or a clock.

``docs/protocol.md`` explains the conversation; :mod:`rowcast.wire.messages` defines the messages.
"""

from rowcast.wire.frames import HEADER_BYTES, PROTOCOL_VERSION, FrameDecoder, encode
from rowcast.wire.messages import (
    Ack,
    Ask,
    Cancel,
    Challenge,
    Farewell,
    Finish,
    Go,
    Grant,
    Heartbeat,
    Hello,
    LayoutTable,
    Leave,
    Message,
    PullEnd,
    PushEnd,
    Refusal,
    Rows,
    Start,
    StateEnd,
    Waiting,
    Welcome,
)

__all__ = [
    "HEADER_BYTES",
    "PROTOCOL_VERSION",
    "Ack",
    "Ask",
    "Cancel",
    "Challenge",
    "Farewell",
    "Finish",
    "FrameDecoder",
    "Go",
    "Grant",
    "Heartbeat",
    "Hello",
    "LayoutTable",
    "Leave",
    "Message",
    "PullEnd",
    "PushEnd",
    "Refusal",
    "Rows",
    "Start",
    "StateEnd",
    "Waiting",
    "Welcome",
    "encode",
]
