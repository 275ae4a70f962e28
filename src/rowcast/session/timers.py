"""When each of many is next to be looked at, at the cost of those only that have changed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from heapq import heappop, heappush
from typing import Generic, TypeVar

__all__ = ["Timers"]

K = TypeVar("K")


class Timers(Generic[K]):
    """One moment for each key, asked for anew when the key was touched, and when the moment has come.

    What moves a moment nearer must touch its key. One that moves away need not: it is asked again when it comes.

    Args:
        due_of: when a key is to be looked at (s); ``None``: not at all, until it is touched. Its second argument is
            when the key is looked at anyhow (s): what it answers beyond that may be any time beyond that.
    """

    def __init__(self, due_of: Callable[[K, float], float | None]) -> None:
        self._due_of = due_of
        self._touched: dict[K, None] = {}
        self._wake: dict[K, float] = {}
        self._queue: list[tuple[float, int, K]] = []
        self._order = 0

    def touch(self, key: K) -> None:
        """Something has changed that the moment of ``key`` may depend on."""
        self._touched[key] = None

    def touch_all(self, keys: Iterable[K]) -> None:
        """The same for several keys."""
        self._touched.update(dict.fromkeys(keys))

    def forget(self, key: K) -> None:
        """``key`` is not to be looked at any more."""
        self._touched.pop(key, None)
        self._wake.pop(key, None)

    def next(self) -> float | None:
        """When :meth:`take` has something (s), at the latest; ``None``: not before something is touched."""
        queue, wake, due_of = self._queue, self._wake, self._due_of
        while self._touched:
            touched, self._touched = self._touched, {}
            for key in touched:
                before = wake.get(key, math.inf)
                due = due_of(key, before)
                if due is None:
                    wake.pop(key, None)
                elif due < before:
                    self._push(key, due)
        while queue and wake.get(queue[0][2]) != queue[0][0]:
            heappop(queue)
        return queue[0][0] if queue else None

    def take(self, now: float) -> list[K]:
        """The keys whose moment has come, the earliest first. Each is asked again after this, as if touched."""
        taken = []
        while (due := self.next()) is not None and due <= now:
            _, _, key = heappop(self._queue)
            del self._wake[key]
            wanted = self._due_of(key, math.inf)
            if wanted is not None and wanted <= now:
                taken.append(key)
            elif wanted is not None:
                self._push(key, wanted)
        for key in taken:
            self.touch(key)
        return taken

    def _push(self, key: K, due: float) -> None:
        self._order += 1
        self._wake[key] = due
        heappush(self._queue, (due, self._order, key))
