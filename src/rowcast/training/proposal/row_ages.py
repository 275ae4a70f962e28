"""How old the parameters are, row by row, from which a worker computes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["RowAges"]


class RowAges:
    """Ages of the rows of a replica, in the worker's own iterations.

    A row is as fresh as its last arrival. One that has not arrived since may have nothing new: it is at least as
    fresh as the horizon, up to which nothing is lacking.

    Args:
        rows: rows of the layout.

    Attributes:
        lags: int32 [rows], how many of the worker's last iterations the parameters of each row lack from which the
            iteration under way is computed.
    """

    def __init__(self, rows: int) -> None:
        self.lags = np.zeros(rows, dtype=np.int32)
        self._arrived_at = np.zeros(rows, dtype=np.int32)

    def restart(self, iteration: int) -> None:
        """Everything is fresh: the worker has joined, and counts from ``iteration``."""
        self._arrived_at[:] = iteration
        self.lags[:] = 0

    def arrived(self, rows: npt.NDArray[np.int64], iteration: int) -> None:
        """``rows`` have arrived when ``iteration`` was the newest that was finished."""
        self._arrived_at[rows] = iteration

    def begin(self, iteration: int, horizon: int) -> None:
        """The iteration behind ``iteration`` begins, with everything up to ``horizon``."""
        np.subtract(iteration, np.maximum(self._arrived_at, horizon), out=self.lags, casting="unsafe")
        np.maximum(self.lags, 0, out=self.lags)
