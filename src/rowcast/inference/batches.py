"""What the server computes next: requests in the order in which their rows came, those that fit together."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rowcast.config import AnswererSettings
from rowcast.inference.hosting import Task
from rowcast.inference.work import Work

__all__ = ["Batches"]

#: The time that one computation takes is averaged over about so many.
MEMORY = 8


class Batches:
    """Requests that wait for the engine.

    A request whose rows are not all there never holds one whose are: only whole requests are computed together.

    Args:
        settings: ``batch_limit`` and ``batch_wait_s`` hold here.
        usual_s: what one computation takes, until it was measured (s).

    Attributes:
        computing: what the engine does now.
        usual_s: what one computation takes (s).
    """

    def __init__(self, settings: AnswererSettings, usual_s: float = 0.0) -> None:
        self.computing: dict[Work, Task] = {}
        self._settings = settings
        self._waiting: dict[Task, float] = {}  # since when (s)
        self.usual_s = usual_s

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, now: float, task: Task) -> None:
        """Rows have come for a request."""
        if task.wants:
            self._waiting.setdefault(task, now)

    def remove(self, task: Task) -> None:
        """It is not to be computed any more; what the engine does already is not wanted."""
        self._waiting.pop(task, None)
        if task.work is not None:
            task.work.cancelled = True

    def overdue(self, now: float) -> list[Task]:
        """Requests that wait, and whose answer is of no use any more."""
        return [task for task in self._waiting if task.due_at is not None and task.due_at <= now]

    def delay_s(self) -> float:
        """What a request that comes now is expected to wait for others (s)."""
        whole = len(self._waiting) / self._settings.batch_limit
        return self.usual_s * (math.ceil(whole) + bool(self.computing))

    def due_at(self, others: bool) -> float:
        """When :meth:`take` has something (s); ``others``: there are robots that might ask meanwhile."""
        if self.computing or not self._waiting:
            return math.inf
        first, since = next(iter(self._waiting.items()))
        return since + self._settings.batch_wait_s if others and self._could_grow(first) else -math.inf

    def _could_grow(self, first: Task) -> bool:
        limit = self._settings.batch_limit
        return first.whole and len(self._fitting(first)) < limit and limit > 1

    def _fitting(self, first: Task) -> list[Task]:
        """Those that are computed together with ``first``, itself in front."""
        if not first.whole:
            return [first]
        fitting = [
            task for task in self._waiting if task.side == first.side and task.codecs == first.codecs and task.whole
        ]
        return fitting[: self._settings.batch_limit]

    def take(self, now: float, others: bool) -> Sequence[Work]:
        """What the engine is to do now; empty: nothing yet. ``others``: as for :meth:`due_at`."""
        if self.due_at(others) > now:
            return ()
        first = next(iter(self._waiting))
        works = []
        for task in self._fitting(first):
            del self._waiting[task]
            task.fed += 1
            task.ready = False
            task.work = Work(task.key, task.side, tuple(task.pieces), task.codecs)
            task.pieces.clear()
            self.computing[task.work] = task
            works.append(task.work)
        return works

    def done(self, works: Sequence[Work], seconds: float | None) -> list[Task]:
        """The engine has done some work in ``seconds``, or could not (``None``); whose that was."""
        if seconds is not None and not any(work.cancelled for work in works):
            self.usual_s += (seconds - self.usual_s) / MEMORY if self.usual_s else seconds
        tasks = [self.computing.pop(work) for work in works]
        for task in tasks:
            task.work = None
            task.compute_s += seconds or 0.0
            task.batch = len(tasks)
        return tasks

    def again(self, now: float, task: Task, work: Work) -> None:
        """Compute a whole request anew, and by itself."""
        task.pieces[:0] = work.pieces
        task.fed, task.ready, task.alone = 0, True, True
        self.add(now, task)
