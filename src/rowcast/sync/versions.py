"""The version table: how far each worker's contribution to each row has reached the server."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rowcast.rows.kernels import compiled_serial, lowest
from rowcast.sync.minimum import MinimumTracker

__all__ = ["VersionTable"]

Rows = npt.NDArray[np.int64]
Versions = npt.NDArray[np.int32]


class VersionTable:
    """``v[w][i]``: the newest iteration of worker w whose contribution to row i is wholly at the server.

    Args:
        rows: rows of the layout.
    """

    def __init__(self, rows: int) -> None:
        self._table = np.zeros((1, rows), dtype=np.int32)
        self._places: dict[str, int] = {}  # of each worker in the table
        self._workers: list[str] = []  # by their places
        self._oldest = MinimumTracker()
        #: By the lowest version that was last seen of them: workers of whom something has arrived since.
        self._stale: dict[int, dict[str, None]] = {}

    def admit(self, worker: str, iteration: int, versions: Versions | None = None) -> None:
        """Count ``worker`` at the gate; all its rows have version ``iteration``, or those of ``versions``."""
        self._forget(worker)
        if worker not in self._places:
            if len(self._workers) == len(self._table):
                self._table = np.concatenate([self._table, np.zeros_like(self._table)])
            self._places[worker] = len(self._workers)
            self._workers.append(worker)
        self._of(worker)[:] = iteration if versions is None else versions
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
            self._table[place] = self._table[len(self._workers)]
            self._workers[place], self._places[last] = last, place

    def advance(self, worker: str, rows: Rows | slice, iteration: int) -> None:
        """``rows`` of ``worker`` arrived whole up to ``iteration``, at most one before the oldest of its rows."""
        if worker in self._places:
            self._of(worker)[rows] = iteration
            self._is_stale(worker)

    def raise_floor(self, worker: str, rows: Rows, iteration: int, levels: Versions, holders: Versions) -> None:
        """The same for a worker that counts; the lowest version of each row over all workers follows.

        Args:
            worker, rows, iteration: as :meth:`advance` takes them.
            levels: int32 [rows of the layout], the lowest version of each row over all workers; changed in place.
            holders: int32 [rows of the layout], how many workers stand there; changed in place.
        """
        _raise_floor(self._table[: len(self._workers)], self._places[worker], rows, iteration, levels, holders)
        self._is_stale(worker)

    def _of(self, worker: str) -> Versions:
        """A view of the versions of ``worker``, int32 [rows]."""
        versions: Versions = self._table[self._places[worker]]
        return versions

    def _is_stale(self, worker: str) -> None:
        """``worker`` is to be looked at again."""
        self._stale.setdefault(self._oldest[worker], {})[worker] = None

    def oldest_of(self, worker: str) -> int:
        """The version of the oldest row of ``worker``."""
        if self._forget(worker):
            self._oldest.set(worker, lowest(self._of(worker)))
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
        counted = self._table[: len(self._workers)]
        levels: Versions = counted.min(axis=0)
        return levels, np.sum(counted == levels, axis=0, dtype=np.int32)

    def of(self, worker: str) -> Versions:
        """A copy of the versions of ``worker``, int32 [rows]."""
        return self._of(worker).copy()

    def __contains__(self, worker: object) -> bool:
        return worker in self._places

    def __len__(self) -> int:
        return len(self._places)


@compiled_serial
def _raise_floor(table: Versions, worker: int, rows: Rows, iteration: int, levels: Versions, holders: Versions) -> None:
    """The level of a row rises when the last who stood there has gone on; only then all workers are looked at."""
    for i in rows:
        holders[i] -= table[worker, i] == levels[i]
        table[worker, i] = iteration
        if holders[i] == 0 or iteration <= levels[i]:
            low, count = table[0, i], 0
            for w in range(len(table)):
                if table[w, i] < low:
                    low, count = table[w, i], 0
                count += table[w, i] == low
            levels[i], holders[i] = low, count
