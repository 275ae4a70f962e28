"""The rules of the ROG artifact where they are not those of the paper, so that its measured runs can be replayed.

Source: behaviour of the public artifact as described in algorithms.md 2.4; nobody should choose
these rules for work. They are what ``rog:S?compat=artifact`` stands for:

* rows travel in groups of 1000, the stalest first and among equals the one with the largest mean;
* the minimum share has a second, undocumented part, and counts groups of rows, not bytes;
* the MTA time is 0 for a worker that hardly leads, and else so long that everything travels;
* what is sent without a limit (the minimum) fits the sender's buffer: in the artifact's count it takes no time, and a
  pull of it has ended when it begins. Its logs say so: sending a minimum took 0.01 to 0.06 s on any link, and a limit
  was handed out next to no minimum that took longer.
"""

from __future__ import annotations

import math
from collections import deque

import numpy as np
import numpy.typing as npt

from rowcast.rows import Selection
from rowcast.sync.minimum import MinimumTracker
from rowcast.sync.mta import minimum_share

__all__ = ["ArtifactTime", "artifact_share", "select_groups"]

GROUP_ROWS = 1000

#: The undocumented part of the minimum share at some thresholds; between them it is taken as linear.
_SECOND_AT = (4, 5, 14, 19, 36, 40)
_SECOND_SHARE = (0.0, 0.03, 0.10, 0.108, 0.115, 0.115)

#: Until every worker has made one transfer (s).
_FIRST_S = 5.0
_MEMORY = 30
#: A worker that leads the slowest by fewer transfers sends its minimum only.
_LEAD = 2
_FLOOR_S = 0.1
#: With the slowest worker its push of the same moment is counted or not yet: a lead of one iteration is 2 or 3.
_LEAD_OF_ONE = 3


def artifact_share(threshold: int) -> float:
    """The share of rows that the artifact makes travel: the share of the paper, and the second part."""
    return min(minimum_share(threshold) + float(np.interp(threshold, _SECOND_AT, _SECOND_SHARE)), 1.0)


def select_groups(
    eligible: npt.NDArray[np.int64],
    stamps: npt.NDArray[np.int32],
    means: npt.NDArray[np.floating],
    row_bytes: npt.NDArray[np.int64],
    *,
    quota_bytes: float,
    quota_rows: float | None = None,
) -> Selection:
    """Order rows by groups of 1000.

    Args:
        eligible: rows with something to send, ascending, int64 [k].
        stamps: iteration at which each row was last sent, int32 [rows].
        means: mean |.| of each row, [rows].
        row_bytes: encoded bytes of each row, int64 [rows].
        quota_bytes: bytes that must travel; as many groups as come nearest to it, at least one.
        quota_rows: rows that must travel, in whole groups, as the artifact counts; it wins over ``quota_bytes``.
    """
    if len(eligible) == 0:
        return Selection(eligible, 0)
    present, first = np.unique(eligible // GROUP_ROWS, return_index=True)
    counts = np.diff(np.append(first, len(eligible)))
    ages = np.minimum.reduceat(stamps[eligible], first)
    worth = np.add.reduceat(means[eligible], first) / counts
    order = np.lexsort((present, -worth, ages))
    filled = np.cumsum(np.add.reduceat(row_bytes[eligible], first)[order])
    if quota_rows is None:
        must = int(np.abs(filled - quota_bytes).argmin()) + 1
    else:
        must = min(max(math.ceil(quota_rows / GROUP_ROWS), 1), len(order))
    pieces = [eligible[first[group] : first[group] + counts[group]] for group in order]
    return Selection(np.concatenate(pieces), int(counts[order[:must]].sum()))


class ArtifactTime:
    """How long rows beyond the minimum may travel, by the artifact's rule; both directions share it.

    Args:
        race: of those that the gate held and that lead the slowest by one iteration, the share that goes on with the
            minimum only. Who is released together with the slowest races it in the artifact: whoever asks after its
            (buffered) pull was counted no longer leads by enough. A simulation has no race, so this is measured.
    """

    def __init__(self, race: float = 0.0) -> None:
        self._transfers = MinimumTracker()
        self._race = race
        self._lost = 0.0
        self._minimum: set[str] = set()
        self._recent: deque[float] = deque(maxlen=_MEMORY)
        self._count = 0
        self._sum_s = 0.0

    def admit(self, worker: str) -> None:
        """Count ``worker``; it stands where the slowest stands."""
        self._transfers.set(worker, self._transfers.lowest() or 0)

    def remove(self, worker: str) -> None:
        """Count ``worker`` no longer."""
        self._transfers.remove(worker)
        self._minimum.discard(worker)

    def grant(self, worker: str) -> float:
        """The limit for the pull that begins now and for the next push (s)."""
        limit_s = self.limit_s(worker)
        slowest = self._transfers.lowest()
        if limit_s and slowest and self._transfers[worker] - slowest <= _LEAD_OF_ONE:
            self._lost += self._race
            if self._lost >= 1:
                self._lost -= 1
                limit_s = 0.0
        if limit_s:
            self._minimum.discard(worker)
        else:
            self._minimum.add(worker)
            self.moved(worker, 0.0)
        return limit_s

    def pushed(self, worker: str, duration_s: float) -> None:
        """A push of ``worker`` has ended, after so many seconds."""
        self.moved(worker, 0.0 if worker in self._minimum else duration_s)

    def pulled(self, worker: str, duration_s: float) -> None:
        """A pull of ``worker`` has ended, after so many seconds; one of the minimum was counted when it began."""
        if worker not in self._minimum:
            self.moved(worker, duration_s)

    def moved(self, worker: str, duration_s: float) -> None:
        """``worker`` has made one push or pull, in so many seconds."""
        if worker in self._transfers:
            self._transfers.set(worker, self._transfers[worker] + 1)
        self._recent.append(duration_s)
        self._count += 1
        self._sum_s += duration_s

    def limit_s(self, worker: str) -> float:
        """The limit for the next transfer of ``worker`` (s); 0: the minimum only."""
        slowest = self._transfers.lowest()
        if not slowest:
            return _FIRST_S
        if worker not in self._transfers or self._transfers[worker] - slowest < _LEAD:
            return 0.0
        return max(max(self._recent), self._sum_s / self._count, _FLOOR_S)
