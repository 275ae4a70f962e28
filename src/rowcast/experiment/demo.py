"""The comparison of policies: a server, worker processes on loopback, and links that fade the same way for each."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rowcast.experiment.audit import AuditReport, WorkerAudit, prove
from rowcast.experiment.local_team import (
    SERVER_JOURNAL,
    DemoObserver,
    LocalRun,
    demo_folder,
    drained_metrics,
    run_team,
    starting_model,
    starting_point,
    team_processes,
)
from rowcast.experiment.processes import ProcessGroup
from rowcast.experiment.robot import shaped_trace
from rowcast.experiment.settings import DemoSettings, RobotSettings, ShapeSettings
from rowcast.journal import read_journal
from rowcast.rows import Layout
from rowcast.sync import parse_policy
from rowcast.tasks import Metric, Task, find_task

__all__ = ["DemoObserver", "PolicyRun", "run_demo"]


@dataclass(frozen=True)
class PolicyRun:
    """What a policy's run left behind.

    Attributes:
        policy: its text.
        task_options: what of the task differed from its own settings, by name; what follows from the pace included.
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
    task_options: Mapping[str, Any]
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
    options = found.kind.at_pace(settings.task_options, settings.pace_s)
    limited = found.kind.limit_tests(options, settings.test_items)
    task = found.kind.build(limited, data_dir=settings.data, seed=settings.seed)
    with demo_folder(out):
        return _run_all(replace(settings, task=found.name, task_options=options), out, observer, task, found.code)


def _run_all(settings: DemoSettings, out: Path, observer: DemoObserver, task: Task, code: str) -> list[PolicyRun]:
    state = starting_model(task, out, observer, code)
    layout, initial = starting_point(task, settings.workers)
    # The links are the same for all policies, also where these encode differently.
    model_bytes = int(parse_policy(settings.policies[0]).row_codec.row_bytes(layout).sum())
    best_bps = 8 * model_bytes / (settings.ratio * settings.pace_s)
    job = _Job(settings, task.metrics, out, layout, initial, model_bytes, best_bps)
    return asyncio.run(_run_policies(job, state, observer))


async def _run_policies(job: _Job, state: Path, observer: DemoObserver) -> list[PolicyRun]:
    async with team_processes() as group:
        return [await _run_policy(job, text, state, group, observer) for text in job.settings.policies]


async def _run_policy(job: _Job, text: str, state: Path, group: ProcessGroup, observer: DemoObserver) -> PolicyRun:
    settings = job.settings
    robots = [_robot(job, state, index) for index in range(settings.workers)]
    folder = job.out / text.replace(":", "-")
    run = LocalRun(text, folder, text, settings.seconds, settings.link, robots, settings.relays)
    servers = await run_team(run, group, job.out, observer)
    names = [robot.name for robot in robots]
    workers = [WorkerAudit.load(run.audit(name)) for name in names]
    busy_s = np.concatenate([worker.busy_s for worker in workers])
    return PolicyRun(
        policy=text,
        task_options=settings.task_options,
        journals=tuple(map(run.journal, names)),
        server_journal=run.folder / SERVER_JOURNAL,
        audit=prove(servers.audit(job.layout, job.initial), workers),
        metrics=job.metrics,
        drained=drained_metrics(job.metrics, workers),
        busy_s=float(busy_s.mean()),
        late_share=float(np.mean([worker.late_share for worker in workers])),
        best_bps=job.best_bps,
        model_bytes=job.model_bytes,
        congestion_control=_congestion_control(run.folder / SERVER_JOURNAL),
    )


def _congestion_control(server_journal: Path) -> str | None:
    """What was in force on the workers' connections."""
    found = {record["congestion_control"] for record in read_journal(server_journal) if record["event"] == "link_up"}
    return ", ".join(sorted(filter(None, found))) or None


def _robot(job: _Job, state: Path, index: int) -> RobotSettings:
    """What one worker does."""
    settings = job.settings
    return RobotSettings(
        name=f"robot-{index}",
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
        task_options=settings.task_options,
        shape=ShapeSettings(settings.trace, job.best_bps, settings.seed),
        link_settings=settings.link,
    )
