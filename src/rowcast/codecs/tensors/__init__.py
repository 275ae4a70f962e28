"""Codecs for typed tensors that travel in slabs of rows: images, activations, answers of a model.

A codec is one small class behind :class:`TensorCodec`, made known by :func:`register`, plus the shared conformance
suite ``rowcast.testing.check_tensor_codec``. It has nothing to do with the codecs of updates in :mod:`rowcast.codecs`:
what it cannot express is lost and not sent later.

===========  =====  =============================================================================
name         exact  an element takes
===========  =====  =============================================================================
``raw``      yes    as many bytes as in memory
``half``     no     2 bytes: float32 as float16
``int8``     no     1 byte: float32 in whole steps, with a scale for each channel
``deflate``  yes    what zlib leaves of differences of neighbours (images) or of planes of bytes
===========  =====  =============================================================================
"""

from __future__ import annotations

from rowcast.codecs.numbers import check_number
from rowcast.codecs.tensors.base import DTYPES, TensorCodec, TensorType
from rowcast.codecs.tensors.deflate import DeflateTensor
from rowcast.codecs.tensors.half import HalfTensor
from rowcast.codecs.tensors.int8 import Int8Tensor
from rowcast.codecs.tensors.raw import RawTensor
from rowcast.errors import ConfigError, RemoteProtocolError
from rowcast.registry import Registry

__all__ = [
    "REGISTRY",
    "DeflateTensor",
    "HalfTensor",
    "Int8Tensor",
    "RawTensor",
    "TensorCodec",
    "TensorType",
    "register",
    "tensor_codec_by_id",
    "tensor_codec_by_name",
]


def _checked(name: str, value: object) -> TensorCodec:
    """A codec that can be used, or an error that says what it lacks; a class is called."""
    codec = value() if isinstance(value, type) else value
    if not isinstance(codec, TensorCodec):
        raise ConfigError(
            f"tensor codec {name!r}: expected an object with the attributes of rowcast.codecs.tensors.TensorCodec, got "
            f"{value!r}; see docs/extending.md"
        )
    check_number("tensor codec", name, codec, _BY_ID)
    if type(codec.exact) is not bool:
        raise ConfigError(f"tensor codec {name!r}: exact: expected True or False, got {codec.exact!r}")
    dtypes: object = codec.dtypes
    if not isinstance(dtypes, tuple) or not dtypes or any(dtype not in DTYPES for dtype in dtypes):
        raise ConfigError(
            f"tensor codec {name!r}: dtypes: expected a tuple of some of {', '.join(DTYPES)}, got {dtypes!r}"
        )
    _BY_ID[codec.wire_id] = codec
    return codec


#: Every codec by the number that a frame carries.
_BY_ID: dict[int, TensorCodec] = {}

#: Every codec by its name. The ``wire_id`` of a codec never changes and is never given to another.
REGISTRY: Registry[TensorCodec] = Registry("tensor codec", "rowcast.tensor_codecs", _checked)


def register(codec: TensorCodec) -> TensorCodec:
    """Make a codec known under its name, and to frames that arrive under its number.

    Both ends have to register it; an entry point in the group ``rowcast.tensor_codecs`` does so everywhere.

    Args:
        codec: an object of a class as :class:`TensorCodec` describes it.

    Raises:
        ConfigError: no such codec, a name or a number that is taken, or a number out of 0 .. 63.
    """
    return REGISTRY.register(getattr(codec, "name", ""), codec)


_BUILT_IN: tuple[TensorCodec, ...] = (RawTensor(), HalfTensor(), Int8Tensor(), DeflateTensor())
for _codec in _BUILT_IN:
    register(_codec)


def tensor_codec_by_name(name: str) -> TensorCodec:
    """The codec of that name.

    Raises:
        ConfigError: there is none; the nearest name is in the message.
    """
    return REGISTRY.find(name)


def tensor_codec_by_id(wire_id: int) -> TensorCodec:
    """The codec with the number that a frame carries.

    Raises:
        RemoteProtocolError: there is none.
    """
    codec = _BY_ID.get(wire_id)
    if codec is None:
        known = sorted(codec.wire_id for codec in REGISTRY.usable().values())
        codec = _BY_ID.get(wire_id)  # of a plug-in that nobody has named here
    if codec is None:
        raise RemoteProtocolError(f"slab: expected the number of a tensor codec in {known}, got {wire_id}")
    return codec
