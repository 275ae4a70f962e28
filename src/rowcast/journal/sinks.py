"""What becomes of records: lines of a file or a stream, or nothing."""

from __future__ import annotations

import errno
import io
import json
import math
import os
import stat
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rowcast.errors import ConfigError
from rowcast.journal.events import EVENTS, Record

try:
    import fcntl
except ImportError:  # pragma: no cover - Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["FileSink", "forget", "write_to"]


def write_to(stream: io.TextIOBase) -> Callable[[Record], None]:
    """A sink that writes each record to ``stream`` as one line of JSON (flushed: a crash keeps the record).

    For what is no file of one's own: standard output, memory, another program. For a file see :class:`FileSink`.
    """
    torn = False

    def sink(record: Record) -> None:
        nonlocal torn
        if stream.closed:
            raise OSError(errno.EBADF, "the file was closed")
        line = _line(record)
        # What a full disk left of the line before must not run into this one.
        text, torn = "\n" + line if torn else line, True
        stream.write(text)
        stream.flush()
        torn = False

    return sink


def _line(record: Record) -> str:
    try:
        return json.dumps(record, separators=(",", ":"), allow_nan=False) + "\n"
    except ValueError:
        # A loss that became NaN is news, not a reason to stop; JSON has no word for it but null.
        return json.dumps(_finite(record), separators=(",", ":"), allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


#: A pipe that nobody reads must not stop a training: opening it fails, and so does a write to one that is full.
_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0)


class FileSink:
    """A sink that appends to a file (the folder is made), closed by :meth:`close` or with its last user.

    What the file holds is kept: a session begins with the event ``start``, and where the first record is another one,
    an empty ``start`` is put in front. One process writes a file at a time; a pipe, a terminal or ``/dev/null`` is
    written by many. Within a process the last one that opens a file writes it; what an earlier sink is given then
    counts as not written.

    Attributes:
        path: the file.

    Raises:
        ConfigError: the file cannot be written, another process writes it, or it is no journal.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._ended = ""  # why what this sink is given is not written any more
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self.path, _FLAGS, 0o666)
        except (OSError, ValueError) as error:  # ValueError: a name with a zero byte
            raise ConfigError(f"journal {path}: cannot be written: {getattr(error, 'strerror', error)}") from error
        self.close = weakref.finalize(self, os.close, self._file)
        try:
            found = os.fstat(self._file)
            is_file = stat.S_ISREG(found.st_mode)
            first, _ = _ends(self.path) if is_file else (b"", b"")
            if first not in (b"", b"{"):
                raise ConfigError(f"journal {path}: the file holds something else than a journal; choose another")
            if is_file:  # a terminal, a pipe or /dev/null is written by many
                self._claim((found.st_dev, found.st_ino))
            holds = is_file and os.fstat(self._file).st_size > 0
            last = _ends(self.path)[1] if holds else b"\n"
        except BaseException:
            self.close()
            raise
        self._headless = holds
        self._torn = last != b"\n"

    def __call__(self, record: Record) -> None:
        if self._ended or not self.close.alive:
            raise OSError(errno.EBADF, self._ended or "the file was closed")
        if self._headless:
            if record["event"] != "start":
                header = {"t": record["t"], "node": record["node"], "event": "start"}
                self._append(_line({**header, **dict.fromkeys(EVENTS["start"])}))
            self._headless = False
        self._append(_line(record))

    def _append(self, line: str) -> None:
        rest = memoryview((("\n" if self._torn else "") + line).encode())
        while rest:
            rest = rest[os.write(self._file, rest) :]
            self._torn = bool(rest)

    def _claim(self, key: tuple[int, int]) -> None:
        earlier = _writers.get(key)
        if earlier is not None and earlier.close.alive:
            # The lock comes with the open file. Not closed here: a record may be on its way on another thread.
            os.dup2(earlier._file, self._file, inheritable=False)
            earlier._ended = "another journal of this process writes the file now"
        if fcntl is not None:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ConfigError(
                    f"journal {self.path}: another process writes this file; stop it, or choose another file"
                ) from None
            except OSError:
                pass  # a file system without locks
        _writers[key] = self


#: Who writes a file in this process, by device and inode.
_writers: weakref.WeakValueDictionary[tuple[int, int], FileSink] = weakref.WeakValueDictionary()


def _leave_to_parent() -> None:
    """In a forked child: the file is the parent's, whose lock must not live on here."""
    for sink in list(_writers.values()):
        sink._ended = "the file belongs to the process that this one was forked from"
        sink.close()
    _writers.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_to_parent)


def _ends(path: Path) -> tuple[bytes, bytes]:
    """The first byte of a file that says something, and the last one."""
    try:
        with path.open("rb") as file:
            first = file.read(4096).lstrip(b"\0\n\r\t ")[:1]
            file.seek(-1, os.SEEK_END)
            return first, file.read(1)
    except OSError:  # it may be written and not read
        return b"", b""


def forget(record: Record) -> None:
    """The sink of a robot that keeps no journal: months of training must not fill its memory."""
