"""Sleeps on an event loop that end on time."""

from __future__ import annotations

import asyncio
import itertools
import threading
from heapq import heappop, heappush

__all__ = ["Alarm"]

#: So much of a sleep (s) is not left to the event loop.
FINE_S = 0.002


class Alarm:
    """Wakes coroutines of one event loop within about a tenth of a millisecond.

    The loop's own timers end up to one and a half milliseconds late, since epoll counts whole ones: as long as a small
    message takes on a fast link. So the last moments of each sleep are those of a thread.

    Args:
        loop: the event loop.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._changed = threading.Condition()
        self._order = itertools.count()
        self._waiting: list[tuple[float, int, asyncio.Future[None]]] = []
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="rowcast-alarm", daemon=True)
        self._thread.start()

    async def sleep(self, seconds: float) -> None:
        """Return after so many seconds; on the event loop."""
        until = self._loop.time() + seconds
        if seconds > 2 * FINE_S:
            await asyncio.sleep(seconds - FINE_S)
        future: asyncio.Future[None] = self._loop.create_future()
        with self._changed:
            heappush(self._waiting, (until, next(self._order), future))
            self._changed.notify()
        await future

    def close(self) -> None:
        """End the thread; who sleeps still does so for ever."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._closed and (not self._waiting or self._left_s() > 0):
                    self._changed.wait(self._left_s() if self._waiting else None)
                if self._closed:
                    return
                _, _, future = heappop(self._waiting)
            self._loop.call_soon_threadsafe(_wake, future)

    def _left_s(self) -> float:
        return self._waiting[0][0] - self._loop.time()


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
