"""Packed items, as ``rowcast.tasks.pack_item`` writes them: arrays, numbers and texts as MessagePack.

An array is an extension of type 1: the length of its head in two bytes (big-endian), its head (kind and shape, as
MessagePack) and its bytes, of which those of a number stand with the lowest first.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

__all__ = ["ARRAY", "KINDS", "read_array", "read_arrays"]

#: The type of the extension.
ARRAY = 1
KINDS = {
    name: np.dtype(name).newbyteorder("<")
    for name in ("float32", "float64", "float16", "uint8", "int8", "int16", "int32", "int64", "bool")
}
_MOST_DIMENSIONS = 32


def read_array(code: int, data: memoryview) -> NDArray[Any]:
    """The array of an extension, with bytes of its own.

    Raises:
        ValueError: something else.
    """
    if code != ARRAY:
        raise ValueError(f"expected a tensor, got extension {code}")
    end = 2 + int.from_bytes(data[:2], "big")
    kind, shape = msgspec.msgpack.decode(data[2:end], type=tuple[str, tuple[int, ...]])
    body = data[end:]
    if kind not in KINDS or len(shape) > _MOST_DIMENSIONS or min(shape, default=0) < 0:
        raise ValueError(
            f"expected a tensor of {', '.join(KINDS)} in {_MOST_DIMENSIONS} dimensions at most, got {kind!r} in "
            f"{len(shape)}"
        )
    if math.prod(shape) * KINDS[kind].itemsize != len(body):
        raise ValueError(f"expected the {kind} of a tensor {shape}, got {len(body)} bytes")
    array: NDArray[Any] = np.frombuffer(body, KINDS[kind]).reshape(shape)
    if kind == "bool":  # a byte other than 0 and 1 is none that PyTorch may be given
        array = array.view(np.uint8) != 0
    return array.astype(array.dtype.newbyteorder("="))


_decoder = msgspec.msgpack.Decoder(ext_hook=read_array)


def read_arrays(data: bytes) -> list[NDArray[Any]]:
    """The arrays of a packed item, in their order; none where the bytes are no packed item."""
    try:
        item = _decoder.decode(data)
    except (ValueError, TypeError, OverflowError, RecursionError, msgspec.MsgspecError):
        return []
    return list(_arrays(item))


def _arrays(item: Any) -> Iterator[NDArray[Any]]:
    if isinstance(item, np.ndarray):
        yield item
    elif isinstance(item, list | dict):
        for each in item.values() if isinstance(item, dict) else item:
            yield from _arrays(each)
