"""Kernels of Triton: each row in one pass over memory, or two, without vectors in between.

They give what those of :mod:`~rowcast.optim.device.plain` give, to the bit, but for sums that only order rows. No
product is fused with the sum behind it (``enable_fp_fusion=False``), and a quotient is rounded as IEEE 754 has it.
This module can be imported only where Triton is.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from rowcast.optim.device.chosen import BLOCK, Chosen
from rowcast.optim.device.plain import Measured, Plain

__all__ = ["Fused"]

#: Rows of a program that adds up lanes, and blocks that it has under way at a time.
_ROWS, _AHEAD = 4, 8
#: Rows of a program that works on a number for each row.
_MANY = 128
#: Sign bytes of a piece of a row.
_BYTES = 64
#: Elements of a piece of a row.
_PIECE = 1024


class Fused(Plain):
    """The kernels of :class:`~rowcast.optim.device.plain.Plain`, of Triton where that gains something."""

    name = "triton"

    def abs_sums(self, data: Tensor, chosen: Chosen) -> Tensor:
        sums = torch.empty(chosen.count, dtype=torch.float32, device=data.device)
        _run(_abs_sums, (chosen.count,), data, chosen.table, sums, chosen.count, PIECE=_PIECE)
        return sums

    def accumulate(
        self, pending: Tensor, proposed: Tensor, origin: Tensor, weights: Tensor, chosen: Chosen, room: Tensor
    ) -> Measured:
        count = chosen.count
        figures = torch.empty((4, count), dtype=torch.float32, device=pending.device)
        table = chosen.table
        _run(_accumulate, (count,), pending, proposed, origin, weights, table, room, figures, PIECE=_PIECE)
        return Measured(room, figures[:3], figures[3].sum())

    def spread(self, vector: Tensor, minus: Tensor, times: Tensor, chosen: Chosen, out: Tensor) -> None:
        _run(_spread, (chosen.count,), vector, minus, times, chosen.table, out, chosen.count, PIECE=_PIECE)

    def encode(self, data: Tensor, chosen: Chosen, *, consume: bool) -> Tensor:
        count, device = chosen.count, data.device
        lanes = torch.empty((count, BLOCK), dtype=torch.float32, device=device)
        scales = torch.empty(count, dtype=torch.float32, device=device)
        payload = torch.empty(2 * count + chosen.sign_bytes, dtype=torch.uint8, device=device)
        table = chosen.table
        _run(_lanes, (triton.cdiv(count, _ROWS),), data, table, lanes, count, ROWS=_ROWS, AHEAD=_AHEAD)
        _run(_scales, (triton.cdiv(count, _MANY),), data, table, lanes, scales, payload, count, MANY=_MANY)
        bits = payload[2 * count :]
        _run(_pack, (count,), data, table, scales, bits, count, CONSUME=consume, BYTES=_BYTES)
        return payload

    def add(self, data: Tensor, chosen: Chosen, payload: Tensor, sign: float) -> None:
        _run(_add, (chosen.count,), data, chosen.table, payload, sign, chosen.count, PIECE=_PIECE)


def _run(kernel: Any, grid: tuple[int, ...], *arguments: Any, **constants: Any) -> None:
    kernel[grid](*arguments, enable_fp_fusion=False, **constants)


# In each: ``table`` is that of rowcast.optim.device.chosen.table_of, int64 [5, count].


@triton.jit
def _abs_sums(data, table, sums, count, PIECE: tl.constexpr):
    row = tl.program_id(0)
    start, length = tl.load(table + row), tl.load(table + count + row).to(tl.int32)
    total = tl.zeros([PIECE], dtype=tl.float32)
    for first in range(0, length, PIECE):
        at = first + tl.arange(0, PIECE)
        total += tl.abs(tl.load(data + start + at, mask=at < length, other=0.0))
    tl.store(sums + row, tl.sum(total, axis=0))


@triton.jit
def _accumulate(pending, proposed, origin, weights, table, new, figures, PIECE: tl.constexpr):
    row, count = tl.program_id(0), tl.num_programs(0)
    start, length = tl.load(table + row), tl.load(table + count + row).to(tl.int32)
    weight = tl.load(weights + row)
    size = tl.zeros([PIECE], dtype=tl.float32)
    total = tl.zeros([PIECE], dtype=tl.float32)
    distance = tl.zeros([PIECE], dtype=tl.float32)
    fault = tl.zeros([PIECE], dtype=tl.float32)
    for first in range(0, length, PIECE):
        at = first + tl.arange(0, PIECE)
        inside = at < length
        there = tl.load(proposed + start + at, mask=inside, other=0.0)
        step = tl.load(origin + start + at, mask=inside, other=0.0) - there
        value = tl.load(pending + start + at, mask=inside, other=0.0) + weight * step
        tl.store(new + start + at, value, mask=inside)
        size += tl.abs(value)
        total += step
        distance += tl.abs(step)
        fault += tl.abs(there * 0.0)
    tl.store(figures + row, tl.sum(size, axis=0))
    tl.store(figures + count + row, tl.sum(total, axis=0))
    tl.store(figures + 2 * count + row, tl.sum(distance, axis=0))
    tl.store(figures + 3 * count + row, tl.sum(fault, axis=0))


@triton.jit
def _spread(vector, minus, times, table, out, count, PIECE: tl.constexpr):
    row = tl.program_id(0)
    start, length = tl.load(table + row), tl.load(table + count + row).to(tl.int32)
    often = tl.load(times + row)
    for first in range(0, length, PIECE):
        at = first + tl.arange(0, PIECE)
        inside = at < length
        less = often * tl.load(minus + start + at, mask=inside, other=0.0)
        tl.store(out + start + at, tl.load(vector + start + at, mask=inside, other=0.0) - less, mask=inside)


@triton.jit
def _lanes(data, table, lanes, count, ROWS: tl.constexpr, AHEAD: tl.constexpr):
    """Of each row the sums of its 32 lanes over whole blocks, each lane from the first block to the last."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    known = rows < count
    starts = tl.load(table + rows, mask=known, other=0)[:, None]
    blocks = tl.load(table + count + rows, mask=known, other=0).to(tl.int32) // 32
    lane = tl.arange(0, 32)[None, :]
    total = tl.zeros([ROWS, 32], dtype=tl.float32)
    most = tl.max(blocks, axis=0)
    has = blocks[:, None]
    for first in range(0, most, AHEAD):
        for more in tl.static_range(AHEAD):
            block = first + more
            total += tl.abs(tl.load(data + starts + (block * 32 + lane), mask=block < has, other=0.0))
    tl.store(lanes + rows[:, None] * 32 + lane, total, mask=known[:, None])


