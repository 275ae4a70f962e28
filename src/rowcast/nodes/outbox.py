"""One direction of row delivery: what is owed, what is on its way, what was acknowledged.

The worker has one outbox (its pending updates), the server has one for each worker (what it owes him). Both
obey the same rules:

* Rows are encoded when they are sent, not before. Encoding moves what the code expresses out of the vector and
  into the frame; the residual stays (error feedback).
* A frame is kept until it is acknowledged. When the link was lost, the peer says how far it got; the frames
  beyond that go back into the vector. So nothing is lost and nothing is counted twice.
* The window keeps at most about two frames of link time unacknowledged, so that a deadline or a collapse of the
  link leaves little behind. What the kernel holds unsent is part of what is unacknowledged, so the budget
  ``rate x time left - unacknowledged`` is never above ``rate x time left - unsent``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rowcast.codecs import Codec, codec_by_id, codec_by_name, codec_for
from rowcast.config import LinkSettings
from rowcast.errors import RemoteProtocolError
from rowcast.rows import Layout, Selection
from rowcast.rows.kernels import row_abs_sums
from rowcast.sync import RateMeter
from rowcast.sync.policy import RowsToSend
from rowcast.wire import Rows
from rowcast.wire.frames import ROWS_OVERHEAD_BYTES, frame_bytes

__all__ = ["Outbox", "Transfer"]

Chooser = Callable[[Layout, RowsToSend], Selection]

MAX_STAMP = np.iinfo(np.int32).max

#: Assumed bytes of index for each row when the size of a frame is planned.
_INDEX_BYTES = 2


@dataclass(slots=True)
class _Flight:
    """A frame on its way."""

    message: Rows
    size: int
    sent_at: float
    previous_stamps: npt.NDArray[np.int32]


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


class Outbox:
    """Rows on their way to one peer.

    Args:
        layout: the layout.
        settings: frame and window sizes.
        vector: the flat float32 vector of what is pending or owed; changed in place.
        source: the parameters that absolute rows are read from (seeding, a state transfer).
        state_settles: what the vector holds is part of these parameters, so that nothing of a row is owed once its
            parameters were sent. True for the server; a worker's pending is not in its replica.
        floor: where rows are streamed, int32 [rows], how far everybody's contribution to each row has come: what a
            row that is sent now contains. It is the server's, the same for all of its outboxes.

    Attributes:
        stamps: int32 [rows], the iteration in which each row was last sent; with a floor, how far the contributions
            have come that the peer holds of a row.
        changed: with a floor, bool [rows]: something was added to these rows since they were last sent.
        abs_sums: float32 [rows], sum |vector| of each row; up to date while :attr:`measured` is set, which
            whoever adds to the vector without measuring must clear.
        state_due: bool [rows], rows whose parameters must be sent as they are, before anything else.
        state_left: whether there are any.
        meter: the delivery rate.
        transfer: the push or pull under way.
        sent_frames: number of the newest row frame.
    """

    def __init__(
        self,
        layout: Layout,
        settings: LinkSettings,
        vector: npt.NDArray[np.float32],
        source: npt.NDArray[np.float32],
        *,
        state_settles: bool,
        floor: npt.NDArray[np.int32] | None = None,
    ) -> None:
        self.layout = layout
        self.floor = floor
        self.changed = np.zeros(layout.rows if floor is not None else 0, dtype=np.bool_)
        self._state_settles = state_settles
        self.vector = vector
        self.source = source
        self.settings = settings
        self.meter = RateMeter(settings.initial_rate_bps)
        self.stamps = np.zeros(layout.rows, dtype=np.int32)
        self.abs_sums = np.zeros(layout.rows, dtype=np.float32)
        self.measured = False
        self.state_due = np.zeros(layout.rows, dtype=np.bool_)
        self.state_left = False
        self.transfer: Transfer | None = None
        self.sent_frames = 0
        self._flight: deque[_Flight] = deque()
        self._flight_bytes = 0
        self._connected = False

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
        if not self.measured:
            row_abs_sums(self.vector, self.layout.offsets, self.abs_sums)
            self.measured = True
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
            abs_sums=self.abs_sums,
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
        row_abs_sums(self.vector, self.layout.offsets, self.abs_sums)
        codec = codec_for(self.layout, codec_by_name("raw"))
        order = np.flatnonzero(self.abs_sums)
        ends = np.cumsum(codec.row_bytes(self.layout)[order] + _INDEX_BYTES)
        self.transfer = Transfer(iteration, codec, now, now, order, ends, len(order), order[:0])
        return self.transfer

    def send_state(self) -> None:
        """All parameters are to be sent as they are, before anything else."""
        self.state_due[:] = self.state_left = True

    @property
    def empty(self) -> bool:
        """Nothing pending, nothing on its way, no state to send."""
        return not self._flight and not self.state_left and not self.vector.any()

    @property
    def idle(self) -> bool:
        """There is no frame to send: no push or pull is under way, and no state is due."""
        return self.transfer is None and not self.state_left

    @property
    def in_flight(self) -> int:
        """Bytes of frames sent and not acknowledged."""
        return self._flight_bytes

    def unacknowledged(self) -> list[Rows]:
        """The frames on their way, oldest first."""
        return [flight.message for flight in self._flight]

    @property
    def settled(self) -> bool:
        """Everything that was sent is acknowledged."""
        return not self._flight

    # -- frames ------------------------------------------------------------------------------------------------

    def next_frame(self, now: float) -> Rows | None:
        """The next frame, encoded now; ``None`` when the window is full or there is nothing to send."""
        transfer = self.transfer
        if not self._connected or not (self.state_left or (transfer is not None and not transfer.finished(now))):
            return None
        room = self._room(now)
        if room <= 0:
            return None
        if self.state_left:
            return self._state_frame(now, room)
        assert transfer is not None
        if transfer.refining and self._flight:
            # What could wait is in nobody's way: behind a full window of it the next iteration would wait its turn,
            # for seconds where the link has become slower than it was measured.
            return None
        if len(transfer.zeros):
            rows, transfer.zeros = transfer.zeros, transfer.zeros[:0]
            transfer.zero_rows += len(rows)
            return self._send(now, rows, codec_by_name("zero"), transfer.iteration, quota_end=transfer.quota_sent())
        speculative = transfer.place >= transfer.quota
        if speculative:
            left_s = transfer.deadline - now
            room = min(room, self.meter.rate_bps(now) / 8 * left_s - self._flight_bytes)
            if room <= 0:
                transfer.cancelled = True
                return None
        limit = len(transfer.order) if speculative else transfer.quota
        base = int(transfer.ends[transfer.place - 1]) if transfer.place else 0
        until = int(transfer.ends.searchsorted(base + int(room), side="right"))
        until = min(max(until, transfer.place + 1), limit)
        rows = transfer.order[transfer.place : until].copy()
        rows.sort()
        transfer.place = until
        transfer.rows += 0 if transfer.refining else len(rows)
        return self._send(now, rows, transfer.codec, transfer.iteration, quota_end=until == transfer.quota)

    def _room(self, now: float) -> float:
        """Bytes that the next frame may take: the target size of a frame, if the window has room for it."""
        settings = self.settings
        peak = self.meter.peak_bps(now) / 8
        target = min(max(peak * settings.frame_s, settings.frame_min_bytes), settings.frame_max_bytes)
        probing = self.meter.wants_probe(now)
        if self._flight:
            window = max(
                peak * (settings.window_s + 2 * self.meter.round_trip_s),
                settings.window_min_bytes,
                2 * settings.frame_min_bytes,
            )
            if probing or self._flight_bytes + target > window:
                return 0.0
        if probing:
            target = settings.frame_min_bytes
        return target - ROWS_OVERHEAD_BYTES

    def _state_frame(self, now: float, room: float) -> Rows:
        codec = codec_for(self.layout, codec_by_name("raw"))
        rows = np.flatnonzero(self.state_due)
        ends = np.cumsum(codec.row_bytes(self.layout)[rows])
        rows = rows[: max(int(np.searchsorted(ends, int(room), side="right")), 1)]
        self.state_due[rows] = False
        self.state_left = bool(self.state_due.any())
        if self._state_settles:
            codec.encode(self.layout, self.vector, rows)
        return self._send(now, rows, codec, 0, absolute=True)

    def _send(
        self,
        now: float,
        rows: npt.NDArray[np.int64],
        codec: Codec,
        iteration: int,
        *,
        absolute: bool = False,
        quota_end: bool = False,
    ) -> Rows:
        source = self.source if absolute else self.vector
        payload = codec.encode(self.layout, source, rows, consume=not absolute)
        self.measured = False
        self.sent_frames += 1
        message = Rows(self.sent_frames, iteration, codec.wire_id, absolute, quota_end, rows, payload)
        size = frame_bytes(message)
        self._flight.append(_Flight(message, size, now, self.stamps[rows]))
        self._flight_bytes += size
        self.meter.sent(now, size)
        if not absolute:
            self._stamp(rows, iteration)
            if self.transfer is not None:
                self.transfer.size += size
                if quota_end:
                    self.transfer.quota_frame = message.number
        return message

    def _stamp(self, rows: npt.NDArray[np.int64], iteration: int) -> None:
        """``rows`` are on their way, or there was nothing to send in them."""
        if self.floor is None:
            self.stamps[rows] = iteration
        else:
            self.stamps[rows] = self.floor[rows]
            self.changed[rows] = False

    def touch(self, rows: npt.NDArray[np.int64]) -> None:
        """A contribution to ``rows`` is about to be added, and the floor about to rise: the peer lacks it.

        Up to now it lacked nothing of a row that had not changed since it was sent, however long ago that was.
        """
        assert self.floor is not None
        self.stamps[rows] = np.where(self.changed[rows], self.stamps[rows], self.floor[rows])
        self.changed[rows] = True
        self.measured = False

    def horizon(self, floor: int) -> int:
        """Up to which iteration the peer holds everybody's contributions, once all that was sent has arrived.

        Args:
            floor: the lowest of the floor.
        """
        lacking = self.stamps[self.changed]
        return min(floor, int(lacking.min())) if len(lacking) else floor

    def horizon_in_flight(self, received: int) -> int:
        """The same for the rows of the frames beyond ``received``, which the peer does not hold yet (for the books)."""
        ages = [int(one.previous_stamps.min()) for one in self._flight if one.message.number > received]
        return min(ages, default=MAX_STAMP)

    def quota_s(self, now: float) -> float:
        """Seconds that the quota of the current transfer took: measured, or predicted while it is on its way.

        The prediction is tau of algorithms.md 2.2: what is unacknowledged, at the measured rate, and a round trip.
        """
        assert self.transfer is not None
        if self.transfer.quota_done is not None:
            return self.transfer.quota_done - self.transfer.started
        left_s = self._flight_bytes * 8 / self.meter.rate_bps(now) + self.meter.round_trip_s
        return now - self.transfer.started + left_s

    # -- what came of it ---------------------------------------------------------------------------------------

    def acknowledged(self, now: float, number: int) -> None:
        """The peer applied every frame up to ``number``.

        Raises:
            RemoteProtocolError: it acknowledges what was never sent.
        """
        if number > self.sent_frames:
            raise RemoteProtocolError(f"acknowledgement: expected a number up to {self.sent_frames}, got {number}")
        while self._flight and self._flight[0].message.number <= number:
            flight = self._flight.popleft()
            self._flight_bytes -= flight.size
            self.meter.acknowledged(now, flight.size, flight.sent_at)
            transfer = self.transfer
            if transfer is not None and transfer.quota_frame == flight.message.number:
                transfer.quota_done = now

    def link_lost(self) -> None:
        """Nothing is sent until :meth:`resume`."""
        self._connected = False
        self.meter.forget_flight()

    def link_ready(self) -> None:
        """The link is there and the peer has everything that was sent (a first joining)."""
        self._connected = True

    def resume(self, now: float, received: int) -> tuple[int, int]:
        """The link is back; the peer had applied every frame up to ``received``.

        Frames beyond go back into the vector, newest first, so that each row gets the stamp that it had before
        the oldest of them.

        Returns:
            Frames that had arrived, frames that were put back.

        Raises:
            RemoteProtocolError: it claims fewer frames than it acknowledged, or more than were sent.
        """
        self.measured = False
        before = len(self._flight)
        if received < self.sent_frames - before:
            raise RemoteProtocolError(
                f"resume: expected at least {self.sent_frames - before} frames, which were acknowledged, got {received}"
            )
        self.acknowledged(now, received)
        restored = len(self._flight)
        while self._flight:
            message = self._flight[-1].message
            if message.absolute:
                self.state_due[message.rows] = self.state_left = True
            else:
                codec = codec_by_id(message.codec)
                codec.add(self.layout, message.payload, message.rows, self.vector, 1.0)
                self.stamps[message.rows] = self._flight[-1].previous_stamps
                if self.floor is not None:
                    self.changed[message.rows] = True
            self._flight.pop()
        # The frames that were put back will be sent again under their old numbers: the peer never saw them.
        self.sent_frames = received
        self._flight_bytes = 0
        self._connected = True
        return before - restored, restored

    def restart(self) -> None:
        """The peer lost its memory: numbers start again; what was on its way is pending again."""
        self.resume(0.0, self.sent_frames - len(self._flight))
        self.sent_frames = 0
        self.state_due[:] = self.state_left = False
        self.stamps[:] = 0

    def renumber(self, iteration: int) -> None:
        """Every row counts as sent in ``iteration`` (after a return with a new count)."""
        if self.floor is None:
            self.stamps[:] = iteration
