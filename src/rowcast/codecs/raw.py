"""Rows as they are: little-endian float32."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rowcast.codecs import plain
from rowcast.codecs.base import Bytes, IntArray, Vector, expect_bytes, starts
from rowcast.errors import RemoteProtocolError
from rowcast.rows import Layout
from rowcast.rows.compiling import without_numba
from rowcast.rows.kernels import add_rows, compiled, in_parts, nonfinite, prefetch_next

__all__ = ["Raw", "gather"]


@compiled
@without_numba(plain.gather)
def gather(
    vector: npt.NDArray[np.float32],
    offsets: npt.NDArray[np.int64],
    rows: npt.NDArray[np.int64],
    places: npt.NDArray[np.int64],
    out: npt.NDArray[np.float32],
    consume: bool,
) -> None:
    """Copy rows of ``vector`` one behind the other into ``out``; with ``consume``, zero them in ``vector``."""
    for k in range(len(rows)):
        prefetch_next(vector, offsets, rows, k)
        row = vector[offsets[rows[k]] : offsets[rows[k] + 1]]
        target = out[places[k] : places[k + 1]]
        for j in range(len(row)):
            target[j] = row[j]
        if consume:
            for j in range(len(row)):
                row[j] = np.float32(0.0)


class Raw:
    """Lossless: 4 bytes an element. Used where exactness counts: seeding, refreshing, draining."""

    name = "raw"
    wire_id = 1
    coarse = False

    def row_bytes(self, layout: Layout) -> IntArray:
        return layout.lengths * 4

    def encode(self, layout: Layout, vector: Vector, rows: IntArray, *, consume: bool = True) -> Bytes:
        places = starts(layout.lengths[rows])
        out = np.empty(int(places[-1]), dtype=np.float32)
        in_parts(
            lambda part, edges: gather(vector, layout.offsets, rows[part], places[edges], out, consume),
            len(rows),
            len(out),
        )
        return out.view(np.uint8)

    def add(self, layout: Layout, payload: Bytes, rows: IntArray, vector: Vector, sign: float) -> None:
        add_rows(vector, layout.offsets, rows, _floats(payload), sign)

    def check(self, layout: Layout, payload: Bytes, rows: IntArray) -> None:
        expect_bytes(self.name, payload, 4 * int(layout.lengths[rows].sum()))
        if nonfinite(_floats(payload)):
            raise RemoteProtocolError("raw payload: expected finite values, got NaN or Inf")


def _floats(payload: Bytes) -> Vector:
    """The payload as float32; copied only where it does not lie on a 4-byte boundary."""
    if payload.ctypes.data % 4:
        payload = payload.copy()
    return payload.view(np.float32)
