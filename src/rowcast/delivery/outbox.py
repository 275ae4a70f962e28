"""Rows on their way to one peer: numbered frames, acknowledgements, and what a cut puts back.

What is sent comes from a source (:mod:`rowcast.delivery.source`), how much at a time from a window
(:mod:`rowcast.delivery.window`). The worker has one outbox, the server one for each worker, and both obey the same
rule: a frame is kept until it is acknowledged. When the link was lost, the peer says how far it got; the frames beyond
that go back into the source. So nothing is lost and nothing is counted twice.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rowcast.codecs import Codec, codec_by_name
from rowcast.delivery.backlog import MAX_STAMP
from rowcast.delivery.cursor import Cursor
from rowcast.delivery.shared_log import Entry
from rowcast.delivery.snapshot import Snapshot
from rowcast.delivery.source import RowSource
from rowcast.delivery.transfer import Request, Transfer
from rowcast.delivery.window import Window
from rowcast.errors import RemoteProtocolError
from rowcast.wire import Rows
from rowcast.wire.frames import frame_bytes

__all__ = ["Flight", "Outbox"]

_NO_STAMPS = np.zeros(0, dtype=np.int32)


@dataclass(slots=True)
class Flight:
    """A frame on its way.

    Attributes:
        message, size: the frame, and its bytes on the wire.
        sent_at: when it was sent (s).
        before: what :meth:`RowSource.take` returned with it; empty for absolute rows.
        place: where it stands in a shared log; negative: it is this peer's own.
    """

    message: Rows
    size: int
    sent_at: float
    before: npt.NDArray[np.int32]
    place: int = -1


class Outbox:
    """Sends what a source holds.

    Args:
        source: what the peer lacks. Where it is a :class:`~rowcast.delivery.cursor.Cursor`, frames of its log are
            sent as well.
        window: how much may be on its way.
        snapshot: the parameters that absolute rows are read from.

    Attributes:
        source: see above; another one once the peer reads a shared log no longer.
        snapshot, window, layout: see above.
        meter: the delivery rate.
        transfer: the push or pull under way.
        sent_frames: number of the newest row frame.
        delivered: frames that were acknowledged, over all connections and sessions.
        sent_bytes: of row frames that were sent, headers included, also those that were sent again.
        numbering: how often the iterations of all rows were set, and to which one.
        moved_at: when one was last acknowledged, or sent while nothing else was on its way (s).
    """

    def __init__(self, source: RowSource, window: Window, snapshot: Snapshot) -> None:
        self.layout = source.layout
        self.source = source
        self.window = window
        self.snapshot = snapshot
        self.meter = window.meter
        self.transfer: Transfer | None = None
        self.sent_frames = 0
        self.delivered = 0
        self.sent_bytes = 0
        self.numbering = (0, 0)
        self.moved_at = 0.0
        self._cursor = source if isinstance(source, Cursor) else None
        self._flight: deque[Flight] = deque()
        self._flight_bytes = 0
        self._connected = False

    @property
    def empty(self) -> bool:
        """Nothing to send, nothing on its way."""
        return not self._flight and not self.snapshot.left and self.source.empty

    @property
    def idle(self) -> bool:
        """There is no frame to send: no push or pull is under way, and no state is due."""
        return self.transfer is None and not self.snapshot.left

    @property
    def in_flight(self) -> int:
        """Bytes of frames sent and not acknowledged."""
        return self._flight_bytes

    @property
    def acknowledged_frames(self) -> int:
        """Number of the newest frame that was acknowledged."""
        return self.sent_frames - len(self._flight)

    @property
    def settled(self) -> bool:
        """Everything that was sent is acknowledged."""
        return not self._flight

    def may_be_stuck_before(self, time: float, limit_s: float) -> bool:
        """Whether something is on its way of which nothing may have been acknowledged for ``limit_s`` at ``time`` (s).

        What a node is asked after each message: :class:`~rowcast.session.liveness.Progress` says it exactly.
        """
        return self._flight_bytes > 0 and self.moved_at + limit_s < time

    @property
    def follows(self) -> bool:
        """Whether the peer is sent frames of a shared log as well."""
        return self._cursor is not None

    def unacknowledged(self) -> list[Rows]:
        """The frames on their way, oldest first."""
        return [flight.message for flight in self._flight]

    def newest_holds(self) -> npt.NDArray[np.int64] | None:
        """What the peer holds of the rows of the frame that was sent last, see :meth:`Cursor.holds`.

        ``None``: all that is here now, for no log is read.
        """
        if self._cursor is None:
            return None
        newest = self._flight[-1]
        return self._cursor.holds(newest.message.rows, newest.place)

    def flights(self) -> Iterator[Flight]:
        """The same, with what is known of each."""
        return iter(self._flight)

    # -- what is to be sent ------------------------------------------------------------------------------------

    def begin(self, now: float, request: Request) -> Transfer:
        """Choose the rows of a push or pull; it takes the place of the one before."""
        self.transfer = Transfer.begin(self.source, now, request)
        return self.transfer

    def send_everything(self, now: float, iteration: int) -> Transfer:
        """Choose all rows that are not zero, lossless, without a deadline (draining)."""
        self.transfer = Transfer.of_everything(self.source, now, iteration)
        return self.transfer

    def send_state(self) -> None:
        """All parameters are to be sent as they are, before anything else."""
        self.snapshot.send_all()

    def detach(self) -> None:
        """Read a shared log no longer: all that the peer lacks becomes its own."""
        if self._cursor is not None:
            self.source, self._cursor = self._cursor.detach(), None

    def close(self) -> None:
        """The peer has left for good."""
        if self._cursor is not None:
            self._cursor.close()
            self.source, self._cursor = self._cursor.own, None

    # -- frames ------------------------------------------------------------------------------------------------

    def next_frame(self, now: float) -> Rows | None:
        """The next frame, encoded now; ``None`` when the window is full or there is nothing to send."""
        cursor = self._cursor
        if cursor is not None:
            cursor.stir()
            if self.snapshot.left:
                if cursor.must_read(self.snapshot.due):
                    return self.send_shared(now, *cursor.read()) if self._has_room(now) else None
            elif self.transfer is not None and self.transfer.refining:
                return None  # what the code has left of the peer's own backlog comes after the log
        return self.next_own(now)

    def follow(self, now: float, *, draining: bool = False) -> Rows | None:
        """The next frame of a shared log, or what the code left of the peer's own backlog.

        Args:
            now: time (s).
            draining: nobody computes any longer.
        """
        if self._cursor is None or self.snapshot.left or not self._has_room(now):
            return None
        return self._cursor.follow(now, self, draining=draining)

    def next_own(self, now: float) -> Rows | None:
        """The next frame that is encoded for this peer alone: of its parameters, or of the transfer."""
        transfer = self.transfer
        if not self._connected or not (self.snapshot.left or (transfer is not None and not transfer.finished(now))):
            return None
        room = self.window.room(now, self._flight_bytes)
        if room <= 0:
            return None
        if self.snapshot.left:
            return self._state_frame(now, room)
        assert transfer is not None
        if transfer.refining and self.window.queues(now, self._flight_bytes):
            # What could wait is in nobody's way: behind a full window of it the next iteration would wait its turn,
            # for seconds where the link has become slower than it was measured.
            return None
        if len(transfer.zeros):
            return self._send(now, transfer, transfer.take_zeros(), codec_by_name("zero"), transfer.quota_sent())
        if transfer.place >= transfer.quota:
            room = min(room, self.window.budget(now, self._flight_bytes, transfer.deadline))
            if room <= 0:
                transfer.cancelled = True
                return None
        rows = transfer.take_rows(room)
        return self._send(now, transfer, rows, transfer.codec, transfer.place == transfer.quota)

    def send_shared(self, now: float, entry: Entry, place: int) -> Rows:
        """Send a frame of a shared log, which is at ``place`` there, under the next number."""
        self.sent_frames += 1
        message = entry.message.numbered(self.sent_frames)
        return self._launch(Flight(message, entry.size, now, entry.before, place))

    def _has_room(self, now: float) -> bool:
        return self._connected and self.window.room(now, self._flight_bytes) > 0

    def _state_frame(self, now: float, room: float) -> Rows:
        snapshot = self.snapshot
        rows, payload = snapshot.take(room)
        if snapshot.settles:
            payload = self.source.settle(rows, payload)
        self.sent_frames += 1
        message = Rows(self.sent_frames, 0, snapshot.codec.wire_id, True, False, rows, payload)
        return self._launch(Flight(message, frame_bytes(message), now, _NO_STAMPS))

    def _send(self, now: float, transfer: Transfer, rows: npt.NDArray[np.int64], codec: Codec, quota_end: bool) -> Rows:
        payload, before = self.source.take(rows, codec, transfer.iteration)
        self.sent_frames += 1
        number, iteration = self.sent_frames, transfer.iteration
        message = Rows(number, iteration, codec.wire_id, False, quota_end, rows, payload, coder=codec)
        size = frame_bytes(message)
        transfer.size += size
        if quota_end:
            transfer.quota_frame = message.number
        return self._launch(Flight(message, size, now, before))

    def _launch(self, flight: Flight) -> Rows:
        """A frame goes on its way."""
        if not self._flight:
            self.moved_at = flight.sent_at
        self._flight.append(flight)
        self._flight_bytes += flight.size
        self.sent_bytes += flight.size
        self.meter.sent(flight.sent_at, flight.size)
        return flight.message

    def horizon_in_flight(self, received: int) -> int:
        """The horizon of the rows in frames beyond ``received``, which the peer does not hold yet (for the books)."""
        ages = [int(one.before.min(initial=MAX_STAMP)) for one in self._flight if one.message.number > received]
        return min(ages, default=MAX_STAMP)

    def quota_s(self, now: float) -> float:
        """Seconds that the quota of the current transfer took: measured, or predicted while it is on its way.

        The prediction is the time since its start, and what the window says until the link is drained.
        """
        assert self.transfer is not None
        if self.transfer.quota_done is not None:
            return self.transfer.quota_done - self.transfer.started
        return now - self.transfer.started + self.window.drain_s(now, self._flight_bytes)

    # -- what came of it ---------------------------------------------------------------------------------------

    def acknowledged(self, now: float, number: int, arrived: float | None = None) -> None:
        """The peer applied every frame up to ``number``.

        Args:
            now: time (s).
            number: of the newest.
            arrived: when that one arrived, by the peer's clock (s); ``None``: it does not say.

        Raises:
            RemoteProtocolError: it acknowledges what was never sent.
        """
        sent_at = self._flight[0].sent_at if self._flight else now
        if size := self._settle(now, number):
            self.meter.acknowledged(now, size, sent_at, arrived)

    def _settle(self, now: float, number: int) -> int:
        """Frames up to ``number`` have arrived; their bytes."""
        if number > self.sent_frames:
            raise RemoteProtocolError(f"acknowledgement: expected a number up to {self.sent_frames}, got {number}")
        before = self._flight_bytes
        on_their_way = self._flight
        while on_their_way and on_their_way[0].message.number <= number:
            flight = on_their_way.popleft()
            self._flight_bytes -= flight.size
            self.delivered += 1
            self.moved_at = now
            if flight.place >= 0 and self._cursor is not None:
                self._cursor.delivered()
            transfer = self.transfer
            if transfer is not None and transfer.quota_frame == flight.message.number:
                transfer.quota_done = now
        return before - self._flight_bytes

    def link_lost(self) -> None:
        """Nothing is sent until :meth:`resume`."""
        self._connected = False
        self.meter.forget_flight()
        if self._cursor is not None:
            self._cursor.link_lost()

    def link_ready(self) -> None:
        """The link is there and the peer has everything that was sent (a first joining)."""
        self._connected = True
        if self._cursor is not None:
            self._cursor.link_ready()

    def resume(self, now: float, received: int) -> tuple[int, int]:
        """The link is back; the peer had applied every frame up to ``received``.

        Frames beyond go back into the source, newest first, so that each row gets the stamp that it had before the
        oldest of them.

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
        self._settle(now, received)  # when they arrived is not known: they are no measure of the link
        restored = len(self._flight)
        while self._flight:
            flight = self._flight.pop()
            if flight.message.absolute:
                self.snapshot.put_back(flight.message.rows)
            else:
                self.source.put_back(flight.message, flight.before, flight.place)
        # The frames that were put back will be sent again under their old numbers: the peer never saw them.
        self.sent_frames = received
        self._flight_bytes = 0
        self.link_ready()
        return before - restored, restored

    def restart(self, received: int = 0) -> None:
        """The peer lost its memory: numbers start again, what was on its way is to be sent again, and no state is.

        Args:
            received: number of the last frame that it had applied, as far as it still knows.

        Raises:
            RemoteProtocolError: more than were sent.
        """
        self.resume(0.0, max(received, self.sent_frames - len(self._flight)))
        self.sent_frames = 0
        self.snapshot.cancel()
        self.renumber(0)

    def renumber(self, iteration: int) -> None:
        """The peer counts from ``iteration`` now (after a return with a new count)."""
        self.numbering = self.numbering[0] + 1, iteration
        self.source.renumber(iteration)
