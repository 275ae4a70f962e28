"""A worker's seat in a team, over TCP."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import os
import random
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from rowcast.config import LinkSettings, Secret, WorkerSettings
from rowcast.drivers.crew import lend_threads
from rowcast.drivers.sockets.connection import Connection
from rowcast.drivers.sockets.patience import limit_of, undelivered, why_given_up
from rowcast.drivers.sockets.tcp import check_congestion_control, check_privacy, tuned
from rowcast.errors import (
    AuthenticationFailed,
    ConfigError,
    LinkLost,
    LocalProtocolError,
    RemoteProtocolError,
    RowcastError,
    ServerUnavailable,
    near_match,
)
from rowcast.journal import Journal
from rowcast.rows import Layout
from rowcast.session import Port
from rowcast.session.proof import check_name
from rowcast.sync import Policy
from rowcast.training import Phase, WorkerNode
from rowcast.wire import Message

__all__ = ["Team"]

log = logging.getLogger("rowcast")
T = TypeVar("T")

#: A worker that leaves gives its goodbye so much time (s) on a link that does not move.
LEAVE_LIMIT_S = 2.0
#: Between two remarks about the same wait at most (s).
REMARK_CAP_S = 60.0


class Team:
    """A worker that trains with others through a server.

    A background thread owns the connection and the node; the training thread never waits for the network except
    in :meth:`exchange` and :meth:`finish`. Give it to :class:`rowcast.Optimizer`.

    Args:
        host, port: the server.
        name: stable name of this worker, unique in the team.
        secret: the team's shared secret.
        settings, link_settings: see :mod:`rowcast.config`.
        journal: where events are recorded; ``None`` keeps them in memory.
        shaped_by: name of the bandwidth trace under the connection, for the journal.
        insecure: connect beyond loopback without a secret.
        parameters: whose parameters the team is to train, see :func:`rowcast.join`.

    Attributes:
        journal: the journal of this worker.

    Raises:
        ConfigError: the server is not on loopback, and there is no secret; or ``parameters`` is not known.
    """

    def __init__(
        self,
        host: str,
        port: int = 7117,
        *,
        name: str,
        secret: bytes | None = None,
        settings: WorkerSettings | None = None,
        link_settings: LinkSettings | None = None,
        journal: Journal | None = None,
        shaped_by: str | None = None,
        insecure: bool = False,
        parameters: str | None = None,
    ) -> None:
        check_privacy(host, secret, insecure=insecure)
        if parameters not in (None, "team", "mine"):
            raise ConfigError(f"parameters: {parameters!r} is unknown; {near_match(str(parameters), ('team', 'mine'))}")
        check_name(name)
        self._parameters = parameters or ""
        self.name = name
        self.address = f"{host}:{port}"
        self._host, self._port = host, port
        self._secret = None if secret is None else Secret(secret)
        self._settings = settings or WorkerSettings()
        self._link_settings = link_settings or LinkSettings()
        self.journal = journal or Journal(name)
        self._shaped_by = shaped_by
        self._loop: asyncio.AbstractEventLoop
        self._ending = threading.Lock()
        self._changed = threading.Condition()
        self._forget()

    def _forget(self) -> None:
        """Nothing was started yet, or what was is over and may be tried again."""
        self._node: WorkerNode | None = None
        self._thread: threading.Thread | None = None
        self._begun = False
        self._failed = False
        self._main: asyncio.Task[None] | None = None
        self._ended = False
        self._connection: Connection | None = None
        self._closed: asyncio.Event | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._cause = "no attempt yet"
        self._finishing_at = 0.0
        self._error: BaseException | None = None

    # -- what the optimizer needs (rowcast.optim.TeamLike) ---------------------------------------------------------

    @property
    def node(self) -> WorkerNode:
        """The worker node.

        Raises:
            LocalProtocolError: :meth:`start` was not called.
        """
        if self._node is None:
            raise LocalProtocolError("team: not started; rowcast.Optimizer starts it, or call start()")
        return self._node

    @property
    def replica(self) -> npt.NDArray[np.float32]:
        """This worker's parameters, flat float32 [elements]."""
        return self.node.replica

    @property
    def anticipated(self) -> tuple[npt.NDArray[np.float32], float] | None:
        """How far beyond :attr:`replica` the next gradient is computed; see :attr:`WorkerNode.anticipated`."""
        return self.node.anticipated

    @property
    def members(self) -> int:
        """Workers that the gate counts."""
        return self.node.members

    @property
    def leads(self) -> bool:
        """Whether what this worker makes of the buffers is the team's, where their rule is "first"."""
        return self.node.leads

    @property
    def iteration(self) -> int:
        """Iterations finished."""
        return self.node.iteration

    @property
    def policy(self) -> Policy | None:
        """The team's policy, with the slack that is in force; ``None`` before the server has told it."""
        return self.node.policy

    @property
    def local_steps(self) -> int:
        """Optimizer steps for each iteration, from the server's policy; 1 before the server has told it."""
        return self.node.local_steps

    def start(self, layout: Layout, parameters: npt.NDArray[np.float32]) -> None:
        """Join; blocks until the parameters are the team's.

        Whatever ends the wait early, Ctrl-C included, the worker has left when this raises, and may start again.

        Args:
            layout: the model's rows.
            parameters: flat float32, taken over as the replica.

        Raises:
            ServerUnavailable: nobody answered within ``join_limit_s``.
            AuthenticationFailed: whoever answered within ``join_limit_s`` did not prove that it knows the secret.
            LayoutMismatch, RemoteProtocolError: the server refused.
        """
        if self._failed:  # and the end of that attempt was interrupted
            self.leave()
            self._forget()
        if self._node is not None:
            raise LocalProtocolError("team: started before; a team serves one optimizer")
        check_congestion_control(self._link_settings)
        lend_threads()
        self._process = os.getpid()
        try:
            self._node = WorkerNode(
                self.name,
                layout,
                parameters,
                settings=self._settings,
                link_settings=self._link_settings,
                secret=self._secret,
                parameters=self._parameters,
                journal=self.journal,
            )
            self._loop = asyncio.new_event_loop()
            self._loop.set_exception_handler(self._on_loop_error)
            self._thread = threading.Thread(target=self._run, name=f"rowcast-{self.name}", daemon=True)
            self._thread.start()
            self._wait(lambda: self.node.phase is not Phase.JOINING)
        except BaseException:
            self._failed = True
            self.leave()
            self._forget()
            raise

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        """While entered, arriving rows wait and :attr:`replica` does not change."""
        try:
            self._on_network(self.node.hold)
            yield
        finally:
            self._on_network(self.node.release)

    @contextlib.contextmanager
    def still(self) -> Iterator[None]:
        """While entered the network thread rests: neither :attr:`replica` nor :attr:`anticipated` changes."""
        self._check_process()
        resting, over = threading.Event(), threading.Event()

        def rest() -> None:
            resting.set()
            over.wait()

        try:  # an interrupt at any of these lines must let the network thread go on
            with self._ending:
                ended = self._ended
                if not ended:
                    self._loop.call_soon_threadsafe(rest)
            if not ended:
                resting.wait()
            yield
        finally:
            over.set()

    def accumulate(self, sources: Sequence[npt.NDArray[np.float32]], weight: float) -> None:
        """Add ``weight * (replica - sources)`` to what is pending; see :meth:`WorkerNode.accumulate`."""
        self._end_exchange()
        self._call(lambda: self.node.accumulate(sources, weight))

    def exchange(self) -> None:
        """Finish the iteration: push, gate, pull.

        Raises:
            LinkLost: the server did not come back within ``reconnect_limit_s``.
        """
        self._end_exchange()
        self._call(lambda: self.node.exchange(self._loop.time()))
        self._end_exchange()

    def _end_exchange(self) -> None:
        """Wait for an exchange that is under way; a Ctrl-C in the one before may have left it to itself."""
        self._wait(lambda: not self.node.exchanging)

    def report(self, **metrics: float) -> None:
        """Write figures of the training loop into the journal and show them to the server's display."""
        self._call(lambda: self.node.report(self._loop.time(), dict(metrics)))

    def finish(self, wait: bool = True, timeout_s: float | None = None) -> None:
        """Deliver everything, receive everything, say goodbye, close.

        Args:
            wait: stay until the others have finished too, so that all end with the same parameters.
            timeout_s: give up after so many seconds; ``None`` waits without limit.

        Raises:
            LinkLost: time ran out, or the server was gone for ``finish_limit_s``; the message says what is lost.
        """
        if self._node is None or self._thread is None or self.node.phase is Phase.DONE:
            return
        self._check_process()
        if self.node.phase is not Phase.FINISHING:  # a call that was interrupted goes on
            self._end_exchange()
            self._finishing_at = self._loop.time()
            self._call(lambda: self.node.finish(self._loop.time(), wait=wait))
        if not self._wait(lambda: self.node.phase is Phase.DONE, timeout_s):
            self.leave()
            raise LinkLost(f"{self.name}: finishing took longer than {timeout_s:g} s; what was pending is dropped")
        self._thread.join()

    def leave(self) -> None:
        """Go now; what is pending is dropped. Takes at most about two seconds, however the link is."""
        with self._ending:
            thread = self._thread
            if thread is not None and not self._begun:  # and it never will: it looks whether it is still wanted
                self._thread = None
                self._loop.close()
                return
        if thread is None or not thread.is_alive():
            return
        try:
            if self.node.phase is not Phase.DONE:
                self._on_network(lambda: self.node.leave(self._loop.time(), "left"))
            thread.join(LEAVE_LIMIT_S)
        finally:  # also where a second Ctrl-C ends the goodbye
            with self._ending:
                if not self._ended and self._main is not None:
                    self._loop.call_soon_threadsafe(self._main.cancel)
            thread.join()

    def abandon(self) -> None:
        """The same for an optimizer that was dropped without ``close()``: called by the garbage collector."""
        if os.getpid() != self._process or self._thread is None or self.node.phase is Phase.DONE:
            return
        log.warning(
            "%s: its Optimizer was dropped without close(); it leaves the team, and what was pending is lost", self.name
        )
        # The collector may have run on any thread, in the middle of anything: this one must not wait.
        threading.Thread(target=self.leave, name="rowcast-leave", daemon=True).start()

    # -- the training thread's side --------------------------------------------------------------------------------

    def _call(self, function: Callable[[], T]) -> T:
        """Run ``function`` on the network thread, if that has not given up."""
        self._check_process()
        self._raise_if_dead()
        return self._on_network(function)

    def _on_network(self, function: Callable[[], T]) -> T:
        """Run ``function`` on the network thread, which owns the node, and return what it returns.

        Once that thread has ended the node is nobody else's, and ``function`` runs here.
        """
        self._check_process()
        future: concurrent.futures.Future[T] = concurrent.futures.Future()

        def run() -> None:
            try:
                future.set_result(function())
            except BaseException as error:
                future.set_exception(error)
            self._pump()  # what goes wrong here is no answer to the caller; it ends his next wait

        with self._ending:
            ended = self._ended
            if not ended:
                self._loop.call_soon_threadsafe(run)
        return function() if ended else future.result()

    def _wait(self, reached: Callable[[], bool], timeout_s: float | None = None) -> bool:
        """Block until ``reached()``; False when ``timeout_s`` ran out. Says for whom after a few seconds."""
        begun = self._loop.time()
        pause_s = self._settings.patience_s
        remark_at = begun + pause_s
        with self._changed:
            while not reached():
                self._raise_if_dead()
                now = self._loop.time()
                if timeout_s is not None and now >= begun + timeout_s:
                    return False
                if now >= remark_at:
                    pause_s = min(2 * pause_s, REMARK_CAP_S)
                    remark_at = now + pause_s
                    self._remark(now)
                until = remark_at if timeout_s is None else min(remark_at, begun + timeout_s)
                self._changed.wait(until - now)
        self._raise_if_dead()
        return True

    def _remark(self, now: float) -> None:
        """Say what a long wait is for; who holds us at the gate is told by the server."""
        phase = self.node.phase
        if phase is Phase.FINISHING and self._connection is None:
            log.warning("%s: %s", self.name, undelivered(self.node, self.address, self._cause, self._settings))
        elif self.node.awaited:
            log.warning("%s: waiting for %s", self.name, self.node.awaited)
        elif self._connection is None or self.node.welcomed_at is None:
            log.warning("%s: waiting for the server at %s: %s", self.name, self.address, self._cause)
        elif phase is Phase.ASKING:
            log.warning("%s: waiting for a slot: the policy lets only a few workers transfer at once", self.name)
        elif phase in (Phase.PUSHING, Phase.PULLING):
            rate_mbps = self.node.outbox.meter.rate_bps(now) / 1e6
            log.warning("%s: still %s; the link gives about %.3g Mbit/s", self.name, phase.value, rate_mbps)
        elif phase is Phase.FINISHING:
            log.warning("%s: finished, and waiting for the others to finish too", self.name)

    def _check_process(self) -> None:
        """Refuse to work in a process that was forked from the one that joined: the network thread is not there."""
        _ = self.node
        if os.getpid() != self._process:
            raise LocalProtocolError(
                f"team: process {self._process} joined as {self.name!r}, and this is process {os.getpid()}, forked "
                "from it: a seat cannot be shared; join in the child under a name of its own, or start processes with "
                "multiprocessing.get_context('spawn')"
            )

    def _raise_if_dead(self) -> None:
        if self._error is not None:
            raise self._error
        if self._ended and self.node.phase is not Phase.DONE:
            raise LinkLost(f"{self.name}: the connection to {self.address} was closed")

    # -- the network thread's side ---------------------------------------------------------------------------------

    def _run(self) -> None:
        with self._ending:
            if self._thread is not threading.current_thread():
                return  # its start was interrupted, and given up before it had begun
            self._begun = True
        try:
            self._main = self._loop.create_task(self._stay_connected())
            self._loop.run_until_complete(self._main)
        except asyncio.CancelledError:
            pass
        except RowcastError as error:
            self._error = self._error or error
        except BaseException as error:
            self._error = self._error or error
            log.exception("%s: the network thread ended", self.name)
        finally:
            if self._connection is not None:
                self._connection.close("left")
            with self._ending:
                self._ended = True
            # What was queued by the training thread in the meantime still gets its answer.
            self._loop.run_until_complete(asyncio.sleep(0))
            self._loop.close()
            with self._changed:
                self._changed.notify_all()

    async def _stay_connected(self) -> None:
        """Connect, and connect again, until the work is done or the limit is reached."""
        node, settings = self.node, self._settings
        lost_at = self._loop.time()
        pause_s = settings.reconnect_first_s
        while not self._over():
            try:
                self._closed = asyncio.Event()
                await asyncio.wait_for(
                    self._loop.create_connection(lambda: Connection(self), self._host, self._port),
                    settings.silence_limit_s,
                )
                await self._closed.wait()
            except (OSError, asyncio.TimeoutError) as error:
                self._cause = _plain(error)
            if node.welcomed_at is not None and node.welcomed_at > lost_at:
                lost_at, pause_s = self._loop.time(), settings.reconnect_first_s
                # Who is let in and refused again and again comes back more and more rarely.
                pause_s = min(pause_s * 2.0 ** min(node.setbacks, 60), settings.reconnect_cap_s)
            if self._over():
                break
            # Who has finished looks for the server anew, however long it was gone before.
            since = max(lost_at, self._finishing_at)
            if self._loop.time() - since + pause_s > (limit_s := limit_of(node, settings)):
                raise self._out_of_time(limit_s)
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))
            pause_s = min(2 * pause_s, settings.reconnect_cap_s)
        if node.failure is not None:
            raise node.failure

    def _out_of_time(self, limit_s: float) -> RowcastError:
        """Why this worker is not connected, when it has tried for long enough."""
        node = self.node
        if node.turned_away:
            return RemoteProtocolError(f"the server at {self.address} refused this worker: {node.turned_away}")
        if node.unproven and node.unproven == self._cause:
            return AuthenticationFailed(
                f"{self.name}: {node.unproven}; this worker tried again for {limit_s:g} s. Give both the same "
                "--secret-file, and check the address"
            )
        return ServerUnavailable(why_given_up(node, self.address, self._cause, self._settings))

    def _give_up(self, error: BaseException) -> None:
        """A fault of this process on the network thread: end that thread, and the wait of the training thread with it.

        Whatever it is, trying again would not help, and nobody else would hear of it.
        """
        if self._error is None:
            self._error = error
            log.error("%s: the network thread ended", self.name, exc_info=error)
        if self._connection is not None:
            self._connection.close("left")
        if self._main is not None:
            self._main.cancel()

    def _on_loop_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """asyncio met an exception: in a timer, or in what another thread had called here.

        One that nobody fetched is not meant: that of a connection that was given up is of no use to anybody.
        """
        error = context.get("exception")
        if error is not None and not {"future", "task"} & context.keys():
            self._give_up(error)
        else:
            loop.default_exception_handler(context)

    def _over(self) -> bool:
        return self.node.phase is Phase.DONE or self.node.failure is not None

    def on_open(self, connection: Connection, sock: socket.socket) -> None:
        congestion_control, fault = tuned(sock, self._link_settings)
        connection.port = Port(self.address, congestion_control=congestion_control, shaped_by=self._shaped_by)
        self._connection = connection
        self._cause = "connected, but not let in yet"
        self.node.link_up(self._loop.time(), connection.port)
        if fault:
            connection.close(fault)
        self._pump()  # the limits count from now on, also for a peer that never says a word

    def on_bytes(self, connection: Connection) -> None:
        self.node.heard(self._loop.time())

    def on_message(self, connection: Connection, message: Message) -> None:
        self.node.receive(self._loop.time(), message)

    def on_garbage(self, connection: Connection, error: RemoteProtocolError) -> None:
        connection.close(self.node.blame(self._loop.time(), error))

    def on_failure(self, connection: Connection, error: Exception) -> None:
        self._give_up(error)

    def after_read(self) -> None:
        self._pump()

    def after_write(self) -> None:
        pass

    def on_closed(self, connection: Connection, cause: str) -> None:
        self._connection = None
        self._cause = cause
        self.node.link_down(self._loop.time(), cause)
        assert self._closed is not None
        self._closed.set()
        self._pump()

    def next_message(self, connection: Connection) -> Message | None:
        return self.node.poll(self._loop.time())

    def _pump(self) -> None:
        """Send what there is, set the timer, wake the training thread."""
        connection, node = self._connection, self.node
        if connection is not None:
            connection.pump()
            if node.phase is Phase.DONE and connection.port.closing is False:
                connection.port.closing = True
                connection.pump()
        due = node.next_timer()
        if self._timer is not None and self._timer.when() != due:
            self._timer.cancel()
            self._timer = None
        if due is not None and self._timer is None:
            self._timer = self._loop.call_at(due, self._on_timer)
        while node.notices:
            log.warning("%s", node.notices.pop(0))
        with self._changed:
            self._changed.notify_all()

    def _on_timer(self) -> None:
        self._timer = None
        try:
            self.node.on_timer(self._loop.time())
        except LinkLost as error:
            if self._connection is not None:
                self._connection.close(str(error))
        self._pump()


def _plain(error: BaseException) -> str:
    """What went wrong, for people."""
    if isinstance(error, TimeoutError | asyncio.TimeoutError):
        return "no answer"
    if isinstance(error, socket.gaierror):
        return f"the name cannot be resolved ({error.strerror})"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused: nobody listens there"
    return getattr(error, "strerror", None) or str(error)
