"""The backlog of a relay: what workers below have sent, on its way to the server above."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rowcast.delivery.residual import Residual
from rowcast.rows import Layout

__all__ = ["Summed"]


class Summed(Residual):
    """A :class:`Residual` of which a row is due again whenever something was added to it.

    A worker adds to all rows at once, and each is due once in an iteration. A relay is sent rows at any time: those
    that have changed go on as soon as the link is free, whether an iteration is finished with them or not.

    Attributes:
        news: something was added since rows were chosen last, or has come back.
    """

    def __init__(self, layout: Layout, vector: npt.NDArray[np.float32]) -> None:
        super().__init__(layout, vector)
        self._new = np.zeros(layout.rows, dtype=np.bool_)
        self.news = False

    def touch(self, rows: npt.NDArray[np.int64]) -> None:
        """Something was added to ``rows``, int64 [k]."""
        self._new[rows] = True
        self.news = True
        self.measured = False

    def is_due(self, iteration: int) -> npt.NDArray[np.bool_]:
        due: npt.NDArray[np.bool_] = super().is_due(iteration) | self._new
        return due

    def mark_sent(self, rows: npt.NDArray[np.int64], iteration: int) -> None:
        super().mark_sent(rows, iteration)
        self._new[rows] = False

    def mark_lost(self, rows: npt.NDArray[np.int64], before: npt.NDArray[np.int32]) -> None:
        super().mark_lost(rows, before)
        self._new[rows] = True
        self.news = True
