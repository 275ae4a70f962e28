"""What a worker may expect of the parameters for certain: its own contributions that were sent will come back."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt

from rowcast.codecs import Codec
from rowcast.codecs.base import Bytes
from rowcast.delivery.placed import HostVector, RowVector
from rowcast.rows import Layout
from rowcast.wire import Rows

__all__ = ["OwnWrites"]

Vector = npt.NDArray[np.float32]


class OwnWrites:
    """The replica, moved by this worker's own rows that were sent and have not come back (algorithms.md 8.3).

    A row that was sent is no longer pending, and not yet in the replica: between the two a worker would not see what it
    has computed itself, and would compute it again. What the server sends of a row holds everything of this worker that
    it has acknowledged by then, and nothing else of it: acknowledgements and rows travel in one order. So a row that
    arrives ends the wait, but for what is still on its way up.

    Args:
        layout: the model's rows.
        replica: flat float32 [elements], which others move.
        on_their_way: the frames of rows that were sent and not acknowledged.
        placed: the replica and a further vector for what is expected, where they do not lie in host memory;
            ``replica`` is empty then.

    Attributes:
        vector: what is expected, wherever it lies.
    """

    def __init__(
        self,
        layout: Layout,
        replica: Vector,
        on_their_way: Callable[[], Iterable[Rows]],
        placed: tuple[RowVector, RowVector] | None = None,
    ) -> None:
        here, vector = placed or (HostVector(layout, replica), HostVector(layout, replica.copy()))
        self.vector: RowVector = vector
        self._layout = layout
        self._replica: RowVector = here
        self._on_their_way = on_their_way
        self._arrived = np.zeros(layout.rows, dtype=np.bool_)

    @property
    def expected(self) -> Vector:
        """Flat float32 [elements]; a copy to read where it does not lie in host memory."""
        return self.vector.values()

    def restart(self) -> None:
        """Nothing is on its way, and the replica is the team's."""
        self.vector.load(self._replica.values())

    def sent(self, codec: Codec, payload: Bytes, rows: npt.NDArray[np.int64]) -> None:
        """Rows are sent: what the payload holds is not pending any longer."""
        self.vector.add(codec, payload, rows, -1.0)

    def lost(self, codec: Codec, payload: Bytes, rows: npt.NDArray[np.int64]) -> None:
        """They were lost: what the payload holds is pending again."""
        self.vector.add(codec, payload, rows, 1.0)

    def arrived(self, rows: npt.NDArray[np.int64]) -> None:
        """``rows`` of the replica have moved."""
        self.vector.take_rows(self._replica, rows)
        self._arrived[rows] = True
        for message in self._on_their_way():
            arrived = self._arrived[message.rows]
            if len(message.payload) and arrived.any():
                self._take_out(message, message.rows[~arrived])
        self._arrived[rows] = False

    def _take_out(self, message: Rows, others: npt.NDArray[np.int64]) -> None:
        """Take the rows of a frame out of what is expected, but for some others, of which that was done before."""
        kept = self.vector.gather(others)
        self.vector.add(message.code, message.payload, message.rows, -1.0)
        self.vector.scatter(others, kept)
