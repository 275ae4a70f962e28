"""A robot that asks for inferences, over TCP."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any

from rowcast.config import LinkSettings
from rowcast.drivers.sockets.endpoint import Endpoint
from rowcast.drivers.sockets.lanes import Lanes
from rowcast.drivers.sockets.network import NetworkThread
from rowcast.errors import RowcastError
from rowcast.inference import AskerNode, Engine, Outcome, Planning

__all__ = ["InferenceThread"]


class InferenceThread(NetworkThread):
    """The thread that runs an asking node, with those on which its engines compute.

    Args:
        node: the node; once :meth:`start` was called it belongs to the thread, until that has ended.
        engines: by lane of the node.
        endpoint: the server.
        link_settings: see :mod:`rowcast.config`.
        welcomed: called on the thread when a server has let the robot in, with the seconds that it takes for the whole
            model; it must not wait.
    """

    node: AskerNode

    def __init__(
        self,
        node: AskerNode,
        engines: Mapping[str, Engine],
        endpoint: Endpoint,
        link_settings: LinkSettings,
        welcomed: Callable[[float], None],
    ) -> None:
        super().__init__(node, endpoint, link_settings)
        self._engines = engines
        self._welcomed = welcomed
        self._forward_s: float | None = None
        self._lanes: Lanes | None = None
        self._futures: dict[int, Future[Outcome]] = {}

    # -- called from other threads ---------------------------------------------------------------------------------

    def submit(self, inputs: Any, deadline_s: float | None) -> Future[Outcome]:
        """Ask for an inference.

        Args:
            inputs: for the engine.
            deadline_s: in place of that of the settings.

        Returns:
            A future with its outcome, or the error why there is no answer; it is cancelled where a newer input took
            its place.
        """
        self.check_process()
        self._raise_if_dead()
        future: Future[Outcome] = Future()
        with self._ending:
            if not self._ended:
                self.loop.call_soon_threadsafe(self._ask, future, inputs, deadline_s)
                return future
        self._raise_if_dead()
        return future

    def replan(self, planning: Planning) -> None:
        """Decide with this from now on, unless it is all over."""

        def take_over() -> None:
            self.node.planning = planning

        with self._ending:
            if not self._ended:
                self.loop.call_soon_threadsafe(take_over)

    # -- the thread ------------------------------------------------------------------------------------------------

    def _ask(self, future: Future[Outcome], inputs: Any, deadline_s: float | None) -> None:
        if self.node.failure is not None:
            future.set_exception(self.node.failure)
            return
        try:
            self._futures[self.node.ask(self.loop.time(), inputs, deadline_s)] = future
        except RowcastError as error:
            future.set_exception(error)
            return
        self._attend()

    def _attended(self) -> None:
        if self._lanes is None:
            self._lanes = Lanes(self.node, self._engines, self._attend, f"rowcast-{self.node.name}")
        if self._lanes.look() and self.connection is not None:
            self.connection.pump()
        if self.node.forward_s is not None and self.node.forward_s != self._forward_s:
            self._forward_s = self.node.forward_s
            self._welcomed(self._forward_s)
        while self.node.outcomes:
            self._settle(self.node.outcomes.popleft())

    def _settle(self, outcome: Outcome) -> None:
        future = self._futures.pop(outcome.ticket)
        if outcome.superseded:
            future.cancel()
        elif not future.set_running_or_notify_cancel():
            pass  # who asked has cancelled it
        elif outcome.error is not None:
            future.set_exception(outcome.error)
        else:
            future.set_result(outcome)

    async def _close_all(self) -> None:
        await super()._close_all()
        if self._lanes is not None:
            await self._lanes.close()
        for outcome in self.node.outcomes:
            self._settle(outcome)
        for future in self._futures.values():
            future.cancel()
