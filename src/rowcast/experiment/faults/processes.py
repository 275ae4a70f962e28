"""The processes of a team that a fault script is played with: a server, and robots that count their iterations."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import resource
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from rowcast.config import LinkSettings, ServerSettings, StateSettings, WorkerSettings
from rowcast.drivers.sockets import DurableServer, Endpoint, Security, Server, Team
from rowcast.drivers.state import ServerKeeper, TeamSpec
from rowcast.errors import LocalProtocolError, RowcastError
from rowcast.experiment.faults.counting import LAYOUT, start_of_all, update_of
from rowcast.experiment.faults.disk import FaultyDisk
from rowcast.journal import Journal, open_journal
from rowcast.session import record_start
from rowcast.sync import parse_policy
from rowcast.training import ServerNode

__all__ = ["PARAMETERS", "HostOrder", "RobotOrder", "raise_descriptors", "run_host", "run_robot"]

#: The server's parameters at the end; a robot's are in its name.
PARAMETERS = "server"
#: How often a server tells where everybody is (s), and how often a robot looks at its phase.
STATUS_S, LOOK_S = 0.25, 0.001
#: So many descriptors are asked for.
DESCRIPTORS = 4096


@dataclass(frozen=True)
class HostOrder:
    """What a server process is to do.

    Attributes:
        folder: takes its journal, its parameters at the end, and its state where that is kept.
        port: where it listens; 0: the system chooses.
        policy, settings: of the team.
        durable: it keeps its state.
        team: the folder of its certificates; ``None``: there are none.
        seed: of what a loss of power leaves.
    """

    folder: Path
    port: int
    policy: str
    settings: ServerSettings
    durable: bool
    team: Path | None
    seed: str


@dataclass(frozen=True)
class RobotOrder:
    """What a robot process is to do.

    Attributes:
        name, index, workers: which of how many it is.
        folder: takes its journal, its parameters at the end, and its state where that is kept.
        port: where it connects.
        pace_s: seconds of a computation.
        settings: see :mod:`rowcast.config`.
        keeps: it keeps its state.
        team: the file of its certificate; ``None``: it has none.
        watched: it tells its phases.
    """

    name: str
    index: int
    workers: int
    folder: Path
    port: int
    pace_s: float
    settings: WorkerSettings
    keeps: bool
    team: Path | None
    watched: bool


def raise_descriptors() -> int:
    """Allow this process as many descriptors as it may have; returns how many those are."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = max(soft, min(hard, DESCRIPTORS) if hard != resource.RLIM_INFINITY else DESCRIPTORS)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return most


