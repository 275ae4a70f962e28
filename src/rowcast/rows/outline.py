"""A layout as a peer tells it: names and shapes, counted before a single row is laid out."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from rowcast.errors import RemoteProtocolError

__all__ = ["BUFFER_RULES", "MOST_ROWS", "MOST_TABLE_BYTES", "MOST_TENSORS", "ROW_BYTES", "NamedShape", "Outline", "cut"]

#: Limits of every layout, ours and a peer's: far above any model, and low enough that a table is read at little cost.
MOST_ROWS = 1 << 24
MOST_TENSORS = 1 << 16
MOST_TABLE_BYTES = 16 << 20
_MOST_ELEMENTS = 1 << 36

#: What a row costs a server beside its elements, in bytes: its place and length, when it was sent, how much is due, its
#: size in a code. Measured with 2**20 rows: 29 (`rog:4`) to 49 (`bsp`), and up to 58 while they are laid out.
ROW_BYTES = 64

#: What the team's value of a buffer is: the average of what the workers make of it, or what the first of them does.
BUFFER_RULES = ("average", "first")

# The table is canonical JSON (Layout.to_table) and is read piece by piece, so that what is nested or repeated without
# end is found before objects are made of it.
_HEAD = re.compile(r'\{"small_tensor": ?(\d{1,13}), ?"max_row": ?(\d{1,13}), ?"tensors": ?\[')
_NAME = re.compile(r'\[(?=")')
_SHAPE = re.compile(r", ?\[((?:\d{1,13}(?:, ?\d{1,13}){0,63})?)\]\]")
_TAIL = re.compile(r'\](?:, ?"buffers": ?\[(\d{1,6}), ?"([a-z]{1,20})"\])?(?:, ?"timing": ?(true))?\}')
_STRINGS = json.JSONDecoder()


class NamedShape(NamedTuple):
    """One tensor of a model."""

    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Outline:
    """A layout that is not laid out yet.

    Attributes:
        tensors: names and shapes in parameter order.
        small_tensor, max_row, is_timing_only, buffers, buffer_rule: as in :class:`~rowcast.rows.Layout`.
        rows, elements: how many the layout will have.
        digest: that of the table as it came.
    """

    tensors: tuple[NamedShape, ...]
    small_tensor: int
    max_row: int
    is_timing_only: bool
    buffers: int
    buffer_rule: str
    rows: int
    elements: int
    digest: bytes

    @property
    def cost_bytes(self) -> int:
        """Memory that one copy of the model takes: float32 parameters, and :data:`ROW_BYTES` for each row."""
        return 4 * (self.rows if self.is_timing_only else self.elements) + ROW_BYTES * self.rows

    @classmethod
    def read(cls, table: bytes) -> Outline:
        """Read a table that a peer sent (:meth:`rowcast.rows.Layout.to_table`); costs memory for names and shapes only.

        Raises:
            RemoteProtocolError: the bytes are not such a table, or it has more tensors, rows or elements than allowed.
        """
        try:
            return cls._read(table)
        except (ValueError, RecursionError) as error:
            raise RemoteProtocolError(
                f"layout table: expected names and shapes, got something else: {error}"
            ) from error

    @classmethod
    def _read(cls, table: bytes) -> Outline:
        if len(table) > MOST_TABLE_BYTES:
            raise ValueError(f"more than {MOST_TABLE_BYTES} bytes")
        text = table.decode("ascii")
        if (head := _HEAD.match(text)) is None:
            raise ValueError(f"it begins with {text[:40]!r}")
        small, longest = _size(head[1]), _size(head[2])
        tensors: list[NamedShape] = []
        rows = elements = 0
        place = head.end()
        while (opening := _NAME.match(text, place)) is not None:
            name, place = _STRINGS.raw_decode(text, opening.end())
            if (found := _SHAPE.match(text, place)) is None:
                raise ValueError(f"tensor {len(tensors)} has no shape of 0 .. 64 sizes")
            shape = tuple(_size(size) for size in found[1].split(",")) if found[1] else ()
            tensors.append(NamedShape(name, shape))
            elements += math.prod(shape)
            rows += math.prod(cut(shape, small, longest))
            if len(tensors) > MOST_TENSORS or rows > MOST_ROWS or elements > _MOST_ELEMENTS:
                raise ValueError(
                    f"more than {MOST_TENSORS} tensors, {MOST_ROWS} rows or {_MOST_ELEMENTS} elements "
                    f"at tensor {len(tensors) - 1}"
                )
            place = found.end()
            if text[place : place + 1] != ",":
                break
            place += 2 if text[place + 1 : place + 2] == " " else 1
        tail = _TAIL.fullmatch(text, place)
        if tail is None or not tensors:
            raise ValueError(f"behind tensor {len(tensors) - 1} stands {text[place : place + 40]!r}")
        if len({tensor.name for tensor in tensors}) < len(tensors):
            raise ValueError("a name stands twice")
        buffers, rule = int(tail[1] or 0), tail[2] or BUFFER_RULES[0]
        if buffers >= len(tensors) or rule not in BUFFER_RULES:
            raise ValueError(f"{buffers} buffers under the rule {rule!r} among {len(tensors)} tensors")
        digest = hashlib.blake2b(table, digest_size=16).digest()
        return cls(tuple(tensors), small, longest, tail[3] is not None, buffers, rule, rows, elements, digest)


def cut(shape: Sequence[int], small_tensor: int, max_row: int) -> tuple[int, int]:
    """How many slices a tensor has, and how many rows each of them.

    Args:
        shape: its sizes, all above 0.
        small_tensor, max_row: see :meth:`rowcast.rows.Layout.from_shapes`.
    """
    elements = math.prod(shape)
    slices = 1 if len(shape) <= 1 or elements < small_tensor else shape[0]
    return slices, -(-(elements // slices) // max_row)


def _size(text: str) -> int:
    value = int(text)
    if not 0 < value < 1 << 40:
        raise ValueError(f"size {value}")
    return value
