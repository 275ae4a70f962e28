"""The form of the log on a disk: files of groups, each of which was written and synchronised as one.

A file begins with a magic number and the number of its first group. A group is a header (magic, number, length, CRC-32
of number, length and content) and its content. Groups are numbered without a gap over all files. One is written only
when the one before is synchronised: so bytes that are no whole group are the end of a write that was never finished if
nothing whole comes behind them, and damage otherwise.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from rowcast.errors import StateDamaged

__all__ = ["Segment", "file_header", "pack_group", "read_segments"]

_FILE = struct.Struct("<8sQI")
_FILE_MAGIC = b"ROWLOG1\n"
_GROUP = struct.Struct("<4sQII")
_GROUP_MAGIC = b"\xffRCG"


class Segment(NamedTuple):
    """A file of the log.

    Attributes:
        name: of the file.
        first: number of its first group, as its name says.
        data: its content.
    """

    name: str
    first: int
    data: bytes


def file_header(first: int) -> bytes:
    """The beginning of a file whose first group has this number."""
    return _FILE.pack(_FILE_MAGIC, first, zlib.crc32(first.to_bytes(8, "little")))


def pack_group(number: int, content: bytes) -> bytes:
    """A group as it is written."""
    check = zlib.crc32(content, zlib.crc32(struct.pack("<QI", number, len(content))))
    return _GROUP.pack(_GROUP_MAGIC, number, len(content), check) + content


def _group_at(data: memoryview, place: int) -> tuple[int, memoryview, int] | None:
    """Number and content of the whole group at a place, and where it ends; ``None``: there is none."""
    if len(data) - place < _GROUP.size:
        return None
    magic, number, length, check = _GROUP.unpack_from(data, place)
    end = place + _GROUP.size + length
    if magic != _GROUP_MAGIC or end > len(data):
        return None
    content = data[place + _GROUP.size : end]
    if zlib.crc32(content, zlib.crc32(struct.pack("<QI", number, length))) != check:
        return None
    return number, content, end


def _whole_behind(data: bytes, place: int) -> int | None:
    """Where a whole group stands behind ``place``, or ``None``."""
    view = memoryview(data)
    while (place := data.find(_GROUP_MAGIC, place + 1)) >= 0:
        if _group_at(view, place) is not None:
            return place
    return None


class Groups:
    """The groups of some files, one after the other.

    Args:
        segments: the files, by their first group.
        first: the group to begin with.

    Attributes:
        next: number of the group that comes next.
        cut: bytes at the end of files that are no whole group, and were never committed.
    """

    def __init__(self, segments: list[Segment], first: int) -> None:
        self._segments = sorted(segments, key=lambda one: one.first)
        self.next = first
        self.cut = 0

    def __iter__(self) -> Iterator[memoryview]:
        for place, segment in enumerate(self._segments):
            behind = [one for one in self._segments[place + 1 :] if one.data]
            yield from self._of(segment, behind)

    def _of(self, segment: Segment, behind: list[Segment]) -> Iterator[memoryview]:
        data, place = memoryview(segment.data), _FILE.size
        if segment.data[:place] != file_header(segment.first):
            if behind or _whole_behind(segment.data, -1) is not None:
                raise StateDamaged(f"{segment.name}: expected the header of a log, got other bytes")
            self.cut += len(data)  # not even its header was committed
            return
        while (found := _group_at(data, place)) is not None:
            number, content, place = found
            if number > self.next:
                raise StateDamaged(
                    f"{segment.name}: expected group {self.next}, got group {number}; groups are missing"
                )
            if number == self.next:
                self.next += 1
                yield content
        if place == len(data):
            return
        whole = _whole_behind(segment.data, place)
        if whole is not None:
            raise StateDamaged(
                f"{segment.name}: expected group {self.next} at byte {place}, got damaged bytes; whole groups follow "
                f"from byte {whole} on, so it was there once"
            )
        self.cut += len(data) - place


def read_segments(segments: list[Segment], first: int) -> Groups:
    """The groups from ``first`` on.

    Raises, when it is read through:
        StateDamaged: a group is damaged or missing that was committed once.
    """
    return Groups(segments, first)
