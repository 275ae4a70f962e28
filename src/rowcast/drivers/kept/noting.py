"""Notes as bytes: a file of them behind each picture.

A file begins with a head, which tells how long the file before it was, if it goes on from there: one that is shorter
has lost notes. A note is its kind (u8), the bytes of its body (u32), a CRC-32 of both (u32), and the body: fields in
MessagePack, or a frame of the wire format. Whatever ends a file early, the notes before it count.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from rowcast.errors import RemoteProtocolError
from rowcast.rows import Layout
from rowcast.training.kept import (
    SESSION_NOTES,
    Acknowledged,
    Finished,
    Finishing,
    Joined,
    Note,
    Received,
    Resumed,
    Sent,
    Started,
)
from rowcast.wire import FrameDecoder, RowLimits, Rows, encode

__all__ = ["NotesFile", "flushed_to", "read_notes"]

_HEAD = struct.Struct(">4sHq")
_MAGIC, _FORMAT = b"RCNT", 2
_NOTE = struct.Struct(">BII")
_LEFT = struct.Struct(">I")

#: Kinds of notes whose fields are plain values, by their number.
_PLAIN: dict[int, type[Any]] = {3: Acknowledged, 4: Finished, 5: Finishing, 6: Joined, 7: Resumed, 8: Started}
_NUMBERS = {Sent: 1, Received: 2, **{kind: number for number, kind in _PLAIN.items()}}
_OF_THE_SESSION = {_NUMBERS[kind] for kind in SESSION_NOTES}


class NotesFile:
    """A file that notes are appended to.

    What is written is with the system at once, so that it outlives the process.

    Args:
        path: a new file.
        follows: bytes of the file before it, where nothing is missing between the two; negative: it begins anew.

    Attributes:
        size: bytes written.

    Raises:
        OSError: it cannot be written.
    """

    def __init__(self, path: Path, *, follows: int) -> None:
        self.path = path
        self.size = 0
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        self._write(_HEAD.pack(_MAGIC, _FORMAT, follows))

    def append(self, note: Note) -> None:
        """Write one note.

        Raises:
            OSError: it was not written, or not wholly: nothing may follow in this file.
        """
        body = _body(note)
        head = _NOTE.pack(_NUMBERS[type(note)], len(body), zlib.crc32(body, _NUMBERS[type(note)]))
        self._write(head + body)

    def close(self) -> None:
        """Write no more."""
        os.close(self._file)

    def _write(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self._file, rest) :]
        self.size += len(data)


def _body(note: Note) -> bytes:
    if isinstance(note, Sent):
        return _LEFT.pack(len(note.left)) + note.left.astype("<f4").tobytes() + encode(note.message)
    if isinstance(note, Received):
        return encode(note.message)
    return msgspec.msgpack.encode(note)


def read_notes(path: Path, layout: Layout) -> tuple[int, list[Note], int]:
    """The notes of a file.

    Returns:
        Where the file before it ended, if it goes on from there, else -1; the notes, as far as they are whole; the
        bytes up to there.

    Raises:
        OSError: it cannot be read.
    """
    data = memoryview(path.read_bytes())
    if len(data) < _HEAD.size:
        return -1, [], 0
    magic, version, follows = _HEAD.unpack_from(data)
    if (magic, version) != (_MAGIC, _FORMAT):
        return -1, [], 0
    notes: list[Note] = []
    place = _HEAD.size
    for kind, body in _whole(data):
        try:
            notes.append(_note(kind, body, layout))
        except (RemoteProtocolError, msgspec.MsgspecError, ValueError, KeyError, struct.error):
            break
        place += _NOTE.size + len(body)
    return follows, notes, place


def flushed_to(data: bytes) -> int:
    """How many bytes of a file of notes are on the disk for certain: up to the newest note of the session; 0: none."""
    place, flushed = _HEAD.size, 0
    for kind, body in _whole(memoryview(data)):
        place += _NOTE.size + len(body)
        if kind in _OF_THE_SESSION:
            flushed = place
    return flushed


def _whole(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    place = _HEAD.size
    while place + _NOTE.size <= len(data):
        kind, length, crc = _NOTE.unpack_from(data, place)
        body = data[place + _NOTE.size : place + _NOTE.size + length]
        if len(body) < length or zlib.crc32(body, kind) != crc:
            return
        yield kind, body
        place += _NOTE.size + length


def _note(kind: int, body: memoryview, layout: Layout) -> Note:
    if kind == _NUMBERS[Received]:
        return Received(_frame(body, layout))
    if kind == _NUMBERS[Sent]:
        (count,) = _LEFT.unpack_from(body)
        end = _LEFT.size + 4 * count
        left = np.frombuffer(body[_LEFT.size : end], dtype="<f4").astype(np.float32)
        return Sent(_frame(body[end:], layout), left)
    note: Note = msgspec.msgpack.decode(body, type=_PLAIN[kind])
    return note


def _frame(data: memoryview, layout: Layout) -> Rows:
    decoder = FrameDecoder()
    decoder.trusted = True
    decoder.streams = {0: RowLimits(layout.rows)}
    (message,) = decoder.feed(data)
    if not isinstance(message, Rows):
        raise ValueError(f"expected rows, got {type(message).__name__}")
    message.code.check(layout, message.payload, message.rows)
    return message
