"""What is where in an MCAP file: found by walking over its records, whether or not its end is there.

The format: https://mcap.dev/spec. Only headers are read; what chunks hold is counted by the index records behind them.
"""

from __future__ import annotations

import os
import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from rowcast.errors import ConfigError, DataError, visible
from rowcast.libraries import needing

__all__ = ["DamagedChunk", "McapFile", "Message", "Segment"]

MAGIC = b"\x89MCAP0\r\n"
_FOOTER, _SCHEMA, _CHANNEL, _MESSAGE, _CHUNK, _MESSAGE_INDEX = 0x02, 0x03, 0x04, 0x05, 0x06, 0x07
_RECORD = struct.Struct("<BQ")
_MESSAGE_HEAD = struct.Struct("<HIQQ")
_CHUNK_HEAD = struct.Struct("<QQQII")
#: Bytes of a record that are looked at while walking: those of the heads, and the name of a compression.
_LOOK_BYTES = 96
#: Most bytes of messages that stand outside of chunks are read at a time; and of a chunk when it is unpacked.
_RUN_BYTES, MOST_CHUNK_BYTES = 1 << 20, 1 << 30

#: Channel, time at which it was logged (ns), content.
Message = tuple[int, int, bytes]


class DamagedChunk(Exception):
    """What a chunk holds is not what was written; stays within the sources."""


@dataclass
class Segment:
    """Messages that are read at once: those of a chunk, or some that stand one behind the other outside of chunks.

    Attributes:
        offset, length: its bytes in the file; of a chunk, those behind the head of the record.
        is_chunk: or plain records.
        whole: all of a chunk is there, and its checksum can be checked.
        counts: messages by channel.
    """

    offset: int
    length: int
    is_chunk: bool
    whole: bool = True
    counts: Counter[int] = field(default_factory=Counter)


