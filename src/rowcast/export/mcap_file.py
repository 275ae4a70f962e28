"""A run as an MCAP file with JSON schemas, as Foxglove opens it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from rowcast.errors import ConfigError, visible
from rowcast.export.moments import Moment, Value
from rowcast.export.schema import LOG_SCHEMA, RATE_SCHEMA, STATE_SCHEMA, VALUE_SCHEMA, event_schema
from rowcast.journal import Event
from rowcast.journal.events import ALWAYS
from rowcast.libraries import needing
from rowcast.version import __version__

__all__ = ["write_mcap"]

#: Bytes of messages that are packed together.
_CHUNK_BYTES = 1 << 20
#: The format has room for so many topics.
_MOST_TOPICS = 65_000
#: Of Foxglove's log panel.
_LEVELS = {"info": 2, "note": 3, "trouble": 4}
#: Topics of events that are called otherwise.
_TOPICS = {"waiting": "waits"}
#: Series that make a message of a robot's state.
_OF_THE_STATE = ("state", "iteration", "staleness", "share", "joules")

_encode = msgspec.json.Encoder().encode


def write_mcap(moments: Iterable[Moment], path: Path) -> None:
    """Write a file; times of messages are those of the journal.

    Raises:
        ConfigError: the library is not installed, or there are more robots and metrics than topics fit into a file.
        OSError: the file cannot be written.
    """
    with needing("an export to mcap", "mcap"):
        import mcap.writer
    with path.open("wb") as file:
        writer: Any = mcap.writer.Writer(file, chunk_size=_CHUNK_BYTES)
        writer.start(library=f"rowcast {__version__}")
        topics = _Topics(writer)
        for moment in moments:
            topics.add(moment)
        writer.finish()


class _Topics:
    """Writes messages; makes topics and schemas when they are first needed."""

    def __init__(self, writer: Any) -> None:
        self._writer = writer
        self._schemas: dict[str, int] = {}
        self._channels: dict[str, int] = {}

    def add(self, moment: Moment) -> None:
        """All messages of a moment."""
        time_ns, record = round(moment.t * 1e9), moment.record
        event, who = record["event"], moment.who
        if moment.line is not None:
            self._write("/events", "foxglove.Log", LOG_SCHEMA, time_ns, _log_line(moment, time_ns))
        if event != "metric":
            told = {name: _plain(value) for name, value in record.items() if name not in ALWAYS and value is not None}
            topic = f"/{who}/{_TOPICS.get(event, event)}"
            self._write(topic, f"rowcast.{event}", event_schema(event), time_ns, told)
        if any(value.series in _OF_THE_STATE for value in moment.values):
            self._write(f"/{who}/state", "rowcast.State", STATE_SCHEMA, time_ns, _state(moment))
        for value in moment.values:
            self._add_value(moment, value, time_ns)

    def _add_value(self, moment: Moment, value: Value, time_ns: int) -> None:
        if value.series.startswith("rate/"):
            told = {"value": value.number}
            self._write(f"/{moment.who}/{value.series}", "rowcast.Rate", RATE_SCHEMA, time_ns, told)
        elif value.series == "stall" or value.series.startswith("metric/"):
            told = {"value": value.number}
            if moment.iteration is not None:
                told["iteration"] = moment.iteration
            self._write(f"/{moment.who}/{value.series}", "rowcast.Value", VALUE_SCHEMA, time_ns, told)

    def _write(self, topic: str, schema: str, content: bytes, time_ns: int, message: dict[str, Any]) -> None:
        channel = self._channels.get(topic)
        if channel is None:
            if len(self._channels) >= _MOST_TOPICS:
                raise ConfigError(f"expected at most {_MOST_TOPICS} topics in an MCAP file, got more: {visible(topic)}")
            if schema not in self._schemas:
                self._schemas[schema] = self._writer.register_schema(schema, "jsonschema", content)
            channel = self._channels[topic] = self._writer.register_channel(topic, "json", self._schemas[schema])
        self._writer.add_message(channel, log_time=time_ns, publish_time=time_ns, data=_encode(message))


def _plain(value: Any) -> Any:
    return visible(value, 2000) if isinstance(value, str) else value


def _state(moment: Moment) -> dict[str, Any]:
    robot = moment.robot
    assert robot is not None, "series of a state are those of a robot"
    told = {
        "state": robot.state,
        "why": robot.why,
        "since": robot.since,
        "iteration": robot.iteration,
        "staleness": robot.staleness,
        "share": robot.share,
        "joules": robot.joules,
    }
    return {name: value for name, value in told.items() if value is not None}


def _log_line(moment: Moment, time_ns: int) -> dict[str, Any]:
    line = moment.line
    assert line is not None
    return {
        "timestamp": {"sec": time_ns // 1_000_000_000, "nsec": time_ns % 1_000_000_000},
        "level": _LEVELS[line.level],
        "message": line.text,
        "name": line.who,
        "file": line.event,
        "line": line.number,
        "cause": visible(Event.of(moment.record).cause),
    }
