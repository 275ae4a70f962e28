"""What of the rows of those below has been to the root and come back, at a relay."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rowcast.codecs import Codec
from rowcast.codecs.base import Bytes

__all__ = ["Passage"]

Stamps = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class _Sent:
    """A frame that went up: its number, its rows, and the newest frame from below that they hold."""

    number: int
    rows: Stamps
    stamp: int


class Passage:
    """Counts the frames from below, in one count (*stamps*), and follows them up and down again.

    Rows that are sent up hold all that has come from below. What comes from above of a row holds what was sent of it in
    frames that the server above has acknowledged by then; or, where that is a relay as well, what it says.

    Args:
        rows: of the layout.
        next_number: of the next frame that goes up.

    Attributes:
        stamp: of the newest frame from below.
    """

    def __init__(self, rows: int, next_number: Callable[[], int]) -> None:
        self.stamp = 0
        self._next_number = next_number
        self._sent: deque[_Sent] = deque()
        self._touched = np.zeros(rows, dtype=np.int64)  # the newest frame from below with something of each row
        self._back = np.zeros(rows, dtype=np.int64)  # the newest frame up that what is here of each row holds
        self._held = np.zeros(rows, dtype=np.int64)  # the newest frame from below that it holds

    def taken(self, rows: Stamps) -> None:
        """A frame has come from below; ``rows``: of which there is something in it."""
        self.stamp += 1
        self._touched[rows] = self.stamp

    # -- as the backlog's follower (rowcast.delivery.residual.Sent) ------------------------------------------------

    def sent(self, codec: Codec, payload: Bytes, rows: Stamps) -> None:
        """Rows are sent up."""
        self._sent.append(_Sent(self._next_number(), rows, self.stamp))

    def lost(self, codec: Codec, payload: Bytes, rows: Stamps) -> None:
        """They have not arrived; the newest frame is lost first."""
        if self._sent:
            self._sent.pop()

    # -- what comes back -------------------------------------------------------------------------------------------

    def restart(self) -> None:
        """The parameters are those of the server above, and its numbers begin again: all that went up is in them."""
        self._sent.clear()
        self._back[:] = 0
        self._held[:] = self.stamp

    def arrived(self, rows: Stamps, numbers: Stamps | int) -> None:
        """Rows have come from above, which hold what was sent up in frames up to these numbers, int64 [k]."""
        self._back[rows] = np.maximum(self._back[rows], numbers)
        kept: deque[_Sent] = deque()
        for frame in self._sent:
            back = self._back[frame.rows] >= frame.number
            if back.any():
                some = frame.rows[back]
                self._held[some] = np.maximum(self._held[some], frame.stamp)
            if not back.all():
                kept.append(frame)
        self._sent = kept

    def stamps(self, rows: Stamps) -> Stamps:
        """Up to which frame from below what is here holds all of ``rows``, int64 [k]."""
        held = self._held[rows]
        return np.where(held >= self._touched[rows], self.stamp, held)
