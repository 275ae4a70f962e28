"""What is to be sent to a peer: the vector, which of its rows are due, and in which order they go.

The worker has one (its pending updates), the server has one for each worker (what it owes him), or one for all of
them (:mod:`rowcast.delivery.shared_log`). Rows are encoded when they are sent, not before. Encoding moves what the code
expresses out of the vector and into the frame; the residual stays (error feedback).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rowcast.codecs import Codec, codec_by_id, codec_by_name, codec_for
from rowcast.delivery.arrivals import Arrivals
from rowcast.rows import Layout, Selection
from rowcast.rows.kernels import row_abs_sums
from rowcast.rows.select import usual_buffers
from rowcast.sync.order import RowsToSend
from rowcast.wire import Rows

__all__ = ["MAX_STAMP", "Chooser", "RowSource", "Transfer"]

Chooser = Callable[[Layout, RowsToSend], Selection]

MAX_STAMP = int(np.iinfo(np.int32).max)

#: Assumed bytes of index for each row when the size of a frame is planned.
_INDEX_BYTES = 2


@dataclass(slots=True)
class Transfer:
    """One push or pull: the rows chosen for it and how far it got.

    Attributes:
        iteration: the iteration it belongs to.
        started: time of its start (s).
        deadline: rows beyond the quota are sent until then (s).
        rows, zero_rows, size: rows sent with payload, rows advanced without, bytes of frames. What is refined was
            sent before and is no row more.
        quota_done: time at which the quota was acknowledged (s).
        refining: what it sends could wait.
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

    def quota_sent(self) -> bool:
        return self.place >= self.quota and len(self.zeros) == 0

    def waits_beyond(self, time: float) -> bool:
        """Whether its deadline is yet to come at ``time`` (s); one without a limit is over when its rows are sent."""
        return self.deadline > time and self.deadline > self.started

    def finished(self, now: float) -> bool:
        """Whether there is nothing left that should still be sent."""
        if self.place < self.quota or len(self.zeros):
            return False
        return self.place >= len(self.order) or self.cancelled or now >= self.deadline