def _begin() -> None:
    """A Ctrl-C of the terminal is for the player; lines of the log would run through its display."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    logging.getLogger("rowcast").setLevel(logging.CRITICAL)


def _jump(seconds: float) -> None:
    """The wall clock of this process is another one from now on."""
    before = time.time
    time.time = lambda: before() + seconds


# -- the server --------------------------------------------------------------------------------------------------------


def run_host(order: HostOrder, pipe: Connection) -> None:
    """Serve until the pipe says ``stop``, or ends."""
    _begin()
    raise_descriptors()
    with open_journal("server", order.folder / "server.jsonl") as journal:
        asyncio.run(_Host(order, pipe, journal).run())


class _Host:
    def __init__(self, order: HostOrder, pipe: Connection, journal: Journal) -> None:
        self._order, self._pipe, self._journal = order, pipe, journal
        self._disk: FaultyDisk | None = None
        self._over = asyncio.Event()
        self.node: ServerNode
        self.server: Server[Any]

    async def run(self) -> None:
        order, link = self._order, LinkSettings()
        security = Security(team=order.team)
        keeper = None
        if order.durable:
            self._disk = FaultyDisk(order.folder / "server-state")
            spec = TeamSpec(order.policy, order.settings, link)
            keeper = ServerKeeper(self._disk, spec, StateSettings(durability="log"), self._journal)
            self.node = keeper.server.node
            self.server = DurableServer(keeper, port=order.port, security=security)
        else:
            self.node = ServerNode(parse_policy(order.policy), settings=order.settings, journal=self._journal)
            self.server = Server(self.node, port=order.port, security=security)
        await self.server.start()
        record_start(self._journal, self.server.now(), "server", order.policy, order.settings, link)
        if keeper is not None:
            keeper.record(self.server.now())
        loop = asyncio.get_running_loop()
        loop.add_reader(self._pipe.fileno(), self._on_word)
        self._pipe.send(("listening", self.server.port))
        while not self._over.is_set():
            self._pipe.send(("status", self.node.status(self.server.now())))
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._over.wait(), STATUS_S)
        loop.remove_reader(self._pipe.fileno())
        await self.server.close("the script is over")
        if self.node.parameters is not None:
            np.save(order.folder / PARAMETERS, self.node.parameters)
        self._pipe.send(("stopped",))

    def _on_word(self) -> None:
        try:
            word = self._pipe.recv()
        except EOFError:  # the player is gone
            self._over.set()
            return
        if word[0] == "stop":
            self._over.set()
        elif word[0] == "clock":
            _jump(word[1])
        elif word[0] == "full" and self._disk is not None:
            self._disk.full = word[1]
        elif word[0] == "power" and self._disk is not None:
            self._disk.lose_power(random.Random(self._order.seed))
            os.kill(os.getpid(), signal.SIGKILL)


# -- a robot -----------------------------------------------------------------------------------------------------------


def run_robot(order: RobotOrder, pipe: Connection) -> None:
    """Train until the pipe says ``finish``, or ends."""
    _begin()
    tell = _Teller(pipe)
    with open_journal(order.name, order.folder / f"{order.name}.jsonl") as journal:
        record_start(journal, time.monotonic(), "worker", None, order.settings, LinkSettings())
        team = Team(
            Endpoint("127.0.0.1", order.port, Security(team=order.team)),
            name=order.name,
            settings=order.settings,
            journal=journal,
            state_dir=order.folder / f"{order.name}-state" if order.keeps else None,
        )
        watching = threading.Event()
        if order.watched:
            threading.Thread(target=_watch, args=(team, tell, watching), daemon=True).start()
        try:
            _train(order, team, pipe, tell)
        except RowcastError as error:
            tell("failed", f"{type(error).__name__}: {error}")
        except EOFError:  # the player is gone
            team.leave()
        finally:
            watching.set()


class _Teller:
    """Says things through a pipe, from any thread."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self._lock = threading.Lock()

    def __call__(self, *word: object) -> None:
        with self._lock, contextlib.suppress(BrokenPipeError):  # the player is gone: its end is noticed elsewhere
            self._pipe.send(word)


def _train(order: RobotOrder, team: Team, pipe: Connection, tell: Callable[..., None]) -> None:
    team.start(LAYOUT, start_of_all())
    tell("joined", team.restored)
    update = update_of(order.index, order.workers)
    while not _told_to_finish(pipe, order.pace_s):
        with team.still():
            before = team.replica.copy()
        after = before - update
        tell("proposed", team.iteration)
        team.exchange(([after[spec.start : spec.stop] for spec in LAYOUT.tensors], 1.0, before))
        tell("finished step", team.iteration)
    team.finish(wait=True)
    np.save(order.folder / order.name, team.replica)
    tell("done", team.iteration)


def _told_to_finish(pipe: Connection, pace_s: float) -> bool:
    """Compute for a while, and hear what the player says; whether it is time to finish."""
    ends = time.monotonic() + pace_s
    while pipe.poll(max(ends - time.monotonic(), 0.0)):
        word = pipe.recv()
        if word[0] == "finish":
            return True
        if word[0] == "clock":
            _jump(word[1])
    return False


def _watch(team: Team, tell: Callable[..., None], over: threading.Event) -> None:
    """Tell each change of phase."""
    last: tuple[str, int] | None = None
    while not over.wait(LOOK_S):
        try:
            node = team.node
        except LocalProtocolError:  # it has not begun to join
            continue
        if (now := (node.state.value, node.iteration)) != last:
            last = now
            tell("phase", *now, time.monotonic())
