"""The part ``standby`` of ``faults.py``: until a standby leads, and what it costs while it follows."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol, TypeVar

from common import Figure

#: A takeover that takes longer hangs (s).
LIMIT_S = 120.0


class Trains(Protocol):
    """A worker that trains."""

    @property
    def steps(self) -> int:
        """Iterations finished."""

    def rate_since(self, begun: float) -> float:
        """Iterations a second since then."""


T = TypeVar("T", bound=Trains)


class ServeProcess:
    """``rowcast serve`` with a log in a process; ``of``: the port of the server that it follows."""

    def __init__(self, folder: Path, name: str, policy: str, workers: int, of: int | None = None) -> None:
        self.journal = folder / f"{name}.jsonl"
        options = ["--port", "0" if of is None else str(of + 1), "--policy", policy, "--workers", str(workers)]
        options += ["--state", str(folder / name), "--journal", str(self.journal), "--quiet", "--set", "gather_s=0"]
        options += [] if of is None else ["--standby-of", f"127.0.0.1:{of}"]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "rowcast", "serve", *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        line = self.says("listening on" if of is None else "has all that")
        self.port = int(line.split("listening on 127.0.0.1:")[1].split(",")[0]) if of is None else of + 1

    def says(self, text: str) -> str:
        """Read until a line with this text comes; returns it."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if text in line:
                return line
        raise SystemExit(f"a server ended with {self.process.wait()} before it said {text!r}")

    def kill(self) -> None:
        """SIGKILL."""
        if self.process.returncode is None:
            self.process.kill()
            self.process.communicate()

    def seconds(self, what: str) -> float:
        """Of an event about the standby."""
        records = map(json.loads, self.journal.read_text("utf-8").splitlines())
        return float(next(record["seconds"] for record in records if record.get("what") == what))


def takeover(
    training: Callable[[int], AbstractContextManager[list[T]]],
    policy: str,
    workers: int,
    before_s: float,
    more: Callable[[list[T]], float],
) -> Figure:
    """``kill -9`` of a server while workers train, until all have finished two iterations more with the standby.

    Args:
        training: workers that train at a port.
        policy, workers: of the team.
        before_s: so long they train first.
        more: waits until each worker has finished two iterations more.
    """
    with tempfile.TemporaryDirectory(prefix="rowcast-standby-") as name:
        first = ServeProcess(Path(name), "first", policy, workers)
        second = ServeProcess(Path(name), "second", policy, workers, first.port)
        try:
            with training(first.port) as trainers:
                time.sleep(before_s)
                first.kill()
                begun = time.monotonic()
                second.says("took over")  # without a server some policies compute on for a while
                more(trainers)
                found = time.monotonic() - begun
            asked = second.seconds("took over")
        finally:
            first.kill()
            second.kill()
    note = f"the standby led {asked:.1f} s after it had heard the server last"
    return Figure(f"{policy}: from kill -9 until all go on with the standby", found, "s", 10.0, note=note)


def cost(
    training: Callable[[int], AbstractContextManager[list[T]]], policy: str, workers: int, turns: int, turn_s: float
) -> Figure:
    """Steps a second with a standby and without, in turns; both have a log, and both servers are on one machine."""
    rates: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(turns):
        for followed, found in rates.items():
            with tempfile.TemporaryDirectory(prefix="rowcast-standby-") as name:
                servers = [ServeProcess(Path(name), "first", policy, workers)]
                try:
                    if followed:
                        servers.append(ServeProcess(Path(name), "second", policy, workers, servers[0].port))
                    with training(servers[0].port) as trainers:
                        begun = time.monotonic()
                        time.sleep(turn_s)
                        found.append(sum(trainer.rate_since(begun) for trainer in trainers))
                finally:
                    for server in servers:
                        server.kill()
    shares = [100 * (1 - one / other) for one, other in zip(rates[True], rates[False], strict=True)]
    note = f"{statistics.fmean(rates[False]):.2f} and {statistics.fmean(rates[True]):.2f} steps/s; by turn "
    note += ", ".join(f"{share:.1f}" for share in shares)
    return Figure(f"{policy}: a standby costs of the step rate", statistics.median(shares), "%", None, note=note)
