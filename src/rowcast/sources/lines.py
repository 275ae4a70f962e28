"""Lines of a file, plain or gzip'd, as far as they are complete: by number, without holding the file."""

from __future__ import annotations

import gzip
import os
import zlib
from collections import deque
from pathlib import Path
from typing import BinaryIO, cast

from rowcast.errors import DataError, StreamGap

__all__ = ["LineFile"]

BLOCK_BYTES = 1 << 18
#: Longest line; what has none so far is no text file.
MOST_LINE_BYTES = 1 << 24
#: Bytes in front of the end that are compared when a file has grown.
COMPARED_BYTES = 64


class LineFile:
    """Reads lines one after the other.

    Args:
        path: the file; one whose name ends in ``.gz`` is decompressed.
        follow: it may grow: a last line without an end is not complete yet. Otherwise it is a line too.

    Raises:
        DataError: it cannot be opened.

    Attributes:
        taken: lines that were read or skipped.
        cut: why it ends too early, where a gzip'd file does; otherwise empty.
    """

    def __init__(self, path: Path, follow: bool = False) -> None:
        self._path, self._follow = path, follow
        self._gzip = path.suffix == ".gz"
        self.taken, self.cut = 0, ""
        try:
            self._raw = path.open("rb", buffering=0)
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror}") from error
        self._file: BinaryIO = cast(BinaryIO, gzip.GzipFile(fileobj=self._raw)) if self._gzip else self._raw
        self._pending: deque[bytes] = deque()
        self._tail = b""
        self._offset = 0  # bytes read of a plain file
        self._before = b""  # the last of them
        self._at_end = False
        self._counted, self._counted_to = 0, 0  # lines of the file up to a byte, for ``left``

    def lines(self, at_most: int) -> list[bytes]:
        """The next complete lines, without their ends; none where there are none at the moment.

        Raises:
            StreamGap: the file was cut, changed or replaced after it was read.
            DataError: it cannot be read, or a line is longer than 16 MiB.
        """
        while not self._pending and self._fill():
            pass
        found = [self._pending.popleft() for _ in range(min(at_most, len(self._pending)))]
        if not found and self._tail and self._at_end and not self._follow and not self.cut:
            found, self._tail = [self._tail], b""
        self.taken += len(found)
        return found

    def skip(self, count: int) -> int:
        """Go on behind the next ``count`` lines; returns how many there were."""
        left = count
        while left:
            if self._pending:
                some = min(left, len(self._pending))
                for _ in range(some):
                    self._pending.popleft()
                left -= some
                continue
            data = self._read()
            if not data:
                break
            ends = data.count(b"\n")
            if ends > left:
                self._cut(data)
            elif ends:
                self._tail = data[data.rindex(b"\n") + 1 :]
                left -= ends
            else:
                self._append(data)
        if left and self._tail and not self._follow and not self.cut:
            self._tail = b""
            left -= 1
        self.taken += count - left
        return count - left

    @property
    def incomplete(self) -> bool:
        """Whether a part of a line is there, and its end is not."""
        return bool(self._tail)

    def left(self) -> int:
        """Complete lines that are there and were not taken."""
        if not self._gzip:
            self._count_plain()
        elif not self._counted_to:
            self._count_gzip()
        return self._counted - self.taken

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        self._raw.close()

    def _fill(self) -> bool:
        """Read on; whether there was something."""
        data = self._read()
        if data:
            self._cut(data)
        return bool(data)

    def _cut(self, data: bytes) -> None:
        """Take in what was read."""
        if b"\n" in data:
            first, *rest = data.split(b"\n")
            self._pending.append(self._tail + first)
            self._tail = rest.pop()
            self._pending.extend(rest)
        else:
            self._append(data)

    def _append(self, data: bytes) -> None:
        self._tail += data
        if len(self._tail) > MOST_LINE_BYTES:
            raise DataError(f"{self._path}: a line is longer than {MOST_LINE_BYTES >> 20} MiB; is it a text file?")

    def _read(self) -> bytes:
        """The next block; empty at the end."""
        if self.cut:
            return b""
        try:
            if self._gzip:
                data = cast(gzip.GzipFile, self._file).read1(BLOCK_BYTES)
            else:
                self._check_unchanged()
                data = self._file.read(BLOCK_BYTES)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            self.cut = str(error)
            data = b""
        except OSError as error:
            raise DataError(f"{self._path}: cannot be read: {error.strerror}") from error
        self._at_end = not data
        if data:
            self._offset += len(data)
            self._before = (self._before + data[-COMPARED_BYTES:])[-COMPARED_BYTES:]
        elif not self._gzip:
            self._check_unchanged()
        return data

    def _check_unchanged(self) -> None:
        """What was read is still there, and the file is still that of this name."""
        here = os.fstat(self._raw.fileno())
        size = len(self._before)
        if here.st_size < self._offset:
            what = f"it has {here.st_size} bytes, and {self._offset} were read"
        elif os.pread(self._raw.fileno(), size, self._offset - size) != self._before:
            what = "what was read of it has changed"
        elif here.st_size == self._offset and self._follow and self._replaced(here):
            what = "another file has its name now"
        else:
            return
        raise StreamGap(
            f"{self._path}: {what}: lines may be gone unread; a file that is followed may only grow at its end. "
            "Open it from its start to go on"
        )

    def _replaced(self, here: os.stat_result) -> bool:
        try:
            there = self._path.stat()
        except FileNotFoundError:
            return False  # it was moved away or deleted, and nothing has its place yet
        return (there.st_dev, there.st_ino) != (here.st_dev, here.st_ino)

    def _count_plain(self) -> None:
        number = self._raw.fileno()
        last = b""
        while data := os.pread(number, BLOCK_BYTES, self._counted_to):
            self._counted += data.count(b"\n")
            self._counted_to += len(data)
            last = data[-1:]
        if last not in (b"", b"\n") and not self._follow:
            self._counted += 1

    def _count_gzip(self) -> None:
        """Counted once: such a file does not grow."""
        other = LineFile(self._path)
        try:
            while other.skip(1 << 30):
                pass
            self._counted, self._counted_to = other.taken, 1
        finally:
            other.close()
