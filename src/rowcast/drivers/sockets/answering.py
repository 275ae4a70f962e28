"""A server that answers inferences, over TCP."""

from __future__ import annotations

from rowcast.config import LinkSettings
from rowcast.drivers.sockets.endpoint import Security
from rowcast.drivers.sockets.lanes import Lanes
from rowcast.drivers.sockets.server import Server
from rowcast.inference import AnswererNode, Engine

__all__ = ["InferenceServer"]


class InferenceServer(Server[AnswererNode]):
    """Runs an answering node on an event loop, and its engine on a thread beside that.

    Args:
        node: the node.
        engine: computes.
        host, port: where to listen; port 0 lets the system choose (:attr:`port` tells).
        link_settings: see :mod:`rowcast.config`.
        security: whether to listen beyond loopback although the node has no shared secret.
    """

    def __init__(
        self,
        node: AnswererNode,
        engine: Engine,
        host: str = "127.0.0.1",
        port: int = 7118,
        *,
        link_settings: LinkSettings | None = None,
        security: Security | None = None,
    ) -> None:
        super().__init__(node, host, port, link_settings=link_settings, security=security)
        self._engine = engine
        self._lanes: Lanes | None = None

    async def start(self) -> None:
        """Listen, and be ready to compute.

        Raises:
            ConfigError: the address cannot be used, or it is not loopback and there is no secret.
        """
        await super().start()
        engines = dict.fromkeys(self.node.lanes, self._engine)
        self._lanes = Lanes(self.node, engines, self._soon, "rowcast-inference")

    async def close(self, cause: str = "the server was stopped") -> None:
        """Tell every robot, close all connections, stop listening and computing."""
        await super().close(cause)
        if self._lanes is not None:
            await self._lanes.close()
            self._lanes = None

    def _attended(self) -> None:
        if self._lanes is not None and self._lanes.look():
            self._soon()
