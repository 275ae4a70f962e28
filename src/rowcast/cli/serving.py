"""Runs a server and shows its team."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from rowcast.cli.display import TeamDisplay
from rowcast.cli.serve import ServeSettings
from rowcast.cli.streams import PlainConsole
from rowcast.config import LinkSettings, ServerSettings, StateSettings
from rowcast.drivers.sockets import DurableServer, Endpoint, LeadingServer, Security, Server, Standby
from rowcast.drivers.state import RealDisk, ServerKeeper, TeamSpec, state_at
from rowcast.errors import ConfigError, RowcastError, SteppedDown
from rowcast.experiment.audit import save_server
from rowcast.journal import Journal, open_journal
from rowcast.page import Live, PageAddress, Totals, page_server
from rowcast.session import record_start
from rowcast.training import ServerNode
from rowcast.training.watching import TeamWatch

__all__ = ["lost", "run_server"]

TICK_S = 0.25
#: How often the journal is told where each robot is while there is a page (s).
PAGE_EVERY_S = 1.0


def run_server(
    serve: ServeSettings, settings: ServerSettings, link: LinkSettings, state: StateSettings, *, quiet: bool
) -> str:
    """Serve until something ends it; returns what. ``quiet``: show no table of the team.

    Raises:
        ConfigError, StateDamaged: the address, the secret or the state cannot be used.
        SteppedDown: another server leads the team, or may.
        LinkLost: the log in JetStream was away for too long.
    """
    security = Security.of(serve.secret_file, serve.team, serve.insecure)
    team = TeamSpec(serve.policy, settings, link, security.secret)
    if serve.state is not None and state.durability == "none":
        state = dataclasses.replace(state, durability="log")
    with (
        open_journal("server", None) as journal,
        TeamDisplay(PlainConsole(), quiet=quiet) as display,
        _page(serve, journal, display),
    ):
        if serve.standby_of is not None:
            return asyncio.run(_stand_by(serve, team, state, journal, display, security))

        def begin() -> None:
            # Not before the port is ours: the journal may be that of a server which runs already.
            if serve.journal is not None:
                journal.keep_in(serve.journal)
            record_start(journal, server.now(), "server", serve.policy, settings, link)
            if keeper is not None:
                keeper.record(server.now())

        server: Server[Any]
        keeper = _keeper(serve, team, state, journal)
        if keeper is not None:
            kind: Callable[..., Server[Any]] = DurableServer
            if keeper.leadership is not None:
                kind = partial(LeadingServer, says=display.says)
            server = kind(keeper, serve.host, serve.port, link_settings=link, security=security)
            display.says(_what_came_back(keeper))
            return asyncio.run(_run(server, keeper.server.node, display, serve, begin))
        node = team.node(journal)
        server = Server(node, serve.host, serve.port, link_settings=link, security=security)
        return asyncio.run(_run(server, node, display, serve, begin))


@contextlib.contextmanager
def _page(serve: ServeSettings, journal: Journal, display: TeamDisplay) -> Iterator[None]:
    """The page, if one is wanted; it is told by the journal, and knows nothing else of the server."""
    if serve.page is None:
        yield
        return
    address = PageAddress.of(serve.page, serve.page_token_file)
    totals = Totals() if serve.metrics else None
    live = Live(f"server on {serve.host}:{serve.port}", lambda: serve.journal, totals)
    journal.watch(live.take)
    with page_server(live, address) as url:
        display.says(f"page: {url}")
        yield


async def _stand_by(
    serve: ServeSettings,
    team: TeamSpec,
    state: StateSettings,
    journal: Journal,
    display: TeamDisplay,
    security: Security,
) -> str:
    """Follow a server, and lead in its place; returns what ended that."""
    assert serve.standby_of is not None and serve.state is not None
    if state.durability != "log":
        raise ConfigError(f"--standby-of: expected --durability log, got {state.durability}")
    endpoint = Endpoint.of(serve.standby_of, security)
    if (endpoint.host, endpoint.port) == (serve.host, serve.port):
        raise ConfigError(f"--standby-of {endpoint}: expected another server, got this one itself; give another --port")
    endpoint.check_join()
    if security.secret is None:
        security.check_listen(serve.host)
    if serve.journal is not None:
        journal.keep_in(serve.journal)
    standby = Standby(
        RealDisk(Path(serve.state)),
        team,
        state,
        journal,
        endpoint,
        listens=(serve.host, serve.port),
        says=display.says,
    )
    loop = asyncio.get_running_loop()
    record_start(journal, loop.time(), "server", serve.policy, team.settings, team.links)
    display.says(f"standby of {endpoint}, policy {serve.policy}; Ctrl-C ends")
    waiting = asyncio.create_task(standby.run())
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, waiting.cancel)
    try:
        server = await waiting
    except asyncio.CancelledError:
        journal.record(loop.time(), "end", cause="interrupted")
        return "interrupted"
    try:
        return await _run(server, server.keeper.server.node, display, serve, lambda: None)
    finally:
        await standby.close()


def _keeper(serve: ServeSettings, team: TeamSpec, state: StateSettings, journal: Journal) -> ServerKeeper | None:
    """What keeps the server's state; ``None``: nothing does."""
    if serve.state is None:
        if state.durability != "none":
            raise ConfigError(f"durability: expected a folder for {state.durability!r}, got none; give --state DIR")
        return None
    return ServerKeeper(state_at(serve.state, state), team, state, journal, take_over=serve.take_over)