class RowSource:
    """Rows that are owed.

    Args:
        layout: the layout.
        vector: the flat float32 vector of what is owed; changed in place. Empty: nothing is.
        floor: where rows are streamed, int32 [rows], how far everybody's contribution to each row has come: what a
            row that is sent now contains. It is the server's, the same for all of its debts.

    Attributes:
        vector: what is owed. Like ``stamps`` and ``changed``, it is brought up to date when it is looked at, where
            updates are noted for all debts alike (:class:`~rowcast.delivery.arrivals.Arrivals`).
        stamps: int32 [rows], the iteration in which each row was last sent; with a floor, how far the contributions
            have come that the peer holds of a row that has changed.
        changed: with a floor, bool [rows]: something was added to these rows since they were last sent.
        abs_sums: float32 [rows], sum |vector| of each row; up to date while :attr:`measured` is set, which
            whoever adds to the vector without measuring must clear.
        transfer: the push or pull under way.
        place, limit: see :class:`~rowcast.delivery.arrivals.Share`.
        grown: something was taken in; whoever asks clears it.
    """

    def __init__(
        self, layout: Layout, vector: npt.NDArray[np.float32], floor: npt.NDArray[np.int32] | None = None
    ) -> None:
        self.layout = layout
        self.floor = floor
        self.place = 0
        self.limit = MAX_STAMP
        self.grown = False
        self._name = ""
        self._arrivals: Arrivals | None = None
        self._vector = vector
        self._changed = np.zeros(layout.rows if floor is not None else 0, dtype=np.bool_)
        self._stamps = np.zeros(layout.rows, dtype=np.int32)
        self.abs_sums = np.zeros(layout.rows, dtype=np.float32)
        self.measured = False
        self.transfer: Transfer | None = None
        self._lacking: int | None = MAX_STAMP

    # -- what is added -----------------------------------------------------------------------------------------

    @property
    def vector(self) -> npt.NDArray[np.float32]:
        self.catch_up()
        return self._vector

    @vector.setter
    def vector(self, vector: npt.NDArray[np.float32]) -> None:
        self._vector = vector

    @property
    def changed(self) -> npt.NDArray[np.bool_]:
        self.catch_up()
        return self._changed

    @changed.setter
    def changed(self, changed: npt.NDArray[np.bool_]) -> None:
        self._changed = changed

    @property
    def stamps(self) -> npt.NDArray[np.int32]:
        self.catch_up()
        return self._stamps

    @stamps.setter
    def stamps(self, stamps: npt.NDArray[np.int32]) -> None:
        self._stamps = stamps

    def subscribe(self, name: str, arrivals: Arrivals) -> None:
        """From now on what is noted in ``arrivals`` is owed, to ``name``."""
        self._name, self._arrivals = name, arrivals
        arrivals.join(name, self)

    def unsubscribe(self) -> None:
        """Nothing more is owed than now."""
        if self._arrivals is not None:
            self._arrivals.leave(self._name)
            self._arrivals = None

    def catch_up(self) -> None:
        """Take in all that was noted."""
        arrivals = self._arrivals
        if arrivals is None or self.place == arrivals.head:
            return
        oldest = arrivals.replay(self.place, self.limit, self._vector, self._stamps, self._changed)
        if self._lacking is not None:
            self._lacking = min(self._lacking, oldest)
        self.place = arrivals.head
        self.measured = False
        self.grown = True
        arrivals.caught_up(self._name)

    def take_in(self, codec: Codec, message: Rows, floor: npt.NDArray[np.int32] | None) -> None:
        """One update is owed.

        Args:
            codec, message: the update.
            floor: see :meth:`Arrivals.touch`; ``None`` where rows are not streamed.
        """
        if floor is not None:
            self.touch(message.rows, floor)
        codec.add(self.layout, message.payload, message.rows, self.vector, 1.0)
        self.measured = False
        self.grown = True

    # -- what is to be sent ------------------------------------------------------------------------------------

    def begin(
        self,
        now: float,
        iteration: int,
        codec: Codec,
        choose: Chooser,
        limit_s: float,
        *,
        announce_zeros: bool = True,
        refine: bool = False,
    ) -> Transfer:
        """Choose the rows of a push or pull.

        Args:
            now: time (s).
            iteration: the iteration it belongs to.
            codec: how rows are encoded.
            choose: the policy's order.
            limit_s: rows beyond the quota are sent for this long (s).
            announce_zeros: rows that are exactly zero are told to the peer (a push advances their version);
                otherwise they only count as fresh here (nothing is owed in them).
            refine: what was left of the rows that were sent already.
        """
        self._measure()
        codec = codec_for(self.layout, codec)
        row_bytes = codec.row_bytes(self.layout)
        due = self.stamps < iteration if self.floor is None else self.changed
        if refine:
            due = ~due
        eligible = (due & (self.abs_sums != 0)).nonzero()[0]
        travelled_bytes, zeros = 0, eligible[:0]
        if len(eligible) < len(due) and not refine:  # otherwise every row has something to send, and none of it went
            zeros = (due & (self.abs_sums == 0)).nonzero()[0]
            if self.floor is None:
                travelled_bytes = int(row_bytes[~due].sum())
            if not announce_zeros:
                self._stamp(zeros, iteration)
                zeros = zeros[:0]
        view = RowsToSend(
            eligible=eligible,
            stamps=self.stamps,
            abs_sums=usual_buffers(self.layout, self.abs_sums),
            row_bytes=row_bytes,
            iteration=iteration,
            travelled_bytes=travelled_bytes,
        )
        chosen = choose(self.layout, view)
        self.transfer = Transfer(
            iteration=iteration,
            codec=codec,
            started=now,
            deadline=now + limit_s,
            order=chosen.order,
            ends=(row_bytes[chosen.order] + _INDEX_BYTES).cumsum(),
            quota=chosen.quota,
            zeros=zeros,
            refining=refine,
        )
        return self.transfer

    def send_everything(self, now: float, iteration: int) -> Transfer:
        """Choose all rows that are not zero, lossless, without a deadline (draining)."""
        self.measured = False
        self._measure()
        codec = codec_for(self.layout, codec_by_name("raw"))
        order = np.flatnonzero(self.abs_sums)
        ends = np.cumsum(codec.row_bytes(self.layout)[order] + _INDEX_BYTES)
        self.transfer = Transfer(iteration, codec, now, now, order, ends, len(order), order[:0])
        return self.transfer

    def _measure(self) -> None:
        self.catch_up()
        if not self.measured and len(self.vector):
            row_abs_sums(self.vector, self.layout.offsets, self.abs_sums)
        self.measured = True

    # -- sending -----------------------------------------------------------------------------------------------

    def next_rows(self, room: float) -> npt.NDArray[np.int64]:
        """The next rows of the transfer, ascending: as many as fit into ``room`` bytes, at least one.

        A frame holds rows of the quota or rows beyond it.
        """
        transfer = self.transfer
        assert transfer is not None
        limit = len(transfer.order) if transfer.place >= transfer.quota else transfer.quota
        base = int(transfer.ends[transfer.place - 1]) if transfer.place else 0
        until = int(transfer.ends.searchsorted(base + int(room), side="right"))
        until = min(max(until, transfer.place + 1), limit)
        rows = transfer.order[transfer.place : until].copy()
        rows.sort()
        transfer.place = until
        transfer.rows += 0 if transfer.refining else len(rows)
        return rows

    def take(
        self, rows: npt.NDArray[np.int64], codec: Codec, iteration: int
    ) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32]]:
        """Encode ``rows``; what the code expresses is not owed any longer.

        Returns:
            The payload, and what :meth:`put_back` needs: the stamps of the rows up to now, int32 [k]; with a floor
            :data:`MAX_STAMP` for rows that had not changed.
        """
        payload = codec.encode(self.layout, self.vector, rows)
        self.measured = False
        before = self.stamps[rows]
        if self.floor is not None:
            before = np.where(self.changed[rows], before, np.int32(MAX_STAMP))
        self._stamp(rows, iteration)
        return payload, before

    def put_back(self, message: Rows, before: npt.NDArray[np.int32]) -> None:
        """What a frame holds is owed after all; ``before`` is what :meth:`take` returned with it."""
        codec_by_id(message.codec).add(self.layout, message.payload, message.rows, self.vector, 1.0)
        self.measured = False
        if self.floor is None:
            self.stamps[message.rows] = before
            return
        lacking = before < MAX_STAMP
        rows, before = message.rows[lacking], before[lacking]
        self.stamps[rows] = np.where(self.changed[rows], np.minimum(self.stamps[rows], before), before)
        self.changed[rows] = True
        self._lacking = None

    def absorb(self, other: RowSource) -> None:
        """What ``other`` owes is owed here as well, whatever its age: all of it is sent before the peer goes."""
        self.vector += other.vector
        self.measured = False

    def forgive(self) -> None:
        """Nothing is owed: no row has changed."""
        self.transfer = None
        self.changed[:] = False
        self.abs_sums[:] = 0
        self.measured = False
        self._lacking = MAX_STAMP

    @property
    def magnitude(self) -> float:
        """Sum |.| of what is owed of the parameters, when it was measured last."""
        return float(self.abs_sums[: self.layout.parameter_rows].sum())

    # -- what the peer lacks -----------------------------------------------------------------------------------

    def _stamp(self, rows: npt.NDArray[np.int64], iteration: int) -> None:
        """``rows`` are on their way, or there was nothing to send in them."""
        if self.floor is None:
            self.stamps[rows] = iteration
        else:
            self.stamps[rows] = self.floor[rows]
            self.changed[rows] = False
            self._lacking = None

    def touch(self, rows: npt.NDArray[np.int64], floor: npt.NDArray[np.int32] | None = None) -> None:
        """A contribution to ``rows`` is about to be added, and the floor about to rise: the peer lacks it.

        Up to now it lacked nothing of a row that had not changed since it was sent, however long ago that was.

        Args:
            floor: int32 [k], the floor of ``rows`` before it rises; ``None``: it has not risen yet.
        """
        assert self.floor is not None
        stamps = np.where(self.changed[rows], self.stamps[rows], self.floor[rows] if floor is None else floor)
        self.stamps[rows] = stamps
        self.changed[rows] = True
        self.measured = False
        if self._lacking is not None:
            self._lacking = min(self._lacking, int(stamps.min(initial=MAX_STAMP)))

    def lacking(self) -> int:
        """The oldest stamp of the rows that have changed; :data:`MAX_STAMP` when none has."""
        self.catch_up()
        if self._lacking is None:
            self._lacking = int(self.stamps[self.changed].min(initial=MAX_STAMP))
        return self._lacking

    def horizon(self, floor: int) -> int:
        """Up to which iteration the peer holds everybody's contributions, once all that was sent has arrived.

        Args:
            floor: the lowest of the floor.
        """
        return min(floor, self.lacking())
