"""The fields of a control message as bytes, driven by the types of its dataclass.

======== =====================================================
type     form
======== =====================================================
bool     one byte, 0 or 1
int      u64, big-endian
float    IEEE 754 double, big-endian, finite
bytes    u32 length, content
str      the same, UTF-8
dict     u16 count (at most 64), then name (str, at most 128 bytes) and value (float) of each; others are left out
======== =====================================================
"""

from __future__ import annotations

import dataclasses
import math
import struct
from collections.abc import Callable
from typing import Any, TypeVar, get_type_hints

from rowcast.errors import LocalProtocolError, RemoteProtocolError
from rowcast.wire.messages import Message

__all__ = ["pack", "unpack"]

M = TypeVar("M", bound=Message)

_U16, _U32, _U64, _F64 = (struct.Struct(form) for form in (">H", ">I", ">Q", ">d"))
_MAX_METRICS = 64
_MAX_METRIC_NAME = 128


_plans: dict[int, tuple[tuple[str, Any], ...]] = {}
_fixed: dict[int, int | None] = {}


def _plan(kind: type[Message]) -> tuple[tuple[str, Any], ...]:
    """Name and type of each field, worked out once for each message class."""
    if kind.KIND not in _plans:
        hints = get_type_hints(kind)
        _plans[kind.KIND] = tuple((field.name, hints[field.name]) for field in dataclasses.fields(kind))
    return _plans[kind.KIND]


def pack(message: Message) -> bytes:
    """The fields of ``message`` as bytes.

    Raises:
        LocalProtocolError: a value that the form cannot hold.
    """
    parts = []
    for name, kind in _plan(type(message)):
        try:
            parts.append(_WRITERS.get(kind, _write_metrics)(getattr(message, name)))
        except (struct.error, AttributeError, TypeError, ValueError) as error:
            raise LocalProtocolError(f"{type(message).__name__}.{name}: cannot be sent: {error}") from error
    return b"".join(parts)


def fixed_size(message: Message) -> int | None:
    """Bytes of the fields of a message, or ``None`` where they depend on what it says, and not on its class alone."""
    number = message.KIND
    if number not in _fixed:
        sizes = [_SIZES.get(hint) for _, hint in _plan(type(message))]
        _fixed[number] = None if None in sizes else sum(size for size in sizes if size is not None)
    return _fixed[number]


def unpack(kind: type[M], data: memoryview) -> M:
    """Read a message of class ``kind``.

    Raises:
        RemoteProtocolError: the bytes are not exactly such a message.
    """
    values: dict[str, Any] = {}
    place = 0
    try:
        for name, hint in _plan(kind):
            values[name], place = _READERS.get(hint, _read_metrics)(data, place)
    except (struct.error, ValueError, IndexError) as error:
        raise RemoteProtocolError(f"{kind.__name__}: fields that cannot be read: {error}") from error
    if place != len(data):
        raise RemoteProtocolError(f"{kind.__name__}: expected {place} bytes of fields, got {len(data)}")
    return kind(**values)


def _write_bytes(value: bytes) -> bytes:
    return _U32.pack(len(value)) + value


def _write_float(value: float) -> bytes:
    if not math.isfinite(value):
        raise ValueError(f"expected a finite number, got {value}")
    return _F64.pack(value)


def _write_metrics(value: dict[str, float]) -> bytes:
    finite = ((name.encode(), number) for name, number in value.items() if math.isfinite(number))
    kept = [(name, number) for name, number in finite if len(name) <= _MAX_METRIC_NAME][:_MAX_METRICS]
    parts = [_U16.pack(len(kept))]
    for name, number in kept:
        parts += [_write_bytes(name), _F64.pack(number)]
    return b"".join(parts)


_WRITERS: dict[Any, Callable[[Any], bytes]] = {
    bool: lambda value: b"\x01" if value else b"\x00",
    int: _U64.pack,
    float: _write_float,
    bytes: _write_bytes,
    str: lambda value: _write_bytes(value.encode()),
}

_SIZES: dict[Any, int] = {bool: 1, int: _U64.size, float: _F64.size}


def _read_bool(data: memoryview, place: int) -> tuple[bool, int]:
    value = data[place]
    if value > 1:
        raise ValueError(f"expected 0 or 1, got {value}")
    return value == 1, place + 1


def _read_int(data: memoryview, place: int) -> tuple[int, int]:
    return _U64.unpack_from(data, place)[0], place + 8


def _read_float(data: memoryview, place: int) -> tuple[float, int]:
    value: float = _F64.unpack_from(data, place)[0]
    if not math.isfinite(value):
        raise ValueError(f"expected a finite number, got {value}")
    return value, place + 8


def _read_bytes(data: memoryview, place: int) -> tuple[bytes, int]:
    (length,) = _U32.unpack_from(data, place)
    end = place + 4 + length
    if end > len(data):
        raise ValueError(f"expected {length} more bytes, got {len(data) - place - 4}")
    return bytes(data[place + 4 : end]), end


def _read_text(data: memoryview, place: int) -> tuple[str, int]:
    content, place = _read_bytes(data, place)
    return content.decode(), place


def _read_metrics(data: memoryview, place: int) -> tuple[dict[str, float], int]:
    (count,) = _U16.unpack_from(data, place)
    if count > _MAX_METRICS:
        raise ValueError(f"expected at most {_MAX_METRICS} metrics, got {count}")
    place += 2
    metrics: dict[str, float] = {}
    for _ in range(count):
        name, place = _read_bytes(data, place)
        if len(name) > _MAX_METRIC_NAME:
            raise ValueError(f"expected a name of at most {_MAX_METRIC_NAME} bytes, got {len(name)}")
        metrics[name.decode()], place = _read_float(data, place)
    return metrics, place


_READERS: dict[Any, Callable[[memoryview, int], tuple[Any, int]]] = {
    bool: _read_bool,
    int: _read_int,
    float: _read_float,
    bytes: _read_bytes,
    str: _read_text,
}
