"""The thread that runs a node which connects to a server: its event loop, its attempts to connect, its connection."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import os
import socket
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from rowcast.config import LinkSettings
from rowcast.drivers.nodes import GuestNode, taken_in
from rowcast.drivers.sockets.addresses import Addresses, in_words
from rowcast.drivers.sockets.connection import Connection
from rowcast.drivers.sockets.endpoint import Endpoint
from rowcast.drivers.sockets.owner import Owner
from rowcast.drivers.sockets.tcp import tuned
from rowcast.errors import ConfigError, LinkLost, LocalProtocolError, RemoteProtocolError, RowcastError
from rowcast.session import Link
from rowcast.wire import Message

if TYPE_CHECKING:
    from rowcast.drivers.sockets.tls import Channel

__all__ = ["NetworkThread"]

log = logging.getLogger("rowcast")
T = TypeVar("T")

#: A worker that leaves gives its goodbye so much time (s) on a link that does not move.
LEAVE_LIMIT_S = 2.0
#: Where there is another address, one that does not answer is given up after so long (s).
OTHER_LIMIT_S = 3.0
#: Between two remarks about the same wait at most (s).
REMARK_CAP_S = 60.0


class NetworkThread(Owner):
    """Carries what a node says, and tells it the time. What to do next, the node knows.

    Args:
        node: the node; once :meth:`start` was called it belongs to the thread, until that has ended.
        endpoint: the server.
        link_settings: see :mod:`rowcast.config`.

    Attributes:
        loop: the thread's event loop.
        connection: the connection that stands, or ``None``.
    """

    def __init__(self, node: GuestNode, endpoint: Endpoint, link_settings: LinkSettings) -> None:
        self.node = node
        self.connection: Connection | None = None
        self._endpoint = endpoint
        self._addresses = Addresses([(endpoint.host, endpoint.port), *endpoint.others])
        self._tls = endpoint.security.guest(node.name)
        self._link_settings = link_settings
        self._ending = threading.Lock()
        self._changed = threading.Condition()
        self._begun = self._dropped = self._ended = False
        self._silent = False  # the connection that ends was given up by the node
        self._main: asyncio.Task[None] | None = None
        self._attempt: asyncio.Task[None] | None = None
        self._over = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._error: BaseException | None = None
        self._process = os.getpid()
        self._thread = threading.Thread(target=self._run, name=f"rowcast-{node.name}", daemon=True)
        self.loop = asyncio.new_event_loop()
        self.loop.set_exception_handler(self._on_loop_error)

    # -- called from other threads ---------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin: the node connects, and connects again, until its work is done or it gives up."""
        self._thread.start()

    def is_alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def join(self) -> None:
        """Wait for the end of the thread."""
        self._thread.join()

    def here(self) -> bool:
        """Whether this is the process that started it."""
        return os.getpid() == self._process

    def check_process(self) -> None:
        """Refuse to work in a process that was forked from the one that joined: the thread is not there.

        Raises:
            LocalProtocolError: this is such a process.
        """
        if not self.here():
            raise LocalProtocolError(
                f"team: process {self._process} joined as {self.node.name!r}, and this is process {os.getpid()}, "
                "forked from it: a place in a team cannot be shared; join in the child under a name of its own, or "
                "start processes with multiprocessing.get_context('spawn')"
            )

    def call(self, function: Callable[[], T]) -> T:
        """Run ``function`` on the network thread, if that has not given up."""
        self.check_process()
        self._raise_if_dead()
        return self.run(function)

    def run(self, function: Callable[[], T]) -> T:
        """Run ``function`` on the network thread, which owns the node, and return what it returns.

        Once that thread has ended the node is nobody else's, and ``function`` runs here.
        """
        self.check_process()
        with self.resting(function) as result:
            return result

    def post(self, function: Callable[[], object]) -> None:
        """The same as :meth:`call`, without waiting for it: ``function`` must not fail."""
        self.check_process()
        self._raise_if_dead()

        def do() -> None:
            function()
            self._attend()

        with self._ending:
            ended = self._ended
            if not ended:
                self.loop.call_soon_threadsafe(do)
        if ended:
            function()

    @contextlib.contextmanager
    def resting(self, function: Callable[[], T]) -> Iterator[T]:
        """The same, and what is entered gets the result; until it is left the thread does nothing else."""
        self.check_process()
        future: concurrent.futures.Future[T] = concurrent.futures.Future()
        over = threading.Event()

        def answer() -> None:
            try:
                future.set_result(function())
            except BaseException as error:
                future.set_exception(error)
            over.wait()
            self._attend()  # what goes wrong here is no answer to the caller; it ends his next wait

        try:  # an interrupt at any of these lines must let the thread go on
            with self._ending:
                ended = self._ended
                if not ended:
                    self.loop.call_soon_threadsafe(answer)
            yield function() if ended else future.result()
        finally:
            over.set()

    def wait(self, reached: Callable[[], bool], timeout_s: float | None = None) -> bool:
        """Block until ``reached()``; False when ``timeout_s`` ran out. Says for what after a few seconds."""
        begun = self.loop.time()
        pause_s = self.node.settings.patience_s
        remark_at = begun + pause_s
        with self._changed:
            while not reached():
                self._raise_if_dead()
                now = self.loop.time()
                if timeout_s is not None and now >= begun + timeout_s:
                    return False
                if now >= remark_at:
                    pause_s = min(2 * pause_s, REMARK_CAP_S)
                    remark_at = now + pause_s
                    if (remark := self.node.waits_for(now)) is not None:
                        log.warning("%s: %s", self.node.name, remark)
                until = remark_at if timeout_s is None else min(remark_at, begun + timeout_s)
                self._changed.wait(until - now)
        self._raise_if_dead()
        return True

    def leave(self, *, goodbye: bool = True) -> None:
        """Go now; what is pending is dropped. Takes at most about two seconds, however the link is.

        Args:
            goodbye: the node says one, which is given that time; otherwise the connection just ends.
        """
        with self._ending:
            if not self._begun:  # and it never will: it looks whether it is still wanted
                self._dropped = True
                self.loop.close()
                return
        if not self._thread.is_alive():
            return
        try:
            if not self.node.over:
                self.run(lambda: self.node.leave(self.loop.time(), "left"))
            self._thread.join(LEAVE_LIMIT_S if goodbye else 0.0)
        finally:  # also where a second Ctrl-C ends the goodbye
            with self._ending:
                if not self._ended and self._main is not None:
                    self.loop.call_soon_threadsafe(self._main.cancel)
            self._thread.join()

    def _raise_if_dead(self) -> None:
        if self._error is not None:
            raise self._error
        if self._ended and not self.node.over:
            raise LinkLost(f"{self.node.name}: the connection to {self._endpoint} was closed")

    # -- the thread ------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        with self._ending:
            if self._dropped:
                return  # its start was interrupted, and given up before it had begun
            self._begun = True
        try:
            self._main = self.loop.create_task(self._until_over())
            self.loop.run_until_complete(self._main)
        except asyncio.CancelledError:
            pass
        except RowcastError as error:
            self._error = self._error or error
        except BaseException as error:
            self._error = self._error or error
            log.exception("%s: the network thread ended", self.node.name)
        finally:
            with self._ending:
                self._ended = True
            # What was queued by the training thread in the meantime still gets its answer.
            self.loop.run_until_complete(self._close_all())
            self.loop.close()
            with self._changed:
                self._changed.notify_all()

    async def _until_over(self) -> None:
        self._attend()
        await self._over.wait()
        if self.node.failure is not None:
            raise self.node.failure

    async def _close_all(self) -> None:
        """Close the connection, also one that an attempt makes at this very moment."""
        while self._attempt is not None and not self._attempt.done():
            self._attempt.cancel()
            await asyncio.gather(self._attempt, return_exceptions=True)
        while self.connection is not None:
            self.connection.close("left")
            await asyncio.sleep(0)
        for _ in range(2):  # in which the transport of an attempt that was cancelled notices that it is closed
            await asyncio.sleep(0)

    async def _connect(self) -> None:
        """One attempt to connect; what goes on then, the connection reports."""
        try:
            try:
                await self._reach()
            except (OSError, asyncio.TimeoutError, ConfigError) as error:  # ConfigError: the robot's file has changed
                self.node.connect_failed(self.loop.time(), in_words(error))
            self._attend()
        except Exception as error:
            self._give_up(error)

    async def _reach(self) -> None:
        """Connect to the server, or where else it may be: where it was last, first."""
        places = self._addresses.all()
        limit_s = self.node.settings.silence_limit_s
        for left, (host, port) in zip(range(len(places) - 1, -1, -1), places, strict=True):
            channel = None if self._tls is None else self._tls.open()
            making = self.loop.create_connection(
                lambda: Connection(self, channel=channel, speaks_first=True, lingers=True),  # noqa: B023
                host,
                port,
            )
            try:
                await asyncio.wait_for(making, min(limit_s, OTHER_LIMIT_S) if left else limit_s)
                return
            except (OSError, asyncio.TimeoutError):
                self._addresses.leave()
                if not left:
                    raise

    def _give_up(self, error: BaseException) -> None:
        """A fault of this process on the network thread: end that thread, and the wait of the training thread with it.

        Whatever it is, trying again would not help, and nobody else would hear of it.
        """
        if self._error is None:
            self._error = error
            log.error("%s: the network thread ended", self.node.name, exc_info=error)
        if self.connection is not None:
            self.connection.close("left")
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

    # -- what the connection reports -------------------------------------------------------------------------------

    def on_open(self, connection: Connection, sock: socket.socket) -> None:
        congestion_control, fault = tuned(sock, self._link_settings)
        shaped_by = self._endpoint.shaped_by
        connection.link = Link(
            str(self._endpoint),
            congestion_control=congestion_control,
            shaped_by=shaped_by,
            secured=not connection.has_tls,
        )
        if self._endpoint.security.secret is None:  # where there is one, the node itself wants its proof in time
            connection.must_be_secured(self.node.settings.silence_limit_s)
        self.connection = connection
        if len(self._addresses.all()) > 1:
            self.loop.call_later(OTHER_LIMIT_S, self._doubt, connection)
        self.node.link_up(self.loop.time(), connection.link)
        if fault:
            connection.close(fault)
        self._attend()  # the limits count from now on, also for a peer that never says a word

    def _doubt(self, connection: Connection) -> None:
        """A server that is frozen takes connections, and says nothing: there is another address."""
        if self.connection is connection and not connection.link.decoder.frames:
            connection.close(f"nothing came from the server for {OTHER_LIMIT_S:g} s")

    def on_secured(self, connection: Connection, channel: Channel) -> None:
        assert self._tls is not None
        bound_to, _ = self._tls.admit(channel)
        connection.link.secure(bound_to, None)

    def on_bytes(self, connection: Connection, begun: tuple[int, int]) -> None:
        self.node.heard(self.loop.time())
        connection.link.decoder.hold(*begun)

    def on_read(self, connection: Connection, count: int) -> str | None:
        return taken_in(self.node, self.loop.time(), connection.link, count)

    def on_garbage(self, connection: Connection, error: RemoteProtocolError) -> None:
        connection.close(self.node.blame(self.loop.time(), error))

    def on_failure(self, connection: Connection, error: Exception) -> None:
        self._give_up(error)

    def after_read(self) -> None:
        self._attend()

    def after_write(self) -> None:
        pass

    def on_closed(self, connection: Connection, cause: str) -> None:
        self.connection = None
        if self._silent or not connection.link.conversation.is_let_in:
            self._addresses.leave()
        self._silent = False
        self.node.link_down(self.loop.time(), cause)
        self._attend()

    def next_message(self, connection: Connection) -> Message | None:
        return self.node.poll(self.loop.time())

    # -- what comes next -------------------------------------------------------------------------------------------

    def _attend(self) -> None:
        """The node may have changed: send what there is, connect, set the timer, wake the training thread."""
        connection, node = self.connection, self.node
        self._addresses.learn(node.standby)
        if connection is not None:
            connection.pump()
            if node.over and connection.link.closing is False:
                connection.link.closing = True
                connection.pump()
        elif node.over or node.failure is not None:
            self._over.set()
        elif self._ended:
            pass  # nobody waits for another connection
        elif (connect_at := node.connect_at) is not None and connect_at <= (now := self.loop.time()):
            node.connecting(now, str(self._endpoint))
            self._attempt = self.loop.create_task(self._connect())
        self._attended()
        self._set_timer(node.next_wake())
        while node.notices:
            log.warning("%s", node.notices.pop(0))
        with self._changed:
            self._changed.notify_all()

    def _attended(self) -> None:
        """What the node had to say is sent; for nodes that do more than that."""

    def _set_timer(self, due: float | None) -> None:
        if self._timer is not None and self._timer.when() != due:
            self._timer.cancel()
            self._timer = None
        if due is not None and self._timer is None:
            self._timer = self.loop.call_at(due, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        try:
            self.node.on_timer(self.loop.time())
        except LinkLost as error:
            if self.connection is not None:
                self._silent = True
                self.connection.close(str(error))
        self._attend()
