"""Single elements: those of a row that are larger than a threshold, however many these are.

For links that cannot carry a row in :mod:`one bit an element <rowcast.codecs.onebit>`. Two steps (Sudharsan et al.,
"Global deep learning on IoT devices", IEEE Internet Computing 25(3), 2021; algorithms.md 6): an element is sent when
what is pending of it is beyond a threshold, which follows from the bytes that the link carries; what is sent is coded
as gaps between places and sizes of 8 bits. What is not sent stays pending, as with every lossy code.

How many bytes a row takes depends on what is in it. So the code is fitted before it is used (:meth:`Elements.fit`): one
pass over the vector gives the threshold and a limit for each row, and no row ever takes more than its limit, whatever
has been added to it since.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from rowcast.codecs.base import INDEX_BYTES, Above, Bytes, IntArray, Pieces, Vector
from rowcast.codecs.element_loops import (
    BINS,
    ESCAPE,
    SHIFT,
    decode_add,
    encode,
    fault,
    histogram,
    limits_of,
)
from rowcast.codecs.element_room import find_candidates, lowest_threshold, sizes_above
from rowcast.errors import RemoteProtocolError
from rowcast.rows import Layout

__all__ = ["Elements"]

#: One of so many elements of a row travels where no room is given, and where it is too small: with fewer for each row
#: what travels is mostly heads of rows, and a team learns less in an hour although it makes more steps.
USUAL = 64
_FAULTS = (
    "",
    "the bytes of its rows, got more or less",
    "finite scales other than 0, signed for a single element, got something else",
    "places inside of their rows, got one beyond",
    "sizes of 1 .. 127 steps, got another",
)


class Elements:
    """The elements of a row beyond a threshold: gaps between places and sizes, 8 bits each.

    Payload: for each row the number of its elements (7 bits a byte, the lower ones first, the upper bit set but in the
    last byte), and where there are any, the scale (little-endian bfloat16); the gaps of elements between one that
    travels and the next (a byte; 255: two more bytes are added, little-endian, which say 65535 where the gap goes on
    behind them); and the sizes in 128ths of the scale (int8, not 0). The scale is a power of two above the largest, so
    that sizes and what is left of them are exact: whole numbers stay whole. A single element has no size: it is the
    scale, its own size rounded towards zero, with its sign.

    Args:
        threshold: elements smaller than this do not travel, but the largest of a row does.
        limits: bytes that each row takes at most, int64 [rows]; ``None``: what one in :data:`USUAL` elements takes.
    """

    name = "elements"
    wire_id = 5

    def __init__(self, threshold: float = 0.0, limits: IntArray | None = None) -> None:
        self.threshold = threshold
        self._limits = limits

    def fit(self, layout: Layout, vector: Vector, room: float) -> Elements:
        """The form of this code in which all rows of parameters in ``vector`` take ``room`` bytes together.

        It is more where one in :data:`USUAL` elements takes more. Rows of buffers take nothing.

        Args:
            layout, vector: what is to be sent.
            room: bytes; infinite: nothing is changed.
        """
        return self.fit_pieces(layout, lambda: iter([(slice(0, layout.rows), vector)]), room)

    def fit_pieces(self, layout: Layout, pieces: Pieces, room: float) -> Elements:
        """The same for a vector in pieces."""
        if math.isinf(room):
            return self
        rows = layout.parameter_rows
        room = max(room, float(_few(layout.lengths[:rows]).sum()))
        bins = np.zeros(BINS, dtype=np.int64)
        for _, offsets, values in _of_parameters(layout, pieces):
            histogram(values[: offsets[-1]].view(np.uint32), bins)
        larger = np.cumsum(bins[::-1])[::-1]  # elements of each bin and of all above
        limits = np.zeros(layout.rows, dtype=np.int64)
        entries = (room - 3 * rows) / 2
        place = int(np.searchsorted(-larger, -entries))  # from this bin on there are no more than these
        step = 1
        while True:
            least = np.uint32(min(place, BINS - 1) << SHIFT)
            total = 0
            for part, offsets, values in _of_parameters(layout, pieces):
                total += limits_of(values.view(np.uint32), offsets, len(offsets) - 1, least, limits[part])
            if total <= room or place >= BINS - 1 or larger[place] == 0:
                return Elements(float(least.view(np.float32)), limits)
            place, step = place + step, 2 * step

    def above(self, layout: Layout, vector: Vector, ask: Above) -> Elements:
        """The form of this code for the elements beyond a threshold: one for all rows (algorithms.md 3.6).

        Args:
            layout, vector: what is to be sent.
            ask: how much may travel, and of which rows the largest element does whatever its size.
        """
        patterns, limits = vector.view(np.uint32), np.zeros(layout.rows, dtype=np.int64)
        least = min(ask.least, len(ask.rows))
        # An element takes two bytes at least, so that no more than these can fit.
        candidates = find_candidates(patterns, layout.offsets, ask.rows, max(int(ask.room / 2), 0))
        lowest, top = lowest_threshold(patterns, layout.offsets, ask.rows, candidates, least, ask.room, limits)
        wanted = np.float32(ask.settle(float(_value(lowest))))
        threshold = max(_value(lowest), min(wanted, _value(top)))
        sizes_above(patterns, layout.offsets, ask.rows, candidates, least, int(threshold.view(np.uint32)), limits)
        return Elements(float(threshold), limits)

    def usual_above(self, layout: Layout, ask: Above) -> IntArray:
        """One element of each row that must travel; then one in :data:`USUAL` of others, as far as there is room."""
        sizes = np.zeros(layout.rows, dtype=np.int64)
        must, others = ask.rows[: ask.least], ask.rows[ask.least :]
        sizes[must] = 4 + 2 * (layout.lengths[must] > ESCAPE)
        few = _usual(layout)[others]
        ends = np.cumsum(few + INDEX_BYTES) + int(sizes.sum()) + INDEX_BYTES * len(must)
        sizes[others] = np.where(ends <= ask.room, few, 0)
        return sizes

    def usual_bytes(self, layout: Layout, room: float) -> IntArray:
        """One in :data:`USUAL` elements, and a share of the rest of ``room`` that goes with the length of the row."""
        sizes = np.zeros(layout.rows, dtype=np.int64)
        lengths = layout.lengths[: layout.parameter_rows]
        few = _few(lengths)
        rest = max(room - int(few.sum()), 0.0) / max(int(lengths.sum()), 1)
        sizes[: layout.parameter_rows] = np.minimum(few + (rest * lengths).astype(np.int64), 3 + 2 * lengths)
        return sizes

    def row_bytes(self, layout: Layout) -> IntArray:
        return layout.once(self.name, _usual) if self._limits is None else self._limits

    def encode(self, layout: Layout, vector: Vector, rows: IntArray, *, consume: bool = True) -> Bytes:
        sizes = self.row_bytes(layout)  # of the whole layout, where it was fitted to that
        limits = sizes[rows if self._limits is None or layout.part_of is None else layout.part_of[rows]]
        payload = np.empty(int(limits.sum()), dtype=np.uint8)
        least = np.float32(self.threshold).view(np.uint32)
        return payload[: encode(vector, layout.offsets, rows, least, limits, payload, consume)]

    def add(self, layout: Layout, payload: Bytes, rows: IntArray, vector: Vector, sign: float) -> None:
        decode_add(vector, layout.offsets, rows, payload, np.float32(sign))

    def check(self, layout: Layout, payload: Bytes, rows: IntArray) -> None:
        if found := fault(layout.lengths[rows], payload):
            raise RemoteProtocolError(f"{self.name} payload: expected {_FAULTS[found]}")


def _of_parameters(layout: Layout, pieces: Pieces) -> Iterator[tuple[slice, IntArray, Vector]]:
    """Of each piece its rows of parameters, their offsets in it and the elements of the piece."""
    for part, values in pieces():
        last = min(part.stop, layout.parameter_rows)
        if part.start < last:
            offsets = layout.offsets[part.start : last + 1] - layout.offsets[part.start]
            yield slice(part.start, last), offsets, values


def _value(pattern: int) -> np.float32:
    """The number with this pattern."""
    return np.uint32(pattern).view(np.float32)


def _few(lengths: IntArray) -> IntArray:
    """Bytes of one in :data:`USUAL` elements of rows of these lengths: number, scale, places close together, sizes."""
    return 3 + 2 * ((lengths + USUAL - 1) // USUAL)


def _usual(layout: Layout) -> IntArray:
    """The same, and two bytes more where a place can be further than a byte says."""
    return _few(layout.lengths) + 2 * (layout.lengths > ESCAPE)
