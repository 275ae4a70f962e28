"""A server over TCP whose state lies in a log: what leaves it is committed there before."""

from __future__ import annotations

import asyncio
import logging
import time

from rowcast.config import LinkSettings
from rowcast.drivers.sockets.endpoint import Security
from rowcast.drivers.sockets.server import Server
from rowcast.drivers.state.keeper import ServerKeeper
from rowcast.durability.recorded import RecordedServer
from rowcast.errors import RowcastError

__all__ = ["DurableServer"]

log = logging.getLogger("rowcast")


class DurableServer(Server[RecordedServer]):
    """Runs the server of a :class:`~rowcast.drivers.state.keeper.ServerKeeper`.

    Args:
        keeper: the server and its log; it is closed with the server.
        host, port: where to listen; port 0 lets the system choose (:attr:`port` tells).
        link_settings: see :mod:`rowcast.config`.
        security: whether to listen beyond loopback although the node has no shared secret.
    """

    def __init__(
        self,
        keeper: ServerKeeper,
        host: str = "127.0.0.1",
        port: int = 7117,
        *,
        link_settings: LinkSettings | None = None,
        security: Security | None = None,
    ) -> None:
        super().__init__(keeper.server, host, port, link_settings=link_settings, security=security)
        self.keeper = keeper
        self._failing = ""
        self._worked_before_s = 0.0

    @property
    def lost(self) -> RowcastError | None:
        """Why this server must end: its log has another owner, or was away for too long; ``None``: it need not."""
        return self.keeper.lost

    async def start(self) -> None:
        """Listen; workers that were connected before may resume.

        Raises:
            ConfigError: see :meth:`Server.start`.
        """
        loop = asyncio.get_running_loop()
        self._worked_before_s = time.thread_time()
        # The time of a node never goes back, whatever the clock of the machine has done since then.
        self._ahead_s = max(self.keeper.starts_at - loop.time(), 0.0)

        def committed() -> None:
            loop.call_soon_threadsafe(self._on_commit)

        def written() -> None:  # a standby may wait for the next one, and nobody else may say anything
            loop.call_soon_threadsafe(self._soon)

        self.keeper.on_commit, self.keeper.on_written = committed, written
        await super().start()

    async def close(self, cause: str = "the server was stopped") -> None:
        """Tell every worker, close all connections, stop listening, and keep the state as it is then."""
        try:
            await super().close(cause)
        finally:
            self.keeper.on_commit = self.keeper.on_written = lambda: None
            await asyncio.get_running_loop().run_in_executor(None, self.keeper.close, self.now())

    async def _settled(self) -> None:
        await asyncio.get_running_loop().run_in_executor(None, self.keeper.log.flush)
        for connection in list(self._connections.values()):
            connection.pump()

    def position(self) -> int:
        return self.node.position

    def committed_to(self) -> int:
        return self.keeper.log.committed_to

    def _attended(self) -> None:
        self.keeper.attend(self.now(), time.thread_time() - self._worked_before_s)
        failing = self.keeper.failing
        if failing == self._failing:
            return
        self._failing = failing
        if failing:
            self.node.trouble(self.now(), "state", failing)
        else:
            log.warning("the state is written again")

    def _on_commit(self) -> None:
        """More may leave; or the disk fails, or works again."""
        holding = [connection for connection in self._connections.values() if connection.holds]
        for connection in holding:
            connection.pump()
        if holding or self.keeper.failing != self._failing:
            self._soon()
