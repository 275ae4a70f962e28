"""A robot that computes slower than this machine, for demonstrations on one machine: by waiting."""

from __future__ import annotations

import time
from collections.abc import Hashable, Sequence
from dataclasses import replace

from rowcast.graphs import Profile
from rowcast.inference import Engine, Made, Work
from rowcast.split.captured import Captured

__all__ = ["SlowerEngine", "slowed"]

#: Between two looks whether anybody still wants what is waited for (s).
LOOK_S = 0.001


class SlowerEngine:
    """Takes for operators what a profile says, as another engine does them sooner: then it waits.

    Of a part that is computed slab by slab each slab takes its share of the rows. The wait ends when nobody wants the
    work any more. Codecs take what they take here.

    Args:
        engine: computes.
        model: what it computes.
        profile: of the slower robot.
    """

    def __init__(self, engine: Engine, model: Captured, profile: Profile) -> None:
        self._engine = engine
        self._rows = {op: model.graph.ops[op].rows for op in model.graph.inputs}
        self._robot_s = profile.robot_s

    def run(self, works: Sequence[Work]) -> Sequence[Made]:
        """See :class:`rowcast.inference.Engine`."""
        until = time.perf_counter() + sum(map(self._seconds, works))
        made = self._engine.run(works)
        while (left_s := until - time.perf_counter()) > 0 and not all(work.cancelled for work in works):
            time.sleep(min(left_s, LOOK_S))
        return made

    def _seconds(self, work: Work) -> float:
        """What the operators of some work take."""
        rows = sum(piece.stop - piece.start for piece in work.pieces if piece.op in self._rows)
        share = rows / sum(self._rows.values())
        return share * float(self._robot_s[sorted(work.side.ops)].sum())

    def forget(self, key: Hashable) -> None:
        """See :class:`rowcast.inference.Engine`."""
        self._engine.forget(key)

    def is_trivial(self, works: Sequence[Work]) -> bool:
        """See :class:`rowcast.inference.Engine`."""
        return self._engine.is_trivial(works)


def slowed(profile: Profile, times: float) -> Profile:
    """The times of a robot so many times slower. Waits for the processor, beyond the usual, are not multiplied."""
    beyond_s = profile.sustained_s - profile.local_s
    robot = profile.faster(robot=1 / times)
    return replace(robot, local_p99_s=robot.local_s + beyond_s)
