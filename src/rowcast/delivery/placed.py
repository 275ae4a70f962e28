"""Flat vectors of a worker that lie where its parameters are, such as in the memory of a GPU.

A worker keeps vectors of the model's size: the replica, what is pending, and where it reads its own writes what it
expects. In host memory they are numpy arrays, and nothing of this module is used. Elsewhere each is a
:class:`RowVector`, made by a :class:`Home`: what is done with rows is done there, and only encoded rows, and a few
numbers for each row, come to the host. This package knows no device; :mod:`rowcast.optim.device` implements one.

Where the memory there does not suffice (:class:`OutOfRoom`), or a policy needs what only the host can compute, all
vectors of the worker come to the host, for good, and the work goes on there (:class:`Vectors`).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from rowcast.codecs import Codec, codec_by_name
from rowcast.codecs.base import Bytes
from rowcast.codecs.fine import Fine, parts_of
from rowcast.errors import LocalProtocolError
from rowcast.rows import Layout
from rowcast.rows.kernels import copy_rows, gather_rows, nonfinite, row_abs_sums, scatter_rows, some_row_abs_sums
from rowcast.rows.scattered import accumulate_all

__all__ = [
    "NOWHERE",
    "Held",
    "Home",
    "HostVector",
    "Movable",
    "NotFinite",
    "OutOfRoom",
    "Placed",
    "RowVector",
    "Vectors",
]

Vector = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
T = TypeVar("T")


#: In the place of a vector that lies elsewhere.
NOWHERE = np.zeros(0, dtype=np.float32)


class OutOfRoom(Exception):
    """There is not enough memory where a vector lies. Nothing was changed."""


class NotFinite(Exception):
    """What was proposed for a tensor holds NaN or Inf. Nothing was changed.

    Attributes:
        tensor: its index in the layout.
    """

    def __init__(self, tensor: int) -> None:
        super().__init__(tensor)
        self.tensor = tensor


class Placed(Sequence[Vector]):
    """Proposed parameters that lie where a vector does. As a sequence: copies in host memory, one for each tensor."""

    @property
    @abstractmethod
    def origin(self) -> Vector:
        """From where they were made, float32 [elements]; a copy in host memory."""


class RowVector(Protocol):
    """A flat float32 vector in rows, wherever it lies.

    Rows are int64 [k], payloads uint8 as the codec has them, both in host memory. A method returns when its result is
    in host memory, and may return before what it changes of the vector is changed there: later calls come behind it.
    Each may raise :class:`OutOfRoom`, and has changed nothing then.
    """

    def values(self) -> Vector:
        """All of it in host memory, float32 [elements]; read only: it may be the vector itself or a copy."""

    def load(self, values: Vector) -> None:
        """Make it these values, float32 [elements]."""

    def encode(self, codec: Codec, rows: IntArray, *, consume: bool = True) -> Bytes:
        """Encode rows: to the byte what :meth:`~rowcast.codecs.Codec.encode` makes of the same vector."""

    def add(self, codec: Codec, payload: Bytes, rows: IntArray, sign: float) -> None:
        """Add ``sign`` times decoded rows: to the bit what :meth:`~rowcast.codecs.Codec.add` does."""

    def replace(self, payload: Bytes, rows: IntArray) -> None:
        """Make rows what a payload in the code ``raw`` says."""

    def abs_sums(self, sums: Vector) -> None:
        """Write sum |.| of each row into ``sums``, float32 [rows]."""

    def some_abs_sums(self, rows: IntArray, sums: Vector) -> None:
        """The same for some rows; the others of ``sums`` stay."""

    def take_rows(self, source: RowVector, rows: IntArray) -> None:
        """Make rows those of another vector of the same home."""

    def gather(self, rows: IntArray) -> Vector:
        """Rows one behind the other, float32."""

    def scatter(self, rows: IntArray, values: Vector) -> None:
        """Make rows what :meth:`gather` has returned."""

    def accumulate(
        self,
        sources: Sequence[Vector],
        origin: RowVector | Vector,
        weights: Vector,
        sums: Vector,
        computed: npt.NDArray[np.float64],
    ) -> float:
        """Add ``weights * (origin - sources)``; see :func:`rowcast.rows.scattered.accumulate_all`.

        Args:
            sources: proposed values; see :class:`Placed`.
            origin: from where they were made; ``sources`` of :class:`Placed` have their own.
            weights: what each row counts, float32 [rows].
            sums: receives sum |.| of each row, float32 [rows].
            computed: gains the signed sum of what was added to each row, float64 [rows].

        Raises:
            NotFinite: a source holds NaN or Inf.
        """


class Home(Protocol):
    """A place for vectors."""

    @property
    def name(self) -> str:
        """What to call it, for people: ``cuda:0``."""

    def vector(self, layout: Layout, values: Vector) -> RowVector:
        """A vector of a layout with these values, float32 [elements].

        Raises:
            OutOfRoom: there is no memory for it.
        """


class HostVector:
    """A :class:`RowVector` in host memory.

    Args:
        layout: its rows.
        array: float32 [elements]; changed in place.
    """

    def __init__(self, layout: Layout, array: Vector) -> None:
        self._layout = layout
        self._array = array

    def values(self) -> Vector:
        return self._array

    def load(self, values: Vector) -> None:
        self._array[:] = values

    def encode(self, codec: Codec, rows: IntArray, *, consume: bool = True) -> Bytes:
        return codec.encode(self._layout, self._array, rows, consume=consume)

    def add(self, codec: Codec, payload: Bytes, rows: IntArray, sign: float) -> None:
        codec.add(self._layout, payload, rows, self._array, sign)

    def replace(self, payload: Bytes, rows: IntArray) -> None:
        codec = codec_by_name("raw")
        codec.encode(self._layout, self._array, rows)  # the compiled way of zeroing rows
        codec.add(self._layout, payload, rows, self._array, 1.0)

    def abs_sums(self, sums: Vector) -> None:
        row_abs_sums(self._array, self._layout.offsets, sums)

    def some_abs_sums(self, rows: IntArray, sums: Vector) -> None:
        some_row_abs_sums(self._array, self._layout.offsets, rows, sums)

    def take_rows(self, source: RowVector, rows: IntArray) -> None:
        copy_rows(source.values(), self._array, self._layout.offsets, rows)

    def gather(self, rows: IntArray) -> Vector:
        values: Vector = gather_rows(self._array, self._layout.offsets, rows)
        return values

    def scatter(self, rows: IntArray, values: Vector) -> None:
        scatter_rows(values, self._array, self._layout.offsets, rows)

    def accumulate(
        self,
        sources: Sequence[Vector],
        origin: RowVector | Vector,
        weights: Vector,
        sums: Vector,
        computed: npt.NDArray[np.float64],
    ) -> float:
        flat = [sources[k].reshape(-1) for k in range(len(sources))]
        for k, source in enumerate(flat):
            if nonfinite(source):
                raise NotFinite(k)
        if isinstance(sources, Placed):
            origin = sources.origin
        start = origin if isinstance(origin, np.ndarray) else origin.values()
        return accumulate_all(self._layout, self._array, start, flat, weights, sums, computed)


class Movable:
    """A vector of a worker: a :class:`RowVector` that goes to the host when there is no room where it lies.

    Args:
        layout: its rows.
        at: where it lies.
        retry: called with the error when that has no room; afterwards every vector is in host memory.

    Attributes:
        at: see above; another one once the vector is in host memory.
    """

    def __init__(self, layout: Layout, at: RowVector, retry: Callable[[OutOfRoom], None]) -> None:
        self.at = at
        self._layout = layout
        self._retry = retry

    def _do(self, work: Callable[[], T]) -> T:
        try:
            return work()
        except OutOfRoom as error:
            self._retry(error)
        return work()

    def values(self) -> Vector:
        return self.at.values()

    def load(self, values: Vector) -> None:
        self._do(lambda: self.at.load(values))

    def encode(self, codec: Codec, rows: IntArray, *, consume: bool = True) -> Bytes:
        if isinstance(codec, Fine):  # part by part: what was taken out of one is not taken out again
            parts = zip((codec.codec, codec.careful), parts_of(self._layout, rows), strict=True)
            return np.concatenate([self.encode(one, some, consume=consume) for one, some in parts if len(some)])
        return self._do(lambda: self.at.encode(codec, rows, consume=consume))

    def add(self, codec: Codec, payload: Bytes, rows: IntArray, sign: float) -> None:
        if isinstance(codec, Fine):
            coarse, fine = parts_of(self._layout, rows)
            place = len(payload) - int(codec.careful.row_bytes(self._layout)[fine].sum())
            if len(coarse):
                self.add(codec.codec, payload[:place], coarse, sign)
            if len(fine):
                self.add(codec.careful, payload[place:], fine, sign)
            return
        self._do(lambda: self.at.add(codec, payload, rows, sign))

    def replace(self, payload: Bytes, rows: IntArray) -> None:
        self._do(lambda: self.at.replace(payload, rows))

    def abs_sums(self, sums: Vector) -> None:
        self._do(lambda: self.at.abs_sums(sums))

    def some_abs_sums(self, rows: IntArray, sums: Vector) -> None:
        self._do(lambda: self.at.some_abs_sums(rows, sums))

    def take_rows(self, source: RowVector, rows: IntArray) -> None:
        self._do(lambda: self.at.take_rows(source.at if isinstance(source, Movable) else source, rows))

    def gather(self, rows: IntArray) -> Vector:
        return self._do(lambda: self.at.gather(rows))

    def scatter(self, rows: IntArray, values: Vector) -> None:
        self._do(lambda: self.at.scatter(rows, values))

    def accumulate(
        self,
        sources: Sequence[Vector],
        origin: RowVector | Vector,
        weights: Vector,
        sums: Vector,
        computed: npt.NDArray[np.float64],
    ) -> float:
        def work() -> float:
            start = origin.at if isinstance(origin, Movable) else origin
            return self.at.accumulate(sources, start, weights, sums, computed)

        return self._do(work)


class Held(NamedTuple):
    """The vectors of a worker.

    Attributes:
        replica: its parameters, as far as they have arrived.
        pending: what it has computed and not sent.
        expected: the replica, with what is on its way where the policy reads it; else the replica itself.
    """

    replica: RowVector
    pending: RowVector
    expected: RowVector


class Vectors:
    """The vectors of a worker: all in one place, a home or host memory.

    Args:
        layout: their rows.
        home: where they are made; ``None``: in host memory from the start.
        moved: called once, with a sentence that says why, after all of them have gone to the host.

    Attributes:
        home: ``None`` once they are in host memory.
    """

    def __init__(self, layout: Layout, home: Home | None, moved: Callable[[str], None]) -> None:
        self.home = home
        self._layout = layout
        self._moved = moved
        self._all: list[Movable] = []

    def place(self, values: Vector) -> Movable:
        """A vector with these values, float32 [elements]; in host memory they are taken over.

        Raises:
            LocalProtocolError: they are none of the layout.
        """
        if values.shape != (self._layout.elements,) or values.dtype != np.float32:
            raise LocalProtocolError(
                f"vector: expected {self._layout.elements} float32, got {values.dtype} {values.shape}"
            )
        movable = Movable(self._layout, HostVector(self._layout, values), self._out_of_room)
        if self.home is not None:
            try:
                movable.at = self.home.vector(self._layout, values)
            except OutOfRoom as error:
                self._out_of_room(error)
        self._all.append(movable)
        return movable

    def bring_home(self, cause: str) -> None:
        """All vectors are in host memory from now on; where they are already, nothing is done.

        Args:
            cause: why, for people.
        """
        if self.home is None:
            return
        name, self.home = self.home.name, None
        for movable in self._all:
            values = np.array(movable.at.values(), dtype=np.float32)
            movable.at = HostVector(self._layout, values)
        self._moved(f"what is shared of the model is computed in host memory from now on, not on {name}: {cause}")

    def _out_of_room(self, error: OutOfRoom) -> None:
        self.bring_home(str(error))
