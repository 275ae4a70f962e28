"""What the server says, and on which connections there is something to send."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from rowcast.session.link import Port
from rowcast.wire import Message

__all__ = ["Board"]


class Peer(Protocol):
    """Somebody with a connection, or without one at the moment."""

    @property
    def port(self) -> Port | None: ...


class Board:
    """Takes control messages for the connections of the server, and remembers which of them a driver must look at.

    Attributes:
        ready: connections on which something may be sent since the last :meth:`take`, the one woken first in front,
            so that a run repeats.
    """

    def __init__(self) -> None:
        self.ready: dict[Port, None] = {}

    def wake(self, port: Port) -> None:
        """Something may be sent on ``port``."""
        self.ready[port] = None

    def wake_all(self, peers: Iterable[Peer]) -> None:
        """Something may be sent to ``peers``, those of them that are connected."""
        for peer in peers:
            if peer.port is not None:
                self.ready[peer.port] = None

    def say(self, port: Port, message: Message) -> None:
        """Queue a control message."""
        port.say(message)
        self.ready[port] = None

    def refuse(self, port: Port, code: str, text: str) -> None:
        """Queue the reason, then close."""
        port.refuse(code, text)
        self.ready[port] = None

    def forget(self, port: Port) -> None:
        """The connection has ended."""
        self.ready.pop(port, None)

    def take(self) -> list[Port]:
        """The connections that are ready; they are ready no longer."""
        ready, self.ready = list(self.ready), {}
        return ready
