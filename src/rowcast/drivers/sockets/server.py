"""The server over TCP."""

from __future__ import annotations

import asyncio
import logging
import socket

from rowcast.config import LinkSettings
from rowcast.drivers.crew import lend_threads
from rowcast.drivers.sockets.connection import Connection
from rowcast.drivers.sockets.forks import let_go_in_children
from rowcast.drivers.sockets.tcp import check_congestion_control, is_loopback, tune
from rowcast.errors import ConfigError, RemoteProtocolError
from rowcast.nodes import Port, ServerNode
from rowcast.wire import Message

__all__ = ["Server"]

log = logging.getLogger("rowcast")

#: After a fault in a timer it is tried again so much later (s).
FAULT_PAUSE_S = 1.0
#: So many different faults are shown with their traceback.
MOST_FAULTS = 100


class Server:
    """Runs a :class:`~rowcast.nodes.ServerNode` on an event loop.

    Args:
        node: the server node.
        host, port: where to listen; port 0 lets the system choose (:attr:`port` tells).
        link_settings: see :mod:`rowcast.config`.
        insecure: listen beyond loopback although the node has no shared secret.

    Example::

        server = Server(ServerNode(parse_policy("rog:4")), "127.0.0.1", 0)
        await server.start()
        ...
        await server.close()
    """

    def __init__(
        self,
        node: ServerNode,
        host: str = "127.0.0.1",
        port: int = 7117,
        *,
        link_settings: LinkSettings | None = None,
        insecure: bool = False,
    ) -> None:
        self.node = node
        self.host = host
        self.port = port
        self._link_settings = link_settings or LinkSettings()
        self._insecure = insecure
        self._listener: asyncio.Server | None = None
        self._connections: dict[Port, Connection] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._faults: set[str] = set()

    async def start(self) -> None:
        """Listen.

        Raises:
            ConfigError: the address cannot be used, or it is not loopback and there is no secret.
        """
        if not self.node.has_secret and not self._insecure and not is_loopback(self.host):
            raise ConfigError(
                f"listening on {self.host} without a shared secret would let anybody in; "
                "give --secret-file (the same file to every worker), or --insecure if the network is yours alone"
            )
        check_congestion_control(self._link_settings)
        lend_threads()
        self._loop = asyncio.get_running_loop()
        try:
            self._listener = await self._loop.create_server(lambda: Connection(self), self.host, self.port)
        except OSError as error:
            raise ConfigError(
                f"cannot listen on {self.host}:{self.port}: {error.strerror or error}; "
                "is another server running there? choose another --port"
            ) from error
        let_go_in_children(self, self._listener.sockets)
        self.port = self._listener.sockets[0].getsockname()[1]
        self.node.listen(self._loop.time())

    async def close(self, cause: str = "the server was stopped") -> None:
        """Tell every worker, close all connections, stop listening."""
        if self._listener is not None:
            self._listener.close()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for connection in list(self._connections.values()):
            self.node.farewell(connection.port, cause)
            connection.pump()
        # One turn of the loop for transports to notice that they are closed.
        await asyncio.sleep(0)
        for connection in list(self._connections.values()):
            connection.close(cause)
        if self._listener is not None:
            await self._listener.wait_closed()

    # -- what connections report ---------------------------------------------------------------------------------

    def on_open(self, connection: Connection, sock: socket.socket) -> None:
        peer = sock.getpeername()
        connection.port = Port(f"{peer[0]}:{peer[1]}", congestion_control=tune(sock, self._link_settings))
        self._connections[connection.port] = connection
        self.node.link_up(self._loop.time(), connection.port)
        self._arm()

    def on_bytes(self, connection: Connection) -> None:
        self.node.heard(self._loop.time(), connection.port)

    def on_message(self, connection: Connection, message: Message) -> None:
        self.node.receive(self._loop.time(), connection.port, message)

    def on_garbage(self, connection: Connection, error: RemoteProtocolError) -> None:
        log.warning("connection from %s closed: %s", connection.port.peer, error)
        self.node.blame(self._loop.time(), connection.port, error)

    def on_failure(self, connection: Connection, error: Exception) -> None:
        """Serving one worker went wrong here: its connection ends, the others go on."""
        port = connection.port if hasattr(connection, "port") else None
        self._log_fault(error, "one that had just connected" if port is None else port.peer)
        if port is not None and not port.closing:
            self.node.farewell(port, "the server failed while it served this worker; its log says why")
            connection.pump()
        connection.close(f"the server failed: {type(error).__name__}")

    def _log_fault(self, error: Exception, served: str) -> None:
        """One line for each fault, and where it comes from the first time it does."""
        kind = f"{type(error).__name__}: {error}"
        first = kind not in self._faults
        if first and len(self._faults) < MOST_FAULTS:
            self._faults.add(kind)
        log.error("a fault of the server while it served %s: %s", served, kind, exc_info=error if first else None)

    def after_read(self) -> None:
        self._pump()

    def after_write(self) -> None:
        # What one worker was sent may have let another one go on.
        if self._send_ready():
            self._arm()

    def on_closed(self, connection: Connection, cause: str) -> None:
        del self._connections[connection.port]
        self.node.link_down(self._loop.time(), connection.port, cause)
        self._pump()

    def next_message(self, connection: Connection) -> Message | None:
        return self.node.poll(self._loop.time(), connection.port)

    # -- time ------------------------------------------------------------------------------------------------------

    def _pump(self) -> None:
        self._send_ready()
        self._arm()

    def _send_ready(self) -> bool:
        """Send what the node has got to say; whether there was something."""
        sent = False
        while self.node.notices:
            log.info("%s", self.node.notices.pop(0))
        while ready := self.node.take_ready():
            sent = True
            for port in ready:
                connection = self._connections.get(port)
                if connection is not None:
                    connection.pump()
        return sent

    def _arm(self) -> None:
        due = self.node.next_timer()
        if self._timer is not None:
            if due is not None and self._timer.when() == due:
                return
            self._timer.cancel()
            self._timer = None
        if due is not None and self._listener is not None and self._listener.is_serving():
            self._timer = self._loop.call_at(due, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        try:
            for port, cause in self.node.on_timer(self._loop.time()):
                connection = self._connections.get(port)
                if connection is not None:
                    connection.close(cause)
            self._pump()
        except Exception as error:
            self._log_fault(error, "its timers")
            if self._timer is None:  # what went wrong is still due: not again at once
                self._timer = self._loop.call_later(FAULT_PAUSE_S, self._on_timer)
