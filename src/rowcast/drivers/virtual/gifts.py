"""Raw samples that robots of a team give each other (data injection; :mod:`rowcast.streams.injection`)."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Sequence
from typing import Any

from rowcast.streams import Injection

__all__ = ["Gifts"]


class Gifts:
    """What was given, and not trained on yet.

    A donor gives the same samples to each of the others, drawn from its batch; who gets them trains on them with its
    next batch, and so does the donor with its own.

    Args:
        injection: who gives how much.
        robots: of the team.
        seed: of what is drawn.
    """

    def __init__(self, injection: Injection, robots: int, seed: int) -> None:
        self.robots = robots
        self._injection, self._seed = injection, seed
        self._waiting: list[deque[Any]] = [deque() for _ in range(robots)]

    def give(self, step: int, robot: int, batch: Sequence[Any]) -> int:
        """A robot begins a batch; how many samples of it each of the others is given.

        Args:
            step: of this robot, from 0.
            robot: which, from 0.
            batch: its own samples.
        """
        if not self._injection.gives(step, robot, self.robots, self._seed):
            return 0
        count = self._injection.gift(len(batch))
        given = random.Random(f"gift {self._seed} {step} {robot}").sample(list(batch), count)
        for other, waiting in enumerate(self._waiting):
            if other != robot:
                waiting.extend(given)
        return count

    def take(self, robot: int, most: int) -> list[Any]:
        """What ``robot`` was given since its last batch; of more than ``most`` the newest.

        A robot that is slow would otherwise be given ever larger batches by those that are fast.
        """
        waiting = self._waiting[robot]
        taken = list(waiting)[-most:] if most else []
        waiting.clear()
        return taken
