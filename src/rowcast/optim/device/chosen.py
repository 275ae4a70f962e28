"""Rows of a layout, as kernels on a device take them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rowcast.codecs.base import starts
from rowcast.rows import Layout

__all__ = ["BLOCK", "Chosen", "table_of"]

IntArray = npt.NDArray[np.int64]

#: Lanes over which the size of a row is summed up (:func:`rowcast.rows.lanes.size_of`).
BLOCK = 32


def table_of(layout: Layout, rows: IntArray) -> IntArray:
    """What a device has to know of rows, int64 [5, k].

    Of each row: its first element in the vector, its elements, its first byte among the sign bytes of all rows, its
    first element among those of all rows; and the rows' own order by length, the longest first.
    """
    lengths = layout.lengths[rows]
    order = np.argsort(-lengths, kind="stable")
    sign_places, places = starts((lengths + 7) >> 3)[:-1], starts(lengths)[:-1]
    return np.stack([layout.offsets[rows], lengths, sign_places, places, order])


@dataclass(frozen=True, eq=False)
class Chosen:
    """Rows that a kernel works on.

    Attributes:
        lengths: elements of each, int64 [k], in host memory.
        table: :func:`table_of`, on the device.
        span: where they lie if they lie one behind the other; ``None``: they do not.
    """

    lengths: IntArray
    table: Tensor
    span: slice | None

    @property
    def count(self) -> int:
        """How many rows."""
        return len(self.lengths)

    @cached_property
    def elements(self) -> int:
        """Elements of all rows."""
        return int(self.lengths.sum())

    @cached_property
    def sign_bytes(self) -> int:
        """Bytes of the signs of all rows, each padded to whole bytes."""
        return int(((self.lengths + 7) >> 3).sum())

    @cached_property
    def longer(self) -> IntArray:
        """How many rows have more than b blocks, for b = 0, 1, ... up to the longest; int64."""
        blocks = np.sort(self.lengths // BLOCK)
        most = int(blocks[-1]) if len(blocks) else 0
        return len(blocks) - np.searchsorted(blocks, np.arange(most), side="right")

    # Made anew each time: of all rows of a model they would take several times its size.

    @property
    def row(self) -> Tensor:
        """Of each element the number of its row among the chosen, int64 [elements]."""
        numbers = torch.arange(self.count, device=self.table.device)
        return torch.repeat_interleave(numbers, self.table[1], output_size=self.elements)

    @property
    def within(self) -> Tensor:
        """Of each element its number in its row, int64 [elements]."""
        return torch.arange(self.elements, device=self.table.device) - self.table[3][self.row]

    @property
    def positions(self) -> Tensor:
        """Of each element its place in the vector, int64 [elements]."""
        return torch.arange(self.elements, device=self.table.device) + (self.table[0] - self.table[3])[self.row]

    def gather(self, data: Tensor) -> Tensor:
        """The rows of a vector one behind the other: a view where they lie so, else a copy."""
        return data[self.span] if self.span is not None else data[self.positions]

    def scatter_(self, data: Tensor, values: Tensor) -> None:
        """Make the rows of a vector these values."""
        if self.span is not None:
            data[self.span].copy_(values)
        else:
            data.index_copy_(0, self.positions, values)
