"""How far everybody's contribution to each row has come."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rowcast.training.gate import Gate

__all__ = ["Floor"]


class Floor:
    """The lowest version of each row over all workers that the gate counts, kept without asking them all.

    Args:
        rows: rows of the layout.
        gate: whom it counts.

    Attributes:
        levels: int32 [rows]; every outbox of the server has this very array.
        lowest: the lowest of them.
    """

    def __init__(self, rows: int, gate: Gate) -> None:
        self.levels = np.zeros(rows, dtype=np.int32)
        self.lowest = 0
        self._gate = gate
        self._holders = np.zeros(rows, dtype=np.int32)  # how many stand at the level of each row

    def renew(self) -> None:
        """Somebody came or went."""
        versions = self._gate.versions
        if len(versions):
            self.levels[:], self._holders = versions.floor()
        self.lowest = int(self.levels.min())

    def advance(self, name: str, rows: npt.NDArray[np.int64], iteration: int) -> bool:
        """A worker's contribution to ``rows`` is here up to ``iteration``.

        Returns:
            Whether the lowest level has risen.
        """
        versions = self._gate.versions
        versions.raise_floor(name, rows, iteration, self.levels, self._holders)
        before, self.lowest = self.lowest, versions.oldest() or 0
        return self.lowest > before