class McapFile:
    """An open MCAP file.

    Args:
        path: the file.
        what: needs the library, for the message.

    Raises:
        ConfigError: the library is not installed.
        DataError: it cannot be read, or is no MCAP file.

    Attributes:
        segments: of the file, in its order.
        topics: channel -> topic.
        cut: why it ends too early, and where; empty for a whole file.
        cut_messages: messages, or chunks of them, of which only a part is there: 0 or 1.
    """

    def __init__(self, path: Path, what: str = "an MCAP file") -> None:
        self.path = path
        self.segments: list[Segment] = []
        self.topics: dict[int, str] = {}
        self._encodings: dict[int, tuple[str, int]] = {}
        self._schemas: dict[int, tuple[str, str, bytes]] = {}
        self.cut, self.cut_messages = "", 0
        with needing(what, "mcap"):
            import mcap.stream_reader  # noqa: F401
        try:
            self._file = path.open("rb", buffering=0)
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror}") from error
        try:
            self._number = self._file.fileno()
            self._size = os.fstat(self._number).st_size
            self._walk()
            self._count_what_has_no_index()
            self._find_topics()
        except OSError as error:
            self.close()
            raise DataError(f"{path}: cannot be read: {error.strerror}") from error
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def messages(self, segment: Segment) -> list[Message]:
        """The messages of a segment, in the order of the file.

        Raises:
            DamagedChunk: its content cannot be unpacked, or is not what its checksum or its index says.
        """
        found = list(self._unpacked(segment))
        if Counter(channel for channel, _, _ in found) != segment.counts:
            raise DamagedChunk("it does not hold what its index says")
        return found

    def described(self, channel: int) -> tuple[str, tuple[str, str, bytes]]:
        """How the messages of a channel are encoded: that, and name, encoding and content of its schema.

        Known as soon as a message of it was read; what the file does not say is empty.
        """
        encoding, schema = self._encodings.get(channel, ("", 0))
        return encoding, self._schemas.get(schema, ("", "", b""))

    # -- walking -----------------------------------------------------------------------------------------------

    def _walk(self) -> None:
        if os.pread(self._number, len(MAGIC), 0) != MAGIC:
            raise DataError(f"{self.path}: not an MCAP file: it does not begin as one")
        offset = len(MAGIC)
        while offset + _RECORD.size <= self._size:
            head = os.pread(self._number, _LOOK_BYTES, offset)
            kind, length = _RECORD.unpack_from(head)
            content, end = offset + _RECORD.size, offset + _RECORD.size + length
            if kind == 0:  # as a power loss leaves it: space without content
                break
            if end > self._size:
                self._cut_record(kind, content)
                break
            self._see(kind, content, length, head[_RECORD.size :])
            offset = end
            if kind == _FOOTER:
                return
        self.cut = f"it has no end: cut off in or behind the record at byte {offset} of {self._size}"

    def _see(self, kind: int, content: int, length: int, head: bytes) -> None:
        """Take in a whole record."""
        if kind == _CHUNK:
            self.segments.append(Segment(content, length, is_chunk=True))
        elif kind == _MESSAGE_INDEX and self.segments and length >= 6:
            channel, size = struct.unpack_from("<HI", head)
            self.segments[-1].counts[channel] += size // 16
        elif kind == _MESSAGE and length >= _MESSAGE_HEAD.size:
            self._see_message(content - _RECORD.size, _RECORD.size + length, _MESSAGE_HEAD.unpack_from(head)[0])
        elif kind == _CHANNEL:
            self._see_channel(os.pread(self._number, length, content))
        elif kind == _SCHEMA:
            self._see_schema(os.pread(self._number, length, content))

    def _see_message(self, offset: int, length: int, channel: int) -> None:
        last = self.segments[-1] if self.segments else None
        if last is None or last.is_chunk or last.offset + last.length != offset or last.length + length > _RUN_BYTES:
            last = Segment(offset, 0, is_chunk=False)
            self.segments.append(last)
        last.length += length
        last.counts[channel] += 1

    def _see_channel(self, content: bytes) -> None:
        """A channel record: number, schema, topic, encoding of messages."""
        if len(content) < 4:
            return
        channel, schema = struct.unpack_from("<HH", content)
        topic, place = _text(content, 4)
        if topic is not None:
            self.topics.setdefault(channel, topic.decode(errors="replace"))
            encoding, _ = _text(content, place)
            self._encodings.setdefault(channel, ((encoding or b"").decode(errors="replace"), schema))

    def _see_schema(self, content: bytes) -> None:
        """A schema record: number, name, encoding, content."""
        if len(content) < 2:
            return
        (schema,) = struct.unpack_from("<H", content)
        name, place = _text(content, 2)
        encoding, place = _text(content, place)
        data, _ = _text(content, place)
        if name is not None and encoding is not None and data is not None:
            told = (name.decode(errors="replace"), encoding.decode(errors="replace"), data)
            self._schemas.setdefault(schema, told)

    def _cut_record(self, kind: int, content: int) -> None:
        """A record of which only the beginning is there."""
        if kind == _CHUNK:
            self.segments.append(Segment(content, self._size - content, is_chunk=True, whole=False))
        self.cut_messages = int(kind in (_CHUNK, _MESSAGE))

    def _count_what_has_no_index(self) -> None:
        """Chunks without index records; and the last of a file without an end, whose index records may be missing."""
        last = next((segment for segment in reversed(self.segments) if segment.is_chunk), None)
        for segment in self.segments:
            if segment.is_chunk and (not segment.counts or (self.cut and segment is last)):
                segment.counts.clear()
                try:
                    segment.counts.update(channel for channel, _, _ in self._unpacked(segment))
                except DamagedChunk as error:
                    segment.counts.clear()
                    self.cut_messages = 1
                    self.cut = self.cut or f"the chunk at byte {segment.offset} of {self._size}: {error}"

    def _find_topics(self) -> None:
        """Names of channels that stand only within chunks."""
        wanted = {channel for segment in self.segments for channel in segment.counts} - self.topics.keys()
        for channel in sorted(wanted):
            place = next(k for k, segment in enumerate(self.segments) if channel in segment.counts)
            for segment in reversed(self.segments[: place + 1]):
                if channel in self.topics:
                    break
                if segment.is_chunk:
                    for _ in self._tolerant(segment):
                        pass

    def _tolerant(self, segment: Segment) -> Iterator[Message]:
        try:
            yield from self._unpacked(segment)
        except DamagedChunk:  # whoever reads it is told
            return

    # -- content -----------------------------------------------------------------------------------------------

    def _unpacked(self, segment: Segment) -> Iterator[Message]:
        """The messages of a segment; takes in the channels between them."""
        data = os.pread(self._number, segment.length, segment.offset)
        if segment.is_chunk:
            data = self._decompressed(data, segment.whole)
        place = 0
        while place + _RECORD.size <= len(data):
            kind, length = _RECORD.unpack_from(data, place)
            place += _RECORD.size
            end = place + length
            if end > len(data):
                break
            if kind == _MESSAGE and length >= _MESSAGE_HEAD.size:
                channel, _, log_ns, _ = _MESSAGE_HEAD.unpack_from(data, place)
                yield channel, log_ns, data[place + _MESSAGE_HEAD.size : end]
            elif kind == _CHANNEL:
                self._see_channel(data[place:end])
            elif kind == _SCHEMA:
                self._see_schema(data[place:end])
            place = end
        if place != len(data) and segment.whole:
            raise DamagedChunk("its last record is longer than the chunk")

    def _decompressed(self, content: bytes, whole: bool) -> bytes:
        """What a chunk holds; of one that is not whole, as much as there is.

        Raises:
            DamagedChunk: it cannot be unpacked, or its checksum is another.
            ConfigError: its compression is not known.
        """
        head = _CHUNK_HEAD.size
        name_size = _CHUNK_HEAD.unpack_from(content)[4] if len(content) >= head else 0
        if len(content) < head + name_size + 8:
            if whole:
                raise DamagedChunk("it is shorter than its own head")
            return b""
        start, end, size, checksum, _ = _CHUNK_HEAD.unpack_from(content)
        name = content[head : head + name_size].decode(errors="replace")
        packed = content[head + name_size + 8 :]
        if size > MOST_CHUNK_BYTES:
            raise DamagedChunk(f"it is to hold {size} bytes, {MOST_CHUNK_BYTES} at most are read")
        if name not in ("", "lz4", "zstd"):
            raise ConfigError(f"{self.path}: compression {visible(name)!r} is not known; known: lz4, zstd, none")
        if not whole:
            return _beginning(name, packed)
        from mcap.exceptions import McapError
        from mcap.records import Chunk
        from mcap.stream_reader import get_chunk_data_stream
        from zstandard import ZstdError

        try:
            stream, found = get_chunk_data_stream(Chunk(name, packed, end, start, checksum, size), validate_crc=True)
            data: bytes = stream.read(found)
        except (McapError, ZstdError, ValueError, RuntimeError, MemoryError) as error:
            raise DamagedChunk(str(error) or type(error).__name__) from error
        if len(data) != size:
            raise DamagedChunk(f"it holds {len(data)} bytes, and says {size}")
        return data


def _text(content: bytes, place: int) -> tuple[bytes | None, int]:
    """Bytes behind their number, and the place behind them; ``None``: the record ends before."""
    if place + 4 <= len(content):
        (size,) = struct.unpack_from("<I", content, place)
        if place + 4 + size <= len(content):
            return content[place + 4 : place + 4 + size], place + 4 + size
    return None, len(content)


def _beginning(name: str, packed: bytes) -> bytes:
    """As much of a chunk as its first bytes tell."""
    import lz4.frame
    import zstandard

    data = packed
    try:
        if name == "zstd":
            data = zstandard.ZstdDecompressor().decompressobj().decompress(packed)
        elif name == "lz4":
            data = lz4.frame.LZ4FrameDecompressor().decompress(packed)
    except (zstandard.ZstdError, RuntimeError) as error:
        raise DamagedChunk(str(error)) from error
    return data
