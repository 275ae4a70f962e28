"""A link that follows a bandwidth trace, in user space: no root, no kernel modules.

The shaper is a relay on loopback between a worker and its server. In each direction a byte leaves when the
trace has carried all bytes before it: ``departure = Cinv(C(max(arrival, link free)) + bits)`` with the cumulative
capacity C of the trace, so the shaped rate is exact however late the operating system wakes us.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections import deque
from collections.abc import Callable

from rowcast.drivers.sockets.alarm import Alarm
from rowcast.drivers.sockets.forks import let_go_in_children
from rowcast.links import Trace

__all__ = ["Shaper"]

#: Link time that the relay reads ahead: the queue in front of the radio.
QUEUE_S = 0.02
MIN_READ_BYTES = 512
#: Pause after a connection that could not be taken (s).
RETRY_S = 0.2
MAX_READ_BYTES = 1 << 16


class Shaper:
    """Puts bandwidth traces under the connections to one server.

    Args:
        host, port: the server.
        up, down: rate from the worker to the server, and back.
        name: for the journal.

    Attributes:
        address: ``(host, port)`` where the worker connects instead.

    Example::

        with Shaper("10.0.0.1", 7117, up=trace, down=trace) as link:
            team = Team(Endpoint(*link.address, shaped_by=link.name), name="robot-1")
    """

    def __init__(self, host: str, port: int, *, up: Trace, down: Trace, name: str | None = None) -> None:
        self.name = name or up.name
        self._server = (host, port)
        self._up, self._down = up, down
        self._loop = asyncio.new_event_loop()
        self._alarm = Alarm(self._loop)
        self._thread = threading.Thread(target=self._run, name="rowcast-shaper", daemon=True)
        self._origin: float | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        listener = socket.create_server(("127.0.0.1", 0))
        listener.setblocking(False)
        self._listener = listener
        let_go_in_children(self, [listener])
        self.address: tuple[str, int] = listener.getsockname()[:2]
        self._thread.start()

    def begin(self) -> None:
        """Start shaping: the traces' time 0 is now. Before, bytes pass unhindered."""
        self._origin = self._loop.time()

    def change(self, *, up: Trace, down: Trace) -> None:
        """Follow other traces from now on, from their time 0."""
        self._up, self._down = up, down
        self.begin()

    def lift(self) -> None:
        """Stop shaping: from now on bytes pass unhindered."""
        self._origin = None

    def close(self) -> None:
        """Cut all connections and end the relay."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop)
            self._thread.join()

    def __enter__(self) -> Shaper:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- the relay's thread ------------------------------------------------------------------------------------

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        with contextlib.suppress(asyncio.CancelledError):
            self._main = self._loop.create_task(self._accept())
            self._loop.run_until_complete(self._main)
        self._loop.run_until_complete(asyncio.gather(*self._tasks, return_exceptions=True))
        self._alarm.close()
        self._listener.close()
        self._loop.close()

    def _stop(self) -> None:
        self._main.cancel()
        for task in self._tasks:
            task.cancel()

    async def _accept(self) -> None:
        while True:
            try:
                worker, _ = await self._loop.sock_accept(self._listener)
            except OSError:  # out of descriptors, or whoever came is gone again
                await asyncio.sleep(RETRY_S)
                continue
            task = self._loop.create_task(self._relay(worker))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _relay(self, worker: socket.socket) -> None:
        """Carry one connection until either end closes it."""
        family = socket.AF_INET6 if ":" in self._server[0] else socket.AF_INET
        # An end that is reset before it is ours, or no descriptor for the other one: the connection ends.
        with contextlib.suppress(OSError), worker, socket.socket(family) as server:
            for sock in (worker, server):
                sock.setblocking(False)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            try:
                await self._loop.sock_connect(server, self._server)
            except OSError:
                return
            both = _Both()
            let_go_in_children(both, [worker, server])
            ways = [
                self._loop.create_task(self._carry(worker, server, lambda: self._up)),
                self._loop.create_task(self._carry(server, worker, lambda: self._down)),
            ]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)

    async def _carry(self, source: socket.socket, target: socket.socket, trace: Callable[[], Trace]) -> None:
        """One direction: read ahead a little, let each piece go when the trace has carried it."""
        queue: deque[tuple[float, bytes]] = deque()
        queued = 0
        arrived, left = asyncio.Event(), asyncio.Event()
        ended = False

        async def read() -> None:
            nonlocal queued, ended
            while True:
                ahead = self._ahead_bytes(trace)
                while queued >= ahead:
                    left.clear()
                    await left.wait()
                    ahead = self._ahead_bytes(trace)
                try:
                    data = await self._loop.sock_recv(source, _piece_bytes(ahead))
                except OSError:
                    data = b""
                if not data:
                    ended = True
                    arrived.set()
                    return
                # The rate may have dropped while we waited for data: cut to what is a small piece now.
                now, piece = self._loop.time(), _piece_bytes(self._ahead_bytes(trace))
                queue.extend((now, data[start : start + piece]) for start in range(0, len(data), piece))
                queued += len(data)
                arrived.set()

        reader = self._loop.create_task(read())
        free_at = 0.0
        try:
            while True:
                while not queue:
                    if ended:
                        return
                    arrived.clear()
                    await arrived.wait()
                came_at, data = queue[0]
                free_at = await self._pass_time(max(came_at, free_at), 8 * len(data), trace)
                queue.popleft()
                queued -= len(data)
                left.set()
                await self._loop.sock_sendall(target, data)
        except OSError:
            return
        finally:
            reader.cancel()

    async def _pass_time(self, begun: float, bits: int, trace: Callable[[], Trace]) -> float:
        """Wait until the trace has carried ``bits`` from ``begun`` on; returns when that is."""
        while True:
            origin = self._origin
            if origin is None:
                return begun
            done = origin + trace().finish(max(begun - origin, 0.0), bits)
            wait_s = done - self._loop.time()
            if wait_s <= 0:
                return done
            # Short naps, so that lifting the shaper takes effect in the middle of a slow piece as well.
            await self._alarm.sleep(min(wait_s, 0.1))

    def _ahead_bytes(self, trace: Callable[[], Trace]) -> int:
        origin = self._origin
        if origin is None:
            return 1 << 20
        rate_bps = trace().rate(max(self._loop.time() - origin, 0.0))
        return max(int(rate_bps / 8 * QUEUE_S), 2 * MIN_READ_BYTES)


class _Both:
    """The two connections of a relay, while they are there."""


def _piece_bytes(ahead_bytes: int) -> int:
    """How much passes at once."""
    return max(min(ahead_bytes // 4, MAX_READ_BYTES), MIN_READ_BYTES)
