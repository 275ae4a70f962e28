"""Layouts on their way: a table is longer than a message may be, so it travels in pieces."""

from __future__ import annotations

from collections.abc import Iterator

from rowcast.errors import RemoteProtocolError
from rowcast.wire import LayoutTable

__all__ = ["PART_BYTES", "TableParts", "table_parts"]

#: Bytes of a table in one message: a row frame waits behind no more than that.
PART_BYTES = 1 << 15


def table_parts(table: bytes) -> Iterator[LayoutTable]:
    """The messages that carry a layout table."""
    for start in range(0, len(table), PART_BYTES):
        part = table[start : start + PART_BYTES]
        yield LayoutTable(part, len(table) - start - len(part))


class TableParts:
    """Puts the pieces of one table together.

    Args:
        limit_bytes: longer tables are refused at their first piece.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self._parts: list[bytes] = []
        self._left: int | None = None

    def add(self, message: LayoutTable) -> bytes | None:
        """Take the next piece.

        Returns:
            The table when it is whole; then the next piece begins another table.

        Raises:
            RemoteProtocolError: it is too long, or the pieces do not make one table.
        """
        size = len(message.part) + message.left
        if self._left is None and size > self.limit_bytes:
            raise RemoteProtocolError(f"layout table: expected at most {self.limit_bytes} bytes, got {size}")
        if not message.part or self._left not in (None, size):
            raise RemoteProtocolError(
                f"layout table: expected the next piece of {self._left} bytes, got {len(message.part)} of {size}"
            )
        self._parts.append(message.part)
        self._left = message.left
        if message.left:
            return None
        table = b"".join(self._parts)
        self._parts, self._left = [], None
        return table
