"""The backlog of a peer where rows travel in pushes and pulls: stamps tell in which iteration each row was last sent.

A worker has one, of what it has computed and not sent; the server has one for each worker. A row is due once in each
iteration.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from rowcast.codecs import Codec
from rowcast.codecs.base import Bytes
from rowcast.delivery.backlog import Backlog
from rowcast.delivery.placed import PlacedVector
from rowcast.rows import Layout
from rowcast.rows.half_rows import HalfRows
from rowcast.rows.kernels import accumulate, row_abs_sums, some_row_abs_sums
from rowcast.rows.scaling import scale_rows
from rowcast.rows.scattered import accumulate_all
from rowcast.wire import Rows

__all__ = ["Accumulate", "Residual", "Sent", "Stored"]

#: What is pending as it is kept.
Stored = npt.NDArray[np.float32] | HalfRows | PlacedVector
#: Adds to the rows of one tensor, as :func:`rowcast.rows.kernels.accumulate` does.
Accumulate = Callable[..., float]


class Sent(Protocol):
    """Is told what becomes of the rows of a residual."""

    def sent(self, codec: Codec, payload: Bytes, rows: npt.NDArray[np.int64]) -> None:
        """Rows are sent, and what the payload holds was taken out of the vector."""

    def lost(self, codec: Codec, payload: Bytes, rows: npt.NDArray[np.int64]) -> None:
        """They have not arrived, and what the payload holds was put back."""


class Residual(Backlog):
    """A vector with error feedback; ``stamps`` are the iterations in which rows were last sent.

    Whoever changes what is pending does so by a method of this class: there is not always a vector
    (:class:`~rowcast.delivery.half_residual.HalfResidual`).

    Args:
        layout, vector: see :class:`~rowcast.delivery.backlog.Backlog`.

    Attributes:
        follower: is told of each frame, if there is one.
        left: float32 [rows], sum |.| that the code left of each row when it was last sent; 0 before. Kept only while
            there is a follower.
    """

    def __init__(self, layout: Layout, vector: npt.NDArray[np.float32]) -> None:
        self._sent_in = np.zeros(layout.rows, dtype=np.int32)
        self.follower: Sent | None = None
        self.left = np.zeros(layout.rows, dtype=np.float32)
        super().__init__(layout, vector, self._sent_in, np.zeros(0, dtype=np.bool_))

    # -- what a worker computes --------------------------------------------------------------------------------

    def accumulate_all(
        self,
        origin: npt.NDArray[np.float32],
        sources: Sequence[npt.NDArray[np.float32]],
        weights: npt.NDArray[np.float32],
        computed: npt.NDArray[np.float64],
    ) -> float:
        """Add ``weights * (origin - sources)`` and measure; see :func:`rowcast.rows.scattered.accumulate_all`.

        Args:
            origin: flat float32 [elements].
            sources: for each tensor its proposed values, float32, flat and contiguous.
            weights: float32 [rows], >= 0.
            computed: float64 [rows]; gains the signed sum of what was added to each row.

        Returns:
            Sum |.| of what was added to the parameters.
        """
        return accumulate_all(self.layout, self.vector, origin, sources, weights, self.abs_sums, computed)

    def accumulate(
        self,
        index: int,
        origin: npt.NDArray[np.float32],
        source: npt.NDArray[np.float32],
        weights: npt.NDArray[np.float32],
        computed: npt.NDArray[np.float64],
        add: Accumulate = accumulate,
    ) -> float:
        """The same for tensor ``index`` of the layout alone; the result is that of buffers, too.

        Args:
            add: makes something else of it first.
        """
        spec = self.layout.tensors[index]
        rows, offsets = slice(spec.first_row, spec.end_row), self.layout.offsets[spec.first_row : spec.end_row + 1]
        sums = self.abs_sums[rows]
        return add(self.vector, origin, source, weights[rows], spec.start, offsets, sums, computed[rows])

    def scale(self, rows: int, factor: float, gained: npt.NDArray[np.float64]) -> None:
        """Multiply the first ``rows`` rows; ``gained``, float64 [rows], gains what that adds to each."""
        scale_rows(self.vector, self.layout.offsets[: rows + 1], factor, gained)
        self.measured = False

    # -- what is looked at -------------------------------------------------------------------------------------

    @property
    def stored(self) -> Stored:
        """What is pending as it is kept, to be read: flat float32 [elements], rows in half precision, or elsewhere.

        All give the elements of whole rows for a slice.
        """
        return self.vector

    def copied(self) -> npt.NDArray[np.float32]:
        """What is pending, as a new flat float32 vector."""
        return self.vector.copy()

    def sizes(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Sum |.| of what is pending of ``rows``, float32 [k]; nothing is changed."""
        sums = np.empty(self.layout.rows, dtype=np.float32)
        some_row_abs_sums(self.vector, self.layout.offsets, rows, sums)
        return sums[rows]

    def count(self) -> int:
        """How many rows are not zero; nothing is changed."""
        sums = np.empty(self.layout.rows, dtype=np.float32)
        row_abs_sums(self.vector, self.layout.offsets, sums)
        return int(np.count_nonzero(sums))

    # -- what is sent ------------------------------------------------------------------------------------------

    def take(self, rows: npt.NDArray[np.int64], codec: Codec, iteration: int) -> tuple[Bytes, npt.NDArray[np.int32]]:
        measured = self.measured
        payload, before = super().take(rows, codec, iteration)
        if self.follower is not None and len(payload):
            self.follower.sent(codec, payload, rows)
            some_row_abs_sums(self._vector, self.layout.offsets, rows, self.abs_sums)
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
        self._vector[:], self._sent_in[:], self.left[:] = vector, stamps, left
        self.measured = False

    def adopt(self, other: Residual, *, content: bool) -> None:
        """Take the place of another one.

        Args:
            other: has what is recorded of each row, and the follower.
            content: what is pending as well; otherwise nothing is.
        """
        self._sent_in[:], self.left[:], self.follower = other.stamps, other.left, other.follower
        if content and not other.empty:
            self.restore(other.vector, other.stamps, other.left)

    def renumber(self, iteration: int) -> None:
        """Every row counts as sent in ``iteration``."""
        self._sent_in[:] = iteration

    def noted(self, oldest: int) -> None:
        """Nothing is recorded of what is added."""
