"""Threads for the kernels over rows (:mod:`rowcast.rows.kernels`), lent by the driver.

They are made at the first need, and again in a process that was forked: a child has none of its parent's threads.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from rowcast.rows import kernels

__all__ = ["lend_threads", "load_kernels"]

T = TypeVar("T")


class _Threads:
    """As many threads as the process may use; see :class:`rowcast.rows.kernels.Crew`."""

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None

    def forget(self) -> None:
        """The threads are those of another process."""
        self._pool = None

    def run(self, calls: Sequence[Callable[[], T]], threads: int) -> list[T]:
        results: dict[int, T] = {}
        waiting = deque(enumerate(calls))

        def work() -> None:
            while True:
                try:
                    place, call = waiting.popleft()
                except IndexError:
                    return
                results[place] = call()

        helpers = self._helpers(work, threads - 1)
        try:
            work()
        finally:
            # Helpers that have not begun are not waited for: there is nothing left for them.
            for helper in helpers:
                if not helper.cancel():
                    helper.result()
        return [results[place] for place in range(len(calls))]

    def _helpers(self, work: Callable[[], None], count: int) -> list[Future[None]]:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(max(1, (os.cpu_count() or 2) - 1), thread_name_prefix="rowcast-rows")
        try:
            return [self._pool.submit(work) for _ in range(count)]
        except RuntimeError:  # the interpreter ends: the caller does everything
            return []


_threads = _Threads()
os.register_at_fork(after_in_child=_threads.forget)


def lend_threads() -> None:
    """Let the kernels of this process work on long vectors with several threads."""
    kernels.set_crew(_threads)


def load_kernels() -> None:
    """Load what the first kernel over rows needs: seconds, in which nobody is told that this process lives."""
    kernels.nonfinite(np.zeros(1, dtype=np.float32))
