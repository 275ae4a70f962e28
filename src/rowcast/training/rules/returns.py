"""What a relay or a worker below one is told of its own rows: which of them are in the rows that it is sent.

A server counts the frames of those to whom it says this, in one count (*stamps*). Rows that it sends hold all frames up
to a stamp: that of the moment at which they were *encoded*, which may be long before they are sent where they come out
of a log that all read (:mod:`rowcast.delivery.shared_log`).
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from rowcast.delivery.shared_log import SharedLog
from rowcast.training.member import Member
from rowcast.wire import Message, Returned, Rows

__all__ = ["Applied", "Counter", "Returning", "Returns"]

#: So many frames of a worker are remembered; of older ones all have come back.
MOST_FRAMES = 1024
#: What a lag of this means, and of more: nothing of the row has come back.
NOTHING = 255

Stamps = npt.NDArray[np.int64]


class Returns:
    """The frames of one member, with the stamps that they were given.

    Args:
        first: number of the next frame of the member.
    """

    def __init__(self, first: int) -> None:
        self._first = first
        self._stamps: list[int] = []

    @property
    def newest(self) -> int:
        """Number of the newest frame of the member."""
        return self._first + len(self._stamps) - 1

    def taken(self, number: int, stamp: int) -> None:
        """A frame of the member has come, with this stamp."""
        while self._first + len(self._stamps) < number:  # frames without rows of the model have none
            self._stamps.append(stamp)
        self._stamps.append(stamp)
        if len(self._stamps) > MOST_FRAMES:
            half = MOST_FRAMES // 2
            self._first += half
            del self._stamps[:half]

    def told(self, stamps: Stamps) -> Returned:
        """What rows hold of this member that hold all frames up to these stamps, int64 [k]."""
        numbers = self._first - 1 + np.searchsorted(np.array(self._stamps, dtype=np.int64), stamps, side="right")
        newest = int(numbers.max(initial=0))
        lags = np.minimum(newest - numbers, NOTHING).astype(np.uint8)
        return Returned(newest, lags.tobytes() if lags.any() else b"")


class Counter(Protocol):
    """Counts frames, and knows which of them rows hold that are encoded now.

    Attributes:
        stamp: of the newest frame.
    """

    stamp: int

    def taken(self, rows: Stamps) -> None:
        """A frame has come; ``rows``: of which there is something in it."""

    def stamps(self, rows: Stamps) -> Stamps:
        """Up to which stamp what is here holds all of ``rows``, int64 [k]."""


class Applied:
    """Counts the frames of relays at a server that adds what comes to its parameters at once; a :class:`Counter`."""

    def __init__(self) -> None:
        self.stamp = 0

    def taken(self, rows: Stamps) -> None:
        """A frame has come."""
        self.stamp += 1

    def stamps(self, rows: Stamps) -> Stamps:
        """All that has come is here."""
        return np.full(len(rows), self.stamp, dtype=np.int64)


class Returning:
    """Says before rows what they hold of the frames of the member to whom they are sent.

    Args:
        counter: stamps the frames; ``None``: nobody asks what has come back.
        to_all: it is said to everybody, of all rows: at a relay, whose acknowledgement says nothing of the parameters.
            Otherwise only a relay is told, and only of rows that do not hold all that was acknowledged to it before
            them: it takes any others for such that do.
    """

    def __init__(self, counter: Counter | None, *, to_all: bool = False) -> None:
        self.counter = counter
        self._to_all = to_all
        self._returns: dict[str, Returns] = {}
        self._next: dict[str, Rows] = {}  # rows that were chosen, and are said before they are sent

    def taken(self, member: Member, message: Rows, stream: SharedLog | None) -> None:
        """A frame of ``member`` is about to be added to what anybody is owed.

        Args:
            stream: the log that all members read, if there is one.
        """
        counter = self.counter
        if counter is None or not (self._to_all or member.below):
            return
        if stream is not None and stream.holds is None:
            stream.holds = counter.stamps  # what is in the log by now holds no frame that anybody is told of
        counter.taken(message.rows if len(message.payload) else message.rows[:0])
        found = self._returns.get(member.name)
        if found is None:
            found = self._returns[member.name] = Returns(message.number)
        found.taken(message.number, counter.stamp)

    def before(self, member: Member, message: Message | None) -> Message | None:
        """What ``member`` is sent next: ``message``, or what is said before it; then :meth:`take_next` has it."""
        returns, counter = self._returns.get(member.name), self.counter
        if returns is None or counter is None or type(message) is not Rows or message.absolute:
            return message
        held = member.owed.newest_holds()
        if held is None:
            if not self._to_all:
                return message
            held = counter.stamps(message.rows)
        told = returns.told(held)
        if not self._to_all and told.number == returns.newest and not told.lags:
            return message
        self._next[member.name] = message
        return told

    def take_next(self, member: Member) -> Rows | None:
        """The rows of which it was said what is in them: nothing comes in between, whatever ``member`` does now."""
        return self._next.pop(member.name, None) if self._next else None

    def link_lost(self, member: Member) -> None:
        """What was chosen is not sent on this link any more."""
        self._next.pop(member.name, None)

    def forget(self, member: Member) -> None:
        """``member`` has left; the numbers of its frames begin again when it comes back."""
        self._returns.pop(member.name, None)
        self._next.pop(member.name, None)
