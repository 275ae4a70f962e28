"""The backlog of a peer where rows travel in pushes and pulls: stamps tell in which iteration each row was last sent.

A worker has one, of what it has computed and not sent; the server has one for each worker. A row is due once in each
iteration.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rowcast.delivery.backlog import Backlog
from rowcast.rows import Layout

__all__ = ["Residual"]


class Residual(Backlog):
    """A vector with error feedback; ``stamps`` are the iterations in which rows were last sent.

    Args:
        layout, vector: see :class:`~rowcast.delivery.backlog.Backlog`.
    """

    def __init__(self, layout: Layout, vector: npt.NDArray[np.float32]) -> None:
        self._sent_in = np.zeros(layout.rows, dtype=np.int32)
        super().__init__(layout, vector, self._sent_in, np.zeros(0, dtype=np.bool_))

    def is_due(self, iteration: int) -> npt.NDArray[np.bool_]:
        return self._sent_in < iteration

    def travelled(self, due: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
        return np.flatnonzero(~due)

    def held(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
        return self._sent_in[rows]

    def mark_sent(self, rows: npt.NDArray[np.int64], iteration: int) -> None:
        self._sent_in[rows] = iteration

    def mark_lost(self, rows: npt.NDArray[np.int64], before: npt.NDArray[np.int32]) -> None:
        self._sent_in[rows] = before

    def renumber(self, iteration: int) -> None:
        """Every row counts as sent in ``iteration``."""
        self._sent_in[:] = iteration

    def noted(self, oldest: int) -> None:
        """Nothing is recorded of what is added."""
