"""The journal: the structured record of what happened, which every table, figure and test reads.

A node never opens a file and never reads a clock; it calls :meth:`Journal.record` with the time it was
given. What becomes of the record is the sink's business: kept in memory, or written as JSON lines.

The schema is :data:`EVENTS`: a name for each event and, for each field, what it means and its unit.
:meth:`Journal.record` refuses an event or a field that the schema does not know, so the schema cannot
fall behind the code.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import weakref
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rowcast.errors import ConfigError, LocalProtocolError

__all__ = ["EVENTS", "FileSink", "Journal", "forget", "open_journal", "read_journal", "write_to"]

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
    "end": {"cause": "why the node stopped"},
}

_ALWAYS = frozenset({"t", "node", "event"})


class Journal:
    """The record of one node.

    Args:
        node: name of the node that writes.
        sink: called with each record; ``None`` keeps them in :attr:`records` instead.
    """

    def __init__(self, node: str, sink: Callable[[Record], None] | None = None) -> None:
        self.node = node
        self.records: list[Record] = []
        self._sink = sink if sink is not None else self.records.append

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
        self._sink({"t": round(now, 6), "node": self.node, "event": event, **fields})


def write_to(stream: io.TextIOBase) -> Callable[[Record], None]:
    """A sink that writes each record to ``stream`` as one line of JSON (flushed: a crash keeps the record)."""

    def sink(record: Record) -> None:
        try:
            line = json.dumps(record, separators=(",", ":"), allow_nan=False)
        except ValueError:
            # A loss that became NaN is news, not a reason to stop; JSON has no word for it but null.
            finite = {key: None if _nonfinite(value) else value for key, value in record.items()}
            line = json.dumps(finite, separators=(",", ":"), allow_nan=False)
        stream.write(line + "\n")
        stream.flush()

    return sink


def _nonfinite(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


class FileSink:
    """A sink that writes to a new file (the folder is made), closed by :meth:`close` or with its last user.

    Raises:
        ConfigError: the file cannot be written.
    """

    def __init__(self, path: str | Path) -> None:
        try:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            stream = Path(path).open("w", encoding="utf-8")  # noqa: SIM115 - closed by the finalizer
        except OSError as error:
            raise ConfigError(f"journal {path}: cannot be written: {error.strerror}") from error
        self._write = write_to(stream)
        self.close = weakref.finalize(self, stream.close)

    def __call__(self, record: Record) -> None:
        self._write(record)


def forget(record: Record) -> None:
    """The sink of a robot that keeps no journal: months of training must not fill its memory."""


@contextlib.contextmanager
def open_journal(node: str, path: str | Path | None) -> Iterator[Journal]:
    """The journal of ``node`` in a new file that is closed at the end; without a path nothing is kept.

    Raises:
        ConfigError: the file cannot be written.
    """
    if path is None:
        yield Journal(node, forget)
        return
    sink = FileSink(path)
    try:
        yield Journal(node, sink)
    finally:
        sink.close()


def read_journal(path: str | Path) -> Iterator[Record]:
    """Read a journal written by :func:`write_to`, record by record.

    A last line that a crash cut short is left out.

    Raises:
        ConfigError: the file is missing, or a line is not a journal record (file and line are named).
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise ConfigError(f"journal {path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"journal {path}: not a journal: {error}") from error
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            if number == len(lines):
                return
            raise ConfigError(f"journal {path}, line {number}: not JSON: {error.msg}") from error
        if not isinstance(record, dict) or not record.keys() >= _ALWAYS:
            raise ConfigError(f"journal {path}, line {number}: expected t, node and event")
        yield record
