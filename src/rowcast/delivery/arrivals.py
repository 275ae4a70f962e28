"""Updates that have arrived and are not yet part of each member's backlog.

Every member lacks every update. Adding it to all backlogs when it arrives costs a call for each, which a large team
feels: with 200 workers that finish together, a server did nothing else for half a minute. So an update is decoded once
and noted here, and a member's backlog takes it in when somebody looks at it: all that came since, in the order
in which it came, in one call. The sums are the same to the bit.

What is noted is short: when it outgrows a fraction of a model, all backlogs take it in.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from rowcast.codecs import Codec
from rowcast.rows import Layout
from rowcast.rows.kernels import count_elements
from rowcast.rows.notes import NO_FLOOR, note, replay
from rowcast.wire import Rows

__all__ = ["LARGE_ELEMENTS", "Arrivals", "Share", "decode", "decode_small"]

#: An update of more elements is added to everybody at once: beside the work, calls cost nothing, and most codes decode
#: faster than decoded rows can be read.
LARGE_ELEMENTS = 1 << 16
#: Elements that are noted at most: the larger of LARGE_ELEMENTS and a part of the model, but no more than so many.
_MOST_ELEMENTS = 1 << 20
_PART = 1 / 8
_MOST_ROWS = 1 << 16


class Share(Protocol):
    """What a member lacks, as far as it is known here.

    Attributes:
        place: it is up to date with what was noted before this place.
        limit: what belongs to a later iteration is left out for now.
    """

    place: int
    limit: int

    def catch_up(self) -> None:
        """Take in all that was noted."""

    def take_in(self, codec: Codec, message: Rows, floor: npt.NDArray[np.int32] | None) -> None:
        """Take in one update, now."""


class Arrivals:
    """Notes updates for all backlogs.

    Args:
        layout: the model's rows.

    Attributes:
        head: the next place.
    """

    def __init__(self, layout: Layout) -> None:
        self.head = 0
        self._layout = layout
        self._base = 0
        self._most = min(max(int(layout.elements * _PART), LARGE_ELEMENTS), _MOST_ELEMENTS)
        self._rows = np.zeros(64, dtype=np.int64)
        self._starts = np.zeros(64, dtype=np.int64)  # of the values of each row; -1: it has none
        self._floors = np.zeros(64, dtype=np.int32)  # as in `touch`; -1: nothing is lacked that was not
        self._iterations = np.zeros(64, dtype=np.int64)
        self._values = np.zeros(4096, dtype=np.float32)
        self._used = 0
        self._shares: dict[str, Share] = {}
        self._order: dict[str, int] = {}
        self._joined = 0
        self._current: dict[str, None] = {}
        self._touched: npt.NDArray[np.int32] | None = None

    # -- whose shares ------------------------------------------------------------------------------------------

    def join(self, name: str, share: Share) -> None:
        """``share`` lacks what comes from now on."""
        self._joined += 1
        self._shares[name] = share
        self._order[name] = self._joined
        share.place = self.head
        self._current[name] = None

    def leave(self, name: str) -> None:
        """Whoever is called ``name`` lacks nothing that comes from now on."""
        share = self._shares.pop(name, None)
        if share is not None:
            share.catch_up()
            del self._order[name]
            self._current.pop(name, None)

    def current(self) -> list[str]:
        """Names of those for whom nothing was noted since they last caught up, the oldest member first.

        Everybody else has something to take in.
        """
        return sorted(self._current, key=self._order.__getitem__)

    def caught_up(self, name: str) -> None:
        """The share of ``name`` is up to date."""
        self._current[name] = None

    # -- what arrives ------------------------------------------------------------------------------------------

    def touch(self, floor: npt.NDArray[np.int32]) -> None:
        """The next update is one that every member lacks, where rows are streamed (:meth:`Floored.touch`).

        Args:
            floor: int32 [k], how far everybody's contribution to its rows has come without it.
        """
        self._touched = floor

    def add(self, codec: Codec, message: Rows, values: npt.NDArray[np.float32] | None) -> None:
        """An update has arrived.

        Args:
            codec, message: the update.
            values: its rows decoded, one behind the other; ``None`` when it is empty, or large.
        """
        floor, self._touched = self._touched, None
        if not self._shares:
            return
        if values is None and len(message.payload) and not self._layout.is_timing_only:
            self._flush()
            for share in self._shares.values():
                if message.iteration <= share.limit:
                    share.take_in(codec, message, floor)
            return
        if values is None and floor is None:
            return
        count, size = len(message.rows), 0 if values is None else len(values)
        if len(self._current) == len(self._shares):
            self._clear()
        elif self._noted + count > _MOST_ROWS or self._used + size > self._most:
            self._flush()
        self._note(message, values, floor)

    @property
    def _noted(self) -> int:
        return self.head - self._base

    def _note(self, message: Rows, values: npt.NDArray[np.float32] | None, floor: npt.NDArray[np.int32] | None) -> None:
        place, end = self._noted, self._noted + len(message.rows)
        if end > len(self._rows):
            self._rows, self._starts, self._floors, self._iterations = (
                _longer(array, end) for array in (self._rows, self._starts, self._floors, self._iterations)
            )
        start = -1
        if values is not None:
            start, self._used = self._used, self._used + len(values)
            if self._used > len(self._values):
                self._values = _longer(self._values, self._used)
            self._values[start : self._used] = values
        notes = self._rows, self._starts, self._floors, self._iterations
        floors = NO_FLOOR if floor is None else floor
        note(notes, place, message.rows, start, self._layout.offsets, floors, message.iteration)
        self.head += len(message.rows)
        self._current.clear()

    def _flush(self) -> None:
        """Bring everybody up to date; nothing is noted any longer."""
        for name, share in self._shares.items():
            if name not in self._current:
                share.catch_up()
        self._clear()

    def _clear(self) -> None:
        self._base, self._used = self.head, 0

    # -- what is taken in --------------------------------------------------------------------------------------

    def replay(
        self,
        place: int,
        limit: int,
        vector: npt.NDArray[np.float32],
        stamps: npt.NDArray[np.int32],
        changed: npt.NDArray[np.bool_],
    ) -> int:
        """Add all that was noted from ``place`` on.

        Args:
            place: where to begin.
            limit: what belongs to a later iteration is left out.
            vector: flat float32, what is lacked.
            stamps, changed: see :class:`~rowcast.delivery.floored.Floored`; ``changed`` is empty where rows are not
                streamed.

        Returns:
            The oldest stamp of the rows that are lacked now, among these.
        """
        notes = self._rows, self._starts, self._floors, self._iterations
        span = place - self._base, self._noted
        return replay(vector, self._layout.offsets, self._values, notes, span, limit, stamps, changed)


def decode_small(layout: Layout, codec: Codec, message: Rows) -> npt.NDArray[np.float32] | None:
    """The rows of an update, one behind the other; ``None`` when there is nothing in them, or very much."""
    if len(message.payload) == 0 or layout.is_timing_only:
        return None
    if count_elements(layout.offsets, message.rows) > LARGE_ELEMENTS:
        return None
    return decode(layout, codec, message)


def decode(layout: Layout, codec: Codec, message: Rows) -> npt.NDArray[np.float32]:
    """The rows of an update that has content, one behind the other."""
    part = layout.only(message.rows)
    values = part.zeros()
    codec.add(part, message.payload, np.arange(part.rows, dtype=np.int64), values, 1.0)
    return values


def _longer(array: np.ndarray, needed: int) -> np.ndarray:
    longer = np.zeros(max(needed, 2 * len(array)), dtype=array.dtype)
    longer[: len(array)] = array
    return longer
