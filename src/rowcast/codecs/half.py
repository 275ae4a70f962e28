"""Two bytes an element: float16 on a power-of-two scale for each row.

Plain float16 loses updates below 6e-8, which a small learning rate makes; with the row's own exponent taken
out first, the largest element of a row always has the full 11 bits.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rowcast.codecs.base import Bytes, IntArray, Vector, expect_bytes, starts
from rowcast.errors import RemoteProtocolError
from rowcast.rows import Layout
from rowcast.rows.kernels import add_rows, compiled, in_parts, prefetch_next

__all__ = ["Half"]

#: float32 has 112 more exponents below 1 than float16: times 2**-112, the fields of both line up 13 bits apart,
#: and the subnormal numbers of one become those of the other.
_ALIGN = np.float32(2.0**-112)
_BACK = np.float32(2.0**112)
_ONE = 0x3C00
_FOUR = 0x4400


@compiled
def _peaks(
    vector: npt.NDArray[np.float32],
    offsets: npt.NDArray[np.int64],
    rows: npt.NDArray[np.int64],
    peaks: npt.NDArray[np.float32],
) -> None:
    for k in range(len(rows)):
        prefetch_next(vector, offsets, rows, k)
        row = vector[offsets[rows[k]] : offsets[rows[k] + 1]]
        peak = np.float32(0.0)
        for j in range(len(row)):
            peak = max(peak, abs(row[j]))
        peaks[k] = peak


@compiled
def _encode(
    vector: npt.NDArray[np.float32],
    offsets: npt.NDArray[np.int64],
    rows: npt.NDArray[np.int64],
    places: npt.NDArray[np.int64],
    up: npt.NDArray[np.float32],
    values: npt.NDArray[np.float32],
    halves: npt.NDArray[np.uint16],
    consume: bool,
) -> None:
    patterns = values.view(np.uint32)
    for k in range(len(rows)):
        down = np.float32(1.0) / up[k]  # exact: a power of two, and no exponent beyond 126
        row = vector[offsets[rows[k]] : offsets[rows[k] + 1]]
        value = values[places[k] : places[k + 1]]
        pattern = patterns[places[k] : places[k + 1]]
        half = halves[places[k] : places[k + 1]]
        # Loops of their own: in one, the compiler may multiply the two factors first, and they may overflow.
        for j in range(len(row)):
            value[j] = row[j] * down
        for j in range(len(row)):
            value[j] *= _ALIGN
        for j in range(len(row)):
            size = pattern[j] & np.uint32(0x7FFFFFFF)
            nearest_even = np.uint32(0x0FFF) + ((size >> np.uint32(13)) & np.uint32(1))
            sign = (pattern[j] >> np.uint32(16)) & np.uint32(0x8000)
            nearest = (size + nearest_even) >> np.uint32(13)
            # Beyond 2**126 no exponent is large enough: at most 1 is sent, the rest stays. NaN and Inf stay as well.
            nearest = np.uint32(_ONE) if np.uint32(_ONE) < nearest <= np.uint32(_FOUR) else nearest
            half[j] = np.uint16(nearest | sign)
        if consume:
            for j in range(len(row)):
                bits = np.uint32(half[j])
                pattern[j] = ((bits & np.uint32(0x7FFF)) << np.uint32(13)) | (
                    (bits & np.uint32(0x8000)) << np.uint32(16)
                )
            for j in range(len(row)):
                value[j] *= _BACK
            for j in range(len(row)):
                row[j] -= value[j] * up[k]


@compiled
def _decode(
    places: npt.NDArray[np.int64],
    up: npt.NDArray[np.float32],
    halves: npt.NDArray[np.uint16],
    values: npt.NDArray[np.float32],
) -> None:
    patterns = values.view(np.uint32)
    for k in range(len(places) - 1):
        value = values[places[k] : places[k + 1]]
        pattern = patterns[places[k] : places[k + 1]]
        half = halves[places[k] : places[k + 1]]
        for j in range(len(half)):
            bits = np.uint32(half[j])
            pattern[j] = ((bits & np.uint32(0x7FFF)) << np.uint32(13)) | ((bits & np.uint32(0x8000)) << np.uint32(16))
        for j in range(len(value)):
            value[j] *= _BACK
        for j in range(len(value)):
            value[j] *= up[k]


class Half:
    """float16 elements, one int8 exponent for each row.

    Payload of k rows: k exponents (int8; the row was multiplied by 2**-exponent), then the elements of each
    row (little-endian float16). A row of zeros has exponent 0.
    """

    name = "half"
    wire_id = 2
    coarse = False

    def row_bytes(self, layout: Layout) -> IntArray:
        return 2 * layout.lengths + 1

    def encode(self, layout: Layout, vector: Vector, rows: IntArray, *, consume: bool = True) -> Bytes:
        places = starts(layout.lengths[rows])
        elements = int(places[-1])
        peaks = np.empty(len(rows), dtype=np.float32)
        in_parts(lambda part, _: _peaks(vector, layout.offsets, rows[part], peaks[part]), len(rows), elements)
        exponents = np.clip(np.frexp(peaks)[1], -126, 126).astype(np.int32)
        values = np.empty(elements, dtype=np.float32)
        halves = np.empty(elements, dtype="<u2")
        up = np.ldexp(np.float32(1.0), exponents)
        in_parts(
            lambda part, edges: _encode(
                vector, layout.offsets, rows[part], places[edges], up[part], values, halves, consume
            ),
            len(rows),
            elements,
        )
        return np.concatenate([exponents.astype(np.int8).view(np.uint8), halves.view(np.uint8)])

    def add(self, layout: Layout, payload: Bytes, rows: IntArray, vector: Vector, sign: float) -> None:
        places = starts(layout.lengths[rows])
        exponents = payload[: len(rows)].view(np.int8)
        values = np.empty(int(places[-1]), dtype=np.float32)
        halves = _halves(payload, len(rows))
        up = np.ldexp(np.float32(1.0), exponents.astype(np.int32))
        in_parts(lambda part, edges: _decode(places[edges], up[part], halves, values), len(rows), len(values))
        add_rows(vector, layout.offsets, rows, values, sign)

    def check(self, layout: Layout, payload: Bytes, rows: IntArray) -> None:
        expect_bytes(self.name, payload, len(rows) + 2 * int(layout.lengths[rows].sum()))
        exponents = payload[: len(rows)].view(np.int8)
        if (np.abs(exponents.astype(np.int16)) > 126).any():
            raise RemoteProtocolError("half payload: expected exponents in -126 .. 126, got one outside")
        # Elements are at most 1 in size, so that no exponent makes them overflow.
        if ((_halves(payload, len(rows)) & 0x7FFF) > _ONE).any():
            raise RemoteProtocolError("half payload: expected elements in -1 .. 1, got one outside or NaN")


def _halves(payload: Bytes, count: int) -> npt.NDArray[np.uint16]:
    return np.frombuffer(payload[count:].tobytes(), dtype="<u2")
