"""A bound on the size of an update: a few times what this worker's updates were lately."""

from __future__ import annotations

import math
import statistics
from collections import deque

__all__ = ["Trust"]


class Trust:
    """Remembers the sizes of updates and says how much of the next one counts (algorithms.md 8.4).

    Where steps are as long as the loss just bears, an update that arrives late, or is computed beside the team's
    parameters, may throw a robot to where gradients are many times as large, and the next update throws the team. Such
    a step goes in its direction, but no further than the usual: gradient clipping (Pascanu et al., ICML 2013) with a
    bound that follows the median of the last :data:`MEMORY` (as AutoClip: Seetharaman et al., MLSP 2020).
    """

    #: So many updates tell what is usual, and so few are enough.
    MEMORY, ENOUGH = 32, 8

    def __init__(self) -> None:
        self._sizes: deque[float] = deque(maxlen=self.MEMORY)

    @property
    def sizes(self) -> tuple[float, ...]:
        """What is remembered, in the order in which it came."""
        return tuple(self._sizes)

    def restore(self, sizes: tuple[float, ...]) -> None:
        """Remember these instead."""
        self._sizes.clear()
        self._sizes.extend(sizes)

    def share(self, size: float, most: float) -> float:
        """How much of an update counts, above 0 and at most 1.

        Args:
            size: its sum |.|, in units of its weight and of the learning rate.
            most: so many times the median of those before it, as they counted, it may be; 0: there is no bound.
        """
        share = 1.0
        if most > 0 and len(self._sizes) >= self.ENOUGH:
            bound = most * statistics.median(self._sizes)
            if 0 < bound < size < math.inf:
                share = bound / size
        if math.isfinite(size):
            self._sizes.append(share * size)
        return share
