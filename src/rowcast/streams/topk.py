"""Adaptive top-k of ScaDLES: send the largest elements of a gradient where that loses little, else all of it.

A device votes to compress where the share of energy that the largest elements leave out, ``||g - Topk(g)||^2 /
||g||^2``, is ``delta`` or less on average (EWMA); the team compresses where more than half of it votes so
(algorithms.md 13.6). What is not sent stays, and is added to the next gradient. The published code changes what stays
also in rounds that are sent whole, so that mass is sent twice: not here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rowcast.config import as_number
from rowcast.errors import ConfigError

__all__ = ["AdaptiveTopK", "TopK", "compresses", "parse_topk"]

Vector = npt.NDArray[np.float32]

#: Weight of the past in the average of the lost energy.
_PAST = 0.9


@dataclass(frozen=True)
class TopK:
    """What is sent of the gradients of a team.

    Attributes:
        ratio: share of the elements that a compressed gradient has, above 0 .. 1.
        delta: largest mean share of lost energy at which a device votes to compress, 0 .. 1.
    """

    ratio: float
    delta: float

    def __str__(self) -> str:
        return f"{self.ratio:.12g}/{self.delta:.12g}"

    def device(self, elements: int) -> AdaptiveTopK:
        """The gradients of one device, of so many elements."""
        return AdaptiveTopK(self.ratio, self.delta, elements)


def parse_topk(text: str) -> TopK | None:
    """Read ``0.1/0.3`` (ratio/delta); ``0`` or ``off``: gradients are sent whole.

    Raises:
        ConfigError: something else.
    """
    if text.strip() in ("0", "off"):
        return None
    match [as_number(part) for part in text.split("/")]:
        case [float(ratio), float(delta)] if 0 < ratio <= 1 and 0 <= delta <= 1:
            return TopK(ratio, delta)
    raise ConfigError(
        f"topk: expected ratio/delta, a ratio above 0 and up to 1 and a delta of 0 to 1, as in 0.1/0.3, or 0, got "
        f"{text!r}"
    )


def compresses(votes: Sequence[bool]) -> bool:
    """What the team does: compress where more than half of the devices vote for it."""
    return 2 * sum(votes) > len(votes)


class AdaptiveTopK:
    """The gradients of one device.

    Args:
        ratio: share of the elements that a compressed gradient has, above 0 .. 1.
        delta: largest mean share of lost energy at which the device votes to compress; 1: always, plain top-k with
            error feedback; 0: never.
        elements: of a gradient.

    Attributes:
        compressed, whole: gradients sent in each way.
        floats: numbers sent, an index counted as one.

    Raises:
        ConfigError: a share that is none.
    """

    def __init__(self, ratio: float, delta: float, elements: int) -> None:
        if not 0 < ratio <= 1 or not 0 <= delta <= 1:
            raise ConfigError(f"top-k: expected a ratio above 0 .. 1 and a delta of 0 .. 1, got {ratio} and {delta}")
        self.ratio, self.delta = ratio, delta
        self.compressed = self.whole = 0
        self.floats = 0
        self._kept = max(1, int(ratio * elements))
        self._residual = np.zeros(elements, np.float32)
        self._lost: float | None = None
        self._gradient = self._residual
        self._largest: npt.NDArray[np.intp] = np.zeros(0, np.intp)

    @property
    def lost(self) -> float:
        """Mean share of energy that the largest elements leave out; 1 before the first gradient."""
        return 1.0 if self._lost is None else self._lost

    @property
    def cnc(self) -> float:
        """Compressed gradients over all gradients (CNC ratio); 0 before the first."""
        return self.compressed / max(self.compressed + self.whole, 1)

    def look(self, gradient: Vector) -> bool:
        """Take the next gradient, float32 [elements], and vote whether it is to be compressed."""
        self._gradient = gradient + self._residual
        squares = self._gradient.astype(np.float64) ** 2
        self._largest = np.argpartition(squares, -self._kept)[-self._kept :]
        energy = float(squares.sum())
        lost = max(1.0 - float(squares[self._largest].sum()) / energy, 0.0) if energy > 0 else 0.0
        self._lost = lost if self._lost is None else _PAST * self._lost + (1 - _PAST) * lost
        return self._lost <= self.delta

    def send(self, compress: bool) -> Vector:
        """What is sent of it, as the team has decided: float32 [elements], 0 where nothing is."""
        if not compress:
            self.whole += 1
            self.floats += len(self._gradient)
            self._residual = np.zeros_like(self._residual)
            return self._gradient
        self.compressed += 1
        self.floats += 2 * self._kept
        sent = np.zeros_like(self._gradient)
        sent[self._largest] = self._gradient[self._largest]
        self._residual = self._gradient - sent
        return sent
