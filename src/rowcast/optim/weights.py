"""How much each step counts: always the same, or as the samples of its batch have it."""

from __future__ import annotations

import math

from rowcast.errors import ConfigError
from rowcast.streams import BatchRule

__all__ = ["StepWeights"]


class StepWeights:
    """The weights of the steps that are given to the team together.

    Args:
        weight: of a step whose samples are not told; ``None``: 1 / members.

    Attributes:
        rule: for how many samples the learning rate is meant; ``None``: samples are not told.

    Raises:
        ConfigError: a weight that is none.
    """

    def __init__(self, weight: float | None) -> None:
        if weight is not None and not (isinstance(weight, (int, float)) and 0 < weight < math.inf):
            raise ConfigError(f"weight: expected a finite number above 0, or None for 1 / members; got {weight!r}")
        self.rule: BatchRule | None = None
        self._usual = weight
        self._steps: list[float] = []
        self._next: float | None = None

    def __str__(self) -> str:
        return "1/members" if self._usual is None else f"{self._usual:g}"

    def expect(self, samples: int | None, members: int) -> None:
        """A step of so many samples follows; ``None``: they are not told.

        Raises:
            ConfigError: nobody has said for how many samples the learning rate is meant.
        """
        self._next = None
        if samples is None:
            return
        if self.rule is None:
            raise ConfigError(
                "step: samples: expected to know for how many samples the learning rate is meant; set "
                "optimizer.batch = 'team:1024' (those of the whole team), or give the optimizer to a StreamLoader"
            )
        if samples < 0:
            raise ConfigError(f"step: samples: expected 0 or more, got {samples}")
        self._next = self.rule.weight(samples, max(1, members))

    def stepped(self) -> None:
        """It was made. One that raised, or whose gradient was of no use, does not count."""
        if self._next is not None:
            self._steps.append(self._next)

    def take(self) -> float | None:
        """The mean weight of the steps since the last call; ``None``: 1 / members."""
        steps, self._steps = self._steps, []
        weight = sum(steps) / len(steps) if steps else self._usual
        return weight or self._usual  # from no samples nothing was computed
