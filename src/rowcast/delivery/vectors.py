"""A vector that one node sends another as a whole, in frames of a row stream of its own.

Unlike the rows of a model (:mod:`rowcast.delivery.outbox`) it does not change while it travels. So a frame is made
once, kept until it is acknowledged, and sent again as it was when the link was lost; the peer knows it by its number.
The next vector may begin before all of one was sent: then the rest of that is left out.
"""

from __future__ import annotations

from collections import deque

import numpy as np
import numpy.typing as npt

from rowcast.codecs import codec_by_name, codec_for
from rowcast.delivery.inbox import Inbox
from rowcast.delivery.snapshot import replace_rows
from rowcast.delivery.window import Window
from rowcast.errors import RemoteProtocolError
from rowcast.rows import Layout
from rowcast.wire import Rows
from rowcast.wire.frames import frame_bytes

__all__ = ["VectorInbox", "VectorOutbox"]


class VectorOutbox:
    """Sends vectors, one after the other.

    Args:
        layout: the rows of each, in the order in which they are sent.
        window: how much may be on its way.
        stream: number of the row stream.

    Attributes:
        delivered, moved_at, meter: see :class:`~rowcast.delivery.source.Sending`.
    """

    def __init__(self, layout: Layout, window: Window, stream: int) -> None:
        self.delivered = 0
        self.moved_at = 0.0
        self.meter = window.meter
        self._layout = layout
        self._number = 0
        self._codec = codec_for(layout, codec_by_name("raw"))
        self._window = window
        self._stream = stream
        self._vector = np.zeros(0, dtype=np.float32)
        self._place = layout.rows
        self._sent_frames = 0
        self._kept: deque[tuple[Rows, int, float]] = deque()  # frames, their bytes, when they were sent last (s)
        self._again = 0  # so many of these are to be sent again, the last ones
        self._flight_bytes = 0
        self._connected = False

    @property
    def in_flight(self) -> int:
        """Bytes of frames sent and not acknowledged."""
        return self._flight_bytes

    @property
    def settled(self) -> bool:
        """Everything that was sent is acknowledged."""
        return not self._flight_bytes

    @property
    def empty(self) -> bool:
        """There is nothing to send, and everything is acknowledged."""
        return not self._kept and self._place == self._layout.rows

    def may_be_stuck_before(self, time: float, limit_s: float) -> bool:
        """See :meth:`rowcast.delivery.source.Sending.may_be_stuck_before`."""
        return self._flight_bytes > 0 and self.moved_at + limit_s < time

    def send(self, vector: npt.NDArray[np.float32], number: int) -> None:
        """Send a vector; it must not change from now on.

        Args:
            vector: flat float32.
            number: of the vector, told with it in the place of an iteration, >= 0.
        """
        self._vector, self._number, self._place = vector, number, 0

    def next_frame(self, now: float) -> Rows | None:
        """The next frame; ``None`` when the window is full or there is nothing to send."""
        if not self._connected or not (self._again or self._place < self._layout.rows):
            return None
        room = self._window.room(now, self._flight_bytes)
        if room <= 0:
            return None
        if self._again:
            place = len(self._kept) - self._again
            message, size, _ = self._kept[place]
            self._kept[place] = message, size, now
            self._again -= 1
        else:
            message = self._made(room)
            size = frame_bytes(message)
            self._kept.append((message, size, now))
        if not self._flight_bytes:
            self.moved_at = now
        self._flight_bytes += size
        self.meter.sent(now, size)
        return message

    def _made(self, room: float) -> Rows:
        """The next rows of the vector: as many as fit into ``room`` bytes, at least one."""
        ends = np.cumsum(self._codec.row_bytes(self._layout)[self._place :])
        count = max(int(np.searchsorted(ends, int(room), side="right")), 1)
        rows = np.arange(self._place, min(self._place + count, self._layout.rows), dtype=np.int64)
        self._place += len(rows)
        payload = self._codec.encode(self._layout, self._vector, rows, consume=False)
        self._sent_frames += 1
        number, codec = self._sent_frames, self._codec.wire_id
        return Rows(number, self._number, codec, True, False, rows, payload, self._stream)

    def acknowledged(self, now: float, number: int, arrived: float | None = None) -> None:
        """The peer has every frame up to ``number``.

        Args:
            now: time (s).
            number: of the newest.
            arrived: when that one arrived, by the peer's clock (s); ``None``: it does not say.

        Raises:
            RemoteProtocolError: it acknowledges what was never sent.
        """
        size, sent_at = self._settle(now, number)
        if size:
            self.meter.acknowledged(now, size, sent_at, arrived)

    def _settle(self, now: float, number: int) -> tuple[int, float]:
        """Frames up to ``number`` have arrived: bytes of those on their way, and when the first was sent (s)."""
        total, first = 0, now
        if number > self._sent_frames:
            raise RemoteProtocolError(f"acknowledgement: expected a number up to {self._sent_frames}, got {number}")
        while self._kept and self._kept[0][0].number <= number:
            _, size, sent_at = self._kept.popleft()
            self.delivered += 1
            self.moved_at = now
            if len(self._kept) < self._again:
                self._again = len(self._kept)  # it had arrived before the link was lost
            else:
                self._flight_bytes -= size
                total, first = total + size, min(first, sent_at)
        return total, first

    def all_arrived(self, now: float) -> None:
        """The peer has answered to the vector: it has all of it."""
        size, _ = self._settle(now, self._sent_frames)
        self.meter.settled(size)

    def link_lost(self) -> None:
        """Nothing is sent until :meth:`link_ready`."""
        self._connected = False
        self._flight_bytes = 0
        self._again = len(self._kept)

    def link_ready(self) -> None:
        """The link is there."""
        self._connected = True


class VectorInbox:
    """Takes the vectors of a :class:`VectorOutbox` in.

    Args:
        layout: the rows of each.

    Attributes:
        vector: flat float32; what has come of the newest one.
        number: of the newest one, as its sender says; -1: there was none.
        whole: all of it is here.
    """

    def __init__(self, layout: Layout) -> None:
        self.vector = layout.zeros()
        self.number = -1
        self.whole = False
        self._layout = layout
        self._inbox = Inbox(layout)
        self._rows = 0

    @property
    def received(self) -> int:
        """Number of the last frame that was accepted."""
        return self._inbox.received

    def accept(self, message: Rows) -> bool:
        """Take a frame; returns whether it had not come before.

        Raises:
            RemoteProtocolError: no correct peer sends it.
        """
        rows = message.rows
        if message.number == self.received + 1:
            if rows[0] == 0:
                self.vector, self.number, self.whole, self._rows = self._layout.zeros(), message.iteration, False, 0
            in_order = rows[0] == self._rows and rows[-1] - rows[0] == len(rows) - 1
            if not in_order or message.iteration != self.number or not message.absolute:
                raise RemoteProtocolError(
                    f"row frame: expected row {self._rows} and those behind it, of vector {self.number}, got rows "
                    f"from {rows[0]} on, of vector {message.iteration}"
                )
        codec = self._inbox.accept(message)
        if codec is None:
            return False
        replace_rows(self._layout, codec, message, self.vector)
        self._rows += len(rows)
        self.whole = self._rows == self._layout.rows
        return True
