"""Frames: a fixed header, then one message.

Header, 16 bytes, big-endian: magic ``RC``, protocol version (u8), kind (u8), row stream (u8; 0 in all other frames),
bytes of the body (u24), CRC-32 of the body (u32), number of the frame on its connection and direction (u16, from 0 on,
and from 0 again after the last), CRC-16 of the 14 bytes before (u16).

The header has a checksum of its own, so that nobody waits for the end of a frame whose length was damaged. The number
tells when whole frames were lost, doubled or exchanged on the way. Nothing of a header is believed before its checksum
is right. This form of the header stays the same in all later versions, so that they can be recognised. (In version 2
the stream was the highest byte of the length, and 0: the first frame of a connection is no row frame.)
"""

from __future__ import annotations

import struct
import zlib
from binascii import crc_hqx
from collections.abc import Iterator
from typing import NamedTuple, NoReturn

import numpy as np

from rowcast.errors import LocalProtocolError, RemoteProtocolError, StreamDamaged, TlsNeeded, VersionMismatch
from rowcast.wire.fields import MAX_STREAM, Control, Message, pack, packed_bytes, unpack
from rowcast.wire.index import decode_index
from rowcast.wire.messages import CONTROL, Rows

__all__ = [
    "HEADER_BYTES",
    "MAX_CONTROL_BYTES",
    "MAX_ROWS_BYTES",
    "PROTOCOL_VERSION",
    "FrameDecoder",
    "FrameEncoder",
    "RowLimits",
    "encode",
    "frame_bytes",
    "message_bytes",
    "renumbered",
]

MAGIC = b"RC"
#: How a connection begins whose other end speaks TLS: a handshake record of version 3.x.
TLS_BEGINS = b"\x16\x03"
PROTOCOL_VERSION = 4
#: What grows with the model or the team travels in pieces or is cut where it is made.
MAX_CONTROL_BYTES = 1 << 17
MAX_ROWS_BYTES = (1 << 24) - 1
#: Before the peer has proved who it is, no message is longer than this.
MAX_STRANGER_BYTES = 4096

_HEADER = struct.Struct(">2sBBIIH")
_CHECKED = _HEADER.size
_CHECKED_HEADER = struct.Struct(">2sBBIIHH")
HEADER_BYTES = _CHECKED_HEADER.size
_CRC_START = 0xFFFF
_SEQUENCE_MASK = 0xFFFF
_LENGTH_BITS = 24
_LENGTH_MASK = (1 << _LENGTH_BITS) - 1
_ROWS = struct.Struct(">QIBBBI")
_ABSOLUTE, _QUOTA_END = 1, 2
#: What the flags of a row frame say: absolute, and the end of the quota.
_FLAGS = ((False, False), (True, False), (False, True), (True, True))

#: Version 1 had a shorter header: magic, version, kind, length, CRC-32 of these eight bytes and the body.
_V1_HEADER_BYTES = 12
#: A decoder's buffer is so long at least.
_LEAST_BUFFER = 1 << 14

#: Bytes of a row frame beside index block and payload.
ROWS_OVERHEAD_BYTES = HEADER_BYTES + _ROWS.size


class RowLimits(NamedTuple):
    """What the row frames of one stream may name.

    Attributes:
        rows: rows of the layout of the stream.
        row_bytes: frames with less payload for each row are refused; they could name many rows at no cost.
    """

    rows: int
    row_bytes: int = 0


