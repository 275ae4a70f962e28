"""Runs a server and shows its team."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import signal
from collections.abc import Callable
from typing import Any

from rowcast.cli.display import TeamDisplay
from rowcast.cli.serve import ServeSettings
from rowcast.cli.streams import PlainConsole
from rowcast.config import LinkSettings, ServerSettings, StateSettings
from rowcast.drivers.sockets import DurableServer, Security, Server
from rowcast.drivers.state import RealDisk, ServerKeeper, TeamSpec
from rowcast.errors import ConfigError
from rowcast.journal import Journal, open_journal
from rowcast.session import record_start
from rowcast.sync import parse_policy
from rowcast.training import ServerNode

__all__ = ["run_server"]

TICK_S = 0.25


def run_server(
    serve: ServeSettings, settings: ServerSettings, link: LinkSettings, state: StateSettings, *, quiet: bool
) -> str:
    """Serve until something ends it; returns what. ``quiet``: show no table of the team.

    Raises:
        ConfigError, StateDamaged: the address, the secret or the state cannot be used.
    """
    security = Security.of(serve.secret_file, serve.team, serve.insecure)
    with open_journal("server", None) as journal, TeamDisplay(PlainConsole(), quiet=quiet) as display:

        def begin() -> None:
            # Not before the port is ours: the journal may be that of a server which runs already.
            if serve.journal is not None:
                journal.keep_in(serve.journal)
            record_start(journal, server.now(), "server", serve.policy, settings, link)
            if keeper is not None:
                keeper.record(server.now())

        server: Server[Any]
        keeper = _keeper(serve, TeamSpec(serve.policy, settings, link, security.secret), state, journal)
        if keeper is not None:
            server = DurableServer(keeper, serve.host, serve.port, link_settings=link, security=security)
            display.says(_what_came_back(keeper))
            return asyncio.run(_run(server, keeper.server.node, display, serve, begin))
        policy = parse_policy(serve.policy)
        node = ServerNode(policy, settings=settings, link_settings=link, secret=security.secret, journal=journal)
        server = Server(node, serve.host, serve.port, link_settings=link, security=security)
        return asyncio.run(_run(server, node, display, serve, begin))


def _keeper(serve: ServeSettings, team: TeamSpec, state: StateSettings, journal: Journal) -> ServerKeeper | None:
    """What keeps the server's state; ``None``: nothing does."""
    if serve.state is None:
        if state.durability != "none":
            raise ConfigError(f"durability: expected a folder for {state.durability!r}, got none; give --state DIR")
        return None
    if state.durability == "none":
        state = dataclasses.replace(state, durability="log")
    return ServerKeeper(RealDisk(serve.state), team, state, journal)


def _what_came_back(keeper: ServerKeeper) -> str:
    recovered = keeper.recovered
    if recovered is None:
        return "the state is new"
    names = ", ".join(sorted(recovered.node.members)) or "nobody"
    return f"the team is back in {keeper.recovery_s:.1f} s: {names}; {recovered.inputs} inputs behind the last snapshot"


async def _run(
    server: Server[Any], node: ServerNode, display: TeamDisplay, serve: ServeSettings, begin: Callable[[], None]
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
    display.says(
        f"listening on {server.host}:{server.port}, policy {node.policy.name}, "
        f"team of {node.settings.expected_workers}; Ctrl-C ends"
    )
    ends = float("inf") if serve.seconds is None else server.now() + serve.seconds
    cause = ""
    try:
        while not cause:
            now = server.now()
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
        node.journal.record(server.now(), "end", cause=cause)
    if cause != "interrupted":
        display.says(cause)
    return cause
