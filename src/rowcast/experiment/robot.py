"""One robot: a worker of a task, from the data to the last update delivered."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from rowcast.config import WorkerSettings
from rowcast.drivers.metering import metered
from rowcast.drivers.sockets import Endpoint, Security, Shaper, Team
from rowcast.energy import Meter, open_meter
from rowcast.errors import ConfigError, MeterError, NonFiniteGradient, SourceEnded
from rowcast.experiment.audit import WorkerAudit
from rowcast.experiment.cell import batch_size
from rowcast.experiment.devices import parse_devices
from rowcast.experiment.gradients import Computed, computing, source_of, streaming
from rowcast.experiment.loading import loading
from rowcast.experiment.preparing import now_and_then
from rowcast.experiment.runners.links import with_best
from rowcast.experiment.settings import RobotSettings, ShapeSettings
from rowcast.experiment.telling import forget_shown, save_shown, tell_events
from rowcast.journal import open_journal
from rowcast.links import Trace, named_trace
from rowcast.optim import Optimizer
from rowcast.optim.shared import shared_parameters
from rowcast.session import record_start
from rowcast.tasks import Metric, Task, TaskWorker, find_task, save_model
from rowcast.tasks.saved import check_model_file
from rowcast.warming import warm_worker

__all__ = ["Progress", "load_robot", "run_robot", "shaped_trace"]

log = logging.getLogger("rowcast")

UP, DOWN = 0, 1

_TimeOfGradient: TypeAlias = Callable[[int, int | None], float]


@dataclass(frozen=True)
class Progress:
    """Where a robot is, for a display.

    Attributes:
        iteration: iterations finished.
        loss: of the last batch.
        metrics: of the task, the primary one first; ``values``: by name, as they were when last measured.
        passed_s: since its first step began.
    """

    iteration: int
    loss: float
    metrics: tuple[Metric, ...]
    values: Mapping[str, float]
    passed_s: float

    @property
    def written(self) -> str:
        """The primary metric as it was when last measured, with its name and unit."""
        primary = self.metrics[0]
        return f"{primary.name} {primary.written(self.values.get(primary.name))}"


def shaped_trace(shape: ShapeSettings, index: int, direction: int) -> Trace:
    """The trace of one robot in one direction (0 up, 1 down).

    Raises:
        ConfigError: no such link, or one that cannot be scaled.
    """
    trace = named_trace(shape.link, (shape.seed, index, direction))
    return trace if shape.best_bps is None else with_best(trace, shape.best_bps)


def load_robot(settings: RobotSettings) -> TaskWorker:
    """The robot with its data and its starting model; what is slow the first time has then happened.

    Raises:
        RowcastError: as the task and the files have it.
    """
    task = _task_of(settings)
    if settings.state is not None:
        task.load_state(settings.state)
    else:
        log.info("%s: making the starting model", settings.name)
        task.pretrain(now_and_then(lambda text: log.info("%s: %s", settings.name, text)))
    with loading():  # the first optimizer loads a good part of PyTorch
        robot = task.worker(settings.index, settings.workers)
        _warm_up(robot, settings.worker_settings)
    return robot


def run_robot(
    settings: RobotSettings,
    *,
    joined: Callable[[Team], None] | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> WorkerAudit:
    """Train until the time, the steps or the data are over, then deliver everything.

    Args:
        settings: what to do.
        joined: called when the team has let this robot in; it trains once this has returned.
        progress: called after each step.

    Raises:
        RowcastError: as the team, the task and the files have it. An interruption (Ctrl-C) leaves the team first.
    """
    endpoint = Endpoint.of(settings.server, Security.of(settings.secret_file, settings.team, settings.insecure))
    endpoint.check_join()
    if settings.save is not None:
        check_model_file(settings.save)
    shape = settings.shape
    traces = [shaped_trace(shape, settings.index, way) for way in (UP, DOWN)] if shape is not None else None
    source = source_of(settings.stream)
    takes_s = _time_of_gradients(settings)
    with contextlib.ExitStack() as stack:
        meter = _meter_of(settings.meter)
        if meter is not None:
            stack.callback(meter.close)
        robot = load_robot(settings)
        journal = stack.enter_context(open_journal(settings.name, settings.journal))
        if settings.journal is not None:
            forget_shown(settings.journal)
        record_start(journal, time.monotonic(), "worker", None, settings.worker_settings, settings.link_settings)
        shaper = None
        if traces is not None:
            shaper = stack.enter_context(Shaper(endpoint.host, endpoint.port, up=traces[UP], down=traces[DOWN]))
            shown = f"{endpoint.host}:{endpoint.port}"
            endpoint = Endpoint(*shaper.address, endpoint.security, shaped_by=shaper.name, shown_as=shown)
        team = Team(
            endpoint,
            name=settings.name,
            settings=settings.worker_settings,
            link_settings=settings.link_settings,
            journal=journal,
            parameters=settings.parameters,
            state_dir=settings.state_dir,
        )
        # Whatever ends the training early, the team is left, so that nobody waits for us.
        stack.callback(team.leave)
        optimizer = robot.wrap(team)
        if joined is not None:
            joined(team)
        loader = stack.enter_context(streaming(source, settings.stream, robot, optimizer, settings.seconds))
        trainee = _Trainee(robot, optimizer, team, computing(robot, loader), takes_s)
        with contextlib.nullcontext() if meter is None else metered(team, meter):
            busy_s, paces_s = _train(settings, trainee, shaper, progress)
        optimizer.close()
        audit = WorkerAudit.of(team.node, metrics=robot.evaluate(), busy_s=busy_s, paces_s=paces_s)
        if settings.save is not None:
            save_model(settings.save, robot.model, robot.task.class_names())
        if settings.audit is not None:
            audit.save(settings.audit)
        if settings.journal is not None:
            save_shown(robot, settings.journal)
        return audit


class _Looks:
    """When a robot looks at the metrics of its task.

    Args:
        every: at the iterations that are multiples of it, 0 never; unless
        every_s: there is a time between two looks (s).
    """

    def __init__(self, every: int, every_s: float | None) -> None:
        self._every, self._every_s = every, every_s
        self._next_s = 0.0

    def due(self, iteration: int, passed_s: float) -> bool:
        """Whether it looks before this iteration, so many seconds after its first."""
        if self._every_s is None:
            return bool(self._every) and iteration % self._every == 0
        if passed_s < self._next_s:
            return False
        self._next_s = (passed_s // self._every_s + 1) * self._every_s
        return True


@dataclass(frozen=True)
class _Trainee:
    """What is trained, one gradient of it after the other, and to how many seconds each of them is stretched."""

    robot: TaskWorker
    optimizer: Optimizer
    team: Team
    gradients: Iterator[Computed]
    takes_s: _TimeOfGradient


def _train(
    settings: RobotSettings,
    trainee: _Trainee,
    shaper: Shaper | None,
    progress: Callable[[Progress], None] | None,
) -> tuple[list[float], list[float]]:
    """Step until it is time to stop, or until the data are over.

    Returns:
        The seconds really computed in each step, and those to which it was stretched.
    """
    robot, optimizer, team = trainee.robot, trainee.optimizer, trainee.team
    began = time.monotonic()
    robot.clock = lambda: time.monotonic() - began
    ends = began + settings.seconds if settings.seconds is not None else float("inf")
    last = team.iteration + settings.steps if settings.steps is not None else None
    busy_s: list[float] = []
    paces_s: list[float] = []
    looks = _Looks(settings.eval_every, settings.eval_every_s)
    values: dict[str, float] = {}
    with _shaped(shaper, settings.seconds):
        while (last is None or team.iteration < last) and time.monotonic() < ends:
            started = time.monotonic()
            if looks.due(team.iteration, started - began):
                with optimizer.evaluating():
                    measured = robot.evaluate(brief=True)
                optimizer.report(**measured)
                values.update(measured)
            try:
                computed = next(trainee.gradients)
            except SourceEnded as ended:
                log.info("%s: %s", settings.name, ended)
                break
            busy_s.append(computed.busy_s)
            paces_s.append(trainee.takes_s(team.iteration, computed.samples))
            # What does not fit into the pace anyhow is not stretched further.
            time.sleep(max(min(started + paces_s[-1], ends) - time.monotonic(), 0.0))
            if time.monotonic() >= ends:
                break
            optimizer.report(loss=computed.loss)
            try:
                optimizer.step(samples=computed.samples)
            except NonFiniteGradient as error:
                log.warning("%s: %s", settings.name, error)
            tell_events(robot, optimizer)
            if progress is not None:
                passed_s = time.monotonic() - began
                progress(Progress(team.iteration, computed.loss, robot.task.metrics, dict(values), passed_s))
    tell_events(robot, optimizer)
    return busy_s, paces_s


def _time_of_gradients(settings: RobotSettings) -> _TimeOfGradient:
    """To how many seconds the computation of an iteration (from 0), of so many samples, is stretched.

    Raises:
        ConfigError: the devices are none, or none of a team of so many robots.
    """
    if settings.devices is None:
        return lambda iteration, samples: settings.pace_s
    if settings.pace_s:
        raise ConfigError("--pace and --devices both say what a gradient takes; leave one of them out")
    profile = parse_devices(settings.devices)
    batch = None
    if profile.by_samples and settings.stream is None:
        batch = batch_size(find_task(settings.task, settings.data).kind, settings.task_options, settings.devices)
    return profile.team(settings.workers, settings.seed, batch=batch)[settings.index].gradient_s


def _meter_of(kind: str | None) -> Meter | None:
    """The meter of that name, which has proved that it reads; ``None``: none is wanted.

    Raises:
        ConfigError: there is no such meter, or the model is wanted, which measures nothing.
        MeterError: it does not read; in one line.
    """
    if kind is None:
        return None
    if kind == "model":
        raise ConfigError(
            "--meter: expected a sensor, got 'model', the table of power states; what it gives is worked out of the "
            "journal afterwards: leave --meter out"
        )
    try:
        opened = open_meter(kind)
    except MeterError as error:
        reasons = "; ".join(line.strip() for line in str(error).splitlines())
        raise MeterError(f"--meter {kind}: {reasons}; or leave --meter out") from error
    log.info("%s", "; ".join(str(opened).splitlines()))
    return opened.meter


@contextlib.contextmanager
def _shaped(shaper: Shaper | None, seconds: float | None) -> Iterator[None]:
    """The trace holds while entered, and for so many seconds at most: what follows is not part of the experiment."""
    if shaper is None:
        yield
        return
    timer = threading.Timer(seconds, shaper.lift) if seconds is not None else None
    shaper.begin()
    if timer is not None:
        timer.daemon = True
        timer.start()
    try:
        yield
    finally:
        if timer is not None:
            timer.cancel()
        shaper.lift()


def _task_of(settings: RobotSettings) -> Task:
    kind = find_task(settings.task, settings.data).kind
    options = dict(settings.task_options)
    if settings.test_items is not None:
        options = kind.limit_tests(options, settings.test_items)
    return kind.build(options, data_dir=settings.data, seed=settings.seed)


def _warm_up(robot: TaskWorker, settings: WorkerSettings) -> None:
    """Let what is slow the first time be slow before the clock runs: memory, compiled kernels."""
    robot.warm_up()
    warm_worker(shared_parameters(robot.model, robot.optimizer).layout, half=settings.memory_mb is not None)
