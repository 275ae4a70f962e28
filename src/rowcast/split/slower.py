"""A robot that computes slower than this machine, for demonstrations on one machine: by waiting."""

from __future__ import annotations

import time
from collections.abc import Hashable, Sequence

from rowcast.inference import Engine, Made, Work

__all__ = ["SlowerEngine"]

#: Between two looks whether anybody still wants what is waited for (s).
LOOK_S = 0.001


class SlowerEngine:
    """Takes so many times as long as another engine does. The wait ends when nobody wants the work any more.

    Args:
        engine: computes.
        times: above 1.
    """

    def __init__(self, engine: Engine, times: float) -> None:
        self._engine = engine
        self._times = times

    def run(self, works: Sequence[Work]) -> Sequence[Made]:
        """See :class:`rowcast.inference.Engine`."""
        begun = time.perf_counter()
        made = self._engine.run(works)
        until = begun + self._times * (time.perf_counter() - begun)
        while (left_s := until - time.perf_counter()) > 0 and not all(work.cancelled for work in works):
            time.sleep(min(left_s, LOOK_S))
        return made

    def forget(self, key: Hashable) -> None:
        """See :class:`rowcast.inference.Engine`."""
        self._engine.forget(key)

    def is_trivial(self, works: Sequence[Work]) -> bool:
        """See :class:`rowcast.inference.Engine`: what takes no time does so many times as well."""
        return self._engine.is_trivial(works)
