"""One push or pull: which rows were chosen for it, and how far it got."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rowcast.codecs import INDEX_BYTES, Above, Codec, codec_by_name, codec_for
from rowcast.delivery import plain
from rowcast.delivery.backlog import Due
from rowcast.delivery.plain import SPARSE
from rowcast.delivery.source import RowSource
from rowcast.rows import Layout, Selection
from rowcast.rows.compiling import without_numba
from rowcast.rows.kernels import compiled_serial
from rowcast.rows.select import usual_buffers
from rowcast.sync.order import RowsToSend

__all__ = ["Chooser", "Request", "Transfer"]

Chooser = Callable[[Layout, RowsToSend], Selection]


class Request(NamedTuple):
    """What is asked of a push or pull.

    Attributes:
        iteration: the iteration it belongs to.
        codec: how rows are encoded.
        choose: the policy's order.
        limit_s: rows beyond the quota are sent for this long (s); ``inf``: until all are sent.
        announce_zeros: rows that are exactly zero are told to the peer (a push advances their version); otherwise
            they only count as sent here.
        refine: what was left of the rows that were sent already.
        room: bytes that all rows together may take, where the code can be fitted.
        above: where only what is beyond a threshold is sent: takes what is due, returns how much of it may travel.
    """

    iteration: int
    codec: Codec
    choose: Chooser
    limit_s: float = math.inf
    announce_zeros: bool = True
    refine: bool = False
    room: float = math.inf
    above: Callable[[Due], Above] | None = None


@dataclass(slots=True)
class Transfer:
    """A push or pull, from the choice of its rows to the last of them.

    Attributes:
        iteration: the iteration it belongs to.
        codec: how rows are encoded, for the layout.
        started: time of its start (s).
        deadline: rows beyond the quota are sent until then (s).
        order: the rows in the order in which they are sent, int64.
        ends: bytes of each row and all before it, as planned, int64.
        quota: how many of them are sent whatever the time.
        zeros: rows that are zero and still to be announced, int64 ascending.
        place: rows of the order that were sent.
        rows, zero_rows, size: rows sent with payload, rows advanced without, bytes of frames. What is refined was
            sent before and is no row more.
        quota_frame: number of the frame that ends the quota, once it was sent.
        quota_done: time at which the quota was acknowledged (s).
        cancelled: nothing beyond the quota is to be sent any more.
        refining: what it sends could wait.
        most_elements: a frame holds rows of so many elements at most, or one row; ``None``: that makes no difference.
        element_ends: elements of each row of the order and all before it, int64, where it does.
    """

    iteration: int
    codec: Codec
    started: float
    deadline: float
    order: npt.NDArray[np.int64]
    ends: npt.NDArray[np.int64]
    quota: int
    zeros: npt.NDArray[np.int64]
    place: int = 0
    rows: int = 0
    zero_rows: int = 0
    size: int = 0
    quota_frame: int | None = None
    quota_done: float | None = None
    cancelled: bool = False
    refining: bool = False
    most_elements: int | None = None
    element_ends: npt.NDArray[np.int64] | None = None

    @classmethod
    def begin(cls, source: RowSource, now: float, request: Request) -> Transfer:
        """Choose the rows of a push or pull.

        Args:
            source: where they are.
            now: time (s).
            request: what is asked.
        """
        layout, iteration = source.layout, request.iteration
        codec = codec_for(layout, request.codec)
        due = source.due(iteration, refine=request.refine)
        if request.room < math.inf or request.above is not None:
            codec = source.fit(codec, request.room if request.above is None else request.above(due))
            row_bytes = codec.row_bytes(layout)
            sizes = _sum_and_largest(row_bytes)
        else:
            row_bytes = codec.row_bytes(layout)
            sizes = layout.once(f"{codec.name}, all rows", lambda _: _sum_and_largest(row_bytes))
        zeros = due.zeros
        if not request.announce_zeros:
            source.mark_sent(zeros, iteration)
            zeros = zeros[:0]
        view = RowsToSend(
            eligible=due.eligible,
            stamps=due.stamps,
            abs_sums=usual_buffers(layout, due.abs_sums),
            row_bytes=row_bytes,
            total_bytes=int(sizes[0]),
            largest_bytes=int(sizes[1]),
            iteration=iteration,
            travelled_bytes=int(row_bytes[due.travelled].sum()) if len(due.travelled) else 0,
        )
        chosen = request.choose(layout, view)
        transfer = cls(
            iteration=iteration,
            codec=codec,
            started=now,
            deadline=now + request.limit_s,
            order=chosen.order,
            ends=_planned_ends(row_bytes, chosen.order),
            quota=chosen.quota,
            zeros=zeros,
            refining=request.refine,
        )
        transfer._bound_by(source)
        return transfer

    @classmethod
    def of_everything(cls, source: RowSource, now: float, iteration: int) -> Transfer:
        """Choose all rows that are not zero, lossless, without a deadline (draining)."""
        layout = source.layout
        codec = codec_for(layout, codec_by_name("raw"))
        order = source.remaining()
        ends = _planned_ends(codec.row_bytes(layout), order)
        transfer = cls(iteration, codec, now, now, order, ends, len(order), order[:0])
        transfer._bound_by(source)
        return transfer

    def _bound_by(self, source: RowSource) -> None:
        """Frames hold no more elements than the source can give at once."""
        self.most_elements = source.own.most_elements
        if self.most_elements is not None:
            self.element_ends = source.layout.lengths[self.order].cumsum()

    # -- how far it got ----------------------------------------------------------------------------------------

    def quota_sent(self) -> bool:
        """Whether all that is sent whatever the time was sent."""
        return self.place >= self.quota and len(self.zeros) == 0

    def all_sent(self) -> bool:
        """Whether all chosen rows were sent."""
        return self.place >= len(self.order)

    def waits_beyond(self, time: float) -> bool:
        """Whether its deadline is yet to come at ``time`` (s); one without a limit is over when its rows are sent."""
        return self.deadline > time and self.deadline > self.started

    def finished(self, now: float) -> bool:
        """Whether there is nothing left that should still be sent."""
        if self.place < self.quota or len(self.zeros):
            return False
        return self.cancelled or now >= self.deadline or self.place >= len(self.order)

    # -- what is sent next -------------------------------------------------------------------------------------

    def take_zeros(self) -> npt.NDArray[np.int64]:
        """The rows that are to be announced as zero, int64 ascending; they are now."""
        rows, self.zeros = self.zeros, self.zeros[:0]
        self.zero_rows += len(rows)
        return rows

    def take_rows(self, room: float) -> npt.NDArray[np.int64]:
        """The next rows, int64 ascending: as many as fit into ``room`` bytes and a frame's elements, at least one.

        A frame holds rows of the quota or rows beyond it.
        """
        limit = len(self.order) if self.place >= self.quota else self.quota
        if self.element_ends is not None and self.most_elements is not None:
            base = int(self.element_ends[self.place - 1]) if self.place else 0
            end = int(np.searchsorted(self.element_ends, base + self.most_elements, side="right"))
            limit = min(limit, max(end, self.place + 1))
        rows, ascending = _next_rows(self.order, self.ends, self.place, limit, int(room))
        if not ascending:
            rows.sort()
        self.place += len(rows)
        self.rows += 0 if self.refining else len(rows)
        return rows


def _sum_and_largest(row_bytes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return np.array([row_bytes.sum(), row_bytes.max()])


@compiled_serial
@without_numba(plain.next_rows)
def _next_rows(
    order: npt.NDArray[np.int64], ends: npt.NDArray[np.int64], place: int, limit: int, room: int
) -> tuple[npt.NDArray[np.int64], bool]:
    """The rows of ``order`` from ``place`` on that fit into ``room`` bytes, at least one and none from ``limit`` on.

    Returns:
        The rows, int64 [k], and whether they are in ascending order: so they are where they lie close together, for
        then it costs less to mark each and to collect them than to sort them.
    """
    base = ends[place - 1] if place else 0
    until = np.searchsorted(ends[place:], base + room, side="right") + place
    chosen = order[place : min(max(until, place + 1), limit)]
    low = high = chosen[0]
    for row in chosen:
        low, high = min(low, row), max(high, row)
    span = high - low + 1
    if span > SPARSE * len(chosen):
        return chosen.copy(), False
    marks = np.zeros(span, dtype=np.bool_)
    for row in chosen:
        marks[row - low] = True
    rows = np.empty(len(chosen), dtype=np.int64)
    k = 0
    for gap in range(span):
        if marks[gap]:
            rows[k] = low + gap
            k += 1
    return rows, True


@compiled_serial
@without_numba(plain.planned_ends)
def _planned_ends(row_bytes: npt.NDArray[np.int64], order: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Bytes of each row of ``order`` and of all before it, with what its index is assumed to take; int64 [k]."""
    ends = np.empty(len(order), dtype=np.int64)
    end = 0
    for k in range(len(order)):
        end += row_bytes[order[k]] + INDEX_BYTES
        ends[k] = end
    return ends
