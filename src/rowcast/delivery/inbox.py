"""The receiving end of one direction: frames in order, each accepted once, and checked first."""

from __future__ import annotations

from collections.abc import Mapping

from rowcast.codecs import Codec, codec_by_id, codec_by_name, codec_for
from rowcast.errors import RemoteProtocolError
from rowcast.rows import Layout
from rowcast.wire import Rows

__all__ = ["Inbox"]


class Inbox:
    """Checks row frames before anything is changed by them.

    Attributes:
        received: number of the last frame that was accepted in this session.
        codes: codecs that are known here only, by their number.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self.received = 0
        self.codes: Mapping[int, Codec] = {}

    def accept(self, message: Rows) -> Codec | None:
        """Check a frame.

        Returns:
            The codec to apply it with; ``None`` when it was applied before.

        Raises:
            RemoteProtocolError: a gap in the numbers, or a payload that no correct peer sends.
        """
        if message.number <= self.received:
            return None
        if message.number != self.received + 1:
            raise RemoteProtocolError(f"row frame: expected number {self.received + 1}, got {message.number}")
        codec = self.codes.get(message.codec) or codec_by_id(message.codec)
        codec.check(self._layout, message.payload, message.rows)
        if message.absolute and codec is not codec_for(self._layout, codec_by_name("raw")):
            raise RemoteProtocolError(f"row frame: expected absolute rows in the raw codec, got {codec.name}")
        self.received = message.number
        return codec
