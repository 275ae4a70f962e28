"""Frames: a fixed header, then one message.

Header, 12 bytes, big-endian: magic ``RC``, protocol version (u8), kind (u8), payload bytes (u32), CRC-32 of the
first eight header bytes and the payload (u32).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

import numpy as np

from rowcast.errors import LocalProtocolError, RemoteProtocolError, VersionMismatch
from rowcast.wire.fields import fixed_size, pack, unpack
from rowcast.wire.index import decode_index
from rowcast.wire.messages import CONTROL, Message, Rows

__all__ = [
    "HEADER_BYTES",
    "MAX_CONTROL_BYTES",
    "MAX_ROWS_BYTES",
    "PROTOCOL_VERSION",
    "FrameDecoder",
    "encode",
    "frame_bytes",
    "message_bytes",
]

MAGIC = b"RC"
PROTOCOL_VERSION = 1
#: What grows with the model or the team travels in pieces or is cut where it is made.
MAX_CONTROL_BYTES = 1 << 17
MAX_ROWS_BYTES = 16 << 20
#: Before the peer has proved who it is, no message is longer than this.
MAX_STRANGER_BYTES = 4096

_HEADER = struct.Struct(">2sBBII")
HEADER_BYTES = _HEADER.size
_ROWS = struct.Struct(">QIBBBI")
_ABSOLUTE, _QUOTA_END = 1, 2

#: Bytes of a row frame beside index block and payload.
ROWS_OVERHEAD_BYTES = HEADER_BYTES + _ROWS.size


def encode(message: Message) -> bytes:
    """The frame of one message.

    Raises:
        LocalProtocolError: a control message above the limit that every decoder has.
    """
    if isinstance(message, Rows):
        form, index = message.index
        flags = _ABSOLUTE * message.absolute + _QUOTA_END * message.quota_end
        head = _ROWS.pack(message.number, message.iteration, message.codec, flags, form, len(message.rows))
        body = b"".join((head, index, message.payload.data))
    else:
        body = pack(message)
        if len(body) > MAX_CONTROL_BYTES:
            raise LocalProtocolError(
                f"{type(message).__name__}: expected at most {MAX_CONTROL_BYTES} bytes, got {len(body)}; "
                "no peer would take it"
            )
    start = _HEADER.pack(MAGIC, PROTOCOL_VERSION, message.KIND, len(body), 0)[:8]
    return b"".join((start, zlib.crc32(body, zlib.crc32(start)).to_bytes(4, "big"), body))


def frame_bytes(message: Rows) -> int:
    """Length of the frame of a row message, without making it."""
    return ROWS_OVERHEAD_BYTES + message.content_bytes


def message_bytes(message: Message) -> int:
    """Length of the frame of any message, without making it where its length is known."""
    if isinstance(message, Rows):
        return ROWS_OVERHEAD_BYTES + message.content_bytes
    size = fixed_size(message)
    return HEADER_BYTES + (len(pack(message)) if size is None else size)


class FrameDecoder:
    """Cuts a byte stream into messages.

    Bytes are written into :meth:`buffer` and announced with :meth:`filled` (no copy), or given to
    :meth:`feed`. The payload of a :class:`Rows` message is a view into the buffer: it is valid until the next
    call of :meth:`buffer`, and whoever keeps the message longer copies it.

    Attributes:
        trusted: until it is set, messages above :data:`MAX_STRANGER_BYTES` are refused.
        rows: rows of the layout; until it is set, row frames are refused.
        row_bytes: row frames with less payload for each row are refused; they could name many rows at no cost.
    """

    def __init__(self) -> None:
        self.trusted = False
        self.rows = 0
        self.row_bytes = 0
        self._data = bytearray(1 << 14)
        self._start = self._end = 0

    def buffer(self, hint: int = 1) -> memoryview:
        """Where the next bytes of the stream are to be written: at least ``hint`` bytes long."""
        if self._start:
            rest = self._end - self._start
            self._data[:rest] = self._data[self._start : self._end]
            self._start, self._end = 0, rest
        wanted = self._end + max(hint, 1 << 12)
        if len(self._data) < wanted:
            # A new object rather than a longer one: views into the old one stay valid.
            grown = bytearray(max(wanted, 2 * len(self._data)))
            grown[: self._end] = self._data[: self._end]
            self._data = grown
        return memoryview(self._data)[self._end :]

    def filled(self, count: int) -> Iterator[Message]:
        """The messages that are whole now that ``count`` more bytes lie in the buffer.

        Raises:
            RemoteProtocolError: bytes that no correct peer sends. The stream cannot be read any further.
        """
        self._end += count
        while True:
            message = self._next()
            if message is None:
                return
            yield message

    def feed(self, data: bytes | memoryview) -> Iterator[Message]:
        """The same for bytes that lie elsewhere."""
        place = self.buffer(len(data))
        place[: len(data)] = data
        return self.filled(len(data))

    def _next(self) -> Message | None:
        available = self._end - self._start
        view = memoryview(self._data)[self._start : self._end]
        if bytes(view[: min(available, 2)]) != MAGIC[: min(available, 2)]:
            raise RemoteProtocolError(
                f"expected a Rowcast frame, got bytes {bytes(view[:8])!r}; is this the right port?"
            )
        if available < HEADER_BYTES:
            return None
        _, version, kind, length, crc = _HEADER.unpack_from(view)
        if version != PROTOCOL_VERSION:
            raise VersionMismatch(
                f"expected protocol version {PROTOCOL_VERSION}, the peer speaks {version}; "
                "install the same version of rowcast on both"
            )
        if kind != Rows.KIND and kind not in CONTROL:
            raise RemoteProtocolError(f"expected a known message kind, got {kind}")
        limit = MAX_ROWS_BYTES if kind == Rows.KIND else MAX_CONTROL_BYTES
        if not self.trusted:
            limit = MAX_STRANGER_BYTES
        if length > limit:
            raise RemoteProtocolError(f"expected a message of at most {limit} bytes, got one of {length}")
        if available < HEADER_BYTES + length:
            return None
        body = view[HEADER_BYTES : HEADER_BYTES + length]
        if zlib.crc32(body, zlib.crc32(view[:8])) != crc:
            raise RemoteProtocolError("expected a frame with the right checksum, got a damaged one")
        self._start += HEADER_BYTES + length
        if kind == Rows.KIND:
            return self._rows_message(body)
        return unpack(CONTROL[kind], body)

    def _rows_message(self, body: memoryview) -> Rows:
        if self.rows == 0:
            raise RemoteProtocolError("row frame: expected a handshake first, got rows")
        if len(body) < _ROWS.size:
            raise RemoteProtocolError("row frame: it ends inside its head")
        number, iteration, codec, flags, form, count = _ROWS.unpack_from(body)
        if not 1 <= count <= self.rows or flags > _ABSOLUTE + _QUOTA_END:
            raise RemoteProtocolError(
                f"row frame: expected 1 .. {self.rows} rows and known flags, got {count}, {flags}"
            )
        if len(body) - _ROWS.size < self.row_bytes * count:
            raise RemoteProtocolError(
                f"row frame: expected at least {self.row_bytes} bytes for each of {count} rows, got {len(body)}"
            )
        rows, used = decode_index(form, body[_ROWS.size :], count, self.rows)
        payload = np.frombuffer(body[_ROWS.size + used :], dtype=np.uint8)
        return Rows(number, iteration, codec, bool(flags & _ABSOLUTE), bool(flags & _QUOTA_END), rows, payload)
