"""Notices parameters that somebody else has written: by hand between two steps, or in the model's own ``forward``.

The parameters of a team move by what the team sends, and are overwritten with it after each step: whatever else was
written into them is gone. That is easily taken for training, so it is noticed and said.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

__all__ = ["Marks"]


@dataclass(slots=True)
class _Mark:
    """What a tensor was like.

    Attributes:
        version: counts writes through torch; a write through ``.data`` is none.
        total: sum of its bits; ``None`` where its memory has gaps. Of a tensor on another device a tensor, so that
            nobody waits for that device.
    """

    version: int
    total: int | Tensor | None


class Marks:
    """Remembers what tensors hold, and says which ones hold something else.

    In host memory every write is noticed. A tensor on another device is looked at only after a write through torch,
    because looking means waiting for the device. What was written and put back (averaged weights for an evaluation)
    is the same again.

    Both calls read each tensor once, at half of the cost of a copy.

    Args:
        names, tensors: the tensors.
    """

    def __init__(self, names: Sequence[str], tensors: Sequence[Tensor]) -> None:
        self._names = names
        self._tensors = tensors
        self._marks: list[_Mark] = []
        self._bytes: list[tuple[int, npt.NDArray[np.uint8]] | None] = [None] * len(tensors)

    def set(self) -> None:
        """What the tensors hold now is right."""
        self._marks = [_Mark(tensor._version, self._total(index, tensor)) for index, tensor in enumerate(self._tensors)]

    def changed(self) -> list[str]:
        """Names of the tensors that hold something else than when :meth:`set` was called."""
        names = []
        for index, (mark, tensor) in enumerate(zip(self._marks, self._tensors, strict=False)):
            written = tensor._version != mark.version
            if not written and tensor.device.type != "cpu":
                continue
            total = self._total(index, tensor)
            if written if total is None or mark.total is None else bool(total != mark.total):
                names.append(self._names[index])
        return names

    def _total(self, index: int, tensor: Tensor) -> int | Tensor | None:
        if tensor.device.type != "cpu":
            dense = _dense(tensor)
            return None if dense is None else dense.view(torch.uint8).sum()
        known = self._bytes[index]
        if known is None or known[0] != tensor.data_ptr():
            dense = _dense(tensor)
            if dense is None:
                return None
            known = self._bytes[index] = (tensor.data_ptr(), dense.view(torch.uint8).numpy())
        memory = known[1]
        whole = len(memory) & ~7
        # Eight bytes at once, wrapping around: this runs at the rate of memory.
        return int(memory[:whole].view(np.int64).sum()) + int(memory[whole:].sum())


def _dense(tensor: Tensor) -> Tensor | None:
    """A flat view of a tensor's memory; ``None`` where there are gaps or overlaps in it."""
    strides = tensor.stride()
    order = sorted(range(tensor.dim()), key=lambda axis: -strides[axis])
    ordered = tensor.detach().permute(order)
    return ordered.view(-1) if ordered.is_contiguous() else None
