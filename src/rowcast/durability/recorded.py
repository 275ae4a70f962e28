"""A server that survives its own death: each input is noted before anything that follows from it leaves the machine.

:class:`RecordedServer` stands between a driver and a :class:`~rowcast.training.ServerNode`. It gives every input to the
node and appends it to a log (:mod:`~rowcast.durability.records`). What the node answers must not leave before the log
is committed up to :attr:`RecordedServer.position`: the driver sees to that. Then whatever anybody has ever been told,
acknowledgements among it, follows from inputs that will be there.

:mod:`~rowcast.durability.recovery` builds the server again: the state of a snapshot, and behind it the inputs that the
log has.

The method is state machine replication with output commit (Schneider 1990; Elnozahy et al. 2002, section 2.4).
"""

from __future__ import annotations

import contextlib
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from typing import Protocol

from rowcast.durability import records
from rowcast.durability.records import Record, Timed
from rowcast.durability.state import State, capture
from rowcast.errors import LocalProtocolError, RowcastError, StateDamaged
from rowcast.session import Link
from rowcast.session.voter import Tenure
from rowcast.training import ServerNode
from rowcast.training.relay import RelayNode
from rowcast.wire import Message, Rows
from rowcast.wire.fields import Control, pack

__all__ = ["OF_A_LINK", "Appendix", "Drawn", "RecordedServer", "check_of", "externals_of", "roster_of"]

#: What a driver sets of a link before it gives it to the node.
OF_A_LINK = ("peer", "congestion_control", "shaped_by", "address", "secured", "upward")

_SWEPT, _WOKEN = records.Swept(), records.Woken()


class Appendix(Protocol):
    """Where records are appended; the log of a driver."""

    def append(self, record: bytes, *, waits: bool = False) -> int:
        """Append a record; returns its position, which rises. One that ``waits`` is committed with the next one."""


class Drawn:
    """Random bytes for a node, and which of them were drawn since the last look.

    Args:
        source: where they come from.
    """

    def __init__(self, source: Callable[[int], bytes]) -> None:
        self._source = source
        self._given: bytes | None = None
        self._drawn = bytearray()

    def __call__(self, count: int) -> bytes:
        if self._given is None:
            drawn = self._source(count)
        else:
            drawn, self._given = self._given[:count], self._given[count:]
            if len(drawn) < count:
                raise StateDamaged("log: expected the random bytes that were drawn, got fewer")
        self._drawn += drawn
        return drawn

    def take(self) -> bytes:
        """What was drawn since the last call."""
        drawn, self._drawn = bytes(self._drawn), bytearray()
        return drawn

    def give(self, drawn: bytes | None) -> None:
        """What is drawn next is this; ``None``: it comes from the source again."""
        self._given = drawn


def check_of(message: Message | None) -> int:
    """A checksum of a message; 0 for none."""
    if message is None:
        return 0
    if isinstance(message, Rows):
        head = f"{message.number},{message.iteration},{message.codec},{message.absolute},{message.quota_end}"
        check = zlib.crc32(message.payload.data, zlib.crc32(message.rows.data, zlib.crc32(head.encode())))
    else:
        assert isinstance(message, Control)
        check = zlib.crc32(pack(message), message.KIND)
    return check or 1


