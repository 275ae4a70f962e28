"""The backlog of a peer where rows are streamed: a row is due when it has changed since it was sent.

Its stamps tell how old what the peer holds is. The server knows for each row how far everybody's contribution has come
(the *floor*). A row that is sent now contains all contributions up to its floor; when another one is added, the peer
lacks everything behind that floor, however long ago the row was sent.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rowcast.codecs import Codec
from rowcast.delivery import plain
from rowcast.delivery.backlog import MAX_STAMP, NO_ROWS, Backlog
from rowcast.rows import Layout
from rowcast.rows.compiling import without_numba
from rowcast.rows.kernels import compiled_serial
from rowcast.wire import Rows

__all__ = ["Floored"]

Stamps = npt.NDArray[np.int32]


class Floored(Backlog):
    """A vector with error feedback, of rows that are streamed.

    ``stamps`` mean something where a row has changed: up to which iteration the peer holds everybody's contributions
    to it.

    Args:
        layout, vector: see :class:`~rowcast.delivery.backlog.Backlog`.
        floor: int32 [rows], up to which iteration everybody's contribution to each row is here. It is the server's,
            one array for all of its backlogs; it is read here and never written.
    """

    def __init__(self, layout: Layout, vector: npt.NDArray[np.float32], floor: npt.NDArray[np.int32]) -> None:
        self.floor = floor
        self._held_to = np.zeros(layout.rows, dtype=np.int32)
        self._flags = np.zeros(layout.rows, dtype=np.bool_)
        super().__init__(layout, vector, self._held_to, self._flags)
        self._lacking: int | None = MAX_STAMP  # None: not known

    @property
    def changed(self) -> npt.NDArray[np.bool_]:
        """bool [rows]: something was added to these rows since they were last sent. Up to date."""
        self.catch_up()
        return self._flags

    # -- what the peer lacks -----------------------------------------------------------------------------------

    def lacking(self) -> int:
        """The oldest stamp of the rows that have changed; :data:`MAX_STAMP` when none has."""
        self.catch_up()
        if self._lacking is None:
            self._lacking = _oldest_changed(self._held_to, self._flags)
        return self._lacking

    def horizon(self, floor: int) -> int:
        """Up to which iteration the peer holds everybody's contributions, once all that was sent has arrived.

        Args:
            floor: the lowest of the floor.
        """
        return min(floor, self.lacking())

    def touch(self, rows: npt.NDArray[np.int64], floor: npt.NDArray[np.int32] | None = None) -> None:
        """A contribution to ``rows`` is about to be added, and the floor about to rise: the peer lacks it.

        Up to now it lacked nothing of a row that had not changed since it was sent, however long ago that was.

        Args:
            floor: int32 [k], the floor of ``rows`` before it rises; ``None``: it has not risen yet.
        """
        self.catch_up()
        oldest = _touch(rows, self.floor[rows] if floor is None else floor, self._held_to, self._flags)
        self.measured = False
        self.noted(oldest)

    def take_in(self, codec: Codec, message: Rows, floor: npt.NDArray[np.int32] | None) -> None:
        if floor is not None:
            self.touch(message.rows, floor)
        super().take_in(codec, message, floor)

    def noted(self, oldest: int) -> None:
        if self._lacking is not None:
            self._lacking = min(self._lacking, oldest)

    def absorb(self, other: Floored) -> None:
        """The peer lacks what ``other`` holds as well, whatever its age: all of it is sent before the peer goes."""
        self.vector += other.vector
        self.measured = False

    def clear(self) -> None:
        """The peer lacks nothing: no row has changed."""
        self.changed[:] = False
        self.abs_sums[:] = 0
        self.measured = False
        self._lacking = MAX_STAMP

    # -- what is due, and what is sent -------------------------------------------------------------------------

    def is_due(self, iteration: int) -> npt.NDArray[np.bool_]:
        return self._flags

    def travelled(self, due: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
        """A row that has changed is sent again, in the same iteration too."""
        return NO_ROWS

    def held(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
        """The stamps; :data:`MAX_STAMP` for rows that had not changed."""
        return _held(rows, self._held_to, self._flags)

    def mark_sent(self, rows: npt.NDArray[np.int64], iteration: int) -> None:
        _mark_sent(rows, self.floor, self._held_to, self._flags)
        self._lacking = None

    def mark_lost(self, rows: npt.NDArray[np.int64], before: npt.NDArray[np.int32]) -> None:
        lacked = before < MAX_STAMP
        rows, before = rows[lacked], before[lacked]
        oldest = np.minimum(self._held_to[rows], before)
        self._held_to[rows] = np.where(self._flags[rows], oldest, before)
        self._flags[rows] = True
        self._lacking = None

    def renumber(self, iteration: int) -> None:
        """Nothing depends on how the peer counts: the floor is the team's."""


@compiled_serial
@without_numba(plain.oldest_changed)
def _oldest_changed(held_to: Stamps, changed: npt.NDArray[np.bool_]) -> int:
    """The oldest stamp of the rows that have changed; :data:`MAX_STAMP` when none has."""
    oldest = MAX_STAMP
    for i in range(len(changed)):
        if changed[i]:
            oldest = min(oldest, held_to[i])
    return oldest


@compiled_serial
@without_numba(plain.touch)
def _touch(rows: npt.NDArray[np.int64], floor: Stamps, held_to: Stamps, changed: npt.NDArray[np.bool_]) -> int:
    """``rows`` have changed; those that had not get their ``floor``, int32 [k], as stamp. Returns the oldest stamp."""
    oldest = MAX_STAMP
    for k in range(len(rows)):
        i = rows[k]
        if not changed[i]:
            held_to[i] = floor[k]
            changed[i] = True
        oldest = min(oldest, held_to[i])
    return oldest


@compiled_serial
@without_numba(plain.held)
def _held(rows: npt.NDArray[np.int64], held_to: Stamps, changed: npt.NDArray[np.bool_]) -> Stamps:
    """The stamps of ``rows``, int32 [k]; :data:`MAX_STAMP` for those that have not changed."""
    stamps = np.empty(len(rows), dtype=np.int32)
    for k in range(len(rows)):
        stamps[k] = held_to[rows[k]] if changed[rows[k]] else MAX_STAMP
    return stamps


@compiled_serial
@without_numba(plain.mark_sent)
def _mark_sent(rows: npt.NDArray[np.int64], floor: Stamps, held_to: Stamps, changed: npt.NDArray[np.bool_]) -> None:
    """The peer holds ``rows`` up to their floor."""
    for i in rows:
        held_to[i] = floor[i]
        changed[i] = False
