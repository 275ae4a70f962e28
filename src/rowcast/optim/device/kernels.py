"""What is computed of rows of one length, with operations of PyTorch that run on every device.

The results are those of the loops of the host (:mod:`rowcast.codecs.onebit`, :mod:`rowcast.rows.lanes`), bit by bit: a
sum has the same order, and a product is rounded before it is added. Nothing here changes a tensor that it is given.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["expressed", "scales_of", "sums_of", "to_bytes", "to_values"]


def _fold(lanes: Tensor) -> Tensor:
    half = lanes.shape[1] // 2
    return lanes[:, :half] + lanes[:, half:]


def sums_of(block: Tensor) -> Tensor:
    """The sum of each row of float32 [k, n] in the order of :func:`rowcast.rows.lanes.sums_of_rows`, float32 [k]."""
    rows, length = block.shape
    whole, eights = length - length % 32, length - length % 8
    lanes = block.new_zeros((rows, 32))
    for first in range(0, whole, 32):
        lanes += block[:, first : first + 32]
    eight = _fold(_fold(lanes))
    for first in range(whole, eights, 8):
        eight = eight + block[:, first : first + 8]
    total = _fold(_fold(_fold(eight)))[:, 0]
    for place in range(eights, length):
        total = total + block[:, place]
    return total


def scales_of(values: Tensor) -> Tensor:
    """The scale of each row in the code ``onebit``, float32 [k] that are bfloat16, rounded to even."""
    sums = sums_of(values.abs())
    # By a tensor and not by a number: of that a GPU takes the inverse, and rounds twice.
    bits = (sums / torch.full_like(sums, values.shape[1])).view(torch.int32)
    return ((bits + (0x7FFF + ((bits >> 16) & 1))) & -0x10000).view(torch.float32)


def expressed(values: Tensor, scales: Tensor) -> Tensor:
    """What the code ``onebit`` expresses of rows [k, n] with these scales, float32 [k, n]."""
    return torch.copysign(scales[:, None], values)


def to_bytes(values: Tensor, scales: Tensor) -> tuple[Tensor, Tensor]:
    """Rows [k, n] in the code ``onebit``: uint8 [k, 2], and the signs, uint8 [k, bytes]."""
    upper = scales.view(torch.int32) >> 16
    halves = torch.stack([upper & 0xFF, (upper >> 8) & 0xFF], 1).to(torch.uint8)
    negative = torch.signbit(values).to(torch.uint8)
    padded = torch.nn.functional.pad(negative, (0, -values.shape[1] % 8)).view(len(values), -1, 8)
    return halves, (padded << torch.arange(8, dtype=torch.uint8, device=values.device)).sum(2, dtype=torch.uint8)


def to_values(halves: Tensor, signs: Tensor, length: int, sign: float) -> Tensor:
    """``sign`` times what :func:`to_bytes` has made into bytes, float32 [k, length]."""
    halves = halves.to(torch.int32)
    scales = ((halves[:, 0] << 16) | (halves[:, 1] << 24)).view(torch.float32) * sign
    bits = signs[:, :, None] >> torch.arange(8, dtype=torch.uint8, device=signs.device)
    negative = (bits & 1).to(torch.bool).view(len(signs), -1)[:, :length]
    return torch.where(negative, -scales[:, None], scales[:, None])
