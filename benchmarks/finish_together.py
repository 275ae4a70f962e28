"""A large team that finishes together: how long goodbye takes, what a frame costs the server, and who loses the link.

A server in a process of its own and light workers here (:mod:`crowd`), over TCP on loopback. All finish at the same
moment and wait for each other; the server takes in what they still had, owes it to everybody, and sends it.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import resource
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection as Pipe

from common import Figure, arguments, finish
from crowd import Crowd
from rowcast.codecs import REGISTRY
from rowcast.config import ServerSettings
from rowcast.drivers.sockets import Server
from rowcast.journal import Journal
from rowcast.rows import Layout
from rowcast.sync import parse_policy
from rowcast.training import ServerNode

POLICIES = ("bsp", "rog:4", "rowcast")
#: 200 rows and 12,850 elements: 51 kB in the raw codec.
LAYOUT = Layout.from_shapes([("weight", (200, 64)), ("bias", (50,))])
STEPS = 2
SECONDS = 10.0
LIMIT_S = 120.0


@dataclass
class Counts:
    """What the server did.

    Attributes:
        adds: calls of a codec's ``add``.
        frames: row frames applied.
        longest_s: the longest time in which the event loop did not come to look at its sockets.
        cpu_s: processor time.
    """

    adds: int = 0
    frames: int = 0
    longest_s: float = 0.0
    cpu_s: float = 0.0


def serve(policy: str, workers: int, pipe: Pipe) -> None:
    """Run a server until the pipe says so; then tell what it did."""
    raise_file_limit(workers)
    counts = Counts()
    for codec in REGISTRY.values():
        add = codec.add

        def count(*args: object, add: object = add) -> None:
            counts.adds += 1
            add(*args)  # type: ignore[operator]

        codec.add = count  # type: ignore[method-assign]

    finishing = threading.Event()

    async def watch() -> None:
        while True:
            before = time.monotonic()
            await asyncio.sleep(0.01)
            if finishing.is_set():
                counts.longest_s = max(counts.longest_s, time.monotonic() - before - 0.01)

    async def run() -> None:
        journal = Journal("server", lambda record: None)  # none is kept
        node = ServerNode(
            parse_policy(policy), settings=ServerSettings(expected_workers=workers, gather_s=0.0), journal=journal
        )
        server = Server(node, port=0)
        await server.start()
        watching = asyncio.create_task(watch())
        pipe.send(server.port)
        stopped = False
        while not stopped:
            await asyncio.sleep(0.05)
            while pipe.poll():
                finishing.set()  # it says so when all finish, and when all have
                stopped = pipe.recv() == "stop"
        watching.cancel()
        counts.frames = sum(node.frames_applied.values())
        counts.cpu_s = time.process_time()
        await server.close()

    asyncio.run(run())
    pipe.send(counts)


def raise_file_limit(workers: int) -> None:
    """Each worker is an open file on both sides."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = workers + 256
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))


@contextlib.contextmanager
def server_process(policy: str, workers: int) -> Iterator[tuple[int, Pipe]]:
    """A server in a process of its own; gives its port and the pipe on which it tells its counts at the end."""
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=serve, args=(policy, workers, theirs), daemon=True)
    process.start()
    try:
        yield ours.recv(), ours
    finally:
        process.join(10)
        if process.is_alive():
            process.kill()


@dataclass
class Outcome:
    """One team.

    Attributes:
        computed_s, drained_s: until all had joined and computed, and from finish to the last goodbye.
        lost: links that were lost, as the workers saw it.
        off: largest difference between a replica and the sum of all updates.
    """

    computed_s: float
    drained_s: float
    lost: list[str]
    off: float
    counts: Counts


def measure(policy: str, workers: int, limit_s: float) -> Outcome:
    """Run one team to its end."""
    with server_process(policy, workers) as (port, pipe):

        async def run() -> tuple[float, float, list[str], float]:
            begun = asyncio.get_running_loop().time()
            crowd = Crowd(LAYOUT, workers, STEPS, at_finish=lambda: pipe.send("finish"))
            try:
                await crowd.run("127.0.0.1", port, limit_s)
            except TimeoutError as error:
                print(f"{policy}, {workers} workers: {error}")
            now = asyncio.get_running_loop().time()
            finished_at = crowd.finished_at or now
            done = [worker.done_at or now for worker in crowd.workers]
            lost = [cause for worker in crowd.workers for cause in worker.lost]
            return finished_at - begun, max(done) - finished_at, lost, crowd.off()

        computed_s, drained_s, lost, off = asyncio.run(run())
        pipe.send("stop")
        counts = pipe.recv()
    return Outcome(computed_s, drained_s, lost, off, counts)


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=200, help="how many (default 200)")
    parser.add_argument("--policies", default=",".join(POLICIES), help="which, separated by commas")
    parser.add_argument("--limit-s", type=float, default=LIMIT_S, help="give a team up after so many seconds")
    options = parser.parse_args()
    raise_file_limit(options.workers)
    figures = []
    for policy in options.policies.split(","):
        one = measure(policy, options.workers, options.limit_s)
        counts = one.counts
        causes = ", ".join(sorted(set(one.lost)))[:60]
        figures += [
            Figure(f"{policy}: from finish to the last goodbye", one.drained_s, "s", bound=SECONDS),
            Figure(f"{policy}: links lost", len(one.lost), "links", bound=0, note=causes),
            Figure(f"{policy}: decoded, for each frame", counts.adds / max(counts.frames, 1), "times", bound=1.0),
            Figure(f"{policy}: replicas off by", one.off, "", bound=1e-3),
            Figure(f"{policy}: longest turn of the server's loop", counts.longest_s, "s", bound=2.0),
            Figure(
                f"{policy}: processor of the server",
                counts.cpu_s,
                "s",
                note=f"{counts.frames} frames; {one.computed_s:.1f} s until all had computed",
            ),
        ]
    finish(f"{options.workers} workers finish together, {LAYOUT.elements} elements", figures, options)


if __name__ == "__main__":
    main()
