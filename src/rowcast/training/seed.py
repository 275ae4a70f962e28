"""What the first worker brings, until enough of it has come that the server sets memory aside for the rest."""

from __future__ import annotations

from dataclasses import replace

from rowcast.errors import RemoteProtocolError
from rowcast.rows.outline import MOST_TABLE_BYTES, ROW_BYTES, Outline
from rowcast.session.tables import TableParts
from rowcast.wire import LayoutTable, Rows

__all__ = ["Seed"]

#: Rows are laid out at once where that takes no more than this (65,536 rows).
FREE_BYTES = 4 << 20
#: Otherwise when a part like this of what it takes has come as parameters: names and shapes are quickly said.
PART_SENT = 1 / 16


class Seed:
    """A table and the first parameters, as they came.

    A table of 72 bytes can name 2**24 rows. Frames of a model with many rows are kept until they weigh enough; then,
    or when all have come, the model is laid out and they are applied.

    Attributes:
        outline: the model; ``None`` before its table has come.
        rows: how many of its rows have come.
        frames: what is kept.
    """

    def __init__(self) -> None:
        self.outline: Outline | None = None
        self.rows = 0
        self.frames: list[Rows] = []
        self._bytes = 0
        self._parts = TableParts(MOST_TABLE_BYTES)

    def connect(self) -> None:
        """A new connection: the table is told again, the frames that came are there."""
        self._parts = TableParts(MOST_TABLE_BYTES)

    def read(self, message: LayoutTable) -> Outline | None:
        """Take a piece of the table; returns the model when the table is whole.

        Raises:
            RemoteProtocolError: it is not a table, or not the one that was told before.
        """
        table = self._parts.add(message)
        if table is None:
            return None
        outline = Outline.read(table)
        if self.outline is not None and outline.digest != self.outline.digest:
            raise RemoteProtocolError("layout table: expected the one that this worker has told before, got another")
        self.outline = outline
        return outline

    @property
    def ripe(self) -> bool:
        """Enough has come to lay the model out."""
        if self.outline is None:
            return False
        cost = ROW_BYTES * self.outline.rows
        return cost <= FREE_BYTES or self._bytes >= PART_SENT * cost or self.whole

    @property
    def whole(self) -> bool:
        """All rows have come."""
        return self.outline is not None and self.rows >= self.outline.rows

    def keep(self, message: Rows) -> None:
        """Keep a frame that cannot be applied yet.

        Raises:
            RemoteProtocolError: a gap in the numbers, or no parameters.
        """
        if self.outline is None or not message.absolute:
            raise RemoteProtocolError("expected the layout and the first parameters, got other rows")
        if message.number <= len(self.frames):
            return
        if message.number != len(self.frames) + 1:
            raise RemoteProtocolError(f"row frame: expected number {len(self.frames) + 1}, got {message.number}")
        self.frames.append(replace(message, payload=message.payload.copy()))
        self._bytes += len(message.payload)
        self.count(message)

    def count(self, message: Rows) -> None:
        """Rows have come for the first time."""
        self.rows += len(message.rows)
