"""Relays between the server of a local run and its robots, in this process."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

from rowcast.config import LinkSettings, ServerSettings
from rowcast.drivers.sockets import Endpoint, Server, Uplink
from rowcast.journal import open_journal
from rowcast.session import record_start
from rowcast.sync import parse_policy
from rowcast.training import ServerNode
from rowcast.training.relay import RelayNode

__all__ = ["local_relays"]


@contextlib.asynccontextmanager
async def local_relays(
    count: int, robots: int, policy: str, link: LinkSettings, folder: Path, port: int
) -> AsyncIterator[list[tuple[int, ServerNode]]]:
    """Relays on loopback, below the server at ``port``, each for so many ``robots``.

    Yields:
        The port and the node of each.

    Raises:
        ConfigError: the policy is not one that a relay can sum up for.
    """
    async with contextlib.AsyncExitStack() as stack:
        relays: list[tuple[int, ServerNode]] = []
        for number in range(count):
            name = f"relay-{number}"
            journal = stack.enter_context(open_journal(name, folder / f"{name}.jsonl"))
            settings = ServerSettings(expected_workers=robots, gather_s=0.0)
            record_start(journal, time.monotonic(), "relay", policy, settings, link)
            node = RelayNode(name, parse_policy(policy), settings=settings, link_settings=link, journal=journal)
            server = Server(node, "127.0.0.1", 0, link_settings=link)
            server.uplink = Uplink(server, node, name, Endpoint("127.0.0.1", port), link)
            await server.start()
            stack.push_async_callback(server.close)
            relays.append((server.port, node))
        yield relays
