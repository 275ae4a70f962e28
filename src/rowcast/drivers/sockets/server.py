"""The server over TCP."""

from __future__ import annotations

import asyncio
import errno
import logging
import math
import socket
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec

from rowcast.config import LinkSettings
from rowcast.drivers.crew import lend_threads
from rowcast.drivers.nodes import HostNode
from rowcast.drivers.sockets.connection import Connection
from rowcast.drivers.sockets.endpoint import HostTls, Security
from rowcast.drivers.sockets.forks import let_go_in_children
from rowcast.drivers.sockets.owner import Owner
from rowcast.drivers.sockets.tcp import check_congestion_control, source_of, tuned, unresolved
from rowcast.errors import ConfigError, LinkLost, RemoteProtocolError
from rowcast.session import Link
from rowcast.wire import Echo, Message

if TYPE_CHECKING:
    from rowcast.drivers.sockets.certificates import Holder
    from rowcast.drivers.sockets.tls import Channel
    from rowcast.drivers.sockets.uplink import Uplink

__all__ = ["Server"]

log = logging.getLogger("rowcast")
H = TypeVar("H", bound=HostNode)

#: After a fault in a timer it is tried again so much later (s).
FAULT_PAUSE_S = 1.0
#: So many different faults are shown with their traceback.
MOST_FAULTS = 100
#: After so long (s) of sending, the event loop reads before it goes on: what it reads is what keeps links up.
BREATH_S = 0.02
#: The files of the team are looked at so often (s).
LOOK_S = 1.0
#: Who was taken back has so long to read that it was (s).
GOODBYE_S = 2.0
#: What asyncio runs out of when it cannot take a connection.
_OUT_OF = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Server(Owner, Generic[H]):
    """Runs a node that others connect to on an event loop, for example a :class:`~rowcast.training.ServerNode`.

    Args:
        node: the server node.
        host, port: where to listen; port 0 lets the system choose (:attr:`port` tells).
        link_settings: see :mod:`rowcast.config`.
        security: the team's certificates, or whether to listen beyond loopback without them and without a shared
            secret. With a secret, the node's, all connections are inside TLS as well.

    Attributes:
        uplink: where the node is that of a relay, its connection to the server above; set before :meth:`start`.

    Example::

        server = Server(ServerNode(parse_policy("rog:4")), "127.0.0.1", 0)
        await server.start()
        ...
        await server.close()
    """

    def __init__(
        self,
        node: H,
        host: str = "127.0.0.1",
        port: int = 7117,
        *,
        link_settings: LinkSettings | None = None,
        security: Security | None = None,
    ) -> None:
        self.node = node
        self.host = host
        self.port = port
        self._link_settings = link_settings or LinkSettings()
        self._security = security or Security()
        self._listener: asyncio.Server | None = None
        self._connections: dict[Link, Connection] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._faults: set[str] = set()
        self._not_before = -math.inf  # timers, after a fault in one
        self._handler_before: Callable[[asyncio.AbstractEventLoop, dict[str, Any]], Any] | None = None
        self._ready: dict[Link, None] = {}
        self._pumping = False
        self._over = False  # the node hears nothing more
        self._ahead_s = 0.0  # the node's time beyond that of the loop
        self._tls: HostTls | None = None
        self._holders: dict[Link, Holder] = {}
        self._looking: asyncio.TimerHandle | None = None
        self.uplink: Uplink | None = None

    async def start(self) -> None:
        """Listen.

        Raises:
            ConfigError: the address cannot be used, or it is not loopback and there is neither a secret nor a team; or
                the files of the team cannot be used.
        """
        if not self.node.has_secret:
            self._security.check_listen(self.host)
        self._tls = self._security.host(self.node.has_secret)
        check_congestion_control(self._link_settings)
        lend_threads()
        self._loop = asyncio.get_running_loop()
        try:
            self._listener = await self._loop.create_server(self._take, self.host, self.port)
        except (OSError, ValueError) as error:
            raise ConfigError(f"cannot listen on {self.host}:{self.port}: {_advice(self.host, error)}") from error
        let_go_in_children(self, self._listener.sockets)
        self.port = self._listener.sockets[0].getsockname()[1]
        self._handler_before = self._loop.get_exception_handler()
        self._loop.set_exception_handler(self._on_loop_error)
        self.node.listen(self.now())
        self._look()

    @property
    def listens(self) -> bool:
        """Whether it was started."""
        return self._listener is not None

    def _take(self) -> Connection:
        return Connection(self, channel=None if self._tls is None else self._tls.open())

    async def close(self, cause: str = "the server was stopped") -> None:
        """Tell every worker, close all connections, stop listening."""
        if self._listener is not None:
            # Whom it took last is a task in the next turn of the loop, and a connection in the one after that; a
            # listener that is closed by then forgets to close it.
            for sock in self._listener.sockets:
                self._loop.remove_reader(sock)
            for _ in range(2):
                await asyncio.sleep(0)
            self._listener.close()
        if self.uplink is not None:
            await self.uplink.close()
        if self._looking is not None:
            self._looking.cancel()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for connection in list(self._connections.values()):
            self.node.farewell(connection.link, cause)
            connection.pump()
        await self._settled()
        # In the next one, transports notice that they are closed.
        await asyncio.sleep(0)
        for connection in list(self._connections.values()):
            connection.close(cause)
        await asyncio.sleep(0)
        self._over = True
        while self._connections:  # some take longer to close, and nothing may reach the node then
            self.node.link_down(self.now(), self._connections.popitem()[0], cause)
        if self._listener is not None:
            await self._listener.wait_closed()
            self.node.stop(self.now())
            self._tell()
            if self._loop.get_exception_handler() == self._on_loop_error:
                self._loop.set_exception_handler(self._handler_before)

    # -- what connections report ---------------------------------------------------------------------------------

    def on_open(self, connection: Connection, sock: socket.socket) -> None:
        host, number = connection.peername
        congestion_control, fault = tuned(sock, self._link_settings)
        name = f"[{host}]" if ":" in host else host
        connection.link = Link(
            f"{name}:{number}",
            congestion_control=congestion_control,
            address=source_of(host),
            secured=not connection.has_tls,
        )
        try:
            self.node.link_up(self.now(), connection.link)
        except LinkLost as error:
            connection.close(str(error))
        else:
            self._connections[connection.link] = connection
            if fault:
                connection.close(fault)
        self._soon()

    def taken(self, connection: Connection) -> None:
        """A connection that this end has made is one of the node's from now on."""
        self._connections[connection.link] = connection
        self._soon()

    def on_secured(self, connection: Connection, channel: Channel) -> None:
        assert self._tls is not None
        bound_to, holder = self._tls.admit(channel)
        if holder is not None:
            self._holders[connection.link] = holder
        self.node.secured(self.now(), connection.link, bound_to, None if holder is None else holder.name)

    def on_bytes(self, connection: Connection, begun: tuple[int, int]) -> None:
        self.node.heard(self.now(), connection.link, begun)

    def on_read(self, connection: Connection, count: int) -> str | None:
        return self.node.arrived(self.now(), connection.link, count)

    def on_garbage(self, connection: Connection, error: RemoteProtocolError) -> None:
        self.node.blame(self.now(), connection.link, error)

    def on_failure(self, connection: Connection, error: Exception) -> None:
        """Serving one worker went wrong here: its connection ends, the others go on."""
        link = connection.link if hasattr(connection, "link") else None
        self._log_fault(error, "one that had just connected" if link is None else link.peer)
        if link is not None and not link.closing:
            self.node.farewell(link, "the server failed while it served this worker; its log says why")
            connection.pump()
        connection.close(f"the server failed: {type(error).__name__}")

    def _log_fault(self, error: Exception, served: str) -> None:
        """Where a fault comes from the first time that it does; then it is counted, and told once a minute."""
        kind = f"{type(error).__name__}: {error}"
        if kind not in self._faults and len(self._faults) < MOST_FAULTS:
            self._faults.add(kind)
            log.error("a fault of the server while it served %s: %s", served, kind, exc_info=error)
        else:
            self.node.trouble(self.now(), kind, f"a fault of the server while it served {served}: {kind}")

    def after_read(self) -> None:
        self._soon()

    def after_write(self) -> None:
        # What one worker was sent may have let another one go on.
        if self._send_ready(math.inf):
            self._soon()

    def _look(self) -> None:
        """Notice what has changed in the files of the team, and end the connections of who was taken back."""
        if self._tls is None:
            return
        if trouble := self._tls.look():
            self.node.trouble(self.now(), "team files", trouble)
        for link, holder in list(self._holders.items()):
            if (cause := self._tls.taken_back(holder)) and not link.closing:
                self.node.expel(self.now(), link, cause)
                self._connections[link].end(cause, GOODBYE_S)
        self._soon()
        self._looking = self._loop.call_later(LOOK_S, self._look)

    def on_closed(self, connection: Connection, cause: str) -> None:
        self._holders.pop(connection.link, None)
        if self._connections.pop(connection.link, None) is None:
            return  # it was closed at once
        self.node.link_down(self.now(), connection.link, cause)
        self._soon()

    def next_message(self, connection: Connection) -> Message | None:
        return stamped(self.node.poll(self.now(), connection.link))

    # -- time ------------------------------------------------------------------------------------------------------

    def now(self) -> float:
        """The node's time (s)."""
        return self._loop.time() + self._ahead_s

    async def _settled(self) -> None:
        """Everybody was told goodbye; for servers whose words leave later."""

    def _soon(self) -> None:
        """Send what the node has got to say once all that can be read now was read.

        Where many workers say something at once, each is then looked at once, and not for each message of another.
        """
        if not self._pumping:
            self._pumping = True
            self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        """Send what the node has got to say, and set the timer. Sockets are looked at again before it takes long."""
        self._pumping = False
        if self._over:
            return
        try:
            self._send_ready(self.now() + BREATH_S)
            self._attended()
            if self.uplink is not None:
                self.uplink.attend()
            if self._ready:
                self._soon()
            self._arm()
            self._tell()
        except Exception as error:  # it concerns nobody in particular, and the server goes on: asyncio must not see it
            self._log_fault(error, "its team")
            self._loop.call_later(FAULT_PAUSE_S, self._soon)

    def _attended(self) -> None:
        """The node has heard what there was, and what it had to say is sent; for servers that do more than that."""

    def _tell(self) -> None:
        while self.node.notices:
            log.warning("%s", self.node.notices.popleft())

    def _on_loop_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """What asyncio says when it cannot take a connection, up to a hundred times a second while that lasts.

        It tries again each second by itself. All else goes where it went before.
        """
        error, taking = context.get("exception"), context.get("socket")
        if isinstance(error, OSError) and error.errno in _OUT_OF and taking is not None and self._listens_at(taking):
            text = (
                f"no connection can be taken: {error.strerror}; raise the limit (ulimit -n), or close what holds them"
            )
            self.node.trouble(self.now(), "no descriptors", text)
            self._tell()
            self._arm()
        elif self._handler_before is not None:
            self._handler_before(loop, context)
        else:
            loop.default_exception_handler(context)

    def _listens_at(self, taking: Any) -> bool:
        own = self._listener.sockets if self._listener is not None else ()
        return any(taking.fileno() == each.fileno() for each in own)

    def _send_ready(self, until: float) -> bool:
        """Send what there is, until some time (s); whether there was something."""
        sent = False
        self._tell()
        while True:
            self._ready.update(dict.fromkeys(self.node.take_ready()))
            if not self._ready or (until < math.inf and self.now() > until):
                return sent
            sent = True
            link = next(iter(self._ready))
            del self._ready[link]
            connection = self._connections.get(link)
            if connection is not None:
                connection.pump()

    def _arm(self) -> None:
        due = self.node.next_wake()
        if self._timer is not None:
            if due is not None and self._timer.when() == max(due, self._not_before) - self._ahead_s:
                return
            self._timer.cancel()
            self._timer = None
        if due is not None and self._listener is not None and self._listener.is_serving():
            self._timer = self._loop.call_at(max(due, self._not_before) - self._ahead_s, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        try:
            for link, cause in self.node.on_timer(self.now()):
                connection = self._connections.get(link)
                if connection is not None:
                    connection.close(cause)
        except Exception as error:  # as in _pump; what went wrong is still due: not again at once
            self._log_fault(error, "its timers")
            self._not_before = self.now() + FAULT_PAUSE_S
        self._soon()


def stamped(message: Message | None) -> Message | None:
    """A message as it leaves: the answer to a probe says the time of this machine, which no node knows."""
    return msgspec.structs.replace(message, clock=time.time()) if isinstance(message, Echo) else message


def _advice(host: str, error: Exception) -> str:
    """Why an address cannot be listened on, and what to do."""
    if isinstance(error, socket.gaierror | ValueError):
        return unresolved(host, error)
    number = error.errno if isinstance(error, OSError) else None
    remedy = {
        errno.EADDRINUSE: "is another server running there? choose another --port",
        errno.EADDRNOTAVAIL: "this machine has no such address; --host 0.0.0.0 listens on all that it has",
        errno.EACCES: "ports below 1024 belong to the system; choose another --port",
    }.get(number or 0, "choose another --host or --port")
    return f"{getattr(error, 'strerror', None) or error}; {remedy}"
