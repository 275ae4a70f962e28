"""The journal of a node while it is written."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rowcast.errors import LocalProtocolError, visible
from rowcast.journal.events import EVENTS, Record
from rowcast.journal.sinks import FileSink, forget

__all__ = ["Journal", "open_journal"]

log = logging.getLogger("rowcast")

#: A file that could not be written is tried again after so long (s, the node's clock).
RETRY_S = 1.0


@dataclass
class _Gap:
    """What could not be written since the last record that was.

    Attributes:
        count: records; ``since``, ``until``: time of the first and of the last (s); ``why``: what the system said.
        retry_at: when to try again (s).
        header: the event ``start`` among them, without which a reader would not see where the session begins.
    """

    since: float
    why: str = ""
    count: int = 0
    until: float = 0.0
    retry_at: float = 0.0
    header: Record | None = None

    def add(self, record: Record) -> None:
        self.count += 1
        self.until = record["t"]
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
        self._watchers: tuple[Callable[[Record], None], ...] = ()
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
        for watcher in self._watchers:
            watcher(record)
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

    def watch(self, watcher: Callable[[Record], None]) -> None:
        """Call ``watcher`` with each record from now on, also with those that cannot be written.

        It must be quick, raise nothing, and leave the record as it is.
        """
        self._watchers = (*self._watchers, watcher)

    def unwatch(self, watcher: Callable[[Record], None]) -> None:
        """Call ``watcher`` no longer; one that was never called is nobody's error."""
        self._watchers = tuple(each for each in self._watchers if each != watcher)

    @contextlib.contextmanager
    def resting(self) -> Iterator[None]:
        """While entered, nothing is kept: what happens has happened before, and is in the record."""
        sink, self._sink = self._sink, forget
        watchers, self._watchers = self._watchers, ()
        try:
            yield
        finally:
            self._sink, self._watchers = sink, watchers

    def close(self) -> None:
        """Close the file, if there is one; a warning says what could not be written."""
        gap = self._gap
        if gap is not None:
            with contextlib.suppress(OSError):
                self._catch_up(gap.until)
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
