"""Samples from a directory that grows: a file each."""

from __future__ import annotations

import fcntl
import os
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from rowcast.errors import ConfigError, DataError, RowcastError, StreamGap
from rowcast.sources.base import PulledSource
from rowcast.sources.text import SourceText
from rowcast.streams import Positions, Sample

__all__ = ["DirectorySource"]

_OPTIONS = ("index", "settle", "gone", "most_bytes")
#: Names of files that are still being written, or are none of the data.
_UNFINISHED = (".part", ".partial", ".tmp", ".crdownload", "~")
INDEX = ".rowcast-index"
PARTITION = "files"
SETTLE_S, MOST_BYTES = 1.0, 1 << 28
#: Seconds for which the time of a directory has to lie behind its last listing, to say that nothing has come since.
_TICK_S = 2.0
#: A listing is followed by so many times as long without one: it costs a twentieth of a core at most.
_REST = 19
#: Bytes that a file takes besides its content.
FILE_BYTES = 96


class DirectorySource(PulledSource):
    """The files of a directory, as they are complete: the payload is the content, the time that of the last change.

    A file is complete when its size and time have not changed for ``settle_s`` seconds; names that begin with a dot or
    end in ``.part``, ``.partial``, ``.tmp``, ``.crdownload`` or ``~`` are not looked at. Those that are found complete
    at the same time come in the order of their names: robots count in them, and copying changes times.

    A position is a line of the index, a file in which each name is written before it is delivered. So positions stay
    what they are when a file with a smaller name comes later (it is next), and when files are deleted behind them. A
    name stands for one sample: a file that is written anew under it is not read again. One process at a time reads with
    an index.

    Args:
        path: the directory; what is below its subdirectories is not looked at.
        index: where the order is kept; ``None``: nowhere, and positions end with this object.
        settle_s: seconds; 0 where files are moved in when they are complete.
        skip_gone: a file that was deleted before it was read is counted and passed over; otherwise an error.
        most_bytes: of a file; a larger one is dropped and counted.
        wall: seconds since 1970, to compare with the times of files.
        settings: clock and pause, see :class:`PulledSource`.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        index: Path | None = None,
        settle_s: float = SETTLE_S,
        skip_gone: bool = False,
        most_bytes: int = MOST_BYTES,
        wall: Callable[[], float] = time.time,
        **settings: Any,
    ) -> None:
        super().__init__(str(path), **settings)
        self._path, self._index = Path(path), index
        self._settle_s, self._skip_gone, self._most_bytes, self._wall = settle_s, skip_gone, most_bytes, wall
        self._file: IO[str] | None = None

    @classmethod
    def from_text(cls, text: SourceText) -> DirectorySource:
        """``dir://FOLDER?index=FILE&settle=SECONDS&gone=skip&most_bytes=BYTES``; ``index=none`` keeps none."""
        text.check(_OPTIONS)
        if text.one("gone", "error") not in ("error", "skip"):
            raise ConfigError(f"source {str(text)!r}: option 'gone': expected error or skip, got {text.one('gone')!r}")
        index = text.one("index")
        return cls(
            text.place,
            index=None if index == "none" or text.look else Path(index) if index else Path(text.place) / INDEX,
            settle_s=text.number("settle", SETTLE_S),
            skip_gone=text.one("gone") == "skip",
            most_bytes=int(text.number("most_bytes", MOST_BYTES, 1.0)),
        )

    def _begin(self, positions: Positions) -> Positions:
        if not self._path.is_dir():
            raise DataError(f"{self._path}: no such directory")
        wanted = positions.get(PARTITION, 0)
        self._known: set[str] = set()
        self._waiting: deque[str] = deque()
        self._seen: dict[str, tuple[tuple[int, int], float]] = {}  # size and time of unsettled files, and since when
        self._stamp: int | None = None  # time of the directory when it was listed last, if nothing can be missing
        self._look_at = self._now()
        lines = self._read_index()
        if wanted > len(lines):
            raise StreamGap(
                f"{self._path}: to be read behind file {wanted}, and the index {self._index or 'that is not kept'} has "
                f"{len(lines)}; give the index with which it was read before, or open it from its start"
            )
        self._known.update(lines)
        self._waiting.extend(lines[wanted:])
        self._at = wanted
        self._look()
        return Positions({PARTITION: wanted})

    def _next(self, at_most: int) -> list[Sample]:
        found: list[Sample] = []
        if len(self._waiting) < at_most:
            self._look()
        while self._waiting and len(found) < at_most:
            try:
                sample = self._read(self._waiting[0])
            except RowcastError:
                if found:
                    break  # they are delivered first; the next call meets the error again
                raise
            self._waiting.popleft()
            self._at += 1
            if sample is not None:
                found.append(sample)
        return found

    def _read(self, name: str) -> Sample | None:
        """The sample of the next file; ``None`` for one that is dropped."""
        path = self._path / name
        try:
            with path.open("rb") as file:
                here = os.fstat(file.fileno())
                if here.st_size <= self._most_bytes:
                    content = file.read()
                    return Sample(PARTITION, self._at + 1, here.st_mtime, content, len(content) + FILE_BYTES)
        except FileNotFoundError as error:
            if not self._skip_gone:
                raise StreamGap(
                    f"{path}: it was deleted before it was read, as file {self._at + 1}; to pass over such files and "
                    "count them, set gone=skip"
                ) from error
            self._drops.count("gone", f"{name} was deleted before it was read")
            return None
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror}") from error
        self._drops.count(f"over {self._most_bytes} bytes", f"{name} has {here.st_size} bytes")
        return None

    def _left(self) -> int | None:
        self._look()
        return len(self._waiting)

    def _end(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    # -- the index ---------------------------------------------------------------------------------------------

    def _read_index(self) -> list[str]:
        """The names that it has; opens it, for this process alone."""
        if self._index is None:
            return []
        try:
            self._file = self._index.open("a+", encoding="utf-8", errors="surrogateescape", newline="\n")
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(
                f"{self._path}: another process reads it with the index {self._index}; "
                "give this one another: index=FILE"
            ) from error
        except OSError as error:
            raise ConfigError(
                f"{self._index}: the index cannot be written: {error.strerror}; give another place: index=FILE"
            ) from error
        self._file.seek(0)
        text = self._file.read()
        lines = text.split("\n")
        if lines.pop():  # written in part when the power went: its files were not delivered yet
            whole = text[: text.rfind("\n") + 1]
            os.truncate(self._index, len(whole.encode("utf-8", "surrogateescape")))
            self._file.seek(0, os.SEEK_END)
        return [_unescaped(line) for line in lines]

    def _keep(self, names: list[str]) -> None:
        """Write names into the index, before they are delivered."""
        if self._file is not None:
            try:
                self._file.write("".join(f"{_escaped(name)}\n" for name in names))
                self._file.flush()
                os.fsync(self._file.fileno())
            except OSError as error:
                raise DataError(f"{self._index}: the index cannot be written: {error.strerror}") from error
        self._known.update(names)
        self._waiting.extend(names)

    # -- the directory -----------------------------------------------------------------------------------------

    def _look(self) -> None:
        """Find what is complete by now."""
        began = self._now()
        if began < self._look_at:
            return
        try:
            stamp = self._path.stat().st_mtime_ns
            if stamp == self._stamp and not self._seen:
                return
            listed_at = self._wall()
            with os.scandir(self._path) as entries:
                there = [entry for entry in entries if not _is_unfinished(entry.name)]
            complete = sorted(entry.name for entry in there if entry.name not in self._known and self._settled(entry))
        except OSError as error:
            raise DataError(f"{self._path}: cannot be listed: {error.strerror}") from error
        names = {entry.name for entry in there}
        # What is deleted is forgotten, but for what is to be delivered: memory does not grow with the stream.
        self._known &= names.union(self._waiting)
        self._seen = {name: seen for name, seen in self._seen.items() if name in names and name not in complete}
        self._stamp = stamp if listed_at - stamp / 1e9 > _TICK_S else None
        self._look_at = self._now() + _REST * (self._now() - began)
        if complete:
            self._keep(complete)

    def _settled(self, entry: os.DirEntry[str]) -> bool:
        """Whether a file is complete."""
        try:
            if not entry.is_file():
                return False
            here = entry.stat()
        except FileNotFoundError:
            return False
        if self._settle_s <= self._wall() - here.st_mtime or not self._settle_s:
            return True
        now, state = self._now(), (here.st_size, here.st_mtime_ns)
        before, since = self._seen.get(entry.name, (state, now))
        self._seen[entry.name] = (state, since if before == state else now)
        return before == state and now - since >= self._settle_s


def _is_unfinished(name: str) -> bool:
    return name.startswith(".") or name.endswith(_UNFINISHED)


def _escaped(name: str) -> str:
    """A name as one line."""
    return name.replace("\\", "\\\\").replace("\n", "\\n")


def _unescaped(line: str) -> str:
    parts = line.split("\\\\")
    return "\\".join(part.replace("\\n", "\n") for part in parts)