class RecordedServer:
    """A server node whose inputs are noted; to a driver it is a node like any other.

    Args:
        node: the server.
        log: where inputs are appended.
        drawn: the node's source of random bytes.
        links: the connections of the node that stand, by their numbers in the log.
        count: connections that there were, all together.

    Attributes:
        node: the server.
        position: of the newest record in the log.
        rosters: what a snapshot says of the members, see :class:`rowcast.durability.leadership.Leadership`.
        on_roster: called with the position and the sessions of all members whenever these have changed, with the
            input that changed them.
    """

    def __init__(
        self, node: ServerNode, log: Appendix, drawn: Drawn, *, links: dict[int, Link] | None = None, count: int = 0
    ) -> None:
        self.node = node
        self.position = 0
        self._log = log
        self._drawn = drawn
        self._numbers = {link: number for number, link in (links or {}).items()}
        self._count = count
        self._roster = roster_of(node)
        self.rosters: Callable[[], list[frozenset[bytes]]] = lambda: [frozenset(roster_of(self.node))]
        self.on_roster: Callable[[int, frozenset[bytes]], None] | None = None
        drawn.take()

    @property
    def has_secret(self) -> bool:
        """Workers must prove that they know a secret."""
        return self.node.has_secret

    @property
    def notices(self) -> deque[str]:
        """Sentences for the user."""
        return self.node.notices

    # -- inputs: see ServerNode for each ---------------------------------------------------------------------------

    def _append(self, record: Record, *, waits: bool = False) -> None:
        self.position = self._log.append(records.encode(record), waits=waits)
        if self.on_roster is not None:
            roster = roster_of(self.node)
            if roster != self._roster:
                self._roster = roster
                self.on_roster(self.position, frozenset(roster))

    def _note(self, kind: type[Timed], now: float, *content: object) -> None:
        self._append(kind(now, self._drawn.take(), *content))

    @contextlib.contextmanager
    def _noting(self, kind: type[Timed], now: float, *content: object) -> Iterator[None]:
        """Note an input behind what it led to: random bytes among it, and a fault of the node."""
        try:
            yield
        except Exception as error:
            self._note(kind, now, *content)
            self._append(records.Failed(type(error).__name__))
            raise
        self._note(kind, now, *content)

    def listen(self, now: float) -> None:
        with self._noting(records.Listened, now):
            self.node.listen(now)

    def stop(self, now: float) -> None:
        with self._noting(records.Stopped, now):
            self.node.stop(now)

    def link_up(self, now: float, link: Link) -> None:
        self._count += 1
        number, about = self._count, {name: getattr(link, name) for name in OF_A_LINK}
        with self._noting(records.Opened, now, number, about):
            self.node.link_up(now, link)
        self._numbers[link] = number

    def link_down(self, now: float, link: Link, cause: str) -> None:
        with self._noting(records.Closed, now, self._numbers.pop(link), cause):
            self.node.link_down(now, link, cause)

    def arrived(self, now: float, link: Link, count: int) -> str | None:
        with self._noting(records.Arrived, now, self._numbers[link], bytes(link.decoder.newest(count))):
            return self.node.arrived(now, link, count)

    def heard(self, now: float, link: Link, begun: tuple[int, int] = (0, 0)) -> None:
        with self._noting(records.Heard, now, self._numbers[link], *begun):
            self.node.heard(now, link, begun)

    def secured(self, now: float, link: Link, channel: bytes, identity: str | None) -> None:
        with self._noting(records.Secured, now, self._numbers[link], channel, identity):
            self.node.secured(now, link, channel, identity)

    def blame(self, now: float, link: Link, error: RowcastError) -> None:
        with self._noting(records.Blamed, now, self._numbers[link], type(error).__name__, str(error)):
            self.node.blame(now, link, error)

    def poll(self, now: float, link: Link) -> Message | None:
        try:
            message = self.node.poll(now, link)
        except Exception as error:
            self._note(records.Polled, now, self._numbers[link], 0)
            self._append(records.Failed(type(error).__name__))
            raise
        record = records.Polled(now, self._drawn.take(), self._numbers[link], check_of(message))
        self._append(record, waits=message is None)
        return message

    def farewell(self, link: Link, cause: str) -> None:
        self._append(records.Farewell(self._numbers[link], cause))
        self.node.farewell(link, cause)

    def expel(self, now: float, link: Link, cause: str) -> None:
        with self._noting(records.Expelled, now, self._numbers[link], cause):
            self.node.expel(now, link, cause)

    # -- a relay: see rowcast.training.relay.RelayNode -------------------------------------------------------------

    @property
    def relay(self) -> RelayNode:
        """The node, which is that of a relay."""
        if not isinstance(self.node, RelayNode):
            raise LocalProtocolError("log: expected a relay, got a server that is below none")
        return self.node

    @property
    def connect_at(self) -> float | None:
        """When the driver is to try to connect to the server above (s); ``None``: it is not to."""
        return self.relay.connect_at

    def connecting(self, now: float, address: str) -> None:
        with self._noting(records.Dialled, now, address):
            self.relay.connecting(now, address)

    def connect_failed(self, now: float, cause: str) -> None:
        with self._noting(records.Unanswered, now, cause):
            self.relay.connect_failed(now, cause)

    def trouble(self, now: float, kind: str, text: str) -> None:
        with self._noting(records.Told, now, kind, text):
            self.node.trouble(now, kind, text)

    def forget(self, now: float, name: str, cause: str) -> None:
        with self._noting(records.Forgot, now, name, cause):
            self.node.forget(now, name, cause)

    def lead(self, now: float, tenure: Tenure) -> None:
        """See :meth:`rowcast.training.ServerNode.lead`."""
        about = tenure.term, tenure.team, tenure.leader, tenure.follower, tenure.standby
        with self._noting(records.Led, now, *about):
            self.node.lead(now, tenure)

    def shared(self, kept: int) -> None:
        """The standby has more of the log; see :class:`~rowcast.durability.records.Shared`."""
        self._append(records.Shared(kept), waits=True)

    def take_ready(self) -> list[Link]:
        self._append(_SWEPT, waits=True)
        return self.node.take_ready()

    def next_wake(self) -> float | None:
        self._append(_WOKEN, waits=True)
        return self.node.next_wake()

    def on_timer(self, now: float) -> list[tuple[Link, str]]:
        with self._noting(records.Ticked, now):
            return self.node.on_timer(now)

    # -- a snapshot ------------------------------------------------------------------------------------------------

    def capture(self, now: float) -> State:
        """The state as it is now; the records from the next one on go behind it."""
        node = self.node
        root = {
            "node": node,
            "links": {number: link for link, number in self._numbers.items()},
            "count": self._count,
            "now": now,
            "rosters": self.rosters(),
            "unsure": [],
        }
        return capture(root, externals_of(node, self._drawn))


def roster_of(node: ServerNode) -> list[bytes]:
    """The sessions of all members."""
    return [member.session for member in node.members.values()]


def externals_of(node: ServerNode, drawn: Drawn) -> dict[str, object]:
    """What is no part of the state of a server, by the names that stand for it there."""
    return {"journal": node.journal, "drawn": drawn, "secret": node.secret}
