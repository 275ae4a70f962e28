"""Codecs: rows of a float32 vector to bytes and back.

A codec is one small class behind :class:`Codec`, plus a line in :data:`REGISTRY`, plus the shared conformance
suite ``rowcast.testing.check_codec``.
"""

from __future__ import annotations

from rowcast.codecs.base import Codec
from rowcast.codecs.fine import Fine
from rowcast.codecs.half import Half
from rowcast.codecs.hollow import Hollow
from rowcast.codecs.onebit import OneBit
from rowcast.codecs.raw import Raw
from rowcast.codecs.sparse import Sparse
from rowcast.codecs.zero import Zero
from rowcast.errors import ConfigError, RemoteProtocolError, near_match
from rowcast.rows import Layout

__all__ = [
    "REGISTRY",
    "Codec",
    "Half",
    "Hollow",
    "OneBit",
    "Raw",
    "Sparse",
    "Zero",
    "codec_by_id",
    "codec_by_name",
    "codec_for",
]

#: Every codec by its name. The ``wire_id`` of a codec never changes and is never given to another.
REGISTRY: dict[str, Codec] = {codec.name: codec for codec in (Zero(), Raw(), Half(), OneBit(), Sparse())}

#: The hollow form of each code that has content.
_HOLLOW: dict[str, Codec] = {name: Hollow(codec) for name, codec in REGISTRY.items() if name != Zero.name}

#: The form of each code that is too coarse for buffers.
_FINE: dict[str, Codec] = {name: Fine(REGISTRY[name], REGISTRY["half"]) for name in (OneBit.name, Sparse.name)}

_BY_ID = {codec.wire_id: codec for codec in (*REGISTRY.values(), *_HOLLOW.values(), *_FINE.values())}


def codec_by_name(name: str) -> Codec:
    """The codec of that name.

    Raises:
        ConfigError: there is none; the nearest name is in the message.
    """
    if name not in REGISTRY:
        raise ConfigError(f"unknown codec {name!r}; {near_match(name, REGISTRY)}")
    return REGISTRY[name]


def codec_for(layout: Layout, codec: Codec) -> Codec:
    """``codec``, or its form for a layout that is hollow or has buffers."""
    if layout.is_hollow:
        return _HOLLOW.get(codec.name, codec)
    return _FINE.get(codec.name, codec) if layout.buffers else codec


def codec_by_id(wire_id: int) -> Codec:
    """The codec with the number that a frame carries.

    Raises:
        RemoteProtocolError: there is none.
    """
    codec = _BY_ID.get(wire_id)
    if codec is None:
        known = sorted(codec.wire_id for codec in REGISTRY.values())
        raise RemoteProtocolError(f"row frame: expected a codec number in {known}, got {wire_id}")
    return codec
