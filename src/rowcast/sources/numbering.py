"""Numbers in front of messages: what was delivered twice, what is missing, who has begun anew.

A broker of MQTT delivers at least once, and keeps no positions. So a producer puts eight bytes in front of each
message, big endian: 4 bytes of a *life*, 4 bytes of a count from 0. The life grows each time the producer starts: a
number of the boot, or the seconds since 1970. Both together are the number of the message. It only grows, also over
restarts of the producer, and the position behind a message is its number + 1.

A producer that starts again with the life that it had sends numbers that were there before. They are told from
messages that are delivered again: those have the same bytes, and neither side of MQTT can send again what lies more
than 65,535 messages back (it knows a message in flight by 16 bits).
"""

from __future__ import annotations

import enum
import heapq
import struct
from typing import Generic, TypeVar

from rowcast.errors import ConfigError, DataError

__all__ = ["LIVES", "Arrival", "Numbers", "number_payload", "payload_number"]

Item = TypeVar("Item")
_NUMBER = struct.Struct(">Q")
#: Messages of a life; lives are one fewer: eight bytes of 255 are no number.
LIVES = 1 << 32
_NO_LIFE = b"\xff\xff\xff\xff"
#: Most messages that can be under way at a time.
IN_FLIGHT = 1 << 16
#: Most stretches of numbers that are remembered as given up.
GIVEN_UP = 64
#: Messages of a topic whose bytes are compared when they come again.
REMEMBERED = 1 << 10


def number_payload(count: int, payload: bytes, life: int = 0) -> bytes:
    """A message with its number, for producers.

    Args:
        count: of the message in this life of the producer, from 0.
        payload: the message.
        life: larger at each start of the producer, as ``int(time.time())`` is.

    Raises:
        ConfigError: the count is not from 0 to 4294967295, or the life not from 0 to 4294967294.

    >>> payload_number(number_payload(7, b"abc", life=2))
    (8589934599, b'abc')
    """
    if not (0 <= count < LIVES and 0 <= life < LIVES - 1):
        raise ConfigError(
            f"number of a message: expected a count and a life of 0 or more, below {LIVES} and {LIVES - 1}, got "
            f"{count} and {life}"
        )
    return _NUMBER.pack(life * LIVES + count) + payload


def payload_number(data: bytes) -> tuple[int, bytes]:
    """Number and payload of a message; the reverse of :func:`number_payload`.

    Raises:
        DataError: it has none.
    """
    if len(data) < _NUMBER.size or data.startswith(_NO_LIFE):
        raise DataError(
            f"expected 8 bytes of a number in front of the message, got {bytes(data[:8])!r} of {len(data)} bytes"
        )
    return _NUMBER.unpack_from(data)[0], data[_NUMBER.size :]


class Arrival(enum.Enum):
    """What a message is, by its number."""

    NEW = "new"
    DOUBLED = "doubled"
    LATE = "late"
    RESTARTED = "restarted"


class Numbers(Generic[Item]):
    """Puts what comes of one producer into the order of its numbers.

    A client that connects again may send what is new before what it still has from before, so a number that is left
    out can come later. What is behind it is held until then, or until :meth:`give_up`.

    Args:
        position: behind what counts as delivered; ``None``: the first number that comes is the first.

    Attributes:
        position: of the next number that is to be delivered.
        since_s: when something came last that was left out before; since then nothing has moved.
    """

    __slots__ = ("_begin", "_gone", "_held", "_newest", "_order", "_prints", "_seen", "position", "since_s")

    def __init__(self, position: int | None = None) -> None:
        self.position = position
        self.since_s = 0.0
        self._begin = 0  # the first that came, where nothing was known before
        self._newest = -1
        self._held: dict[int, Item] = {}
        self._order: list[int] = []  # a heap of the numbers that are held
        self._gone: list[tuple[int, int]] = []  # numbers that were given up, the newest of such
        self._seen: list[int] = [-1] * REMEMBERED
        self._prints: list[int] = [0] * REMEMBERED

    @property
    def holds(self) -> bool:
        """Whether something is held, since what is before it has not come."""
        return bool(self._held)

    def arrived(self, now: float, number: int, data: bytes, item: Item) -> Arrival:
        """Take in a message.

        Args:
            now: seconds that only grow.
            number: its number.
            data: all of it.
            item: what :meth:`ready` gives, if it is new.
        """
        if self.position is None:
            self.position = self._begin = number
        slot = number % REMEMBERED
        if number >= self.position and number not in self._held:
            self._seen[slot], self._prints[slot] = number, hash(data)
            if number < self._newest or not self._held:
                self.since_s = now
            self._newest = max(number, self._newest)
            self._held[number] = item
            heapq.heappush(self._order, number)
            return Arrival.NEW
        if self._seen[slot] == number:
            return Arrival.DOUBLED if self._prints[slot] == hash(data) else Arrival.RESTARTED
        if number < self.position and self.position - number > IN_FLIGHT:
            return Arrival.RESTARTED
        late = number < self._begin or any(low <= number < high for low, high in self._gone)
        return Arrival.LATE if late else Arrival.DOUBLED

    def ready(self) -> list[Item]:
        """What is next, in order. A new life begins where the one before was; how long that was is not known."""
        found: list[Item] = []
        while self._order and (self._order[0] == self.position or self._order[0] % LIVES == 0):
            number = heapq.heappop(self._order)
            self.position = number + 1
            found.append(self._held.pop(number))
        return found

    def give_up(self) -> int:
        """No longer wait for what is before the first that is held: how many numbers that is, of the life of that."""
        if not self._order:
            return 0
        first = self._order[0]
        begin = max(self.position or 0, first - first % LIVES)
        self._gone = [*self._gone[1 - GIVEN_UP :], (begin, first)]
        self.position = first
        return first - begin
