"""``rowcast train``: a worker for a task."""

from __future__ import annotations

import itertools
import queue
import signal
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rowcast.cli.options import limit_threads, options_from
from rowcast.config import load_tables
from rowcast.energy.live import POWER_W
from rowcast.errors import ConfigError
from rowcast.experiment.loading import loading
from rowcast.experiment.settings import RobotSettings, StreamSettings

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
            help="Load everything and print 'ready'. Each line of standard input names a settings file: train as it "
            "says, and print 'finished'. Leave when standard input ends."
        ),
    ] = False,
    await_team: Annotated[
        bool,
        typer.Option(
            help="With --await-start: having joined the team print 'joined', and train once another line has come."
        ),
    ] = False,
    source: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SOURCE",
            help="Train on samples that arrive: kafka://HOST:PORT/TOPIC, mqtt://HOST:PORT/TOPIC, dir://FOLDER, or a "
            ".csv, .mcap or rosbag2 file; repeatable.",
        ),
    ] = None,
    quiet: Annotated[bool, typer.Option(help="No progress lines.")] = False,
) -> None:
    """Train a task as a worker of a team. Without --seconds and --steps: until Ctrl-C, or the end of its samples."""
    limit_threads(robot.threads)
    with loading():
        from rowcast.experiment import run_robot
    from rowcast.tasks import load_task

    settings = replace(robot, task_options=task.given)
    if source:
        settings = replace(settings, stream=replace(robot.stream or StreamSettings(), sources=tuple(source)))
    talk = _Talk(quiet)
    if await_start:
        _train_as_told(settings, await_team=await_team)
        return
    if await_team:
        raise ConfigError("--await-team: expected --await-start beside it; add it, or leave --await-team out")
    result = run_robot(settings, joined=talk.joined, progress=talk.progress)
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
        fed = "batch {samples:.0f}, queue {queued:.0f}, ".format(**metrics) if "queued" in metrics else ""
        power = f"{metrics[POWER_W]:.1f} W, " if metrics.get(POWER_W) else ""
        self.says(
            f"{self._team.name}: step {progress.iteration}, loss {progress.loss:.3f}, {progress.written}, {fed}{power}"
            f"rows sent {100 * metrics.get('share', 0):.0f} %, behind {metrics.get('staleness', 0):.0f}"
        )


def _train_as_told(settings: RobotSettings, *, await_team: bool) -> None:
    """Load everything, then train once for each settings file that standard input names, until it ends.

    With ``await_team`` a robot that has joined says so, and waits for another line.

    Raises:
        KeyboardInterrupt: it ended before anything was trained, or while this robot trained.
    """
    from rowcast.experiment import run_robot
    from rowcast.experiment.robot import load_robot

    load_robot(settings)
    print("ready", flush=True)
    orders = _Orders()
    orders.start()
    first = orders.next()
    if first is None:
        raise KeyboardInterrupt

    def joined(team: Team) -> None:
        if not await_team:
            return
        print("joined", flush=True)
        if orders.next() is None:
            raise KeyboardInterrupt

    for path in itertools.chain([first], iter(orders.next, None)):
        run_robot(load_tables({"robot": RobotSettings}, Path(path))["robot"], joined=joined)
        orders.idle.set()
        print("finished", flush=True)


class _Orders(threading.Thread):
    """Reads lines of standard input; interrupts the main thread when that ends while it trains.

    Args:
        source: descriptor of the file to read.

    Attributes:
        idle: set while the main thread has no order.
    """

    def __init__(self, source: int = 0) -> None:
        super().__init__(name="rowcast-stdin", daemon=True)
        self._source = source
        self.idle = threading.Event()
        self.idle.set()
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def next(self) -> str | None:
        """The next line; ``None``: there is none."""
        return self._lines.get()

    def run(self) -> None:
        # Not by a buffered reader: the end of the process would wait for its lock.
        with open(self._source, "rb", buffering=0, closefd=False) as stdin:
            for line in stdin:
                self.idle.clear()
                self._lines.put(line.decode().rstrip("\n"))
        if self.idle.is_set():
            self._lines.put(None)
        else:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
