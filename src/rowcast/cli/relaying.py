"""Runs a relay and shows those below it."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import signal
from typing import Any

from rowcast.cli.display import TeamDisplay
from rowcast.cli.relay import RelaySettings
from rowcast.cli.serving import lost
from rowcast.cli.streams import PlainConsole
from rowcast.config import LinkSettings, ServerSettings, StateSettings, WorkerSettings
from rowcast.drivers.sockets import DurableServer, Endpoint, Security, Server, Uplink
from rowcast.drivers.sockets.tcp import split_address
from rowcast.drivers.state import RelaySpec, ServerKeeper, TeamSpec, state_at
from rowcast.errors import ConfigError
from rowcast.journal import Journal, open_journal
from rowcast.session import record_start
from rowcast.training.relay import RelayNode

__all__ = ["run_relay"]

TICK_S = 0.25


def run_relay(
    relay: RelaySettings,
    settings: ServerSettings,
    worker: WorkerSettings,
    link: LinkSettings,
    state: StateSettings,
    *,
    quiet: bool,
) -> str:
    """Relay until something ends it; returns what. ``quiet``: show no table of those below.

    Raises:
        ConfigError, StateDamaged: an address, the secret or the log cannot be used; or the server above does not fit.
        RowcastError: the server above is gone for longer than the settings allow.
    """
    below = Security.of(relay.secret_file, relay.team, relay.insecure)
    above = below if relay.team is None else Security.of(None, relay.robot, relay.insecure)
    if relay.team is not None and relay.robot is None:
        raise ConfigError(
            "--team: expected the certificate of this relay as well, got none; make one with 'rowcast team add' and "
            "give it as --robot"
        )
    endpoint = Endpoint.of(relay.connect, above)
    endpoint.check_join()
    host, port = split_address(relay.listen)
    if port and (host, port) in ((endpoint.host, endpoint.port), *endpoint.others):
        raise ConfigError(
            f"--connect {endpoint}: expected another server, got this relay itself; give another --listen"
        )
    # A relay is there before its server is, and outlasts it: it looks for it as long as for one that it has lost.
    worker = dataclasses.replace(worker, join_limit_s=min(worker.reconnect_limit_s, 86_400.0))
    team = TeamSpec(relay.policy, settings, link, below.secret, relay=RelaySpec(relay.name, worker))
    with open_journal(relay.name, None) as journal, TeamDisplay(PlainConsole(), quiet=quiet) as display:
        keeper = _keeper(relay, team, state, journal)
        server: Server[Any]
        if keeper is not None:
            server = DurableServer(keeper, host, port, link_settings=link, security=below)
            inputs: Any = keeper.server
        else:
            inputs = team.node(journal)
            server = Server(inputs, host, port, link_settings=link, security=below)
        server.uplink = Uplink(server, inputs, relay.name, endpoint, link)
        return asyncio.run(_run(server, journal, display, relay, team, keeper))


def _keeper(relay: RelaySettings, team: TeamSpec, state: StateSettings, journal: Journal) -> ServerKeeper | None:
    if relay.log is None:
        if state.durability != "none":
            raise ConfigError(f"durability: expected a folder for {state.durability!r}, got none; give --log DIR")
        return None
    state = dataclasses.replace(state, durability="log")
    return ServerKeeper(state_at(relay.log, state), team, state, journal)


async def _run(
    server: Server[Any],
    journal: Journal,
    display: TeamDisplay,
    relay: RelaySettings,
    team: TeamSpec,
    keeper: ServerKeeper | None,
) -> str:
    """Relay until something ends it; returns what."""
    loop = asyncio.get_running_loop()
    interrupted = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, interrupted.set)
    await server.start()
    node: RelayNode = server.node if keeper is None else keeper.server.relay
    cause = ""
    try:
        if relay.journal is not None:
            journal.keep_in(relay.journal)
        record_start(journal, server.now(), "relay", relay.policy, team.settings, team.links)
        if keeper is not None:
            keeper.record(server.now())
        display.says(
            f"relay {node.name} listening on {server.host}:{server.port}, below {relay.connect}, policy "
            f"{node.policy.name}; Ctrl-C ends"
        )
        ends = float("inf") if relay.seconds is None else server.now() + relay.seconds
        while not cause:
            now = server.now()
            display.shows(f"{node.name} on {server.host}:{server.port}", node.status(now))
            if (failure := node.failure or lost(server)) is not None:
                raise failure
            if node.finished_all:
                cause = "everybody below has finished"
            elif now >= ends:
                cause = f"{relay.seconds:g} s are over"
            else:
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(interrupted.wait(), TICK_S)
                    cause = "interrupted"
    finally:
        cause = cause or "the relay failed"
        await server.close(cause)
        journal.record(server.now(), "end", cause=cause)
    if cause != "interrupted":
        display.says(cause)
    return cause