def encode(message: Message, sequence: int = 0) -> bytes:
    """The frame of one message.

    Args:
        message: the message.
        sequence: number of the frame on its connection, 0 .. 65535; a :class:`FrameEncoder` counts.

    Raises:
        LocalProtocolError: a message above the limit that every decoder has, or a stream that no header can name.
    """
    if isinstance(message, Rows):
        form, index = message.index
        flags = _ABSOLUTE * message.absolute + _QUOTA_END * message.quota_end
        head = _ROWS.pack(message.number, message.iteration, message.codec, flags, form, len(message.rows))
        payload = message.payload.data
        length = _ROWS.size + len(index) + len(payload)
        if length > MAX_ROWS_BYTES:
            raise _too_long(message, MAX_ROWS_BYTES, length)
        place = _stream_in_header(message.stream) if message.stream else 0
        crc = zlib.crc32(payload, zlib.crc32(index, zlib.crc32(head)))
        checked = _HEADER.pack(MAGIC, PROTOCOL_VERSION, Rows.KIND, place | length, crc, sequence)
        return b"".join((checked, crc_hqx(checked, _CRC_START).to_bytes(2, "big"), head, index, payload))
    body = pack(_control(message))
    if len(body) > MAX_CONTROL_BYTES:
        raise _too_long(message, MAX_CONTROL_BYTES, len(body))
    checked = _HEADER.pack(MAGIC, PROTOCOL_VERSION, message.KIND, len(body), zlib.crc32(body), sequence)
    return b"".join((checked, crc_hqx(checked, _CRC_START).to_bytes(2, "big"), body))


def renumbered(frame: bytes, sequence: int) -> bytes:
    """A frame with another number on its connection; for one that another frame has overtaken."""
    checked = frame[: _CHECKED - 2] + (sequence & _SEQUENCE_MASK).to_bytes(2, "big")
    return b"".join((checked, crc_hqx(checked, _CRC_START).to_bytes(2, "big"), frame[HEADER_BYTES:]))


def _stream_in_header(stream: int) -> int:
    if not 0 <= stream <= MAX_STREAM:
        raise LocalProtocolError(f"Rows: expected a stream in 0 .. {MAX_STREAM}, got {stream}")
    return stream << _LENGTH_BITS


def _too_long(message: Message, limit: int, size: int) -> LocalProtocolError:
    return LocalProtocolError(
        f"{type(message).__name__}: expected at most {limit} bytes, got {size}; no peer would take it"
    )


def _control(message: Message) -> Control:
    if not isinstance(message, Control):
        raise LocalProtocolError(f"expected a message, got {type(message).__name__}")
    return message


class FrameEncoder:
    """Makes the frames of one direction of a connection, and counts them.

    Attributes:
        sent: bytes made so far.
        rows_end: how many they were after the newest row frame.
    """

    def __init__(self) -> None:
        self.sent = self.rows_end = 0
        self._sequence = 0

    def encode(self, message: Message) -> bytes:
        """The next frame; see :func:`encode`."""
        data = encode(message, self._sequence)
        self._sequence = (self._sequence + 1) & _SEQUENCE_MASK
        self.sent += len(data)
        if message.KIND == Rows.KIND:
            self.rows_end = self.sent
        return data


def _mismatch(version: int) -> VersionMismatch:
    return VersionMismatch(
        f"expected protocol version {PROTOCOL_VERSION}, the peer speaks {version}; "
        "install the same version of rowcast on both"
    )


def frame_bytes(message: Rows) -> int:
    """Length of the frame of a row message, without making it."""
    return ROWS_OVERHEAD_BYTES + message.content_bytes


def message_bytes(message: Message) -> int:
    """Length of the frame of any message, without making that of rows."""
    if isinstance(message, Rows):
        return ROWS_OVERHEAD_BYTES + message.content_bytes
    return HEADER_BYTES + packed_bytes(_control(message))


