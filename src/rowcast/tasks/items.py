"""Items of a task as bytes, as they travel in the messages of a source: tensors and numbers, nothing that is executed.

An item is a tensor, a number, a text, or a list, tuple or mapping of such. It is written as MessagePack; a tensor is an
extension of type 1: its name, its shape and its bytes.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np
import torch

from rowcast.errors import DataError

__all__ = ["pack_item", "unpack_item"]

_TENSOR = 1
_KINDS = ("float32", "float64", "float16", "uint8", "int8", "int16", "int32", "int64", "bool")


def _written(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().numpy()
    if isinstance(value, np.generic):
        return value.item()
    if not isinstance(value, np.ndarray) or value.dtype.name not in _KINDS:
        raise TypeError(f"expected tensors, numbers and texts, got {type(value).__name__}")
    head = msgspec.msgpack.encode((value.dtype.name, value.shape))
    return msgspec.msgpack.Ext(_TENSOR, len(head).to_bytes(2, "big") + head + np.ascontiguousarray(value).tobytes())


def _read(code: int, data: memoryview) -> torch.Tensor:
    end = 2 + int.from_bytes(data[:2], "big")
    kind, shape = msgspec.msgpack.decode(data[2:end], type=tuple[str, tuple[int, ...]])
    body = data[end:]
    if code != _TENSOR or kind not in _KINDS or min(shape, default=0) < 0:
        raise ValueError(f"expected a tensor of {', '.join(_KINDS)}, got extension {code} with {kind!r} {shape}")
    if math.prod(shape) * np.dtype(kind).itemsize != len(body):
        raise ValueError(f"expected the {kind} of a tensor {shape}, got {len(body)} bytes")
    return torch.from_numpy(np.frombuffer(body, dtype=kind).reshape(shape).copy())


_encoder = msgspec.msgpack.Encoder(enc_hook=_written)
_decoder = msgspec.msgpack.Decoder(ext_hook=_read)


def pack_item(item: Any) -> bytes:
    """An item as bytes.

    Raises:
        DataError: it holds something else than tensors, numbers and texts.
    """
    try:
        return _encoder.encode(item)
    except (TypeError, OverflowError, msgspec.MsgspecError) as error:
        raise DataError(f"item: cannot be written: {error}") from error


def unpack_item(data: bytes) -> Any:
    """The item that :func:`pack_item` wrote; what was a tuple is a list.

    Raises:
        DataError: something else.
    """
    try:
        return _decoder.decode(data)
    except (ValueError, TypeError, OverflowError, msgspec.MsgspecError) as error:
        raise DataError(
            f"item: expected what rowcast.tasks.pack_item writes, got {len(data)} bytes: {error}"
        ) from error
