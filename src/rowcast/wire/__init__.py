"""Bytes to messages and back, on buffers: nothing here knows a socket or a clock.

``docs/protocol.md`` explains the conversation; :mod:`rowcast.wire.messages` defines the messages.
"""

from rowcast.wire.asides import Echo, Notice, Probe
from rowcast.wire.frames import HEADER_BYTES, PROTOCOL_VERSION, FrameDecoder, FrameEncoder, RowLimits, encode
from rowcast.wire.inferences import Answer, Busy, Drop, Request, Served
from rowcast.wire.messages import (
    Ack,
    Cancel,
    Challenge,
    Computed,
    Farewell,
    Finish,
    Go,
    Heartbeat,
    Hello,
    Horizon,
    LayoutTable,
    Lead,
    Leave,
    Message,
    Proof,
    PullEnd,
    PushEnd,
    Refusal,
    Rows,
    Start,
    StateEnd,
    Waiting,
    Welcome,
)
from rowcast.wire.slots import Ask, Grant
from rowcast.wire.streams import Share, Supply

__all__ = [
    "HEADER_BYTES",
    "PROTOCOL_VERSION",
    "Ack",
    "Answer",
    "Ask",
    "Busy",
    "Cancel",
    "Challenge",
    "Computed",
    "Drop",
    "Echo",
    "Farewell",
    "Finish",
    "FrameDecoder",
    "FrameEncoder",
    "Go",
    "Grant",
    "Heartbeat",
    "Hello",
    "Horizon",
    "LayoutTable",
    "Lead",
    "Leave",
    "Message",
    "Notice",
    "Probe",
    "Proof",
    "PullEnd",
    "PushEnd",
    "Refusal",
    "Request",
    "RowLimits",
    "Rows",
    "Served",
    "Share",
    "Start",
    "StateEnd",
    "Supply",
    "Waiting",
    "Welcome",
    "encode",
]