def _what_came_back(keeper: ServerKeeper) -> str:
    recovered = keeper.recovered
    if recovered is None:
        return "the state is new"
    names = ", ".join(sorted(recovered.node.members)) or "nobody"
    return f"the team is back in {keeper.recovery_s:.1f} s: {names}; {recovered.inputs} inputs behind the last snapshot"


def lost(server: Server[Any]) -> RowcastError | None:
    """Why it must end, if its log says so."""
    return server.lost if isinstance(server, DurableServer) else None


async def _run(
    server: Server[Any], node: ServerNode, display: TeamDisplay, serve: ServeSettings, begin: Callable[[], None]
) -> str:
    """Serve until something ends it; returns what. ``begin`` is called as soon as the port is ours."""
    loop = asyncio.get_running_loop()
    interrupted = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, interrupted.set)
    if not server.listens:
        await server.start()
    failure: RowcastError | None = None
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
    watch = TeamWatch(node.team, serve.watch_every_s or (PAGE_EVERY_S if serve.page is not None else 0.0))
    try:
        while not cause:
            now = server.now()
            watch.look(now)
            display.shows(f"{node.policy.name} on {server.host}:{server.port}", node.status(now))
            if now >= ends:
                cause = f"{serve.seconds:g} s are over"
            cause = _cause(server, node, serve) or cause
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(interrupted.wait(), TICK_S)
                cause = cause or "interrupted"
    finally:
        cause, failure = cause or "the server failed", lost(server)
        await server.close(cause)
        # While the loop still takes the signals: behind it one of them would end the process before the record.
        node.journal.record(server.now(), "end", cause=cause)
        if serve.audit is not None:
            save_server(serve.audit, node)
    if failure is not None:
        raise failure
    if isinstance(server, LeadingServer) and server.deposed.is_set():
        raise SteppedDown(f"this server steps down: {server.cause}; start it again with --standby-of")
    if cause != "interrupted":
        display.says(cause)
    return cause


def _cause(server: Server[Any], node: ServerNode, serve: ServeSettings) -> str:
    """What in the team or the server ends it now; nothing: it goes on."""
    # A finished worker is forgotten; one whose link was lost is waited for as long as the gate counts it.
    if serve.once and node.gate.opened and not any(member.link or member.gated for member in node.members.values()):
        return "everybody has finished" if node.finished else "everybody is gone, and nobody had finished"
    if isinstance(server, LeadingServer) and server.deposed.is_set():
        return "stepped down"
    return "" if lost(server) is None else "the log is lost"