@triton.jit
def _eighths(lanes, lane: tl.constexpr, known):
    """One of the eight sums of four lanes each."""
    total = tl.load(lanes + lane, mask=known, other=0.0) + tl.load(lanes + (lane + 8), mask=known, other=0.0)
    total = total + tl.load(lanes + (lane + 16), mask=known, other=0.0)
    return total + tl.load(lanes + (lane + 24), mask=known, other=0.0)


@triton.jit
def _scales(data, table, lanes, scales, payload, count, MANY: tl.constexpr):
    """The lanes in the order of the host, what is behind the whole blocks, and the scale as bfloat16."""
    rows = tl.program_id(0) * MANY + tl.arange(0, MANY)
    known = rows < count
    starts = tl.load(table + rows, mask=known, other=0)
    length = tl.load(table + count + rows, mask=known, other=1).to(tl.int32)
    mine = lanes + rows * 32
    a = _eighths(mine, 0, known) + _eighths(mine, 4, known)
    b = _eighths(mine, 1, known) + _eighths(mine, 5, known)
    c = _eighths(mine, 2, known) + _eighths(mine, 6, known)
    d = _eighths(mine, 3, known) + _eighths(mine, 7, known)
    total = (a + c) + (b + d)
    whole = length // 32 * 32
    fours = (length - whole) // 4
    place = data + starts + whole
    second = tl.zeros([MANY], dtype=tl.float32)
    third = tl.zeros([MANY], dtype=tl.float32)
    fourth = tl.zeros([MANY], dtype=tl.float32)
    for k in tl.static_range(7):
        more = known & (fours > k)
        total += tl.abs(tl.load(place + 4 * k, mask=more, other=0.0))
        second += tl.abs(tl.load(place + (4 * k + 1), mask=more, other=0.0))
        third += tl.abs(tl.load(place + (4 * k + 2), mask=more, other=0.0))
        fourth += tl.abs(tl.load(place + (4 * k + 3), mask=more, other=0.0))
    total = (total + third) + (second + fourth)
    place += 4 * fours
    rest = length - whole - 4 * fours
    for k in tl.static_range(3):
        total += tl.abs(tl.load(place + k, mask=known & (rest > k), other=0.0))
    bits = tl.div_rn(total, length.to(tl.float32)).to(tl.int32, bitcast=True)
    bits = (bits + (0x7FFF + ((bits >> 16) & 1))) & -0x10000
    tl.store(scales + rows, bits.to(tl.float32, bitcast=True), mask=known)
    tl.store(payload + 2 * rows, ((bits >> 16) & 0xFF).to(tl.uint8), mask=known)
    tl.store(payload + 2 * rows + 1, ((bits >> 24) & 0xFF).to(tl.uint8), mask=known)


