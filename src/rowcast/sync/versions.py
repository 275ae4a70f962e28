"""The version table: how far each worker's contribution to each row has reached the server."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rowcast.sync.minimum import MinimumTracker

__all__ = ["VersionTable"]


class VersionTable:
    """``v[w][i]``: the newest iteration of worker w whose contribution to row i is wholly at the server.

    Args:
        rows: rows of the layout.
    """

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self._versions: dict[str, npt.NDArray[np.int32]] = {}
        self._oldest = MinimumTracker()
        #: By the lowest version that was last seen of them: workers of whom something has arrived since.
        self._stale: dict[int, dict[str, None]] = {}

    def admit(self, worker: str, iteration: int, versions: npt.NDArray[np.int32] | None = None) -> None:
        """Count ``worker`` at the gate; all its rows have version ``iteration``, or those of ``versions``."""
        self._forget(worker)
        self._versions[worker] = np.full(self._rows, iteration, dtype=np.int32) if versions is None else versions
        self._oldest.set(worker, iteration)

    def remove(self, worker: str) -> None:
        """Count ``worker`` no longer: nobody waits for its rows."""
        self._forget(worker)
        self._versions.pop(worker, None)
        self._oldest.remove(worker)

    def advance(self, worker: str, rows: npt.NDArray[np.int64] | slice, iteration: int) -> None:
        """``rows`` of ``worker`` arrived whole up to ``iteration``, at most one before the oldest of its rows."""
        versions = self._versions.get(worker)
        if versions is None:
            return
        versions[rows] = iteration
        self._stale.setdefault(self._oldest[worker], {})[worker] = None

    def oldest_of(self, worker: str) -> int:
        """The version of the oldest row of ``worker``."""
        if self._forget(worker):
            self._oldest.set(worker, int(self._versions[worker].min()))
        return self._oldest[worker]

    def oldest(self) -> int | None:
        """min over all workers and rows; ``None`` when nobody counts."""
        # Versions fall by one at most: who stood above the lowest when last looked at is not below it, and is looked at
        # again when the others get there.
        while (lowest := self._oldest.lowest()) is not None and lowest in self._stale:
            for worker in list(self._stale[lowest]):
                self.oldest_of(worker)
        return lowest

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
        return [worker for worker in self._versions if self.oldest_of(worker) < version]

    def floor(self, rows: npt.NDArray[np.int64] | slice = slice(None)) -> npt.NDArray[np.int32]:
        """How far everybody's contribution to each of ``rows`` has come: min over the workers, int32 [k]."""
        floor: npt.NDArray[np.int32] = np.min([versions[rows] for versions in self._versions.values()], axis=0)
        return floor

    def holders(self, rows: npt.NDArray[np.int64] | slice, floor: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
        """How many workers stand at ``floor`` in each of ``rows``, int32 [k]."""
        counts: npt.NDArray[np.int32] = np.sum(
            [versions[rows] == floor for versions in self._versions.values()], axis=0, dtype=np.int32
        )
        return counts

    def of_rows(self, worker: str, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
        """The versions of ``worker`` in ``rows``, int32 [k]."""
        return self._versions[worker][rows]

    def of(self, worker: str) -> npt.NDArray[np.int32]:
        """A copy of the versions of ``worker``, int32 [rows]."""
        return self._versions[worker].copy()

    def __contains__(self, worker: object) -> bool:
        return worker in self._versions

    def __len__(self) -> int:
        return len(self._versions)
