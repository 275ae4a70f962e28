"""One direction of row delivery: what is owed, what is on its way, what was acknowledged.

The worker has one outbox (its pending updates), the server has one for each worker (what it owes him). Both
obey the same rules:

* Rows are encoded when they are sent, not before (:class:`~rowcast.delivery.source.RowSource`).
* A frame is kept until it is acknowledged. When the link was lost, the peer says how far it got; the frames
  beyond that go back into the vector. So nothing is lost and nothing is counted twice.
* The window keeps at most about two frames of link time unacknowledged, so that a deadline or a collapse of the
  link leaves little behind. What the kernel holds unsent is part of what is unacknowledged, so the budget
  ``rate x time left - unacknowledged`` is never above ``rate x time left - unsent``.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rowcast.codecs import Codec, codec_by_name, codec_for
from rowcast.config import LinkSettings
from rowcast.delivery.source import MAX_STAMP, RowSource
from rowcast.errors import RemoteProtocolError
from rowcast.rows import Layout
from rowcast.sync import RateMeter
from rowcast.wire import Rows
from rowcast.wire.frames import ROWS_OVERHEAD_BYTES, frame_bytes

__all__ = ["Flight", "Outbox"]


@dataclass(slots=True)
class Flight:
    """A frame on its way.

    Attributes:
        before: stamps of its rows before it was sent, as :meth:`RowSource.take` returns them.
        place: where it stands in a common stream; negative: it is this peer's own.
    """

    message: Rows
    size: int
    sent_at: float
    before: npt.NDArray[np.int32]
    place: int = -1


class Outbox(RowSource):
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
        state_due: bool [rows], rows whose parameters must be sent as they are, before anything else.
        state_left: whether there are any.
        meter: the delivery rate.
        sent_frames: number of the newest row frame.
        delivered: frames that were acknowledged, over all connections and sessions.
        moved_at: when one was last acknowledged, or sent while nothing else was on its way (s).
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
        super().__init__(layout, vector, floor)
        self._state_settles = state_settles
        self.source = source
        self.settings = settings
        self.meter = RateMeter(settings.initial_rate_bps)
        self.state_due = np.zeros(layout.rows, dtype=np.bool_)
        self.state_left = False
        self.sent_frames = 0
        self.delivered = 0
        self.moved_at = 0.0
        self._flight: deque[Flight] = deque()
        self._flight_bytes = 0
        self._connected = False

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

    @property
    def follows(self) -> bool:
        """Whether rows reach the peer in a common stream as well."""
        return False

    def total(self) -> npt.NDArray[np.float32]:
        """Everything that is owed and not on its way, flat float32 (for the books); not to be changed."""
        return self.vector

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
        if transfer.place >= transfer.quota:
            left_s = transfer.deadline - now
            room = min(room, self.meter.rate_bps(now) / 8 * left_s - self._flight_bytes)
            if room <= 0:
                transfer.cancelled = True
                return None
        rows = self.next_rows(room)
        return self._send(now, rows, transfer.codec, transfer.iteration, quota_end=transfer.place == transfer.quota)

    def follow(self, now: float, *, draining: bool = False) -> Rows | None:
        """The next frame of a common stream; there is none."""
        return None

    def detach(self) -> None:
        """Follow a common stream no longer: all that is owed becomes the peer's own. Here it always was."""

    def close(self) -> None:
        """The peer has left for good."""

    def target_bytes(self, now: float) -> float:
        """The size of a frame that suits the link."""
        settings = self.settings
        target = self.meter.peak_bps(now) / 8 * settings.frame_s
        return min(max(target, settings.frame_min_bytes), settings.frame_max_bytes)

    def _room(self, now: float) -> float:
        """Bytes that the next frame may take: the target size of a frame, if the window has room for it."""
        settings = self.settings
        target = self.target_bytes(now)
        probing = self.meter.wants_probe(now)
        if self._flight:
            window = max(
                self.meter.peak_bps(now) / 8 * (settings.window_s + 2 * self.meter.round_trip_s),
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
        if self._state_settles and len(self.vector):
            codec.encode(self.layout, self.vector, rows)
            self.measured = False
        self.sent_frames += 1
        message = Rows(self.sent_frames, 0, codec.wire_id, True, False, rows, self._state_of(rows, codec))
        return self._launch(Flight(message, frame_bytes(message), now, self.stamps[:0]))

    def _state_of(self, rows: npt.NDArray[np.int64], codec: Codec) -> npt.NDArray[np.uint8]:
        """The parameters of ``rows``, encoded."""
        return codec.encode(self.layout, self.source, rows, consume=False)

    def _send(self, now: float, rows: npt.NDArray[np.int64], codec: Codec, iteration: int, *, quota_end: bool) -> Rows:
        payload, before = self.take(rows, codec, iteration)
        self.sent_frames += 1
        message = Rows(self.sent_frames, iteration, codec.wire_id, False, quota_end, rows, payload)
        size = frame_bytes(message)
        if self.transfer is not None:
            self.transfer.size += size
            if quota_end:
                self.transfer.quota_frame = message.number
        return self._launch(Flight(message, size, now, before))

    def _launch(self, flight: Flight) -> Rows:
        """A frame goes on its way."""
        if not self._flight:
            self.moved_at = flight.sent_at
        self._flight.append(flight)
        self._flight_bytes += flight.size
        self.meter.sent(flight.sent_at, flight.size)
        return flight.message

    def horizon_in_flight(self, received: int) -> int:
        """The horizon of the rows in frames beyond ``received``, which the peer does not hold yet (for the books)."""
        ages = [int(one.before.min(initial=MAX_STAMP)) for one in self._flight if one.message.number > received]
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
            self.delivered += 1
            self.moved_at = now
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
        before = len(self._flight)
        if received < self.sent_frames - before:
            raise RemoteProtocolError(
                f"resume: expected at least {self.sent_frames - before} frames, which were acknowledged, got {received}"
            )
        self.acknowledged(now, received)
        restored = len(self._flight)
        while self._flight:
            self._return(self._flight.pop())
        # The frames that were put back will be sent again under their old numbers: the peer never saw them.
        self.sent_frames = received
        self._flight_bytes = 0
        self._connected = True
        return before - restored, restored

    def _return(self, flight: Flight) -> None:
        """A frame did not arrive: what it holds is owed."""
        if flight.message.absolute:
            self.state_due[flight.message.rows] = self.state_left = True
        else:
            self.put_back(flight.message, flight.before)

    def restart(self, received: int = 0) -> None:
        """The peer lost its memory: numbers start again; what was on its way is pending again.

        Args:
            received: number of the last frame that it had applied, as far as it still knows.

        Raises:
            RemoteProtocolError: more than were sent.
        """
        self.resume(0.0, max(received, self.sent_frames - len(self._flight)))
        self.sent_frames = 0
        self.state_due[:] = self.state_left = False
        self.stamps[:] = 0

    def renumber(self, iteration: int) -> None:
        """Every row counts as sent in ``iteration`` (after a return with a new count)."""
        if self.floor is None:
            self.stamps[:] = iteration
