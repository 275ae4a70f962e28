"""The fields of a control message as bytes: one MessagePack array, written and read by msgspec.

======== ===========================================================================================
type     form
======== ===========================================================================================
Count    integer, 0 .. 2^64 - 1
StreamId integer, 0 .. 255
Finite   IEEE 754 double that is finite (an integer is read as one)
bool     true or false
bytes    bin
str      str, UTF-8
Tensors  array of at most 254 Counts
Places   bin of at most 16 KiB
Metrics  map of at most 64: name (str, at most 128 bytes) and value (Finite); others are left out
======== ===========================================================================================

Fields stand in the order in which their class defines them. New ones come last and have a default: where a peer that
does not know them has left them out they have it, and fields that a newer peer has behind those known here are skipped
without being built. Nothing else is lenient: types are strict, and lengths are compared before anything of that length
is made.
"""

from __future__ import annotations

import re
import sys
from functools import cached_property
from typing import Annotated, Any, ClassVar, TypeVar

import msgspec

from rowcast.errors import LocalProtocolError, RemoteProtocolError

__all__ = [
    "MAX_METRICS",
    "MAX_METRIC_NAME",
    "MAX_PLACES",
    "MAX_STREAM",
    "MAX_TENSORS",
    "Claim",
    "Control",
    "Count",
    "Finite",
    "Message",
    "Metrics",
    "Places",
    "StreamId",
    "Tensors",
    "emptied",
    "pack",
    "packed_bytes",
    "unpack",
]

MAX_METRICS = 64
MAX_METRIC_NAME = 128  #: bytes in UTF-8
MAX_PLACES = 1 << 14  #: bytes that say how far a stream was read
MAX_STREAM = 255
MAX_TENSORS = 254  #: one stream each, beside that of training

_MOST = sys.float_info.max

Count = Annotated[int, msgspec.Meta(ge=0)]
StreamId = Annotated[int, msgspec.Meta(ge=0, le=MAX_STREAM)]
Tensors = Annotated[tuple[Count, ...], msgspec.Meta(max_length=MAX_TENSORS)]
Places = Annotated[bytes, msgspec.Meta(max_length=MAX_PLACES)]
Finite = Annotated[float, msgspec.Meta(ge=-_MOST, le=_MOST)]
Metrics = Annotated[
    dict[Annotated[str, msgspec.Meta(max_length=MAX_METRIC_NAME)], Finite], msgspec.Meta(max_length=MAX_METRICS)
]


class Message:
    """Base of all messages. ``KIND`` is the number in the frame header."""

    __slots__ = ()
    KIND: ClassVar[int]


class Control(Message, msgspec.Struct, frozen=True, array_like=True):
    """Base of all messages but rows: small, and made of fields of the types above."""

    def sendable(self) -> Control:
        """The message without what a peer would not take."""
        return self

    def check(self) -> None:
        """Compare what the types of the fields cannot say.

        Raises:
            ValueError: a peer may not send this.
        """


class Claim(Control, frozen=True, dict=True):
    """Base of the messages that a proof of the secret covers: they remember the bytes that they came in."""

    @cached_property
    def body(self) -> bytes:
        """The array of its fields: as it came, with fields that are not known here; or else as it is sent."""
        return pack(self)


M = TypeVar("M", bound=Control)

#: What msgspec and the checks above raise for bytes or values that are not as they should be.
_UNFIT = (msgspec.MsgspecError, ArithmeticError, AttributeError, RecursionError, TypeError, ValueError)

_EMPTY = msgspec.Raw(b"\xc4\x00")


def _plain(value: Any) -> Any:
    """A scalar of numpy as one of Python."""
    if hasattr(value, "item"):
        return value.item()
    raise TypeError(f"expected a number, a text or bytes, got {type(value).__name__}")


_encoder = msgspec.msgpack.Encoder(enc_hook=_plain)
_elements = msgspec.msgpack.Decoder(list[msgspec.Raw])
_decoders: dict[type[Control], msgspec.msgpack.Decoder[Any]] = {}


def pack(message: Control) -> bytes:
    """The fields of ``message`` as bytes, which a peer of this version is sure to take.

    Raises:
        LocalProtocolError: a value that the form cannot hold.
    """
    try:
        data = _encoder.encode(message.sendable())
        _read(type(message), data)
    except _UNFIT as error:
        kind = type(message)
        raise LocalProtocolError(f"{kind.__name__}: cannot be sent: {_explained(kind, error)}") from error
    return data


def packed_bytes(message: Control) -> int:
    """How many bytes :func:`pack` makes of a message."""
    return len(_encoder.encode(message.sendable()))


def unpack(kind: type[M], data: memoryview) -> M:
    """Read a message of class ``kind``.

    Raises:
        RemoteProtocolError: the bytes are not such a message.
    """
    try:
        message = _read(kind, data)
    except _UNFIT as error:
        raise RemoteProtocolError(f"{kind.__name__}: fields that cannot be read: {_explained(kind, error)}") from error
    if isinstance(message, Claim):
        vars(message)["body"] = bytes(data)
    return message


def emptied(body: bytes, place: int) -> bytes:
    """The array ``body`` with no bytes in its element ``place``; all others as they are, known here or not."""
    elements = _elements.decode(body)
    elements[place] = _EMPTY
    return _encoder.encode(elements)


def _read(kind: type[M], data: bytes | memoryview) -> M:
    decoder = _decoders.get(kind)
    if decoder is None:
        decoder = _decoders[kind] = msgspec.msgpack.Decoder(kind)
    message: M = decoder.decode(data)
    message.check()
    return message


def _explained(kind: type[Control], error: BaseException) -> str:
    """What was wrong, with the names of fields in place of their numbers."""
    names = kind.__struct_fields__

    def name(found: re.Match[str]) -> str:
        place = int(found[1])
        return names[place] if place < len(names) else found[0]

    text = re.sub(r"Expected `float` [<>]= \S+", "expected a finite number", str(error))
    return re.sub(r"\$\[(\d+)\]", name, text)
