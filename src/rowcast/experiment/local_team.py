"""A team on this machine: the server in this process, each robot in one of its own, over loopback."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from rowcast.config import LinkSettings, ServerSettings, save_tables
from rowcast.drivers.claim import claimed
from rowcast.drivers.sockets import Server
from rowcast.errors import ConfigError
from rowcast.experiment.audit import ServerAudit, WorkerAudit
from rowcast.experiment.loading import loading
from rowcast.experiment.local_relays import local_relays
from rowcast.experiment.preparing import now_and_then
from rowcast.experiment.processes import ProcessGroup
from rowcast.experiment.settings import RobotSettings
from rowcast.experiment.starting import keep_starting_state
from rowcast.journal import open_journal
from rowcast.metric import Metric
from rowcast.optim.shared import shared_parameters
from rowcast.optim.tensors import read_into
from rowcast.rows import Layout
from rowcast.session import record_start
from rowcast.sync import parse_policy
from rowcast.tasks import Task
from rowcast.training import ServerNode
from rowcast.training.member import MemberStatus
from rowcast.warming import Kernel, warm_up, watched

__all__ = [
    "SERVER_JOURNAL",
    "DemoObserver",
    "LocalRun",
    "LocalServers",
    "demo_folder",
    "drained_metrics",
    "run_team",
    "starting_model",
    "starting_point",
    "team_processes",
]

SERVER_JOURNAL = "server.jsonl"
#: A machine may take so long to load PyTorch in all workers at once (s).
READY_LIMIT_S = 120.0
#: Delivering the rest over unhindered loopback, and a last look at the test images (s).
FINISH_LIMIT_S = 45.0
#: The end of a worker process that has nothing more to do (s).
END_LIMIT_S = 20.0
#: How often the observer is told where everybody is (s).
TICK_S = 0.5


class DemoObserver(Protocol):
    """Shows how a comparison goes."""

    def says(self, text: str) -> None:
        """Something began or ended."""

    def shows(self, run: str, left_s: float, total_s: float, lines: list[MemberStatus]) -> None:
        """Where everybody is; called about twice a second."""


@dataclass(frozen=True)
class LocalRun:
    """What a team is to do.

    Attributes:
        name: for people.
        folder: takes the journals; what an earlier run has left in it is deleted.
        policy: its text.
        seconds: how long the robots train.
        link: how the server puts bytes on the links.
        robots: what each does; the server's address, journal and audit are filled in here.
        relays: between the server and the robots, each with as many below it; 0: there are none.
    """

    name: str
    folder: Path
    policy: str
    seconds: float
    link: LinkSettings
    robots: Sequence[RobotSettings]
    relays: int = 0

    def journal(self, name: str) -> Path:
        """Of a robot."""
        return self.folder / f"{name}.jsonl"

    def audit(self, name: str) -> Path:
        """Of a robot."""
        return self.folder / f"{name}.npz"


@dataclass(frozen=True)
class LocalServers:
    """The servers of a run.

    Attributes:
        root: whose parameters are the team's.
        ports: where each robot connects.
        below: the nodes that they connect to: the relays, or the root itself.
    """

    root: ServerNode
    ports: tuple[int, ...]
    below: tuple[ServerNode, ...]

    def audit(self, layout: Layout, initial: npt.NDArray[np.float32]) -> ServerAudit:
        """What they did with the rows of the robots; the parameters are the root's."""
        of_root = ServerAudit.of(self.root, layout, initial)
        applied = {name: frames for node in self.below for name, frames in node.frames_applied.items()}
        return replace(of_root, frames_applied=applied)


