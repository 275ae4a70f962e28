"""How long the machine kept processes waiting for a processor: what no policy is to blame for."""

from __future__ import annotations

import bisect
from collections.abc import Iterable
from pathlib import Path

__all__ = ["Delays"]

_PROC = Path("/proc")


class Delays:
    """Looks at processes now and then; where the system does not say (not Linux), nothing is known, and nothing counts.

    Example::

        delays = Delays()
        delays.look(time.monotonic(), [os.getpid()])
        ...
        delays.between(began, ended)
    """

    def __init__(self) -> None:
        self._times: list[float] = [float("-inf")]
        self._sums: list[float] = [0.0]
        self._known: dict[int, float] = {}

    def look(self, now: float, pids: Iterable[int]) -> None:
        """Note how long the threads of these processes have waited so far; those that are gone as they were last."""
        for pid in pids:
            self._known[pid] = max(_waited_s(pid), self._known.get(pid, 0.0))
        self._times.append(now)
        self._sums.append(sum(self._known.values()))

    def between(self, began: float, ended: float) -> float:
        """How long they waited from then to then, all of them together (s); at most what was seen around it."""
        before = bisect.bisect_right(self._times, began) - 1
        after = min(bisect.bisect_left(self._times, ended), len(self._times) - 1)
        return self._sums[after] - self._sums[max(before, 0)]


def _waited_s(pid: int) -> float:
    """The second number of ``schedstat``: nanoseconds that a thread could have run, and did not."""
    total = 0
    for path in _PROC.glob(f"{pid}/task/*/schedstat"):
        try:
            total += int(path.read_text(encoding="ascii").split()[1])
        except (OSError, IndexError):  # it has just ended; or the system does not count
            continue
    return total / 1e9
