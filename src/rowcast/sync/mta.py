"""The minimum transmission amount (MTA) of ROG, and the MTA time.

Source: ROG, MICRO 2022, section IV; the rule for the time is algorithms.md 2.2.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from functools import lru_cache

__all__ = ["MtaTime", "minimum_share"]

T_LOW_S = 0.1
MAX_AGE = 2
#: Sorts behind every name of a worker.
_LAST = chr(0x10FFFF)


@lru_cache(maxsize=128)
def minimum_share(threshold: int) -> float:
    """The share of rows that ROG makes travel in each iteration: the root P of (1 - P)**(S - 1) = P.

    Args:
        threshold: S, the staleness threshold in the meaning of the artifact (our slack), >= 0.

    Returns:
        P in (0, 1]; 1 for S of 0 and 1.
    """
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if (1.0 - middle) ** max(threshold - 1, 0) > middle:
            low = middle
        else:
            high = middle
    return high


class MtaTime:
    """How long the slowest worker of the team needs for its quota, in one direction.

    Everybody sends for about that long; what the others send beyond their own quota in the meantime costs no
    time. A worker that needs longer than one computation is in outage and is left out.
    """

    def __init__(self) -> None:
        # By worker, and sorted: a report and a question cost the same with four workers and with a thousand.
        self._iteration: dict[str, int] = {}
        self._quota_s: dict[str, float] = {}
        self._compute_s: dict[str, float] = {}
        self._quotas: list[tuple[float, str]] = []
        self._computes: list[float] = []

    def report(self, worker: str, iteration: int, quota_s: float, compute_s: float | None = None) -> None:
        """``worker`` needed ``quota_s`` for its quota of ``iteration`` and ``compute_s`` for its gradient (s)."""
        self._forget_quota(worker)
        self._iteration[worker] = iteration
        self._quota_s[worker] = quota_s
        insort(self._quotas, (quota_s, worker))
        if compute_s is not None:
            known = self._compute_s.get(worker)
            average = compute_s if known is None else 0.8 * known + 0.2 * compute_s
            if average != known:
                self._forget_compute(worker)
                self._compute_s[worker] = average
                insort(self._computes, average)

    def remove(self, worker: str) -> None:
        """Forget ``worker``."""
        self._forget_quota(worker)
        self._forget_compute(worker)

    def compute_s(self, worker: str) -> float | None:
        """Average seconds that a gradient of ``worker`` takes, or ``None`` before its first report."""
        return self._compute_s.get(worker)

    def value_s(self, newest: int) -> float:
        """The MTA time in force (s).

        Args:
            newest: iteration of the fastest worker; measurements more than two iterations older are ignored.
        """
        if not self._computes:
            return T_LOW_S
        high = max(self._median_compute_s(), T_LOW_S)
        for place in range(bisect_left(self._quotas, (high, _LAST)) - 1, -1, -1):
            quota_s, worker = self._quotas[place]
            if newest - self._iteration[worker] <= MAX_AGE:
                return max(quota_s, T_LOW_S)
        return high

    def _median_compute_s(self) -> float:
        middle = len(self._computes) // 2
        if len(self._computes) % 2:
            return self._computes[middle]
        return (self._computes[middle - 1] + self._computes[middle]) / 2

    def _forget_quota(self, worker: str) -> None:
        if worker in self._quota_s:
            del self._quotas[bisect_left(self._quotas, (self._quota_s.pop(worker), worker))]

    def _forget_compute(self, worker: str) -> None:
        if worker in self._compute_s:
            del self._computes[bisect_left(self._computes, self._compute_s.pop(worker))]
