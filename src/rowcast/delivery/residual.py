"""The backlog of a peer where rows travel in pushes and pulls: stamps tell in which iteration each row was last sent.

A worker has one, of what it has computed and not sent; the server has one for each worker. A row is due once in each
iteration.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from rowcast.codecs import Codec, codec_by_id
from rowcast.codecs.base import Bytes
from rowcast.delivery.backlog import Backlog
from rowcast.rows import Layout
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
        follower: is told of each frame, if there is one.
    """

    def __init__(self, layout: Layout, vector: npt.NDArray[np.float32]) -> None:
        self._sent_in = np.zeros(layout.rows, dtype=np.int32)
        self.follower: Sent | None = None
        super().__init__(layout, vector, self._sent_in, np.zeros(0, dtype=np.bool_))

    def take(self, rows: npt.NDArray[np.int64], codec: Codec, iteration: int) -> tuple[Bytes, npt.NDArray[np.int32]]:
        payload, before = super().take(rows, codec, iteration)
        if self.follower is not None and len(payload):
            self.follower.sent(codec, payload, rows)
        return payload, before

    def put_back(self, message: Rows, before: npt.NDArray[np.int32], place: int = -1) -> None:
        super().put_back(message, before, place)
        if self.follower is not None and len(message.payload):
            self.follower.lost(codec_by_id(message.codec), message.payload, message.rows)

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
