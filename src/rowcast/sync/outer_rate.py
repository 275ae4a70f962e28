"""An outer learning rate that adapts: above that of the policy while successive movements of the team agree.

How long a step may be is for the user's inner optimizer to say, and many take a learning rate from elsewhere. Whether a
longer one would still descend is seen from where the parameters went. Let d1 and d2 be their movements in two windows
of :data:`WINDOW` iterations each, one behind the other. d2 is made of gradients that were computed beyond d1. Where
<d1, d2> > 0 they still point along d1; for a function that is convex along d1 it has then fallen all the way, and a
longer step would have descended, too. Where the steps are too long the parameters swing back, and <d1, d2> < 0. Where
noise decides, the movements have nothing to do with one another.

One thing makes movements agree that says nothing of the loss: the momentum of the inner optimizer. It carries a part of
the first window into the second, even of pure noise. For an exponential average with decay b of independent gradients
the cosine of the two is known (:func:`carried`), and what is above it is what counts:

    alignment = (cos(d1, d2) - carried) / (1 - carried)

Related: gradient restarts (O'Donoghue and Candes, Foundations of Computational Mathematics 2015), which look at the
same sign, and hypergradients (Baydin et al., ICLR 2018), which follow the same product (algorithms.md 8.11).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["MOST", "OuterRateChange", "OuterRateTuner", "carried"]

Vector = npt.NDArray[np.float32]

#: A look is taken when everybody has finished so many iterations more.
WINDOW = 8
#: The outer learning rate is never above so many times that of the policy.
MOST = 2.0
#: Up to this alignment the policy's own rate is in force; from the second one on the most; between them in proportion.
LOW, HIGH = 0.6, 0.9
#: The movement is looked at in so many elements at most, drawn at random once.
ELEMENTS = 65_536


def carried(momentum: float) -> float:
    """The cosine of two successive windows of an exponential average of independent gradients.

    With r(d) = momentum^d the correlation of two steps d apart: sum over all pairs of one step of each window, over the
    sum over all pairs within a window.

    Args:
        momentum: decay of the average, 0 .. below 1.
    """
    apart = np.arange(WINDOW)
    within = np.power(momentum, np.abs(apart[:, None] - apart[None, :]))
    across = np.power(momentum, WINDOW + apart[None, :] - apart[:, None])
    return float(across.sum() / within.sum())


@dataclass(frozen=True)
class OuterRateChange:
    """A decision of :class:`OuterRateTuner`.

    Attributes:
        outer_lr: from now on; ``before``: up to now.
        alignment: of the last two windows, at most 1; 0 is what chance and the inner momentum make.
    """

    outer_lr: float
    before: float
    alignment: float


class OuterRateTuner:
    """Looks at the team's parameters every :data:`WINDOW` iterations and says which outer learning rate it is to have.

    Args:
        lr: that of the policy, > 0.

    Attributes:
        outer_lr: in force.
    """

    def __init__(self, lr: float) -> None:
        self.outer_lr = self._lr = lr
        self._next = 0  # the iteration of the next look
        self._places: npt.NDArray[np.int64] | None = None
        self._at: Vector | None = None
        self._moved: Vector | None = None

    def look(self, oldest: int, parameters: Vector, momentum: float) -> OuterRateChange | None:
        """Decide, when it is time to.

        Args:
            oldest: iterations that everybody has finished.
            parameters: of the team, float32 [elements], without buffers.
            momentum: the largest of the inner optimizers, 0 .. 1.
        """
        if oldest < self._next:
            return None
        self._next = oldest + WINDOW
        here = self._sample(parameters)
        at, self._at = self._at, here
        if at is None:
            return None
        with np.errstate(all="ignore"):
            before_last, self._moved = self._moved, at - here
        if before_last is None:
            return None
        alignment = self._alignment(before_last, self._moved, momentum)
        share = min(max((alignment - LOW) / (HIGH - LOW), 0.0), 1.0)
        before, self.outer_lr = self.outer_lr, self._lr * (1.0 + (MOST - 1.0) * share)
        return None if self.outer_lr == before else OuterRateChange(self.outer_lr, before, alignment)

    def _sample(self, parameters: Vector) -> Vector:
        if len(parameters) <= ELEMENTS:
            return parameters.copy()
        if self._places is None:
            self._places = np.sort(np.random.default_rng(0).integers(0, len(parameters), ELEMENTS))
        return parameters[self._places]

    @staticmethod
    def _alignment(first: Vector, second: Vector, momentum: float) -> float:
        """How well two movements agree beyond what the momentum carries over; 0 where there is none, or no telling."""
        with np.errstate(all="ignore"):  # a movement that is not finite is none that can be told
            size = math.sqrt(max(float(first @ first) * float(second @ second), 0.0))
            together = float(first @ second)
        usual = carried(min(momentum, 1.0)) if momentum > 0 else 0.0
        if not 0.0 < size < math.inf or usual >= 1.0:
            return 0.0
        return (together / size - usual) / (1.0 - usual)
