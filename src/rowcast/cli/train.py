"""``rowcast train``: a worker for a task."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rowcast.cli.options import limit_threads, options_from
from rowcast.experiment.loading import loading
from rowcast.experiment.settings import RobotSettings

if TYPE_CHECKING:
    from rowcast.drivers.sockets import Team
    from rowcast.experiment import Progress
    from rowcast.tasks import TaskOptions

__all__ = ["train"]

#: Seconds between two lines about the progress.
REPORT_EVERY_S = 5.0


def _task_options(settings: Mapping[str, Any]) -> type:
    """The options of the task that was named."""
    with loading():
        from rowcast.tasks import load_task

    return load_task(settings["robot"].task).options_type()


@options_from(robot=RobotSettings, task=_task_options)
def train(
    robot: RobotSettings,
    task: TaskOptions,
    await_start: Annotated[
        bool,
        typer.Option(
            help="Load everything, print 'ready', begin with the first line of standard input, leave when it ends."
        ),
    ] = False,
    quiet: Annotated[bool, typer.Option(help="No progress lines.")] = False,
) -> None:
    """Train a task as a worker of a team. Without --seconds and --steps: until Ctrl-C."""
    limit_threads(robot.threads)
    with loading():
        from rowcast.experiment import run_robot
    from rowcast.tasks import load_task

    settings = replace(robot, task_options=task.given)
    talk = _Talk(quiet)
    result = run_robot(
        settings, ready=_await_start if await_start else None, joined=talk.joined, progress=talk.progress
    )
    metrics = load_task(robot.task).metrics
    values = ", ".join(f"{each.name} {each.written(result.metrics.get(each.name))}" for each in metrics)
    talk.says(f"{robot.name}: finished after {result.iterations} steps, {values}")


class _Talk:
    """Tells the user how it goes, now and then."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._next = 0.0
        self._team: Team | None = None

    def says(self, text: str) -> None:
        if not self._quiet:
            print(text, flush=True)

    def joined(self, team: Team) -> None:
        self._team = team
        self.says(f"{team.name}: joined the team at {team.address}")

    def progress(self, progress: Progress) -> None:
        now = time.monotonic()
        if now < self._next or self._team is None:
            return
        self._next = now + REPORT_EVERY_S
        metrics = self._team.node.metrics
        self.says(
            f"{self._team.name}: step {progress.iteration}, loss {progress.loss:.3f}, {progress.written}, "
            f"rows sent {100 * metrics.get('share', 0):.0f} %, behind {metrics.get('staleness', 0):.0f}"
        )


def _await_start() -> None:
    """Say that all is loaded, wait for a line, and leave when whoever started us is gone."""
    print("ready", flush=True)
    if not sys.stdin.readline():
        raise KeyboardInterrupt
    threading.Thread(target=_leave_with_parent, name="rowcast-stdin", daemon=True).start()


def _leave_with_parent() -> None:
    while os.read(0, 4096):
        pass
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
