"""One log of row frames for all workers: what is added is kept once, and encoded once (algorithms.md 8.9).

The server has one residual for everybody: what contributions have added and no frame has carried yet. Its rows are
put into frames, and the frames into a log. Each worker reads the log at its own pace, under frame numbers of its own.
What a worker lacks is thus::

    its arrears  +  the frames beyond its place in the log  +  the common residual

The log is short, about one encoded model: what falls out of it is added to the arrears of those who have not read it
(:mod:`rowcast.delivery.cursor`).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from rowcast.codecs import codec_by_name, codec_for
from rowcast.config import LinkSettings
from rowcast.delivery.backlog import MAX_STAMP
from rowcast.delivery.floored import Floored
from rowcast.delivery.transfer import Request, Transfer
from rowcast.delivery.window import Window
from rowcast.rows import Layout
from rowcast.sync import MinimumTracker, Policy
from rowcast.wire import Rows
from rowcast.wire.frames import ROWS_OVERHEAD_BYTES, frame_bytes

__all__ = ["NEAR_FRAMES", "NOTHING_HELD", "Entry", "Reader", "SharedLog"]

#: A reader that has at most so many frames to read is near the head.
NEAR_FRAMES = 3
#: Frames are no smaller than this part of what suits the fastest link, however slow another one is.
SMALLEST_PART = 1 / 8
#: Below the stamp of any frame.
NOTHING_HELD = -1
#: Where a reader stands that was left behind: never near the head.
_BEHIND = -(1 << 60)

Stamps = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Entry:
    """A frame of the log.

    Attributes:
        message: the frame, with number 0.
        size: its bytes on the wire.
        before: int32 [k], how far the contributions had come that a reader holds of its rows without it;
            :data:`MAX_STAMP` where it lacks nothing.
        held: int64 [k], up to which stamp its rows hold everything (:attr:`SharedLog.holds`); ``None``: not recorded.
        held_before: int64 [k], the same of a reader that has all of them but this frame; :data:`NOTHING_HELD`: nothing.
    """

    message: Rows
    size: int
    before: npt.NDArray[np.int32]
    held: Stamps | None = None
    held_before: Stamps | None = None


class Reader(Protocol):
    """What the log knows of one that reads it.

    Attributes:
        name: the worker.
        counted: the gate counts it.
        place: the next frame of the log that it is sent.
        connected: the link is there.
        needs: the oldest frame of the log that it may have to be sent (again).
        window: how much it may be sent.
    """

    name: str
    counted: bool
    connected: bool
    place: int
    window: Window

    @property
    def needs(self) -> int: ...

    def lacking(self) -> int:
        """The oldest stamp of the rows of its arrears; :data:`MAX_STAMP` when there are none."""

    def fold(self) -> None:
        """What is in the log and not sent yet becomes part of the arrears."""


class SharedLog:
    """The common residual and the log.

    A frame is made when a reader at the head asks for one. The quota of an iteration of the team, and rows that hold
    somebody at the gate, are sent whoever asks. Everything else waits until every reader that counts is near the head:
    otherwise the log would grow at the pace of the fastest link, and hold each row once for every contribution.

    Args:
        policy: answers with the team's, which is another object when its slack adapts.
        layout: the model's rows.
        settings: frame and window sizes.
        floor: see :class:`~rowcast.delivery.floored.Floored`.
        choose_s: rows beyond the quota are chosen anew at most once in this time (s).
        step_s: what a gradient usually takes in this team (s).
        newest: the iteration of the fastest worker that counts.

    Attributes:
        residual: what was added and is in no frame yet.
        holds: says of rows, as they are now, up to which of the frames that have come they hold everything: stamps,
            int64 [k], which never fall. ``None``: nobody asks.
        first, head: places of the oldest frame of the log and of the next one.
    """

    def __init__(
        self,
        policy: Callable[[], Policy],
        layout: Layout,
        settings: LinkSettings,
        floor: npt.NDArray[np.int32],
        *,
        choose_s: float,
        step_s: Callable[[], float],
        newest: Callable[[], int],
    ) -> None:
        self._policy = policy
        self.residual = Floored(layout, layout.zeros(), floor)
        self.settings = settings
        self.first = self.head = 0
        self.holds: Callable[[Stamps], Stamps] | None = None
        self._held: Stamps | None = None  # int64 [rows], what who has read the whole log holds
        self._newest = newest
        self._choose_s = choose_s
        self._step_s = step_s
        self._log: deque[Entry] = deque()
        self._bytes = 0
        self._limit = int(codec_for(layout, policy().row_codec).row_bytes(layout).sum())
        self._lows: deque[tuple[int, int]] = deque()  # places and stamps, both rising: the lowest from there on
        self._readers: dict[str, Reader] = {}
        self._paces = MinimumTracker()
        self._waiting: dict[str, None] = {}
        self._woken: dict[str, None] = {}
        self._frame_bytes = 0.0
        self._chosen_for = -1
        self._choose_at = -math.inf
        self._unsent = False  # something was added since everything was sent
        self._flushing = False  # the transfer is everything, lossless
        self._transfer: Transfer | None = None

    # -- readers -----------------------------------------------------------------------------------------------

    def join(self, reader: Reader) -> None:
        """``reader`` reads from the head on."""
        self._readers[reader.name] = reader

    def leave(self, reader: Reader) -> None:
        """``reader`` reads no longer."""
        if self._readers.get(reader.name) is reader:
            del self._readers[reader.name]
            self._waiting.pop(reader.name, None)
            self._paces.remove(reader.name)
            self.wake_one()

    def count(self, name: str, counted: bool) -> None:
        """Whether the gate counts a reader: the log waits for those it counts."""
        if (reader := self._readers.get(name)) is not None:
            reader.counted = counted
            self.moved(reader)

    def moved(self, reader: Reader) -> None:
        """A reader has gone on, or has come or gone."""
        waited = not self._near()
        if reader.counted and reader.connected:
            self._paces.set(reader.name, _BEHIND if reader.lacking() < MAX_STAMP else reader.place)
        else:
            self._paces.remove(reader.name)
        if waited and self._near():
            self.wake_one()

    def _near(self) -> bool:
        """Whether every reader that counts is near the head."""
        lowest = self._paces.lowest()
        return lowest is None or lowest >= self.head - NEAR_FRAMES

    # -- who waits for a frame ---------------------------------------------------------------------------------

    def wait(self, reader: Reader) -> None:
        """``reader`` has read everything, and there is nothing to be sent now."""
        self._waiting[reader.name] = None

    def stir(self, reader: Reader) -> None:
        """``reader`` looks for something to send."""
        self._waiting.pop(reader.name, None)

    def wake_one(self) -> None:
        """Perhaps a frame can be made now: one of those at the head is to try."""
        if self._waiting:
            name = next(iter(self._waiting))
            del self._waiting[name]
            self._woken[name] = None

    def take_woken(self) -> dict[str, None]:
        """Names of the readers that may have something to send since the last call."""
        woken, self._woken = self._woken, {}
        return woken

    def due_at(self, name: str) -> float:
        """When a reader that waits is to try again, although nothing happens (s)."""
        return self._choose_at if name in self._waiting and self.residual.lacking() < MAX_STAMP else math.inf

    # -- what readers lack -------------------------------------------------------------------------------------

    @property
    def clean(self) -> bool:
        """Whether who holds the parameters lacks nothing that is still to come in the log."""
        return not self.residual.vector.any()

    @property
    def drained(self) -> bool:
        """Whether all that was ever added is in the log."""
        transfer = self._transfer
        return self._flushing and not self._unsent and transfer is not None and transfer.place >= len(transfer.order)

    def touch(self, rows: npt.NDArray[np.int64]) -> None:
        """A contribution to ``rows`` is about to be added to the residual."""
        self.residual.touch(rows)
        self._unsent = True
        self.wake_one()

    def lacking(self, place: int) -> int:
        """The oldest stamp of the rows that a reader at ``place`` of the log lacks."""
        low = next((low for start, low in self._lows if start >= place), MAX_STAMP)
        return min(low, self.residual.lacking())

    def frames(self, place: int) -> list[Entry]:
        """The frames of the log from ``place`` on."""
        return [self._log[k] for k in range(place - self.first, len(self._log))]

    def entry(self, place: int) -> Entry:
        """The frame at ``place``."""
        return self._log[place - self.first]

    def held(self, place: int, rows: Stamps) -> Stamps:
        """Up to which stamp a reader holds ``rows`` that lacks nothing of the log before ``place``, int64 [k].

        See :attr:`holds`; :data:`NOTHING_HELD` where nothing is recorded.
        """
        if self._held is None:
            return np.full(len(rows), NOTHING_HELD, dtype=np.int64)
        held = self._held.copy()
        for entry in reversed(self.frames(place)):
            held[entry.message.rows] = NOTHING_HELD if entry.held_before is None else entry.held_before
        return held[rows]

    # -- frames ------------------------------------------------------------------------------------------------

    def grow(self, now: float, *, idle: bool, draining: bool) -> bool:
        """Put a frame into the log, if one is due.

        Args:
            now: time (s).
            idle: the reader that asks has nothing else to do.
            draining: nobody computes any longer, and everything is to be sent, lossless.

        Returns:
            Whether there is one more.
        """
        if draining:
            due = self._everything(now)
        else:
            due = self._beyond(now) if idle else self._due(now)
        if due:
            self._append()
        return due

    def _everything(self, now: float) -> bool:
        if not self._flushing or self._transfer is None or self._transfer.finished(now):
            if self._flushing and not self._unsent:
                return False
            self._unsent, self._flushing = False, True
            self._measure_links(now)
            self._transfer = Transfer.of_everything(self.residual, now, self._newest())
        assert self._transfer is not None
        return not self._transfer.finished(now)

    def _due(self, now: float) -> bool:
        """Whether rows must be sent: the quota of an iteration, or what holds somebody at the gate."""
        transfer = self._transfer
        if transfer is not None and transfer.place < transfer.quota:
            return True
        lacking, newest = self.residual.lacking(), self._newest()
        if lacking == MAX_STAMP or (newest == self._chosen_for and lacking > newest - (self._policy().slack or 0)):
            return False
        return self._choose(now).quota > 0

    def _beyond(self, now: float) -> bool:
        """Whether other rows may be sent."""
        if not self._near():
            return False
        transfer = self._transfer
        done = transfer is None or transfer.finished(now)
        if self.residual.lacking() < MAX_STAMP and (done or (transfer is not None and transfer.refining)):
            if now >= self._choose_at:
                return len(self._choose(now).order) > 0
        elif done and self._policy().refine and transfer is not None and not transfer.refining:
            choose, half = self._policy().choose_refinement, codec_by_name("half")
            request = Request(self._newest(), half, choose, announce_zeros=False, refine=True)
            transfer = self._transfer = Transfer.begin(self.residual, now, request)
        return transfer is not None and not transfer.finished(now)

    def _choose(self, now: float) -> Transfer:
        """Choose the rows of the residual that come next."""
        policy, newest = self._policy(), self._newest()
        rate_bps = self._measure_links(now)
        code, room = policy.code_for(self.residual.layout, policy.share_of_pull, rate_bps, self._step_s())
        self._chosen_for, self._choose_at, self._flushing = newest, now + self._choose_s, False
        request = Request(newest, code, policy.choose_pull, announce_zeros=False, room=room)
        self._transfer = Transfer.begin(self.residual, now, request)
        return self._transfer

    def _measure_links(self, now: float) -> float:
        """Choose the size of the next frames; the usual rate of a link (bit/s)."""
        links = [reader for reader in self._readers.values() if reader.connected]
        links = [reader for reader in links if reader.counted] or links
        sizes = [reader.window.target_bytes(now) for reader in links]
        self._frame_bytes = max(min(sizes), max(sizes) * SMALLEST_PART) - ROWS_OVERHEAD_BYTES
        rates = sorted(reader.window.meter.rate_bps(now) for reader in links)
        return rates[len(rates) // 2]

    def _append(self) -> None:
        """Encode the next rows, once for all readers."""
        assert self._transfer is not None
        codec, iteration = self._transfer.codec, self._transfer.iteration
        rows = self._transfer.take_rows(self._frame_bytes)
        payload, before = self.residual.take(rows, codec, iteration)
        message = Rows(0, iteration, codec.wire_id, False, False, rows, payload)
        entry = Entry(message, frame_bytes(message), before, *self._holding(rows))
        low = int(before.min())
        while self._lows and self._lows[-1][1] >= low:
            self._lows.pop()
        self._lows.append((self.head, low))
        self._log.append(entry)
        self._bytes += entry.size
        self.head += 1
        self._woken.update(self._waiting)
        self._waiting.clear()
        self._trim()

    def _holding(self, rows: Stamps) -> tuple[Stamps | None, Stamps | None]:
        """What ``rows`` hold that are encoded now, and what is held of them without; both ``None``: nobody asks."""
        if self.holds is None:
            return None, None
        if self._held is None:
            self._held = np.full(self.residual.layout.rows, NOTHING_HELD, dtype=np.int64)
        held, before = self.holds(rows), self._held[rows]
        self._held[rows] = held
        return held, before

    def _trim(self) -> None:
        """Drop what everybody has got, and what is too much; a whole model that nothing is added to is not."""
        needed = min((reader.needs for reader in self._readers.values()), default=self.head)
        while self.first < needed:
            self._drop_oldest()
        if self._flushing:
            return
        kept, size = self.first, self._bytes
        while size > self._limit and kept < self.head - NEAR_FRAMES:
            size -= self.entry(kept).size
            kept += 1
        for reader in list(self._readers.values()):
            if reader.place < kept:
                reader.fold()
        while self.first < kept:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        self._bytes -= self._log.popleft().size
        self.first += 1
        while self._lows and self._lows[0][0] < self.first:
            self._lows.popleft()
