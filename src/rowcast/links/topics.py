"""A topic of a recording as a trace: each message says how much a link carries from then on.

The address names file, topic and field::

    drive.mcap?topic=/bandwidth&field=data&unit=Mbit/s

====================== =============================================================================
``drive.mcap``         an MCAP file; a ``.db3`` file; or the folder of a rosbag2, or of MCAP files
``topic``              whose messages are read: those in JSON, and those of ROS
``field``              which number in a message: names and places separated by points, as ``links.0.rate``
``unit``               of the number: one of :data:`UNITS`; ``Mbit/s`` if it is not given
====================== =============================================================================

A message holds until the next one, by the times at which they were logged; the first one is at time 0, and the last one
lasts as long as the median one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np

from rowcast.bags import read_topic
from rowcast.errors import DataError, TraceError, near_match, visible
from rowcast.links.trace import Trace

__all__ = ["UNITS", "TopicAddress", "trace_of_topic"]

#: Bit/s of each unit.
UNITS = {
    "bit/s": 1.0,
    "kbit/s": 1e3,
    "Mbit/s": 1e6,
    "Gbit/s": 1e9,
    "B/s": 8.0,
    "kB/s": 8e3,
    "MB/s": 8e6,
    "GB/s": 8e9,
}
SUFFIXES = (".mcap", ".db3")
_OPTIONS = ("topic", "field", "unit")
#: Beyond it a number is no rate (bit/s).
_MOST_BPS = 1e15
#: Fields that a message of ours names at most.
_SHOWN = 20


@dataclass(frozen=True)
class TopicAddress:
    """Where the rates of a trace are recorded.

    Attributes:
        path: file or folder.
        topic, field: whose messages, and which number of them.
        unit: one of :data:`UNITS`.
    """

    path: Path
    topic: str
    field: str
    unit: str = "Mbit/s"

    @classmethod
    def parse(cls, text: str) -> TopicAddress | None:
        """Read an address; ``None``: the text is none, but the name of another file, of a profile, or something else.

        Raises:
            TraceError: topic or field is missing, or something stands there that is not known.
        """
        place, mark, tail = text.partition("?")
        path = Path(place)
        if path.suffix.lower() not in SUFFIXES and not (mark and path.is_dir()):
            return None
        options: dict[str, str] = {}
        for pair in filter(None, tail.split("&")):
            name, equals, value = (unquote(part) for part in pair.partition("="))
            if name not in _OPTIONS:
                raise TraceError(
                    f"link {visible(text)!r}: unknown option {visible(name)!r}; {near_match(name, _OPTIONS)}"
                )
            if not equals or not value or name in options:
                raise TraceError(f"link {visible(text)!r}: expected {name}=... once, with a value behind it")
            options[name] = value
        for name in ("topic", "field"):
            if name not in options:
                raise TraceError(
                    f"link {visible(text)!r}: expected {name}=... behind '?', as in "
                    f"{visible(place)}?topic=/bandwidth&field=data&unit=Mbit/s"
                )
        address = cls(path, **options)
        if address.unit not in UNITS:
            hint = near_match(address.unit, UNITS)
            raise TraceError(f"link {visible(text)!r}: unknown unit {visible(address.unit)!r}; {hint}")
        return address

    def __str__(self) -> str:
        return f"{self.path}, topic {visible(self.topic)}"


def trace_of_topic(address: TopicAddress, *, loop: bool = True) -> Trace:
    """The trace that a topic says.

    Raises:
        ConfigError: the library that reads it is not installed.
        TraceError: it cannot be read; there is no such topic or field; a value is no rate; or time goes back.
    """
    times, rates = [], []
    first = before = 0
    try:
        for number, (time_ns, message) in enumerate(read_topic(address.path, address.topic), start=1):
            if number == 1:
                first = time_ns
            elif time_ns <= before:
                raise TraceError(
                    f"{address}: message {number} was logged at {time_ns / 1e9:.9f} s, not after {before / 1e9:.9f} s"
                )
            before = time_ns
            times.append((time_ns - first) / 1e9)
            rates.append(_rate(address, number, message))
    except DataError as error:
        raise TraceError(str(error)) from error
    if not times:
        raise TraceError(f"{address}: there are no messages; expected one at least")
    last_s = float(np.median(np.diff(times))) if len(times) > 1 else 1.0
    name = f"{address.path.name}:{visible(address.topic)}"
    return Trace(np.array(times), np.array(rates), name, loop, duration_s=times[-1] + last_s)


def _rate(address: TopicAddress, number: int, message: Any) -> float:
    """What a message says, bit/s."""
    value = message
    for part in address.field.split("."):
        value = _part(value, part)
        if value is None:
            there = [name for _, name in zip(range(_SHOWN), _names(message), strict=False)]
            known = near_match(address.field, there) if there else "it has none"
            raise TraceError(
                f"{address}: message {number} has no field {visible(address.field)!r}; numbers in it: {visible(known)}"
            )
    if not _is_number(value):
        raise TraceError(
            f"{address}: message {number}: field {visible(address.field)!r} is {visible(repr(value), 60)}, "
            f"not a number; expected {address.unit}"
        )
    rate = float(value) * UNITS[address.unit]
    if not 0 <= rate <= _MOST_BPS:
        raise TraceError(
            f"{address}: message {number}: {value:g} {address.unit} cannot be a rate; expected 0 .. "
            f"{_MOST_BPS / UNITS[address.unit]:g}"
        )
    return rate


def _is_number(value: object) -> bool:
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)


def _part(value: Any, name: str) -> Any:
    """A part of a message: of JSON, of an object of ROS, or an item of a list; ``None``: there is none."""
    if isinstance(value, Mapping):
        return value.get(name)
    if isinstance(value, list | np.ndarray):
        return value[int(name)] if name.isdecimal() and int(name) < len(value) else None
    return getattr(value, name, None) if is_dataclass(value) and name in {each.name for each in fields(value)} else None


def _names(value: Any, above: str = "", depth: int = 0) -> Iterator[str]:
    """Names of the numbers in a message."""
    if _is_number(value):
        yield above
    elif depth < 6:
        if isinstance(value, Mapping):
            parts: Any = value.items()
        elif isinstance(value, list | np.ndarray):
            parts = enumerate(value)
        elif is_dataclass(value):
            parts = ((each.name, getattr(value, each.name)) for each in fields(value))
        else:
            parts = ()
        for name, part in parts:
            yield from _names(part, f"{above}.{name}" if above else str(name), depth + 1)
