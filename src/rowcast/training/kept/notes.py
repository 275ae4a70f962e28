"""Notes of what a worker said and heard: what is needed to know what became of its rows."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from rowcast.codecs import codec_by_id, codec_by_name, codec_for
from rowcast.delivery.residual import Residual
from rowcast.rows import Layout
from rowcast.wire import Rows

if TYPE_CHECKING:
    from rowcast.training.core import WorkerCore

__all__ = [
    "SESSION_NOTES",
    "Acknowledged",
    "Finished",
    "Finishing",
    "Joined",
    "Note",
    "Notebook",
    "Received",
    "Resumed",
    "Sent",
    "Started",
    "note_sent",
    "readable_later",
]


@dataclass(frozen=True, slots=True)
class Sent:
    """A frame of rows is about to be sent.

    Attributes:
        message: the frame; in the raw code where its own is known to this process only.
        left: float32 [k], sum |.| of what is pending of each of its rows once it is sent.
    """

    message: Rows
    left: npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Received:
    """A frame of rows was accepted, and is about to be acknowledged. The payload may be a view: copy what is kept."""

    message: Rows


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """The server applied every frame up to ``number``."""

    number: int


@dataclass(frozen=True, slots=True)
class Finished:
    """An iteration is finished, and nothing of it is sent yet.

    Attributes:
        iteration: in the team's count.
        size: sum |.| of what it has added to what is pending.
        positions: how far its data was read.
    """

    iteration: int
    size: float
    positions: bytes


@dataclass(frozen=True, slots=True)
class Finishing:
    """The work is done: what is pending is about to be delivered."""


@dataclass(frozen=True, slots=True)
class Joined:
    """The server does not know the session: all numbers start again.

    Attributes:
        server, how, training, origin, iteration, received: as in ``Welcome``.
        recovered: this worker goes on after its process was killed, and has told what is lost.
    """

    server: bytes
    how: str
    training: bytes
    origin: str
    iteration: int
    received: int
    recovered: bool


@dataclass(frozen=True, slots=True)
class Resumed:
    """The link is back.

    Attributes:
        received: number of the last frame that the server had applied; those behind it go again, under their numbers.
        iteration: iterations finished, as the server counts them.
        stamp: every row counts as sent in this iteration; negative: each as before.
        recovered: as in :class:`Joined`.
    """

    received: int
    iteration: int
    stamp: int
    recovered: bool


@dataclass(frozen=True, slots=True)
class Started:
    """The parameters are the team's.

    Attributes:
        iteration: from which on this worker counts.
        sent: number of the newest row frame that was sent.
    """

    iteration: int
    sent: int


#: Notes of what becomes of the session. Behind the first two, frames bear numbers that others bore before: without
#: such a note, those before it would be believed of the wrong frames. And who does not know that it has begun, or that
#: it was about to end, misreads what it is told. They must be there after a loss of power, with all notes before them.
SESSION_NOTES = Joined, Resumed, Started, Finishing

Note = Sent | Received | Acknowledged | Finished | Finishing | Joined | Resumed | Started


class Notebook(Protocol):
    """Keeps notes and pictures of one worker."""

    def note(self, note: Note) -> None:
        """Keep a note, at once: what it is about happens as soon as this returns."""

    def turn(self, now: float, node: WorkerCore) -> None:
        """An iteration is finished and noted, and nothing of it is sent: the moment for a picture, if one is due."""


def note_sent(notebook: Notebook, residual: Residual, message: Rows) -> None:
    """Note a frame that is about to be sent.

    Frames of parameters are left out: until all were sent there is nothing to come back to.

    Args:
        notebook: takes the note.
        residual: what is pending, without what the frame holds.
        message: the frame.
    """
    if message.absolute:
        return
    layout, rows = residual.layout, message.rows
    message = readable_later(layout, message)
    left = np.zeros(len(rows), dtype=np.float32)
    if len(message.payload) and residual.follower is not None:
        left = residual.left[rows]  # it was measured
    elif len(message.payload):
        left = residual.sizes(rows)
    notebook.note(Sent(message, left))


def readable_later(layout: Layout, message: Rows) -> Rows:
    """A frame as another process can read it: in the raw code where its own is known to this process only."""
    if not len(message.payload) or layout.is_timing_only or codec_by_id(message.codec) is message.code:
        return message
    raw, values = codec_for(layout, codec_by_name("raw")), layout.zeros()
    message.code.add(layout, message.payload, message.rows, values, 1.0)
    payload = raw.encode(layout, values, message.rows)
    return dataclasses.replace(message, codec=raw.wire_id, payload=payload, coder=None)
