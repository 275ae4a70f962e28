"""Peers who mean no good, as what they say: of bytes in and bytes out, for sockets and for virtual time alike."""

from __future__ import annotations

import struct
import zlib
from binascii import crc_hqx

import numpy as np

from rowcast.codecs import codec_by_name
from rowcast.errors import RemoteProtocolError
from rowcast.experiment.faults.counting import LAYOUT
from rowcast.rows import Layout
from rowcast.wire import (
    PROTOCOL_VERSION,
    Challenge,
    FrameDecoder,
    Hello,
    Message,
    RowLimits,
    Rows,
    Welcome,
    encode,
)

__all__ = ["Stranger"]

#: A model that nobody in the team has.
OTHER = Layout.from_shapes([("weight", (200, 64)), ("bias", (51,))])
#: What the length field of a frame can say at most.
LONGEST = (1 << 24) - 1


class Stranger:
    """One of them.

    Args:
        kind: see :class:`~rowcast.experiment.faults.script.Hostile`.
        number: tells it from others of its kind.

    Attributes:
        drips: what it sends byte by byte, one each second.
        refused: the server has told it why it may not be here.
    """

    def __init__(self, kind: str, number: int = 0) -> None:
        self.kind = kind
        self.name = f"stranger-{number}"
        self.refused = ""
        self.drips = encode(self._hello(LAYOUT))[:-1] if kind == "slow" else b""
        self._sequence = 0
        self._decoder = FrameDecoder()
        self._decoder.trusted = True
        self._decoder.streams = {0: RowLimits(LAYOUT.rows)}

    def hears(self, data: bytes) -> bytes:
        """What it answers to bytes of the server."""
        said = b""
        try:
            for message in self._decoder.feed(data):
                said += self.answers(message)
        except RemoteProtocolError as error:  # it has read no further, which is its own business
            self.refused = str(error)
        return said

    def answers(self, message: Message) -> bytes:
        """What it answers to a message."""
        if text := getattr(message, "text", ""):
            self.refused = str(text)
        if self.kind in ("digest", "rows", "length") and isinstance(message, Challenge):
            if self.kind == "length":
                return self._endless()
            return self._frame(self._hello(LAYOUT if self.kind == "rows" else OTHER))
        if self.kind == "rows" and isinstance(message, Welcome):
            beyond = np.array([LAYOUT.rows + 7], dtype=np.int64)
            payload = np.ones(4 * 64, dtype=np.uint8)
            return self._frame(Rows(1, 1, codec_by_name("raw").wire_id, False, True, beyond, payload))
        return b""

    def _hello(self, layout: Layout) -> Hello:
        session = self.name.encode().ljust(16, b"-")[:16]
        return Hello(self.name, session, b"", b"", layout.digest, b"", b"", False, 0, 0)

    def _frame(self, message: Message) -> bytes:
        self._sequence += 1
        return encode(message, self._sequence - 1)

    def _endless(self) -> bytes:
        """The header of a hello, right in all but its length; and a little of what it announces."""
        start = struct.pack(">2sBBIIH", b"RC", PROTOCOL_VERSION, Hello.KIND, LONGEST, zlib.crc32(b""), 0)
        return start + crc_hqx(start, 0xFFFF).to_bytes(2, "big") + bytes(1000)
