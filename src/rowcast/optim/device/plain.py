"""Kernels of operations of PyTorch, which run on every device.

Results are those of the compiled loops of the host (:mod:`rowcast.codecs.onebit`, :mod:`rowcast.rows.scattered`): what
is encoded to the byte, what vectors become to the bit. A product and the sum behind it are two operations, since one
that does both rounds once where the host rounds twice. Sums that only order rows may differ in their last bits.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from rowcast.optim.device.chosen import BLOCK, Chosen

__all__ = ["Measured", "Plain"]


class Measured(NamedTuple):
    """What :meth:`Plain.accumulate` found.

    Attributes:
        pending: the new values of the vector, float32 [elements].
        sums: float32 [3, rows]: of each row the sum |.| of what is pending then, the sum of what was proposed as a
            step, and the sum |.| of that.
        fault: float32, 0 where all proposed values are finite, else NaN.
    """

    pending: Tensor
    sums: Tensor
    fault: Tensor

    def packed(self) -> Tensor:
        """The figures one behind the other, the fault last: one copy to the host."""
        return torch.cat([self.sums.view(-1), self.fault.view(1)])


class Plain:
    """The kernels; none changes anything where memory runs out."""

    name = "torch"

    def abs_sums(self, data: Tensor, chosen: Chosen) -> Tensor:
        """Sum |.| of each row, float32 [k]."""
        return self._row_sums(chosen.gather(data).abs(), chosen)

    def accumulate(
        self, pending: Tensor, proposed: Tensor, origin: Tensor, weights: Tensor, chosen: Chosen, room: Tensor
    ) -> Measured:
        """``pending + weights * (origin - proposed)``, for all rows of a layout.

        Args:
            pending, proposed, origin: float32 [elements].
            weights: float32 [rows].
            chosen: all rows.
            room: float32 [elements]; the result is written there.
        """
        step = origin - proposed
        torch.mul(step, torch.repeat_interleave(weights, chosen.table[1], output_size=chosen.elements), out=room)
        room.add_(pending)
        fault = (proposed * 0).abs().sum()
        sums = [self._row_sums(part, chosen) for part in (room.abs(), step, step.abs())]
        return Measured(room, torch.stack(sums), fault)

    def spread(self, vector: Tensor, minus: Tensor, times: Tensor, chosen: Chosen, out: Tensor) -> None:
        """Write ``vector - times * minus`` into ``out``; ``times``: float32 [rows], of all rows of the layout."""
        torch.mul(torch.repeat_interleave(times, chosen.table[1], output_size=chosen.elements), minus, out=out)
        torch.sub(vector, out, out=out)

    def encode(self, data: Tensor, chosen: Chosen, *, consume: bool) -> Tensor:
        """Encode rows in the code ``onebit``; see :class:`rowcast.codecs.OneBit`.

        Returns:
            The payload, uint8 [bytes], on the device.
        """
        values = chosen.gather(data)
        scales = _rounded(self.ordered_abs_sums(values, chosen) / chosen.table[1].to(torch.float32))
        halves = (scales.view(torch.int32) >> 16) & 0xFFFF
        row, within = chosen.row, chosen.within
        negative = (values.view(torch.int32) < 0).to(torch.int32) << (within & 7).to(torch.int32)
        signs = torch.zeros(chosen.sign_bytes, dtype=torch.int32, device=data.device)
        signs.index_add_(0, chosen.table[2][row] + (within >> 3), negative)
        payload = torch.cat([torch.stack([halves & 0xFF, halves >> 8], 1).view(-1), signs]).to(torch.uint8)
        if consume:
            chosen.scatter_(data, values - torch.copysign(scales[row], values))
        return payload

    def add(self, data: Tensor, chosen: Chosen, payload: Tensor, sign: float) -> None:
        """Add ``sign`` times what :meth:`encode` has made of these rows."""
        count = chosen.count
        halves = payload[: 2 * count].view(count, 2).to(torch.int32)
        scales = ((halves[:, 0] << 16) | (halves[:, 1] << 24)).view(torch.float32) * sign
        row, within = chosen.row, chosen.within
        signs = payload[2 * count :][chosen.table[2][row] + (within >> 3)].to(torch.int32)
        of_row = scales[row]
        negative = ((signs >> (within & 7).to(torch.int32)) & 1).to(torch.bool)
        chosen.scatter_(data, chosen.gather(data) + torch.where(negative, -of_row, of_row))

    @staticmethod
    def ordered_abs_sums(values: Tensor, chosen: Chosen) -> Tensor:
        """Sum |.| of each row in the order of :func:`rowcast.rows.lanes.size_of`, float32 [k].

        Args:
            values: the rows one behind the other.
            chosen: which.
        """
        sizes, device = values.abs(), values.device
        lengths, first, order = chosen.table[1], chosen.table[3], chosen.table[4]
        lanes = torch.zeros((chosen.count, BLOCK), dtype=torch.float32, device=device)
        lane, begin = torch.arange(BLOCK, device=device), first[order]
        for block, count in enumerate(chosen.longer.tolist()):  # the longest rows first: those that have this block
            lanes[:count] += sizes[begin[:count, None] + (BLOCK * block + lane)]
        total = torch.empty_like(lanes[:, 0])
        total[order] = _folded(lanes)
        if not (chosen.lengths % BLOCK).any():
            return total
        whole = lengths // BLOCK * BLOCK
        return _with_rest(total, sizes, first + whole, lengths - whole)

    @staticmethod
    def _row_sums(values: Tensor, chosen: Chosen) -> Tensor:
        sums: Tensor = torch.segment_reduce(values, "sum", lengths=chosen.table[1], unsafe=True)
        return sums


def _folded(lanes: Tensor) -> Tensor:
    """32 lanes [k, 32] added in the order of the host, float32 [k]."""
    total = ((lanes[:, :8] + lanes[:, 8:16]) + lanes[:, 16:24]) + lanes[:, 24:]
    for half in (4, 2, 1):
        total = total[:, :half] + total[:, half : 2 * half]
    return total[:, 0]


def _with_rest(total: Tensor, sizes: Tensor, place: Tensor, rest: Tensor) -> Tensor:
    """Add the elements of each row behind its whole blocks: ``rest`` (0 .. 31) of them from ``place`` on."""
    last = sizes.numel() - 1

    def element(number: Tensor | int, counts: Tensor) -> Tensor:
        return torch.where(counts, sizes[(place + number).clamp(max=last)], 0.0)

    fours = rest // 4
    others = [torch.zeros_like(total) for _ in range(3)]
    for k in range(BLOCK // 4 - 1):
        counts = fours > k
        total = total + element(4 * k, counts)
        others = [other + element(4 * k + j, counts) for j, other in enumerate(others, 1)]
    total = (total + others[1]) + (others[0] + others[2])
    for k in range(3):
        total = total + element(4 * fours + k, rest - 4 * fours > k)
    return total


def _rounded(scales: Tensor) -> Tensor:
    """Rounded to the nearest bfloat16, ties to even."""
    bits = scales.view(torch.int32)
    return ((bits + (0x7FFF + ((bits >> 16) & 1))) & -0x10000).view(torch.float32)
