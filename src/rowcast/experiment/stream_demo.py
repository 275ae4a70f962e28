"""The demo of streams: robots whose samples come at unequal rates, with one rule of batches after the other.

Each robot has a file of its own with samples of the task, and plays it at its rate: what ``rowcast train --source
'FILE?rate=12&loop=1'`` does for anybody.
"""

from __future__ import annotations

import asyncio
import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rowcast.config import LinkSettings
from rowcast.errors import ConfigError
from rowcast.experiment.audit import AuditReport, WorkerAudit, prove
from rowcast.experiment.feeding import Feeding, usual_buffer
from rowcast.experiment.folder import versions, write_whole
from rowcast.experiment.local_team import (
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
from rowcast.experiment.recorded_samples import write_samples
from rowcast.experiment.settings import RobotSettings, StreamSettings
from rowcast.experiment.stream_settings import StreamDemoSettings
from rowcast.metric import metrics_to_json
from rowcast.rows import Layout
from rowcast.streams import BatchRule, parse_buffer
from rowcast.tasks import Metric, Task, find_task

__all__ = ["SUMMARY", "StreamRun", "run_stream_demo"]

SUMMARY = "summary.json"


@dataclass(frozen=True)
class StreamRun:
    """What the run of a rule left behind.

    Attributes:
        folder: its journals.
        feeding: where its batches are from.
        audit: the proof that nothing was lost.
        drained: the metrics after everything was delivered, by name, mean over robots.
    """

    folder: Path
    feeding: Feeding
    audit: AuditReport
    drained: Mapping[str, float]


@dataclass(frozen=True)
class _Job:
    """What is the same for all rules.

    Attributes:
        robots: what each does, but for the rule.
    """

    settings: StreamDemoSettings
    metrics: tuple[Metric, ...]
    out: Path
    layout: Layout
    initial: npt.NDArray[np.float32]
    robots: Sequence[RobotSettings]


def run_stream_demo(settings: StreamDemoSettings, out: Path, observer: DemoObserver) -> list[StreamRun]:
    """Train with each rule on the same streams, and prove that nothing was lost.

    Writes the samples of each robot to ``OUT/streams``, the starting model to ``OUT/states`` (kept for the next time),
    the logs of the worker processes, for each rule a folder with the journals of the robots, and at the end
    ``OUT/summary.json``, by which a report finds them.

    Raises:
        ConfigError, DataError: settings, data or the folder cannot be used, or the task has no single samples.
        WorkerFailed: a worker process ended badly or hangs; all of them are ended first.
    """
    found = find_task(settings.task, settings.data)
    options = found.kind.limit_tests({}, settings.test_items)
    task = found.kind.build(options, data_dir=settings.data, seed=settings.seed)
    task.samples(0, len(settings.rates))  # refused before anything is written
    settings = replace(settings, task=found.name)
    with demo_folder(out):
        try:
            (out / SUMMARY).unlink(missing_ok=True)
            (out / "streams").mkdir(exist_ok=True)
        except OSError as error:
            raise ConfigError(f"out {out}: cannot be used: {error.strerror}") from error
        state = starting_model(task, out, observer, found.code)
        sources = _write_streams(settings, task, out / "streams")
        robots = [_robot(settings, index, source, state) for index, source in enumerate(sources)]
        layout, initial = starting_point(task, len(robots))
        job = _Job(settings, task.metrics, out, layout, initial, robots)
        runs = asyncio.run(_run_rules(job, observer))
        _write_summary(job, runs)
    return runs


def _write_streams(settings: StreamDemoSettings, task: Task, folder: Path) -> list[str]:
    """The sources of the robots: as many samples as the run takes, played again where that were too many."""
    sources = []
    for index, rate in enumerate(settings.rates):
        path = folder / f"robot-{index}.mcap"
        write_samples(path, task.samples(index, len(settings.rates)), math.ceil(rate * settings.seconds) + 1)
        sources.append(f"{path}?rate={rate:.12g}&loop=1")
    return sources


def _robot(settings: StreamDemoSettings, index: int, source: str, state: Path) -> RobotSettings:
    return RobotSettings(
        name=f"robot-{index}",
        task=settings.task,
        index=index,
        workers=len(settings.rates),
        data=settings.data,
        seed=settings.seed,
        state=state,
        seconds=settings.seconds,
        eval_every=settings.eval_every,
        test_items=settings.test_items,
        stream=StreamSettings((source,)),
    )


async def _run_rules(job: _Job, observer: DemoObserver) -> list[StreamRun]:
    async with team_processes() as group:
        return [await _run_rule(job, rule, group, observer) for rule in job.settings.rules]


async def _run_rule(job: _Job, rule: BatchRule, group: ProcessGroup, observer: DemoObserver) -> StreamRun:
    settings = job.settings
    buffer = usual_buffer(rule) if settings.buffer is None else parse_buffer(settings.buffer)
    robots = []
    for robot in job.robots:
        assert robot.stream is not None
        robots.append(replace(robot, stream=replace(robot.stream, batch=str(rule), buffer=str(buffer))))
    folder = job.out / str(rule).replace(":", "-")
    run = LocalRun(str(rule), folder, settings.policy, settings.seconds, LinkSettings(), robots)
    servers = await run_team(run, group, job.out, observer)
    audits = [WorkerAudit.load(run.audit(robot.name)) for robot in robots]
    return StreamRun(
        folder,
        Feeding("/".join(f"{rate:.12g}" for rate in settings.rates), str(rule), str(buffer)),
        prove(servers.audit(job.layout, job.initial), audits),
        drained_metrics(job.metrics, audits),
    )


def _write_summary(job: _Job, runs: Sequence[StreamRun]) -> None:
    """What was run. What came of it is in the journals, but for what a proof needs besides."""
    content = {
        "seed": job.settings.seed,
        "settings": dataclasses.asdict(job.settings),
        "metrics": metrics_to_json(job.metrics),
        "versions": versions(),
        "runs": [
            {
                "folder": run.folder.name,
                "policy": job.settings.policy,
                "feeding": dataclasses.asdict(run.feeding),
                "audit": {**dataclasses.asdict(run.audit), "clean": run.audit.clean},
                "drained": dict(run.drained),
            }
            for run in runs
        ],
    }
    try:
        write_whole(job.out / SUMMARY, content)
    except OSError as error:
        raise ConfigError(f"summary {job.out / SUMMARY}: cannot be written: {error.strerror}") from error
