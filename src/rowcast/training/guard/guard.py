"""The guard: updates out of all proportion are scaled down, and a member that stays out of line is put aside.

Norms. A member's update of a row is compared with the usual ones of the *others* for that row: the median over them
of a running average of log norms, per iteration. Without the member itself the median stands where more than half of
the others are sound; a learning rate that changes for all moves it. What is out of proportion follows from how far the
others' own frames lie from their medians (mean absolute deviation), so a job with noisy updates has a wide band and a
steady one a narrow band. A whole frame is scaled down to the edge of that band; a single row only where it is also
larger than the model's largest rows usually are: a robot that alone sees a class, or a word, moves rows that others
hardly move, and that is no fault.

Directions: see :mod:`rowcast.training.guard.agreement` and :mod:`rowcast.training.guard.response`.

Sources: norm clipping against a robust centre: Karimireddy, He and Jaggi, "Learning from History for Byzantine Robust
Optimization", ICML 2021 (also why history is needed: a single iteration cannot tell). Median and deviations in place
of mean and variance: Hampel, "The Influence Curve and its Role in Robust Estimation", JASA 1974.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rowcast.codecs import Codec, codec_by_name
from rowcast.codecs.base import starts
from rowcast.delivery.arrivals import decode
from rowcast.rows import Layout
from rowcast.rows.kernels import gather_rows, scatter_rows
from rowcast.training.guard.agreement import against, climbs, direction
from rowcast.training.guard.loops import compare, measure, scale, sketch, sums
from rowcast.training.guard.response import WIDTH
from rowcast.training.guard.watched import WINDOW, Watched
from rowcast.wire import Rows

__all__ = ["GUARDS", "Guard", "Incident"]

#: What the setting may be.
GUARDS = ("off", "clip", "quarantine", "strict")
#: Others that a member is compared with at most.
MOST_OTHERS = 16
#: A band reaches from the median to so many mean absolute deviations, at least a factor of two, at most one of ten.
#: (One in a thousand sound frames lies beyond 7 where deviations are distributed as Laplace's, and they have long
#: tails: the few rows that a poor link lets through are those that have changed most.)
DEVIATIONS, NARROWEST, WIDEST = 7.0, math.log(2.0), math.log(10.0)
#: Iterations out of line, more than in line, after which a member is put aside.
STRIKES = 5
#: Errors of the mean by which a direction must be right for a return.
ERRORS = 2.0
#: Iterations in line, in a row, after which a member returns.
PROBATION = 2 * WINDOW
#: Members that are put aside are remembered when they leave, so many.
MOST_REMEMBERED = 64


@dataclass(frozen=True)
class Incident:
    """Something that the guard did.

    Attributes:
        event: of the journal: 'clipped', 'quarantined' or 'released'.
        peer: the member.
        text: a sentence for people; empty where they need not know.
        fields: of the event, beside the member.
    """

    event: str
    peer: str
    text: str
    fields: Mapping[str, int | float | str | None]


class _Sizes:
    """The rows of an update that are judged by their size: parameters that hold something.

    Attributes:
        rows: int64 [k]; ``live``: which of the update's they are, bool.
        logs: float32 [k], log of the root mean square of each for one iteration.
        squares: float64 [k].
    """

    def __init__(self, layout: Layout, watched: Watched, message: Rows, squares: npt.NDArray[np.float64]) -> None:
        rows = message.rows
        self.live = (squares > 0) & (rows < layout.parameter_rows)
        self.rows = rows[self.live]
        self.squares = squares[self.live]
        mean = self.squares / layout.lengths[self.rows]
        elapsed = watched.elapsed(self.rows, message.iteration)
        self.logs = (0.5 * np.log(mean) - np.log(elapsed)).astype(np.float32)


class Guard:
    """Judges what members send, before it is added to anything.

    It needs two models of memory for each member. What is taken back of a member that is put aside is subtracted from
    the next rows that come, whoever sends them: so it travels as rows do, and needs no path of its own.

    Args:
        layout: the model's rows.
        quarantines: members may be put aside.
        alike: all members are known to have data of the same kinds.

    Attributes:
        surplus: float64 [rows], signed sum of what it has added to each row beyond what was sent (the audit).
        incidents: what it did and nobody has taken note of yet, oldest first.
    """

    def __init__(self, layout: Layout, *, quarantines: bool, alike: bool = False) -> None:
        self.surplus = np.zeros(layout.rows, dtype=np.float64)
        self.incidents: list[Incident] = []
        self._layout = layout
        self._quarantines = quarantines
        self._alike = alike
        self._watched: dict[str, Watched] = {}
        self._gone: dict[str, Watched] = {}
        self._debt = layout.zeros()
        self._owing = np.zeros(layout.rows, dtype=np.bool_)
        self._place = np.zeros(WIDTH)  # sketch of all that has counted
        self._tensors = np.repeat(np.arange(len(layout.tensors)), np.diff(layout.tensor_rows))
        self._weights = np.bincount(self._tensors, np.sqrt(layout.lengths)).astype(np.float64)

    def quarantined(self) -> list[str]:
        """Names of the members that are put aside."""
        return [name for name, one in self._watched.items() if one.cause]

    def judge(self, name: str, codec: Codec, message: Rows, sharing: Collection[str] = ()) -> tuple[Codec, Rows]:
        """Take note of an update, and make of it what is to count.

        Args:
            name: the member that sent it.
            codec, message: the update.
            sharing: names of the members among which an iteration is shared: those of them that count share it alone.

        Returns:
            The update itself where all of it counts, and nothing else does.
        """
        one = self._known(name, message.iteration)
        rows = message.rows
        if not len(message.payload):
            one.last[rows] = message.iteration
            return codec, message
        values = decode(self._layout, codec, message)
        places = starts(self._layout.lengths[rows])
        sent, squares = np.empty(len(rows)), np.empty(len(rows))
        measure(values, places, sent, squares)
        broken = np.isnan(squares)
        factors = self._factors(name, one, message, squares)
        self._look_back()
        one.last[rows] = message.iteration
        owing = self._owing[rows]
        if (members := self._members(sharing)) != 1:
            factors *= members
        scaled = bool((factors != 1).any())
        if scaled:
            scale(values, places, factors)
        if self._quarantines:
            self._point(name, one, rows, values)
            one.response.sends(self._sketch(rows, values), self._place)
        if one.cause:
            values[:] = 0
        else:
            one.keep(rows, values)
        if owing.any():
            self._pay(rows, values)
        if self._quarantines:
            self._place += self._sketch(rows, values)
        if not (scaled or one.cause or owing.any() or broken.any()):
            return codec, message
        counted = np.empty(len(rows))
        sums(values, places, counted)
        self.surplus[rows] += counted - sent
        raw = codec_by_name("raw")
        return raw, dataclasses.replace(message, codec=raw.wire_id, coder=None, payload=values.view(np.uint8))

    def forget(self, name: str) -> None:
        """A member has left for good. One that is put aside is, when it returns under its name."""
        one = self._watched.pop(name, None)
        if one is None or not one.cause:
            return
        self._gone[name] = one
        while len(self._gone) > MOST_REMEMBERED:
            del self._gone[next(iter(self._gone))]

    def take_incidents(self) -> list[Incident]:
        """What it did since it was asked last."""
        taken, self.incidents = self.incidents, []
        return taken

    # -- who is compared with whom -----------------------------------------------------------------------------

    def _known(self, name: str, iteration: int) -> Watched:
        one = self._watched.get(name)
        if one is None:
            one = self._gone.pop(name) if name in self._gone else Watched(self._layout, iteration)
            self._watched[name] = one
        if iteration != one.iteration:
            self._end_iteration(name, one)
            one.iteration = iteration
        return one

    def _members(self, sharing: Collection[str]) -> float:
        """What each of those that count is multiplied by, since the others that share an iteration do not count."""
        if not sharing:
            return 1.0
        aside = sum(name in self._watched and bool(self._watched[name].cause) for name in sharing)
        return len(sharing) / max(len(sharing) - aside, 1)

    def _others(self, name: str) -> list[Watched]:
        """Those that count, without ``name``."""
        return [self._watched[other] for other in self._names(name)]

    def _names(self, name: str) -> list[str]:
        return [other for other, one in self._watched.items() if other != name and not one.cause][:MOST_OTHERS]

    # -- how large ---------------------------------------------------------------------------------------------

    def _factors(
        self, name: str, one: Watched, message: Rows, squares: npt.NDArray[np.float64]
    ) -> npt.NDArray[np.float32]:
        """What each row of an update is multiplied by, float32 [k]."""
        factors = np.ones(len(squares), dtype=np.float32)
        one.rows += len(squares)
        broken = int(np.isnan(squares).sum())
        one.rows_out += broken
        one.clipped_rows += broken
        sizes = _Sizes(self._layout, one, message, squares)
        if not len(sizes.rows):
            return factors
        others = [other for other in self._others(name) if not math.isnan(other.middle)]
        if others:
            self._clip(one, others, sizes, factors)
        one.learn(sizes.rows, sizes.logs)
        return factors

    def _clip(self, one: Watched, others: list[Watched], sizes: _Sizes, factors: npt.NDArray[np.float32]) -> None:
        levels = np.stack([other.level[sizes.rows] for other in others])
        levels.sort(axis=0)  # NaN last
        counts = np.sum(~np.isnan(levels), axis=0)
        usual = _median_of_sorted(levels, counts)
        known = counts > 0
        if 2 * known.sum() >= len(known):
            offset = float(np.median((sizes.logs - usual)[known]))
        else:
            offset = float(np.median(sizes.logs)) - _median([other.middle for other in others])
        # What has become larger for the others, too, is no fault of this one: a learning rate was raised.
        excess = offset - max(0.0, _median([other.offset for other in others]))
        limit = _band(others)
        one.deviate(offset, limit)
        cut = np.full(len(sizes.rows), max(0.0, excess - limit))
        high = _median([other.high for other in others])
        stray = sizes.logs - max(0.0, excess) - np.fmax(usual, high)
        edge = limit + max(0.0, _median([other.tail for other in others]))
        cut += np.maximum(0.0, stray - edge)
        one.stretch(min(float(stray.max()), edge))
        beyond = cut > 0
        one.judged = True
        if beyond.any():
            factors[sizes.live] = np.exp(-cut)
            one.clipped_rows += int(beyond.sum())
            one.largest = max(one.largest, float(np.exp(cut.max())))
            weight = float(sizes.squares[beyond].sum() / sizes.squares.sum())
            one.rows_out += len(sizes.rows) if weight > 0.5 else 0

    def _look_back(self) -> None:
        """Judge what came before anybody else had sent anything, as soon as half of its rows can be compared."""
        for name, one in self._watched.items():
            if one.judged or one.cause:
                continue
            others = [other for other in self._others(name) if not math.isnan(other.middle)]
            mine = np.flatnonzero(~np.isnan(one.level))
            if not others or not len(mine):
                continue
            levels = np.stack([other.level[mine] for other in others])
            levels.sort(axis=0)
            counts = np.sum(~np.isnan(levels), axis=0)
            known = counts > 0
            if 2 * known.sum() < len(known):
                continue
            one.judged = True
            offset = float(np.median((one.level[mine] - _median_of_sorted(levels, counts))[known]))
            beyond = offset - _band(others)
            if beyond > 0:
                self._owe(one.take_back() * np.float32(1.0 - math.exp(-beyond)))

    # -- where to ----------------------------------------------------------------------------------------------

    def _point(self, name: str, one: Watched, rows: npt.NDArray[np.int64], values: npt.NDArray[np.float32]) -> None:
        """Compare an update with what each other member sent lately, row by row."""
        others = self._names(name)
        if len(others) < 2:
            return
        places, tensors = starts(self._layout.lengths[rows]), self._tensors[rows]
        for other in others:
            compare(values, self._watched[other].lately(rows), places, tensors, *one.toward_in(other))

    def _sketch(self, rows: npt.NDArray[np.int64], values: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        return sketch(values, starts(self._layout.lengths[rows]), self._layout.offsets[rows], WIDTH)

    # -- who is put aside --------------------------------------------------------------------------------------

    def _end_iteration(self, name: str, one: Watched) -> None:
        """A newer iteration of a member begins: judge the one before."""
        if one.clipped_rows and not one.cause:
            fields = {"iteration": one.iteration, "rows": one.clipped_rows, "largest": round(one.largest, 3)}
            self.incidents.append(Incident("clipped", name, "", fields))
        out = 2 * one.rows_out > one.rows
        one.strikes = one.strikes + 1 if out else max(one.strikes - 1, 0)
        one.turn()
        one.clear_iteration()
        if not self._quarantines:
            return
        if one.cause:
            self._probe(name, one, out)
        elif (found := self._fault(name, one)) is not None:
            self._quarantine(name, one, *found)

    def _fault(self, name: str, one: Watched) -> tuple[str, str] | None:
        """Why a member is to be put aside, as a word and in words; ``None``: it is not."""
        others = self._others(name)
        if len(others) < 2 or 2 * (len(self.quarantined()) + 1) >= len(self._watched):
            return None
        if one.strikes >= STRIKES:
            return "norm", "its updates stay out of all proportion to those of the others"
        if against(self._watched, name, self._names(name), self._weights, alike=self._alike):
            return "direction", "its updates point away from those of the others"
        if climbs(self._watched, name, self._names(name)):
            return "ascent", "the further the model moves, the further its updates push, and those of nobody else"
        return None

    def _quarantine(self, name: str, one: Watched, cause: str, why: str) -> None:
        one.cause, one.since, one.in_line = cause, one.iteration, 0
        taken = one.take_back()
        self._owe(taken)
        text = f"{name} is put aside: {why}; its last {WINDOW} to {2 * WINDOW} iterations are taken back"
        fields: dict[str, int | float | str | None] = {
            "iteration": one.iteration,
            "cause": cause,
            "cosine": None if (found := direction(one, self._names(name))) is None else round(found[0], 4),
            "norm": round(float(np.linalg.norm(taken)), 6),
        }
        self.incidents.append(Incident("quarantined", name, text, fields))

    def _probe(self, name: str, one: Watched, out: bool) -> None:
        """A member that is put aside sends on: may it return?"""
        value, error = direction(one, self._names(name)) or (0.0, 0.0)
        if one.cause == "ascent":
            agrees = one.response.value < 0
        elif one.cause == "norm":
            agrees = value + ERRORS * error >= 0
        else:
            agrees = value - ERRORS * error > 0
        one.in_line = one.in_line + 1 if agrees and not out and not one.strikes else 0
        if one.in_line >= PROBATION:
            one.cause = ""
            fields = {"iteration": one.iteration, "after": one.iteration - one.since}
            text = f"{name} counts again: its updates have been in line for {PROBATION} iterations"
            self.incidents.append(Incident("released", name, text, fields))

    # -- what is taken back ------------------------------------------------------------------------------------

    def _owe(self, taken: npt.NDArray[np.float32]) -> None:
        self._debt += taken
        self._owing |= np.logical_or.reduceat(self._debt != 0, self._layout.offsets[:-1])

    def _pay(self, rows: npt.NDArray[np.int64], values: npt.NDArray[np.float32]) -> None:
        """Take what is to be taken back of ``rows`` out of ``values``, which are about to count."""
        offsets = self._layout.offsets
        values -= gather_rows(self._debt, offsets, rows)
        scatter_rows(np.zeros(len(values), dtype=np.float32), self._debt, offsets, rows)
        self._owing[rows] = False


def _band(others: list[Watched]) -> float:
    """How far a frame may lie from what is usual (a log)."""
    return min(max(NARROWEST, DEVIATIONS * _median([other.spread for other in others])), WIDEST)


def _median(values: list[float]) -> float:
    return float(np.median(values))


def _median_of_sorted(values: npt.NDArray[np.float32], counts: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """The median of the first ``counts`` [k] of sorted values [n, k]; NaN where there are none."""
    columns = np.arange(values.shape[1])
    low = values[np.maximum(counts - 1, 0) // 2, columns]
    high = values[np.minimum(counts // 2, values.shape[0] - 1), columns]
    return np.where(counts > 0, 0.5 * (low + high), np.nan).astype(np.float32)