@triton.jit
def _pack(data, table, scales, bits, count, CONSUME: tl.constexpr, BYTES: tl.constexpr):
    """The signs of a row, 8 in a byte; what the code expresses is taken out of the row."""
    row = tl.program_id(0)
    start, length = tl.load(table + row), tl.load(table + count + row).to(tl.int32)
    mine = bits + tl.load(table + 2 * count + row)
    scale = tl.load(scales + row).to(tl.int32, bitcast=True)
    byte = tl.arange(0, BYTES)
    bit = tl.arange(0, 8)[None, :]
    for first in range(0, length, 8 * BYTES):
        at = first + 8 * byte[:, None] + bit
        inside = at < length
        value = tl.load(data + start + at, mask=inside, other=0.0)
        sign = value.to(tl.int32, bitcast=True) & -0x80000000
        packed = tl.sum((sign != 0).to(tl.int32) << bit, axis=1)
        tl.store(mine + (first // 8 + byte), packed.to(tl.uint8), mask=first + 8 * byte < length)
        if CONSUME:
            tl.store(data + start + at, value - (scale | sign).to(tl.float32, bitcast=True), mask=inside)


@triton.jit
def _add(data, table, payload, factor, count, PIECE: tl.constexpr):
    row = tl.program_id(0)
    start, length = tl.load(table + row), tl.load(table + count + row).to(tl.int32)
    mine = payload + 2 * count + tl.load(table + 2 * count + row)
    low, high = tl.load(payload + 2 * row).to(tl.int32), tl.load(payload + 2 * row + 1).to(tl.int32)
    scale = ((low << 16) | (high << 24)).to(tl.float32, bitcast=True) * factor
    pattern = scale.to(tl.int32, bitcast=True)
    for first in range(0, length, PIECE):
        at = first + tl.arange(0, PIECE)
        inside = at < length
        sign = (tl.load(mine + (at >> 3), mask=inside, other=0).to(tl.int32) >> (at & 7)) & 1
        value = (pattern ^ (sign << 31)).to(tl.float32, bitcast=True)
        tl.store(data + start + at, tl.load(data + start + at, mask=inside, other=0.0) + value, mask=inside)
