"""How long the training thread works for Rowcast in its steps, and not for the gradient or the inner optimizer."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

__all__ = ["OwnTime"]


class OwnTime:
    """A stopwatch; see :class:`rowcast.optim.team.Stopwatch`."""

    def __init__(self) -> None:
        self._spent_s = 0.0
        self._since: float | None = None  # what is done is ours since then

    @contextlib.contextmanager
    def ours(self) -> Iterator[None]:
        """What is done while this is entered is Rowcast's work."""
        self._since = time.perf_counter()
        try:
            yield
        finally:
            self._stop()

    @contextlib.contextmanager
    def not_ours(self) -> Iterator[None]:
        """The same, except for what is done while this is entered."""
        inside = self._since is not None
        self._stop()
        try:
            yield
        finally:
            if inside:
                self._since = time.perf_counter()

    def take(self) -> float:
        """Seconds since the last call."""
        with self.not_ours():
            spent_s, self._spent_s = self._spent_s, 0.0
        return spent_s

    def _stop(self) -> None:
        if self._since is not None:
            self._spent_s += time.perf_counter() - self._since
            self._since = None
