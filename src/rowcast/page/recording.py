"""Journals as one run: records of one file or of a folder of them, in the order of their time, while they grow."""

from __future__ import annotations

import contextlib
import copy
import heapq
import math
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, TypeGuard

import msgspec

from rowcast.errors import ConfigError, visible
from rowcast.journal import EVENTS, Record

__all__ = ["Place", "Recording", "session_start"]

#: Bytes that are read of a file at a time; a line that is longer is none of a journal.
CHUNK_BYTES = 1 << 20
LONGEST_LINE_BYTES = 16 << 20
_START = b'"event":"start"'
_decode = msgspec.json.Decoder().decode


def session_start(path: Path, session: int) -> int:
    """At which byte of a journal a session begins (0 is the first, -1 the last).

    Raises:
        ConfigError: the file cannot be read, or there is no such session.
    """
    try:
        with path.open("rb") as file:
            end = file.seek(0, 2)
            if session >= 0:
                starts = _starts_between(file, 0, end)
            else:  # from the end: a day's journal is long, and the newest session is what is mostly wanted
                starts, place = [], end
                while place > 0 and len(starts) < -session:
                    begin = max(place - 8 * CHUNK_BYTES, 0)
                    starts = _starts_between(file, begin, place) + starts
                    place = begin
    except OSError as error:
        raise ConfigError(f"journal {path}: cannot be read: {error.strerror}") from error
    if not starts and session in (0, -1):
        return 0
    if not -len(starts) <= session < len(starts):
        raise ConfigError(f"journal {path}: expected a session in 0 .. {len(starts) - 1}, got {session}")
    return starts[session]


def _starts_between(file: BinaryIO, begin: int, end: int) -> list[int]:
    """Where the lines begin that hold ``start``, whose event stands in these bytes."""
    reach = 4096  # how far before the event its line may begin, or the event across a border
    base = file.seek(max(begin - reach, 0))
    data = file.read(end - base + len(_START))
    found, place = [], data.find(_START)
    while place >= 0:
        if begin <= base + place < end:
            found.append(base + data.rfind(b"\n", 0, place) + 1)
        place = data.find(_START, place + 1)
    return found


@dataclass
class Place:
    """How far a file was read.

    Attributes:
        offset: byte behind the last record that was handed out.
        shift_s: what is added to its times, so that they never go back.
        newest: greatest time so far, shifted (s).
        damaged: lines that were left out.
        started: a record was read.
    """

    offset: int
    shift_s: float = 0.0
    newest: float | None = None
    damaged: int = 0
    started: bool = False
    complained: set[str] = field(default_factory=set)


class _File:
    """Lines of one journal, whole ones only; the rest is waited for."""

    def __init__(self, path: Path, place: Place, *, alone: bool) -> None:
        self.path = path
        self._alone = alone  # not one of a folder: what is wrong with it is an error
        self._useless = False
        self.place = place
        self.ahead: deque[tuple[int, Record]] = deque()  # records that were read, and the bytes behind them
        self.remarks: list[str] = []
        self._read_to = place.offset
        self._rest = b""

    def fill(self) -> bool:
        """Read on, unless records wait; whether there are any."""
        while not self.ahead and not self._useless:
            try:
                with self.path.open("rb") as file:
                    if file.seek(0, 2) < self._read_to:
                        self._remark("it became shorter: it was cut or replaced, and is read again from its beginning")
                        self._read_to, self._rest, self.place.offset = 0, b"", 0
                    file.seek(self._read_to)
                    data = file.read(CHUNK_BYTES)
            except OSError as error:
                self._remark(f"cannot be read: {error.strerror}")
                return False
            if not data:
                return False
            self._read_to += len(data)
            try:
                self._take(data)
            except ConfigError as error:
                if self._alone:
                    raise
                self._useless = True
                self.remarks.append(f"{error}; it is left out")
        return bool(self.ahead)

    def _take(self, data: bytes) -> None:
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()
        if len(self._rest) > LONGEST_LINE_BYTES:
            raise ConfigError(f"journal {self.path}: a line of over {LONGEST_LINE_BYTES >> 20} MB; it is no journal")
        behind = self._read_to - len(self._rest) - sum(map(len, lines)) - len(lines)
        for line in lines:
            behind += len(line) + 1
            record = self._read(line)
            if record is not None:
                self.ahead.append((behind, record))

    def _read(self, line: bytes) -> Record | None:
        line = line.strip(b"\0 \t\r")
        if not line:
            return None
        record: Any = None
        with contextlib.suppress(msgspec.DecodeError, ValueError, RecursionError):  # it is told of below
            record = _decode(line)
        if not _is_record(record):
            if not self.place.started and not self.place.offset:
                raise ConfigError(f"journal {self.path}: expected lines with t, node and event, got something else")
            self.place.damaged += 1
            self._remark("a damaged line was left out")
            return None
        self.place.started = True
        if record["event"] not in EVENTS:
            self._remark(f"was written by another version: its events {visible(record['event'], 40)!r} are left out")
        return record

    def _remark(self, text: str) -> None:
        if text not in self.place.complained and len(self.place.complained) < 20:
            self.place.complained.add(text)
            self.remarks.append(f"journal {self.path.name}: {text}")

    def head(self) -> float:
        """Time of the next record, shifted: a session that begins anew, with another clock, goes on where it was."""
        place, record = self.place, self.ahead[0][1]
        t = record["t"] + place.shift_s
        if place.newest is not None and t < place.newest and record["event"] == "start":
            place.shift_s += place.newest - t
            t = place.newest
        return float(t)

    def next(self) -> Record:
        """The next record, at its shifted time."""
        t = self.head()
        offset, record = self.ahead.popleft()
        self.place.offset = offset
        if self.place.newest is None or t > self.place.newest:
            self.place.newest = t
        if self.place.shift_s:
            record["t"] = t
        return record


