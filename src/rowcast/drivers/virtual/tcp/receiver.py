"""The receiving end of a TCP stream: what has arrived, in which order, and when that is acknowledged."""

from __future__ import annotations

import math

__all__ = ["Receiver"]

#: An acknowledgement waits for so long for data that it can travel with (s): as Linux has it; RFC 5681: half a second
#: at most. The second segment is acknowledged at once.
DELAYED_S = 0.04
#: Ranges that one acknowledgement can tell of, beside a time stamp (RFC 2018).
MOST_BLOCKS = 3


class Receiver:
    """Puts segments in order.

    Attributes:
        next: bytes of the stream that are there without a gap, and were handed over.
        ack_at: when an acknowledgement is due (s); ``inf``: none is; the past: at once.
    """

    __slots__ = ("_beyond", "_single", "ack_at", "next")

    def __init__(self) -> None:
        self.next = 0
        self.ack_at = math.inf
        self._single = False  # one segment is not acknowledged
        self._beyond: list[tuple[int, int]] = []  # ranges behind a gap, that with the newest segment first

    def segment(self, now: float, begin: int, end: int) -> None:
        """Bytes ``begin`` to ``end`` of the stream arrive."""
        if begin > self.next:
            self._put(begin, end)
            self.ack_at = now
            return
        # What came twice, or fills a gap, is told at once (RFC 5681, 4.2).
        at_once = bool(self._beyond) or end <= self.next
        self.next = max(self.next, end)
        if self._beyond:
            self._join()
        if at_once or self._single:
            self.ack_at = now
        else:
            self._single = True
            self.ack_at = now + DELAYED_S

    @property
    def blocks(self) -> tuple[tuple[int, int], ...]:
        """Ranges behind a gap that an acknowledgement tells of."""
        return tuple(self._beyond[:MOST_BLOCKS]) if self._beyond else ()

    def acknowledged(self) -> None:
        """An acknowledgement goes out."""
        self.ack_at = math.inf
        self._single = False

    def _put(self, begin: int, end: int) -> None:
        rest = []
        for one in self._beyond:
            if one[0] <= end and begin <= one[1]:
                begin, end = min(begin, one[0]), max(end, one[1])
            else:
                rest.append(one)
        self._beyond = [(begin, end), *rest]

    def _join(self) -> None:
        """What the bytes without a gap now reach belongs to them."""
        joined = True
        while joined:
            joined = False
            for one in self._beyond:
                if one[0] <= self.next:
                    self.next = max(self.next, one[1])
                    self._beyond.remove(one)
                    joined = True
                    break
