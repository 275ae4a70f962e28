"""Who climbs where the others descend, whatever data each of them has.

Where the model has moved by d, what a sound member sends changes by about -H d, with H the curvature of its own loss,
which is positive in nearly every direction that counts: its updates resist the movement. Those of a member whose sign
is flipped change by +H d: they go along, and so do those of nobody else. This asks nothing of what the others send, so
it holds where robots see different classes, and where the updates of two sound ones point against each other.

It says little while updates only grow because momentum builds up. So it counts only for a member that the pairs point
out, too: those who disagree with each other agree with it. (That alone is no proof: a robot that sees all classes
stands so among robots that see few.)

Only inner products are needed, so vectors are kept as sketches: count sketches of :data:`WIDTH` numbers, whose inner
products are right to about ``1 / sqrt(WIDTH)`` of the lengths.

Sources: the curvature condition s'y > 0 of quasi-Newton methods: Nocedal and Wright, "Numerical Optimization", 6.1.
Count sketch: Charikar, Chen and Farach-Colton, ICALP 2002.
"""

from __future__ import annotations

from collections import deque

import numpy as np
import numpy.typing as npt

__all__ = ["SPAN", "WIDTH", "Response"]

Sketch = npt.NDArray[np.float64]

#: Numbers of a sketch, a power of two.
WIDTH = 4096
#: Iterations whose updates are summed, and compared with the sum of as many before.
SPAN = 4
#: Comparisons that the mean is of, and those that it needs.
MEMORY, LEAST = 4, 3


class Response:
    """How the updates of one member change where the model moves.

    Attributes:
        value: mean cosine between the change of its updates and the movement; positive: they go along with it. It is
            zero before there have been enough comparisons.
    """

    def __init__(self) -> None:
        self.value = 0.0
        self._sent = np.zeros(WIDTH)  # in this iteration
        self._place: Sketch | None = None  # of the model when this iteration began
        self._sums: deque[tuple[Sketch, Sketch]] = deque(maxlen=2)  # where a span began, and what was sent in it
        self._iterations = 0
        self._cosines: deque[float] = deque(maxlen=MEMORY)

    def sends(self, update: Sketch, place: Sketch) -> None:
        """It has sent an update (a frame), while the model was at ``place``."""
        if self._place is None:
            self._place = place.copy()
        self._sent += update

    def turn(self) -> None:
        """An iteration is over."""
        if self._place is None:
            return
        self._iterations += 1
        if self._iterations % SPAN:
            return
        self._sums.append((self._place, self._sent))
        self._place, self._sent = None, np.zeros(WIDTH)
        if len(self._sums) == 2:
            (before, first), (after, second) = self._sums
            self._cosines.append(_cosine(second - first, after - before))
        if len(self._cosines) >= LEAST:
            self.value = float(np.mean(self._cosines))


def _cosine(a: Sketch, b: Sketch) -> float:
    lengths = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / lengths if lengths > 0 else 0.0
