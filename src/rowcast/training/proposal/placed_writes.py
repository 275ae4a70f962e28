"""Own writes (:mod:`~rowcast.training.proposal.own_writes`) where the vectors do not lie in host memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt

from rowcast.codecs import Codec
from rowcast.codecs.base import Bytes
from rowcast.delivery.placed import PlacedVector
from rowcast.rows import Layout
from rowcast.training.proposal.own_writes import overtaken
from rowcast.wire import Rows

__all__ = ["PlacedWrites"]

Vector = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]


class PlacedWrites:
    """The replica, moved by this worker's own rows that were sent and have not come back (algorithms.md 8.3).

    Args:
        layout: the model's rows.
        replica: which others move.
        vector: becomes what is expected; in the same home.
        on_their_way: the frames of rows that were sent and not acknowledged.

    Attributes:
        vector: see above.
    """

    def __init__(
        self,
        layout: Layout,
        replica: PlacedVector,
        vector: PlacedVector,
        on_their_way: Callable[[], Iterable[Rows]],
    ) -> None:
        self.vector = vector
        self._replica = replica
        self._on_their_way = on_their_way
        self._all = np.arange(layout.rows, dtype=np.int64)
        self._arrived = np.zeros(layout.rows, dtype=np.bool_)

    @property
    def expected(self) -> Vector:
        """The expected parameters, flat float32 [elements]; a copy in host memory."""
        return self.vector[:]

    def expected_in(self, room: Vector) -> Vector:
        """The same; ``room`` is not needed for them."""
        return self.expected

    def restart(self) -> None:
        """Nothing is on its way, and the replica is the team's."""
        self.vector.take_rows(self._replica, self._all)

    def sent(self, codec: Codec, payload: Bytes, rows: IntArray) -> None:
        """Rows are sent: what the payload holds is not pending any longer."""
        self.vector.add(codec, payload, rows, -1.0)

    def lost(self, codec: Codec, payload: Bytes, rows: IntArray) -> None:
        """They were lost: what the payload holds is pending again."""
        self.vector.add(codec, payload, rows, 1.0)

    def arrived(self, rows: IntArray, numbers: IntArray | None = None) -> None:
        """``rows`` of the replica have moved."""
        self.vector.take_rows(self._replica, rows)
        for message, arrived in overtaken(rows, self._arrived, self._on_their_way()):
            self.vector.add(message.code, message.payload, message.rows, -1.0, arrived)
