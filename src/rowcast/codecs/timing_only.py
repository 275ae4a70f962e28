"""Codes without content: the bytes of a real code, and one number for each row where its elements would be.

For experiments in virtual time that ask how long things take and not what is learnt. A timing-only layout
(:meth:`rowcast.rows.Layout.timing_only`) keeps one number for each row: how much is pending or owed. Encoding takes it
out, decoding adds 1. So rows, frames, quotas and ages are those of the real code, and nothing has the size of the
model.
"""

from __future__ import annotations

import numpy as np

from rowcast.codecs import plain
from rowcast.codecs.base import Above, Bytes, Codec, IntArray, Thresholded, Vector, expect_bytes, fitting
from rowcast.errors import RemoteProtocolError
from rowcast.rows import Layout
from rowcast.rows.compiling import without_numba
from rowcast.rows.kernels import compiled_serial

__all__ = ["TimingOnly"]

#: Added to the number of the real code.
TIMING_ONLY = 128


class TimingOnly:
    """The timing-only form of a codec.

    Args:
        codec: the code whose sizes count.
        sizes: the bytes of each row in a form of this code that is fitted to a room, int64 [rows].
    """

    def __init__(self, codec: Codec, sizes: IntArray | None = None) -> None:
        self.name = f"timing-{codec.name}"
        self.wire_id = TIMING_ONLY + codec.wire_id
        self._codec = codec
        self._fitting = fitting(codec)
        self._sizes = sizes
        self._nothing = np.zeros(1 << 16, dtype=np.uint8)
        self._nothing.setflags(write=False)

    def fit(self, layout: Layout, vector: Vector, room: float) -> Codec:
        if self._fitting is None:
            return self
        return TimingOnly(self._codec, self._fitting.usual_bytes(layout, room))

    def above(self, layout: Layout, vector: Vector, ask: Above) -> Codec:
        if not isinstance(self._codec, Thresholded):
            return self
        return TimingOnly(self._codec, self._codec.usual_above(layout, ask))

    def usual_above(self, layout: Layout, ask: Above) -> IntArray:
        return self._codec.usual_above(layout, ask) if isinstance(self._codec, Thresholded) else self.row_bytes(layout)

    def usual_bytes(self, layout: Layout, room: float) -> IntArray:
        return self.row_bytes(layout) if self._fitting is None else self._fitting.usual_bytes(layout, room)

    def row_bytes(self, layout: Layout) -> IntArray:
        return layout.once(self.name, self._codec.row_bytes) if self._sizes is None else self._sizes

    def encode(self, layout: Layout, vector: Vector, rows: IntArray, *, consume: bool = True) -> Bytes:
        size = _taken(vector, self.row_bytes(layout), rows, consume)
        if size > len(self._nothing):
            self._nothing = np.zeros(2 * size, dtype=np.uint8)
            self._nothing.setflags(write=False)
        return self._nothing[:size]

    def add(self, layout: Layout, payload: Bytes, rows: IntArray, vector: Vector, sign: float) -> None:
        vector[rows] += np.float32(sign)

    def check(self, layout: Layout, payload: Bytes, rows: IntArray) -> None:
        if not layout.is_timing_only:
            raise RemoteProtocolError(f"{self.name} payload: expected the content of rows, got sizes only")
        if self._fitting is None:
            expect_bytes(self.name, payload, _sum_of(self.row_bytes(layout), rows))
        elif len(payload) < len(rows):
            raise RemoteProtocolError(f"{self.name} payload: expected a byte for each row, got {len(payload)}")


@compiled_serial
@without_numba(plain.taken)
def _taken(vector: Vector, sizes: IntArray, rows: IntArray, consume: bool) -> int:
    """The sizes of ``rows`` together; with ``consume`` these rows, of an element each, are 0 afterwards."""
    total = 0
    for row in rows:
        total += sizes[row]
        if consume:
            vector[row] = 0
    return total


@compiled_serial
@without_numba(plain.sum_of)
def _sum_of(sizes: IntArray, rows: IntArray) -> int:
    """The sizes of ``rows`` together."""
    total = 0
    for row in rows:
        total += sizes[row]
    return total
