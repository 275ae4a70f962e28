"""The comparison of policies: a server, worker processes on loopback, and links that fade the same way for each."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from rowcast.config import ServerSettings, save_tables
from rowcast.drivers.sockets import Server
from rowcast.errors import ConfigError
from rowcast.experiment.audit import AuditReport, ServerAudit, WorkerAudit, prove
from rowcast.experiment.claim import claimed
from rowcast.experiment.loading import loading
from rowcast.experiment.preparing import now_and_then
from rowcast.experiment.processes import ProcessGroup
from rowcast.experiment.robot import shaped_trace
from rowcast.experiment.settings import DemoSettings, RobotSettings, ShapeSettings
from rowcast.experiment.starting import keep_starting_state
from rowcast.journal import open_journal, read_journal
from rowcast.optim.shared import shared_parameters
from rowcast.optim.tensors import read_into
from rowcast.rows import Layout
from rowcast.session import record_start
from rowcast.sync import parse_policy
from rowcast.tasks import Metric, Task, find_task
from rowcast.training import ServerNode
from rowcast.training.member import MemberStatus

__all__ = ["DemoObserver", "PolicyRun", "run_demo"]

log = logging.getLogger("rowcast")

#: A machine may take so long to load PyTorch in all workers at once (s).
READY_LIMIT_S = 120.0
#: Delivering the rest over unhindered loopback, and a last look at the test images (s).
FINISH_LIMIT_S = 45.0
#: The end of a worker process that has nothing more to do (s).
END_LIMIT_S = 20.0
#: How often the observer is told where everybody is (s).
TICK_S = 0.5


@dataclass(frozen=True)
class PolicyRun:
    """What a policy's run left behind.

    Attributes:
        policy: its text.
        journals: of the workers, by index; ``server_journal``: of the server.
        audit: the proof that nothing was lost.
        metrics: of the task, the primary one first.
        drained: the metrics after everything was delivered, by name, mean over workers.
        busy_s: seconds really computed in a step, mean; ``late_share``: share of the steps that took longer than
            the pace.
        best_bps: best rate of each worker's trace, bit/s.
        model_bytes: the whole model, encoded as the first policy does.
        congestion_control: TCP congestion control in force.
    """

    policy: str
    journals: tuple[Path, ...]
    server_journal: Path
    audit: AuditReport
    metrics: tuple[Metric, ...]
    drained: Mapping[str, float]
    busy_s: float
    late_share: float
    best_bps: float
    model_bytes: int
    congestion_control: str | None


class DemoObserver(Protocol):
    """Shows how a comparison goes."""

    def says(self, text: str) -> None:
        """Something began or ended."""

    def shows(self, policy: str, left_s: float, total_s: float, lines: list[MemberStatus]) -> None:
        """Where everybody is; called about twice a second."""


@dataclass(frozen=True)
class _Job:
    """What is the same for all policies."""

    settings: DemoSettings
    metrics: tuple[Metric, ...]
    out: Path
    layout: Layout
    initial: npt.NDArray[np.float32]
    model_bytes: int
    best_bps: float


def run_demo(settings: DemoSettings, out: Path, observer: DemoObserver) -> list[PolicyRun]:
    """Run each policy on the same data, model and links, and prove that nothing was lost.

    Writes the starting model to ``OUT/states`` (kept for the next time), the logs of the worker processes, and for each
    policy a folder with the journals of the workers and their audits.

    Raises:
        ConfigError, DataError: settings, data or the folder cannot be used.
        WorkerFailed: a worker process ended badly or hangs; all of them are ended first.
    """
    for way in (0, 1):
        shaped_trace(ShapeSettings(settings.trace, 1e6, settings.seed), 0, way)
    found = find_task(settings.task, settings.data)
    options = found.kind.limit_tests({}, settings.test_items)
    task = found.kind.build(options, data_dir=settings.data, seed=settings.seed)
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
        return _run_all(replace(settings, task=found.name), out, observer, task, found.code)


def _run_all(settings: DemoSettings, out: Path, observer: DemoObserver, task: Task, code: str) -> list[PolicyRun]:
    state = _starting_model(task, out, observer, code)
    with loading():
        robot = task.worker(0, settings.workers)
    shared = shared_parameters(robot.model, robot.optimizer)
    initial = shared.layout.zeros()
    read_into(initial, shared.layout, shared.tensors)
    # The links are the same for all policies, also where these encode differently.
    model_bytes = int(parse_policy(settings.policies[0]).row_codec.row_bytes(shared.layout).sum())
    best_bps = 8 * model_bytes / (settings.ratio * settings.pace_s)
    job = _Job(settings, task.metrics, out, shared.layout, initial, model_bytes, best_bps)
    return asyncio.run(_run_policies(job, state, observer))


def _starting_model(task: Task, out: Path, observer: DemoObserver, code: str) -> Path:
    """The file of the starting model; made if there is none that fits."""
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


async def _run_policies(job: _Job, state: Path, observer: DemoObserver) -> list[PolicyRun]:
    """One policy after the other, with the same worker processes: to load PyTorch takes seconds of each."""
    settings = job.settings
    names = [f"robot-{index}" for index in range(settings.workers)]
    async with ProcessGroup() as group:
        runs = [await _run_policy(job, text, state, group, names, observer) for text in settings.policies]
        await group.wait_ended(END_LIMIT_S)
    return runs


def _emptied_folder(job: _Job, text: str) -> Path:
    """The folder of a policy, without what an earlier demo has left in it."""
    folder = job.out / text.replace(":", "-")
    try:
        folder.mkdir(exist_ok=True)
        for stale in [path for kind in ("jsonl", "npz", "json") for path in folder.glob(f"*.{kind}")]:
            stale.unlink()
    except OSError as error:
        raise ConfigError(f"out {folder}: cannot be used: {error.strerror}") from error
    return folder


async def _run_policy(
    job: _Job, text: str, state: Path, group: ProcessGroup, names: Sequence[str], observer: DemoObserver
) -> PolicyRun:
    """Run one policy; the processes are started for the first."""
    settings, folder = job.settings, _emptied_folder(job, text)
    files = [folder / f"{name}.json" for name in names]
    async with _server(job, text, folder) as (node, server):
        for index, file in enumerate(files):
            save_tables(file, {"robot": _robot(job, folder, state, f"127.0.0.1:{server.port}", index)})
        if not group.workers:
            observer.says(f"{text}: starting {settings.workers} workers")
            for name, file in zip(names, files, strict=True):
                command = [sys.executable, "-m", "rowcast", "train", "--config", str(file), "--quiet", "--await-start"]
                await group.start(name, command, job.out / f"{name}.log")
            await group.wait_ready(READY_LIMIT_S)
        watcher = asyncio.ensure_future(_watch(node, text, settings.seconds, observer))
        try:
            group.go(map(str, files))
            await group.wait_finished(settings.seconds + FINISH_LIMIT_S)
        finally:
            watcher.cancel()
            await asyncio.gather(watcher, return_exceptions=True)
    workers = [WorkerAudit.load(folder / f"{name}.npz") for name in names]
    busy_s = np.concatenate([worker.busy_s for worker in workers])
    return PolicyRun(
        policy=text,
        journals=tuple(folder / f"{name}.jsonl" for name in names),
        server_journal=folder / "server.jsonl",
        audit=prove(ServerAudit.of(node, job.layout, job.initial), workers),
        metrics=job.metrics,
        drained={
            name: float(np.mean([worker.metrics[name] for worker in workers]))
            for name in [each.name for each in job.metrics]
            if all(name in worker.metrics for worker in workers)
        },
        busy_s=float(busy_s.mean()),
        late_share=float(np.mean(busy_s > settings.pace_s)),
        best_bps=job.best_bps,
        model_bytes=job.model_bytes,
        congestion_control=_congestion_control(folder / "server.jsonl"),
    )


@contextlib.asynccontextmanager
async def _server(job: _Job, text: str, folder: Path) -> AsyncIterator[tuple[ServerNode, Server[ServerNode]]]:
    """The server of one policy, listening on loopback."""
    settings = job.settings
    with open_journal("server", folder / "server.jsonl") as journal:
        server_settings = ServerSettings(expected_workers=settings.workers, gather_s=0.0)
        record_start(journal, time.monotonic(), "server", text, server_settings, settings.link)
        node = ServerNode(parse_policy(text), settings=server_settings, link_settings=settings.link, journal=journal)
        server = Server(node, "127.0.0.1", 0, link_settings=settings.link)
        await server.start()
        try:
            yield node, server
        finally:
            await server.close()
            journal.record(time.monotonic(), "end", cause="the run is over")


async def _watch(node: ServerNode, policy: str, seconds: float, observer: DemoObserver) -> None:
    """Tell the observer now and then where everybody is."""
    loop = asyncio.get_running_loop()
    ends = loop.time() + seconds
    while True:
        now = loop.time()
        observer.shows(policy, max(ends - now, 0.0), seconds, node.status(now))
        await asyncio.sleep(TICK_S)


def _congestion_control(server_journal: Path) -> str | None:
    """What was in force on the workers' connections."""
    found = {record["congestion_control"] for record in read_journal(server_journal) if record["event"] == "link_up"}
    return ", ".join(sorted(filter(None, found))) or None


def _robot(job: _Job, folder: Path, state: Path, server: str, index: int) -> RobotSettings:
    """What one worker does."""
    settings, name = job.settings, f"robot-{index}"
    return RobotSettings(
        server=server,
        name=name,
        task=settings.task,
        index=index,
        workers=settings.workers,
        data=settings.data,
        seed=settings.seed,
        state=state,
        seconds=settings.seconds,
        eval_every=settings.eval_every,
        test_items=settings.test_items,
        pace_s=settings.pace_s,
        shape=ShapeSettings(settings.trace, job.best_bps, settings.seed),
        journal=folder / f"{name}.jsonl",
        audit=folder / f"{name}.npz",
        link_settings=settings.link,
    )
