"""The upper end of a relay in virtual time: to the engine of the server above, a node that connects."""

from __future__ import annotations

import math
from typing import Protocol

from rowcast.drivers.nodes import HostNode
from rowcast.errors import LinkLost, LocalProtocolError, RemoteProtocolError, RowcastError
from rowcast.session import Link
from rowcast.training import WorkerState
from rowcast.training.relay import RelayNode
from rowcast.wire import Message

__all__ = ["MessageUplink", "RelayEngine", "RelayHost", "Uplink"]


class RelayHost(HostNode, Protocol):
    """What the connections of a relay have to do with: its node, or what notes the inputs of that."""

    def connecting(self, now: float, address: str) -> None: ...

    def connect_failed(self, now: float, cause: str) -> None: ...


class RelayEngine(Protocol):
    """The engine of a relay, as its upper end needs it."""

    @property
    def relay(self) -> RelayNode:
        """The node."""

    @property
    def relay_host(self) -> RelayHost:
        """What is told of the connection to the server above."""

    @property
    def dead(self) -> bool:
        """The relay is gone, and hears nothing."""


class Uplink:
    """A relay as the engine of the server above sees it: a node that connects, and computes nothing.

    It has what an :class:`~rowcast.drivers.virtual.engine.Engine` asks of a node; whoever builds on the engine carries
    what is said. Timers are the relay's own, except the moment at which it connects.

    Args:
        engine: of the relay.

    Attributes:
        link: the connection that stands, as the relay sees it; ``None``: there is none.
    """

    notices: list[str]
    standby = ""
    state = WorkerState.JOINING  # the engine has nothing to compute for it

    def __init__(self, engine: RelayEngine) -> None:
        self._engine = engine
        self.notices = []
        self.link: Link | None = None

    @property
    def name(self) -> str:
        """Of the relay."""
        return self._engine.relay.name

    @property
    def over(self) -> bool:
        """Nothing more comes from above."""
        return self._engine.relay.over

    @property
    def failure(self) -> RowcastError | None:
        """Why the relay cannot go on, or ``None``."""
        return self._engine.relay.failure

    @property
    def connect_at(self) -> float | None:
        """When it is to be connected (s); ``None``: it is not to."""
        return self._engine.relay.connect_at

    def connecting(self, now: float, address: str) -> None:
        """An attempt to connect begins."""
        self._engine.relay_host.connecting(now, address)

    def connect_failed(self, now: float, cause: str) -> None:
        """The attempt came to nothing."""
        self._engine.relay_host.connect_failed(now, cause)

    def link_up(self, now: float, link: Link) -> None:
        """A connection is made."""
        link.upward, self.link = True, link
        self._engine.relay_host.link_up(now, link)

    def link_down(self, now: float, cause: str) -> None:
        """The connection has ended."""
        link, self.link = self.link, None
        if link is not None and not self._engine.dead:
            self._engine.relay_host.link_down(now, link, cause)

    def blame(self, now: float, error: RemoteProtocolError) -> str:
        """What came from above was not right; returns what to say of it."""
        self._engine.relay_host.blame(now, self._connected(), error)
        return str(error)

    def next_wake(self, before: float = math.inf) -> float | None:
        """When to look at it (s), if that is before ``before``."""
        due = self.connect_at
        return due if due is not None and due < before else None

    def on_timer(self, now: float) -> None:
        """The relay has timers of its own."""

    def _connected(self) -> Link:
        if self.link is None:
            raise LocalProtocolError(f"relay {self.name}: expected a connection to the server above, got none")
        return self.link


class MessageUplink(Uplink):
    """The same for an engine that carries messages in place of bytes."""

    def heard(self, now: float) -> None:
        """Something has come from above: :meth:`receive` tells the relay."""

    def receive(self, now: float, message: Message) -> None:
        """Take in a message from above.

        Raises:
            LinkLost: the connection is to be closed.
            RowcastError: as :meth:`rowcast.training.relay.RelayNode.receive`.
        """
        link = self._connected()
        self._engine.relay.receive(now, link, message)
        cause = self._engine.relay_host.arrived(now, link, 0)  # no bytes: what follows from the message
        if cause is not None:
            raise LinkLost(cause)

    def poll(self, now: float) -> Message | None:
        """The next message to the server above; ``None``: there is none now."""
        return self._engine.relay_host.poll(now, self._connected())
