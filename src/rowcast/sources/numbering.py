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
import struct

from rowcast.errors import ConfigError, DataError

__all__ = ["LIVES", "Arrival", "Numbers", "number_payload", "payload_number"]

_NUMBER = struct.Struct(">Q")
#: Messages of a life; lives are one fewer: eight bytes of 255 are no number.
LIVES = 1 << 32
_NO_LIFE = b"\xff\xff\xff\xff"
#: Most messages that can be under way at a time.
IN_FLIGHT = 1 << 16
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
    RESTARTED = "restarted"


class Numbers:
    """What has come of one producer.

    Args:
        position: behind what counts as delivered; ``None``: the first number that comes is the first.

    Attributes:
        position: behind the newest.
    """

    __slots__ = ("_prints", "_seen", "position")

    def __init__(self, position: int | None = None) -> None:
        self.position = position
        self._seen: list[int] = [-1] * REMEMBERED
        self._prints: list[int] = [0] * REMEMBERED

    def arrived(self, number: int, data: bytes) -> tuple[Arrival, int]:
        """Take in a message.

        Args:
            number: its number.
            data: all of it.

        Returns:
            what it is; and how many messages are missing in front of it. At the start of a life those that are missing
            at the end of the one before are not known.
        """
        slot = number % REMEMBERED
        if self.position is None or number >= self.position:
            expected = number if self.position is None else max(self.position, number - number % LIVES)
            self._seen[slot], self._prints[slot] = number, hash(data)
            self.position = number + 1
            return Arrival.NEW, number - expected
        if self._seen[slot] == number:
            same = self._prints[slot] == hash(data)
        else:
            same = self.position - number <= IN_FLIGHT
        return (Arrival.DOUBLED if same else Arrival.RESTARTED), 0
