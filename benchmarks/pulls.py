"""Memory and processor time of a server with many workers: rows of each worker's own, or one stream for all.

The server's node alone, in memory: in an iteration of the team every worker pushes its whole update in the one-bit
code, then every worker takes all that it is owed. What the clock counts is the node's code and the making of frames
(index, CRC); no link is involved. Each case has a process of its own.
"""

from __future__ import annotations

import multiprocessing
import resource
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common import Figure, arguments, finish, reference_layout
from memory import model_sized
from rowcast.codecs import codec_by_name
from rowcast.config import LinkSettings, ServerSettings
from rowcast.rows import Layout
from rowcast.rows.digest import digest_of
from rowcast.session import Link
from rowcast.sync import parse_policy
from rowcast.training import ServerNode
from rowcast.wire import Ack, Computed, Hello, LayoutTable, Message, Rows, StateEnd, encode

TEAMS = (4, 16, 64, 256)
#: With own pulls an iteration of K workers adds K * K vectors: large teams have a part of the reference layout, which
#: has about 65 blocks of 512 rows.
BLOCKS = {64: 16, 256: 4}
FRAMES_OF_A_PUSH = 4
POLICIES = {
    "own": "rowcast:8?elastic=off&refine=off&adapt=off",
    "common": "rowcast:8?elastic=off&refine=off&adapt=off&pulls=common",
}


@dataclass(frozen=True)
class Cost:
    """What was measured of one team.

    Attributes:
        vectors: most arrays of the model's size that hang on the server.
        resident_bytes: what the process grew by while the team was there.
        cpu_s: processor time of the server for one iteration and one worker.
        sent_bytes: what one worker was sent in an iteration.
        model_bytes: one copy of the model.
    """

    vectors: float
    resident_bytes: int
    cpu_s: float
    sent_bytes: float
    model_bytes: int


@dataclass
class Worker:
    """What the script knows of a worker."""

    link: Link
    pushed: int = 0
    received: int = 0


class Team:
    """A server and its workers, without links."""

    def __init__(self, layout: Layout, policy: str, workers: int) -> None:
        settings = LinkSettings(initial_rate_bps=1e9, window_s=5.0)
        self.server = ServerNode(
            parse_policy(policy),
            settings=ServerSettings(expected_workers=workers, gather_s=0.0),
            link_settings=settings,
        )
        self.layout = layout
        self.now = 0.0
        self.cpu_s = 0.0
        self.sent_bytes = 0
        random = np.random.default_rng(0)
        code = codec_by_name("onebit")
        update = random.standard_normal(layout.elements, dtype=np.float32)
        self.pushes = [
            (rows, code.encode(layout, update, rows))
            for rows in np.array_split(np.arange(layout.rows, dtype=np.int64), FRAMES_OF_A_PUSH)
        ]
        self.code = code.wire_id
        state = layout.zeros()
        digest = digest_of(state)
        self.workers = [Worker(Link(f"robot{k}")) for k in range(workers)]
        for k, worker in enumerate(self.workers):
            self.server.link_up(self.now, worker.link)
            worker.link.control.clear()
            # All bring the same parameters: nothing is to be sent before the start.
            hello = Hello(
                name=f"robot{k}",
                session=k.to_bytes(16, "big"),
                nonce=bytes(16),
                proof=b"",
                layout=layout.digest,
                state=digest,
                server=b"",
                joined=False,
                iteration=0,
                received=0,
            )
            self.say(worker, hello)
            if k == 0:
                self.say(worker, LayoutTable(layout.to_table(), 0))
                raw = codec_by_name("raw")
                for rows in np.array_split(np.arange(layout.rows, dtype=np.int64), 16):
                    payload = raw.encode(layout, state, rows, consume=False)
                    self.push(worker, 0, raw.wire_id, rows, payload, state=True)
                self.say(worker, StateEnd())
            self.take_all()

    def push(
        self, worker: Worker, iteration: int, code: int, rows: np.ndarray, payload: np.ndarray, *, state: bool = False
    ) -> None:
        worker.pushed += 1
        frame = Rows(
            number=worker.pushed,
            iteration=iteration,
            codec=code,
            absolute=state,
            quota_end=False,
            rows=rows,
            payload=payload,
        )
        self.say(worker, frame)

    def say(self, worker: Worker, message: Message) -> None:
        begun = time.process_time()
        self.server.receive(self.now, worker.link, message)
        self.cpu_s += time.process_time() - begun

    def take_all(self) -> None:
        """Every worker takes, and acknowledges, all that it is sent now."""
        by_link = {worker.link: worker for worker in self.workers}
        while True:
            begun = time.process_time()
            ready = self.server.take_ready()
            self.cpu_s += time.process_time() - begun
            if not ready:
                return
            for link in ready:
                self.take(by_link[link])

    def take(self, worker: Worker) -> None:
        before = worker.received
        while True:
            begun = time.process_time()
            message = self.server.poll(self.now, worker.link)
            if message is not None:
                self.sent_bytes += len(encode(message))
            self.cpu_s += time.process_time() - begun
            if message is None:
                break
            if isinstance(message, Rows):
                worker.received = message.number
                self.now += 1e-5
        if worker.received > before:
            self.now += 3e-3
            self.say(worker, Ack(worker.received))

    def iterate(self, iteration: int) -> None:
        """Every worker finishes an iteration, and pushes it."""
        for worker in self.workers:
            self.say(worker, Computed(iteration, compute_s=0.1, rate_bps=1e9, size=1.0, skipped=False))
            for rows, payload in self.pushes:
                self.push(worker, iteration, self.code, rows, payload)
                self.now += 1e-4
        self.take_all()
        self.now += 0.1


