"""What the guard knows of one member."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from rowcast.rows import Layout
from rowcast.rows.kernels import add_rows, gather_rows
from rowcast.training.guard.response import Response

__all__ = ["WINDOW", "Mean", "Watched"]

#: What counts as lately: contributions are kept apart for so many iterations of their member, and for as many before.
WINDOW = 16
#: How much of a new observation goes into what is usual: an average of about the last four.
FORGET = 0.25
#: A member's iterations that a cosine is averaged over.
MEMORY = 16
#: How much of the largest deviation is left when the next frame comes.
TAIL = 0.98
#: The largest that is assumed before there are frames: tensors of one model differ by a factor of ten.
FIRST_TAIL = math.log(10.0)
#: The spread that is assumed of a member before it is known (of log norms), and for how many frames that weighs.
FIRST_SPREAD, PRIOR = 0.25, 4

Cosines = npt.NDArray[np.float64]


class Mean:
    """Running means and their standard errors, of about the last :data:`MEMORY` values each.

    Args:
        numbers: how many means.

    Attributes:
        count: values so far, int64 [numbers].
        value: the means, float64 [numbers].
    """

    def __init__(self, numbers: int) -> None:
        self.count = np.zeros(numbers, dtype=np.int64)
        self.value = np.zeros(numbers)
        self._variance = np.zeros(numbers)

    def add(self, values: npt.NDArray[np.float64]) -> None:
        """One more of each; NaN: none."""
        known = ~np.isnan(values)
        self.count += known
        part = known / np.clip(self.count, 1, MEMORY)
        off = np.where(known, values - self.value, 0.0)
        self.value += part * off
        self._variance = (1.0 - part) * (self._variance + part * off * off)

    @property
    def error(self) -> npt.NDArray[np.float64]:
        """Standard errors of the means; infinite before there are two values."""
        few = self.count < 2
        errors: npt.NDArray[np.float64] = np.sqrt(self._variance / np.where(few, 1, np.minimum(self.count, MEMORY) - 1))
        errors[few] = np.inf
        return errors


class Watched:
    """One member: how large its rows usually are, where they point, and what it sent lately.

    Args:
        layout: the model's rows.
        iteration: the iteration of its first update.

    Attributes:
        iteration: of its newest update.
        level: float32 [rows], the usual log of the root mean square of an iteration's update of each row; NaN where
            nothing came.
        last: int32 [rows], the iteration at which each row came last.
        middle, high: the usual median of that in a frame, and its 90 % quantile; NaN before the first frame.
        offset: by how much its last frame was larger than usual for the others (median of logs).
        spread: its usual size.
        tail: the largest deviation of a single row lately, beyond what is usual for all rows (a log).
        judged: an update was compared with those of others.
        strikes: iterations out of line more than in line, lately.
        toward: of the cosines of its iterations with what each other member sent lately, by the other's name: for each
            tensor, and for all rows of the model in the last place.
        response: how its updates change where the model moves.
        cause: why it is put aside; empty where it counts.
        since: the iteration from which it is.
        in_line: iterations in line since it was put aside, in a row.
    """

    def __init__(self, layout: Layout, iteration: int) -> None:
        self.iteration = iteration
        self.level = np.full(layout.rows, np.nan, dtype=np.float32)
        self.last = np.full(layout.rows, iteration - 1, dtype=np.int32)
        self.middle = self.high = math.nan
        self.tail = FIRST_TAIL
        self.offset = 0.0
        self.spread = FIRST_SPREAD
        self.judged = False
        self.strikes = 0
        self.toward: dict[str, Mean] = {}
        self.response = Response()
        self.cause = ""
        self.since = 0
        self.in_line = 0
        self._layout = layout
        self._frames = 0
        self._lately = [layout.zeros(), layout.zeros()]
        self._turned = iteration
        self.clear_iteration()

    def clear_iteration(self) -> None:
        """A new iteration begins: forget what was counted in the one before."""
        self.rows = self.clipped_rows = self.rows_out = 0
        self.largest = 0.0
        self.pairs: dict[str, tuple[Cosines, Cosines]] = {}

    # -- how large ---------------------------------------------------------------------------------------------

    def elapsed(self, rows: npt.NDArray[np.int64], iteration: int) -> npt.NDArray[np.int32]:
        """Iterations whose updates are in ``rows``, at least 1 each, int32 [k]."""
        return np.maximum(iteration - self.last[rows], 1)

    def learn(self, rows: npt.NDArray[np.int64], sizes: npt.NDArray[np.float32]) -> None:
        """Rows have come that hold something.

        Args:
            rows: which, int64 [k].
            sizes: log of the root mean square of each for an iteration, float32 [k].
        """
        before = self.level[rows]
        self.level[rows] = np.where(np.isnan(before), sizes, before + FORGET * (sizes - before))
        self.middle = _follow(self.middle, float(np.median(sizes)))
        self.high = _follow(self.high, float(np.quantile(sizes, 0.9)))

    def deviate(self, offset: float, limit: float) -> None:
        """A frame was larger than usual by ``offset`` (a log); beyond ``limit`` it tells nothing of what is usual."""
        self.offset = offset
        if abs(offset) <= limit:
            self._frames += 1
            self.spread += (abs(offset) - self.spread) / min(self._frames + PRIOR, MEMORY)

    def stretch(self, largest: float) -> None:
        """A single row of a frame deviated by at most ``largest``."""
        self.tail = max(largest, TAIL * self.tail)

    # -- where to ----------------------------------------------------------------------------------------------

    def toward_in(self, other: str) -> tuple[Cosines, Cosines]:
        """Sums of the cosines of this iteration's rows with what another one sent, and of their weights, per tensor."""
        if other not in self.pairs:
            tensors = len(self._layout.tensors)
            self.pairs[other] = np.zeros(tensors), np.zeros(tensors)
        return self.pairs[other]

    def turn(self) -> None:
        """An iteration is over: what was compared in it counts."""
        for other, (cosines, weights) in self.pairs.items():
            if not weights.any():
                continue
            mean = self.toward.setdefault(other, Mean(len(cosines) + 1))
            each = np.divide(cosines, weights, out=np.full(len(cosines), np.nan), where=weights > 0)
            mean.add(np.append(each, cosines.sum() / weights.sum()))
        self.response.turn()

    # -- what it sent lately -----------------------------------------------------------------------------------

    def keep(self, rows: npt.NDArray[np.int64], values: npt.NDArray[np.float32]) -> None:
        """Note what counts of it."""
        if self.iteration - self._turned >= WINDOW:
            self._turned = self.iteration
            self._lately.reverse()
            self._lately[0][:] = 0
        add_rows(self._lately[0], self._layout.offsets, rows, values, 1.0)

    def lately(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """What counted of it lately in ``rows``, one behind the other."""
        offsets = self._layout.offsets
        return gather_rows(self._lately[0], offsets, rows) + gather_rows(self._lately[1], offsets, rows)

    def take_back(self) -> npt.NDArray[np.float32]:
        """What counted of it lately, flat float32; it does not any longer."""
        taken = self._lately[0] + self._lately[1]
        for each in self._lately:
            each[:] = 0
        return taken


def _follow(usual: float, value: float) -> float:
    return value if math.isnan(usual) else usual + FORGET * (value - usual)
