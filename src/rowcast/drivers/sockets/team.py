"""A worker of a team, over TCP."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from rowcast.config import LinkSettings, WorkerSettings
from rowcast.drivers.crew import lend_threads
from rowcast.drivers.kept import Keeper
from rowcast.drivers.node_view import NodeView
from rowcast.drivers.own_time import OwnTime
from rowcast.drivers.sockets.endpoint import Endpoint
from rowcast.drivers.sockets.network import NetworkThread
from rowcast.drivers.sockets.tcp import check_congestion_control
from rowcast.drivers.subscribing import Subscription
from rowcast.errors import ConfigError, LinkLost, LocalProtocolError, NonFiniteGradient, near_match
from rowcast.journal import Event, Journal
from rowcast.rows import Layout
from rowcast.session import JoinRequest
from rowcast.session.proof import check_name
from rowcast.streams import BatchRule
from rowcast.training import WorkerNode, WorkerState
from rowcast.training.kept import Extras
from rowcast.training.proposal.contribution import Update

__all__ = ["Team"]

log = logging.getLogger("rowcast")
T = TypeVar("T")
Vector = npt.NDArray[np.float32]


class Team(NodeView):
    """A worker that trains with others through a server.

    A background thread owns the connection and the node; the training thread never waits for the network except
    in :meth:`exchange` and :meth:`finish`. Give it to :class:`rowcast.Optimizer`.

    Args:
        endpoint: the server.
        name: stable name of this worker, unique in the team.
        settings, link_settings: see :mod:`rowcast.config`.
        journal: where events are recorded; ``None`` keeps them in memory.
        parameters: whose parameters the team is to train, see :func:`rowcast.join`.
        state_dir: where this worker's own state is kept; ``None``: nowhere.

    Attributes:
        journal: the journal of this worker.
        restored: the iteration from which it goes on after its process was killed; ``None``: it began anew.
        own_time: measures what the training thread works for Rowcast.

    Raises:
        ConfigError: the server is not on loopback, and there is neither a secret nor a certificate; the file of the
            robot cannot be used, or is another one's; or ``parameters`` is not known.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        name: str,
        settings: WorkerSettings | None = None,
        link_settings: LinkSettings | None = None,
        journal: Journal | None = None,
        parameters: str | None = None,
        state_dir: str | Path | None = None,
    ) -> None:
        endpoint.check_join()
        endpoint.security.guest(name)  # now, and not at the first step, the user hears of a file that cannot be used
        if parameters not in (None, "team", "mine"):
            raise ConfigError(f"parameters: {parameters!r} is unknown; {near_match(str(parameters), ('team', 'mine'))}")
        check_name(name)
        self.name = name
        self.journal = journal or Journal(name)
        self.own_time = OwnTime()
        self._endpoint = endpoint
        self._parameters = parameters or ""
        self._settings = settings or WorkerSettings()
        self.vectors = self._settings.vectors
        self._link_settings = link_settings or LinkSettings()
        self._state_dir = None if state_dir is None else Path(state_dir)
        self._subscriptions: list[Subscription] = []
        self._forget()

    def _forget(self) -> None:
        """Nothing was started yet, or what was is over and may be tried again."""
        self._node: WorkerNode | None = None
        self._network: NetworkThread | None = None
        self._failed = False
        self._keeper: Keeper | None = None
        self.restored: int | None = None

    @property
    def address(self) -> str:
        """The server's, for people."""
        return str(self._endpoint)

    def on_event(self, callback: Callable[[Event], object]) -> Subscription:
        """Call ``callback`` with what happens to this robot from now on, as its journal has it, kept or not.

        It is called on a thread of its own, one event after the other: it may be slow, and it may raise, and training
        goes on; see :class:`~rowcast.drivers.subscribing.Subscription`. It ends with :meth:`finish` and :meth:`leave`,
        which wait up to 5 s for what has not been told by then; or when the returned handle is closed, or left::

            with team.on_event(lambda event: logger.info("%s %s", event.name, event.cause)):
                train()

        Args:
            callback: called with each :class:`rowcast.journal.Event`.

        Raises:
            LocalProtocolError: it cannot be called.
        """
        if not callable(callback):
            raise LocalProtocolError(f"on_event: expected a function that takes an event, got {callback!r}")
        self._subscriptions = [each for each in self._subscriptions if not each.closed]
        self._subscriptions.append(Subscription(self.journal, callback))
        return self._subscriptions[-1]

    def _tell_the_rest(self) -> None:
        """Everything has been recorded: whoever is called with events hears of the last ones."""
        for each in self._subscriptions:
            each.close()

    # -- what the optimizer needs (rowcast.optim.TeamLike) ---------------------------------------------------------

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
            self._go()
            self._forget()
        if self._node is not None:
            raise LocalProtocolError("team: started before; a team serves one optimizer")
        check_congestion_control(self._link_settings)
        lend_threads()
        try:
            if self._state_dir is not None:
                self._keeper = Keeper(self._state_dir, self.name, self._settings.state_limit_s)
            self._node = WorkerNode(
                self.name,
                layout,
                parameters,
                settings=self._settings,
                link_settings=self._link_settings,
                request=JoinRequest(self._endpoint.security.secret, self._parameters),
                journal=self.journal,
            )
            self._node.loop, self._node.holding.home = self.loop, self.home
            self._restore(self._node)
            self._network = NetworkThread(self._node, self._endpoint, self._link_settings)
            self._network.start()
            # One that goes on has an exchange under way.
            self._wait(lambda: self.node.state is not WorkerState.JOINING and not self.node.exchanging)
        except BaseException:
            self._failed = True
            self._go()
            self._forget()
            raise

    def _restore(self, node: WorkerNode) -> None:
        """Give the node what was kept of another life, and let it keep its own."""
        if self._keeper is None:
            return
        kept = self._keeper.open(node.layout)
        if kept is not None:
            node.restore(kept.replay, kept.age_s)
            self.restored = node.iteration
        node.notebook = self._keeper

    def keep(self, extras: Callable[[], Extras]) -> Extras | None:
        """What belongs to this worker's state beside the parameters is given by ``extras``; returns what was kept."""
        return None if self._keeper is None else self._keeper.exchange_extras(extras)

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        """While entered, arriving rows wait and :attr:`replica` does not change."""
        try:
            self._running.run(self.node.hold)
            yield
        finally:
            self._running.run(self.node.release)

    def still(self) -> contextlib.AbstractContextManager[None]:
        """While entered the network thread rests: neither :attr:`replica` nor :attr:`anticipated` changes."""
        return self._running.resting(lambda: None)

    def accumulate(self, sources: Sequence[Vector], weight: float, origin: Vector | None = None) -> None:
        """Add ``weight * (origin - sources)`` to what is pending; see :meth:`WorkerNode.accumulate`."""
        self._end_exchange()
        self._call(lambda now: self.node.accumulate(sources, weight, origin))

    def exchange(self, update: Update | None = None, then: Callable[[], None] | None = None) -> None:
        """Finish the iteration: push, gate, pull.

        Args:
            update: accumulated before, in the same call of the network thread; as :meth:`accumulate` takes it.
            then: called as soon as the iteration is finished, while the network thread rests. Where the worker may go
                on at once it has not begun to send by then, so that nobody waits for a frame that is being encoded.

        Raises:
            NonFiniteGradient: the update holds NaN or Inf; nothing of it was added, and the iteration is finished.
            LinkLost: the server did not come back within ``reconnect_limit_s``.
        """
        own_s = self.own_time.take()
        self._end_exchange()
        thread = self._running
        with thread.resting(lambda: self._finish_iteration(thread.loop.time(), update, own_s)) as refused:
            at_once = not self.node.exchanging
            if at_once and refused is None and then is not None:
                then()
        if not at_once:
            self._end_exchange()
            if refused is None and then is not None:
                with self.still():
                    then()
        if refused is not None:
            raise refused

    def _finish_iteration(self, now: float, update: Update | None, own_s: float) -> NonFiniteGradient | None:
        """On the network thread; why the update was refused, or ``None``."""
        self.node.step.own_s = own_s
        refused = self.node.offer(update)
        self.node.exchange(now)
        return refused

    def _end_exchange(self) -> None:
        """Wait for an exchange that is under way; a Ctrl-C in the one before may have left it to itself."""
        with self.own_time.not_ours():
            self._wait(lambda: not self.node.exchanging)

    @property
    def delivered(self) -> int:
        """The newest iteration of which every row is acknowledged; counted as :attr:`finished`."""
        return self._running.run(lambda: self.node.arrived)

    def supply(self, rule: BatchRule, rate: float | None) -> None:
        """Tell the server what this worker can train on, if that has changed."""
        self._call(lambda now: self.node.supplier.supply(rule, rate))

    def fed(self, samples: int, starve_s: float, queued: int, dropped: int, age_s: float) -> None:
        """A stream gave a batch to the step that is under way; see :meth:`WorkerNode.fed`."""
        self._call(lambda now: self.node.fed(samples, starve_s, queued, dropped, age_s))

    def report(self, **metrics: float) -> None:
        """Write figures of the training loop into the journal and show them to the server's display."""
        plain = {name: float(value) for name, value in metrics.items()}
        self._post(lambda now: self.node.report(now, plain))

    def note(self, what: str, detail: str) -> None:
        """Write what happened in the task into the journal."""
        self._post(lambda now: self.node.note(now, what, detail))

    def finish(self, wait: bool = True, timeout_s: float | None = None) -> None:
        """Deliver everything, receive everything, say goodbye, close.

        Args:
            wait: stay until the others have finished too, so that all end with the same parameters.
            timeout_s: give up after so many seconds; ``None`` waits without limit.

        Raises:
            LinkLost: time ran out, or the server was gone for ``finish_limit_s``; the message says what is lost.
        """
        if self._network is None or self.node.over:
            self._tell_the_rest()
            return
        self._network.check_process()
        if self.node.state is not WorkerState.FINISHING:  # a call that was interrupted goes on
            self._end_exchange()
            self._call(lambda now: self.node.finish(now, wait=wait))
        if not self._wait(lambda: self.node.over, timeout_s):
            self.leave()
            raise LinkLost(f"{self.name}: finishing took longer than {timeout_s:g} s; what was pending is dropped")
        self._network.join()
        self._close_state(done=True)
        self._tell_the_rest()

    def leave(self) -> None:
        """Go now; what is pending is dropped, or kept where there is a state_dir. Takes at most about two seconds."""
        self._go()
        self._tell_the_rest()

    def _go(self) -> None:
        if self._network is not None:
            if self._keeper is not None and not self.node.over and self._network.is_alive():
                self._network.run(self._take_last_picture)
            self._network.leave(goodbye=self._keeper is None)
        self._close_state(done=False)

    def _take_last_picture(self) -> None:
        """On the network thread: what is pending is not delivered now, and is not lost."""
        if self._keeper is not None and not self._keeper.closed:
            self._keeper.last(self.node)

    def _close_state(self, *, done: bool) -> None:
        if self._keeper is not None:
            self._keeper.close(done=done)

    def abandon(self) -> None:
        """The same for an optimizer that was dropped without ``close()``: called by the garbage collector."""
        if self._network is None or not self._network.here() or self.node.over:
            return
        log.warning(
            "%s: its Optimizer was dropped without close(); it leaves the team, and what was pending is lost", self.name
        )
        # The collector may have run on any thread, in the middle of anything: this one must not wait.
        threading.Thread(target=self.leave, name="rowcast-leave", daemon=True).start()

    # -- the network thread ----------------------------------------------------------------------------------------

    @property
    def _running(self) -> NetworkThread:
        _ = self.node
        assert self._network is not None
        return self._network

    def _call(self, function: Callable[[float], T]) -> T:
        """Run ``function(now)`` on the network thread, if that has not given up."""
        thread = self._running
        return thread.call(lambda: function(thread.loop.time()))

    def _post(self, function: Callable[[float], object]) -> None:
        """The same, without waiting for it."""
        thread = self._running
        thread.post(lambda: function(thread.loop.time()))

    def _wait(self, reached: Callable[[], bool], timeout_s: float | None = None) -> bool:
        return self._running.wait(reached, timeout_s)
