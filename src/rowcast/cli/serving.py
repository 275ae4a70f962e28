"""Runs a server and shows its team."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Callable

from rowcast.cli.display import TeamDisplay
from rowcast.cli.serve import ServeSettings
from rowcast.cli.streams import PlainConsole
from rowcast.config import LinkSettings, ServerSettings
from rowcast.drivers.sockets import Security, Server
from rowcast.journal import open_journal
from rowcast.session import record_start
from rowcast.sync import parse_policy
from rowcast.training import ServerNode

__all__ = ["run_server"]

TICK_S = 0.25


def run_server(serve: ServeSettings, settings: ServerSettings, link: LinkSettings, *, quiet: bool) -> str:
    """Serve until something ends it; returns what. ``quiet``: show no table of the team."""
    security = Security.of(serve.secret_file, serve.team, serve.insecure)
    with open_journal("server", None) as journal, TeamDisplay(PlainConsole(), quiet=quiet) as display:
        policy = parse_policy(serve.policy)
        node = ServerNode(policy, settings=settings, link_settings=link, secret=security.secret, journal=journal)

        def begin() -> None:
            # Not before the port is ours: the journal may be that of a server which runs already.
            if serve.journal is not None:
                journal.keep_in(serve.journal)
            record_start(journal, time.monotonic(), "server", serve.policy, settings, link)

        server = Server(node, serve.host, serve.port, link_settings=link, security=security)
        return asyncio.run(_run(server, display, serve, begin))


async def _run(
    server: Server[ServerNode], display: TeamDisplay, serve: ServeSettings, begin: Callable[[], None]
) -> str:
    """Serve until something ends it; returns what. ``begin`` is called as soon as the port is ours."""
    loop = asyncio.get_running_loop()
    interrupted = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, interrupted.set)
    await server.start()
    try:
        begin()
    except BaseException:
        await server.close("the server failed")
        raise
    node = server.node
    display.says(
        f"listening on {server.host}:{server.port}, policy {node.policy.name}, "
        f"team of {node.settings.expected_workers}; Ctrl-C ends"
    )
    ends = float("inf") if serve.seconds is None else loop.time() + serve.seconds
    cause = ""
    try:
        while not cause:
            now = loop.time()
            display.shows(f"{node.policy.name} on {server.host}:{server.port}", node.status(now))
            # A finished worker is forgotten; one whose link was lost is waited for as long as the gate counts it.
            if (
                serve.once
                and node.gate.opened
                and not any(member.link or member.gated for member in node.members.values())
            ):
                cause = "everybody has finished" if node.finished else "everybody is gone, and nobody had finished"
            elif now >= ends:
                cause = f"{serve.seconds:g} s are over"
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(interrupted.wait(), TICK_S)
                cause = cause or "interrupted"
    finally:
        cause = cause or "the server failed"
        await server.close(cause)
        # While the loop still takes the signals: behind it one of them would end the process before the record.
        node.journal.record(loop.time(), "end", cause=cause)
    if cause != "interrupted":
        display.says(cause)
    return cause
