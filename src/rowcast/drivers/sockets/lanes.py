"""Threads that compute for a node, beside its event loop."""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Protocol

from rowcast.errors import RowcastError
from rowcast.inference import Engine, Made, Work

__all__ = ["ComputingNode", "Lanes"]

log = logging.getLogger("rowcast")

#: What is given to a thread: requests to forget, and work; ``None``: the end.
_Order = tuple[Sequence[Hashable], Sequence[Work]] | None


class ComputingNode(Protocol):
    """A node that has work for an engine."""

    @property
    def lanes(self) -> tuple[str, ...]:
        """What is computed side by side."""

    def take_work(self, now: float, lane: str) -> Sequence[Work]: ...

    def work_done(self, now: float, lane: str, works: Sequence[Work], made: Sequence[Made], seconds: float) -> None: ...

    def work_failed(self, now: float, works: Sequence[Work], error: RowcastError) -> None: ...

    def take_forgotten(self) -> list[Hashable]: ...


class Lanes:
    """Does the work of one node, one thread for each lane.

    All methods are called on the event loop.

    Args:
        node: the node.
        engines: by lane.
        changed: called when the node has heard of something that is done.
        name: of the threads.
    """

    def __init__(
        self, node: ComputingNode, engines: Mapping[str, Engine], changed: Callable[[], None], name: str
    ) -> None:
        self._node = node
        self._engines = engines
        self._changed = changed
        self._loop = asyncio.get_running_loop()
        self._orders: dict[str, queue.SimpleQueue[_Order]] = {lane: queue.SimpleQueue() for lane in node.lanes}
        self._busy = dict.fromkeys(node.lanes, False)
        self._faults: set[str] = set()
        self._threads = [
            threading.Thread(target=self._compute, args=(lane,), name=f"{name}-{lane}", daemon=True)
            for lane in node.lanes
        ]
        for thread in self._threads:
            thread.start()

    def look(self) -> bool:
        """Give idle threads what there is to do. What is trivial is done here: it takes less than waking a thread.

        Returns:
            Whether something was done, so that the node may have something to say.
        """
        done = False
        for lane, busy in self._busy.items():
            while not busy:
                works = self._node.take_work(self._loop.time(), lane)
                forgotten = self._node.take_forgotten() if lane == self._node.lanes[0] else []
                if works and not forgotten and self._engines[lane].is_trivial(works):
                    self._finish(lane, works, *self._run(lane, works))
                    done = True
                    continue
                if works or forgotten:
                    busy = self._busy[lane] = bool(works)
                    self._orders[lane].put((forgotten, works))
                break
        return done

    async def close(self) -> None:
        """End the threads; what is computed now is finished first."""
        for orders in self._orders.values():
            orders.put(None)
        for thread in self._threads:
            await self._loop.run_in_executor(None, thread.join)

    def _compute(self, lane: str) -> None:
        """On the thread of a lane."""
        engine, orders = self._engines[lane], self._orders[lane]
        while (order := orders.get()) is not None:
            forgotten, works = order
            for key in forgotten:
                engine.forget(key)
            if works:
                self._loop.call_soon_threadsafe(self._done, lane, works, *self._run(lane, works))

    def _run(self, lane: str, works: Sequence[Work]) -> tuple[Sequence[Made], float, Exception | None]:
        """What came of some work, the seconds that it took, and what went wrong."""
        begun = time.perf_counter()
        try:
            made = self._engines[lane].run(works)
        except Exception as error:  # of the user's model: it concerns these requests, and the node goes on
            return (), time.perf_counter() - begun, error
        return made, time.perf_counter() - begun, None

    def _done(
        self, lane: str, works: Sequence[Work], made: Sequence[Made], seconds: float, fault: Exception | None
    ) -> None:
        self._busy[lane] = False
        self._finish(lane, works, made, seconds, fault)
        self._changed()

    def _finish(
        self, lane: str, works: Sequence[Work], made: Sequence[Made], seconds: float, fault: Exception | None
    ) -> None:
        now = self._loop.time()
        if fault is None:
            self._node.work_done(now, lane, works, made, seconds)
        else:
            self._node.work_failed(now, works, self._explained(fault))

    def _explained(self, fault: Exception) -> RowcastError:
        """What went wrong; where it came from is shown the first time."""
        if isinstance(fault, RowcastError):
            return fault
        kind = f"{type(fault).__name__}: {fault}"
        if kind not in self._faults:
            self._faults.add(kind)
            log.error("computing an inference failed", exc_info=fault)
        error = RowcastError(f"computing failed: {kind}")
        error.__cause__ = fault
        return error
