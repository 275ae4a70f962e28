"""What frames and their acknowledgements spend on the way, from the two clocks at its ends.

A frame that is sent at ``s`` by the sender's clock arrives at ``a`` by the receiver's, and its acknowledgement is heard
at ``n`` by the sender's. The clocks are not compared: their offset is unknown, and is in ``a - s`` and, with the other
sign, in ``n - a``. But it is the same for all frames, so that what a frame or an acknowledgement took beyond the
shortest one is known exactly: the time that it spent in queues (as in LEDBAT, RFC 6817).
"""

from __future__ import annotations

import math
from collections import deque
from statistics import median

__all__ = ["Shortest", "Transit"]

#: The shortest of so many seconds counts, at least, and of twice as many, at most: clocks drift apart, by 20 parts in a
#: million as a rule, and paths change.
MEMORY_S = 30.0
#: Acknowledgements are as late as the middle one of so many: one that was held up alone says nothing of a queue. No
#: later than the second number (s): a link that carried nothing meanwhile would be sent as much as if it had, and what
#: comes after that, the next iteration's rows first, would wait behind it.
LATE, MOST_LATE_S = 5, 0.1


class Shortest:
    """The smallest value of the last :data:`MEMORY_S` to twice as many seconds, and a note that came with it."""

    def __init__(self) -> None:
        self._since = -math.inf
        self._now: tuple[float, int] | None = None
        self._before: tuple[float, int] | None = None

    def put(self, now: float, value: float, note: int = 0) -> None:
        """``value`` was seen at ``now`` (s)."""
        if now - self._since > MEMORY_S:
            self._before = self._now if now - self._since <= 2 * MEMORY_S else None
            self._now, self._since = None, now
        if self._now is None or value < self._now[0]:
            self._now = value, note

    def get(self) -> tuple[float, int] | None:
        """The value and its note; ``None`` before the first."""
        if self._before is None or (self._now is not None and self._now[0] <= self._before[0]):
            return self._now
        return self._before


class Transit:
    """The way of frames to a peer, and that of acknowledgements back.

    Attributes:
        late_s: what acknowledgements wait on their way lately, beyond the shortest (s).
    """

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """The link is another one, or the peer's clock."""
        self.late_s = 0.0
        self._out, self._back = Shortest(), Shortest()
        self._late: deque[float] = deque(maxlen=LATE)

    def heard(self, now: float, sent_at: float, arrived: float, size: int) -> float:
        """A frame of ``size`` bytes, sent at ``sent_at``, arrived at ``arrived``, which was heard at ``now`` (s).

        Returns:
            What its acknowledgement waited on its way (s).
        """
        self._out.put(now, arrived - sent_at, size)
        self._back.put(now, now - arrived)
        shortest = self._back.get()
        assert shortest is not None
        late_s = now - arrived - shortest[0]
        self._late.append(late_s)
        self.late_s = min(median(self._late), MOST_LATE_S) if len(self._late) == LATE else 0.0
        return late_s

    def reaches_s(self, sent_at: float, byte_s: float) -> float | None:
        """When the first byte of a frame can have reached the peer, by the peer's clock (s); ``None``: unknown.

        Args:
            sent_at: when it was sent (s).
            byte_s: what a byte takes on the link at its best (s): the frame that was the shortest time on its way took
                that for each of its bytes, too. Infinite: unknown.
        """
        out, back = self._out.get(), self._back.get()
        if out is None or back is None:
            return None
        # However slow the link is: what an acknowledgement took, it did not take less than no time.
        return sent_at + max(out[0] - out[1] * byte_s, -back[0])
