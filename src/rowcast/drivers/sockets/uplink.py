"""The connection of a relay to the server above, over TCP."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Protocol

from rowcast.config import LinkSettings
from rowcast.drivers.sockets.addresses import Addresses, in_words
from rowcast.drivers.sockets.connection import Connection
from rowcast.drivers.sockets.endpoint import Endpoint
from rowcast.drivers.sockets.owner import Owner
from rowcast.drivers.sockets.tcp import tuned
from rowcast.errors import ConfigError, RemoteProtocolError
from rowcast.session import Link
from rowcast.wire import Message

if TYPE_CHECKING:
    from rowcast.drivers.sockets.tls import Channel

__all__ = ["Dials", "Uplink"]

#: An attempt to connect that takes longer has failed (s); where there is another address, after so long.
ATTEMPT_LIMIT_S, OTHER_LIMIT_S = 10.0, 3.0


class Dials(Protocol):
    """The part of a relay node that has to do with the server above."""

    @property
    def connect_at(self) -> float | None:
        """When the driver is to try to connect (s); ``None``: it is not to."""

    def connecting(self, now: float, address: str) -> None: ...

    def connect_failed(self, now: float, cause: str) -> None: ...

    def link_up(self, now: float, link: Link) -> None: ...

    def secured(self, now: float, link: Link, channel: bytes, identity: str | None) -> None: ...


class Below(Owner, Protocol):
    """The server of the relay: all its connections report to it, and what leaves it waits for its log."""

    def now(self) -> float:
        """The node's time (s)."""

    def taken(self, connection: Connection) -> None:
        """A connection is one of the server's from now on."""


class Uplink(Owner):
    """Connects a relay to the server above, again and again, as its node says.

    Args:
        server: the relay's.
        node: what notes the inputs of the relay's node, or the node itself.
        name: of the relay.
        endpoint: the server above.
        link_settings: see :mod:`rowcast.config`.
    """

    def __init__(self, server: Below, node: Dials, name: str, endpoint: Endpoint, link_settings: LinkSettings) -> None:
        self._server = server
        self._node = node
        self._endpoint = endpoint
        self._tls = endpoint.security.guest(name)
        self._addresses = Addresses([(endpoint.host, endpoint.port), *endpoint.others])
        self._link_settings = link_settings
        self._connection: Connection | None = None
        self._attempt: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    # -- when to connect -----------------------------------------------------------------------------------------

    def attend(self) -> None:
        """The node has heard what there was: connect if it is time, or set a timer for that."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._closed or self._connection is not None or self._attempt is not None:
            return
        due, loop = self._node.connect_at, asyncio.get_running_loop()
        if due is None:
            return
        wait_s = due - self._server.now()
        if wait_s > 0:
            self._timer = loop.call_later(wait_s, self.attend)
            return
        self._attempt = loop.create_task(self._connect())

    async def close(self) -> None:
        """Connect no more; a connection that stands is closed by the server."""
        self._closed = True
        self.attend()
        if self._attempt is not None:
            self._attempt.cancel()
            await asyncio.gather(self._attempt, return_exceptions=True)

    async def _connect(self) -> None:
        try:
            await self._reach()
        except (OSError, asyncio.TimeoutError, ConfigError) as error:
            self._node.connect_failed(self._server.now(), in_words(error))
        finally:
            self._attempt = None
            self._server.after_read()

    async def _reach(self) -> None:
        self._node.connecting(self._server.now(), str(self._endpoint))
        places = self._addresses.all()
        for left, (host, port) in zip(range(len(places) - 1, -1, -1), places, strict=True):
            channel = None if self._tls is None else self._tls.open()
            making = asyncio.get_running_loop().create_connection(
                lambda: Connection(self, channel=channel, speaks_first=True, lingers=True),  # noqa: B023
                host,
                port,
            )
            try:
                await asyncio.wait_for(making, OTHER_LIMIT_S if left else ATTEMPT_LIMIT_S)
                return
            except (OSError, asyncio.TimeoutError):
                self._addresses.leave()
                if not left:
                    raise

    # -- what the connection reports -------------------------------------------------------------------------------

    def on_open(self, connection: Connection, sock: socket.socket) -> None:
        congestion_control, fault = tuned(sock, self._link_settings)
        connection.link = Link(
            str(self._endpoint),
            congestion_control=congestion_control,
            secured=not connection.has_tls,
            upward=True,
        )
        if self._endpoint.security.secret is None:  # where there is one, the node itself wants its proof in time
            connection.must_be_secured(ATTEMPT_LIMIT_S)
        self._connection = connection
        self._node.link_up(self._server.now(), connection.link)
        self._server.taken(connection)
        if len(self._addresses.all()) > 1:
            asyncio.get_running_loop().call_later(OTHER_LIMIT_S, self._doubt, connection)
        if fault:
            connection.close(fault)

    def _doubt(self, connection: Connection) -> None:
        """A server that is frozen takes connections, and says nothing: there is another address."""
        if self._connection is connection and not connection.link.decoder.frames:
            connection.close(f"nothing came from the server above for {OTHER_LIMIT_S:g} s")

    def on_secured(self, connection: Connection, channel: Channel) -> None:
        assert self._tls is not None
        bound_to, _ = self._tls.admit(channel)
        self._node.secured(self._server.now(), connection.link, bound_to, None)

    def on_bytes(self, connection: Connection, begun: tuple[int, int]) -> None:
        self._server.on_bytes(connection, begun)

    def on_read(self, connection: Connection, count: int) -> str | None:
        return self._server.on_read(connection, count)

    def on_garbage(self, connection: Connection, error: RemoteProtocolError) -> None:
        self._server.on_garbage(connection, error)
        connection.close(str(error))

    def on_failure(self, connection: Connection, error: Exception) -> None:
        self._server.on_failure(connection, error)

    def after_read(self) -> None:
        self._server.after_read()

    def after_write(self) -> None:
        self._server.after_write()

    def on_closed(self, connection: Connection, cause: str) -> None:
        self._connection = None
        if not connection.link.conversation.is_let_in:
            self._addresses.leave()
        self._server.on_closed(connection, cause)

    def next_message(self, connection: Connection) -> Message | None:
        return self._server.next_message(connection)

    def position(self) -> int:
        return self._server.position()

    def committed_to(self) -> int:
        return self._server.committed_to()
