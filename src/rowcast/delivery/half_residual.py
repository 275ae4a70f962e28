"""What a worker with little memory has computed and not sent: rows in half precision (algorithms.md 8.14).

There is no float32 vector. Rows are expanded, a bounded number of elements at a time, changed as float32 and stored
again. What rounding adds to a row is booked as a contribution, so that the books are as exact as ever: what was
computed is what was sent and what is pending.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from rowcast.codecs import Above, Codec, Zero
from rowcast.codecs.base import Bytes, Pieced, fitting
from rowcast.delivery.residual import Accumulate, Residual
from rowcast.errors import LocalProtocolError
from rowcast.rows import Layout
from rowcast.rows.half_rows import HalfRows
from rowcast.rows.kernels import accumulate, row_sums
from rowcast.wire import Rows

__all__ = ["HalfResidual", "expanded_elements"]

#: Elements that are expanded at once: this part of a vector, and no more than so many.
_PART = 16
_MOST = 1 << 20
#: No fewer either: frames of less are mostly heads, and a team gets further with larger ones.
_LEAST = 1 << 14

Vector = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]


def expanded_elements(layout: Layout) -> int:
    """How many elements are expanded at once, at most: all rows of a frame are."""
    return max(min(layout.elements // _PART, _MOST), _LEAST, int(layout.lengths.max()))


class HalfResidual(Residual):
    """A :class:`Residual` in half precision.

    Args:
        layout: the layout, with content.
        books: float64 [rows], the audit: gains what rounding adds to each row.
    """

    def __init__(self, layout: Layout, books: npt.NDArray[np.float64]) -> None:
        super().__init__(layout, np.zeros(0, dtype=np.float32))
        self.most_elements = expanded_elements(layout)
        self._rows = HalfRows(layout)
        self._books = books
        #: Expanded rows are here and not in memory that is taken anew each time: that lies about in pieces later.
        self._room = np.empty(self.most_elements, dtype=np.float32)

    # -- what is looked at -------------------------------------------------------------------------------------

    @property
    def vector(self) -> Vector:
        """What is pending, a new flat float32 vector that cannot be written."""
        vector = self._rows[:]
        vector.setflags(write=False)
        return vector

    @vector.setter
    def vector(self, vector: Vector) -> None:
        self.restore(vector, self._sent_in, self.left)

    @property
    def empty(self) -> bool:
        return not self._rows.any()

    @property
    def stored(self) -> HalfRows:
        return self._rows

    def copied(self) -> Vector:
        return self._rows[:]

    def sizes(self, rows: Integers) -> Vector:
        return self._rows.sizes(rows)

    def count(self) -> int:
        return int(np.count_nonzero(self._rows.sizes(_numbers(slice(0, self.layout.rows)))))

    def measure(self) -> None:
        if not self.measured:
            self.abs_sums[:] = self._rows.sizes(_numbers(slice(0, self.layout.rows)))
            self.measured = True

    def fit(self, codec: Codec, room: float | Above) -> Codec:
        code = fitting(codec)
        if isinstance(room, Above) or code is None:
            return super().fit(codec, room)  # the code itself
        if not isinstance(code, Pieced):
            raise LocalProtocolError(f"{codec.name}: expected a code that is fitted piece by piece, see fit_pieces")
        return code.fit_pieces(self.layout, self._pieces, room)

    def _pieces(self) -> Iterator[tuple[slice, Vector]]:
        for part in self._rows.groups(self._most):
            yield part, self._rows.expand(_numbers(part), self._room)

    @property
    def _most(self) -> int:
        assert self.most_elements is not None
        return self.most_elements

    # -- what a worker computes --------------------------------------------------------------------------------

    def accumulate_all(
        self, origin: Vector, sources: Sequence[Vector], weights: Vector, computed: npt.NDArray[np.float64]
    ) -> float:
        return self._rows.accumulate(origin, sources, weights, self.abs_sums, computed)

    def accumulate(
        self,
        index: int,
        origin: Vector,
        source: Vector,
        weights: Vector,
        computed: npt.NDArray[np.float64],
        add: Accumulate = accumulate,
    ) -> float:
        if add is not accumulate:
            raise LocalProtocolError("pending in half precision: expected a policy without outer momentum")
        return self._rows.accumulate_tensor(index, origin, source, weights, self.abs_sums, computed)

    def scale(self, rows: int, factor: float, gained: npt.NDArray[np.float64]) -> None:
        for part in self._rows.groups(self._most, rows):
            numbers = _numbers(part)
            values = self._rows.expand(numbers, self._room)
            offsets = self.layout.offsets[part.start : part.stop + 1] - self.layout.offsets[part.start]
            before = row_sums(values, offsets)
            values *= np.float32(factor)
            after = row_sums(values, offsets)
            gained[part] += after - before
            self.abs_sums[part] = self._rows.store(numbers, values, self._books)

    def restore(self, vector: Vector, stamps: npt.NDArray[np.int32], left: Vector) -> None:
        for part in self._rows.groups(self._most):
            numbers = _numbers(part)
            source = vector[self.layout.offsets[part.start] : self.layout.offsets[part.stop]]
            values = self._room[: len(source)]
            values[:] = source
            self._rows.store(numbers, values, self._books)
        self._sent_in[:], self.left[:] = stamps, left
        self.measured = False

    # -- what is sent ------------------------------------------------------------------------------------------

    def take(self, rows: Integers, codec: Codec, iteration: int) -> tuple[Bytes, npt.NDArray[np.int32]]:
        before = self.held(rows)
        self.mark_sent(rows, iteration)
        if isinstance(codec, Zero):  # nothing of them is pending, however many they are
            return codec.encode(self.layout, self._vector, rows), before
        part, values = self.layout.only(rows), self._rows.expand(rows, self._room)
        payload = codec.encode(part, values, np.arange(part.rows, dtype=np.int64))
        self.abs_sums[rows] = self._rows.store(rows, values, self._books)
        if self.follower is not None and len(payload):
            self.follower.sent(codec, payload, rows)
            self.left[rows] = self.abs_sums[rows]
        return payload, before

    def put_back(self, message: Rows, before: npt.NDArray[np.int32], place: int = -1) -> None:
        if len(message.payload):
            rows = message.rows
            part, values = self.layout.only(rows), self._rows.expand(rows, self._room)
            message.code.add(part, message.payload, np.arange(part.rows, dtype=np.int64), values, 1.0)
            self.abs_sums[rows] = self._rows.store(rows, values, self._books)
            if self.follower is not None:
                self.follower.lost(message.code, message.payload, rows)
        self.mark_lost(message.rows, before)

    def take_in(self, codec: Codec, message: Rows, floor: npt.NDArray[np.int32] | None) -> None:
        if len(message.payload):
            rows = message.rows
            part, values = self.layout.only(rows), self._rows.expand(rows, self._room)
            codec.add(part, message.payload, np.arange(part.rows, dtype=np.int64), values, 1.0)
            self.abs_sums[rows] = self._rows.store(rows, values, self._books)
        self.grown = True

    def settle(self, rows: Integers, parameters: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        self._rows.clear(rows)
        self.abs_sums[rows] = 0
        return parameters


def _numbers(part: slice) -> Integers:
    """The numbers of consecutive rows."""
    return np.arange(part.start, part.stop, dtype=np.int64)
