"""A journal that was written, read record by record."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

from rowcast.errors import ConfigError, visible
from rowcast.journal.events import ALWAYS, Record

__all__ = ["read_journal", "session_count"]

log = logging.getLogger("rowcast")


def read_journal(path: str | Path, session: int | None = -1) -> Iterator[Record]:
    """Read a journal written by :func:`write_to` or :class:`FileSink`, record by record.

    A last line that a crash cut short is left out. Lines that were cut short elsewhere, by a full disk, are left out
    too, and a warning says how many; another one says when the journal itself tells of records that it lacks.

    Args:
        path: the file.
        session: which session of a file that holds several, one behind the other (the node's clock may begin anew with
            each): 0 is the first, -1 the last; ``None`` reads all of them.

    Raises:
        ConfigError: the file is missing, a line is not a journal record (file and line are named), or there is no such
            session.
    """
    lines = _read_lines(path)
    first, last = _bounds(path, lines, session)
    damaged = missing = 0
    why = ""
    for number in range(first, last):
        line = lines[number].strip(b"\0 \t\r")
        if not line:
            damaged += b"\0" in lines[number]
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            if number == len(lines) - 1:
                break
            if line[: len(_BEGINS)] == _BEGINS[: len(line)]:
                damaged += 1
                continue
            where = "not a journal" if isinstance(error, UnicodeDecodeError) else f"line {number + 1}: not JSON"
            raise ConfigError(f"journal {path}, {where}: {error}") from error
        if not _is_record(record):
            raise ConfigError(f"journal {path}, line {number + 1}: expected t, node and event")
        if record["event"] == "gap":
            missing += int(record.get("records") or 0)
            why = str(record.get("why"))
        yield record
    if damaged:
        _remark(f"journal {path}: {damaged} damaged line{'s' * (damaged > 1)} left out")
    if missing:
        _remark(f"journal {path}: {missing} records are missing, they could not be written ({why})")


def _bounds(path: str | Path, lines: Sequence[bytes], session: int | None) -> tuple[int, int]:
    """The first line of a session, and the one behind its last.

    Raises:
        ConfigError: there is no such session.
    """
    starts = _sessions(lines)
    if session is None or not starts:
        return 0, len(lines)
    if not -len(starts) <= session < len(starts):
        raise ConfigError(f"journal {path}: expected a session in 0 .. {len(starts) - 1}, got {session}")
    place = session % len(starts)
    return starts[place], [*starts, len(lines)][place + 1]


def _is_record(value: object) -> bool:
    return isinstance(value, dict) and value.keys() >= ALWAYS


def session_count(path: str | Path) -> int:
    """How many sessions a journal holds.

    Raises:
        ConfigError: the file cannot be read.
    """
    return len(_sessions(_read_lines(path)))


#: How every line begins that a :class:`FileSink` wrote.
_BEGINS = b'{"t":'


def _read_lines(path: str | Path) -> list[bytes]:
    try:
        return Path(path).read_bytes().split(b"\n")
    except OSError as error:
        raise ConfigError(f"journal {path}: cannot be read: {error.strerror}") from error


def _sessions(lines: Sequence[bytes]) -> list[int]:
    """At which line each session begins; what stands before the first ``start`` is one as well."""
    starts = [number for number, line in enumerate(lines) if b'"start"' in line and _is_start(line)]
    before = next((number for number, line in enumerate(lines) if line.strip(b"\0 \t\r")), None)
    return starts if before is None or (starts and starts[0] <= before) else [before, *starts]


def _is_start(line: bytes) -> bool:
    try:
        record = json.loads(line.strip(b"\0 \t\r"))
    except ValueError:
        return False
    return isinstance(record, dict) and record.get("event") == "start"


_remarks: set[str] = set()


def _remark(text: str) -> None:
    """Warn, once for all who read the file."""
    if text not in _remarks:
        _remarks.add(text)
        log.warning("%s", visible(text))
