"""What a relay tells a worker of its own rows: which of them are in the rows that it is sent."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rowcast.wire import Returned

__all__ = ["Returns"]

#: So many frames of a worker are remembered; of older ones all have come back.
MOST_FRAMES = 1024
#: What a lag of this means, and of more: nothing of the row has come back.
NOTHING = 255


class Returns:
    """The frames of one worker, with the stamps that the relay gave them; see :mod:`rowcast.training.relay.passage`.

    Args:
        first: number of the next frame of the worker.
    """

    def __init__(self, first: int) -> None:
        self._first = first
        self._stamps: list[int] = []

    def taken(self, number: int, stamp: int) -> None:
        """A frame of the worker has come, with this stamp."""
        while self._first + len(self._stamps) < number:  # frames without rows of the model have none
            self._stamps.append(stamp)
        self._stamps.append(stamp)
        if len(self._stamps) > MOST_FRAMES:
            half = MOST_FRAMES // 2
            self._first += half
            del self._stamps[:half]

    def told(self, stamps: npt.NDArray[np.int64]) -> Returned:
        """What rows hold of this worker that hold all frames up to these stamps, int64 [k]."""
        numbers = self._first - 1 + np.searchsorted(np.array(self._stamps, dtype=np.int64), stamps, side="right")
        newest = int(numbers.max(initial=0))
        lags = np.minimum(newest - numbers, NOTHING).astype(np.uint8)
        return Returned(newest, lags.tobytes() if lags.any() else b"")
