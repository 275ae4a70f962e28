"""What a worker lacks that reads a shared log (:mod:`rowcast.delivery.shared_log`) at its own pace.

A cursor has a place in the log, and arrears: a backlog whose vector exists only while the worker is left behind. Until
the worker has caught up, its arrears are sent in the policy's order, like the backlog of a worker that reads no log;
then the vector is freed.
"""

from __future__ import annotations

from collections import deque
from typing import Protocol

import numpy as np
import numpy.typing as npt

from rowcast.codecs import Above, Codec, codec_by_name, codec_for
from rowcast.delivery.backlog import MAX_STAMP, Due
from rowcast.delivery.floored import Floored
from rowcast.delivery.shared_log import NEAR_FRAMES, NOTHING_HELD, Entry, SharedLog
from rowcast.delivery.transfer import Transfer
from rowcast.delivery.window import Window
from rowcast.wire import Rows

__all__ = ["Cursor", "Sender"]


class Sender(Protocol):
    """What a cursor needs of the outbox that sends its rows.

    Attributes:
        transfer: the transfer of the arrears that is under way.
    """

    transfer: Transfer | None

    def send_everything(self, now: float, iteration: int) -> Transfer:
        """Choose all rows of the arrears that are not zero, lossless."""

    def next_own(self, now: float) -> Rows | None:
        """Send the next frame of the transfer."""

    def send_shared(self, now: float, entry: Entry, place: int) -> Rows:
        """Send a frame of the log."""


