"""What a worker has computed and not sent, where its model is computed: see :mod:`rowcast.delivery.placed`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from rowcast.codecs import Above, Codec, Thresholded, Zero
from rowcast.codecs.base import Bytes, fitting
from rowcast.delivery.placed import PlacedVector
from rowcast.delivery.residual import Accumulate, Residual
from rowcast.errors import LocalProtocolError
from rowcast.rows import Layout
from rowcast.rows.kernels import accumulate
from rowcast.wire import Rows

__all__ = ["PlacedResidual"]

Vector = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]


class PlacedResidual(Residual):
    """A :class:`Residual` whose vector does not lie in host memory.

    Args:
        layout: the layout, with content.
        placed: the vector.

    Attributes:
        placed: see above.
    """

    def __init__(self, layout: Layout, placed: PlacedVector) -> None:
        super().__init__(layout, np.zeros(0, dtype=np.float32))
        self.placed = placed
        self._all = np.arange(layout.rows, dtype=np.int64)

    # -- what is looked at -------------------------------------------------------------------------------------

    @property
    def vector(self) -> Vector:
        """What is pending, a new flat float32 vector that cannot be written."""
        vector = self.placed[:]
        vector.setflags(write=False)
        return vector

    @vector.setter
    def vector(self, vector: Vector) -> None:
        self.restore(vector, self._sent_in, self.left)

    @property
    def empty(self) -> bool:
        self.measure()
        return not self.abs_sums.any()

    @property
    def stored(self) -> PlacedVector:
        return self.placed

    def copied(self) -> Vector:
        return self.placed[:]

    def sizes(self, rows: Integers) -> Vector:
        return self.placed.sizes(rows)

    def count(self) -> int:
        return int(np.count_nonzero(self.placed.sizes(self._all)))

    def measure(self) -> None:
        if not self.measured:
            self.abs_sums[:] = self.placed.sizes(self._all)
            self.measured = True

    def fit(self, codec: Codec, room: float | Above) -> Codec:
        # A code that is fitted looks at all elements: the one case in which the vector itself comes to the host.
        if isinstance(room, Above):
            return codec.above(self.layout, self.placed[:], room) if isinstance(codec, Thresholded) else codec
        code = fitting(codec)
        return codec if code is None else code.fit(self.layout, self.placed[:], room)

    # -- what a worker computes --------------------------------------------------------------------------------

    def accumulate_placed(
        self,
        origin: PlacedVector | Vector,
        sources: Sequence[Vector],
        weights: Vector,
        computed: npt.NDArray[np.float64],
    ) -> float:
        """As :meth:`accumulate_all`, of what was made where the vector lies, or in host memory.

        Raises:
            NotFinite: a source holds NaN or Inf; nothing was changed.
        """
        moved = self.placed.accumulate(sources, origin, weights, self.abs_sums, computed)
        self.measured = True
        return moved

    def accumulate_all(
        self, origin: Vector, sources: Sequence[Vector], weights: Vector, computed: npt.NDArray[np.float64]
    ) -> float:
        return self.accumulate_placed(origin, sources, weights, computed)

    def accumulate(
        self,
        index: int,
        origin: Vector,
        source: Vector,
        weights: Vector,
        computed: npt.NDArray[np.float64],
        add: Accumulate = accumulate,
    ) -> float:
        raise LocalProtocolError("pending on a device: expected all tensors at once, got one; see accumulate_placed")

    def scale(self, rows: int, factor: float, gained: npt.NDArray[np.float64]) -> None:
        raise LocalProtocolError("pending on a device: expected a policy with which what is pending is not scaled")

    def restore(self, vector: Vector, stamps: npt.NDArray[np.int32], left: Vector) -> None:
        self.placed.load(vector)
        self._sent_in[:], self.left[:] = stamps, left
        self.measured = False

    # -- what is sent ------------------------------------------------------------------------------------------

    def take(self, rows: Integers, codec: Codec, iteration: int) -> tuple[Bytes, npt.NDArray[np.int32]]:
        before = self.held(rows)
        self.mark_sent(rows, iteration)
        if isinstance(codec, Zero):  # nothing of them is pending, however many they are
            return codec.encode(self.layout, self._vector, rows), before
        payload = self.placed.encode(codec, rows)
        if self.follower is None:
            self.measured = False
        elif len(payload):
            self.follower.sent(codec, payload, rows)
            self.left[rows] = self.abs_sums[rows] = self.placed.sizes(rows)
        return payload, before

    def put_back(self, message: Rows, before: npt.NDArray[np.int32], place: int = -1) -> None:
        if len(message.payload):
            self.placed.add(message.code, message.payload, message.rows, 1.0)
            self.measured = False
            if self.follower is not None:
                self.follower.lost(message.code, message.payload, message.rows)
        self.mark_lost(message.rows, before)

    def take_in(self, codec: Codec, message: Rows, floor: npt.NDArray[np.int32] | None) -> None:
        raise LocalProtocolError("pending on a device: expected what this worker has computed, got rows of others")
