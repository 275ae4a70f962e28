"""From a picture and the notes behind it to the state of the worker when it was killed.

What was computed since the picture is gone, and only what of it was sent is known: the payload ``p`` of each frame,
and the sum ``r`` of |.| that was left pending of each of its rows. Where the server has applied such a frame, a row of
which the picture had ``v`` pending has ``v + c - p`` pending since, with the contributions ``c`` of the iterations
since the picture, which nobody knows any more. It is taken to be ``v - p``, and that is made smaller, if need be, to a
sum of |.| of ``r``:

- Where nothing was computed in between, c is 0 and nothing is lost.
- Where the code has expressed the row wholly, r is 0: nothing of it is pending.
- In any other case no more is pending than was, so that nothing is delivered twice; what was delivered is taken back
  by no more than ``r``.
"""

from __future__ import annotations

import copy
from collections import deque
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from rowcast.codecs import codec_by_id
from rowcast.delivery.snapshot import replace_rows
from rowcast.rows import Layout
from rowcast.rows.compiling import without_numba
from rowcast.rows.kernels import compiled_serial, some_row_abs_sums
from rowcast.training import plain
from rowcast.training.kept.notes import (
    Acknowledged,
    Finished,
    Finishing,
    Joined,
    Note,
    Received,
    Resumed,
    Sent,
    Started,
)
from rowcast.training.kept.picture import Flying, Picture

__all__ = ["Lost", "Replay"]


@dataclass
class Lost:
    """What could not be kept.

    Attributes:
        iterations: iterations of which what was not delivered is gone.
        contributed: sum |.| of what they had contributed; what of it was delivered is not lost.
        rows: bool [rows], rows of which a part of what was pending is gone.
        residual: float32 [rows], sum |.| of what was pending of them once they were sent, at most.
        everything: sum |.| of what was pending and had to be given up altogether.
        cause: why that was; empty where it was not.
    """

    rows: npt.NDArray[np.bool_]
    residual: npt.NDArray[np.float32]
    iterations: int = 0
    contributed: float = 0.0
    everything: float = 0.0
    cause: str = ""

    @property
    def size(self) -> float:
        """Sum |.| of what is lost, at most."""
        return self.contributed + 2 * float(self.residual[self.rows].sum()) + self.everything


@dataclass(slots=True)
class _Open:
    """A frame of which it is not known yet whether the server has applied it.

    Attributes:
        taken: what it holds is not in ``pending`` any more.
    """

    frame: Flying
    taken: bool
    left: npt.NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, dtype=np.float32))


