"""The channel model `independent`: the traces are asked in closed form, O(log n) per event."""

from __future__ import annotations

import math
from heapq import heappop, heappush

from rowcast.links.medium import Channel, add_link, backwards, busy, link_of, wrong_amount
from rowcast.links.trace import Trace

__all__ = ["Independent"]


class Independent(Channel):
    """Links that do not disturb each other: each transfer gets the whole rate of its link."""

    def __init__(self) -> None:
        self._now = 0.0
        self._links: dict[int, Trace] = {}
        #: key -> (end, key, serial number, start, bits)
        self._active: dict[int, tuple[float, int, int, float, float]] = {}
        #: The same entries, and those that were aborted; they are thrown away when they come to the top.
        self._heap: list[tuple[float, int, int, float, float]] = []
        self._serial = 0

    def add(self, key: int, trace: Trace) -> None:
        add_link(self._links, key, trace)

    def remove(self, key: int) -> None:
        link_of(self._links, key)
        del self._links[key]
        self._active.pop(key, None)

    def begin(self, now: float, key: int, bits: float) -> float:
        if now != self._now:
            self._check(now)
        if key in self._active:
            raise busy(key)
        if not bits < math.inf:
            raise wrong_amount(key, bits)
        trace = self._links.get(key) or link_of(self._links, key)
        end = trace.finish(now, bits)
        self._serial = serial = self._serial + 1
        self._active[key] = entry = (end, key, serial, now, bits)
        if end < math.inf:
            heappush(self._heap, entry)
        return end

    def next_finish(self) -> float:
        heap = self._heap
        while heap:
            if self._active.get(heap[0][1]) is heap[0]:
                return heap[0][0]
            heappop(heap)
        return math.inf

    def finished(self, now: float) -> list[int]:
        if now != self._now:
            self._check(now)
        keys = []
        heap, active = self._heap, self._active
        while heap and heap[0][0] <= now:
            entry = heappop(heap)
            if active.get(entry[1]) is entry:
                del active[entry[1]]
                keys.append(entry[1])
        return keys

    def abort(self, now: float, key: int) -> float:
        self._check(now)
        trace = link_of(self._links, key)
        entry = self._active.pop(key, None)
        if entry is None:
            return 0.0
        end, _, _, start, bits = entry
        return bits if now >= end else min(bits, trace.bits(start, now))

    def _check(self, now: float) -> None:
        if not self._now <= now < math.inf:
            raise backwards(now, self._now)
        self._now = now
