"""What a codec promises."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol, cast, runtime_checkable

import numpy as np
import numpy.typing as npt

from rowcast.errors import RemoteProtocolError
from rowcast.rows import Layout

__all__ = [
    "INDEX_BYTES",
    "Above",
    "Bytes",
    "Codec",
    "Fitting",
    "IntArray",
    "Pieced",
    "Pieces",
    "Thresholded",
    "Vector",
    "bfloat_scales",
    "expect_bytes",
    "fitting",
    "starts",
]

#: Assumed bytes of index for each row when the size of a frame is planned.
INDEX_BYTES = 2

Vector = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]


@runtime_checkable
class Codec(Protocol):
    """Rows to bytes and back. Stateless: one object serves every layout and every thread.

    Rows come as int64 indices in any order, each at most once. The payload of a set of rows is exactly
    ``row_bytes(layout)[rows].sum()`` bytes long, so the size of a frame is known before it is encoded; that of a
    :class:`Fitting` code is that long at most.
    """

    name: str
    wire_id: int

    def row_bytes(self, layout: Layout) -> IntArray:
        """Encoded size of each row of the layout in bytes, int64 [rows]."""
        ...

    def encode(self, layout: Layout, vector: Vector, rows: IntArray, *, consume: bool = True) -> Bytes:
        """Encode ``rows`` of ``vector``.

        With ``consume``, what the code expresses is taken out of ``vector``; what it could not express stays
        there (error feedback: the residual of a row needs no second buffer).

        Returns:
            The payload, uint8 [payload bytes].
        """
        ...

    def add(self, layout: Layout, payload: Bytes, rows: IntArray, vector: Vector, sign: float) -> None:
        """Add ``sign`` times the decoded rows to ``vector``. :meth:`check` must have passed."""
        ...

    def check(self, layout: Layout, payload: Bytes, rows: IntArray) -> None:
        """Refuse a payload that no correct peer sends, before anything is changed by it.

        Raises:
            RemoteProtocolError: wrong length, or values that are not finite.
        """
        ...


@runtime_checkable
class Fitting(Codec, Protocol):
    """A code of which a row takes as many bytes as there is room for, and no more than its ``row_bytes``."""

    def fit(self, layout: Layout, vector: Vector, room: float) -> Codec:
        """The form of this code in which all rows of ``vector`` take ``room`` bytes together, as far as possible.

        Its ``row_bytes`` hold whatever is added to ``vector`` later. Any object of this code decodes what it encodes.
        """
        ...

    def usual_bytes(self, layout: Layout, room: float) -> IntArray:
        """What rows take in such a form where nobody knows what is in them, int64 [rows]."""
        ...


#: Gives all rows of a vector again each time it is called, several consecutive ones at a time: which, and their
#: elements, float32.
Pieces = Callable[[], Iterator[tuple[slice, Vector]]]


@runtime_checkable
class Pieced(Fitting, Protocol):
    """A fitting code for which the vector need not be in one piece."""

    def fit_pieces(self, layout: Layout, pieces: Pieces, room: float) -> Codec:
        """What :meth:`fit` gives for a vector in pieces."""
        ...


class Above(NamedTuple):
    """What may travel of a vector of which only elements beyond a threshold do (algorithms.md 3.6).

    Attributes:
        room: bytes that all of it may take, with :data:`INDEX_BYTES` for each row.
        rows: the rows that may travel, those that have not for longest first, int64 [k].
        least: of so many of them, the first ones, the largest element travels whatever its size and the room.
        settle: takes the lowest threshold with which everything fits, and returns the one that is wanted. What is in
            force is never lower than the first, nor higher than the largest element.
    """

    room: float
    rows: IntArray
    least: int
    settle: Callable[[float], float]


@runtime_checkable
class Thresholded(Fitting, Protocol):
    """A fitting code of which rows without an element beyond a threshold can stay behind."""

    def above(self, layout: Layout, vector: Vector, ask: Above) -> Codec:
        """The form of this code that sends what ``ask`` says; rows of which nothing travels take 0 bytes in it.

        Its ``row_bytes`` hold whatever is added to ``vector`` later. Any object of this code decodes what it encodes.
        """
        ...

    def usual_above(self, layout: Layout, ask: Above) -> IntArray:
        """What rows take in such a form where nobody knows what is in them, int64 [rows]; 0: they stay behind."""
        ...


def fitting(codec: Codec) -> Fitting | None:
    """The code as one that is fitted to a room; ``None`` where it is not.

    What ``isinstance(codec, Fitting)`` says of a :class:`Codec`: that goes through all names of both protocols each
    time, which took longer than all else that is done for a small frame.
    """
    return cast(Fitting, codec) if hasattr(codec, "fit") and hasattr(codec, "usual_bytes") else None


def expect_bytes(name: str, payload: Bytes, expected: int) -> None:
    """Raise :class:`RemoteProtocolError` unless the payload has the expected length (bytes)."""
    if len(payload) != expected:
        raise RemoteProtocolError(f"{name} payload: expected {expected} bytes for its rows, got {len(payload)}")


def starts(sizes: IntArray) -> IntArray:
    """Where each of several pieces of these sizes begins when they lie one behind the other, int64 [k + 1]."""
    ends = np.zeros(len(sizes) + 1, dtype=np.int64)
    sizes.cumsum(out=ends[1:])
    return ends


def bfloat_scales(payload: Bytes, count: int) -> Vector:
    """The ``count`` scales at the head of a payload, little-endian bfloat16: the upper halves of float32 patterns."""
    upper = np.frombuffer(payload[: 2 * count].tobytes(), dtype="<u2")
    return (upper.astype(np.uint32) << np.uint32(16)).view(np.float32)
