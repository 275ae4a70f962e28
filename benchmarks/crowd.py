"""Many light workers on one event loop: the worker nodes of as many robots, over real sockets, without threads.

A robot has a thread and a training loop of its own; hundreds of them do not fit on one machine. Here the same nodes and
connections share one event loop, and a "gradient" is a vector of one number. What is measured is the server.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

import numpy as np

from rowcast.config import LinkSettings, WorkerSettings
from rowcast.drivers.nodes import taken_in
from rowcast.drivers.sockets.connection import Connection
from rowcast.drivers.sockets.tcp import tuned
from rowcast.errors import LinkLost, RemoteProtocolError
from rowcast.rows import Layout
from rowcast.session import Link
from rowcast.training import WorkerNode, WorkerState
from rowcast.wire import Message

__all__ = ["Crowd", "Light"]

#: Seconds before a worker that lost its link connects again.
PAUSE_S = 0.2
#: A connection that is closed is gone after a turn or two of the loop.
TURNS = 100


class Light:
    """A worker of a crowd: proposes the same whole numbers in each iteration.

    Attributes:
        node: the worker node.
        lost: why its links ended before its work was done, one text for each.
        done_at: when it was told goodbye (s), or ``None``.
    """

    def __init__(self, crowd: Crowd, name: str, update: int) -> None:
        layout = crowd.layout
        parameters = np.zeros(layout.elements, dtype=np.float32)
        self.node = WorkerNode(name, layout, parameters, settings=crowd.settings)
        self.node.journal.records = _Nothing()
        self.node.journal._sink = self.node.journal.records.append
        # Rows that one bit an element cannot express: at the end something is left to be sent without loss.
        self._update = (np.arange(layout.elements) % 7 - 3 + update).astype(np.float32)
        self.lost: list[str] = []
        self.done_at: float | None = None
        self._crowd = crowd
        self._connection: Connection | None = None
        self._closed = asyncio.Event()
        self._error: Exception | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()

    async def live(self, host: str, port: int) -> None:
        """Connect, and connect again, until the work is done; raises what went wrong in this process."""
        while self.node.state is not WorkerState.DONE:
            if self.node.failure is not None:
                raise self.node.failure
            self.node.connecting(self._loop.time(), f"{host}:{port}")
            try:
                self._closed = asyncio.Event()
                await self._loop.create_connection(lambda: Connection(self), host, port)
                await self._closed.wait()
            except OSError as error:
                self.node.connect_failed(self._loop.time(), str(error))
            if self._error is not None:
                raise self._error
            if self.node.state is not WorkerState.DONE:
                await asyncio.sleep(PAUSE_S)

    def attend(self) -> None:
        """Train, send what there is, set the timer."""
        node, connection = self.node, self._connection
        self._crowd.train(self)
        if connection is not None:
            connection.pump()
            if node.state is WorkerState.DONE and not connection.link.closing:
                connection.link.closing = True
                connection.pump()
        if node.state is WorkerState.DONE and self.done_at is None:
            self.done_at = self._loop.time()
        due = node.next_wake() if connection is not None else None
        if self._timer is not None and self._timer.when() != due:
            self._timer.cancel()
            self._timer = None
        if due is not None and self._timer is None:
            self._timer = self._loop.call_at(due, self._on_timer)
        node.notices.clear()

    def propose(self) -> None:
        """One iteration."""
        node = self.node
        proposed = node.replica - self._update
        node.accumulate([proposed[spec.start : spec.stop] for spec in node.layout.tensors], 1.0)
        node.exchange(self._loop.time())

    def finish(self) -> None:
        """Deliver everything, and stay until the others have finished too."""
        self.node.finish(self._loop.time(), wait=True)

    @property
    def connected(self) -> bool:
        """It has a connection, or one that is being closed."""
        return self._connection is not None

    def hang_up(self) -> None:
        """Close the connection, if there is one."""
        if self._connection is not None:
            self._connection.close("the run is over")

    # -- what the connection reports ---------------------------------------------------------------------------

    def on_open(self, connection: Connection, sock: socket.socket) -> None:
        tuned(sock, self._crowd.link_settings)
        connection.link = Link("server")
        self._connection = connection
        self.node.link_up(self._loop.time(), connection.link)
        self.attend()  # the limits count from now on, also for a peer that never says a word

    def on_read(self, connection: Connection, count: int) -> str | None:
        return taken_in(self.node, self._loop.time(), connection.link, count)

    def on_garbage(self, connection: Connection, error: RemoteProtocolError) -> None:
        connection.close(self.node.blame(self._loop.time(), error))

    def on_failure(self, connection: Connection, error: Exception) -> None:
        if self._error is None:
            self._error = error
        connection.close("a fault of this process")
        self._closed.set()

    def after_read(self) -> None:
        self.attend()

    def after_write(self) -> None:
        pass

    def on_closed(self, connection: Connection, cause: str) -> None:
        self._connection = None
        if self.node.state is not WorkerState.DONE:
            self.lost.append(cause)
        self.node.link_down(self._loop.time(), cause)
        self._closed.set()
        self.attend()

    def next_message(self, connection: Connection) -> Message | None:
        return self.node.poll(self._loop.time())

    def position(self) -> int:
        return 0

    def committed_to(self) -> int:
        return 0

    def _on_timer(self) -> None:
        self._timer = None
        try:
            self.node.on_timer(self._loop.time())
        except LinkLost as error:
            if self._connection is not None:
                self._connection.close(str(error))
        self.attend()


class Crowd:
    """A team of light workers that compute ``steps`` iterations and then finish together.

    Args:
        layout: the model's rows; all begin with zeros, so nothing but the seed is sent at the start.
        workers: how many.
        steps: iterations of each.
        settings: of all of them.
        at_finish: called when all finish.

    Attributes:
        workers: them.
        finished_at: when all had computed their last iteration, and finished (s).
    """

    def __init__(
        self,
        layout: Layout,
        workers: int,
        steps: int,
        *,
        settings: WorkerSettings | None = None,
        at_finish: Callable[[], None] = lambda: None,
    ) -> None:
        self.layout = layout
        self.steps = steps
        self.settings = settings or WorkerSettings()
        self.link_settings = LinkSettings()
        self._at_finish = at_finish
        self.finished_at: float | None = None
        self._loop = asyncio.get_running_loop()
        self.workers = [Light(self, f"robot-{k:03d}", 1 + k % 3) for k in range(workers)]
        self._at_end: set[Light] = set()

    def train(self, worker: Light) -> None:
        """Let ``worker`` go on, if it is between two steps."""
        node = worker.node
        while node.state is WorkerState.COMPUTING and node.iteration < self.steps:
            worker.propose()
        if node.state is WorkerState.COMPUTING and self.finished_at is None and worker not in self._at_end:
            self._at_end.add(worker)
            if len(self._at_end) == len(self.workers):
                self.finished_at = self._loop.time()
                self._at_finish()
                for other in self.workers:
                    other.finish()
                    self._loop.call_soon(other.attend)

    async def run(self, host: str, port: int, limit_s: float) -> None:
        """Join, compute, finish. The first worker brings the parameters.

        Raises:
            RowcastError: a worker gave up.
            TimeoutError: it took longer than ``limit_s``.
        """
        tasks = []
        for worker in self.workers:
            tasks.append(asyncio.create_task(worker.live(host, port)))
            if len(tasks) % 50 == 0:
                await asyncio.sleep(0.05)  # no more than a listener's backlog at once
        done, pending = await asyncio.wait(tasks, timeout=limit_s, return_when=asyncio.FIRST_EXCEPTION)
        await self._hang_up(pending)
        for task in done:
            if (error := task.exception()) is not None:
                raise error
        if pending:
            raise TimeoutError(f"{len(pending)} of {len(self.workers)} workers had not finished after {limit_s:g} s")

    async def _hang_up(self, pending: set[asyncio.Task]) -> None:
        """End the work that is under way, and every connection: the loop may close behind this."""
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        for worker in self.workers:
            worker.hang_up()
        for _ in range(TURNS):
            if not any(worker.connected for worker in self.workers):
                break
            await asyncio.sleep(0)

    def off(self) -> float:
        """Largest difference between the rows of a replica and what all workers computed, in one element's worth."""
        computed = sum(worker.node.computed for worker in self.workers)
        offsets, lengths = self.layout.offsets[:-1], self.layout.lengths
        return max(
            float(np.abs((np.add.reduceat(worker.node.replica, offsets, dtype=float) + computed) / lengths).max())
            for worker in self.workers
        )


class _Nothing(list):
    """A journal that keeps nothing."""

    def append(self, record: object) -> None:
        return
