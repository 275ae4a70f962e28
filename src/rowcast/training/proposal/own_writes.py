"""What a worker may expect of the parameters for certain: its own contributions that were sent will come back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import numpy.typing as npt

from rowcast.codecs import Codec
from rowcast.codecs.base import Bytes
from rowcast.rows import Layout
from rowcast.rows.kernels import copy_rows, gather_rows, scatter_rows
from rowcast.wire import Rows

__all__ = ["OwnWrites", "overtaken"]

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

    Attributes:
        expected: flat float32 [elements].
    """

    def __init__(self, layout: Layout, replica: Vector, on_their_way: Callable[[], Iterable[Rows]]) -> None:
        self.expected = replica.copy()
        self._layout = layout
        self._replica = replica
        self._on_their_way = on_their_way
        self._arrived = np.zeros(layout.rows, dtype=np.bool_)

    def expected_in(self, room: Vector) -> Vector:
        """The expected parameters; ``room`` is not needed for them."""
        return self.expected

    def restart(self) -> None:
        """Nothing is on its way, and the replica is the team's."""
        self.expected[:] = self._replica

    def sent(self, codec: Codec, payload: Bytes, rows: npt.NDArray[np.int64]) -> None:
        """Rows are sent: what the payload holds is not pending any longer."""
        codec.add(self._layout, payload, rows, self.expected, -1.0)

    def lost(self, codec: Codec, payload: Bytes, rows: npt.NDArray[np.int64]) -> None:
        """They were lost: what the payload holds is pending again."""
        codec.add(self._layout, payload, rows, self.expected, 1.0)

    def arrived(self, rows: npt.NDArray[np.int64], numbers: npt.NDArray[np.int64] | None = None) -> None:
        """``rows`` of the replica have moved."""
        copy_rows(self._replica, self.expected, self._layout.offsets, rows)
        for message, arrived in overtaken(rows, self._arrived, self._on_their_way()):
            self._take_out(message, message.rows[~arrived])

    def _take_out(self, message: Rows, others: npt.NDArray[np.int64]) -> None:
        """Take the rows of a frame out of what is expected, but for some others, of which that was done before."""
        offsets = self._layout.offsets
        kept = gather_rows(self.expected, offsets, others)
        message.code.add(self._layout, message.payload, message.rows, self.expected, -1.0)
        scatter_rows(kept, self.expected, offsets, others)


def overtaken(
    rows: npt.NDArray[np.int64], room: npt.NDArray[np.bool_], on_their_way: Iterable[Rows]
) -> Iterator[tuple[Rows, npt.NDArray[np.bool_]]]:
    """Frames on their way of which rows have arrived, and which of their rows, bool [k].

    Args:
        rows: that have arrived.
        room: bool [rows of the layout], all false; used meanwhile.
        on_their_way: the frames.
    """
    room[rows] = True
    for message in on_their_way:
        arrived = room[message.rows]
        if len(message.payload) and arrived.any():
            yield message, arrived
    room[rows] = False
