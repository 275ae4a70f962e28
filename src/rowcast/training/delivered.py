"""Which of its iterations a worker has delivered: every row of them is acknowledged."""

from __future__ import annotations

from collections import deque

from rowcast.delivery.outbox import Outbox
from rowcast.delivery.residual import Residual

__all__ = ["Delivered"]


class Delivered:
    """Follows the iterations of a worker from the training loop to the server.

    They are counted from 1 in the order in which the loop finished them, whatever numbers the team gives them. A row of
    an iteration has arrived once the row was sent in this iteration or a later one, or announced as empty, and the
    frame is acknowledged. What a lossy code has left of it is pending still; it is not counted as missing.

    Args:
        outbox: sends the rows.
        residual: where they come from.

    Attributes:
        residual: see above; another one where it is held in another form from now on.
        finished: iterations that the loop has finished.
    """

    def __init__(self, outbox: Outbox, residual: Residual) -> None:
        self.finished = 0
        self.residual = residual
        self._outbox = outbox
        self._numbering = outbox.numbering
        self._open: deque[tuple[int, int]] = deque()  # own count, the team's number
        self._delivered = 0

    def finish(self, iteration: int) -> None:
        """The loop has finished ``iteration``, in the team's count."""
        self._follow()
        self.finished += 1
        self._open.append((self.finished, iteration))

    def restore(self, finished: int, iteration: int) -> None:
        """So many were finished in another life, the last one as ``iteration`` in the team's count."""
        self.finished, self._delivered = finished, max(finished - 1, 0)
        self._open = deque([(finished, iteration)])

    def all_arrived(self) -> None:
        """Nothing is pending: the server said so."""
        self._open.clear()
        self._delivered = self.finished

    def newest(self) -> int:
        """The newest iteration that is delivered, and with it all before; 0: none."""
        self._follow()
        if self._open and (arrived := self._arrived()) >= self._open[0][1]:
            while self._open and self._open[0][1] <= arrived:
                self._delivered, _ = self._open.popleft()
        return self._delivered

    def _arrived(self) -> int:
        """The iteration, in the team's count, up to which every row was sent and acknowledged."""
        return min(int(self.residual.stamps.min()), self._outbox.horizon_in_flight(0))

    def _follow(self) -> None:
        """Where rows count as sent in another iteration since, sent or not, all has to be sent after that one."""
        if self._numbering != self._outbox.numbering:
            self._numbering = self._outbox.numbering
            _, iteration = self._numbering
            self._open = deque((own, iteration + 1) for own, _ in self._open)
