"""Rows on their way to a worker that follows the stream of :mod:`rowcast.delivery.shared_log`, at its own pace.

A reader has a place in the log, frame numbers of its own, and arrears: a vector that exists only while the worker is
left behind. Until it has caught up it is served like any worker of the policy without a common stream; then the vector
is freed.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rowcast.codecs import Codec, codec_by_id
from rowcast.config import LinkSettings
from rowcast.delivery.outbox import Flight, Outbox
from rowcast.delivery.shared_log import NEAR_FRAMES, SharedLog
from rowcast.delivery.source import MAX_STAMP, Chooser, Transfer
from rowcast.rows import Layout
from rowcast.wire import Rows

__all__ = ["Cursor"]


class Cursor(Outbox):
    """Rows on their way to a worker that follows a stream.

    Its vector, the arrears, is empty (of length 0) unless the worker was left behind.

    Args:
        name: the worker.
        layout, settings, source: see :class:`~rowcast.delivery.outbox.Outbox`.
        stream: the stream.

    Attributes:
        place: the next frame of the log that it is sent.
        counted: the gate counts it.
    """

    def __init__(
        self,
        name: str,
        layout: Layout,
        settings: LinkSettings,
        source: npt.NDArray[np.float32],
        stream: SharedLog,
    ) -> None:
        nothing = np.zeros(0, dtype=np.float32)
        super().__init__(layout, settings, nothing, source, state_settles=True, floor=stream.debt.floor)
        self.name = name
        self.counted = False
        self.place = stream.head
        self._folded = 0  # frames before this place are no longer read from the log
        self._turn = False  # the arrears come next
        self._stream: SharedLog | None = stream
        stream.join(self)

    @property
    def connected(self) -> bool:
        """The link is there."""
        return self._connected

    @property
    def follows(self) -> bool:
        return self._stream is not None

    @property
    def magnitude(self) -> float:
        """Sum |.| of the arrears and of the common residual, when they were measured last; frames are not counted."""
        return super().magnitude + (0.0 if self._stream is None else self._stream.debt.magnitude)

    @property
    def needs(self) -> int:
        """The oldest frame of the log that it may have to be sent (again)."""
        return next((flight.place for flight in self._flight if flight.place >= 0), self.place)

    @property
    def empty(self) -> bool:
        stream = self._stream
        return (stream is None or (self.place == stream.head and stream.drained)) and super().empty

    def horizon(self, floor: int) -> int:
        own = super().horizon(floor)
        return own if self._stream is None else min(own, self._stream.lacking(self.place))

    def total(self) -> npt.NDArray[np.float32]:
        if self._stream is None:
            return self.vector
        total = self._stream.debt.vector.copy()
        for entry in self._stream.frames(self.place):
            message = entry.message
            codec_by_id(message.codec).add(self.layout, message.payload, message.rows, total, 1.0)
        if len(self.vector):
            total += self.vector
        return total

    # -- frames ------------------------------------------------------------------------------------------------

    def next_frame(self, now: float) -> Rows | None:
        stream = self._stream
        if stream is None:
            return super().next_frame(now)
        stream.stir(self)
        if self.state_left:
            # A row that is sent as it is contains the log up to the head: its reader must be there.
            self._skip(stream)
            if self.place < stream.head:
                return self._read(now, stream) if self._connected and self._room(now) > 0 else None
        elif self.transfer is not None and self.transfer.refining:
            return None  # what the arrears have left behind comes after the stream
        return super().next_frame(now)

    def follow(self, now: float, *, draining: bool = False) -> Rows | None:
        """The next frame of the stream, or what the code left of the arrears.

        Args:
            now: time (s).
            draining: nobody computes any longer.
        """
        stream = self._stream
        if stream is None or not self._connected or self.state_left or self._room(now) <= 0:
            return None
        # Near the head every other frame is of the arrears: the stream never pauses, and would keep them for ever.
        turn, self._turn = self._turn and self.place >= stream.head - NEAR_FRAMES, False
        if turn and (frame := self._settle(now, everything=draining)) is not None:
            return frame
        if self.place < stream.head or stream.grow(now, idle=False, draining=draining):
            return self._read(now, stream)
        frame = self._settle(now, everything=draining)
        if frame is None and not draining and stream.grow(now, idle=True, draining=False):
            frame = self._read(now, stream)
        if frame is None:
            stream.wait(self)
        return frame

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
        self.fold()  # the order is that of all rows that are owed
        return super().begin(now, iteration, codec, choose, limit_s, announce_zeros=announce_zeros, refine=refine)

    def _read(self, now: float, stream: SharedLog) -> Rows:
        """Send the next frame of the log."""
        entry = stream.entry(self.place)
        self.sent_frames += 1
        message = entry.message.numbered(self.sent_frames)
        self.place += 1
        self._turn = len(self.vector) > 0
        return self._launch(Flight(message, entry.size, now, entry.before, self.place - 1))

    def _launch(self, flight: Flight) -> Rows:
        message = super()._launch(flight)
        if self._stream is not None:
            self._stream.moved(self)
        return message

    def _skip(self, stream: SharedLog) -> None:
        """While parameters are sent: pass over frames that hold nothing of the rows that were sent."""
        if len(self.vector):
            self.fold()
        while self.place < stream.head and self.state_due[stream.entry(self.place).message.rows].all():
            self.place += 1

    def _state_of(self, rows: npt.NDArray[np.int64], codec: Codec) -> npt.NDArray[np.uint8]:
        payload = super()._state_of(rows, codec)
        if self._stream is None:
            return payload
        # What is still in the common residual will come in the stream.
        residual = codec.encode(self.layout, self._stream.debt.vector, rows, consume=False)
        state: npt.NDArray[np.float32] = payload.view(np.float32) + residual.view(np.float32)
        return state.view(np.uint8)

    def _settle(self, now: float, *, everything: bool) -> Rows | None:
        """Send what is left of the arrears, lossless; free them when there is nothing.

        Args:
            now: time (s).
            everything: also rows that have changed, which are otherwise sent in the policy's order.
        """
        if not len(self.vector) or (not everything and self.lacking() < MAX_STAMP):
            return None
        if self.transfer is None or self.transfer.finished(now):
            self.transfer = None
            if not self.vector.any():
                self._free()
                return None
            self.send_everything(now, 0).refining = True
        return super().next_frame(now)

    # -- arrears -----------------------------------------------------------------------------------------------

    def fold(self) -> None:
        """What is in the log and not sent yet becomes part of the arrears."""
        stream = self._stream
        if stream is None or self.place == stream.head:
            return
        self._allocate()
        for entry in stream.frames(self.place):
            self.put_back(entry.message, entry.before)
        self.place = self._folded = stream.head
        stream.moved(self)

    def detach(self) -> None:
        """Follow the stream no longer: all that is owed becomes the worker's own."""
        stream = self._stream
        if stream is None:
            return
        self.fold()
        self._allocate()
        self.absorb(stream.debt)
        stream.leave(self)
        self._stream = None

    def close(self) -> None:
        """The worker has left for good."""
        if self._stream is not None:
            self._stream.leave(self)
            self._stream = None

    def _allocate(self) -> None:
        if not len(self.vector):
            self.vector = self.layout.zeros()

    def _free(self) -> None:
        self.vector = self.vector[:0].copy()
        self.forgive()

    # -- the link ----------------------------------------------------------------------------------------------

    def link_lost(self) -> None:
        super().link_lost()
        if self._stream is not None:
            self._stream.stir(self)
            self._stream.moved(self)
            self._stream.wake_one()

    def link_ready(self) -> None:
        super().link_ready()
        if self._stream is not None:
            self._stream.moved(self)

    def _return(self, flight: Flight) -> None:
        if flight.place >= 0 and self._stream is not None and flight.place >= max(self._stream.first, self._folded):
            self.place = flight.place
            return
        if not flight.message.absolute:
            self._allocate()
        super()._return(flight)
