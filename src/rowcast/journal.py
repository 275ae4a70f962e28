"""The journal: the structured record of what happened, which every table, figure and test reads.

A node never opens a file and never reads a clock; it calls :meth:`Journal.record` with the time it was
given. What becomes of the record is the sink's business: kept in memory, or written as JSON lines.

A record that cannot be written (a full disk, a dying card) never stops the training: the journal warns once, goes on
without it, and says what is missing as soon as writing works again (event ``gap``).

One file may hold several sessions of a node, one behind the other: a file is appended to, never emptied, and the event
``start`` begins a session.

The schema is :data:`EVENTS`: a name for each event and, for each field, what it means and its unit.
:meth:`Journal.record` refuses an event or a field that the schema does not know, so the schema cannot
fall behind the code.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import logging
import math
import os
import stat
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rowcast.errors import ConfigError, LocalProtocolError, visible

try:
    import fcntl
except ImportError:  # pragma: no cover - Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["EVENTS", "FileSink", "Journal", "forget", "open_journal", "read_journal", "session_count", "write_to"]

log = logging.getLogger("rowcast")

Record = dict[str, Any]

#: Every event and its fields. ``t`` (s, the node's monotonic clock), ``node`` and ``event`` are in all.
EVENTS: Mapping[str, Mapping[str, str]] = {
    "start": {
        "role": "'worker' or 'server'",
        "version": "version of the rowcast package",
        "policy": "policy text, or null where it is learnt at joining",
        "settings": "the node's settings, by name",
    },
    "link_up": {
        "peer": "who is at the other end: a worker's name, or the server's address",
        "congestion_control": "TCP congestion control in force, or null where there is none",
        "shaped_by": "name of the bandwidth trace under this link, or null",
    },
    "link_down": {"peer": "who was at the other end", "cause": "why the link ended"},
    "join": {
        "peer": "name of the worker",
        "epoch": "membership epoch after the join",
        "iteration": "iteration at which the worker starts",
        "how": "'seed', 'equal', 'receive' or 'resume'",
        "members": "number of workers that the gate counts, after the join",
    },
    "leave": {
        "peer": "name of the worker",
        "epoch": "membership epoch after the departure",
        "cause": "why it left",
        "members": "number of workers that the gate counts, after the departure",
    },
    "absent": {
        "peer": "name of a worker for which nobody waits any longer: its link is down, or delivers too little",
        "epoch": "membership epoch after it left the gate",
        "silent_s": "seconds since its link was lost, or since its oldest row became newer",
        "members": "number of workers that the gate still counts",
    },
    "slack": {
        "slack": "iterations that a worker may be ahead of its horizon from now on",
        "before": "the same up to now",
        "why": "'stall' (raised), 'divergence' or 'progress' (lowered)",
        "stall_share": "time that workers waited at the gate since the last look, share of all of their time",
        "divergence": "what a replica lacks, in iterations' worth of the team's updates",
        "usual": "its level so far",
        "progress": "size of the updates, share of what it was when it was largest",
    },
    "return": {
        "peer": "name of a worker that others wait for again",
        "epoch": "membership epoch after its return",
        "iteration": "iteration that it counts from",
        "members": "number of workers that the gate counts",
    },
    "push": {
        "peer": "name of the worker",
        "iteration": "iteration of the worker",
        "rows": "rows received in this push",
        "zero_rows": "rows advanced without payload, because nothing was pending in them",
        "bytes": "row frames received, headers included",
        "quota_s": "seconds until the quota was acknowledged (worker's measure), or null where rows are streamed",
    },
    "gate": {
        "peer": "name of the worker that may go on",
        "iteration": "iteration it has finished",
        "oldest": "min over all gated workers and rows of the version",
        "held_s": "seconds the gate held this worker",
        "mta_time_s": "MTA time handed out with the permission",
        "staleness": "iterations by which this worker is behind the fastest",
    },
    "slot": {
        "peer": "name of the worker that may transfer its whole model now (policies with slots)",
        "iteration": "iteration that it pushes, or whose pull it is",
        "direction": "'push' or 'pull'",
        "waited_s": "seconds since it asked",
        "limit_s": "a transfer that is expected to take longer was kept waiting, or null before the first transfer",
    },
    "waiting": {
        "peer": "name of the worker that waits",
        "iteration": "iteration it has finished",
        "for": "names of those it waits for, with the reason",
        "waited_s": "seconds waited so far",
    },
    "step": {
        "iteration": "iteration finished by this step",
        "compute_s": "seconds from the end of the step before to the update of this one",
        "overlap_s": "those of compute_s in which rows may have travelled as well (policies that stream)",
        "communicate_s": "seconds of push and pull, gate and slots excluded",
        "stall_s": "seconds held at the gate or waiting for a slot, as measured by the server",
        "push_rows": "rows sent with payload",
        "push_bytes": "row frames sent, headers included",
        "push_share": "share of the layout's rows that were sent or were empty",
        "pull_rows": "rows received",
        "pull_bytes": "row frames received, headers included",
        "quota_s": "seconds until the quota of this push was acknowledged, or null",
        "mta_time_s": "MTA time in force during the push",
        "rate_bps": "measured delivery rate of the push direction, bit/s",
        "staleness": "iterations by which this worker is behind the fastest",
        "skipped": "true when the step made no contribution (NaN, Inf, skipped by a gradient scaler)",
    },
    "metric": {
        "iteration": "iteration at which it was measured",
        "name": "for example 'accuracy' or 'loss'",
        "value": "the value",
    },
    "resume": {
        "peer": "who came back",
        "delivered": "frames that had arrived before the link was lost",
        "restored": "frames that had not, and went back to pending or owed",
    },
    "drained": {
        "peer": "name of the worker, or 'server'",
        "iteration": "its last iteration",
        "frames_sent": "row frames sent in this session",
        "frames_applied": "row frames of the peer applied in this session",
    },
    "dropped": {
        "peer": "whose it was",
        "what": "what was dropped so that memory stays bounded",
        "why": "the limit",
    },
    "error": {"peer": "who caused it", "error": "class of the error", "message": "its text"},
    "repeated": {
        "error": "as in 'error'",
        "count": "how often it happened again since it was last told",
        "over_s": "seconds since then",
        "peers": "how many addresses it came from",
        "peer": "one of them",
        "message": "text of the last one",
    },
    "gap": {
        "records": "records before this one that could not be written",
        "since": "t of the first of them",
        "why": "what the system said",
    },
    "end": {"cause": "why the node stopped"},
}

_ALWAYS = frozenset({"t", "node", "event"})

#: A file that could not be written is tried again after so long (s, the node's clock).
RETRY_S = 1.0


@dataclass
class _Gap:
    """What could not be written since the last record that was.

    Attributes:
        count: records; ``since``: time of the first (s); ``why``: what the system said.
        retry_at: when to try again (s).
        header: the event ``start`` among them, without which a reader would not see where the session begins.
    """

    since: float
    why: str = ""
    count: int = 0
    retry_at: float = 0.0
    header: Record | None = None

    def add(self, record: Record) -> None:
        self.count += 1
        if record["event"] == "start":
            self.header = record


class Journal:
    """The record of one node.

    Args:
        node: name of the node that writes.
        sink: called with each record; ``None`` keeps them in :attr:`records` instead. An ``OSError`` in it costs the
            record, not the training; see :mod:`rowcast.journal`.

    Attributes:
        missed: records that were not written, all together.
    """

    def __init__(self, node: str, sink: Callable[[Record], None] | None = None) -> None:
        self.node = node
        self.records: list[Record] = []
        self.missed = 0
        self._sink = sink if sink is not None else self.records.append
        self._gap: _Gap | None = None

    def record(self, now: float, event: str, **fields: Any) -> None:
        """Add one event at time ``now`` (s).

        Raises:
            LocalProtocolError: the event or a field is not in :data:`EVENTS`.
        """
        known = EVENTS.get(event)
        if known is None:
            raise LocalProtocolError(f"journal: unknown event {event!r}; add it to rowcast.journal.EVENTS")
        if not fields.keys() <= known.keys():
            extra = sorted(fields.keys() - known.keys())
            raise LocalProtocolError(f"journal: event {event!r} has no field {extra}; see rowcast.journal.EVENTS")
        record = {"t": round(now, 6), "node": self.node, "event": event, **fields}
        if self._gap is not None and now < self._gap.retry_at:
            self._miss(record)
            return
        try:
            self._catch_up(now)
            self._sink(record)
        except OSError as error:
            self._fail(now, error)
            self._miss(record)

    def keep_in(self, path: str | Path) -> None:
        """Write to a file from now on; see :class:`FileSink`.

        Raises:
            ConfigError: the file cannot be written.
        """
        self._sink = FileSink(path)

    def close(self) -> None:
        """Close the file, if there is one; a warning says what could not be written."""
        gap = self._gap
        if gap is not None:
            with contextlib.suppress(OSError):
                self._catch_up(gap.retry_at)
        if isinstance(self._sink, FileSink):
            self._sink.close()
        if (gap := self._gap) is not None:
            log.warning("%s: ends without its last %d records: %s", self._name(), gap.count, gap.why)

    def _catch_up(self, now: float) -> None:
        """Say what is missing, before anything else is written."""
        gap = self._gap
        if gap is None:
            return
        if gap.header is not None:
            self._sink(gap.header)
            gap.header = None
            gap.count -= 1
            self.missed -= 1
        if gap.count:
            told = {"records": gap.count, "since": gap.since, "why": gap.why}
            self._sink({"t": round(now, 6), "node": self.node, "event": "gap", **told})
        self._gap = None

    def _fail(self, now: float, error: OSError) -> None:
        if self._gap is None:
            if not self.missed:
                log.warning(
                    "%s: cannot be written: %s; the training goes on without the record, which will say what it lacks",
                    self._name(),
                    error.strerror or error,
                )
            self._gap = _Gap(since=round(now, 6))
        self._gap.why = error.strerror or str(error)
        self._gap.retry_at = now + RETRY_S

    def _miss(self, record: Record) -> None:
        assert self._gap is not None
        self._gap.add(record)
        self.missed += 1

    def _name(self) -> str:
        path = getattr(self._sink, "path", None)
        return visible(f"journal of {self.node}" if path is None else f"journal {path}")


def write_to(stream: io.TextIOBase) -> Callable[[Record], None]:
    """A sink that writes each record to ``stream`` as one line of JSON (flushed: a crash keeps the record)."""
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


@contextlib.contextmanager
def open_journal(node: str, path: str | Path | None) -> Iterator[Journal]:
    """The journal of ``node`` in a file that is appended to and closed at the end; without a path nothing is kept.

    Raises:
        ConfigError: the file cannot be written.
    """
    journal = Journal(node, forget)
    if path is not None:
        journal.keep_in(path)
    try:
        yield journal
    finally:
        journal.close()


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
    starts = _sessions(lines)
    first, last = 0, len(lines)
    if session is not None and starts:
        if not -len(starts) <= session < len(starts):
            raise ConfigError(f"journal {path}: expected a session in 0 .. {len(starts) - 1}, got {session}")
        place = session % len(starts)
        first, last = starts[place], [*starts, len(lines)][place + 1]
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
            if isinstance(error, UnicodeDecodeError):
                raise ConfigError(f"journal {path}: not a journal: {error}") from error
            raise ConfigError(f"journal {path}, line {number + 1}: not JSON: {error}") from error
        if not isinstance(record, dict) or not record.keys() >= _ALWAYS:
            raise ConfigError(f"journal {path}, line {number + 1}: expected t, node and event")
        if record["event"] == "gap":
            missing += int(record.get("records") or 0)
            why = str(record.get("why"))
        yield record
    if damaged:
        _remark(f"journal {path}: {damaged} damaged line{'s' * (damaged > 1)} left out")
    if missing:
        _remark(f"journal {path}: {missing} records are missing, they could not be written ({why})")


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
