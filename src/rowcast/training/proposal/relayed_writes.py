"""Own writes (:mod:`~rowcast.training.proposal.own_writes`) of a worker below a relay: they return from the root."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rowcast.codecs import Codec
from rowcast.codecs.base import Bytes
from rowcast.rows import Layout
from rowcast.rows.kernels import gather_rows, scatter_rows

__all__ = ["RelayedWrites"]

Vector = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class _Frame:
    """Rows that were sent, under the number that they have on the wire."""

    number: int
    codec: Codec
    payload: Bytes
    rows: npt.NDArray[np.int32]


class RelayedWrites:
    """The replica, moved by own rows that were sent and have not been to the root and back.

    A relay acknowledges rows before they are in any parameters, and tells of each row that it sends what of this
    worker's own is in it (:class:`rowcast.wire.Returned`). Frames are kept as they were sent until all of their rows
    are back.

    Args:
        layout: the model's rows.
        replica: flat float32 [elements], which others move.
        next_number: of the next frame of rows.
    """

    def __init__(self, layout: Layout, replica: Vector, next_number: Callable[[], int]) -> None:
        self._layout = layout
        self._replica = replica
        self._next_number = next_number
        self._frames: deque[_Frame] = deque()
        self._back = np.zeros(layout.rows, dtype=np.int64)  # the newest own frame that the replica holds of each row

    @property
    def expected(self) -> Vector:
        """The replica, less own contributions that have not come back; flat float32 [elements], made anew."""
        return self.expected_in(np.empty(self._layout.elements, dtype=np.float32))

    def expected_in(self, room: Vector) -> Vector:
        """The same, written into ``room``, flat float32 [elements], which is returned."""
        room[:] = self._replica
        self._add(room, -1.0)
        return room

    def away(self) -> Vector:
        """Own contributions that were sent and have not come back, flat float32 [elements]."""
        room = self._layout.zeros()
        self._add(room, 1.0)
        return room

    def _add(self, room: Vector, sign: float) -> None:
        offsets = self._layout.offsets
        for frame in self._frames:
            rows = frame.rows.astype(np.int64)
            back = rows[self._back[rows] >= frame.number]
            kept = gather_rows(room, offsets, back)
            frame.codec.add(self._layout, frame.payload, rows, room, sign)
            scatter_rows(kept, room, offsets, back)

    def restart(self) -> None:
        """Nothing is on its way, the replica is the team's, and numbers begin again."""
        self._frames.clear()
        self._back[:] = 0

    def sent(self, codec: Codec, payload: Bytes, rows: npt.NDArray[np.int64]) -> None:
        """Rows are sent: what the payload holds is not pending any longer."""
        self._frames.append(_Frame(self._next_number(), codec, payload, rows.astype(np.int32)))

    def lost(self, codec: Codec, payload: Bytes, rows: npt.NDArray[np.int64]) -> None:
        """They were lost, and what the payload holds is pending again. The newest frame is lost first."""
        if self._frames and self._frames[-1].payload is payload:
            self._frames.pop()

    def arrived(self, rows: npt.NDArray[np.int64], numbers: npt.NDArray[np.int64] | None = None) -> None:
        """``rows`` of the replica have moved; they hold own frames up to ``numbers``, int64 [k], if that was told."""
        if numbers is None:
            return
        self._back[rows] = np.maximum(self._back[rows], numbers)
        self._frames = deque(one for one in self._frames if (self._back[one.rows] < one.number).any())
