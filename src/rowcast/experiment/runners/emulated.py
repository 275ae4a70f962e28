"""One run on real sockets: server and robots in network namespaces of this machine, with an emulated medium between."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rowcast.config import LinkSettings, save_tables
from rowcast.drivers.netns.network import Network
from rowcast.errors import ConfigError
from rowcast.experiment.audit import ServerAudit, WorkerAudit, prove
from rowcast.experiment.cell import Cell
from rowcast.experiment.folder import write_whole
from rowcast.experiment.local_team import starting_point
from rowcast.experiment.medium_settings import MediumSettings
from rowcast.experiment.preparing import Preparing
from rowcast.experiment.processes import ProcessGroup
from rowcast.experiment.runners.air import Air, AirPlan, opened_air
from rowcast.experiment.runners.links import delays_of, save_links, traces_of
from rowcast.experiment.settings import RobotSettings
from rowcast.experiment.starting import keep_starting_state
from rowcast.links import Trace
from rowcast.rows import Layout
from rowcast.warming import warm_up

__all__ = ["EMULATION", "SERVER", "run_emulated"]

#: What the emulation says of itself, in the folder of its run.
EMULATION = "emulation.json"
#: The host of the server: the access point.
SERVER = "server"
PORT = 7117
#: A machine may take so long to load PyTorch in all robots at once, and these to join over an unhindered medium (s).
READY_LIMIT_S, JOIN_LIMIT_S = 180.0, 60.0
#: What is owed is delivered over an unhindered medium (s); the end of processes that have nothing more to do (s).
FINISH_LIMIT_S, END_LIMIT_S = 60.0, 20.0
TICK_S = 0.25


@dataclass(frozen=True)
class _Run:
    """What is prepared before a network is made."""

    cell: Cell
    folder: Path
    state: Path
    layout: Layout
    initial: npt.NDArray[np.float32]
    traces: Sequence[tuple[Trace, Trace]]

    @property
    def robots(self) -> list[str]:
        """Names of the robots, and of their hosts."""
        return [f"robot-{index}" for index in range(self.cell.workers)]

    @property
    def medium(self) -> MediumSettings:
        return self.cell.medium or MediumSettings()


def run_emulated(cell: Cell, folder: Path, progress: Callable[[float | Preparing], None]) -> None:
    """Train with real processes over real sockets, in real time.

    Args:
        cell: what to run; its work of encoding and decoding is the real one, whatever it says.
        folder: receives journals, audits and logs of all processes, the traces as in virtual time, and
            :data:`EMULATION`: when on the clock of the journals the traces began (``start_s``), what the medium did
            (``medium``), the proof that nothing was lost (``audit``), the share of gradients that took longer than
            the device would (``late_share``), and the congestion control.
        progress: told how many seconds are done; before, how far the starting model is.

    Raises:
        ConfigError: the cell asks for what only virtual time has; no network can be made here.
        WorkerFailed: a process ended badly or hangs.
        RowcastError: as the task, the links, the devices and the policy have it.
    """
    _check(cell)
    run = _prepared(cell, folder, progress)
    try:
        asyncio.run(_emulate(run, progress))
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
    progress(cell.seconds)


def _check(cell: Cell) -> None:
    costs = ("encode_s", "decode_s", "server_push_s", "server_pull_s")
    asked = [name for name in costs if getattr(cell, name)]
    asked += [name for name, given in (("streams", cell.feeding), ("topk", cell.topk)) if given]
    if asked:
        raise ConfigError(f"{', '.join(asked)}: expected none of it in an emulation, only virtual time has it")


def _prepared(cell: Cell, folder: Path, progress: Callable[[float | Preparing], None]) -> _Run:
    warm_up(cell.policy)
    task = cell.build_task()
    states = folder.parents[1] / "states"
    state = keep_starting_state(task, states, lambda share: progress(Preparing(share)), code=cell.task_code)
    if state is None:
        states.mkdir(parents=True, exist_ok=True)
        state = states / f"start-{cell.seed}.npz"
        task.save_state(state)
    layout, initial = starting_point(task, cell.workers)
    traces = traces_of(cell, task, task.worker(0, cell.workers).model)
    save_links(traces, delays_of(cell), folder)
    return _Run(cell, folder, state.resolve(), layout, initial, traces)


async def _emulate(run: _Run, progress: Callable[[float | Preparing], None]) -> None:
    cell, folder = run.cell, run.folder
    with Network([SERVER, *run.robots], congestion_control=run.medium.congestion_control) as network:
        async with opened_air(_air(run, network)) as air, ProcessGroup() as server, ProcessGroup() as robots:
            await server.start(SERVER, network.command(SERVER, _serve(run, network)), folder / "server.log")
            await server.wait_ready(READY_LIMIT_S)
            files = _orders(run, network)
            for name, file in zip(run.robots, files, strict=True):
                words = ["train", "--config", str(file), "--quiet", "--await-start", "--await-team"]
                command = [sys.executable, "-m", "rowcast", *words]
                await robots.start(name, network.command(name, command), folder / f"{name}.log")
            await robots.wait_ready(READY_LIMIT_S)
            robots.go(map(str, files))
            await robots.wait_joined(JOIN_LIMIT_S)
            start_s = air.begin()
            robots.go(["go"] * len(files))
            training: asyncio.Future[Any] = asyncio.gather(
                robots.wait_finished(cell.seconds + FINISH_LIMIT_S), _watch(start_s, cell.seconds, air, progress)
            )
            watched = [training, asyncio.ensure_future(server.wait_failed()), asyncio.ensure_future(air.failed())]
            try:
                done, _ = await asyncio.wait(watched, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
            finally:
                for task in watched:
                    task.cancel()
                await asyncio.gather(*watched, return_exceptions=True)
            await robots.wait_ended(END_LIMIT_S)
            await server.wait_ended(END_LIMIT_S)
            medium = await air.end()
            account = {"start_s": start_s, "congestion_control": network.congestion_control, "medium": medium}
    write_whole(folder / EMULATION, {**account, **_account(run)})


async def _watch(start_s: float, seconds: float, air: Air, progress: Callable[[float | Preparing], None]) -> None:
    """Tell how far it is, and lift the traces when the training is over: what follows is no part of it."""
    while (passed_s := time.monotonic() - start_s) < seconds:
        progress(passed_s)
        await asyncio.sleep(min(TICK_S, seconds - passed_s))
    air.lift()


def _air(run: _Run, network: Network) -> AirPlan:
    cell = run.cell
    delays = delays_of(cell)
    return AirPlan(
        network,
        run.medium,
        run.traces,
        [delays.get(name, 0.0) for name in run.robots],
        cell.channel,
        cell.seed,
        run.folder,
    )


def _serve(run: _Run, network: Network) -> list[str]:
    """The command of the server."""
    cell, folder = run.cell, run.folder.resolve()
    config = folder / "server.json"
    save_tables(config, {"link": cell.link or LinkSettings()})
    return [
        *(sys.executable, "-m", "rowcast", "serve", "--quiet", "--once", "--insecure", "--config", str(config)),
        *("--policy", cell.policy, "--host", network.address(SERVER), "--port", str(PORT)),
        *("--workers", str(cell.workers), "--journal", str(folder / "server.jsonl")),
        *("--audit", str(folder / "server.npz")),
    ]


def _orders(run: _Run, network: Network) -> list[Path]:
    """What each robot is to do, in a file of its own."""
    cell, folder = run.cell, run.folder.resolve()
    files = []
    for index, name in enumerate(run.robots):
        settings = RobotSettings(
            server=f"{network.address(SERVER)}:{PORT}",
            name=name,
            task=cell.task,
            index=index,
            workers=cell.workers,
            data=cell.data,
            seed=cell.seed,
            state=run.state,
            seconds=cell.seconds,
            eval_every_s=cell.eval_every_s,
            devices=cell.devices,
            insecure=True,
            journal=folder / f"{name}.jsonl",
            audit=folder / f"{name}.npz",
            test_items=cell.eval_items,
            task_options=cell.given_options(),
            link_settings=cell.link or LinkSettings(),
        )
        files.append(folder / f"{name}.json")
        save_tables(files[-1], {"robot": settings})
    return files


def _account(run: _Run) -> dict[str, Any]:
    """What the audits say."""
    folder = run.folder
    workers = [WorkerAudit.load(folder / f"{name}.npz") for name in run.robots]
    audit = prove(ServerAudit.load(folder / "server.npz", run.layout, run.initial), workers)
    return {
        "late_share": float(np.mean([worker.late_share for worker in workers])),
        "audit": {**asdict(audit), "clean": audit.clean},
    }