class Cursor:
    """The frames of a log beyond a place, and the arrears; a :class:`~rowcast.delivery.source.RowSource`.

    Rows of the arrears are chosen, taken and put back like those of any source. Frames of the log are read whole, by
    :meth:`read` and :meth:`follow`.

    Args:
        name: the worker.
        log: the log; this cursor is one of its readers from now on.
        window: how much the worker may be sent.

    Attributes:
        place: the next frame of the log that the worker is sent.
        counted: the gate counts the worker.
        connected: the link is there.
    """

    def __init__(self, name: str, log: SharedLog, window: Window) -> None:
        self.name = name
        self.layout = log.residual.layout
        self.window = window
        self.counted = False
        self.connected = False
        self.place = log.head
        self._log = log
        self._arrears = Floored(self.layout, np.zeros(0, dtype=np.float32), log.residual.floor)
        self._folded = 0  # frames before this place are no longer read from the log
        self._unacknowledged: deque[int] = deque()  # places of frames on their way
        self._arrears_turn = False  # the next frame is of the arrears
        log.join(self)

    @property
    def own(self) -> Floored:
        """The arrears; their vector is empty (of length 0) unless the worker was left behind."""
        return self._arrears

    @property
    def empty(self) -> bool:
        """The worker lacks nothing that was ever added."""
        return self.place == self._log.head and self._log.drained and self._arrears.empty

    @property
    def changed(self) -> npt.NDArray[np.bool_]:
        """bool [rows]: rows of the arrears that are due."""
        return self._arrears.changed

    @property
    def magnitude(self) -> float:
        """Sum |.| of the arrears and of the common residual, when they were measured last; frames are not counted."""
        return self._arrears.magnitude + self._log.residual.magnitude

    @property
    def needs(self) -> int:
        """The oldest frame of the log that the worker may have to be sent (again)."""
        return self._unacknowledged[0] if self._unacknowledged else self.place

    def lacking(self) -> int:
        """The oldest stamp of the rows of the arrears; :data:`MAX_STAMP` when there are none."""
        return self._arrears.lacking()

    def horizon(self, floor: int) -> int:
        """See :meth:`Floored.horizon`; the log and the common residual are part of what the worker lacks."""
        return min(self._arrears.horizon(floor), self._log.lacking(self.place))

    def total(self) -> npt.NDArray[np.float32]:
        """Everything that the worker lacks and that is not on its way, flat float32 (for the books)."""
        total = self._log.residual.vector.copy()
        for entry in self._log.frames(self.place):
            message = entry.message
            message.code.add(self.layout, message.payload, message.rows, total, 1.0)
        if len(self._arrears.vector):
            total += self._arrears.vector
        return total

    # -- frames of the log -------------------------------------------------------------------------------------

    def stir(self) -> None:
        """The worker looks for something that it can be sent."""
        self._log.stir(self)

    def must_read(self, state_due: npt.NDArray[np.bool_]) -> bool:
        """Whether frames of the log come before the next rows of the parameters.

        A row that is sent as it is contains the log up to the head: its reader must be there. Frames that hold nothing
        of the rows that were sent already are passed over.

        Args:
            state_due: bool [rows], rows whose parameters are still to be sent.
        """
        if len(self._arrears.vector):
            self.fold()
        while self.place < self._log.head and state_due[self._log.entry(self.place).message.rows].all():
            self.place += 1
        return self.place < self._log.head

    def read(self) -> tuple[Entry, int]:
        """The next frame of the log, which is sent now, and its place."""
        place = self.place
        self._unacknowledged.append(place)
        self.place = place + 1
        self._arrears_turn = len(self._arrears.vector) > 0
        self._log.moved(self)
        return self._log.entry(place), place

    def follow(self, now: float, sender: Sender, *, draining: bool) -> Rows | None:
        """Send the next frame of the log, or what the code left of the arrears; there is room for a frame.

        Args:
            now: time (s).
            sender: the outbox.
            draining: nobody computes any longer.
        """
        log = self._log
        # Near the head every other frame is of the arrears: the log never pauses, and would keep them for ever.
        turn, self._arrears_turn = self._arrears_turn and self.place >= log.head - NEAR_FRAMES, False
        if turn and (frame := self._send_leftovers(now, sender, everything=draining)) is not None:
            return frame
        if self.place < log.head or log.grow(now, idle=False, draining=draining):
            return sender.send_shared(now, *self.read())
        frame = self._send_leftovers(now, sender, everything=draining)
        if frame is None and not draining and log.grow(now, idle=True, draining=False):
            frame = sender.send_shared(now, *self.read())
        if frame is None:
            log.wait(self)
        return frame

    def _send_leftovers(self, now: float, sender: Sender, *, everything: bool) -> Rows | None:
        """Send what is left of the arrears, lossless; free them when there is nothing.

        Args:
            now: time (s).
            sender: the outbox.
            everything: also rows that have changed, which are otherwise sent in the policy's order.
        """
        arrears = self._arrears
        if not len(arrears.vector) or (not everything and arrears.lacking() < MAX_STAMP):
            return None
        if sender.transfer is None or sender.transfer.finished(now):
            sender.transfer = None
            if arrears.empty:
                arrears.vector = arrears.vector[:0].copy()
                arrears.clear()
                return None
            sender.send_everything(now, 0).refining = True
        return sender.next_own(now)

    def holds(self, rows: npt.NDArray[np.int64], place: int) -> npt.NDArray[np.int64]:
        """Up to which stamp the worker holds ``rows`` of the frame that was sent last, once it has that, int64 [k].

        The frame may be older than what was received meanwhile: it holds what was there when it was encoded. Where an
        older one is in the arrears still, nothing is known of a row until that is sent.

        Args:
            place: of the frame in the log; negative: it is of the arrears, with which the worker lacks nothing of its
                rows before :attr:`place`.
        """
        if place < 0:
            return self._log.held(self.place, rows)
        held = self._log.entry(place).held
        if held is None:
            return np.full(len(rows), NOTHING_HELD, dtype=np.int64)
        return np.where(self._arrears.changed[rows], NOTHING_HELD, held) if len(self._arrears.vector) else held

    # -- the arrears -------------------------------------------------------------------------------------------

    def fold(self) -> None:
        """What is in the log and not sent yet becomes part of the arrears."""
        log = self._log
        if self.place == log.head:
            return
        self._allocate()
        for entry in log.frames(self.place):
            self._arrears.put_back(entry.message, entry.before)
        self.place = self._folded = log.head
        log.moved(self)

    def due(self, iteration: int, *, refine: bool = False) -> Due:
        """The rows of the arrears that may be sent; the log is part of them from now on."""
        self.fold()  # the order is that of all rows that the worker lacks
        return self._arrears.due(iteration, refine=refine)

    def remaining(self) -> npt.NDArray[np.int64]:
        """All rows of the arrears that are not zero, int64 ascending."""
        return self._arrears.remaining()

    def fit(self, codec: Codec, room: float | Above) -> Codec:
        """See :meth:`Backlog.fit`: of the arrears."""
        return self._arrears.fit(codec, room)

    def take(
        self, rows: npt.NDArray[np.int64], codec: Codec, iteration: int
    ) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32]]:
        """Encode rows of the arrears; see :meth:`Backlog.take`."""
        taken = self._arrears.take(rows, codec, iteration)
        self._log.moved(self)
        return taken

    def put_back(self, message: Rows, before: npt.NDArray[np.int32], place: int = -1) -> None:
        """A frame did not arrive; frames come back newest first.

        It is read again where it is still in the log, and part of the arrears where it is not, or was this worker's
        own.
        """
        if place >= 0:
            self._unacknowledged.pop()
            if place >= max(self._log.first, self._folded):
                self.place = place
                return
        self._allocate()
        self._arrears.put_back(message, before)

    def settle(self, rows: npt.NDArray[np.int64], parameters: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """See :meth:`Backlog.settle`; what is still in the common residual will come in the log, and is left out."""
        parameters = self._arrears.settle(rows, parameters)
        raw = codec_for(self.layout, codec_by_name("raw"))
        residual = raw.encode(self.layout, self._log.residual.vector, rows, consume=False)
        state: npt.NDArray[np.float32] = parameters.view(np.float32) + residual.view(np.float32)
        self._log.moved(self)
        return state.view(np.uint8)

    def mark_sent(self, rows: npt.NDArray[np.int64], iteration: int) -> None:
        """There was nothing to send in ``rows`` of the arrears."""
        self._arrears.mark_sent(rows, iteration)

    def renumber(self, iteration: int) -> None:
        """Nothing depends on how the worker counts."""
        self._arrears.renumber(iteration)

    def _allocate(self) -> None:
        if not len(self._arrears.vector):
            self._arrears.vector = self.layout.zeros()

    # -- the link, and the end ---------------------------------------------------------------------------------

    def delivered(self) -> None:
        """The oldest frame of the log that was on its way has arrived."""
        self._unacknowledged.popleft()

    def link_lost(self) -> None:
        """The link is gone: others must not wait for this worker, nor it for a frame."""
        self.connected = False
        self._log.stir(self)
        self._log.moved(self)
        self._log.wake_one()

    def link_ready(self) -> None:
        """The link is there."""
        self.connected = True
        self._log.moved(self)

    def detach(self) -> Floored:
        """Read the log no longer.

        Returns:
            All that the worker lacks; this cursor is not used any more.
        """
        self.fold()
        self._allocate()
        self._arrears.absorb(self._log.residual)
        self._log.leave(self)
        return self._arrears

    def close(self) -> None:
        """The worker has left for good."""
        self._log.leave(self)