@contextlib.contextmanager
def demo_folder(out: Path) -> Iterator[None]:
    """``out`` is there, and no other demo is in it meanwhile.

    Raises:
        ConfigError: it cannot be made, or another demo runs in it.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"out {out}: cannot be made: {error.strerror}") from error
    with contextlib.ExitStack() as stack:
        try:  # another demo in the folder would delete the journals of this one
            busy = f"out {out}: another demo runs in this folder; choose another --out"
            stack.enter_context(claimed(out / ".lock", busy))
        except OSError as error:
            raise ConfigError(f"out {out}: cannot be used: {error.strerror}") from error
        yield


def starting_model(task: Task, out: Path, observer: DemoObserver, code: str) -> Path:
    """The file of the starting model; made if there is none that fits.

    Raises:
        ConfigError: the folder cannot be used.
    """
    try:
        kept = keep_starting_state(task, out / "states", now_and_then(observer.says), code=code)
        path = out / "states" / "start.npz" if kept is None else kept
        if kept is None:
            path.parent.mkdir(exist_ok=True)
            task.save_state(path)
    except OSError as error:
        raise ConfigError(f"out {out}: cannot be used: {error}") from error
    observer.says(f"starting model: {task.describe_start()}")
    return path


def starting_point(task: Task, workers: int) -> tuple[Layout, npt.NDArray[np.float32]]:
    """How the model that a team of ``workers`` trains lies in memory, and what it begins with."""
    with loading():
        robot = task.worker(0, workers)
    shared = shared_parameters(robot.model, robot.optimizer)
    initial = shared.layout.zeros()
    read_into(initial, shared.layout, shared.tensors)
    return shared.layout, initial


@contextlib.asynccontextmanager
async def team_processes() -> AsyncIterator[ProcessGroup]:
    """The processes of several runs, one after the other: to load PyTorch takes seconds of each."""
    async with ProcessGroup() as group:
        yield group
        await group.wait_ended(END_LIMIT_S)


async def run_team(run: LocalRun, group: ProcessGroup, logs: Path, observer: DemoObserver) -> LocalServers:
    """One run; the processes are started for the first. Their logs are in ``logs``.

    Returns:
        the servers, as they were at the end.

    Raises:
        ConfigError: the folder cannot be used.
        WorkerFailed: a worker process ended badly or hangs.
    """
    _empty(run.folder)
    _compile_kernels(run.policy, observer)
    files = [run.folder / f"{robot.name}.json" for robot in run.robots]
    async with _servers(run) as servers:
        for robot, file, port in zip(run.robots, files, servers.ports, strict=True):
            told = replace(
                robot,
                server=f"127.0.0.1:{port}",
                journal=run.journal(robot.name),
                audit=run.audit(robot.name),
            )
            save_tables(file, {"robot": told})
        if not group.workers:
            observer.says(f"{run.name}: starting {len(files)} workers")
            for robot, file in zip(run.robots, files, strict=True):
                command = [sys.executable, "-m", "rowcast", "train", "--config", str(file), "--quiet", "--await-start"]
                await group.start(robot.name, command, logs / f"{robot.name}.log")
            await group.wait_ready(READY_LIMIT_S)
        watcher = asyncio.ensure_future(_watch(servers, run, observer))
        try:
            group.go(map(str, files))
            await group.wait_finished(run.seconds + FINISH_LIMIT_S)
        finally:
            watcher.cancel()
            await asyncio.gather(watcher, return_exceptions=True)
    return servers


def _compile_kernels(policy: str, observer: DemoObserver) -> None:
    """Before the clock runs: the server is in this process, and the robots find what is kept."""

    def show(kernel: Kernel) -> None:
        if kernel is next(iter(warmed.compiled), None):
            observer.says("compiling kernels, once on this machine")

    with watched(time.perf_counter, show) as warmed:
        warm_up(policy)


def drained_metrics(metrics: Sequence[Metric], workers: Sequence[WorkerAudit]) -> dict[str, float]:
    """The metrics after everything was delivered, by name: the mean over workers, where each measured it."""
    return {
        metric.name: float(np.mean([worker.metrics[metric.name] for worker in workers]))
        for metric in metrics
        if all(metric.name in worker.metrics for worker in workers)
    }


def _empty(folder: Path) -> None:
    """The folder of a run, without what an earlier one has left in it."""
    try:
        folder.mkdir(exist_ok=True)
        for stale in [path for kind in ("jsonl", "npz", "json") for path in folder.glob(f"*.{kind}")]:
            stale.unlink()
    except OSError as error:
        raise ConfigError(f"out {folder}: cannot be used: {error.strerror}") from error


@contextlib.asynccontextmanager
async def _servers(run: LocalRun) -> AsyncIterator[LocalServers]:
    """The server, and relays where there are any, listening on loopback."""
    with open_journal("server", run.folder / SERVER_JOURNAL) as journal:
        settings = ServerSettings(expected_workers=run.relays or len(run.robots), gather_s=0.0)
        record_start(journal, time.monotonic(), "server", run.policy, settings, run.link)
        node = ServerNode(parse_policy(run.policy), settings=settings, link_settings=run.link, journal=journal)
        server = Server(node, "127.0.0.1", 0, link_settings=run.link)
        await server.start()
        try:
            each = len(run.robots) // max(run.relays, 1)
            async with local_relays(run.relays, each, run.policy, run.link, run.folder, server.port) as relays:
                below = relays or [(server.port, node)]
                ports = [port for port, _ in below for _ in range(each)]
                yield LocalServers(node, tuple(ports), tuple(found for _, found in below))
        finally:
            await server.close()
            journal.record(time.monotonic(), "end", cause="the run is over")


async def _watch(servers: LocalServers, run: LocalRun, observer: DemoObserver) -> None:
    """Tell the observer now and then where everybody is."""
    loop = asyncio.get_running_loop()
    ends = loop.time() + run.seconds
    while True:
        now = loop.time()
        lines = [line for node in servers.below for line in node.status(now)]
        observer.shows(run.name, max(ends - now, 0.0), run.seconds, lines)
        await asyncio.sleep(TICK_S)
