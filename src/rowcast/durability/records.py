"""What a server heard, as records: everything that its state depends on.

A node is a deterministic state machine: from the same state, the same inputs in the same order lead to the same state
and the same outputs. So what went out need not be kept; of each message only a checksum is, which tells that what is
computed again is what was sent. A record takes 7 to 25 bytes beside the bytes that arrived.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from rowcast.errors import StateDamaged

__all__ = [
    "Arrived",
    "Blamed",
    "Closed",
    "Dialled",
    "Expelled",
    "Failed",
    "Farewell",
    "Forgot",
    "Heard",
    "Led",
    "Listened",
    "Opened",
    "Polled",
    "Record",
    "Secured",
    "Shared",
    "Stopped",
    "Swept",
    "Ticked",
    "Told",
    "Unanswered",
    "Woken",
    "decode",
    "encode",
]


class Record(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One input."""


class Timed(Record, frozen=True, gc=False):
    """An input with its time.

    Attributes:
        now: the time (s).
        drawn: random bytes that the node asked for while it handled it, one behind the other.
    """

    now: float
    drawn: bytes


class Listened(Timed, tag=1, frozen=True, gc=False):
    """The server began to listen."""


class Opened(Timed, tag=2, frozen=True, gc=False):
    """Somebody connected; ``about`` are the attributes of the link that the driver set."""

    link: int
    about: dict[str, str | bool | None]


class Closed(Timed, tag=3, frozen=True, gc=False):
    """A connection ended."""

    link: int
    cause: str


class Arrived(Timed, tag=4, frozen=True, gc=False):
    """Bytes arrived."""

    link: int
    data: bytes


class Heard(Timed, tag=14, frozen=True, gc=False):
    """Bytes arrived of which nothing can be read yet; ``here``, ``announced``: of a record of TLS that is not whole."""

    link: int
    here: int
    announced: int


class Secured(Timed, tag=15, frozen=True, gc=False):
    """TLS stands; the attributes of the link that follow from it."""

    link: int
    channel: bytes
    identity: str | None


class Blamed(Timed, tag=16, frozen=True, gc=False):
    """The driver found that what arrived cannot be read: class and text of the error."""

    link: int
    error: str
    text: str


class Polled(Timed, tag=5, frozen=True, gc=False):
    """The driver asked what to send; ``check`` is the checksum of the answer, 0 where there was none."""

    link: int
    check: int


class Swept(Record, tag=6, frozen=True, gc=False):
    """The driver asked to whom something may be sent."""


class Woken(Record, tag=7, frozen=True, gc=False):
    """The driver asked when to wake the node."""


class Ticked(Timed, tag=8, frozen=True, gc=False):
    """Time passed."""


class Told(Timed, tag=9, frozen=True, gc=False):
    """The driver reported trouble of its own."""

    kind: str
    text: str


class Farewell(Record, tag=10, frozen=True, gc=False):
    """The driver said goodbye to a connection."""

    link: int
    cause: str


class Expelled(Timed, tag=19, frozen=True, gc=False):
    """The right of who is at a connection to be there was taken back."""

    link: int
    cause: str


class Stopped(Timed, tag=11, frozen=True, gc=False):
    """The server stopped."""


class Forgot(Timed, tag=12, frozen=True, gc=False):
    """A worker was forgotten, because what it was sent is not known."""

    name: str
    cause: str


class Led(Timed, tag=17, frozen=True, gc=False):
    """From here on the team is led so; see :class:`rowcast.session.voter.Tenure`."""

    term: int
    team: bytes
    leader: bytes
    follower: bytes
    standby: str


class Shared(Record, tag=18, frozen=True, gc=False):
    """The standby has more of the log: of the members as they were once, only the last so many sets count."""

    kept: int


class Dialled(Timed, tag=20, frozen=True, gc=False):
    """At a relay: the driver tries to connect to the server above."""

    address: str


class Unanswered(Timed, tag=21, frozen=True, gc=False):
    """At a relay: that came to nothing."""

    cause: str


class Failed(Record, tag=13, frozen=True, gc=False):
    """The input before this one ended in a fault of the server, of this class."""

    error: str


Any = (
    Listened
    | Opened
    | Closed
    | Arrived
    | Polled
    | Swept
    | Woken
    | Ticked
    | Told
    | Farewell
    | Stopped
    | Forgot
    | Failed
    | Heard
    | Secured
    | Blamed
    | Led
    | Shared
    | Expelled
    | Dialled
    | Unanswered
)

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Any)
_LENGTH = 4


def encode(record: Record) -> bytes:
    """A record, with its length before it."""
    data = _encoder.encode(record)
    return len(data).to_bytes(_LENGTH, "little") + data


def decode(groups: Iterable[bytes | memoryview]) -> Iterator[Record]:
    """The records of groups that were committed, each group a number of whole records.

    Raises:
        StateDamaged: bytes that are no records, although their checksum was right.
    """
    for group in groups:
        view, place = memoryview(group), 0
        while place < len(view):
            end = place + _LENGTH + int.from_bytes(view[place : place + _LENGTH], "little")
            try:
                if end > len(view):
                    raise ValueError("it ends in the middle of a record")
                yield _decoder.decode(view[place + _LENGTH : end])
            except (ValueError, msgspec.MsgspecError) as error:
                raise StateDamaged(f"log: expected records of a server, got others: {error}") from error
            place = end
