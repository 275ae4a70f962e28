"""The version table: how far each worker's contribution to each row has reached the server."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from rowcast.rows.kernels import compiled_serial
from rowcast.sync.minimum import MinimumTracker

__all__ = ["VersionTable"]

Rows = npt.NDArray[np.int64]
Versions = npt.NDArray[np.int32]
#: How far versions are above the base of their worker: 16 bits, or 32 once those did not suffice.
Offsets = npt.NDArray[np.unsignedinteger[Any]]
Bases = npt.NDArray[np.int64]


class VersionTable:
    """``v[w][i]``: the newest iteration of worker w whose contribution to row i is wholly at the server.

    Kept are a base for each worker and 16 bits for each of its rows: how far the row is above the base. The base moves
    up as the worker's oldest row does. A worker with rows that are further apart than 65,535 iterations makes the whole
    table one of 32 bits. Memory follows the workers that were counted at once, at most twice as many places.

    Args:
        rows: rows of the layout.
    """

    def __init__(self, rows: int) -> None:
        self._offsets: Offsets = np.zeros((1, rows), dtype=np.uint16)  # above the base of each worker
        self._bases: Bases = np.zeros(1, dtype=np.int64)
        self._most = (1 << 16) - 1  # that an offset may be
        self._places: dict[str, int] = {}  # of each worker in the table
        self._workers: list[str] = []  # by their places
        self._oldest = MinimumTracker()
        #: By the lowest version that was last seen of them: workers of whom something has arrived since.
        self._stale: dict[int, dict[str, None]] = {}

    @property
    def worker_bytes(self) -> int:
        """Bytes that the versions of one worker take."""
        return int(self._offsets[0].nbytes + self._bases[0].nbytes)

    def admit(self, worker: str, iteration: int, versions: Versions | None = None) -> None:
        """Count ``worker`` at the gate; all its rows have version ``iteration``, or those of ``versions``."""
        self._forget(worker)
        if worker not in self._places:
            if len(self._workers) == len(self._bases):
                self._grow()
            self._places[worker] = len(self._workers)
            self._workers.append(worker)
        if versions is None:
            versions = np.full(self._offsets.shape[1], iteration, dtype=np.int32)
        self._write(self._places[worker], versions, iteration)
        self._oldest.set(worker, iteration)

    def remove(self, worker: str) -> None:
        """Count ``worker`` no longer: nobody waits for its rows."""
        self._forget(worker)
        self._oldest.remove(worker)
        place = self._places.pop(worker, None)
        if place is None:
            return
        last = self._workers.pop()
        if last != worker:  # which takes its place
            self._offsets[place] = self._offsets[len(self._workers)]
            self._bases[place] = self._bases[len(self._workers)]
            self._workers[place], self._places[last] = last, place

    def advance(self, worker: str, rows: Rows | slice, iteration: int) -> None:
        """``rows`` of ``worker`` arrived whole up to ``iteration``, at most one before the oldest of its rows."""
        place = self._places.get(worker)
        if place is not None:
            offset = self._offset(place, iteration)
            self._offsets[place, rows] = offset
            self._is_stale(worker)

    def raise_floor(self, worker: str, rows: Rows, iteration: int, levels: Versions, holders: Versions) -> None:
        """The same for a worker that counts; the lowest version of each row over all workers follows.

        Args:
            worker, rows, iteration: as :meth:`advance` takes them.
            levels: int32 [rows of the layout], the lowest version of each row over all workers; changed in place.
            holders: int32 [rows of the layout], how many workers stand there; changed in place.
        """
        place = self._places[worker]
        self._offset(place, iteration)  # the base of the worker is one that fits
        count = len(self._workers)
        _raise_floor(self._offsets[:count], self._bases[:count], place, rows, iteration, levels, holders)
        self._is_stale(worker)

    def _grow(self) -> None:
        """Make room for twice as many workers; the new half takes memory where somebody has been written only."""
        count, rows = self._offsets.shape
        offsets, bases = np.zeros((2 * count, rows), dtype=self._offsets.dtype), np.zeros(2 * count, dtype=np.int64)
        offsets[:count], bases[:count] = self._offsets, self._bases
        self._offsets, self._bases = offsets, bases

    def _write(self, place: int, versions: Versions, iteration: int) -> None:
        """Keep ``versions`` at ``place``, above a base that suits a worker about to be at ``iteration``, too."""
        low, high = int(versions.min(initial=iteration)), int(versions.max(initial=iteration))
        base = low - 1  # a row that was told of again is one before the oldest
        if high - base > self._most:
            self._offsets, self._most = self._offsets.astype(np.uint32), (1 << 32) - 1
        self._bases[place] = base
        self._offsets[place] = versions.astype(np.int64) - base

    def _offset(self, place: int, iteration: int) -> int:
        """How far ``iteration`` is above the base of a worker, which is moved if need be."""
        offset = iteration - int(self._bases[place])
        if not 0 <= offset <= self._most:
            self._write(place, self._of(place), iteration)
            offset = iteration - int(self._bases[place])
        return offset

    def _of(self, place: int) -> Versions:
        """The versions of the worker at ``place``, int32 [rows]; a copy."""
        versions: Versions = (self._offsets[place] + self._bases[place]).astype(np.int32)
        return versions

    def _is_stale(self, worker: str) -> None:
        """``worker`` is to be looked at again."""
        self._stale.setdefault(self._oldest[worker], {})[worker] = None

    def oldest_of(self, worker: str) -> int:
        """The version of the oldest row of ``worker``."""
        if self._forget(worker):
            place = self._places[worker]
            self._oldest.set(worker, int(self._bases[place]) + _lowest(self._offsets[place]))
        return self._oldest[worker]

    def oldest(self) -> int | None:
        """min over all workers and rows; ``None`` when nobody counts."""
        # Versions fall by one at most: who stood above the lowest when last looked at is not below it, and is looked at
        # again when the others get there.
        while (lowest_now := self._oldest.lowest()) is not None and lowest_now in self._stale:
            for worker in list(self._stale[lowest_now]):
                self.oldest_of(worker)
        return lowest_now

    def _forget(self, worker: str) -> bool:
        """``worker`` is no longer one to look at again; whether it was."""
        if worker not in self._oldest:
            return False
        level = self._oldest[worker]
        stale = self._stale.get(level)
        if stale is None or worker not in stale:
            return False
        del stale[worker]
        if not stale:
            del self._stale[level]
        return True

    def behind(self, version: int) -> list[str]:
        """The workers that have a row older than ``version``."""
        return [worker for worker in self._places if self.oldest_of(worker) < version]

    def floor(self) -> tuple[Versions, Versions]:
        """How far everybody's contribution to each row has come, where anybody counts: min over the workers.

        Returns:
            These versions, and how many workers stand there; both int32 [rows].
        """
        count = len(self._workers)
        return _floor(self._offsets[:count], self._bases[:count])

    def of(self, worker: str) -> Versions:
        """A copy of the versions of ``worker``, int32 [rows]."""
        return self._of(self._places[worker])

    def __contains__(self, worker: object) -> bool:
        return worker in self._places

    def __len__(self) -> int:
        return len(self._places)


@compiled_serial
def _lowest(offsets: Offsets) -> int:
    """The lowest of some offsets, at least one."""
    low = offsets[0]
    for k in range(len(offsets)):
        low = min(low, offsets[k])
    return int(low)


@compiled_serial
def _floor(offsets: Offsets, bases: Bases) -> tuple[Versions, Versions]:
    """The lowest version of each row over all workers, at least one, and how many workers stand there."""
    levels, holders = np.empty(offsets.shape[1], dtype=np.int32), np.zeros(offsets.shape[1], dtype=np.int32)
    levels[:] = np.iinfo(np.int32).max
    for w in range(len(offsets)):
        for i in range(len(levels)):
            version = bases[w] + np.int64(offsets[w, i])
            if version < levels[i]:
                levels[i], holders[i] = version, 0
            holders[i] += version == levels[i]
    return levels, holders


@compiled_serial
def _raise_floor(
    offsets: Offsets,
    bases: Bases,
    worker: int,
    rows: Rows,
    iteration: int,
    levels: Versions,
    holders: Versions,
) -> None:
    """The level of a row rises when the last who stood there has gone on; only then all workers are looked at."""
    for i in rows:
        holders[i] -= bases[worker] + np.int64(offsets[worker, i]) == levels[i]
        offsets[worker, i] = iteration - bases[worker]
        if holders[i] == 0 or iteration <= levels[i]:
            low, count = bases[0] + np.int64(offsets[0, i]), 0
            for w in range(len(offsets)):
                version = bases[w] + np.int64(offsets[w, i])
                if version < low:
                    low, count = version, 0
                count += version == low
            levels[i], holders[i] = low, count
