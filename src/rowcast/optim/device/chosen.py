"""Rows of a layout, as kernels on a device take them: those of one length together, as a matrix."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rowcast.codecs.base import starts
from rowcast.rows import Layout

__all__ = ["Chosen", "Group", "chosen_of"]

IntArray = npt.NDArray[np.int64]

#: Elements of a group, at most, unless a single row has more: what is computed on the way takes some times as much.
GROUP_ELEMENTS = 1 << 22


class Group(NamedTuple):
    """Rows of one length.

    Attributes:
        length: elements of each.
        begins: where each begins in the vector, int64 [k].
        numbers: the number of each among the rows that were chosen, int64 [k].
        signs, places: where its sign bytes, and its elements, are in a payload of all of them, int64 [k].
    """

    length: int
    begins: Tensor
    numbers: Tensor
    signs: Tensor
    places: Tensor

    @property
    def elements(self) -> Tensor:
        """Of each element its place in the vector, int64 [k, length]; made anew: kept it would take twice its size."""
        return self.begins[:, None] + torch.arange(self.length, device=self.begins.device)

    @property
    def sign_bytes(self) -> Tensor:
        """Of each sign byte its place among those of the payload, int64 [k, bytes]."""
        return self.signs[:, None] + torch.arange((self.length + 7) // 8, device=self.begins.device)

    @property
    def in_payload(self) -> Tensor:
        """Of each element its place in a payload that has a number for each, int64 [k, length]."""
        return self.places[:, None] + torch.arange(self.length, device=self.begins.device)


class Chosen(NamedTuple):
    """Rows that are worked on.

    Attributes:
        table: a column for each of them, ordered by length, int64 [4, k] as :class:`Group` has it; on the device.
        cuts: of each group its length, and its first and last column in the table.
        numbers: the second line of the table, in host memory.
        rows: how many rows are in a payload of them, of which these may be a part.
        sign_bytes: bytes of all signs in it, each row padded to whole bytes.
    """

    table: Tensor
    cuts: list[tuple[int, int, int]]
    numbers: IntArray
    rows: int
    sign_bytes: int

    def groups(self, device: torch.device) -> Iterator[Group]:
        """The groups, on a device."""
        return (self.group(k, device) for k in range(len(self.cuts)))

    def group(self, k: int, device: torch.device) -> Group:
        """A group, on a device."""
        length, first, last = self.cuts[k]
        return Group(length, *self.table.to(device)[:, first:last])


def chosen_of(
    layout: Layout, rows: IntArray, only: npt.NDArray[np.bool_] | None, upload: Callable[[IntArray], Tensor]
) -> Chosen:
    """Choose rows.

    Args:
        layout: has them.
        rows: all that are in a payload, int64 [n].
        only: which of them are worked on, bool [n]; ``None``: all.
        upload: brings an array to the device.
    """
    lengths = layout.lengths[rows]
    signs, places = starts((lengths + 7) >> 3), starts(lengths)
    numbers = np.arange(len(rows), dtype=np.int64) if only is None else np.flatnonzero(only)
    numbers = numbers[np.argsort(lengths[numbers], kind="stable")]
    lengths = lengths[numbers]
    table = np.stack([layout.offsets[rows[numbers]], numbers, signs[numbers], places[numbers]])
    cuts = []
    for length in np.unique(lengths).tolist():
        first, end = np.searchsorted(lengths, [length, length + 1]).tolist()
        step = max(GROUP_ELEMENTS // length, 1)
        cuts += [(length, k, min(k + step, end)) for k in range(first, end, step)]
    return Chosen(upload(table), cuts, numbers, len(rows), int(signs[-1]))