def resident_bytes() -> int:
    """Resident memory of this process now."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize()


def layout_for(workers: int, *, tiny: bool) -> Layout:
    """The reference layout, or a part of it."""
    if tiny or workers not in BLOCKS:
        return reference_layout(tiny=tiny)[0]
    return Layout.from_shapes([(f"block{i}", [512, 509]) for i in range(BLOCKS[workers])])


def cost(pulls: str, workers: int, *, tiny: bool = False) -> Cost:
    """Run one team."""
    layout = layout_for(workers, tiny=tiny)
    measured = 2 if workers not in BLOCKS else 1
    Team(Layout.from_shapes([("block", [512, 509])]), POLICIES[pulls], 2).iterate(1)  # kernels are loaded
    before = resident_bytes()
    team = Team(layout, POLICIES[pulls], workers)
    team.cpu_s, team.sent_bytes, vectors = 0.0, 0, 0.0
    for iteration in range(1, 1 + measured):
        team.iterate(iteration)
        vectors = max(vectors, model_sized(team.server, layout))
    share = measured * workers
    grown = resident_bytes() - before
    return Cost(vectors, grown, team.cpu_s / share, team.sent_bytes / share, 4 * layout.elements)


def cost_alone(pulls: str, workers: int) -> Cost:
    """Run one team in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(cost, pulls, workers).result()


def main() -> None:
    options = arguments(__doc__.splitlines()[0]).parse_args()
    figures = []
    for workers in TEAMS[:1] if options.tiny else TEAMS:
        costs = {}
        for pulls in POLICIES:
            costs[pulls] = one = cost(pulls, workers, tiny=True) if options.tiny else cost_alone(pulls, workers)
            name = f"{workers} workers, {pulls} pulls"
            note = f"a vector is {one.model_bytes / 1e6:.1f} MB; {one.sent_bytes / 1e6:.2f} MB to each worker"
            most = 4.0 if pulls == "common" else None
            figures += [
                Figure(f"{name}: model-sized arrays", one.vectors, "vectors", bound=most, note=note),
                Figure(f"{name}: resident memory", one.resident_bytes / 1e6, "MB"),
                Figure(f"{name}: processor, an iteration and worker", one.cpu_s * 1e3, "ms"),
            ]
        ratio = costs["common"].cpu_s / max(costs["own"].cpu_s, 1e-9)
        figures.append(Figure(f"{workers} workers: processor, common / own", ratio, "ratio", bound=1.0))
    finish("One server, many workers", figures, options)


if __name__ == "__main__":
    main()
