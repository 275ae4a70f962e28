"""One run of a comparison in virtual time: a task, a policy, links, and as many robots as you like."""

from __future__ import annotations

import contextlib
import functools
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from rowcast.config import ServerSettings, WorkerSettings
from rowcast.drivers.virtual import ServerCosts, Simulation, TimeOver, VirtualWorker
from rowcast.errors import ConfigError, NonFiniteGradient, SourceEnded
from rowcast.experiment.cell import Cell, batch_size
from rowcast.experiment.devices import parse_devices
from rowcast.experiment.preparing import Preparing
from rowcast.experiment.runners.fed import FedWorker, Feeder
from rowcast.experiment.runners.links import delays_of, save_links, traces_of
from rowcast.experiment.runners.thinning import Thinning, ThinningWorker
from rowcast.experiment.settings import VIRTUAL_LINKS
from rowcast.experiment.starting import keep_starting_state
from rowcast.experiment.telling import save_shown, tell_events
from rowcast.journal import open_journal
from rowcast.links.channel import CHANNELS
from rowcast.optim import Optimizer
from rowcast.session import record_start
from rowcast.streams import parse_topk
from rowcast.sync import parse_policy
from rowcast.tasks import TaskWorker
from rowcast.training import ServerNode

__all__ = ["CALM_WORKER", "calm_server", "one_thread", "run_virtual"]

#: In virtual time nobody listens to heartbeats, and nobody waits at a terminal. A robot in an outage is waited for,
#: as in the published systems: the limits never run out.
CALM_WORKER = WorkerSettings(heartbeat_s=600.0, silence_limit_s=3600.0, patience_s=600.0)


def run_virtual(cell: Cell, folder: Path, progress: Callable[[float | Preparing], None]) -> None:
    """Train with real gradients in virtual time.

    Args:
        cell: what to run.
        folder: receives the journals of the server and of each robot (times in seconds from the start of the team),
            what the robots show of their replicas at the end, the traces that were in force, and ``links.json``, which
            says whose they are, and the delays of links that have one.
        progress: told how many virtual seconds are done; before, how far the starting model is.

    PyTorch computes with one thread meanwhile, wherever this runs: a sum of two threads is not that of one.

    Raises:
        RowcastError: as the task, the links, the devices and the policy have it.
    """
    with one_thread():
        _run_virtual(cell, folder, progress)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """PyTorch computes with one thread in this block, and then with as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _run_virtual(cell: Cell, folder: Path, progress: Callable[[float | Preparing], None]) -> None:
    profile = parse_devices(cell.devices)
    task = cell.build_task()
    batch = (
        batch_size(type(task), cell.options(), cell.devices) if cell.feeding is None and profile.by_samples else None
    )
    devices = profile.team(cell.workers, cell.seed, encode_s=cell.encode_s, decode_s=cell.decode_s, batch=batch)
    states = folder.parents[1] / "states"
    keep_starting_state(task, states, lambda share: progress(Preparing(share)), code=cell.task_code)
    robots = [task.worker(index, cell.workers) for index in range(cell.workers)]
    traces = traces_of(cell, task, robots[0].model)
    save_links(traces, delays_of(cell), folder)
    entropy, link = random.Random(cell.seed), cell.link or VIRTUAL_LINKS
    with contextlib.ExitStack() as stack:
        journal = stack.enter_context(open_journal("server", folder / "server.jsonl"))
        journals = [journal]
        server = ServerNode(
            parse_policy(cell.policy),
            settings=calm_server(cell.workers),
            link_settings=link,
            journal=journal,
            entropy=entropy.randbytes,
        )
        record_start(journal, 0.0, "server", cell.policy)
        costs = ServerCosts(cell.server_push_s, cell.server_pull_s)
        simulation = Simulation(
            server,
            channel=CHANNELS[cell.channel](),
            costs=costs,
            delay_s=delays_of(cell),
            tcp=cell.transport == "tcp",
            queue_s=cell.queue_ms / 1e3,
        )
        feeder = None if cell.feeding is None else Feeder(task, cell.feeding, cell.workers, cell.seed)
        rule = parse_topk(cell.topk) if cell.topk else None
        thinning = None if rule is None else Thinning(rule)
        workers = []
        for index, robot in enumerate(robots):
            name = f"robot-{index}"
            journal = stack.enter_context(open_journal(name, folder / f"{name}.jsonl"))
            journals.append(journal)
            record_start(journal, 0.0, "worker", cell.policy)
            worker = VirtualWorker(
                simulation,
                name,
                devices[index],
                traces[index],
                entropy=entropy.randbytes,
                settings=CALM_WORKER,
                link_settings=link,
                journal=journal,
            )
            fed = None if feeder is None else feeder.stream(worker, index)
            thinned = None if thinning is None else thinning.worker(robot, worker)
            workers.append(worker)
            worker.train(functools.partial(_train, robot, worker, folder, cell.eval_every_s, fed, thinned))
        simulation.run(cell.seconds, progress=progress)
        for worker in workers:
            worker.stop()
        # Figures are made from the journals: a run that lacks a part of them does not count.
        if missed := sum(each.missed for each in journals):
            raise ConfigError(f"{folder}: {missed} records of the journals could not be written; is the disk full?")
    progress(cell.seconds)


def calm_server(workers: int, guard: str = "off") -> ServerSettings:
    """Settings of a server in virtual time; see :data:`CALM_WORKER`."""
    calm = CALM_WORKER
    return ServerSettings(
        heartbeat_s=calm.heartbeat_s,
        silence_limit_s=calm.silence_limit_s,
        patience_s=calm.patience_s,
        absence_limit_s=86_400.0,
        expected_workers=workers,
        guard=guard,
    )


def _train(
    robot: TaskWorker,
    worker: VirtualWorker,
    folder: Path,
    eval_every_s: float,
    fed: FedWorker | None,
    thinned: ThinningWorker | None,
) -> None:
    """What a robot does until the simulation ends, or its data."""
    optimizer = robot.wrap(worker, nonfinite="skip")
    if fed is not None:
        optimizer.batch = fed.rule
    began = worker.now
    robot.clock = lambda: worker.now - began
    with contextlib.suppress(TimeOver):
        _steps(robot, worker, optimizer, eval_every_s, fed, thinned)
    tell_events(robot, optimizer)
    with optimizer.evaluating():
        save_shown(robot, folder / f"{worker.name}.jsonl")


def _steps(
    robot: TaskWorker,
    worker: VirtualWorker,
    optimizer: Optimizer,
    eval_every_s: float,
    fed: FedWorker | None,
    thinned: ThinningWorker | None,
) -> None:
    """Look and step until the data are over."""
    look_at = 0.0
    try:
        while True:
            if worker.now >= look_at:
                _look(robot, optimizer)
                look_at = (worker.now // eval_every_s + 1) * eval_every_s
            loss, samples = (robot.compute(), None) if fed is None else fed.compute(robot)
            optimizer.report(loss=loss)
            if thinned is not None:
                thinned.thin(samples)
            with contextlib.suppress(NonFiniteGradient):  # counted as a step without a contribution
                optimizer.step(samples=samples)
            tell_events(robot, optimizer)
    except SourceEnded:
        if thinned is not None:
            thinned.leave()
        optimizer.close()
        optimizer.report(**robot.evaluate())


def _look(robot: TaskWorker, optimizer: Optimizer) -> None:
    """Measure the replica; it takes no time."""
    with optimizer.evaluating():
        values = robot.evaluate(brief=True)
    optimizer.report(**values)
