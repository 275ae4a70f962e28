"""Own writes (:mod:`~rowcast.training.proposal.own_writes`) in little memory: made from the frames that were sent."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rowcast.codecs import Codec
from rowcast.codecs.base import Bytes
from rowcast.rows import Layout
from rowcast.rows.kernels import gather_rows, scatter_rows
from rowcast.wire import Rows

__all__ = ["SentWrites"]

Vector = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class _Frame:
    """Rows that were sent: counted from 1, and their code."""

    number: int
    codec: Codec
    payload: Bytes
    rows: npt.NDArray[np.int32]

    @property
    def size(self) -> int:
        """Bytes that are kept for it: also where the payload is a part of a longer array."""
        whole = self.payload.base
        return (whole if isinstance(whole, np.ndarray) else self.payload).nbytes + self.rows.nbytes


class SentWrites:
    """What :class:`~rowcast.training.proposal.own_writes.OwnWrites` has, without a vector (algorithms.md 8.13).

    Frames are kept as they were sent, until all of their rows have come back: one bit an element instead of 32 where
    that is their code. The vector is made of the replica and them when it is asked for. It is the same, but for the
    rounding of float32 where a frame was lost.

    Args:
        layout, replica, on_their_way: as there.
        most_bytes: of frames that are kept; beyond that the oldest are forgotten, as if their rows had come back. What
            is delivered does not depend on it, only from where the next gradient is computed.

    Attributes:
        forgotten: so many frames were.
    """

    def __init__(
        self, layout: Layout, replica: Vector, on_their_way: Callable[[], Iterable[Rows]], most_bytes: int
    ) -> None:
        self.forgotten = 0
        self._layout = layout
        self._replica = replica
        self._on_their_way = on_their_way
        self._most_bytes = most_bytes
        self._count = 0
        self._frames: deque[_Frame] = deque()
        self._size = 0
        #: Of payloads: the number of the frame. One that is on its way is alive, so its entry is its own.
        self._numbers: dict[int, int] = {}
        #: Of each row: up to which frame the replica holds it.
        self._back = np.zeros(layout.rows, dtype=np.int64)

    @property
    def kept_bytes(self) -> int:
        """Bytes of the frames that are kept."""
        return self._size

    @property
    def expected(self) -> Vector:
        """The replica, less own contributions that have not come back; flat float32 [elements], made anew."""
        return self.expected_in(np.empty(self._layout.elements, dtype=np.float32))

    def expected_in(self, room: Vector) -> Vector:
        """The same, written into ``room``, flat float32 [elements], which is returned."""
        self._forget_returned()
        room[:] = self._replica
        offsets = self._layout.offsets
        for frame in self._frames:
            rows = frame.rows.astype(np.int64)
            back = rows[self._back[rows] >= frame.number]
            kept = gather_rows(room, offsets, back)
            frame.codec.add(self._layout, frame.payload, rows, room, -1.0)
            scatter_rows(kept, room, offsets, back)
        return room

    def restart(self) -> None:
        """Nothing is on its way, and the replica is the team's."""
        self._frames.clear()
        self._numbers.clear()
        self._size = 0

    def sent(self, codec: Codec, payload: Bytes, rows: npt.NDArray[np.int64]) -> None:
        """Rows are sent: what the payload holds is not pending any longer."""
        self._count += 1
        frame = _Frame(self._count, codec, payload, rows.astype(np.int32))
        self._frames.append(frame)
        self._numbers[id(payload)] = frame.number
        self._size += frame.size
        if self._size > self._most_bytes:
            self._make_room()

    def lost(self, codec: Codec, payload: Bytes, rows: npt.NDArray[np.int64]) -> None:
        """They were lost, and what the payload holds is pending again. The newest frame is lost first."""
        number = self._numbers.pop(id(payload), None)
        if number is not None and self._frames and self._frames[-1].number == number:
            self._size -= self._frames.pop().size

    def arrived(self, rows: npt.NDArray[np.int64], numbers: npt.NDArray[np.int64] | None = None) -> None:
        """``rows`` of the replica have moved: they hold all of this worker but what is on its way still."""
        self._back[rows] = self._oldest_on_its_way() - 1

    def _oldest_on_its_way(self) -> int:
        for message in self._on_their_way():
            if len(message.payload) and not message.absolute and id(message.payload) in self._numbers:
                return self._numbers[id(message.payload)]
        return self._count + 1

    def _make_room(self) -> None:
        """Forget what has come back, and where that is not enough the oldest, down to three quarters of the room."""
        self._forget_returned()
        while self._frames and self._size > 0.75 * self._most_bytes:
            self._drop(self._frames.popleft())
            self.forgotten += 1

    def _forget_returned(self) -> None:
        """Let go of frames of which every row has come back."""
        kept: deque[_Frame] = deque()
        for frame in self._frames:
            if (self._back[frame.rows] < frame.number).any():
                kept.append(frame)
            else:
                self._drop(frame)
        self._frames = kept

    def _drop(self, frame: _Frame) -> None:
        self._size -= frame.size
        if self._numbers.get(id(frame.payload)) == frame.number:
            del self._numbers[id(frame.payload)]
