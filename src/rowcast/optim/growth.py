"""Whether what a worker contributes grows as it does when training diverges."""

from __future__ import annotations

import math
import statistics
from collections import deque

__all__ = ["Growth"]


class Growth:
    """Looks at the size of each update, in units of the learning rate, against the ones before.

    Updates grow by themselves while a momentum builds up and while a network leaves a plateau: in trials with SGD, with
    momentum and Adam to four times what they were, over 80 steps. Where training diverges they grow by orders of
    magnitude within a few steps, and then hold NaN. With a policy that shortens updates (``trust``) they cannot; there
    most of them are shortened.

    Attributes:
        factor: by how much the newest update exceeds the median of those before it; 1 before there are enough.
        shortened: how many of the last :data:`MEMORY` were shortened.
    """

    #: So many updates tell what is usual, and so few are enough.
    MEMORY, ENOUGH = 32, 8
    #: Updates that are so many times as large as usual, so often running, are a sign of divergence.
    TIMES, RUNNING = 10.0, 3
    #: And so are so many that were shortened of the last :data:`MEMORY`.
    SHORTENED = 24

    def __init__(self) -> None:
        self.factor = 1.0
        self._sizes: deque[float] = deque(maxlen=self.MEMORY)
        self.shortened = 0
        self._large = 0
        self._short: deque[bool] = deque(maxlen=self.MEMORY)

    def add(self, size: float, *, shortened: bool = False) -> bool:
        """Note an update.

        Args:
            size: sum |.| over the learning rate, >= 0, as it counted.
            shortened: it was larger.

        Returns:
            Whether the last :data:`RUNNING` updates were all :data:`TIMES` as large as usual, or more, or most were
            shortened.
        """
        if len(self._sizes) >= self.ENOUGH:
            usual = statistics.median(self._sizes)
            self.factor = size / usual if usual > 0 else 1.0
        if self.factor >= self.TIMES and math.isfinite(size):
            self._large += 1  # and usual stays what it was
        else:
            self._large = 0
            self._sizes.append(size)
        self._short.append(shortened)
        self.shortened = sum(self._short)
        return self._large >= self.RUNNING or self.shortened >= self.SHORTENED
