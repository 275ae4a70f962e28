"""What TLS costs: goodput over a link of 100 Mbit/s and over loopback with it and without, and a handshake.

A server in a process of its own, one worker here, real TCP. With and without take turns, so that what else the machine
does hits both; the best of each counts. Over loopback both ends share the processors, and the limit is what one of them
encrypts, decrypts and copies: that is measured in memory, too, without sockets and without a node.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from common import TINY, Figure, arguments, best_s, finish, reference_layout
from rowcast.config import ServerSettings
from rowcast.drivers.sockets import Endpoint, Security, Server, Shaper, Team
from rowcast.drivers.sockets.credentials import TeamFolder
from rowcast.drivers.sockets.secured import SecretGuest, SecretHost, TeamGuest, TeamHost
from rowcast.drivers.sockets.tcp import CHUNK_BYTES
from rowcast.drivers.sockets.tls import Channel
from rowcast.links import Trace
from rowcast.rows import Layout
from rowcast.sync import parse_policy
from rowcast.training import ServerNode

SECRET = b"the secret of this benchmark only"
RATE_BPS = 100e6


def serve(secret: bytes | None, pipe: Connection) -> None:
    """Run a server until the pipe says so; before that it may ask for the processor time used so far (s)."""

    async def run() -> None:
        node = ServerNode(parse_policy("bsp?codec=raw"), settings=ServerSettings(gather_s=0.0), secret=secret)
        server = Server(node, port=0)
        await server.start()
        pipe.send(server.port)
        loop, over = asyncio.get_running_loop(), asyncio.Event()

        def answer() -> None:
            if pipe.recv() == "stop":
                over.set()
            else:
                pipe.send(time.process_time())

        loop.add_reader(pipe.fileno(), answer)
        await over.wait()
        loop.remove_reader(pipe.fileno())
        await server.close()

    asyncio.run(run())


@contextlib.contextmanager
def server_process(secret: bytes | None) -> Iterator[Connection]:
    """A server in a process of its own; gives the pipe to it, in which its port comes first."""
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=serve, args=(secret, theirs))
    process.start()
    try:
        yield ours
    finally:
        ours.send("stop")
        process.join(10)
        if process.is_alive():
            process.kill()


@dataclass
class Side:
    """A worker with TLS or without, and what its pushes have come to.

    Attributes:
        team: the worker.
        server: the pipe to its server.
        layout: what it pushes.
        best_bps: payload of the fastest push.
        worker_s, server_s: processor time of the worker's and of the server's process in the push that took least.
    """

    team: Team
    server: Connection
    layout: Layout
    best_bps: float = 0.0
    worker_s: float = float("inf")
    server_s: float = float("inf")

    def push(self) -> None:
        """Push the whole model once, and time it until all of it is acknowledged."""
        with self.team.hold():
            proposed = self.team.replica - np.float32(1e-3)
            self.team.accumulate([proposed[spec.start : spec.stop] for spec in self.layout.tensors], 1.0)
        outbox, last = self.team.node.outbox, [0.0]
        real = outbox.acknowledged

        def acknowledged(now: float, number: int, arrived: float | None = None) -> None:
            real(now, number, arrived)
            last[0] = time.perf_counter()

        outbox.acknowledged = acknowledged
        server_s = self._server_time()
        begun, worker_s = time.perf_counter(), time.process_time()
        self.team.exchange()
        outbox.acknowledged = real
        self.best_bps = max(self.best_bps, 32 * self.layout.elements / (last[0] - begun))
        self.worker_s = min(self.worker_s, time.process_time() - worker_s)
        self.server_s = min(self.server_s, self._server_time() - server_s)

    def _server_time(self) -> float:
        self.server.send("time")
        return float(self.server.recv())

    @property
    def limit_bps(self) -> float:
        """What the busier of the two processors allows (bit/s)."""
        return 32 * self.layout.elements / max(self.worker_s, self.server_s)


def pushes(layout: Layout, rate_bps: float | None, times: int) -> dict[bool, Side]:
    """Pushes without TLS and with it, in turns."""
    with contextlib.ExitStack() as stack:
        sides = {}
        for tls in (False, True):
            secret = SECRET if tls else None
            server = stack.enter_context(server_process(secret))
            address = ("127.0.0.1", server.recv())
            link = None
            if rate_bps is not None:
                trace = Trace.constant(rate_bps)
                link = stack.enter_context(Shaper(*address, up=trace, down=trace))
                address = link.address
            team = Team(Endpoint(*address, Security(secret)), name="robot")
            team.start(layout, layout.zeros())
            stack.callback(team.finish)
            sides[tls] = Side(team, server, layout)
            if link is not None:
                link.begin()
                stack.callback(link.lift)
        for turn in range(times):
            for tls in (False, True) if turn % 2 == 0 else (True, False):
                sides[tls].push()
    return sides


def shake_hands(client: Channel, server: Channel) -> None:
    """A whole handshake, in memory."""
    while not (client.ready and server.ready):
        for one, other in ((client, server), (server, client)):
            if not one.ready:
                one.advance()
            if data := one.take():
                other.buffer(len(data))[:] = data
                other.filled(len(data))


def in_memory_bps(megabytes: int) -> float:
    """What one processor encrypts and decrypts: payload through both ends of TLS, as a connection does it (bit/s)."""
    client, server = SecretGuest().open(), SecretHost().open()
    shake_hands(client, server)
    data = memoryview(bytes(megabytes << 20))
    place = memoryview(bytearray(1 << 18))

    def carry() -> None:
        for start in range(0, len(data), CHUNK_BYTES):
            client.write(data[start : start + CHUNK_BYTES])
            records = client.take()
            server.buffer(len(records))[:] = records
            server.filled(len(records))
            while server.read(place):
                pass

    return 8 * len(data) / best_s(carry, 3)


def handshakes_ms(repeat: int) -> tuple[float, float]:
    """Processor time of both ends of a handshake: with a shared secret, and with certificates on both ends (ms)."""
    with tempfile.TemporaryDirectory() as folder:
        team = TeamFolder(Path(folder) / "team")
        team.make(1)
        ends = [(SecretGuest(), SecretHost()), (TeamGuest(team.add("robot", 1)), TeamHost(team.path))]
        found = [best_s(lambda a=a, b=b: shake_hands(a.open(), b.open()), repeat) for a, b in ends]
    return 1e3 * found[0], 1e3 * found[1]


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--times", type=int, default=4, help="pushes of each kind")
    options = parser.parse_args()
    times = 2 if options.tiny else options.times
    layout, _ = reference_layout(tiny=options.tiny)
    slow_layout = TINY if options.tiny else Layout.from_shapes([(f"block{i}", (512, 509)) for i in range(12)])
    slow = pushes(slow_layout, RATE_BPS, times)
    fast = pushes(layout, None, times)
    lost = 100 * (1 - slow[True].best_bps / slow[False].best_bps)
    memory_bps = in_memory_bps(1 if options.tiny else 32)
    secret_ms, team_ms = handshakes_ms(2 if options.tiny else 30)
    payload = 4 * layout.elements
    figures = [
        Figure("100 Mbit/s, without TLS: payload", slow[False].best_bps / 1e6, "Mbit/s"),
        Figure("100 Mbit/s, with TLS: payload", slow[True].best_bps / 1e6, "Mbit/s"),
        Figure("100 Mbit/s: what TLS costs", lost, "%", bound=10.0),
        Figure("loopback, without TLS: payload", fast[False].best_bps / 1e9, "Gbit/s"),
        Figure("loopback, with TLS: payload", fast[True].best_bps / 1e9, "Gbit/s", bound=2.0, at_least=True),
        *(
            Figure(f"loopback, {word} TLS: {whose}'s processor", 1e9 * seconds / payload, "ns/byte")
            for word, side in (("without", fast[False]), ("with", fast[True]))
            for whose, seconds in (("worker", side.worker_s), ("server", side.server_s))
        ),
        Figure("loopback, with TLS: the busier processor allows", fast[True].limit_bps / 1e9, "Gbit/s"),
        Figure("in memory: encrypted and decrypted by one processor", memory_bps / 1e9, "Gbit/s"),
        Figure("handshake, shared secret: both ends", secret_ms, "ms"),
        Figure("handshake, certificates: both ends", team_ms, "ms"),
    ]
    finish("TLS 1.3 on and off, in turns", figures, options)


if __name__ == "__main__":
    main()
