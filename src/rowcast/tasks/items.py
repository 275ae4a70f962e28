"""Items of a task as bytes, as they travel in the messages of a source: tensors and numbers, nothing that is executed.

An item is a tensor, a number, a text, or a list, tuple or mapping of such. The form is that of
:mod:`rowcast.streams.packed`.
"""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import torch

from rowcast.errors import DataError, visible
from rowcast.streams.packed import ARRAY, KINDS, read_array

__all__ = ["labelled", "pack_item", "unpack_item"]


def _written(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().numpy()
    if isinstance(value, np.generic):
        return value.item()
    if not isinstance(value, np.ndarray) or value.dtype.name not in KINDS:
        raise TypeError(f"expected tensors, numbers and texts, got {getattr(value, 'dtype', type(value).__name__)}")
    kind = value.dtype.name
    head = msgspec.msgpack.encode((kind, value.shape))
    body = value.astype(KINDS[kind], copy=False).tobytes()
    return msgspec.msgpack.Ext(ARRAY, len(head).to_bytes(2, "big") + head + body)


def _read(code: int, data: memoryview) -> torch.Tensor:
    return torch.from_numpy(read_array(code, data))


_encoder = msgspec.msgpack.Encoder(enc_hook=_written)
_decoder = msgspec.msgpack.Decoder(ext_hook=_read)


def pack_item(item: Any) -> bytes:
    """An item as bytes.

    Raises:
        DataError: it holds something else than tensors, numbers and texts, or itself.
    """
    try:
        return _encoder.encode(item)
    except (TypeError, ValueError, OverflowError, RuntimeError, msgspec.MsgspecError) as error:
        raise DataError(f"item: cannot be written: {visible(str(error), 200)}") from error


def unpack_item(data: bytes) -> Any:
    """The item that :func:`pack_item` wrote; what was a tuple is a list.

    Raises:
        DataError: something else.
    """
    try:
        return _decoder.decode(data)
    except (ValueError, TypeError, OverflowError, RecursionError, msgspec.MsgspecError) as error:
        raise DataError(
            f"item: expected what rowcast.tasks.pack_item writes, got {len(data)} bytes: {visible(str(error), 200)}"
        ) from error


def labelled(item: Any, shape: tuple[int, ...], classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """An input and its target, if ``item`` is such a pair that a model can be trained on.

    Args:
        item: what came.
        shape: of the input, in floating point.
        classes: the target is one of them, int64; or so many values in floating point.

    Raises:
        DataError: it is something else.
    """
    tensors = [each for each in item if isinstance(each, torch.Tensor)] if isinstance(item, list | tuple) else []
    if len(tensors) == len(item if tensors else ()) == 2:
        given, target = tensors
        if given.is_floating_point() and given.shape == shape:
            if target.is_floating_point() and target.shape == (classes,):
                return given.float(), target.float()
            if target.dtype == torch.int64 and target.shape == () and 0 <= int(target) < classes:
                return given.float(), target
    raise DataError(
        f"item: expected an input {shape} and one of {classes} classes, or values, got {visible(_outline(item), 200)}"
    )


def _outline(item: Any) -> str:
    """What an item is made of, in a few words."""
    if isinstance(item, torch.Tensor):
        value = f" {item.item()}" if item.shape == () else ""
        return f"{str(item.dtype).removeprefix('torch.')} {tuple(item.shape)}{value}"
    if isinstance(item, list | tuple):
        return f"[{', '.join(map(_outline, item[:4]))}{', ...' * (len(item) > 4)}]"
    return type(item).__name__
