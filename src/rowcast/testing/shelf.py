"""What is kept of a worker in virtual time: the newest picture of it, and the notes behind that."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from rowcast.rows import Layout
from rowcast.training.core import WorkerCore
from rowcast.training.kept import Note, Picture, Received, Replay

__all__ = ["Shelf"]


class Shelf:
    """A :class:`~rowcast.training.kept.Notebook` in memory, over all lives of a worker.

    Args:
        pictures: whether a picture is taken behind an iteration, by its number.

    Attributes:
        picture: the newest; ``None`` before the first.
        notes: what was noted since then, oldest first.
        keeps: set to False, notes are thrown away; for tests of tests.
    """

    def __init__(self, pictures: Callable[[int], bool]) -> None:
        self.picture: Picture | None = None
        self.notes: list[Note] = []
        self.keeps = True
        self._pictures = pictures

    def note(self, note: Note) -> None:
        """Keep a note; its payload may be a view into what is used again."""
        if isinstance(note, Received):
            message = note.message
            note = Received(dataclasses.replace(message, payload=message.payload.copy()))
        if self.keeps:
            self.notes.append(note)

    def turn(self, now: float, node: WorkerCore) -> None:
        """Take a picture, if it is time for one."""
        if self._pictures(node.iteration):
            self.picture, self.notes = Picture.of(node), []

    def replay(self, layout: Layout) -> Replay | None:
        """The state at the end; ``None`` where there is no picture. A driver keeps no notes before the first one."""
        if self.picture is None:
            self.notes.clear()
            return None
        replay = Replay(layout, self.picture)
        for note in self.notes:
            replay.play(note)
        return replay