class FrameDecoder:
    """Cuts a byte stream into messages.

    Bytes are written into :meth:`buffer` and announced with :meth:`filled` (no copy), or given to
    :meth:`feed`. The payload of a :class:`Rows` message is a view into the buffer: it is valid until the next
    call of :meth:`buffer`, and whoever keeps the message longer copies it.

    Attributes:
        trusted: until it is set, messages above :data:`MAX_STRANGER_BYTES` are refused.
        streams: what the row frames of each stream may name; those of a stream that is not here are refused as soon as
            their header has come.
        frames: whole frames that have arrived.
        arrived: bytes that have arrived.
        begun: a frame has begun that is not whole, or a record of TLS that may have frames inside.
    """

    __slots__ = ("_data", "_end", "_held", "_start", "arrived", "begun", "frames", "streams", "trusted")

    def __init__(self) -> None:
        self.trusted = False
        self.streams: dict[int, RowLimits] = {}
        self.frames = self.arrived = 0
        self._data = bytearray()  # made when something is to be written: in virtual time nothing ever is
        self._start = self._end = 0
        self._held = (0, 0)
        self.begun = False

    def buffer(self, hint: int = 1) -> memoryview:
        """Where the next bytes of the stream are to be written: at least ``hint`` bytes long."""
        if self._start:
            rest = self._end - self._start
            self._data[:rest] = self._data[self._start : self._end]
            self._start, self._end = 0, rest
        wanted = self._end + max(hint, 1 << 12)
        if len(self._data) < wanted:
            # A new object rather than a longer one: views into the old one stay valid.
            grown = bytearray(max(wanted, 2 * len(self._data), _LEAST_BUFFER))
            grown[: self._end] = self._data[: self._end]
            self._data = grown
        return memoryview(self._data)[self._end :]

    def newest(self, count: int) -> memoryview:
        """The bytes that were written into :meth:`buffer` last and are not announced yet."""
        return memoryview(self._data)[self._end : self._end + count]

    def filled(self, count: int) -> Iterator[Message]:
        """The messages that are whole now that ``count`` more bytes lie in the buffer.

        Raises:
            StreamDamaged: these are not the bytes that the peer sent.
            VersionMismatch: the first frame is a whole one of another version.
            RemoteProtocolError: bytes that no correct peer sends. In every case the stream cannot be read any further.
        """
        self._end += count
        self.arrived += count
        self.begun = self._end != self._start
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

    def hold(self, here: int, announced: int) -> None:
        """Of a record of TLS that is not whole so many bytes are here: nothing of it can be read yet. 0: there is none.

        Its length has no checksum: who waits for its end must notice that it takes too long, as with a frame.
        """
        self._held = (here, announced)
        self.begun = here > 0 or self._end != self._start

    @property
    def vouched(self) -> bool:
        """What has begun is a frame, whose length has a checksum; and not only a record of TLS, whose length has none.

        So that a record comes at a good pace says nothing of when it will be whole.
        """
        return self._end != self._start

    @property
    def unfinished(self) -> tuple[int, int]:
        """Of the frame that has begun and is not whole: bytes that are here, and all of them. (0, 0): there is none.

        Where only the record of TLS around it has begun, it is that record's.
        """
        here = self._end - self._start
        if here == 0:
            return self._held
        if here < HEADER_BYTES:
            return here, HEADER_BYTES
        return here, HEADER_BYTES + (int(_HEADER.unpack_from(self._data, self._start)[3]) & _LENGTH_MASK)

    def _next(self) -> Message | None:
        """The next message, if its frame is whole."""
        if self._end == self._start:
            return None
        view = memoryview(self._data)[self._start : self._end]
        if len(view) < HEADER_BYTES:
            self._no_header(view)
            return None
        magic, version, kind, size, crc, sequence, header_crc = _CHECKED_HEADER.unpack_from(view)
        if magic != MAGIC or crc_hqx(view[:_CHECKED], _CRC_START) != header_crc:
            self._no_header(view)
            return None
        stream, length = size >> _LENGTH_BITS, size & _LENGTH_MASK
        limits = self._check_header(version, kind, stream, length, sequence)
        end = HEADER_BYTES + length
        if len(view) < end:
            return None
        body = view[HEADER_BYTES:end]
        if zlib.crc32(body) != crc:
            raise StreamDamaged("expected a frame with the right checksum, got a damaged one")
        if version != PROTOCOL_VERSION:
            raise _mismatch(version)
        self._start += end
        self.begun = self._end != self._start
        self.frames += 1
        if limits is not None:
            return _rows_message(stream, limits, body)
        return unpack(CONTROL[kind], body)

    def _no_header(self, view: memoryview) -> None:
        """Bytes that are no whole header with the right checksum; more of them may tell more.

        Raises:
            StreamDamaged, RemoteProtocolError: they begin no frame.
            VersionMismatch: they are a whole frame of version 1.
        """
        if bytes(view[:2]) != MAGIC[: len(view)]:
            raise self._not_a_frame(view)
        if len(view) < HEADER_BYTES:
            return
        _, version, _, length, _, _ = _HEADER.unpack_from(view)
        if self.frames or version != 1:
            raise StreamDamaged("expected a frame header with the right checksum, got a damaged one")
        self._maybe_first_version(view, length)

    def _check_header(self, version: int, kind: int, stream: int, length: int, sequence: int) -> RowLimits | None:
        """Refuse a header that arrived as it was sent, and announces what may not come.

        Returns:
            What the rows of the frame may name; ``None`` for a control message, and for a frame of another version.

        Raises:
            StreamDamaged, RemoteProtocolError: it is out of sequence, of no known kind, of a stream that is not open,
                or announces too much.
        """
        if sequence != self.frames & _SEQUENCE_MASK:
            raise StreamDamaged(
                f"expected frame {self.frames & _SEQUENCE_MASK} of this connection, got frame {sequence}: "
                "frames were lost or doubled on the way"
            )
        other = version != PROTOCOL_VERSION
        if other and self.frames:
            raise StreamDamaged(f"expected protocol version {PROTOCOL_VERSION} as before, got {version}")
        if not other and kind != Rows.KIND and kind not in CONTROL:
            raise RemoteProtocolError(f"expected a known message kind, got {kind}")
        limit = MAX_ROWS_BYTES if kind == Rows.KIND else MAX_CONTROL_BYTES
        if not self.trusted:
            limit = MAX_STRANGER_BYTES
        if length > limit:
            raise RemoteProtocolError(f"expected a message of at most {limit} bytes, got one of {length}")
        if kind == Rows.KIND and not other:
            limits = self.streams.get(stream)
            return self._refuse_rows(stream) if limits is None else limits
        if stream:
            raise RemoteProtocolError(f"control message: expected stream 0, got {stream}")
        return None

    def _refuse_rows(self, stream: int) -> NoReturn:
        if not self.streams:
            raise RemoteProtocolError("row frame: expected a handshake first, got rows")
        raise RemoteProtocolError(f"row frame: expected a stream of {sorted(self.streams)}, got {stream}")

    def _not_a_frame(self, view: memoryview) -> RemoteProtocolError:
        if not self.frames and bytes(view[:2]) == TLS_BEGINS:
            return TlsNeeded(
                "expected a Rowcast frame, got the beginning of TLS: the worker has a shared secret or a certificate, "
                "and this server has neither; give it --secret-file or --team"
            )
        what = f"expected a Rowcast frame, got bytes {bytes(view[:8])!r}"
        return StreamDamaged(what) if self.frames else RemoteProtocolError(f"{what}; is this the right port?")

    def _maybe_first_version(self, view: memoryview, length: int) -> None:
        """The first frame says that it is of version 1, whose header was another one; believed when it is whole.

        Raises:
            VersionMismatch: it is.
            StreamDamaged: it is not.
        """
        end = _V1_HEADER_BYTES + length
        if length <= MAX_STRANGER_BYTES:
            if len(view) < end:
                return
            crc = zlib.crc32(view[_V1_HEADER_BYTES:end], zlib.crc32(view[:8]))
            if crc == int.from_bytes(view[8:_V1_HEADER_BYTES], "big"):
                raise _mismatch(1)
        raise StreamDamaged("expected a frame header with the right checksum, got a damaged one")


def _rows_message(stream: int, limits: RowLimits, body: memoryview) -> Rows:
    if len(body) < _ROWS.size:
        raise RemoteProtocolError("row frame: it ends inside its head")
    number, iteration, codec, flags, form, count = _ROWS.unpack_from(body)
    if not 1 <= count <= limits.rows or flags >= len(_FLAGS):
        raise RemoteProtocolError(f"row frame: expected 1 .. {limits.rows} rows and known flags, got {count}, {flags}")
    if len(body) - _ROWS.size < limits.row_bytes * count:
        raise RemoteProtocolError(
            f"row frame: expected at least {limits.row_bytes} bytes for each of {count} rows, got {len(body)}"
        )
    rows, used = decode_index(form, body[_ROWS.size :], count, limits.rows)
    payload = np.frombuffer(body[_ROWS.size + used :], dtype=np.uint8)
    absolute, quota_end = _FLAGS[flags]
    return Rows(number, iteration, codec, absolute, quota_end, rows, payload, stream)
