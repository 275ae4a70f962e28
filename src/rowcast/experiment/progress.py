"""Where a comparison is: what is done, what runs, and how long it will take."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rowcast.experiment.cell import Cell
from rowcast.experiment.preparing import Preparing

__all__ = ["TICK_S", "ComparisonProgress", "ProgressTracker"]

#: How often whoever watches is told where the cells are (s).
TICK_S = 0.25


@dataclass(frozen=True)
class ComparisonProgress:
    """Where a comparison is.

    Attributes:
        total: cells of the plan; ``finished``: those that are done, earlier ones included.
        running: cells under way, with the virtual seconds that each has done.
        passed_s: real time since the call; ``left_s``: real time that it will go on, at the pace so far, or ``None``
            while nothing is known.
        preparing: those cells under way whose starting model is being trained, with the share that is done.
    """

    total: int
    finished: int
    running: tuple[tuple[Cell, float], ...]
    passed_s: float
    left_s: float | None
    preparing: tuple[tuple[Cell, float], ...] = ()


class ProgressTracker:
    """Counts what is done, and tells."""

    def __init__(
        self,
        total: int,
        finished: int,
        todo: Sequence[Cell],
        progress: Callable[[ComparisonProgress], None] | None,
    ) -> None:
        self._total, self._finished, self._progress = total, finished, progress
        self._all_s = sum(cell.seconds for cell in todo)
        self._done_s = 0.0
        self._running: dict[Cell, float] = {}
        self._preparing: dict[Cell, float] = {}
        self._began = time.monotonic()
        self._next = 0.0
        self._first: tuple[float, float] | None = None

    def began(self, cell: Cell) -> None:
        self._running[cell] = 0.0
        self.tell()

    def telling(self, cell: Cell) -> Callable[[float | Preparing], None]:
        """For a cell that runs in this process."""

        def tell(done: float | Preparing) -> None:
            self.advanced(cell, done)
            self.tell(seldom=True)

        return tell

    def advanced(self, cell: Cell, done: float | Preparing) -> None:
        if isinstance(done, Preparing):
            self._preparing[cell] = done.share
        else:
            self._preparing.pop(cell, None)
            self._running[cell] = min(done, cell.seconds)

    def ended(self, cell: Cell) -> None:
        del self._running[cell]
        self._preparing.pop(cell, None)
        self._done_s += cell.seconds
        self._finished += 1
        self.tell()

    def tell(self, *, seldom: bool = False) -> None:
        now = time.monotonic()
        if self._progress is None or (seldom and now < self._next):
            return
        self._next = now + TICK_S
        passed_s = now - self._began
        done_s = self._done_s + sum(self._running.values())
        running = tuple(self._running.items())
        left_s = self._left_s(now, done_s)
        preparing = tuple(self._preparing.items())
        self._progress(ComparisonProgress(self._total, self._finished, running, passed_s, left_s, preparing))

    def _left_s(self, now: float, done_s: float) -> float | None:
        """By the pace since the first word of any cell: what the processes needed to start tells nothing."""
        if done_s >= self._all_s:
            return 0.0
        if self._first is None:
            if done_s > 0:
                self._first = (now, done_s)
            return None
        since, before_s = self._first
        return (now - since) * (self._all_s - done_s) / (done_s - before_s) if done_s > before_s else None