class Replay:
    """Plays notes to a picture.

    Args:
        layout: the layout of both.
        picture: the picture; nothing of it is changed.

    Attributes:
        picture: see above.
        replica, pending, stamps, left: as in the picture, up to date; ``pending`` but for frames whose fate is open.
        iteration: iterations finished.
        session, server, joined, training, origin, how: of the place in the team.
        finishing: it had finished, and was about to deliver what was pending.
        acknowledged, sent: number of the newest row frame that the server has applied for certain, and that was sent.
        received: number of the newest row frame that came.
        positions: how far the data of each iteration behind the picture was read.
        lost: what could not be kept.
    """

    def __init__(self, layout: Layout, picture: Picture) -> None:
        self.picture = picture
        self.replica = picture.vectors["replica"].copy()
        self.pending = picture.vectors["pending"].copy()
        self.stamps, self.left = picture.stamps.copy(), picture.left.copy()
        self.iteration = picture.progress.iteration
        place = picture.place
        self.session, self.server, self.joined = place.session, place.server, place.joined
        self.training, self.origin, self.how = place.training, place.origin, place.how
        self._joining = place.training
        self.finishing = False
        self.sent, self.received = picture.sent, picture.received
        self.acknowledged = picture.sent - len(picture.flying)
        self.positions: list[bytes] = []
        self.lost = Lost(np.zeros(layout.rows, dtype=np.bool_), np.zeros(layout.rows, dtype=np.float32))
        self._layout = layout
        self._open = deque(_Open(frame, taken=True) for frame in picture.flying)

    def play(self, note: Note) -> None:
        """Something was noted.

        Raises:
            RemoteProtocolError: a frame in a code that is not known here.
        """
        match note:
            case Sent():
                self._sent(note)
            case Received():
                self._received(note)
            case Acknowledged():
                self._applied_up_to(note.number)
            case Finished():
                self.iteration = note.iteration
                self.positions.append(note.positions)
                self.lost.iterations += 1
                self.lost.contributed += note.size
            case Joined():
                self._joined(note)
            case Finishing():
                self.finishing = True
            case Resumed():
                self.settle(note.received)
                self.iteration = note.iteration
                if note.stamp >= 0:
                    self.stamps[:] = note.stamp
                self._told(note)
            case Started():
                self.joined, self.training = True, self._joining
                self.iteration, self.sent = note.iteration, note.sent
                self.stamps[:] = note.iteration

    def settle(self, received: int) -> None:
        """The server has applied every frame up to ``received``, and none behind it.

        If that is more than was noted, nobody can tell what of what is pending was delivered: then nothing is pending,
        so that nothing is delivered twice. Until it has joined a worker sends parameters only, which are not noted.
        """
        if received > self.sent and self.joined:
            self._give_up(f"the server has applied {received} frames, and notes are here of {self.sent}")
        self._applied_up_to(received)
        while self._open:
            one = self._open.pop()
            if one.taken and not one.frame.message.absolute:
                message = one.frame.message
                message.code.add(self._layout, message.payload, message.rows, self.pending, 1.0)
                self.stamps[message.rows] = one.frame.before
        self.sent = self.acknowledged = received

    def pending_if(self, received: int | None) -> npt.NDArray[np.float32]:
        """What would be pending if the server had applied so many frames; ``None``: those that it acknowledged.

        Nothing is changed by it.
        """
        other = copy.copy(self)
        other.pending, other.stamps, other.left = self.pending.copy(), self.stamps.copy(), self.left.copy()
        other._open = self._open.copy()
        other.lost = replace(self.lost, rows=self.lost.rows.copy(), residual=self.lost.residual.copy())
        other.settle(max(self.acknowledged, received or 0))
        return other.pending

    def _give_up(self, cause: str) -> None:
        self.lost.everything = float(np.abs(self.pending, dtype=np.float64).sum())
        self.lost.cause = cause
        self.pending[:] = 0
        self.left[:] = 0
        self._open.clear()

    def _sent(self, note: Sent) -> None:
        message = note.message
        self.sent = message.number
        self._open.append(_Open(Flying(message, np.zeros(0, dtype=np.int32)), taken=False, left=note.left))

    def _received(self, note: Received) -> None:
        message = note.message
        self.received = message.number
        code = codec_by_id(message.codec)
        if message.absolute:
            replace_rows(self._layout, code, message, self.replica)
        else:
            code.add(self._layout, message.payload, message.rows, self.replica, -1.0)

    def _joined(self, note: Joined) -> None:
        self.settle(max(note.received, self.acknowledged))
        self.sent = self.received = self.acknowledged = 0
        self.joined = False
        self.server, self.how, self.origin, self._joining = note.server, note.how, note.origin, note.training
        if note.how == "receive" and self.training != note.training:
            self.training = b""  # until all of the team's have arrived its parameters are neither's
        self.iteration = note.iteration
        self.stamps[:] = note.iteration
        self._told(note)

    def _told(self, note: Joined | Resumed) -> None:
        """What was lost by then was told."""
        if note.recovered:
            self.lost = Lost(np.zeros_like(self.lost.rows), np.zeros_like(self.lost.residual))
            self.finishing = False

    def _applied_up_to(self, number: int) -> None:
        while self._open and self._open[0].frame.message.number <= number:
            self._applied(self._open.popleft())
        self.acknowledged = max(self.acknowledged, number)

    def _applied(self, one: _Open) -> None:
        """The server has applied a frame."""
        message, layout = one.frame.message, self._layout
        if one.taken or message.absolute:
            return
        rows = message.rows
        self.stamps[rows] = message.iteration
        if len(message.payload):
            message.code.add(layout, message.payload, rows, self.pending, -1.0)
        sums = np.zeros(layout.rows, dtype=np.float32)
        some_row_abs_sums(self.pending, layout.offsets, rows, sums)
        _shrink(self.pending, layout.offsets, rows, sums[rows], one.left)
        self.left[rows] = np.minimum(sums[rows], one.left)
        if self.lost.iterations:
            self.lost.rows[rows] = True
            self.lost.residual[rows] = one.left


# Serial: a compiler that may reorder multiplies by ``most`` first, which overflows.
@compiled_serial
@without_numba(plain.shrink)
def _shrink(
    vector: npt.NDArray[np.float32],
    offsets: npt.NDArray[np.int64],
    rows: npt.NDArray[np.int64],
    sums: npt.NDArray[np.float32],
    most: npt.NDArray[np.float32],
) -> None:
    """Make rows smaller whose sum |.| is above what they may have."""
    for k in range(len(rows)):
        if sums[k] > most[k]:
            factor = most[k] / sums[k]
            for j in range(offsets[rows[k]], offsets[rows[k] + 1]):
                vector[j] *= factor
