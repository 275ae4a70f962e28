"""A coarse code for the rows of parameters, and ``half`` for those of buffers.

An update of a parameter may be coarse: what a code leaves is sent later, and until then the loss hardly changes. A
buffer is a value that is read as it is. One bit an element, with one scale for a row, swings the small variances of a
batch norm by as much as the large ones, far below zero. So buffers travel with 16 bits an element, 11 of them
significant, where a parameter takes one bit; a model has thousands of times as many parameters.
"""

from __future__ import annotations

import numpy as np

from rowcast.codecs.base import (
    INDEX_BYTES,
    Above,
    Bytes,
    Codec,
    IntArray,
    Pieced,
    Pieces,
    Thresholded,
    Vector,
    expect_bytes,
    fitting,
)
from rowcast.errors import LocalProtocolError, RemoteProtocolError
from rowcast.rows import Layout

__all__ = ["Fine"]

#: Added to the number of the code of the parameters.
FINE = 64


class Fine:
    """The form of a code for layouts with buffers.

    Payload: that of the rows of parameters in ``codec``, then that of the rows of buffers in ``careful``.

    Args:
        codec: the code of the parameters.
        careful: the code of the buffers.
        sizes: the bytes of each row where ``codec`` is fitted to a room, int64 [rows].
    """

    def __init__(self, codec: Codec, careful: Codec, sizes: IntArray | None = None) -> None:
        self.name = f"{codec.name}-{careful.name}"
        self.wire_id = FINE + codec.wire_id
        self._codec = codec
        self._careful = careful
        self._sizes = sizes

    def fit(self, layout: Layout, vector: Vector, room: float) -> Codec:
        code = fitting(self._codec)
        if code is None:
            return self
        fitted = code.fit(layout, vector, room - self._of_buffers(layout))
        return Fine(fitted, self._careful, self._together(layout, fitted.row_bytes(layout)))

    def fit_pieces(self, layout: Layout, pieces: Pieces, room: float) -> Codec:
        """The same for a vector in pieces."""
        code = fitting(self._codec)
        if code is None:
            return self
        if not isinstance(code, Pieced):
            raise LocalProtocolError(f"{self.name}: expected a code that is fitted piece by piece, see fit_pieces")
        fitted = code.fit_pieces(layout, pieces, room - self._of_buffers(layout))
        return Fine(fitted, self._careful, self._together(layout, fitted.row_bytes(layout)))

    def above(self, layout: Layout, vector: Vector, ask: Above) -> Codec:
        if not isinstance(self._codec, Thresholded):
            return self
        ask, of_buffers = self._without_buffers(layout, ask)
        fitted = self._codec.above(layout, vector, ask)
        return Fine(fitted, self._careful, fitted.row_bytes(layout) + of_buffers)

    def usual_above(self, layout: Layout, ask: Above) -> IntArray:
        if not isinstance(self._codec, Thresholded):
            return self.row_bytes(layout)
        ask, of_buffers = self._without_buffers(layout, ask)
        return self._codec.usual_above(layout, ask) + of_buffers

    def _without_buffers(self, layout: Layout, ask: Above) -> tuple[Above, IntArray]:
        """What is asked of the parameters, and what the rows of buffers take, which all travel: int64 [rows]."""
        buffers = ask.rows >= layout.parameter_rows
        sizes = np.zeros(layout.rows, dtype=np.int64)
        sizes[ask.rows[buffers]] = self._careful.row_bytes(layout)[ask.rows[buffers]]
        room = ask.room - int(sizes.sum()) - INDEX_BYTES * int(buffers.sum())
        least = int((~buffers[: ask.least]).sum())
        return ask._replace(room=room, rows=ask.rows[~buffers], least=least), sizes

    def usual_bytes(self, layout: Layout, room: float) -> IntArray:
        code = fitting(self._codec)
        if code is None:
            return self.row_bytes(layout)
        return self._together(layout, code.usual_bytes(layout, room - self._of_buffers(layout)))

    def row_bytes(self, layout: Layout) -> IntArray:
        if self._sizes is not None:
            return self._sizes
        return layout.once(self.name, lambda layout: self._together(layout, self._codec.row_bytes(layout)))

    def _together(self, layout: Layout, sizes: IntArray) -> IntArray:
        sizes = sizes.copy()
        sizes[layout.parameter_rows :] = self._careful.row_bytes(layout)[layout.parameter_rows :]
        return sizes

    def _of_buffers(self, layout: Layout) -> int:
        return int(self._careful.row_bytes(layout)[layout.parameter_rows :].sum())

    def encode(self, layout: Layout, vector: Vector, rows: IntArray, *, consume: bool = True) -> Bytes:
        coarse, fine = _parts(layout, rows)
        payload = self._codec.encode(layout, vector, coarse, consume=consume)
        if not len(fine):
            return payload
        return np.concatenate([payload, self._careful.encode(layout, vector, fine, consume=consume)])

    def add(self, layout: Layout, payload: Bytes, rows: IntArray, vector: Vector, sign: float) -> None:
        coarse, fine = _parts(layout, rows)
        place = self._place(layout, payload, fine)
        self._codec.add(layout, payload[:place], coarse, vector, sign)
        if len(fine):
            self._careful.add(layout, payload[place:], fine, vector, sign)

    def parts(self, layout: Layout, rows: IntArray) -> tuple[tuple[Codec, IntArray], tuple[Codec, IntArray]]:
        """The code of parameters and that of buffers, each with those of ``rows`` that it is for, as they come."""
        coarse, fine = _parts(layout, rows)
        return (self._codec, coarse), (self._careful, fine)

    def pieces(self, layout: Layout, payload: Bytes, rows: IntArray) -> tuple[Bytes, Bytes]:
        """What of a payload belongs to either of :meth:`parts`."""
        place = self._place(layout, payload, _parts(layout, rows)[1])
        return payload[:place], payload[place:]

    def _place(self, layout: Layout, payload: Bytes, fine: IntArray) -> int:
        """Where the rows of buffers begin in a payload; below zero: it is too short for them."""
        return len(payload) - int(self._careful.row_bytes(layout)[fine].sum())

    def check(self, layout: Layout, payload: Bytes, rows: IntArray) -> None:
        coarse, fine = _parts(layout, rows)
        place = self._place(layout, payload, fine)
        if fitting(self._codec) is None:
            expect_bytes(self.name, payload, int(self.row_bytes(layout)[rows].sum()))
        elif place < 0:
            raise RemoteProtocolError(f"{self.name} payload: expected {-place} bytes more for the rows of its buffers")
        self._codec.check(layout, payload[:place], coarse)
        self._careful.check(layout, payload[place:], fine)


def _parts(layout: Layout, rows: IntArray) -> tuple[IntArray, IntArray]:
    """The rows of parameters and those of buffers, each in the order in which they come."""
    of_buffers = rows >= layout.parameter_rows
    return rows[~of_buffers], rows[of_buffers]
