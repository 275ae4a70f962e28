"""A worker of a real team, whose samples come from Kafka, is killed: what of its samples is in the team's model?

The model has a parameter for each sample, and a step on a sample adds 1 to it, in the raw code: so the parameters at
the server *are* how often each sample was trained. Part of ``stream_faults.py``.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from multiprocessing.context import SpawnProcess
from typing import Any

import numpy as np
import torch

from brokers import KafkaMock
from common import Figure
from rowcast import Optimizer, StreamLoader, join
from rowcast.config import ServerSettings
from rowcast.drivers.sockets import Server
from rowcast.errors import SourceEnded
from rowcast.sources.kafka import KafkaSource
from rowcast.streams import Sample
from rowcast.sync import parse_policy
from rowcast.training import ServerNode

#: Where nothing is tuned away: rows of an iteration are added as they are.
PLAIN = "codec=raw&auto_lr=off&anticipate=off&adapt=off&refine=off"
LIMIT_S, IDLE_S = 60.0, 2.0
ROW = 50


@dataclass(frozen=True)
class TeamCase:
    """What is tried.

    Attributes:
        policy: of the team.
        behind: batches that may be trained again for each kill: slack + pull bound + 1; 0: none.
        samples, batch: of the stream, and about as many of one step.
        compute_s: of a step.
    """

    policy: str
    behind: int
    broker: str = ""
    server: str = ""
    samples: int = 2000
    batch: int = 64
    compute_s: float = 0.05
    kills: int = 3

    @property
    def name(self) -> str:
        return f"team, {self.policy.split('&')[0]}"


@dataclass
class Counts:
    """What came of a case: how often each sample was trained, and samples trained at each kill."""

    trained: np.ndarray
    killed_at: list[int] = field(default_factory=list)


TEAM_CASES = (
    TeamCase("bsp?codec=raw", 0),
    TeamCase("rog:2?codec=raw", 2 + 1 + 1),
    TeamCase(f"rowcast:2?{PLAIN}", 2 + 1 + 1),
)


class Tally(torch.nn.Module):
    """A parameter for each sample."""

    def __init__(self, samples: int) -> None:
        super().__init__()
        self.rows = torch.nn.Parameter(torch.zeros(samples // ROW, ROW))

    def loss(self, numbers: torch.Tensor, whole: int) -> torch.Tensor:
        """A step of learning rate 1 on it adds 1 to each of these, when it weighs ``len(numbers) / whole``."""
        return -self.rows.view(-1)[numbers].sum() * whole / len(numbers)


def number_of(sample: Sample) -> torch.Tensor:
    return torch.tensor(int.from_bytes(sample.payload[:4], "big"))


class Quiet(KafkaSource):
    """A topic that counts as over when nothing has come for a while."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self._until = time.monotonic() + 5 * IDLE_S  # the first fetch takes a second

    def take(self, at_most: int, timeout_s: float) -> list[Sample]:
        found = super().take(min(at_most, 32), timeout_s)
        now = time.monotonic()
        if found:
            self._until = now + IDLE_S
        elif now >= self._until:
            raise SourceEnded("nothing comes any more")
        return found


def worker(case: TeamCase) -> None:
    """A worker's process; it ends when nothing has come for a while."""
    torch.set_num_threads(1)
    model = Tally(case.samples)
    optimizer = Optimizer(torch.optim.SGD(model.parameters(), lr=1.0), model, join(case.server, name="robot"))
    source = Quiet(case.broker, "samples", group="robot", options={"fetch.wait.max.ms": "50"})
    with StreamLoader(source, number_of, optimizer, batch=f"fixed:{case.batch}") as loader:
        for numbers in loader:
            time.sleep(case.compute_s)  # the gradient
            optimizer.zero_grad()
            model.loss(numbers, case.batch).backward()
            optimizer.step(samples=loader.samples)
        optimizer.close()


class TeamServer:
    """A server on a thread."""

    def __init__(self, policy: str) -> None:
        self.node = ServerNode(parse_policy(policy), settings=ServerSettings(gather_s=0.0))
        self._server = Server(self.node, port=0)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._call(self._server.start())
        self.address = f"127.0.0.1:{self._server.port}"

    def _call(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(LIMIT_S)

    def counts(self, samples: int) -> np.ndarray:
        """How often each sample is in the parameters."""

        async def look() -> np.ndarray:
            parameters = self.node.parameters
            return np.zeros(samples, np.float32) if parameters is None else parameters.copy()

        return self._call(look())

    def close(self) -> None:
        self._call(self._server.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(LIMIT_S)
        self._loop.close()


@contextmanager
def team_server(policy: str) -> Iterator[TeamServer]:
    server = TeamServer(policy)
    try:
        yield server
    finally:
        server.close()


def started(case: TeamCase) -> SpawnProcess:
    process = multiprocessing.get_context("spawn").Process(target=worker, args=(case,), daemon=True)
    process.start()
    return process


def run_team(case: TeamCase, seed: int) -> Counts:
    """A worker that is killed and started again, as often as the case has it, and then reads to the end."""
    from confluent_kafka import Producer

    moments = random.Random(seed)
    with KafkaMock() as broker, team_server(case.policy) as server:
        case = replace(case, broker=broker.address, server=server.address)
        producer = Producer({"bootstrap.servers": case.broker, "log_level": 0})
        for number in range(case.samples):
            producer.produce("samples", number.to_bytes(4, "big"), partition=number % 4)
        if producer.flush(LIMIT_S):
            raise RuntimeError("the broker has not taken all samples")
        found = Counts(np.zeros(0))
        process = started(case)
        try:
            for kill in range(case.kills):
                wanted = case.samples * (kill + moments.uniform(0.2, 0.8)) / (case.kills + 1)
                until = time.monotonic() + LIMIT_S
                while np.count_nonzero(server.counts(case.samples)) < wanted:
                    if time.monotonic() > until or not process.is_alive():
                        raise RuntimeError(f"{case.policy}: expected {wanted:.0f} samples trained within {LIMIT_S:g} s")
                    time.sleep(0.002)
                time.sleep(moments.uniform(0.0, 2 * case.compute_s))
                process.kill()
                process.join()
                found.killed_at.append(np.count_nonzero(server.counts(case.samples)))
                process = started(case)
            process.join(LIMIT_S)
            if process.exitcode != 0:
                raise RuntimeError(f"{case.policy}: the last worker ended with {process.exitcode}")
        finally:
            process.kill()
            process.join()
        found.trained = server.counts(case.samples)
    return found


def figures_of_team(case: TeamCase, found: Counts) -> list[Figure]:
    """What is asked of a case."""
    times = np.rint(found.trained)
    apart = float(np.abs(found.trained - times).max())
    note = f"killed at {', '.join(map(str, found.killed_at))} of {case.samples}"
    bound = case.kills * case.behind * case.batch
    return [
        Figure(f"{case.name}: lost", int(np.count_nonzero(times < 1)), "samples", 0, note=note),
        Figure(f"{case.name}: doubled", int(times[times > 1].sum() - np.count_nonzero(times > 1)), "samples", bound),
        Figure(f"{case.name}: parts of samples", apart, "", 1e-4),
    ]
