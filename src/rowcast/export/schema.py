"""Units of series, and events of the journal as JSON schemas."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from rowcast.journal import EVENTS

__all__ = ["LOG_SCHEMA", "RATE_SCHEMA", "STATE_SCHEMA", "VALUE_SCHEMA", "event_schema", "object_schema", "unit_of"]

#: Units by series, or by how the name of a field ends. What stands in neither has none.
_UNITS = {
    "rate/link": "bit/s",
    "rate/up": "bit/s",
    "rate/down": "bit/s",
    "stall": "share",
    "metric/latency_s": "s",
}
_ENDINGS = {
    "_bps": "bit/s",
    "_s": "s",
    "bytes": "B",
    "share": "share",
    "joules": "J",
    "staleness": "iterations",
    "iteration": "iterations",
    "iterations": "iterations",
}
#: Fields that hold something else than numbers.
_TEXTS = (
    *("role", "policy", "peer", "congestion_control", "shaped_by", "cause", "how", "what", "why", "direction", "for"),
    *("name", "detail", "state", "by", "plan", "error", "message"),
)
_TRUTHS = ("skipped", "compressed", "live", "missed", "exact", "superseded", "dropped")
_LISTS = {
    "names": "string",
    "rows": "number",
    "mean_age": "number",
    "oldest_age": "number",
    "pending": "number",
}
_OBJECTS = ("settings", "metrics")
#: Fields that mean something else in one event.
_OF_AN_EVENT: dict[tuple[str, str], dict[str, Any]] = {
    ("start", "version"): {"type": "string"},
    ("restarted", "members"): {"type": "array", "items": {"type": "string"}},
    ("restarted", "forgotten"): {"type": "array", "items": {"type": "string"}},
    ("step", "dropped"): {"type": "number"},
    ("push", "rows"): {"type": "number"},
    ("clipped", "rows"): {"type": "number"},
    ("repeated", "peers"): {"type": "number"},
}


def unit_of(series: str) -> str:
    """The unit of a series or a field; empty: a plain number, or not known."""
    if series in _UNITS:
        return _UNITS[series]
    if series.startswith("metric/"):
        return ""
    return next((unit for ending, unit in _ENDINGS.items() if series.endswith(ending)), "")


def _kind(event: str, field: str) -> dict[str, Any]:
    if (event, field) in _OF_AN_EVENT:
        return _OF_AN_EVENT[event, field]
    if field in _TEXTS:
        return {"type": "string"}
    if field in _TRUTHS:
        return {"type": "boolean"}
    if field in _LISTS:
        return {"type": "array", "items": {"type": _LISTS[field]}}
    return {"type": "object"} if field in _OBJECTS else {"type": "number"}


@cache
def event_schema(event: str) -> bytes:
    """The JSON schema of an event's fields; none of them is required, one that has no value is left out."""
    fields = {name: {**_kind(event, name), "description": text} for name, text in EVENTS[event].items()}
    return object_schema(f"rowcast.{event}", fields)


def object_schema(title: str, properties: dict[str, Any]) -> bytes:
    """The JSON schema of an object with these properties."""
    return json.dumps({"title": title, "type": "object", "properties": properties}).encode()


#: What Foxglove shows in its log panel, and what else is known of it.
LOG_SCHEMA = object_schema(
    "foxglove.Log",
    {
        "timestamp": {
            "type": "object",
            "title": "time",
            "properties": {
                "sec": {"type": "integer", "minimum": 0},
                "nsec": {"type": "integer", "minimum": 0, "maximum": 999_999_999},
            },
        },
        "level": {"type": "integer", "description": "2 info, 3 warning, 4 error"},
        "message": {"type": "string", "description": "what happened, with its cause"},
        "name": {"type": "string", "description": "whom it is about"},
        "file": {"type": "string", "description": "name of the event in the journal"},
        "line": {"type": "integer", "description": "counts the lines of this log"},
        "cause": {"type": "string", "description": "why, in the words of the journal; empty where it has none"},
    },
)
STATE_SCHEMA = object_schema(
    "rowcast.State",
    {
        "state": {"type": "string", "description": "in a word or two, as on the page"},
        "why": {"type": "string", "description": "the cause of that, or for whom it waits"},
        "since": {"type": "number", "description": "s, the clock of the journal"},
        "iteration": {"type": "number", "description": "newest iteration that it has finished"},
        "staleness": {"type": "number", "description": "iterations behind the fastest"},
        "share": {"type": "number", "description": "of its rows that the newest push carried"},
        "joules": {"type": "number", "description": "J, of its inferences so far"},
    },
)
RATE_SCHEMA = object_schema("rowcast.Rate", {"value": {"type": "number", "description": "bit/s"}})
VALUE_SCHEMA = object_schema(
    "rowcast.Value",
    {
        "value": {"type": "number", "description": "share for a stall; of a metric what the robot reported"},
        "iteration": {"type": "number", "description": "newest iteration that the robot has finished"},
    },
)
