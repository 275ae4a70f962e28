"""One run of a contender of ``peers.py``: its server and its robots in namespaces, over the medium of the emulation."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from peers_contenders import Contender
from peers_job import Job
from rowcast.drivers.netns.network import INTERFACE, Network
from rowcast.errors import WorkerFailed
from rowcast.experiment.medium_settings import MediumSettings
from rowcast.experiment.processes import ProcessGroup, WorkerProcess
from rowcast.experiment.robot import shaped_trace
from rowcast.experiment.runners.air import AirPlan, opened_air
from rowcast.experiment.settings import ShapeSettings
from rowcast.links import Trace

__all__ = ["Links", "Outage", "run"]

SERVER = "server"
#: To load PyTorch in all robots at once; to connect over unhindered links; to take notice that the time is over (s).
READY_LIMIT_S, JOIN_LIMIT_S, END_LIMIT_S = 240.0, 90.0, 5.0
TICK_S = 0.5


@dataclass(frozen=True)
class Outage:
    """The link of one robot carries nothing for a while, in both directions.

    Attributes:
        robot: which one.
        begin_s, end_s: when, since the beginning.
    """

    robot: int
    begin_s: float
    end_s: float

    def on(self, trace: Trace, seconds: float) -> Trace:
        """The first ``seconds`` of a trace, with the outage in it."""
        whole = trace.cut(0.0, seconds)
        times = np.unique([*whole.times_s, self.begin_s, self.end_s])
        away = (times >= self.begin_s) & (times < self.end_s)
        rates = np.where(away, 0.0, [whole.rate(time_s) for time_s in times])
        return Trace(times, rates, f"{trace.name}, an outage", loop=False, duration_s=seconds)


@dataclass(frozen=True)
class Links:
    """What lies between the hosts.

    Attributes:
        name: as of ``rowcast demo --trace``.
        best_bps: best rate of each link; the traces are scaled to it.
        congestion_control: of TCP on all hosts; ``None``: the machine's.
        outage: of one robot, if any.
    """

    name: str
    best_bps: float
    congestion_control: str | None
    outage: Outage | None = None

    def traces(self, workers: int, seed: int, seconds: float) -> list[tuple[Trace, Trace]]:
        """Of each robot, up and down; the same for all contenders."""
        shape = ShapeSettings(self.name, self.best_bps, seed)
        made = []
        for index in range(workers):
            up, down = (shaped_trace(shape, index, way) for way in (0, 1))
            if self.outage is not None and self.outage.robot == index:
                up, down = (self.outage.on(trace, seconds) for trace in (up, down))
            made.append((up, down))
        return made


def run(contender: Contender, job: Job, links: Links, tell: Callable[[str], None]) -> dict[str, Any]:
    """Let a contender train; its logs and models are in the folder of the job then.

    Args:
        tell: told now and then how far it is.

    Returns:
        ``medium``: the counters of the medium; ``congestion_control``; ``ended``: by the name of a process, how it
        ended before its time, and when.

    Raises:
        WorkerFailed: it did not get to the beginning.
        ConfigError: no network can be made here.
    """
    try:
        return asyncio.run(_run(contender, job, links, tell))
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


async def _run(contender: Contender, job: Job, links: Links, tell: Callable[[str], None]) -> dict[str, Any]:
    folder = Path(job.folder)
    file = folder / "job.json"
    job.save(file)
    names = [f"robot-{index}" for index in range(job.workers)]
    with Network([SERVER, *names], congestion_control=links.congestion_control) as network:
        hosts = [network.address(host) for host in network.hosts]
        traces = links.traces(job.workers, job.seed, job.seconds)
        plan = AirPlan(network, MediumSettings(), traces, [0.0] * job.workers, "independent", job.seed, folder)
        async with opened_air(plan) as air, ProcessGroup() as server, ProcessGroup() as robots:
            serve = contender.server(file, folder, job.workers, hosts[0])
            if serve is not None:
                await server.start(SERVER, network.command(SERVER, _environed(serve, folder)), folder / "server.log")
                await server.wait_ready(READY_LIMIT_S)
            for rank, name in enumerate(names):
                command = _environed(contender.robot(file, rank, hosts), folder)
                await robots.start(name, network.command(name, command), folder / f"{name}.log")
            await robots.wait_ready(READY_LIMIT_S)
            robots.go(["join"] * job.workers)
            await robots.wait_joined(JOIN_LIMIT_S)
            began_s = air.begin()
            robots.go([f"go {began_s!r}"] * job.workers)
            ended = await _watch([*server.workers, *robots.workers], began_s, job.seconds, air.failed, tell)
            await _wait_finished(robots.workers)
            # What is left to say is no part of it, and whoever waits for a partner would wait for ever.
            await _kill([*robots.workers, *server.workers])
            air.lift()
            medium = await air.end()
            return {"medium": medium, "congestion_control": network.congestion_control, "ended": ended}


def _environed(command: Sequence[str], folder: Path) -> list[str]:
    """The command with what contenders read from the environment: the same for all."""
    home = folder / "home"
    home.mkdir(exist_ok=True)
    values = {
        "HOME": str(home),  # some keep settings and counters there
        "OMP_NUM_THREADS": "1",
        "NUMBA_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": INTERFACE,
        "FLWR_TELEMETRY_ENABLED": "0",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])),
    }
    return ["env", *(f"{name}={value}" for name, value in values.items()), *command]


async def _watch(
    processes: Sequence[WorkerProcess],
    began_s: float,
    seconds: float,
    failed: Callable[[], Any],
    tell: Callable[[str], None],
) -> dict[str, str]:
    """Wait until the time is over; returns who ended before, and how.

    Raises:
        WorkerFailed: the medium ended.
    """
    ended: dict[str, str] = {}
    medium = asyncio.ensure_future(failed())
    try:
        while (passed_s := time.monotonic() - began_s) < seconds:
            tell(f"{passed_s:.0f} of {seconds:.0f} s")
            for each in processes:
                if each.process.returncode is not None and each.name not in ended:
                    why = each.failure(f"ended with code {each.process.returncode} after {passed_s:.0f} s")
                    ended[each.name] = str(why)
            await asyncio.wait([medium], timeout=min(TICK_S, seconds - passed_s))
            if medium.done():
                medium.result()
    finally:
        medium.cancel()
        await asyncio.gather(medium, return_exceptions=True)
    return ended


async def _wait_finished(robots: Sequence[WorkerProcess]) -> None:
    """Give those who can the time to keep their last models; who waits for a partner in vain never says so."""
    waits = []
    for robot in robots:
        assert robot.process.stdout is not None
        waits.append(asyncio.ensure_future(robot.process.stdout.readline()))
    _, late = await asyncio.wait(waits, timeout=END_LIMIT_S)
    for wait in late:
        wait.cancel()
    await asyncio.gather(*waits, return_exceptions=True)


async def _kill(processes: Sequence[WorkerProcess]) -> None:
    """Each is the first of a group; what it has started holds its pipes, and would keep us waiting."""
    running = [each.process for each in processes if each.process.returncode is None]
    for process in running:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    await asyncio.gather(*(process.wait() for process in running))


def steps_of(job: Job) -> list[list[dict[str, Any]]]:
    """The log of each robot, a list of its lines."""
    logs = []
    for rank in range(job.workers):
        file = Path(job.folder) / f"robot-{rank}.jsonl"
        if not file.exists():
            raise WorkerFailed(f"{file}: expected the log of a robot, found none")
        lines = file.read_text(encoding="utf-8").splitlines()
        # A robot that was killed while it wrote has half a line at the end.
        logs.append([json.loads(line) for line in lines if line.endswith("}")])
    return logs
