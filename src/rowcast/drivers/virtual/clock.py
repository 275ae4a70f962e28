"""Virtual time: events in the order of (time, priority, insertion)."""

from __future__ import annotations

import contextlib
import gc
import math
from collections.abc import Callable, Iterator
from heapq import heappop, heappush
from typing import Any

__all__ = ["Clock", "rare_collections"]


class Clock:
    """A queue of things to do, each at its time.

    Attributes:
        now: the present (s).
        events: how many were done so far.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self.events = 0
        self._queue: list[tuple[float, int, int, Callable[..., None], tuple[Any, ...]]] = []
        self._order = 0

    def at(self, time: float, action: Callable[..., None], *arguments: Any, priority: int = 0) -> None:
        """Do ``action(*arguments)`` at ``time`` (s; the past means now). A lower priority goes first."""
        self._order += 1
        heappush(self._queue, (max(time, self.now), priority, self._order, action, arguments))

    @property
    def next(self) -> float:
        """When the next event is (s); ``inf`` when there is none."""
        return self._queue[0][0] if self._queue else math.inf

    def step(self) -> None:
        """Go to the next event and do it."""
        self.now, _, _, action, arguments = heappop(self._queue)
        self.events += 1
        action(*arguments)


@contextlib.contextmanager
def rare_collections() -> Iterator[None]:
    """The garbage collector looks at what is new fifty times more rarely: there are many messages, and no cycles."""
    before = gc.get_threshold()
    gc.set_threshold(50_000, 50, 100)
    try:
        yield
    finally:
        gc.set_threshold(*before)
