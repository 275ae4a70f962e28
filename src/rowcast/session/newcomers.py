"""Connections that are not members yet: handshakes under way, and workers whose turn has not come."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from rowcast.errors import RemoteProtocolError, visible
from rowcast.session.limits import StrangerLimits
from rowcast.session.link import Link
from rowcast.session.proof import MAX_NAME, ServerHandshake, expect_countable, is_name
from rowcast.session.seeding import ASKS, PROBES, WISHES, Seeding
from rowcast.session.states import Event, HostState
from rowcast.version import __version__
from rowcast.wire import Challenge, Echo, Hello, Probe, Proof
from rowcast.wire.asides import MAX_FILLING

__all__ = ["MOST_PROBES", "MOST_PROBE_BYTES", "Newcomers"]

#: Who measures the link may ask so often on a connection, and have so many bytes carried, both ways together.
MOST_PROBES, MOST_PROBE_BYTES = 8192, 64 << 20


class Newcomers:
    """Who has connected and is not let in yet.

    Args:
        life: 16 bytes that name this life of the server.
        secret: the team's shared secret, or ``None``.
        entropy: source of random bytes.
        door: the limits for strangers.

    Attributes:
        queue: workers that introduced themselves and wait until it is decided who brings the parameters, or until that
            worker has sent them.
    """

    def __init__(
        self, life: bytes, secret: bytes | None, entropy: Callable[[int], bytes], door: StrangerLimits
    ) -> None:
        self.queue: dict[Link, Hello] = {}
        self._life, self._secret, self._entropy = life, secret, entropy
        self._door = door
        self._handshakes: dict[Link, ServerHandshake] = {}
        self._probes: dict[Link, tuple[int, int]] = {}

    def refuses(self, now: float, link: Link) -> tuple[str, str] | None:
        """Why a new connection is to be closed at once; see :meth:`StrangerLimits.refuses`."""
        return None if link.address is None else self._door.refuses(now, link.address, self.strangers())

    def enter(self, link: Link) -> Challenge:
        """A connection came; returns what it is asked."""
        self._handshakes[link] = ServerHandshake(self._life, self._secret, self._entropy)
        return self._handshakes[link].challenge

    def wait(self, link: Link, hello: Hello) -> None:
        """A worker that has introduced itself waits until it is let in."""
        link.conversation.move(Event.QUEUED)
        self.queue[link] = hello

    def leave(self, link: Link) -> None:
        """It is gone, or a member now."""
        self._handshakes.pop(link, None)
        self._probes.pop(link, None)
        self.queue.pop(link, None)

    def lost(self, now: float, link: Link) -> bool:
        """The connection ended; whether it was a stranger's to the end."""
        stranger = self.is_stranger(link) and not link.introduced
        if stranger and link.address is not None:
            self._door.failed(now, link.address)
        self.leave(link)
        return stranger

    def strangers(self) -> list[Link]:
        """Connections that have not introduced themselves."""
        return [link for link in self._handshakes if link.conversation.state is HostState.STRANGER]

    def links(self) -> list[Link]:
        """All connections that are no members'. They are sent heartbeats: so each side notices what got lost."""
        return list(self._handshakes)

    def is_stranger(self, link: Link) -> bool:
        """Whether a connection has not introduced itself."""
        return link in self._handshakes and link.conversation.state is HostState.STRANGER

    def is_brief(self, link: Link) -> bool:
        """Whether a connection is closed after a while whatever comes: a stranger's, or one that measures the link."""
        return self.is_stranger(link) or link in self._probes

    def wake_at(self, link: Link, handshake_limit_s: float, heartbeat_s: float) -> float | None:
        """When a connection must be looked at (s), or ``None`` where it is no newcomer's."""
        if link not in self._handshakes:
            return None
        due = link.spoke_at + heartbeat_s
        return min(due, link.opened_at + handshake_limit_s) if self.is_brief(link) else due

    def refusal(self, now: float, link: Link, hello: Hello) -> tuple[str, str] | None:
        """Why who says this is not let in, for who it is or how often it comes: code and sentence, or ``None``."""
        if not self._handshakes[link].accepts(hello, link.channel):
            return "secret", "the worker's proof does not fit the server's shared secret; give both the same"
        if link.identity == "":
            return "certificate", "its certificate is not that of a robot; make one with 'rowcast team add NAME'"
        if link.identity is not None and hello.name != link.identity:
            return (
                "certificate",
                f"its certificate is that of {link.identity!r}, and it says that it is {visible(hello.name, 60)!r}; "
                f"join under the name of the certificate, or make another one with 'rowcast team add'",
            )
        if self._door.too_often(now, hello.name):
            return "often", "it was let in too often in the last minute (setting joins_per_minute); come back later"
        return None

    def let_in(self, now: float, link: Link, name: str) -> None:
        """It is a member now."""
        self._door.joined(now, name)
        self.leave(link)

    def check_form(self, hello: Hello) -> None:
        """Check what a hello says.

        Raises:
            RemoteProtocolError: it is not well-formed.
        """
        if not is_name(hello.name) or len(hello.session) != 16:
            raise RemoteProtocolError(f"hello: expected a printable name of 1 .. {MAX_NAME} characters and a session")
        if hello.wish == ASKS:
            raise RemoteProtocolError(
                "hello: this server trains a team and answers no inferences; start one with 'rowcast split serve'"
            )
        if hello.wish not in (*WISHES, PROBES) or len(hello.training) not in (0, 16):
            raise RemoteProtocolError("hello: expected a known wish and a training of 16 bytes or none")
        expect_countable(hello.trained)

    def prove(self, link: Link, hello: Hello) -> Proof | None:
        """The server's proof for a worker whose hello was right; ``None`` where none is needed (any longer)."""
        return self._handshakes[link].prove(hello, link.channel)

    def begin_probes(self, now: float, link: Link, name: str) -> None:
        """Who has introduced itself measures the link; it is no member, and none of its name is disturbed."""
        link.conversation.move(Event.PROBED)
        link.introduced = link.decoder.trusted = True
        self._door.joined(now, name)
        self._probes[link] = 0, 0

    def echo(self, link: Link, probe: Probe) -> Echo:
        """The answer to a probe.

        Raises:
            RemoteProtocolError: there were too many on this connection, or too large ones.
        """
        count, size = self._probes[link]
        count, size = count + 1, size + len(probe.filling) + probe.wanted
        if probe.wanted > MAX_FILLING:
            raise RemoteProtocolError(f"expected a probe that wants at most {MAX_FILLING} bytes, got {probe.wanted}")
        if count > MOST_PROBES or size > MOST_PROBE_BYTES:
            raise RemoteProtocolError(
                f"expected at most {MOST_PROBES} probes and {MOST_PROBE_BYTES} bytes on a connection, got {count} and "
                f"{size}"
            )
        self._probes[link] = count, size
        return Echo(probe.number, bytes(probe.wanted), __version__)

    def next_in_queue(self) -> tuple[Link, Hello] | None:
        """Take the worker that is chosen first to bring the parameters; of equals, the one that has waited longest."""
        if not self.queue:
            return None
        link = max(self.queue, key=lambda link: Seeding.rank(self.queue[link]))
        return link, self.queue.pop(link)

    def in_turn(self) -> Iterator[tuple[Link, Hello]]:
        """Take all, in the order in which :meth:`next_in_queue` does; who leaves meanwhile is left out."""
        while self.queue:
            for link in sorted(self.queue, key=lambda link: Seeding.rank(self.queue[link]), reverse=True):
                hello = self.queue.pop(link, None)
                if hello is not None:
                    yield link, hello

    def trained(self) -> int:
        """How many workers of the queue have trained."""
        return sum(bool(hello.training) for hello in self.queue.values())
