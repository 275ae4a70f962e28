"""Two bytes an element: float16 on a power-of-two scale for each row.

Plain float16 loses updates below 6e-8, which a small learning rate makes; with the row's own exponent taken
out first, the largest element of a row always has the full 11 bits.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import prange

from rowcast.codecs.base import Bytes, IntArray, Vector, expect_bytes, starts
from rowcast.codecs.raw import gather, scatter_add
from rowcast.errors import RemoteProtocolError
from rowcast.rows import Layout
from rowcast.rows.kernels import compiled, use_threads

__all__ = ["Half"]


@compiled
def _row_peaks(
    vector: npt.NDArray[np.float32],
    offsets: npt.NDArray[np.int64],
    rows: npt.NDArray[np.int64],
    peaks: npt.NDArray[np.float32],
) -> None:
    for k in prange(len(rows)):
        row = vector[offsets[rows[k]] : offsets[rows[k] + 1]]
        peak = np.float32(0.0)
        for j in range(len(row)):
            peak = max(peak, abs(row[j]))
        peaks[k] = peak


@compiled
def _scale_rows(
    values: npt.NDArray[np.float32], places: npt.NDArray[np.int64], factors: npt.NDArray[np.float32]
) -> None:
    for k in prange(len(places) - 1):
        row = values[places[k] : places[k + 1]]
        factor = factors[k]
        for j in range(len(row)):
            row[j] *= factor


class Half:
    """float16 elements, one int8 exponent for each row.

    Payload of k rows: k exponents (int8; the row was multiplied by 2**-exponent), then the elements of each
    row (little-endian float16). A row of zeros has exponent 0.
    """

    name = "half"
    wire_id = 2

    def row_bytes(self, layout: Layout) -> IntArray:
        return 2 * layout.lengths + 1

    def encode(self, layout: Layout, vector: Vector, rows: IntArray, *, consume: bool = True) -> Bytes:
        places = starts(layout.lengths[rows])
        use_threads(int(places[-1]))
        peaks = np.empty(len(rows), dtype=np.float32)
        _row_peaks(vector, layout.offsets, rows, peaks)
        exponents = np.clip(np.frexp(peaks)[1], -126, 126).astype(np.int8)
        values = np.empty(int(places[-1]), dtype=np.float32)
        gather(vector, layout.offsets, rows, places, values, False)
        _scale_rows(values, places, np.ldexp(np.float32(1.0), -exponents.astype(np.int32)))
        elements = values.astype("<f2")
        payload = np.concatenate([exponents.view(np.uint8), elements.view(np.uint8)])
        if consume:
            self.add(layout, payload, rows, vector, -1.0)
        return payload

    def add(self, layout: Layout, payload: Bytes, rows: IntArray, vector: Vector, sign: float) -> None:
        places = starts(layout.lengths[rows])
        use_threads(int(places[-1]))
        exponents = payload[: len(rows)].view(np.int8)
        values = _elements(payload, len(rows)).astype(np.float32)
        _scale_rows(values, places, np.ldexp(np.float32(1.0), exponents.astype(np.int32)))
        scatter_add(vector, layout.offsets, rows, places, values, np.float32(sign))

    def check(self, layout: Layout, payload: Bytes, rows: IntArray) -> None:
        expect_bytes(self.name, payload, len(rows) + 2 * int(layout.lengths[rows].sum()))
        exponents = payload[: len(rows)].view(np.int8)
        if (np.abs(exponents.astype(np.int16)) > 126).any():
            raise RemoteProtocolError("half payload: expected exponents in -126 .. 126, got one outside")
        # Elements are at most 1 in size, so that no exponent makes them overflow.
        if not (np.abs(_elements(payload, len(rows))) <= 1.0).all():
            raise RemoteProtocolError("half payload: expected elements in -1 .. 1, got one outside or NaN")


def _elements(payload: Bytes, count: int) -> npt.NDArray[np.float16]:
    return np.frombuffer(payload[count:].tobytes(), dtype="<f2")
