"""What a server that survives its own death costs, and what its death costs the team.

Parts, of which ``--parts`` chooses:

- ``schedules``: random faults in virtual time, with a server that has a log and loses its power now and then: what
  is lost, doubled, or hangs (``tests/fault_schedules.py``);
- ``log``: steps a second of two workers with the reference layout, with a log and without, in turns: ``bsp``, where
  each exchange waits for commits, at a robot's pace; and ``rowcast`` flat out, where nobody computes a gradient. The
  limit is the disk, which every byte that arrives is written to once, and the wait for a commit;
- ``restart``: ``kill -9`` of the server while they train, with gradients of half a second, and a new one at once: until
  it knows the team again, and until every worker has finished two iterations more, less the time of their gradients;
- ``standby``: ``kill -9`` of a server with a standby, until all go on with that; and what a standby costs meanwhile.
- ``sockets``: fault scripts by chance on real sockets, in each of which the server dies (``tests/fault_schedules.py``);
  with ``--kept FILE`` those that ran before are not run again;
- ``scripts``: every script of ``tests/faults`` at its full length, on real sockets and in virtual time;
- ``return``: the link of a robot carries nothing for a minute: from the moment at which it is back until the robot
  computes on what it has received.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import multiprocessing
import os
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from common import Figure, arguments, finish, reference_layout
from fault_parts import ABSENT_S, RETURN_MBPS, returning, schedules_on_sockets, scripts
from faults_standby import cost, takeover
from rowcast.config import LinkSettings, ServerSettings, StateSettings, WorkerSettings
from rowcast.drivers.sockets import DurableServer, Endpoint, Server, Team
from rowcast.drivers.state import RealDisk, ServerKeeper, TeamSpec
from rowcast.journal import Journal
from rowcast.journal.sinks import forget
from rowcast.rows import Layout
from rowcast.sync import parse_policy
from rowcast.training import ServerNode

PARTS = ("schedules", "log", "restart", "standby", "sockets", "scripts", "return")
POLICY = "rowcast"
WORKERS = 2
SETTINGS = ServerSettings(expected_workers=WORKERS, gather_s=0.0)
IMPATIENT = WorkerSettings(join_limit_s=120.0, reconnect_first_s=0.05, reconnect_cap_s=0.2)
#: So long the workers train before the server is killed (s).
BEFORE_S = 12.0
#: What a gradient takes a robot, as in ``beyond.py``.
ROBOT_S = 2.06
LIMIT_S = 300.0
#: A gradient while the server is killed (s).
GRADIENT_S = 0.5


def serve(policy: str, folder: Path | None, port: int, pipe: Connection) -> None:
    """Run a server until the pipe says so, then tell bytes received and bytes of the log."""
    told = {"received": 0, "written": 0}

    async def run() -> None:
        journal = Journal("server", forget)
        if folder is None:
            node = ServerNode(parse_policy(policy), settings=SETTINGS, journal=journal)
            server: Server[ServerNode] | DurableServer = Server(node, port=port)
            pipe_told = {"recovery_s": 0.0, "inputs": 0}
        else:
            spec = TeamSpec(policy, SETTINGS, LinkSettings())
            keeper = ServerKeeper(RealDisk(folder), spec, StateSettings(durability="log"), journal)
            server = DurableServer(keeper, port=port)
            take, inputs = keeper.server.arrived, 0 if keeper.recovered is None else keeper.recovered.inputs
            pipe_told = {"recovery_s": keeper.recovery_s, "inputs": inputs}

            def arrived(now, link, count):
                told["received"] += count
                return take(now, link, count)

            keeper.server.arrived = arrived  # type: ignore[method-assign]
        await server.start()
        pipe.send({"port": server.port, **pipe_told})
        while not pipe.poll():
            await asyncio.sleep(0.05)
        if isinstance(server, DurableServer):
            server.keeper.log.flush()
            told["written"] = server.keeper.log.written
        pipe.send(told)
        await server.close()

    asyncio.run(run())


class Process:
    """A server process."""

    def __init__(self, folder: Path | None, port: int = 0, policy: str = POLICY) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._pipe, theirs = spawn.Pipe()
        self._process = spawn.Process(target=serve, args=(policy, folder, port, theirs))
        self._process.start()
        theirs.close()
        self.told = self._pipe.recv()

    @property
    def port(self) -> int:
        return int(self.told["port"])

    def kill(self) -> None:
        """SIGKILL."""
        assert self._process.pid is not None
        os.kill(self._process.pid, signal.SIGKILL)
        self._process.join()

    def stop(self) -> dict[str, int]:
        """Stop it; bytes received, and bytes of the log."""
        self._pipe.send("stop")
        told: dict[str, int] = self._pipe.recv()
        self._process.join(LIMIT_S)
        return told


class Trainer(threading.Thread):
    """A worker whose gradients take so long (s); with 0 it hands in updates as fast as it can."""

    def __init__(self, port: int, name: str, layout: Layout, gradient_s: float) -> None:
        super().__init__(name=name, daemon=True)
        self.team = Team(Endpoint("127.0.0.1", port), name=name, settings=IMPATIENT, journal=Journal(name, forget))
        self.layout = layout
        self.gradient_s = gradient_s
        self.ended_at: list[float] = []
        self.ending = False
        self.error: BaseException | None = None
        self.start()

    @property
    def steps(self) -> int:
        """Iterations finished."""
        return len(self.ended_at)

    def rate_since(self, begun: float) -> float:
        """Iterations a second, from the first that has ended since ``begun`` (s) to the last; 0 where none has."""
        ends = [end for end in self.ended_at if end >= begun]
        return (len(ends) - 1) / (ends[-1] - ends[0]) if len(ends) > 1 else 0.0

    def run(self) -> None:
        try:
            self.team.start(self.layout, self.layout.zeros())
            while not self.ending:
                time.sleep(self.gradient_s)
                with self.team.hold():
                    proposed = self.team.replica - np.float32(1e-3)
                    self.team.accumulate([proposed[spec.start : spec.stop] for spec in self.layout.tensors], 0.5)
                self.team.exchange()
                self.ended_at.append(time.monotonic())
            self.team.leave()
        except BaseException as error:
            self.error = error


@contextlib.contextmanager
def training(port: int, layout: Layout, gradient_s: float = 0.0) -> Iterator[list[Trainer]]:
    """Workers that have begun to train."""
    trainers = [Trainer(port, f"robot-{k}", layout, gradient_s) for k in range(WORKERS)]
    try:
        wait_for(trainers, 2)
        yield trainers
    finally:
        for trainer in trainers:
            trainer.ending = True
        for trainer in trainers:
            trainer.join(LIMIT_S)
            if trainer.error is not None:
                raise SystemExit(f"{trainer.name}: {trainer.error}")


def wait_for(trainers: list[Trainer], more: int) -> float:
    """Seconds until each has finished so many steps more."""
    begun, wanted = time.monotonic(), [trainer.steps + more for trainer in trainers]
    while any(trainer.steps < steps for trainer, steps in zip(trainers, wanted, strict=True)):
        if time.monotonic() > begun + LIMIT_S or any(trainer.error for trainer in trainers):
            raise SystemExit(f"a worker hangs: {[trainer.error or trainer.steps for trainer in trainers]}")
        time.sleep(0.01)
    return time.monotonic() - begun


def log_costs(layout: Layout, policy: str, gradient_s: float, turns: int, turn_s: float) -> list[Figure]:
    """Steps a second with a log and without, in turns; what is written for what is received.

    Nothing is asked where no gradient is computed.
    """
    rates: dict[str, list[float]] = {"none": [], "log": []}
    written = received = 0
    for _ in range(turns):
        for kind, found in rates.items():
            with tempfile.TemporaryDirectory(prefix="rowcast-state-") as folder:
                server = Process(Path(folder) if kind == "log" else None, policy=policy)
                with training(server.port, layout, gradient_s) as trainers:
                    begun = time.monotonic()
                    time.sleep(turn_s)
                    found.append(sum(trainer.rate_since(begun) for trainer in trainers))
                told = server.stop()
                if kind == "log":
                    written, received = written + told["written"], received + told["received"]
    shares = [100 * (1 - with_log / without) for with_log, without in zip(rates["log"], rates["none"], strict=True)]
    note = f"{statistics.fmean(rates['none']):.2f} and {statistics.fmean(rates['log']):.2f} steps/s; by turn "
    note += ", ".join(f"{share:.1f}" for share in shares)
    bound = 5.0 if gradient_s else None
    name = f"{policy}, a gradient of {gradient_s:g} s" if gradient_s else f"{policy}, no gradient"
    return [
        Figure(f"{name}: the log costs of the step rate", statistics.median(shares), "%", bound, note=note),
        Figure(
            f"{name}: bytes of the log for each received", written / max(received, 1), "", 1.2, note=f"of {received}"
        ),
    ]


def restart(layout: Layout, policy: str, before_s: float, kills: int) -> list[Figure]:
    """``kill -9`` while workers train, and a new server at once."""
    knows, goes_on, inputs = [], [], []
    with tempfile.TemporaryDirectory(prefix="rowcast-state-") as folder:
        server = Process(Path(folder), policy=policy)
        with training(server.port, layout, GRADIENT_S) as trainers:
            for _ in range(kills):
                time.sleep(before_s)
                server.kill()
                begun = time.monotonic()
                server = Process(Path(folder), server.port, policy)
                knows.append(server.told["recovery_s"])
                inputs.append(server.told["inputs"])
                # One that was under way when the server died may end as soon as it is back.
                wait_for(trainers, 2)
                goes_on.append(time.monotonic() - begun - 2 * GRADIENT_S)
        server.stop()
    each = ", ".join(f"{seconds:.1f}" for seconds in goes_on)
    return [
        Figure(f"{policy}: recovery", max(knows), "s", 3.0, note=f"up to {max(inputs)} inputs"),
        Figure(
            f"{policy}: from the restart to two iterations more of all, less their gradients",
            max(goes_on),
            "s",
            5.0,
            note=each,
        ),
    ]


def schedules(count: int, first: int) -> list[Figure]:
    """Random faults in virtual time."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
    from fault_schedules import CRASH, DurableSchedule, run_all

    struck: dict[str, int] = {}
    failed = run_all(range(first, first + count), DurableSchedule, "durable", struck=struck)
    note = f"numbers {first} .. {first + count - 1}, {struck.get(CRASH, 0)} crashes of the server"
    return [Figure("schedules in which something was lost, doubled, or hung", len(failed), "", 0.0, note=note)]


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--parts", default=",".join(PARTS), help="which figures, by commas")
    parser.add_argument("--virtual", type=int, default=10_000, help="schedules in virtual time")
    parser.add_argument("--sockets", type=int, default=200, help="schedules on real sockets")
    parser.add_argument("--kept", type=Path, metavar="FILE", help="what came of schedules on real sockets; goes on")
    parser.add_argument("--only", default="", help="of the scripts, those with this in their name")
    parser.add_argument("--seed", type=int, default=0, help="number of the first schedule")
    options: argparse.Namespace = parser.parse_args()
    parts = options.parts.split(",")
    if unknown := set(parts) - set(PARTS):
        parser.error(f"--parts: expected some of {', '.join(PARTS)}, got {', '.join(sorted(unknown))}")
    layout, name = reference_layout(tiny=options.tiny)
    shorter = 40.0 if options.tiny else 1.0
    figures = []
    if "schedules" in parts:
        figures += schedules(3 if options.tiny else options.virtual, options.seed)
    if "log" in parts:
        for policy, gradient_s in (("bsp", ROBOT_S / shorter), (POLICY, 0.0))[: 1 if options.tiny else 2]:
            figures += log_costs(layout, policy, gradient_s, 1 if options.tiny else 5, 10 * (gradient_s or 1 / shorter))
    if "restart" in parts:
        for policy in ("bsp", POLICY)[options.tiny :]:
            figures += restart(layout, policy, BEFORE_S / shorter, 1 if options.tiny else 3)
    if "sockets" in parts:
        figures += schedules_on_sockets(1 if options.tiny else options.sockets, options.seed, options.kept)
    if "scripts" in parts:
        only = "cut-5s" if options.tiny else options.only
        figures += scripts(1.0 if options.tiny else None, only)
    if "return" in parts:
        absent_s, mbps = ABSENT_S / shorter, RETURN_MBPS * (10 if options.tiny else 1)
        figures.append(returning(layout, POLICY, gradient_s=ROBOT_S / shorter, absent_s=absent_s, mbps=mbps))
    if "standby" in parts:
        gradient_s, policy = GRADIENT_S / shorter, POLICY if options.tiny else "bsp"
        trains = partial(training, layout=layout, gradient_s=gradient_s)
        figures.append(takeover(trains, policy, WORKERS, BEFORE_S / shorter, lambda trainers: wait_for(trainers, 2)))
        figures.append(cost(trains, policy, WORKERS, 1 if options.tiny else 3, 10.0 / shorter))
    finish(f"A server that survives its own death, {name}", figures, options)


if __name__ == "__main__":
    main()
