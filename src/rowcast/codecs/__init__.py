"""Codecs: rows of a float32 vector to bytes and back.

A codec is one small class behind :class:`Codec`, made known by :func:`register`, plus the shared conformance suite
``rowcast.testing.check_codec``.
"""

from __future__ import annotations

from rowcast.codecs.base import INDEX_BYTES, Above, Codec, Fitting, Thresholded
from rowcast.codecs.dct import Dct
from rowcast.codecs.elements import Elements
from rowcast.codecs.fine import Fine
from rowcast.codecs.half import Half
from rowcast.codecs.lowrank import LowRank
from rowcast.codecs.numbers import check_number
from rowcast.codecs.onebit import OneBit
from rowcast.codecs.raw import Raw
from rowcast.codecs.sparse import Sparse
from rowcast.codecs.timing_only import TimingOnly
from rowcast.codecs.topk import TopK
from rowcast.codecs.zero import Zero
from rowcast.errors import ConfigError, RemoteProtocolError
from rowcast.registry import Registry
from rowcast.rows import Layout

__all__ = [
    "INDEX_BYTES",
    "REGISTRY",
    "Above",
    "Codec",
    "Dct",
    "Elements",
    "Fitting",
    "Half",
    "OneBit",
    "Raw",
    "Sparse",
    "Thresholded",
    "TimingOnly",
    "TopK",
    "Zero",
    "codec_by_id",
    "codec_by_name",
    "codec_for",
    "register",
]


def _checked(name: str, value: object) -> Codec:
    """A codec that can be used, or an error that says what it lacks; a class is called."""
    codec = value() if isinstance(value, type) else value
    if not isinstance(codec, Codec):
        raise ConfigError(
            f"codec {name!r}: expected an object with the methods of rowcast.codecs.Codec, got {value!r}; see "
            "docs/extending.md"
        )
    check_number("codec", name, codec, _BY_ID)
    _BY_ID[codec.wire_id] = codec
    if not isinstance(codec, Zero):
        _TIMING_ONLY[name] = timing = TimingOnly(codec)
        _BY_ID[timing.wire_id] = timing
    if getattr(codec, "coarse", True):
        _FINE[name] = fine = Fine(codec, _HALF)
        _BY_ID[fine.wire_id] = fine
    return codec


_HALF = Half()


#: Every code and form of a code, by the number that a frame carries. That of factors goes with a policy and not with a
#: name: here it has no basis, and takes no rows.
_BY_ID: dict[int, Codec] = {LowRank.wire_id: LowRank(1, Raw())}
#: The timing-only form of each code that has content.
_TIMING_ONLY: dict[str, Codec] = {}
#: The form of each code that is too coarse for buffers.
_FINE: dict[str, Codec] = {}

#: Every codec by its name. The ``wire_id`` of a codec never changes and is never given to another.
REGISTRY: Registry[Codec] = Registry("codec", "rowcast.codecs", _checked)


def register(codec: Codec) -> Codec:
    """Make a codec known under its name: to policies (``rog:4?codec=NAME``), and to frames that arrive.

    Both ends have to register it before they join; an entry point in the group ``rowcast.codecs`` does so everywhere.

    Args:
        codec: an object of a class as :class:`Codec` describes it. Where its error is small enough for buffers (the
            variances of a batch norm), it has an attribute ``coarse = False``; else these travel as ``half``.

    Raises:
        ConfigError: no codec, a name or a number that is taken, or a number out of 0 .. 63.
    """
    return REGISTRY.register(getattr(codec, "name", ""), codec)


_BUILT_IN: tuple[Codec, ...] = (Zero(), Raw(), _HALF, OneBit(), Sparse(), Elements())
_BUILT_IN += (TopK(8, 64), Dct(9, 128), TopK(10, 16), Dct(11, 32))
for _codec in _BUILT_IN:
    register(_codec)


def codec_by_name(name: str) -> Codec:
    """The codec of that name.

    Raises:
        ConfigError: there is none; the nearest name is in the message.
    """
    return REGISTRY.find(name)


def codec_for(layout: Layout, codec: Codec) -> Codec:
    """``codec``, or its form for a layout that is timing-only or has buffers."""
    if layout.is_timing_only:
        return _TIMING_ONLY.get(codec.name, codec)
    return _FINE.get(codec.name, codec) if layout.buffers else codec


def codec_by_id(wire_id: int) -> Codec:
    """The codec with the number that a frame carries.

    Raises:
        RemoteProtocolError: there is none.
    """
    codec = _BY_ID.get(wire_id)
    if codec is None:
        known = sorted(codec.wire_id for codec in REGISTRY.usable().values())
        codec = _BY_ID.get(wire_id)  # of a plug-in that nobody has named here
    if codec is None:
        raise RemoteProtocolError(f"row frame: expected a codec number in {known}, got {wire_id}")
    return codec
