"""A robot that computes slower than this machine, for demonstrations on one machine: by waiting."""

from __future__ import annotations

import time
from collections.abc import Hashable, Sequence
from dataclasses import replace

from rowcast.graphs import Profile
from rowcast.inference import Engine, Made, Work

__all__ = ["SlowerEngine", "slowed"]

#: Between two looks whether anybody still wants what is waited for (s).
LOOK_S = 0.001


class SlowerEngine:
    """Takes so many times the processor time of another engine. The wait ends when nobody wants the work any more.

    What the thread waits for the processor is not multiplied: a slower robot has no busier neighbours.

    Args:
        engine: computes, on the thread that calls.
        times: above 1.
    """

    def __init__(self, engine: Engine, times: float) -> None:
        self._engine = engine
        self._times = times

    def run(self, works: Sequence[Work]) -> Sequence[Made]:
        """See :class:`rowcast.inference.Engine`."""
        begun = time.thread_time()
        made = self._engine.run(works)
        until = time.perf_counter() + (self._times - 1) * (time.thread_time() - begun)
        while (left_s := until - time.perf_counter()) > 0 and not all(work.cancelled for work in works):
            time.sleep(min(left_s, LOOK_S))
        return made

    def forget(self, key: Hashable) -> None:
        """See :class:`rowcast.inference.Engine`."""
        self._engine.forget(key)


def slowed(profile: Profile, times: float) -> Profile:
    """The times of a robot with such an engine: waits for the processor, beyond the usual, are not multiplied."""
    beyond_s = profile.sustained_s - profile.local_s
    robot = profile.faster(robot=1 / times)
    return replace(robot, local_p99_s=robot.local_s + beyond_s)