def _is_record(record: object) -> TypeGuard[Record]:
    return (
        isinstance(record, dict)
        and isinstance(record.get("t"), int | float)
        and isinstance(record.get("node"), str)
        and isinstance(record.get("event"), str)
    )


class Recording:
    """Reads journals.

    Args:
        path: a journal, or a folder with journals (``*.jsonl``) in it; there also those that appear later.
        session: which session of each file to begin with: 0 is the first, -1 the last. What follows it is read, too.
        places: where to go on in files that were read up to there, by name.

    Attributes:
        remarks: sentences about files that are damaged, or of another version; whoever shows them clears them.

    Raises:
        ConfigError: the path is missing, holds no journal, or something else than one.
    """

    def __init__(self, path: str | Path, session: int = -1, places: dict[str, Place] | None = None) -> None:
        self.path = Path(path)
        self.session = session
        self.remarks: list[str] = []
        self._files: dict[str, _File] = {}
        self._given = places or {}
        if not self.path.exists():
            raise ConfigError(f"journal {path}: expected a file or a folder, found nothing there")
        self._look()
        if not self._files:
            inner = sorted({found.parent.relative_to(self.path) for found in self.path.glob("*/*.jsonl")})
            hint = f"; there are some in {', '.join(map(str, inner[:5]))}" if inner else ""
            raise ConfigError(f"journal {path}: expected journals (*.jsonl) in the folder, found none{hint}")

    def _look(self) -> None:
        """Open the files that are there and not known."""
        paths = [self.path] if not self.path.is_dir() else sorted(self.path.glob("*.jsonl"))
        for path in paths:
            if path.name not in self._files:
                place = copy.deepcopy(self._given.get(path.name))
                place = place or Place(session_start(path, self.session))
                self._files[path.name] = _File(path, place, alone=path == self.path)

    @property
    def bytes_left(self) -> int:
        """Bytes that are in the files and were not handed out."""
        sizes = ((file.path.stat().st_size, file.place.offset) for file in self._files.values() if file.path.exists())
        return sum(max(size - offset, 0) for size, offset in sizes)

    @property
    def files(self) -> list[Path]:
        """The journals that are read."""
        return [file.path for file in self._files.values()]

    def places(self) -> dict[str, Place]:
        """How far each file was handed out; another recording can go on from there."""
        return {name: copy.deepcopy(file.place) for name, file in self._files.items()}

    def look_for_more(self) -> None:
        """Files that have appeared since are read from now on as well.

        Raises:
            ConfigError: one of them cannot be read.
        """
        if self.path.is_dir():
            self._look()

    def read(self, most: int, until: float = math.inf) -> list[Record]:
        """The next records, at most so many: what the files hold by now, in the order of their times.

        Args:
            most: how many.
            until: time of the last one (s); a record behind it, and all that follow, are left for later.

        Raises:
            ConfigError: a file is no journal.
        """
        found: list[Record] = []
        files = list(self._files.values())
        if len(files) == 1:
            file = files[0]
            while len(found) < most and file.fill() and file.head() <= until:
                found.append(file.next())
        else:
            heap = [(file.head(), number) for number, file in enumerate(files) if file.fill()]
            heapq.heapify(heap)
            while heap and len(found) < most and heap[0][0] <= until:
                file = files[heap[0][1]]
                found.append(file.next())
                if file.fill():
                    heapq.heapreplace(heap, (file.head(), heap[0][1]))
                else:
                    heapq.heappop(heap)
        for file in files:
            self.remarks += file.remarks
            file.remarks.clear()
        return found
