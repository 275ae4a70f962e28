"""Runs a server and shows its team."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Callable
from pathlib import Path

from rowcast.cli.display import TeamDisplay
from rowcast.cli.streams import PlainConsole
from rowcast.config import LinkSettings, ServerSettings
from rowcast.drivers.sockets import Server
from rowcast.journal import open_journal
from rowcast.session import record_start
from rowcast.sync import parse_policy
from rowcast.training import ServerNode

__all__ = ["run_server"]

TICK_S = 0.25


def run_server(
    policy: str,
    host: str,
    port: int,
    *,
    settings: ServerSettings,
    link_settings: LinkSettings,
    secret: bytes | None,
    insecure: bool,
    journal_file: Path | None,
    seconds: float | None,
    once: bool,
    quiet: bool,
) -> str:
    """Serve until something ends it; returns what. See ``rowcast serve --help`` for the arguments."""
    chosen = parse_policy(policy)
    with open_journal("server", None) as journal, TeamDisplay(PlainConsole(), quiet=quiet) as display:
        node = ServerNode(chosen, settings=settings, link_settings=link_settings, secret=secret, journal=journal)

        def begin() -> None:
            # Not before the port is ours: the journal may be that of a server which runs already.
            if journal_file is not None:
                journal.keep_in(journal_file)
            record_start(journal, time.monotonic(), "server", policy, settings, link_settings)

        server = Server(node, host, port, link_settings=link_settings, insecure=insecure)
        cause = asyncio.run(_run(server, display, seconds, once, begin))
        journal.record(time.monotonic(), "end", cause=cause)
    return cause


async def _run(
    server: Server, display: TeamDisplay, seconds: float | None, once: bool, begin: Callable[[], None]
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
    ends = loop.time() + seconds if seconds is not None else float("inf")
    cause = ""
    try:
        while not cause:
            now = loop.time()
            display.shows(f"{node.policy.name} on {server.host}:{server.port}", node.status(now))
            # A finished worker is forgotten; one whose link was lost is waited for as long as the gate counts it.
            if once and node.gate.opened and not any(member.port or member.gated for member in node.members.values()):
                cause = "everybody has finished" if node.finished else "everybody is gone, and nobody had finished"
            elif now >= ends:
                cause = f"{seconds:g} s are over"
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(interrupted.wait(), TICK_S)
                cause = cause or "interrupted"
    finally:
        await server.close(cause or "the server failed")
    if cause != "interrupted":
        display.says(cause)
    return cause
