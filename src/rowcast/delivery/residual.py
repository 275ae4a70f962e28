"""The backlog of a peer where rows travel in pushes and pulls: stamps tell in which iteration each row was last sent.

A worker has one, of what it has computed and not sent; the server has one for each worker. A row is due once in each
iteration.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from rowcast.codecs import Above, Codec
from rowcast.codecs.base import Bytes, fitting
from rowcast.delivery.backlog import Backlog
from rowcast.delivery.placed import NOWHERE, RowVector
from rowcast.rows import Layout
from rowcast.rows.kernels import some_row_abs_sums
from rowcast.wire import Rows

__all__ = ["Residual", "Sent"]


class Sent(Protocol):
    """Is told what becomes of the rows of a residual."""

    def sent(self, codec: Codec, payload: Bytes, rows: npt.NDArray[np.int64]) -> None:
        """Rows are sent, and what the payload holds was taken out of the vector."""

    def lost(self, codec: Codec, payload: Bytes, rows: npt.NDArray[np.int64]) -> None:
        """They have not arrived, and what the payload holds was put back."""


class Residual(Backlog):
    """A vector with error feedback; ``stamps`` are the iterations in which rows were last sent.

    Args:
        layout, vector: see :class:`~rowcast.delivery.backlog.Backlog`.

    Attributes:
        placed: the vector, where it does not lie in host memory.
        follower: is told of each frame, if there is one.
        left: float32 [rows], sum |.| that the code left of each row when it was last sent; 0 before. Kept only while
            there is a follower.
    """

    def __init__(self, layout: Layout, vector: npt.NDArray[np.float32]) -> None:
        self.placed: RowVector | None = None
        self._sent_in = np.zeros(layout.rows, dtype=np.int32)
        self.follower: Sent | None = None
        self.left = np.zeros(layout.rows, dtype=np.float32)
        super().__init__(layout, vector, self._sent_in, np.zeros(0, dtype=np.bool_))

    # -- a vector that does not lie in host memory -------------------------------------------------------------

    def lie_at(self, vector: RowVector) -> None:
        """The vector lies there from now on, with what it holds."""
        self.placed, self._vector, self.measured = vector, NOWHERE, False

    @property
    def vector(self) -> npt.NDArray[np.float32]:
        """What the peer lacks, flat float32, up to date; a copy to read where it does not lie in host memory."""
        return super().vector if self.placed is None else self.placed.values()

    @vector.setter
    def vector(self, vector: npt.NDArray[np.float32]) -> None:
        if self.placed is None:
            self._vector = vector
        else:
            self.placed.load(vector)

    @property
    def empty(self) -> bool:
        """The peer lacks nothing."""
        if self.placed is None:
            return super().empty
        self.measure()
        return not self.abs_sums.any()

    def measure(self) -> None:
        if self.placed is None:
            super().measure()
        elif not self.measured:
            self.placed.abs_sums(self.abs_sums)
            self.measured = True

    def measure_some(self, rows: npt.NDArray[np.int64], sums: npt.NDArray[np.float32]) -> None:
        """Write sum |.| of ``rows`` as they are now into their places in ``sums``, float32 [rows]."""
        if self.placed is None:
            some_row_abs_sums(self._vector, self.layout.offsets, rows, sums)
        else:
            self.placed.some_abs_sums(rows, sums)

    def encode(self, codec: Codec, rows: npt.NDArray[np.int64]) -> Bytes:
        return super().encode(codec, rows) if self.placed is None else self.placed.encode(codec, rows)

    def add(self, codec: Codec, payload: Bytes, rows: npt.NDArray[np.int64]) -> None:
        if self.placed is None:
            super().add(codec, payload, rows)
        else:
            self.placed.add(codec, payload, rows, 1.0)

    def fit(self, codec: Codec, room: float | Above) -> Codec:
        if self.placed is None or fitting(codec) is None:
            return super().fit(codec, room)
        return self._fitted(codec, room, self.placed.values())

    # -- what is sent ------------------------------------------------------------------------------------------

    def take(self, rows: npt.NDArray[np.int64], codec: Codec, iteration: int) -> tuple[Bytes, npt.NDArray[np.int32]]:
        measured = self.measured
        payload, before = super().take(rows, codec, iteration)
        if self.follower is not None and len(payload):
            self.follower.sent(codec, payload, rows)
            self.measure_some(rows, self.abs_sums)
            self.left[rows] = self.abs_sums[rows]
            self.measured = measured
        return payload, before

    def put_back(self, message: Rows, before: npt.NDArray[np.int32], place: int = -1) -> None:
        super().put_back(message, before, place)
        if self.follower is not None and len(message.payload):
            self.follower.lost(message.code, message.payload, message.rows)

    def fresh(self) -> npt.NDArray[np.float32]:
        """How much of what is pending was added since a row was last sent, 0 .. 1, float32 [rows].

        The rest is what the code has left of it. As if the two were at right angles: 1 - (left / pending)^2.
        """
        self.measure()
        old = np.zeros_like(self.left)
        np.divide(self.left, self.abs_sums, out=old, where=self.abs_sums > self.left)
        old[(self.abs_sums <= self.left) & (self.left > 0)] = 1.0
        fresh: npt.NDArray[np.float32] = np.float32(1.0) - old * old
        return fresh

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

    def restore(
        self, vector: npt.NDArray[np.float32], stamps: npt.NDArray[np.int32], left: npt.NDArray[np.float32]
    ) -> None:
        """Hold what was kept of another life: the vector, and what is recorded of each row."""
        self._sent_in[:], self.left[:] = stamps, left
        if self.placed is None:
            self._vector[:] = vector
        else:
            self.placed.load(vector)
        self.measured = False

    def renumber(self, iteration: int) -> None:
        """Every row counts as sent in ``iteration``."""
        self._sent_in[:] = iteration

    def noted(self, oldest: int) -> None:
        """Nothing is recorded of what is added."""
