"""What the server says, and on which connections there is something to send."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from rowcast.session.link import Link
from rowcast.wire import Message

__all__ = ["Notifier"]


class Peer(Protocol):
    """Somebody with a connection, or without one at the moment."""

    @property
    def link(self) -> Link | None: ...


class Notifier:
    """Takes control messages for the connections of the server, and remembers which of them a driver must look at.

    Attributes:
        ready: connections on which something may be sent since the last :meth:`take`, the one woken first in front,
            so that a run repeats.
    """

    def __init__(self) -> None:
        self.ready: dict[Link, None] = {}

    def wake(self, link: Link) -> None:
        """Something may be sent on ``link``."""
        self.ready[link] = None

    def wake_all(self, peers: Iterable[Peer]) -> None:
        """Something may be sent to ``peers``, those of them that are connected."""
        for peer in peers:
            if peer.link is not None:
                self.ready[peer.link] = None

    def say(self, link: Link, message: Message) -> None:
        """Queue a control message."""
        link.say(message)
        self.ready[link] = None

    def refuse(self, link: Link, code: str, text: str) -> None:
        """Queue the reason, then close."""
        link.refuse(code, text)
        self.ready[link] = None

    def forget(self, link: Link) -> None:
        """The connection has ended."""
        self.ready.pop(link, None)

    def take(self) -> list[Link]:
        """The connections that are ready; they are ready no longer."""
        if not self.ready:
            return []
        ready, self.ready = list(self.ready), {}
        return ready
