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
            self.levels[:] = versions.floor()
            self._holders = versions.holders(slice(None), self.levels)
        self.lowest = int(self.levels.min())

    def advance(self, name: str, rows: npt.NDArray[np.int64], iteration: int) -> bool:
        """A worker's contribution to ``rows`` is here up to ``iteration``.

        The level of a row rises when the last who stood there has gone on. Only then the team is asked.

        Returns:
            Whether the lowest level has risen.
        """
        versions = self._gate.versions
        held = versions.of_rows(name, rows)
        versions.advance(name, rows, iteration)
        levels = self.levels[rows]
        self._holders[rows] -= held == levels
        moved = rows[(self._holders[rows] == 0) | (iteration <= levels)]
        if len(moved):
            self.levels[moved] = versions.floor(moved)
            self._holders[moved] = versions.holders(moved, self.levels[moved])
        before, self.lowest = self.lowest, versions.oldest() or 0
        return self.lowest > before
